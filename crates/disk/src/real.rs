//! [`RealDisk`]: the operating system's file systems.
//!
//! The only file of the workspace that asks the operating system to sync.

use crate::faults::{self, Tag};
use crate::{DirEntry, Disk, File, LockGuard, Op, OpenMode};
use rustix::fs::{FlockOperation, flock, statvfs};
use rustix::io::pwritev;
use std::fs::{self, OpenOptions};
use std::io::{self, IoSlice};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

/// The file systems of this machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealDisk;

#[derive(Debug)]
struct RealFile(fs::File, Tag);

impl Disk for RealDisk {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        faults::check(if mode == OpenMode::CreateNew { Op::Create } else { Op::Open }, path)?;
        let mut options = OpenOptions::new();
        options.read(true);
        match mode {
            OpenMode::Read => {}
            OpenMode::ReadWrite => {
                options.write(true);
            }
            OpenMode::CreateNew => {
                options.write(true).create_new(true);
            }
        }
        Ok(Arc::new(RealFile(options.open(path)?, Tag::of(path))))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        faults::check(Op::Rename, to)?;
        fs::rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        faults::check(Op::Remove, path)?;
        fs::remove_file(path)
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        faults::check(Op::Remove, path)?;
        fs::remove_dir_all(path)
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        faults::check(Op::Create, path)?;
        fs::create_dir_all(path)
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<DirEntry>> {
        faults::check(Op::List, directory)?;
        let mut entries = Vec::new();
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            let metadata = match entry.metadata() {
                Ok(metadata) => metadata,
                // Removed between the two calls by another thread: then it is not in the directory.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            let is_dir = metadata.is_dir();
            entries.push(DirEntry { name: entry.file_name(), len: if is_dir { 0 } else { metadata.len() }, is_dir });
        }
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        fs::exists(path)
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        faults::check(Op::SyncDirectory, path)?;
        fs::File::open(path)?.sync_all()
    }

    fn free_space(&self, path: &Path) -> io::Result<u64> {
        let numbers = statvfs(path)?;
        Ok(numbers.f_bavail.saturating_mul(numbers.f_frsize))
    }

    fn lock_exclusive(&self, path: &Path) -> io::Result<LockGuard> {
        faults::check(Op::Lock, path)?;
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(path)?;
        flock(&file, FlockOperation::NonBlockingLockExclusive)?;
        Ok(LockGuard::new(file))
    }
}

impl File for RealFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.1.check(Op::Read)?;
        let mut done = 0;
        while done < buffer.len() {
            match self.0.read_at(&mut buffer[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(read) => done += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.1.check(Op::Write)?;
        self.0.write_all_at(bytes, offset)
    }

    fn write_vectored_at(&self, slices: &[IoSlice<'_>], mut offset: u64) -> io::Result<()> {
        self.1.check(Op::Write)?;
        // The limit of slices per call is 1024 where we run; more go in further calls.
        let mut slices: Vec<IoSlice<'_>> = slices.to_vec();
        let mut rest = slices.as_mut_slice();
        IoSlice::advance_slices(&mut rest, 0);
        while !rest.is_empty() {
            match pwritev(&self.0, &rest[..rest.len().min(1024)], offset) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    offset += written as u64;
                    IoSlice::advance_slices(&mut rest, written);
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.1.check(Op::SetLen)?;
        self.0.set_len(len)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.1.check(Op::Sync)?;
        self.0.sync_data()
    }

    fn sync_all(&self) -> io::Result<()> {
        self.1.check(Op::Sync)?;
        self.0.sync_all()
    }
}
