//! Why WAL could not be downloaded. Clones are cheap: an error of planning is told again by every later call.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use crate::error::{Error, Kind};
use crate::names::Generation;

/// What went wrong, with the place.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum DownloadError {
    /// The last wanted position lies before the first.
    #[error("the first wanted WAL position cannot lie behind the last")]
    Range,
    /// No reader at all.
    #[error("parallelism must be at least one")]
    Parallelism,
    /// The replica has nothing of an index.
    #[error("WAL {index:08x} of generation {generation} is not in the replica")]
    NotFound {
        /// The generation asked for.
        generation: Generation,
        /// The first index that is missing.
        index: u64,
    },
    /// The replica has some of an index, and a hole.
    #[error("WAL {index:08x} of generation {generation} has a hole: no piece holds offset {offset}")]
    Missing {
        /// The generation asked for.
        generation: Generation,
        /// The index with the hole.
        index: u64,
        /// Its first byte, in that index.
        offset: u64,
    },
    /// A piece is longer than the place it has.
    #[error("WAL {index:08x} of generation {generation}: the piece at offset {start} runs into the one at {end}")]
    Overlap {
        /// The generation asked for.
        generation: Generation,
        /// The index.
        index: u64,
        /// Where the piece begins.
        start: u64,
        /// Where the next one begins.
        end: u64,
    },
    /// Two pieces have different bytes at the same place.
    #[error(
        "WAL {index:08x} of generation {generation}: two pieces disagree at offset {offset}; the replica is damaged"
    )]
    Disagree {
        /// The generation asked for.
        generation: Generation,
        /// The index.
        index: u64,
        /// The first byte that differs.
        offset: u64,
    },
    /// The list of pieces could not be had.
    #[error("cannot list the WAL of generation {generation}")]
    List {
        /// The generation asked for.
        generation: Generation,
        /// The store's answer.
        source: Arc<Error>,
    },
    /// A piece could not be read, or is damaged.
    #[error("cannot read WAL {index:08x} of generation {generation}")]
    Read {
        /// The generation asked for.
        generation: Generation,
        /// The index.
        index: u64,
        /// The store's answer; names the object.
        source: Arc<Error>,
    },
    /// The local file could not be written.
    #[error("cannot write {path}")]
    Write {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: Arc<io::Error>,
    },
    /// The bytes are what the replica says and no good WAL.
    #[error("WAL {index:08x} of generation {generation} is damaged: {reason}")]
    Check {
        /// The generation asked for.
        generation: Generation,
        /// The index.
        index: u64,
        /// What the check found.
        reason: String,
    },
    /// An earlier error ended the download.
    #[error("the download was given up after an error")]
    GivenUp,
    /// [`WalDownloader::close`](super::WalDownloader::close) came first.
    #[error("the downloader is closed")]
    Closed,
    /// The runtime is stopping.
    #[error("the download of WAL {index:08x} ended because the runtime is stopping")]
    Stopped {
        /// The index.
        index: u64,
    },
}

impl DownloadError {
    /// What the caller can do about it, in the words of the replica's errors.
    pub fn kind(&self) -> Kind {
        match self {
            DownloadError::Range | DownloadError::Parallelism | DownloadError::Closed => Kind::Usage,
            DownloadError::NotFound { .. } | DownloadError::Missing { .. } => Kind::NotFound,
            DownloadError::Overlap { .. } | DownloadError::Disagree { .. } | DownloadError::Check { .. } => {
                Kind::Corrupt
            }
            DownloadError::List { source, .. } | DownloadError::Read { source, .. } => source.kind(),
            DownloadError::Write { .. } | DownloadError::GivenUp | DownloadError::Stopped { .. } => Kind::Other,
        }
    }
}
