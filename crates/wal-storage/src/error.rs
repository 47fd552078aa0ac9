//! What can go wrong, and the latch that stops a storage after the first failure.
//!
//! A failed sync may have thrown away the bytes it was asked to keep, and the next sync would report success without them:
//! so nothing is tried again. Running out of space while creating or writing a segment loses nothing and does not latch.

use lsn::{Lsn, SegmentNumber};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

/// Why the storage did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refused.
    #[error("{doing} {} failed", path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// On which file or directory.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The disk is full; nothing changed, and the same may succeed once there is room.
    #[error("no space left to write {}: free some, WAL is refused until then", .0.display())]
    OutOfSpace(PathBuf),
    /// An earlier failure stopped this storage.
    #[error("stopped by an earlier failure ({0}): open the log again to go on")]
    Stopped(Arc<str>),
    /// WAL that does not begin where the log ends.
    #[error("WAL that begins at {begin} does not continue a log that ends at {expected}")]
    NotContiguous {
        /// Where it begins.
        begin: Lsn,
        /// Where it should.
        expected: Lsn,
    },
    /// The log is empty, and nobody said where it begins.
    #[error("the log is empty and has no start yet")]
    NotStarted,
    /// The log has a start already.
    #[error("the log begins at {0} already")]
    AlreadyStarted(Lsn),
    /// A log can only begin with a segment.
    #[error("{0} is not the start of a segment")]
    NotSegmentStart(Lsn),
    /// A cut was begun and is not finished.
    #[error("the log is being cut to {0}: finish that first")]
    Cutting(Lsn),
    /// A cut to a place where the log is not.
    #[error("cannot cut to {to}: the log goes from {oldest} to {written}")]
    CutOutside {
        /// Where to.
        to: Lsn,
        /// First byte of the log.
        oldest: Lsn,
        /// End of the log.
        written: Lsn,
    },
    /// The segment was removed, or never was here.
    #[error("segment {segment} is not on this disk")]
    NotHere {
        /// Which.
        segment: SegmentNumber,
    },
    /// Positions would leave the 64-bit range.
    #[error("WAL cannot go on behind {0}")]
    Range(Lsn),
    /// The control file is unusable.
    #[error("the control file {} is unusable", path.display())]
    Control {
        /// Which.
        path: PathBuf,
        /// Why.
        source: crate::ControlError,
    },
}

impl Error {
    /// Whether the disk is full: the one failure after which the same storage can go on.
    pub fn is_out_of_space(&self) -> bool {
        matches!(self, Error::OutOfSpace(_))
    }

    pub(crate) fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
        let path = path.to_owned();
        move |source| Error::Io { doing, path, source }
    }

    /// As [`Error::io`], for writes and creations, where a full disk is told apart. Never for syncs: a full disk found out
    /// by a sync is lost data.
    pub(crate) fn write(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
        let path = path.to_owned();
        move |source| match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Error::OutOfSpace(path),
            _ => Error::Io { doing, path, source },
        }
    }
}

/// Remembers the first failure of a log and refuses everything after it. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Latch(Arc<OnceLock<Arc<str>>>);

impl Latch {
    /// An open latch.
    pub fn new() -> Latch {
        Latch::default()
    }

    /// The first failure in words, if there was one.
    pub fn reason(&self) -> Option<&str> {
        self.0.get().map(|reason| &**reason)
    }

    pub(crate) fn check(&self) -> Result<(), Error> {
        self.0.get().map_or(Ok(()), |reason| Err(Error::Stopped(Arc::clone(reason))))
    }

    /// Passes a result on, and latches if it is a failure of the disk.
    pub(crate) fn guard<T>(&self, result: Result<T, Error>) -> Result<T, Error> {
        if let Err(Error::Io { doing, path, source }) = &result {
            let reason = format!("{doing} {} failed: {source}", path.display());
            // Only the first failure counts; a second one that comes at the same time changes nothing.
            self.0.get_or_init(|| reason.into());
        }
        result
    }
}
