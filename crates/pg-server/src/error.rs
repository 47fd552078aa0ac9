//! Why a server did not do as asked.

use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;

use crate::settings::SettingError;

/// The longest path of a Unix socket, in bytes: `sun_path` has 108 on Linux with the closing zero. (macOS has 104 in all, so stay
/// well below it.)
pub const SOCKET_PATH_BYTES_MAX: usize = 107;

/// Why a server did not do as asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// We are root and there is no user to run PostgreSQL as.
    #[error(
        "PostgreSQL does not run as root and there is no user postgres; create it (useradd --system postgres) or start as another user"
    )]
    NoUser,
    /// The user PostgreSQL runs as cannot reach the data directory.
    #[error("user {user} cannot enter {}; use a data directory such as {}", dir.display(), suggestion.display())]
    CannotTraverse {
        /// The user.
        user: String,
        /// The folder above the data directory that cannot be entered.
        dir: PathBuf,
        /// A place this user can be given, the same for the same data directory every time: `/var/lib/seawall/<hash>`.
        suggestion: PathBuf,
    },
    /// The folder is not a data directory.
    #[error("{} is not a PostgreSQL data directory (it has no PG_VERSION); run initdb first", dir.display())]
    NotADataDirectory {
        /// The folder.
        dir: PathBuf,
    },
    /// The data directory was made by another major version.
    #[error("{} belongs to PostgreSQL {found}, and the programs are version {installed}; set PG_BIN to version {found}", dir.display())]
    OtherVersion {
        /// The data directory.
        dir: PathBuf,
        /// Its `PG_VERSION`.
        found: String,
        /// The installation's version.
        installed: String,
    },
    /// The Unix socket's path would not fit into a socket address.
    #[error("the socket path {} has {bytes} bytes, more than {SOCKET_PATH_BYTES_MAX}; choose a shorter folder", path.display())]
    SocketPathTooLong {
        /// The path of the socket.
        path: PathBuf,
        /// Its length.
        bytes: usize,
    },
    /// A setting cannot be written down.
    #[error(transparent)]
    Setting(#[from] SettingError),
    /// A program of PostgreSQL failed.
    #[error("{program} failed ({outcome}): {output}")]
    Program {
        /// Its name.
        program: &'static str,
        /// The exit status.
        outcome: ExitStatus,
        /// What it said.
        output: String,
    },
    /// The postmaster ended before it was ready, or without being asked.
    #[error("PostgreSQL ended ({outcome}); see {}: {tail}", log.display())]
    Ended {
        /// The exit status.
        outcome: ExitStatus,
        /// The log.
        log: PathBuf,
        /// The end of the log.
        tail: String,
    },
    /// A deadline passed. The server is left as it is.
    #[error("PostgreSQL was not {what} within {seconds} s; see {}: {tail}", log.display())]
    TimedOut {
        /// `ready` or `stopped`.
        what: &'static str,
        /// How long was waited.
        seconds: u64,
        /// The log.
        log: PathBuf,
        /// The end of the log.
        tail: String,
    },
    /// The server must not run for this.
    #[error("the server in {} already runs; stop it first", dir.display())]
    Running {
        /// The data directory.
        dir: PathBuf,
    },
    /// The server must run for this.
    #[error("the server in {} does not run; start it first", dir.display())]
    NotRunning {
        /// The data directory.
        dir: PathBuf,
    },
    /// The operating system refused something.
    #[error("cannot {what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// Why not.
        source: io::Error,
    },
}

pub(crate) fn io_error(what: impl Into<String>) -> impl FnOnce(io::Error) -> Error {
    let what = what.into();
    |source| Error::Io { what, source }
}
