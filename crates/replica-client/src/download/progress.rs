//! How far a download is: counters the workers move and anybody may read.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counters of one download. Sums of what is known; they only grow.
#[derive(Debug, Default)]
pub struct DownloadProgress {
    files: AtomicU64,
    files_total: AtomicU64,
    stored: AtomicU64,
    stored_total: AtomicU64,
    plain: AtomicU64,
}

impl DownloadProgress {
    /// Files finished, delivered or not.
    pub fn files(&self) -> u64 {
        self.files.load(Ordering::Relaxed)
    }

    /// Files there will be; 0 before the first call of `next`.
    pub fn files_total(&self) -> u64 {
        self.files_total.load(Ordering::Relaxed)
    }

    /// Bytes, as stored, of the objects read to their end.
    pub fn stored(&self) -> u64 {
        self.stored.load(Ordering::Relaxed)
    }

    /// Bytes, as stored, of all objects that will be read; 0 before the first call of `next`.
    pub fn stored_total(&self) -> u64 {
        self.stored_total.load(Ordering::Relaxed)
    }

    /// Plain bytes received.
    pub fn plain(&self) -> u64 {
        self.plain.load(Ordering::Relaxed)
    }

    pub(super) fn planned(&self, files: u64, stored: u64) {
        self.files_total.store(files, Ordering::Relaxed);
        self.stored_total.store(stored, Ordering::Relaxed);
    }

    pub(super) fn received(&self, bytes: usize) {
        self.plain.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn object_done(&self, stored: u64) {
        self.stored.fetch_add(stored, Ordering::Relaxed);
    }

    pub(super) fn file_done(&self) {
        self.files.fetch_add(1, Ordering::Relaxed);
    }
}
