//! [`PrepareJob`]: makes the next segment before it is needed, on a background thread.
//!
//! The thread that receives WAL may need the segment before the job is done, and makes one itself. Then the job must not put
//! its file over the one that is written already: both take the *claim* of the segment, and who comes second gives way.

use crate::layout::{FileId, PREPARE_NAME};
use crate::{Error, Latch, Layout, segment};
use disk::Disk;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Who gives a segment its file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Claim {
    /// Nobody did yet.
    Open,
    /// The job: the file has its name, which may not be durable yet.
    Prepared,
    /// The storage made it itself, or cut the log: the job gives up.
    Revoked,
}

pub(crate) type SharedClaim = Arc<Mutex<Claim>>;

/// A panic on the other thread leaves the claim as it stood, which is right.
pub(crate) fn locked(claim: &SharedClaim) -> MutexGuard<'_, Claim> {
    claim.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes one segment ready. Made by [`WalStorage::prepare_job`](crate::WalStorage::prepare_job).
#[derive(Debug)]
#[must_use = "the segment is not there until the job has run and finish_prepare was told"]
pub struct PrepareJob {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) directory: PathBuf,
    pub(crate) layout: Arc<Layout>,
    pub(crate) file: FileId,
    pub(crate) spare: Option<PathBuf>,
    pub(crate) claim: SharedClaim,
    pub(crate) latch: Latch,
}

/// What a [`PrepareJob`] achieved.
#[derive(Debug)]
pub struct PrepareDone {
    pub(crate) file: FileId,
    pub(crate) claim: SharedClaim,
    pub(crate) out_of_space: Option<PathBuf>,
}

impl PrepareJob {
    /// Takes the spare or writes zeros, syncs, renames, syncs the directory. A full disk is told by `finish_prepare`.
    pub fn run(self) -> Result<PrepareDone, Error> {
        self.latch.check()?;
        let result = match self.prepare() {
            // A cut has taken the file away under the job: nothing failed.
            Err(Error::Io { .. }) if *locked(&self.claim) == Claim::Revoked => Ok(()),
            other => other,
        };
        let out_of_space = match self.latch.guard(result) {
            Ok(()) => None,
            Err(Error::OutOfSpace(path)) => Some(path),
            Err(error) => return Err(error),
        };
        Ok(PrepareDone { file: self.file, claim: self.claim, out_of_space })
    }

    fn prepare(&self) -> Result<(), Error> {
        let disk = &*self.disk;
        let size = self.layout.segment_size;
        let spare = match &self.spare {
            Some(path) => segment::open_spare(disk, path, size)?.map(|file| (path.clone(), file)),
            None => None,
        };
        let (from, file) = match spare {
            Some(spare) => spare,
            None => {
                let path = self.directory.join(PREPARE_NAME);
                let file = segment::make_zeroed_gently(disk, &path, size)?;
                (path, file)
            }
        };
        // Synced before it has its name: a crash must not leave the name on a shorter file, nor the first commit in it pay
        // for the allocation.
        file.sync_all().map_err(Error::io("syncing", &from))?;
        {
            let mut claim = locked(&self.claim);
            if *claim == Claim::Revoked {
                return disk.remove_file(&from).map_err(Error::io("removing", &from));
            }
            let to = self.layout.path_of(&self.directory, self.file);
            disk.rename(&from, &to).map_err(Error::io("renaming", &from))?;
            *claim = Claim::Prepared;
        }
        disk.sync_directory(&self.directory).map_err(Error::io("syncing", &self.directory))
    }
}
