//! The port to a disk: few verbs, no policy.
//!
//! [`Disk`] and [`File`] are what the crates above may do to a disk. [`RealDisk`] does it; [`SimDisk`] pretends, keeps what
//! is durable apart from what is only in the page cache, and can lose, tear and refuse things as real disks do.
//!
//! Durability, the same for every implementation: bytes written are durable after a successful [`File::sync_data`] or
//! [`File::sync_all`] that began after the write returned; names created, renamed or removed in a directory are durable
//! after a successful [`Disk::sync_directory`] of that directory. A failed sync may have thrown the bytes away: syncing
//! again and getting `Ok` proves nothing about them.
//!
//! The crate does not know what files hold. Every call blocks; errors are the operating system's.

#[cfg(feature = "faults")]
mod faults;
#[cfg(not(feature = "faults"))]
#[path = "no_faults.rs"]
mod faults;
mod real;
mod sim;
mod sim_bytes;
mod sim_crash;
mod sim_image;

pub use real::RealDisk;
pub use sim::{Op, OpRecord, SimDisk};
pub use sim_crash::CrashImages;

use std::ffi::OsString;
use std::io::{self, IoSlice};
use std::path::Path;
use std::sync::Arc;

/// What a file is opened for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OpenMode {
    /// Reading an existing file.
    Read,
    /// Reading and writing an existing file.
    ReadWrite,
    /// Reading and writing a file that must not exist yet (else `AlreadyExists`). The name is durable only after
    /// [`Disk::sync_directory`].
    CreateNew,
}

/// One name in a directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DirEntry {
    /// The last part of the path.
    pub name: OsString,
    /// Bytes, for files; 0 for directories.
    pub len: u64,
    /// Whether it is a directory.
    pub is_dir: bool,
}

/// Holds an exclusive lock until dropped, or until its process ends.
pub struct LockGuard {
    _held: Box<dyn std::any::Any + Send + Sync>,
}

impl LockGuard {
    fn new(held: impl std::any::Any + Send + Sync) -> LockGuard {
        LockGuard { _held: Box::new(held) }
    }
}

impl std::fmt::Debug for LockGuard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LockGuard")
    }
}

/// Names and files. Relative paths are the implementation's business; callers use absolute ones.
pub trait Disk: Send + Sync + std::fmt::Debug {
    /// Opens a file.
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>>;

    /// Gives a file another name, replacing what had it, atomically: after a crash the new name has the old file or the new
    /// one. Durable after `sync_directory` of the directory.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file's name. Durable after `sync_directory`.
    fn remove_file(&self, path: &Path) -> io::Result<()>;

    /// Removes a directory and everything in it; not atomic. Durable after `sync_directory` of its parent.
    fn remove_dir_all(&self, path: &Path) -> io::Result<()>;

    /// Creates a directory and the ones above it that are missing; an existing directory is success. Each new name is
    /// durable after `sync_directory` of the directory it stands in.
    fn create_dir_all(&self, path: &Path) -> io::Result<()>;

    /// The names in a directory, sorted.
    fn list(&self, directory: &Path) -> io::Result<Vec<DirEntry>>;

    /// Whether something has this name.
    fn exists(&self, path: &Path) -> io::Result<bool>;

    /// Makes a directory's names durable.
    fn sync_directory(&self, path: &Path) -> io::Result<()>;

    /// Makes a whole file that nobody has open for writing durable: bytes and metadata. Its name needs `sync_directory`.
    fn sync_file(&self, path: &Path) -> io::Result<()> {
        self.open(path, OpenMode::Read)?.sync_all()
    }

    /// Bytes that can still be allocated on the file system of `path`.
    fn free_space(&self, path: &Path) -> io::Result<u64>;

    /// Takes an exclusive lock on the file `path`, which is created if it is missing; `WouldBlock` if another holds it.
    fn lock_exclusive(&self, path: &Path) -> io::Result<LockGuard>;
}

/// An open file. Positions and lengths are bytes.
pub trait File: Send + Sync + std::fmt::Debug {
    /// Reads at `offset` until the buffer is full or the file ends; says how much it read.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Writes all of `bytes` at `offset`; the file grows where it must. On an error part of them may have been written.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.write_vectored_at(&[IoSlice::new(bytes)], offset)
    }

    /// Writes all of the slices, one after another, at `offset`. On an error part of them may have been written.
    fn write_vectored_at(&self, slices: &[IoSlice<'_>], offset: u64) -> io::Result<()>;

    /// Cuts the file, or extends it with zeros (which need not be allocated).
    fn set_len(&self, len: u64) -> io::Result<()>;

    /// Bytes in the file.
    fn len(&self) -> io::Result<u64>;

    /// Whether the file has no bytes.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Makes the bytes, and what is needed to read them back, durable (`fdatasync`).
    fn sync_data(&self) -> io::Result<()>;

    /// Makes the bytes and all of the file's metadata durable (`fsync`).
    fn sync_all(&self) -> io::Result<()>;
}
