//! One part as a process: log, signals, ready line, exit code. What `safekeeper` and `walproposer` share with `seawall`, which runs
//! the same parts.
//!
//! Standard output carries the ready line and nothing else; the log goes to standard error. A part ends in order on SIGTERM, on
//! SIGINT, and, where it was told so, when its standard input ends: then whoever started it is gone.

use config::{LogFormat, ProposerOptions, SafekeeperOptions};
use serde_json::{Value, json};
use std::future::Future;
use std::io::{self, Read, Write};
use std::process::ExitCode;
use std::time::Duration;
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

/// A part that has not ended in order so long after its standard input did is ended the hard way: nobody is left to do it.
const ORPHAN_ENDS_WITHIN: Duration = Duration::from_secs(15);

/// How a process ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Exit {
    /// 0: done.
    Done,
    /// 1: failed.
    Failed,
    /// 2: started in a way that cannot work.
    Usage,
    /// 3: refused to protect data.
    Refused,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(match exit {
            Exit::Done => 0,
            Exit::Failed => 1,
            Exit::Usage => 2,
            Exit::Refused => 3,
        })
    }
}

/// Why a part ended otherwise than asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No runtime, no signal, no thread.
    #[error("the system refuses what a process needs: {0}")]
    System(#[from] io::Error),
    /// What we should show to others cannot be used.
    #[error(transparent)]
    Outgoing(#[from] auth::OutgoingError),
    /// The safekeeper.
    #[error(transparent)]
    Safekeeper(#[from] node::Error),
    /// The proposer.
    #[error(transparent)]
    Proposer(#[from] proposer::Error),
}

impl Error {
    /// How the process ends.
    pub fn exit(&self) -> Exit {
        match self {
            Error::System(_) => Exit::Failed,
            Error::Outgoing(_) => Exit::Usage,
            Error::Safekeeper(error) if error.is_usage() => Exit::Usage,
            Error::Safekeeper(_) => Exit::Failed,
            Error::Proposer(error) => match error.exit_kind() {
                proposer::ExitKind::Failed => Exit::Failed,
                proposer::ExitKind::Usage => Exit::Usage,
                proposer::ExitKind::Refused => Exit::Refused,
            },
        }
    }
}

/// Says on standard error what went wrong: one sentence, with those of its causes it does not tell itself.
pub fn complain(error: &(dyn std::error::Error + 'static)) {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(source) = cause {
        let more = source.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = source.source();
    }
    // If nobody reads standard error there is nobody to tell.
    let _ = writeln!(io::stderr(), "error: {text}");
}

/// Sets up the log on standard error. `RUST_LOG` says how much; `info` if it does not.
pub fn log_to_stderr(format: LogFormat) {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    // A second set-up in one process changes nothing.
    let _ = match format {
        LogFormat::Human => log.with_ansi(io::IsTerminal::is_terminal(&io::stderr())).try_init(),
        LogFormat::Json => log.json().try_init(),
    };
}

/// A runtime on the thread that calls it.
pub fn runtime() -> io::Result<Runtime> {
    Builder::new_current_thread().enable_all().build()
}

/// The same, with at most so many threads for work that blocks: where that is the work of many databases, which would start one each.
pub fn runtime_blocking_on(threads: usize) -> io::Result<Runtime> {
    Builder::new_current_thread().enable_all().max_blocking_threads(threads).build()
}

/// Resolves on SIGTERM, on SIGINT, and, if `on_stdin_eof`, when standard input ends. Must be called on a runtime.
pub fn stop_requested(on_stdin_eof: bool) -> io::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let orphaned = if on_stdin_eof { Some(watch_stdin()?) } else { None };
    Ok(async move {
        let orphaned = async {
            match orphaned {
                Some(ended) => drop(ended.await),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            () = orphaned => {}
        }
    })
}

/// A thread of its own, because reading standard input blocks.
fn watch_stdin() -> io::Result<oneshot::Receiver<()>> {
    let (sender, ended) = oneshot::channel();
    std::thread::Builder::new().name("stdin".to_owned()).spawn(move || {
        let mut buffer = [0; 64];
        while io::stdin().read(&mut buffer).is_ok_and(|count| count > 0) {}
        drop(sender);
        std::thread::sleep(ORPHAN_ENDS_WITHIN);
        tracing::error!("nobody is left who started this process, and it has not ended by itself; it ends now");
        std::process::exit(1);
    })?;
    Ok(ended)
}

pub(crate) fn gate(auth: &config::AuthOptions) -> auth::GateOptions {
    auth::GateOptions {
        keys: auth.keys.clone(),
        tls_certificate: auth.tls_cert.clone(),
        tls_key: auth.tls_key.clone(),
        insecure_no_auth: auth.insecure_no_auth,
    }
}

/// What we show to those we connect to. A token comes from a file or the environment, never from the command line, which
/// everybody on the machine can read.
pub fn outgoing(auth: &config::AuthOptions) -> Result<auth::Outgoing, auth::OutgoingError> {
    let token = std::env::var("SEAWALL_TOKEN").ok().filter(|token| !token.is_empty()).map(auth::Secret::new);
    auth::Outgoing::new(auth.token_file.as_deref(), token, auth.tls_ca.clone())
}

/// What an operator's command shows to safekeepers: `SEAWALL_TOKEN`, and `SEAWALL_TLS_CA` to check them with.
pub fn outgoing_from_env() -> Result<auth::Outgoing, auth::OutgoingError> {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    let tls_ca = variable("SEAWALL_TLS_CA").map(std::path::PathBuf::from);
    outgoing(&config::AuthOptions { tls_ca, ..config::AuthOptions::default() })
}

/// Runs a safekeeper until it is told to stop.
pub fn safekeeper(options: &SafekeeperOptions) -> Result<(), Error> {
    let node = node::NodeOptions {
        id: options.id,
        data_dir: options.data_dir.clone(),
        listen_pg: options.listen_pg.to_string(),
        listen_http: options.listen_http.to_string(),
        max_wal: options.max_wal.0,
        max_slot_wal: options.max_slot_wal.0,
        min_wal: options.min_wal.0,
        call_back_hosts: options.call_back_hosts.clone(),
        min_free: options.min_free.0,
        peers: options.peers.iter().map(ToString::to_string).collect(),
        allow_foreign_creation: options.allow_foreign_creation,
        archive: node::ArchiveOptions {
            url: options.archive.url.clone(),
            urls: options.archive.urls.clone(),
            interval: options.archive.sync_interval,
            recipients: options.archive.recipients.clone(),
        },
        auth: gate(&options.auth),
        outgoing: outgoing(&options.auth)?,
    };
    runtime()?.block_on(async {
        let stop = stop_requested(options.common.exit_on_stdin_eof)?;
        let ready = |ready: node::Ready| say_ready(json!({"pg": ready.pg.to_string(), "http": ready.http.to_string()}));
        Ok(node::run(node, stop, ready).await?)
    })
}

/// Runs a proposer until it is told to stop.
pub fn walproposer(options: &ProposerOptions) -> Result<(), Error> {
    let proposer = proposer::ProposerOptions {
        primary: options.primary.as_str().to_owned(),
        safekeepers: options.safekeepers.iter().map(ToString::to_string).collect(),
        cluster: options.cluster.as_ref().map(ToString::to_string),
        takeover: proposer::Takeover {
            always: options.takeover,
            after_silence: options.takeover_after.map(|seconds| Duration::from_secs(seconds.into())),
            token_file: options.fence_token_file.clone(),
        },
        listen_http: options.listen_http.to_string(),
        auth: gate(&options.auth),
        outgoing: outgoing(&options.auth)?,
    };
    if let Some(snapshots) = &options.snapshots {
        crate::backup::schedule::start(options.primary.clone(), snapshots.clone())?;
    }
    if let Some(upkeep) = &options.upkeep {
        crate::backup::upkeep::start(upkeep, &options.safekeepers, options.cluster.as_ref())?;
    }
    runtime()?.block_on(async {
        let stop = stop_requested(options.common.exit_on_stdin_eof)?;
        Ok(proposer::run(proposer, stop, |ready| say_ready(json!({"http": ready.http.to_string()}))).await?)
    })
}

/// `walproposer --sync`: completes the quorum's log and prints where it ends, alone on its line.
pub fn sync(options: &config::FailoverOptions) -> Exit {
    log_to_stderr(LogFormat::default());
    match runtime().map(|runtime| runtime.block_on(crate::failover::sync(options))) {
        Ok(Ok(led)) => {
            let mut stdout = io::stdout();
            // A reader that went away is no failure.
            let _ = writeln!(stdout, "{}", led.commit).and_then(|()| stdout.flush());
            Exit::Done
        }
        Ok(Err(error)) => {
            complain(&error);
            error.exit()
        }
        Err(error) => {
            complain(&error);
            Exit::Failed
        }
    }
}

/// The one line on standard output that tells who started us where we are.
fn say_ready(mut ready: Value) {
    ready["pid"] = std::process::id().into();
    let mut stdout = io::stdout();
    // If nobody listens any more, the end of standard input will tell us.
    let _ = writeln!(stdout, "{}", json!({ "ready": ready })).and_then(|()| stdout.flush());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes() {
        let usage = Error::Proposer(proposer::Error::NoSafekeepers);
        assert_eq!(usage.exit(), Exit::Usage);
        let refused = Error::Proposer(proposer::Error::Disagreement { name: "a".to_owned(), ids: Vec::new() });
        assert_eq!(refused.exit(), Exit::Refused);
        assert_eq!(Error::System(io::Error::other("x")).exit(), Exit::Failed);
    }
}
