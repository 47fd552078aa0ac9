//! [`RemoveJob`]: takes old segments away, keeping some as spares.

use crate::{Error, Latch};
use disk::Disk;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

/// Removes segments below a position. Made by [`WalStorage::remove_below`](crate::WalStorage::remove_below); may run on any
/// thread. If it never runs, the next recovery shows the segments again.
#[derive(Debug)]
#[must_use = "the segments stay until the job has run"]
pub struct RemoveJob {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) directory: PathBuf,
    pub(crate) recycle: Vec<(PathBuf, PathBuf)>,
    pub(crate) delete: Vec<PathBuf>,
    pub(crate) latch: Latch,
}

/// The spares a [`RemoveJob`] made.
#[derive(Debug)]
pub struct RemoveDone {
    pub(crate) spares: Vec<PathBuf>,
}

impl RemoveJob {
    /// Renames and deletes, then syncs the directory: a spare must have left its old name for good before it gets another.
    pub fn run(self) -> Result<RemoveDone, Error> {
        self.latch.check()?;
        self.latch.guard(self.remove())?;
        Ok(RemoveDone { spares: self.recycle.into_iter().map(|(_, spare)| spare).collect() })
    }

    fn remove(&self) -> Result<(), Error> {
        for (from, to) in &self.recycle {
            self.disk.rename(from, to).map_err(Error::io("renaming", from))?;
        }
        for path in &self.delete {
            match self.disk.remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(Error::io("removing", path)(error));
                }
                _ => {}
            }
        }
        self.disk.sync_directory(&self.directory).map_err(Error::io("syncing", &self.directory))
    }
}
