//! From a replica back to a SQLite database file: any moment, verified, never half-made.
//!
//! [`plan`] looks at listings and says what a restore would take; [`restore`] does it. The snapshot and the WAL are fetched next to
//! the output, in a folder that goes away whatever happens. Every frame is verified here (header, salts, checksum chain, a commit at the
//! end of every life but the newest, lengths, that each life follows the one before) and its page written straight to the file: SQLite
//! itself would end a damaged WAL silently. The file gets its name only when all of it is there, synced and, where asked for, checked by
//! SQLite; an existing file is never replaced.
//!
//! What cannot be noticed: that the newest pieces of a replica are missing. It is an older state then, and a whole one.

mod apply;
mod fetch;
mod plan;

use std::path::PathBuf;

use jiff::Timestamp;
use replica_client::Generation;
use replica_client::download::DownloadError;

pub use fetch::{Progress, Restored, restore};
pub use plan::{Plan, plan};

/// Which moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Target {
    /// The newest there is.
    #[default]
    Latest,
    /// What was stored at or before this moment, by the store's clock. After the newest it is the newest.
    Time(Timestamp),
    /// The end of this life of the WAL.
    Index(u64),
    /// Exactly this place: `offset` bytes of life `index`, at the end of a transaction.
    Position {
        /// The life.
        index: u64,
        /// Bytes of it, its header included; 0 for none.
        offset: u64,
    },
}

/// How far SQLite itself looks at the result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum IntegrityCheck {
    /// Not at all; every byte was verified against the replica's checksums all the same.
    #[default]
    None,
    /// `PRAGMA quick_check`
    Quick,
    /// `PRAGMA integrity_check`
    Full,
}

/// What to restore, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Only this generation; `None`: the one that fits the target, the newest of several.
    pub generation: Option<Generation>,
    /// Which moment.
    pub target: Target,
    /// Objects read at a time; 0 counts as 1.
    pub parallelism: usize,
    /// SQLite's own check of the result.
    pub integrity: IntegrityCheck,
}

impl Default for Options {
    /// The newest state, 8 objects at a time.
    fn default() -> Self {
        Options { generation: None, target: Target::Latest, parallelism: 8, integrity: IntegrityCheck::None }
    }
}

/// Why a database could not be restored. Nothing was left behind.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The replica could not be read, or an object of it is damaged.
    #[error(transparent)]
    Replica(#[from] replica_client::Error),
    /// The WAL could not be fetched: something is missing, or damaged.
    #[error(transparent)]
    Download(#[from] DownloadError),
    /// There is no replica, or none of what was asked for.
    #[error("{0}")]
    NoReplica(String),
    /// There is a replica, and not this moment in it.
    #[error("{0}")]
    NoSuchMoment(String),
    /// Something has the output's name.
    #[error("{} exists; nothing was touched: name another output, or move it away", .0.display())]
    Exists(PathBuf),
    /// SQLite would apply what is there to the restored file.
    #[error("{} is left from another database and would damage the restored one; nothing was touched: move it away", .0.display())]
    Leftover(PathBuf),
    /// A life of the WAL is not whole.
    #[error("WAL {index:08x} of generation {generation} is damaged or incomplete: {reason}")]
    Wal {
        /// The generation.
        generation: Generation,
        /// The life.
        index: u64,
        /// What is wrong, with the offset.
        reason: String,
    },
    /// The snapshot is not a database, or not this one.
    #[error("the snapshot {index:08x} of generation {generation} is damaged: {reason}")]
    Snapshot {
        /// The generation.
        generation: Generation,
        /// Its index.
        index: u64,
        /// What is wrong.
        reason: String,
    },
    /// SQLite found the result wrong.
    #[error("the restored database fails SQLite's check: {0}")]
    Integrity(String),
    /// The local disk.
    #[error("cannot {what} {}", path.display())]
    Local {
        /// What was tried.
        what: &'static str,
        /// With what.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The runtime ended.
    #[error("the restore ended because the runtime is stopping")]
    Stopped,
}

impl Error {
    /// There was nothing to restore: with `--if-replica-exists` this is success.
    pub fn is_no_replica(&self) -> bool {
        matches!(self, Error::NoReplica(_))
    }

    /// Refused to protect what is there, rather than failed.
    pub fn is_refusal(&self) -> bool {
        matches!(self, Error::Exists(_) | Error::Leftover(_))
    }
}

pub(crate) fn local<'a>(what: &'static str, path: &'a std::path::Path) -> impl FnOnce(std::io::Error) -> Error + 'a {
    move |source| Error::Local { what, path: path.to_path_buf(), source }
}
