//! A part as a child process: started, watched, started again when it ends, stopped when told.
//!
//! A child hears of our death by the end of its standard input, which is a pipe only we hold; it has a process group of its own, so
//! that Ctrl-C on the terminal reaches us alone and we choose the order. It counts as running once it prints its ready line. What it
//! logs goes to a file.

use serde::Deserialize;
use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// First pause before a part is started again; doubled each time.
const BACKOFF_FIRST: Duration = Duration::from_millis(250);
const BACKOFF_MOST: Duration = Duration::from_secs(10);
/// A part that ran this long had no trouble starting.
const RAN_WELL: Duration = Duration::from_secs(10);
/// A part that does not become ready in this time is stopped and started again. Recovery of a large log counts.
const READY_WITHIN: Duration = Duration::from_secs(120);
/// A part that does not end in this time after SIGTERM is killed.
const END_WITHIN: Duration = Duration::from_secs(10);
/// Exit codes that another try cannot mend: usage, and refusal to protect data.
const HOPELESS: [i32; 2] = [2, 3];

/// What to run.
#[derive(Clone)]
pub(crate) struct Spec {
    pub(crate) program: PathBuf,
    pub(crate) args: Vec<OsString>,
    /// What must not stand among the arguments, where everybody on the machine can read it.
    pub(crate) secrets: Vec<(&'static str, String)>,
    /// Where its log goes, appended.
    pub(crate) log: PathBuf,
}

/// What a part says when it is ready.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
pub(crate) struct Ready {
    /// Where it speaks PostgreSQL's protocol, if it does.
    pub(crate) pg: Option<String>,
    /// Where it speaks HTTP.
    pub(crate) http: String,
    pub(crate) pid: u32,
}

#[derive(Deserialize)]
struct ReadyLine {
    ready: Ready,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum State {
    Starting,
    Ready(Ready),
    /// It ended and will be started again.
    Down(String),
    /// It never got ready and never will.
    Failed(String),
}

/// A supervised child.
#[derive(Debug)]
pub(crate) struct Part {
    state: watch::Receiver<State>,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Part {
    /// Starts it and watches over it from now on.
    pub(crate) fn start(spec: Spec) -> Part {
        let (state_sender, state) = watch::channel(State::Starting);
        let (stop, stopped) = watch::channel(false);
        let task = tokio::spawn(supervise(spec, state_sender, stopped));
        Part { state, stop, task }
    }

    pub(crate) fn state(&self) -> State {
        self.state.borrow().clone()
    }

    pub(crate) fn ready(&self) -> Option<Ready> {
        match &*self.state.borrow() {
            State::Ready(ready) => Some(ready.clone()),
            _ => None,
        }
    }

    /// Ends it: SIGTERM, and after ten seconds SIGKILL.
    pub(crate) async fn stop(self) {
        self.stop.send_replace(true);
        if let Err(error) = self.task.await {
            tracing::warn!(%error, "a supervisor ended badly");
        }
    }
}

async fn supervise(spec: Spec, state: watch::Sender<State>, mut stop: watch::Receiver<bool>) {
    let mut backoff = BACKOFF_FIRST;
    let mut was_ready = false;
    loop {
        let started = Instant::now();
        let reason = match run(&spec, &state, &mut stop).await {
            Ended::Asked => return,
            Ended::Itself(status)
                if !was_ready && !is_ready(&state) && status.code().is_some_and(|code| HOPELESS.contains(&code)) =>
            {
                state.send_replace(State::Failed(format!("{status}: {}", last_line(&spec.log))));
                return;
            }
            Ended::Itself(status) => format!("{status}: {}", last_line(&spec.log)),
            Ended::Trouble(error) => error.to_string(),
        };
        was_ready |= is_ready(&state);
        if started.elapsed() >= RAN_WELL {
            backoff = BACKOFF_FIRST;
        }
        state.send_replace(State::Down(reason));
        tokio::select! {
            () = tokio::time::sleep(backoff) => {}
            () = asked(&mut stop) => return,
        }
        backoff = (backoff * 2).min(BACKOFF_MOST);
    }
}

fn is_ready(state: &watch::Sender<State>) -> bool {
    matches!(&*state.borrow(), State::Ready(_))
}

enum Ended {
    Asked,
    Itself(ExitStatus),
    Trouble(io::Error),
}

async fn asked(stop: &mut watch::Receiver<bool>) {
    // An error means that whoever could ask is gone, which asks as well.
    let _ = stop.wait_for(|stop| *stop).await;
}

async fn run(spec: &Spec, state: &watch::Sender<State>, stop: &mut watch::Receiver<bool>) -> Ended {
    let (mut child, stdin, mut lines) = match spawn(spec) {
        Ok(spawned) => spawned,
        Err(error) => return Ended::Trouble(error),
    };
    let ready = async {
        loop {
            match lines.next_line().await {
                Ok(Some(line)) => {
                    if let Ok(line) = serde_json::from_str::<ReadyLine>(&line) {
                        return Some(line.ready);
                    }
                }
                Ok(None) | Err(_) => return None,
            }
        }
    };
    let outcome = tokio::select! {
        ready = tokio::time::timeout(READY_WITHIN, ready) => ready,
        () = asked(stop) => return end(child, stdin, Ended::Asked).await,
    };
    match outcome {
        Ok(Some(ready)) => {
            state.send_replace(State::Ready(ready));
        }
        // Its output ended: so does it.
        Ok(None) => {}
        Err(_) => {
            let late = io::Error::new(
                io::ErrorKind::TimedOut,
                format!("it was not ready within {} s", READY_WITHIN.as_secs()),
            );
            return end(child, stdin, Ended::Trouble(late)).await;
        }
    }
    let drain = async {
        while let Ok(Some(_)) = lines.next_line().await {}
        std::future::pending::<()>().await;
    };
    tokio::select! {
        status = child.wait() => match status {
            Ok(status) => Ended::Itself(status),
            Err(error) => Ended::Trouble(error),
        },
        () = drain => Ended::Asked,
        () = asked(stop) => end(child, stdin, Ended::Asked).await,
    }
}

fn spawn(spec: &Spec) -> io::Result<(Child, ChildStdin, Lines<BufReader<ChildStdout>>)> {
    let log = OpenOptions::new().create(true).append(true).open(&spec.log)?;
    let mut child = Command::new(&spec.program)
        .args(&spec.args)
        .envs(spec.secrets.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(log)
        .process_group(0)
        .kill_on_drop(true)
        .spawn()?;
    let taken = || io::Error::other("a child without the pipes it was given");
    let stdin = child.stdin.take().ok_or_else(taken)?;
    let stdout = child.stdout.take().ok_or_else(taken)?;
    Ok((child, stdin, BufReader::new(stdout).lines()))
}

async fn end(mut child: Child, stdin: ChildStdin, outcome: Ended) -> Ended {
    if let Some(pid) = child.id().and_then(|pid| rustix::process::Pid::from_raw(pid.cast_signed())) {
        // It is our child and not waited for, so the number is still its own.
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
    }
    if tokio::time::timeout(END_WITHIN, child.wait()).await.is_err() {
        tracing::warn!(pid = child.id(), "a part did not end when asked and is killed");
        let _ = child.kill().await;
    }
    // Held until here: its end is a reason to stop of its own.
    drop(stdin);
    outcome
}

/// The last line of a log, for people; empty if there is none.
pub(crate) fn last_line(log: &Path) -> String {
    const MOST: u64 = 2048;
    let read = || -> io::Result<Vec<u8>> {
        let mut file = File::open(log)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(MOST)))?;
        let mut bytes = Vec::new();
        file.take(MOST).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = read().unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default().trim().to_owned()
}

#[cfg(test)]
#[path = "part_test.rs"]
mod tests;
