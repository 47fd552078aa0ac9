//! The throw-away primary: found or installed, made once, started, watched, stopped.
//!
//! It requires us from its very first start: nothing in making or starting a server commits a transaction that would wait, so nothing
//! hangs, and no commit was ever acknowledged by this server alone. It does not restart itself after a crash of a backend; we do.

use super::folder::{Folder, FolderError, Kept};
use pg_server::{
    FindOptions, InitOptions, InstallError, Installation, Mode, NotFound, Server, StartOptions, SurvivorError,
};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::watch;

/// A fast shutdown waits for the quorum, and for the clients.
const STOP_FAST: Duration = Duration::from_secs(60);
const STOP_AT_ONCE: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(200);
const BACKOFF_MOST: Duration = Duration::from_secs(10);

/// Why there is no throw-away server.
#[derive(Debug, thiserror::Error)]
pub enum PostgresError {
    /// There is none where it is said to be.
    #[error(transparent)]
    NotFound(#[from] NotFound),
    /// It is not installed and cannot be.
    #[error(transparent)]
    Install(#[from] InstallError),
    /// A server of an earlier run does not stop.
    #[error(transparent)]
    Survivor(#[from] SurvivorError),
    /// It cannot be made or opened.
    #[error(transparent)]
    Server(#[from] pg_server::Error),
    /// The data directory does not cooperate.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// A half-made server cannot be removed.
    #[error("cannot prepare {}: {source}", path.display())]
    Prepare {
        /// Where.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// Finds PostgreSQL, or installs it where that is possible. Blocks; `say` tells what takes long.
pub(crate) fn installation(pg_bin: Option<PathBuf>, say: impl Fn(&str)) -> Result<Installation, PostgresError> {
    let mut find = FindOptions::from_env();
    if pg_bin.is_some() {
        find.pg_bin = pg_bin;
    }
    match Installation::find(&find) {
        Ok(installation) => Ok(installation),
        Err(not_found) if find.pg_bin.is_none() => {
            say(&format!("{not_found}; trying to install it"));
            Ok(pg_server::install_on_debian()?)
        }
        Err(not_found) => Err(not_found.into()),
    }
}

/// Opens the server's data directory, making it if this is the first start, and stops a server that an earlier run left behind. Blocks.
pub(crate) fn open(
    installation: &Installation,
    folder: &Folder,
    kept: &mut Kept,
    say: impl Fn(&str),
) -> Result<Server, PostgresError> {
    if let Some(dir) = &kept.postgres_dir {
        if let Some(pid) = pg_server::stop_survivor(dir, STOP_FAST)? {
            say(&format!("stopped PostgreSQL (process {pid}), which an earlier run left behind"));
        }
        return Ok(Server::open(installation, dir)?);
    }
    let beside = folder.path("postgres");
    let dir = match make(installation, &beside) {
        Err(PostgresError::Server(pg_server::Error::CannotTraverse { user, suggestion, .. })) => {
            say(&format!(
                "user {user} cannot enter {}, so PostgreSQL's data goes to {}",
                folder.root().display(),
                suggestion.display()
            ));
            make(installation, &suggestion)?;
            suggestion
        }
        outcome => {
            outcome?;
            beside
        }
    };
    kept.postgres_dir = Some(dir.clone());
    folder.write("kept.json", kept)?;
    Ok(Server::open(installation, &dir)?)
}

/// Makes a data directory under another name first: one that is there is whole.
fn make(installation: &Installation, dir: &Path) -> Result<(), PostgresError> {
    let prepare = |source| PostgresError::Prepare { path: dir.to_owned(), source };
    if dir.join("PG_VERSION").exists() {
        // Made by a run that was killed before it wrote down where.
        pg_server::stop_survivor(dir, STOP_FAST)?;
        return Ok(());
    }
    let half_made = dir.with_extension("new");
    gone(fs::remove_dir_all(&half_made)).map_err(prepare)?;
    drop(Server::initdb(installation, &half_made, &InitOptions::default())?);
    // An empty folder from an earlier try may be in the way.
    gone(fs::remove_dir(dir)).map_err(prepare)?;
    fs::rename(&half_made, dir).map_err(prepare)
}

/// Success too if there was nothing to remove.
fn gone(outcome: io::Result<()>) -> io::Result<()> {
    match outcome {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        outcome => outcome,
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum State {
    Starting,
    Running(u32),
    Down(String),
}

/// A running server, watched over by a thread: its control blocks.
#[derive(Debug)]
pub(crate) struct ThrowAway {
    state: watch::Receiver<State>,
    stop: mpsc::Sender<()>,
    thread: JoinHandle<()>,
}

impl ThrowAway {
    /// `before_start` runs before every start, on the thread that watches over the server; a failure is shown and tried again.
    pub(crate) fn start(
        server: Server,
        port: u16,
        log: PathBuf,
        before_start: impl Fn(&Path) -> Result<(), String> + Send + 'static,
    ) -> io::Result<ThrowAway> {
        let settings = [("synchronous_standby_names", "FIRST 1 (seawall)"), ("restart_after_crash", "off")];
        let options = StartOptions {
            settings: settings.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec(),
            log: Some(log),
            ..StartOptions::on_port(port)
        };
        let (sender, state) = watch::channel(State::Starting);
        let (stop, stopped) = mpsc::channel();
        let thread = std::thread::Builder::new()
            .name("postgres".to_owned())
            .spawn(move || supervise(server, &options, &before_start, &sender, &stopped))?;
        Ok(ThrowAway { state, stop, thread })
    }

    pub(crate) fn state(&self) -> State {
        self.state.borrow().clone()
    }

    pub(crate) fn pid(&self) -> Option<u32> {
        match self.state() {
            State::Running(pid) => Some(pid),
            _ => None,
        }
    }

    /// A fast shutdown, which ends once the quorum has the last record; after a minute an immediate one.
    pub(crate) async fn stop(self) {
        // If the thread is gone there is nobody to tell.
        let _ = self.stop.send(());
        let thread = self.thread;
        if tokio::task::spawn_blocking(move || thread.join()).await.is_err() {
            tracing::warn!("PostgreSQL's supervisor ended badly");
        }
    }
}

fn supervise(
    mut server: Server,
    options: &StartOptions,
    before_start: &dyn Fn(&Path) -> Result<(), String>,
    state: &watch::Sender<State>,
    stop: &mpsc::Receiver<()>,
) {
    let mut backoff = LOOK;
    loop {
        let started = match before_start(server.data_dir()) {
            Ok(()) => server.start(options).map_err(Some),
            Err(reason) => {
                tracing::warn!("PostgreSQL does not start yet: {reason}");
                Err(None)
            }
        };
        let reason = match started {
            Err(None) => "its WAL is not on a majority of the safekeepers yet".to_owned(),
            Ok(()) => {
                state.send_replace(State::Running(server.pid().unwrap_or_default()));
                loop {
                    // A message and a hang-up both mean the end.
                    if stop.recv_timeout(LOOK) != Err(mpsc::RecvTimeoutError::Timeout) {
                        return shut_down(&mut server);
                    }
                    match server.exited() {
                        Ok(None) if server.pid().is_some() => backoff = LOOK,
                        Ok(None) => break "it ended".to_owned(),
                        Ok(Some(status)) => break format!("it ended ({status}); see {}", server.log().display()),
                        Err(error) => break error.to_string(),
                    }
                }
            }
            Err(Some(pg_server::Error::Ended { log, tail, .. })) => {
                format!("{}; see {}", complaint(&tail), log.display())
            }
            Err(Some(error)) => error.to_string(),
        };
        state.send_replace(State::Down(reason));
        if stop.recv_timeout(backoff) != Err(mpsc::RecvTimeoutError::Timeout) {
            return shut_down(&mut server);
        }
        backoff = (backoff * 2).min(BACKOFF_MOST);
    }
}

/// What a server that does not start complains of, from the end of its log: without the moment and the process, so that the same
/// complaint is the same text at the next try.
fn complaint(tail: &str) -> String {
    let lines: Vec<&str> = tail.split(" | ").collect();
    let first = |word: &str| lines.iter().find(|line| line.contains(word));
    let line = first("could not bind").or_else(|| first("PANIC:  ")).or_else(|| first("FATAL:  ")).or(lines.last());
    let text = line.map_or("", |line| line.split_once(":  ").map_or(*line, |(_, text)| text)).trim();
    if text.is_empty() { "it ends without a word".to_owned() } else { text.to_owned() }
}

fn shut_down(server: &mut Server) {
    if let Err(error) = server.stop(Mode::Fast, STOP_FAST) {
        tracing::warn!(%error, "PostgreSQL did not shut down in time and is stopped at once");
        if let Err(error) = server.stop(Mode::Immediate, STOP_AT_ONCE) {
            tracing::warn!(%error, "PostgreSQL did not stop");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::complaint;

    #[test]
    fn the_same_complaint_is_the_same_text() {
        let tail = |moment: &str, pid: u32| {
            format!(
                "{moment} UTC [{pid}] LOG:  starting PostgreSQL 15.18 | {moment} UTC [{pid}] LOG:  could not bind IPv4 address \
                 \"127.0.0.1\": Address already in use | {moment} UTC [{pid}] FATAL:  could not create any TCP/IP sockets"
            )
        };
        let text = complaint(&tail("2026-01-02 03:04:05.678", 7));
        assert_eq!(text, "could not bind IPv4 address \"127.0.0.1\": Address already in use");
        assert_eq!(text, complaint(&tail("2026-01-02 03:04:06.789", 8)));
        assert_eq!(
            complaint("t [1] LOG:  a | t [1] PANIC:  could not locate a valid checkpoint record"),
            "could not locate a valid checkpoint record"
        );
        assert_eq!(complaint("no such library"), "no such library");
        assert_eq!(complaint(""), "it ends without a word");
    }
}
