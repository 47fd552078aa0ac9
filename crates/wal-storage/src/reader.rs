//! [`WalReader`]: WAL from the files, on any thread, while the log is written, cut and shortened.
//!
//! Segments below the oldest one may be renamed and overwritten, and bytes at or above the end zeroed, by jobs that run at
//! the same time. Both bounds move before such a job starts, so they are checked again after the bytes were read.

use crate::{Error, Layout};
use bytes::Bytes;
use disk::{Disk, OpenMode};
use lsn::Lsn;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// The log's bounds and names, written by the storage, read by readers.
#[derive(Debug)]
pub(crate) struct Bounds {
    layout: Mutex<Arc<Layout>>,
    oldest: AtomicU64,
    written: AtomicU64,
    /// How many times the log was cut: an end that fell and rose again holds other bytes.
    cuts: AtomicU64,
}

impl Bounds {
    pub(crate) fn new(layout: Arc<Layout>) -> Bounds {
        let layout = Mutex::new(layout);
        Bounds { layout, oldest: AtomicU64::new(0), written: AtomicU64::new(0), cuts: AtomicU64::new(0) }
    }

    /// Which file holds which byte.
    pub(crate) fn layout(&self) -> Arc<Layout> {
        Arc::clone(&self.layout.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn set_layout(&self, layout: Arc<Layout>) {
        *self.layout.lock().unwrap_or_else(PoisonError::into_inner) = layout;
    }

    pub(crate) fn set_oldest(&self, oldest: Lsn) {
        self.oldest.store(oldest.0, Ordering::SeqCst);
    }

    pub(crate) fn set_written(&self, written: Lsn) {
        self.written.store(written.0, Ordering::SeqCst);
    }

    pub(crate) fn count_cut(&self) {
        self.cuts.fetch_add(1, Ordering::SeqCst);
    }

    pub(crate) fn oldest(&self) -> Lsn {
        Lsn(self.oldest.load(Ordering::SeqCst))
    }

    pub(crate) fn written(&self) -> Lsn {
        Lsn(self.written.load(Ordering::SeqCst))
    }

    fn cuts(&self) -> u64 {
        self.cuts.load(Ordering::SeqCst)
    }
}

/// Reads WAL from the files. Blocks: not for the thread that receives WAL.
#[derive(Clone, Debug)]
pub struct WalReader {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) directory: PathBuf,
    pub(crate) bounds: Arc<Bounds>,
}

impl WalReader {
    /// Up to `max` bytes from `from` on, never across the end of a segment or of a TLI and never beyond what was written (which need not be
    /// durable); empty if `from` is at or above the end. [`Error::NotHere`] if the segment was removed.
    ///
    /// A cut during the read gives an empty result rather than bytes of either side.
    pub fn read(&self, from: Lsn, max: usize) -> Result<Bytes, Error> {
        let cuts = self.bounds.cuts();
        let layout = self.bounds.layout();
        let segment = layout.segment_size.segment_of(from);
        let end = layout.file_end(from).min(self.bounds.written());
        if from < self.bounds.oldest() {
            return Err(Error::NotHere { segment });
        }
        let len = usize::try_from(end.bytes_since(from)).unwrap_or(usize::MAX).min(max);
        if len == 0 {
            return Ok(Bytes::new());
        }
        let offset = layout.segment_size.offset_of(from);
        let result = self.read_files(&layout, from, offset, len);
        if from < self.bounds.oldest() {
            return Err(Error::NotHere { segment });
        }
        if cuts != self.bounds.cuts() {
            return Ok(Bytes::new());
        }
        result
    }

    fn read_files(&self, layout: &Layout, from: Lsn, offset: u64, len: usize) -> Result<Bytes, Error> {
        for file in layout.files_with(from) {
            if let Some(bytes) = self.read_file(&layout.path_of(&self.directory, file), offset, len)? {
                return Ok(bytes);
            }
        }
        Err(Error::NotHere { segment: layout.segment_size.segment_of(from) })
    }

    /// `None` if there is no such file.
    fn read_file(&self, path: &Path, offset: u64, len: usize) -> Result<Option<Bytes>, Error> {
        let file = match self.disk.open(path, OpenMode::Read) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::io("opening", path)(error)),
        };
        let mut bytes = vec![0; len];
        let read = file.read_at(&mut bytes, offset).map_err(Error::io("reading", path))?;
        if read < len {
            return Err(Error::io("reading", path)(io::ErrorKind::UnexpectedEof.into()));
        }
        Ok(Some(bytes.into()))
    }
}

#[cfg(test)]
#[path = "reader_test.rs"]
mod tests;
