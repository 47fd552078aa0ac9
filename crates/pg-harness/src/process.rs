//! A running program of ours.
//!
//! Standard output goes to `<name>.out`, standard error to `<name>.log` in the test's folder; both grow over restarts, and what is
//! asked about is always what the present run wrote. Standard input is a pipe we hold: programs started with `--exit-on-stdin-eof`
//! end with the test even if the test is killed.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use pg_server::Signal;
use rustix::process::{Pid, kill_process};
use serde_json::Value;

use crate::bin::Bin;
use crate::folder::Folder;
use crate::wait::wait_for;

const OUTPUT_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// What a part prints as one JSON line when it is ready: `{"ready":{"pg":"127.0.0.1:5454","http":"127.0.0.1:7676","pid":1}}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ready {
    /// Where it speaks PostgreSQL's protocol; a proposer has none.
    pub pg: Option<SocketAddr>,
    /// Where it speaks HTTP.
    pub http: Option<SocketAddr>,
    /// Its process id.
    pub pid: Option<u32>,
}

impl Ready {
    /// The first ready line in what a part printed; an error if there is one that cannot be understood.
    fn in_output(output: &str) -> Result<Option<Ready>> {
        // A line without its end may still be growing.
        let whole = |line: &&str| line.ends_with('\n') && line.contains("\"ready\"");
        let Some(line) = output.split_inclusive('\n').find(whole) else { return Ok(None) };
        let value: Value = serde_json::from_str(line).with_context(|| format!("ready line {line:?}"))?;
        let ready = &value["ready"];
        let addr = |key: &str| ready[key].as_str().map(str::parse).transpose().context("an address in the ready line");
        let pid = ready["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok());
        Ok(Some(Ready { pg: addr("pg")?, http: addr("http")?, pid }))
    }
}

/// A program we started, killed when dropped.
#[derive(Debug)]
pub struct Process {
    folder: Folder,
    name: String,
    bin: Bin,
    args: Vec<String>,
    child: Option<Child>,
    out_start: u64,
    log_start: u64,
}

impl Process {
    pub(crate) fn spawn(folder: &Folder, name: &str, bin: &Bin, args: Vec<String>) -> Result<Process> {
        let mut process = Process {
            folder: folder.clone(),
            name: name.to_owned(),
            bin: bin.clone(),
            args,
            child: None,
            out_start: 0,
            log_start: 0,
        };
        process.start()?;
        Ok(process)
    }

    /// Starts it again with the same arguments, after it has ended.
    pub fn start(&mut self) -> Result<()> {
        if self.is_running()? {
            bail!("{} already runs", self.name);
        }
        let append = |path: &Path| OpenOptions::new().create(true).append(true).open(path);
        let (out, log) = (append(&self.path("out"))?, append(&self.path("log"))?);
        (self.out_start, self.log_start) = (out.metadata()?.len(), log.metadata()?.len());
        let mut command = self.bin.command();
        command.args(&self.args).stdin(Stdio::piped()).stdout(out).stderr(log).current_dir(self.folder.path());
        self.child = Some(command.spawn().with_context(|| format!("run {}", self.bin.path().display()))?);
        Ok(())
    }

    /// Other arguments for the next start.
    pub fn set_args<S: Into<String>>(&mut self, args: impl IntoIterator<Item = S>) {
        self.args = args.into_iter().map(Into::into).collect();
    }

    /// The arguments of the next start.
    pub fn args(&self) -> &[String] {
        &self.args
    }

    /// Its process id, until its end was noticed.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Whether it runs; a stopped one (SIGSTOP) does.
    pub fn is_running(&mut self) -> Result<bool> {
        Ok(self.try_wait()?.is_none() && self.child.is_some())
    }

    fn try_wait(&mut self) -> Result<Option<ExitStatus>> {
        let Some(child) = &mut self.child else { return Ok(None) };
        let status = child.try_wait()?;
        if status.is_some() {
            self.child = None;
        }
        Ok(status)
    }

    /// Ends its standard input.
    pub fn close_stdin(&mut self) {
        if let Some(child) = &mut self.child {
            drop(child.stdin.take());
        }
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = self.pid().with_context(|| format!("{} does not run", self.name))?;
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).context("a process id out of range")?;
        kill_process(pid, signal).with_context(|| format!("signal {}", self.name))
    }

