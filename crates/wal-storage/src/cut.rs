//! [`CutJob`]: makes a log end earlier.
//!
//! The second of three steps: before it, its caller has persisted that the log is being cut, and where to; after it, that it
//! was. A crash in between is mended by doing the whole job again before recovery: every step of it can be repeated, and
//! nothing below the cut is touched.

use crate::layout::{self, PREPARE_NAME};
use crate::segment::OpenSegment;
use crate::{Error, Latch, Layout, segment};
use disk::{Disk, OpenMode};
use lsn::Lsn;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

/// Cuts a log. Made by [`WalStorage::start_cut`](crate::WalStorage::start_cut) and
/// [`Unrecovered::cut`](crate::Unrecovered::cut).
#[derive(Debug)]
#[must_use = "the log is not cut until the job has run"]
pub struct CutJob {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) directory: PathBuf,
    pub(crate) layout: Arc<Layout>,
    pub(crate) to: Lsn,
    /// Files with bytes below the cut that were not synced yet.
    pub(crate) unsynced: Vec<OpenSegment>,
    pub(crate) latch: Latch,
}

/// A finished cut.
#[derive(Debug)]
pub struct CutDone {
    pub(crate) to: Lsn,
}

impl CutJob {
    /// Where to.
    pub fn to(&self) -> Lsn {
        self.to
    }

    /// Deletes the segments that begin at or behind the cut, the files of TLIs that begin there or are not the log's, and all
    /// spares; zeroes the rest of the file that holds the last byte; syncs the files and the directory.
    ///
    /// Only the path below the cut matters, so the job does the same with the path from before the cut and the one after it.
    pub fn run(self) -> Result<CutDone, Error> {
        self.latch.check()?;
        // A full disk cannot hinder a cut for long, but a cut that was not done must not pass for one.
        let result = self.cut().map_err(|error| match error {
            Error::OutOfSpace(path) => Error::io("cutting", &path)(io::ErrorKind::StorageFull.into()),
            other => other,
        });
        self.latch.guard(result)?;
        Ok(CutDone { to: self.to })
    }

    fn cut(&self) -> Result<(), Error> {
        let size = self.layout.segment_size;
        let layout = Layout { path: self.layout.path.cut(self.to), ..Layout::clone(&self.layout) };
        let entries = self.disk.list(&self.directory).map_err(Error::io("listing", &self.directory))?;
        for entry in entries {
            let Some(name) = entry.name.to_str() else { continue };
            let stale = size.parse_file_name(name).is_some_and(|(_, segment)| {
                size.start_of(segment) >= self.to || layout.parse_file_name(name).is_none()
            });
            // Spares go too: one that held WAL of the part cut away would look like WAL written for its new place.
            if stale || layout::parse_spare_name(name).is_some() {
                let path = self.directory.join(name);
                match self.disk.remove_file(&path) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => {
                        return Err(Error::io("removing", &path)(error));
                    }
                    _ => {}
                }
            }
        }
        let offset = size.offset_of(self.to);
        if offset != 0 {
            let path = layout.path_of(&self.directory, layout.file_at(Lsn(self.to.0 - 1)));
            match self.disk.open(&path, OpenMode::ReadWrite) {
                Ok(file) => {
                    // Zeros are written even where zeros are read: the page cache may know more than the disk.
                    segment::write_zeros(&*file, &path, offset, size.bytes())?;
                    file.sync_all().map_err(Error::io("syncing", &path))?;
                }
                // Nothing of the segment is there; if it should be, recovery finds the damage.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(Error::io("opening", &path)(error)),
            }
        }
        self.unsynced.iter().try_for_each(OpenSegment::sync)?;
        self.disk.sync_directory(&self.directory).map_err(Error::io("syncing", &self.directory))
    }
}

/// Whether this is a file that only a running storage knows, left by one that is gone.
pub(crate) fn is_leftover(name: &str) -> bool {
    name == PREPARE_NAME || name == layout::INLINE_NAME || name == crate::control::NEW_NAME
}
