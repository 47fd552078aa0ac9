//! A restored server being started: recovery begins, ends, and the server goes on or is handed over.

use backup_format::{ControlFile, DbState};
use pg_server::{FindOptions, Installation, NotFound, Server, StartOptions};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Recovery reads WAL for as long as that takes.
const RECOVERED_WITHIN: Duration = Duration::from_secs(7 * 24 * 3600);
/// The file in which `pg-server` writes settings.
const OWN_SETTINGS: &str = "seawall.conf";
const LOOK: Duration = Duration::from_millis(50);

/// Why a restored server does not run.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// No PostgreSQL.
    #[error(transparent)]
    NotFound(#[from] NotFound),
    /// It does not start, or ended before recovery did.
    #[error("the restored server did not recover: {0}")]
    Server(#[from] pg_server::Error),
    /// It ended.
    #[error("the restored server ended in mid-recovery ({0}); see {log}", log = .1.display())]
    Ended(String, PathBuf),
}

/// How to start.
#[derive(Clone, Debug)]
pub(super) struct Start {
    /// The data directory.
    pub(super) directory: PathBuf,
    /// Programs, if named.
    pub(super) pg_bin: Option<PathBuf>,
    /// Where it listens.
    pub(super) port: u16,
    /// On 127.0.0.1, else only on a socket in this folder.
    pub(super) socket_dir: Option<PathBuf>,
    /// The major version the directory is of.
    pub(super) major: u32,
    /// More settings.
    pub(super) settings: Vec<(String, String)>,
}

/// The programs for a directory of this major version: the named ones, those that are found, or those that packagers put elsewhere.
pub(super) fn installation(pg_bin: Option<&Path>, major: u32) -> Result<Installation, NotFound> {
    let mut find = FindOptions::from_env();
    if let Some(dir) = pg_bin {
        find.pg_bin = Some(dir.to_path_buf());
    }
    let found = Installation::find(&find)?;
    if found.version().major == major || find.pg_bin.is_some() {
        return Ok(found);
    }
    let packaged = PathBuf::from(format!("/usr/lib/postgresql/{major}/bin"));
    Installation::find(&FindOptions { pg_bin: Some(packaged), path: None }).or(Ok(found))
}

/// Starts a server and waits until recovery has ended, where it ends by itself (`promotes`: a server that pauses at its target stays in
/// recovery). Blocks.
pub(super) fn start(start: &Start, promotes: bool) -> Result<Server, StartError> {
    let installation = installation(start.pg_bin.as_deref(), start.major)?;
    let mut server = Server::open(&installation, &start.directory)?;
    let mut options = StartOptions::on_port(start.port);
    options.timeout = RECOVERED_WITHIN;
    options.settings = settings(&start.directory);
    options.settings.extend(start.settings.iter().cloned());
    options.log = Some(log_of(&start.directory));
    if let Some(folder) = &start.socket_dir {
        options.socket_dir = Some(folder.clone());
        options.listen_addresses = String::new();
    }
    server.start(&options)?;
    let deadline = Instant::now() + RECOVERED_WITHIN;
    while promotes && !has_recovered(&start.directory) && Instant::now() < deadline {
        if let Some(outcome) = server.exited()? {
            return Err(StartError::Ended(outcome.to_string(), log_of(&start.directory)));
        }
        std::thread::sleep(LOOK);
    }
    Ok(server)
}

/// What the server needs in any case. Starting it replaces `seawall.conf`, in which a server that `seawall up` made has its settings, so
/// those are kept; and a server in recovery must have at least as much room as the one that wrote the WAL, wherever that was configured.
fn settings(directory: &Path) -> Vec<(String, String)> {
    let kept = std::fs::read_to_string(directory.join(OWN_SETTINGS)).unwrap_or_default();
    let mut settings = restore::postgres::settings::in_text(&kept);
    let bytes = std::fs::read(directory.join("global/pg_control")).unwrap_or_default();
    if let Ok(control) = ControlFile::parse(&bytes) {
        let room = [
            ("max_connections", control.max_connections),
            ("max_worker_processes", control.max_worker_processes),
            ("max_wal_senders", control.max_wal_senders),
            ("max_prepared_transactions", control.max_prepared_xacts),
            ("max_locks_per_transaction", control.max_locks_per_xact),
        ];
        settings.extend(room.map(|(name, value)| (name.to_owned(), value.to_string())));
    }
    settings
}

/// Whether the control file says that the server is in production. A postmaster that answers may still be in recovery.
fn has_recovered(directory: &Path) -> bool {
    let bytes = std::fs::read(directory.join("global/pg_control")).unwrap_or_default();
    // One that is being written is looked at again.
    ControlFile::parse(&bytes).is_ok_and(|control| control.state == DbState::InProduction)
}

/// Beside the directory.
pub(super) fn log_of(directory: &Path) -> PathBuf {
    directory.with_extension("log")
}
