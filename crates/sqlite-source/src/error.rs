//! Why a database cannot be looked after, or not now.

use std::io;
use std::path::PathBuf;

/// What went wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not an error of the database: it is not there (yet).
    #[error("the database {} does not exist yet", .0.display())]
    Absent(PathBuf),
    /// Another process holds a lock longer than the busy time-out. Tried again.
    #[error("the database {} is locked by another process; it is tried again", .0.display())]
    Busy(PathBuf),
    /// A second replicator.
    #[error("another process replicates {} already (it holds the lock in {}); stop one of them", path.display(), meta.display())]
    Locked {
        /// The database.
        path: PathBuf,
        /// The folder with the lock.
        meta: PathBuf,
    },
    /// It does not accept WAL mode.
    #[error("the database {} stays in journal mode {mode}; only WAL can be replicated", path.display())]
    JournalMode {
        /// The database.
        path: PathBuf,
        /// Its mode.
        mode: String,
    },
    /// SQLite.
    #[error("cannot {what} the database {}", path.display())]
    Sqlite {
        /// What was tried.
        what: &'static str,
        /// The database.
        path: PathBuf,
        /// Why not.
        source: rusqlite::Error,
    },
    /// A file of the database or of the shadow WAL.
    #[error("cannot {what} {}", path.display())]
    File {
        /// What was tried.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The shadow WAL has not what a reader wants: it was too far behind, or the generation has ended.
    #[error("the shadow WAL of {} has nothing from {wanted} any more; a new snapshot is needed", path.display())]
    Gone {
        /// The database.
        path: PathBuf,
        /// From where.
        wanted: sqlite_wal::Position,
    },
    /// A snapshot that is worth nothing because control over the database was lost while it was taken.
    #[error("control over {} was lost while a snapshot was taken; take it again", .0.display())]
    Broken(PathBuf),
    /// The database is being closed.
    #[error("the database {} is no longer looked after", .0.display())]
    Closed(PathBuf),
}

impl Error {
    /// Worth trying again soon, and nothing to tell anybody about.
    pub fn is_transient(&self) -> bool {
        matches!(self, Error::Absent(_) | Error::Busy(_))
    }

    /// No space is left for the shadow WAL.
    pub fn is_disk_full(&self) -> bool {
        matches!(self, Error::File { source, .. } if source.kind() == io::ErrorKind::StorageFull)
    }
}
