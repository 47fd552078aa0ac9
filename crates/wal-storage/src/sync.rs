//! Positions that say what became of the bytes below them, and [`SyncJob`], which turns the one into the other.

use crate::segment::OpenSegment;
use crate::{Error, Latch};
use disk::Disk;
use lsn::Lsn;
use std::path::PathBuf;
use std::sync::Arc;

/// End of the bytes that were handed to the operating system. A power cut may lose them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Written(pub(crate) Lsn);

impl Written {
    /// The position.
    pub fn lsn(self) -> Lsn {
        self.0
    }
}

/// Everything below this position is on the disk. Only a finished sync, cut or recovery makes one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Durable(pub(crate) Lsn);

impl Durable {
    /// The position: a byte, not necessarily the end of a record.
    pub fn lsn(self) -> Lsn {
        self.0
    }
}

/// Makes durable what was written before it was made.
#[derive(Debug)]
#[must_use = "nothing is durable until the job has run and finish_sync was told"]
pub struct SyncJob {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) files: Vec<OpenSegment>,
    pub(crate) directory: Option<PathBuf>,
    pub(crate) to: Lsn,
    pub(crate) cuts: u64,
    pub(crate) latch: Latch,
}

/// A finished sync.
#[derive(Debug)]
pub struct SyncDone {
    pub(crate) to: Lsn,
    pub(crate) cuts: u64,
}

impl SyncJob {
    /// How far the log will be durable.
    pub fn to(&self) -> Lsn {
        self.to
    }

    /// One `fdatasync` per file that was written (one file, but at a segment's end), and the directory if a segment was
    /// created in it.
    pub fn run(self) -> Result<SyncDone, Error> {
        self.latch.check()?;
        self.latch.guard(self.sync())?;
        Ok(SyncDone { to: self.to, cuts: self.cuts })
    }

    fn sync(&self) -> Result<(), Error> {
        self.files.iter().try_for_each(OpenSegment::sync)?;
        match &self.directory {
            Some(path) => self.disk.sync_directory(path).map_err(Error::io("syncing", path)),
            None => Ok(()),
        }
    }
}
