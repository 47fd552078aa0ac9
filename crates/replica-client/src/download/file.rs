//! A file in the making: `.partial` until it is whole, deleted unless somebody takes it over.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use super::error::DownloadError;

/// Most bytes compared at a time.
const COMPARE_BYTES: usize = 256 << 10;

/// A path whose file goes when this does, unless it was kept.
#[derive(Debug)]
pub(super) struct Scratch {
    path: PathBuf,
    kept: bool,
}

impl Scratch {
    /// Nothing is left to do where there is no such file.
    pub(super) fn keep(mut self) -> PathBuf {
        self.kept = true;
        std::mem::take(&mut self.path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if !self.kept {
            // It may have been moved or never made; and there is nobody to tell.
            drop(fs::remove_file(&self.path));
        }
    }
}

/// The file of one index being filled.
#[derive(Debug)]
pub(super) struct Partial {
    scratch: Scratch,
    target: PathBuf,
    file: Arc<File>,
}

impl Partial {
    /// Makes `<target>.partial`, empty. In place: an await between making a file and minding it could leave it behind.
    pub(super) fn create(target: PathBuf, mode: u32, owner: Option<(u32, u32)>) -> Result<Partial, DownloadError> {
        let mut path = target.clone().into_os_string();
        path.push(".partial");
        let path = PathBuf::from(path);
        let make = || -> io::Result<File> {
            let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).mode(mode).open(&path)?;
            if let Some((user, group)) = owner {
                std::os::unix::fs::fchown(&file, Some(user), Some(group))?;
            }
            Ok(file)
        };
        match make() {
            Ok(file) => Ok(Partial { scratch: Scratch { path, kept: false }, target, file: Arc::new(file) }),
            Err(error) => Err(failed(&path, error)),
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.scratch.path
    }

    /// Writes bytes at their place.
    pub(super) async fn write(&self, at: u64, bytes: Bytes) -> Result<(), DownloadError> {
        let file = Arc::clone(&self.file);
        let written = tokio::task::spawn_blocking(move || file.write_all_at(&bytes, at)).await;
        written.map_err(io::Error::other).flatten().map_err(|error| failed(self.path(), error))
    }

    /// Where what was written differs from `bytes`, if it does.
    pub(super) async fn differs(&self, at: u64, bytes: Bytes) -> Result<Option<u64>, DownloadError> {
        let file = Arc::clone(&self.file);
        let compared = tokio::task::spawn_blocking(move || -> io::Result<Option<u64>> {
            let mut there = vec![0; bytes.len().min(COMPARE_BYTES)];
            for (number, part) in bytes.chunks(COMPARE_BYTES).enumerate() {
                let there = &mut there[..part.len()];
                let begin = at + (number * COMPARE_BYTES) as u64;
                file.read_exact_at(there, begin)?;
                if part != there
                    && let Some(offset) = part.iter().zip(&*there).position(|(ours, theirs)| ours != theirs)
                {
                    return Ok(Some(begin + offset as u64));
                }
            }
            Ok(None)
        });
        compared.await.map_err(io::Error::other).flatten().map_err(|error| failed(self.path(), error))
    }

    /// Gives it the length and its name. In place, for the same reason as making it.
    pub(super) fn finish(self, length: u64) -> Result<(Scratch, u64), DownloadError> {
        let finish = || -> io::Result<()> {
            self.file.set_len(length)?;
            fs::rename(&self.scratch.path, &self.target)
        };
        finish().map_err(|error| failed(&self.target, error))?;
        Ok((Scratch { path: self.target, kept: false }, length))
    }
}

fn failed(path: &Path, error: io::Error) -> DownloadError {
    DownloadError::Write { path: path.to_owned(), source: Arc::new(error) }
}