    /// kill -9, and waits for the end. One that does not run is success.
    pub fn kill(&mut self) -> Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill().with_context(|| format!("kill {}", self.name))?;
            child.wait()?;
        }
        Ok(())
    }

    /// SIGSTOP: it stays, and does nothing.
    pub fn pause(&self) -> Result<()> {
        self.signal(Signal::STOP)
    }

    /// SIGCONT after [`Process::pause`].
    pub fn resume(&self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    /// SIGTERM, and waits for the end.
    pub async fn terminate(&mut self, within: Duration) -> Result<ExitStatus> {
        self.signal(Signal::TERM)?;
        self.wait(within).await
    }

    /// Waits for the end; one that is late is killed, and that is an error.
    pub async fn wait(&mut self, within: Duration) -> Result<ExitStatus> {
        let what = format!("end of {}", self.name);
        let ended = wait_for(&what, within, async || self.try_wait()).await;
        if ended.is_err() {
            self.kill()?;
        }
        ended
    }

    /// kill -9 and start with the same arguments.
    pub fn restart(&mut self) -> Result<()> {
        self.kill()?;
        self.start()
    }

    /// What this run printed so far.
    pub fn output(&self) -> Result<String> {
        read_from(&self.path("out"), self.out_start)
    }

    /// What this run said on standard error so far.
    pub fn log(&self) -> Result<String> {
        read_from(&self.path("log"), self.log_start)
    }

    /// Waits for its ready line. An end before that is an error at once.
    pub async fn ready(&mut self, within: Duration) -> Result<Ready> {
        let what = format!("ready line of {}", self.name);
        self.wait_alive(&what, within, |process| Ready::in_output(&process.output()?)).await
    }

    /// Waits for a line with `text` on standard error and returns it. An end before that is an error at once.
    pub async fn wait_for_log(&mut self, text: &str, within: Duration) -> Result<String> {
        let what = format!("{text:?} in the log of {}", self.name);
        let line = |process: &Process| Ok(process.log()?.lines().find(|line| line.contains(text)).map(str::to_owned));
        self.wait_alive(&what, within, line).await
    }

    /// The same for standard output.
    pub async fn wait_for_output(&mut self, text: &str, within: Duration) -> Result<String> {
        let what = format!("{text:?} in the output of {}", self.name);
        let line =
            |process: &Process| Ok(process.output()?.lines().find(|line| line.contains(text)).map(str::to_owned));
        self.wait_alive(&what, within, line).await
    }

    async fn wait_alive<T>(
        &mut self,
        what: &str,
        within: Duration,
        probe: impl Fn(&Process) -> Result<Option<T>>,
    ) -> Result<T> {
        let outcome = wait_for(what, within, async || {
            // The order matters: what was written before the end counts.
            let ended = self.try_wait()?;
            let running = self.child.is_some();
            match probe(self)? {
                Some(value) => Ok(Some(Ok(value))),
                None if running => Ok(None),
                None => Ok(Some(Err(ended))),
            }
        });
        match outcome.await? {
            Ok(value) => Ok(value),
            Err(ended) => {
                let ended = ended.map_or_else(|| "ended".to_owned(), |status| format!("ended ({status})"));
                bail!("{what}: it {ended}: {}", self.log()?.trim())
            }
        }
    }

    fn path(&self, extension: &str) -> PathBuf {
        self.folder.path().join(format!("{}.{extension}", self.name))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended by itself; there is nobody to tell.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn read_from(path: &Path, start: u64) -> Result<String> {
    let mut file = File::open(path).with_context(|| format!("open {}", path.display()))?;
    file.seek(SeekFrom::Start(start))?;
    let mut bytes = Vec::new();
    file.take(OUTPUT_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(20);

    fn sh(folder: &Folder, script: &str) -> Process {
        Bin::at("/bin/sh").spawn(folder, "sh", ["-c", script]).unwrap()
    }

    #[test]
    fn the_ready_line_is_found_among_others_and_only_when_whole() {
        let line = r#"{"ready":{"pg":"127.0.0.1:5454","http":"127.0.0.1:7676","pid":12}}"#;
        assert_eq!(Ready::in_output(line).unwrap(), None);
        let ready = Ready::in_output(&format!("hello\n{line}\n")).unwrap().unwrap();
        assert_eq!(ready.pg, Some("127.0.0.1:5454".parse().unwrap()));
        assert_eq!((ready.http, ready.pid), (Some("127.0.0.1:7676".parse().unwrap()), Some(12)));
        let ready = Ready::in_output("{\"ready\":{\"http\":\"127.0.0.1:1\",\"pid\":1}}\n").unwrap().unwrap();
        assert_eq!(ready.pg, None);
        assert!(Ready::in_output("{\"ready\":{\"pg\":\"nowhere\"}}\n").is_err());
    }

    #[tokio::test]
    async fn a_process_is_watched_stopped_and_started_again() {
        let folder = Folder::new("process").unwrap();
        let mut process = sh(&folder, "echo '{\"ready\":{}}'; echo hello >&2; exec sleep 60");
        process.ready(SOON).await.unwrap();
        assert_eq!(process.wait_for_log("hell", SOON).await.unwrap(), "hello");
        process.pause().unwrap();
        process.resume().unwrap();
        let first = process.pid();
        process.restart().unwrap();
        assert_ne!(process.pid(), first);
        process.wait_for_log("hello", SOON).await.unwrap();
        assert_eq!(process.log().unwrap(), "hello\n", "only what this run said");
        assert!(process.terminate(SOON).await.unwrap().code().is_none());
        assert!(process.pid().is_none() && process.signal(Signal::TERM).is_err());
    }

    #[tokio::test]
    async fn an_early_end_is_told_at_once_with_the_log() {
        let folder = Folder::new("early").unwrap();
        let err = sh(&folder, "echo no such disk >&2; exit 1").ready(SOON).await.unwrap_err().to_string();
        assert!(err.contains("no such disk") && err.contains("exit status: 1"), "{err}");
    }
}
