//! The control file: opaque bytes, replaced as a whole.
//!
//! `control` in the log's directory, integers little-endian:
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 4 | magic `53 57 43 46` ("SWCF") |
//! | 4 | 4 | version of this frame: 1 |
//! | 8 | 4 | length of the body, at most 1 MiB |
//! | 12 | 4 | CRC-32C over bytes 0 to 11, then over the body |
//! | 16 | | the body; nothing follows it |
//!
//! A new content is written to `control.new`, synced, renamed over `control`, and the directory is synced: a crash leaves
//! the old content or the new one. What the body means is known to whoever writes it.

use crate::{Error, Latch};
use disk::{Disk, OpenMode};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const MAGIC: [u8; 4] = *b"SWCF";
const VERSION: u32 = 1;
const MAGIC_AT: usize = 0;
const VERSION_AT: usize = MAGIC_AT + 4;
const LENGTH_AT: usize = VERSION_AT + 4;
const CRC_AT: usize = LENGTH_AT + 4;
const BODY_AT: usize = CRC_AT + 4;

const NAME: &str = "control";
pub(crate) const NEW_NAME: &str = "control.new";

/// Why a control file cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ControlError {
    /// It does not begin as a control file.
    #[error("it is not a control file (it begins with {0:02X?})")]
    Magic([u8; 4]),
    /// Written by a version of the software that this one does not know.
    #[error("it has format version {0}, this software reads version 1: use the software that wrote it")]
    Version(u32),
    /// It is shorter or longer than it says.
    #[error("it has {found} bytes but should have {expected}")]
    Length {
        /// Bytes there are.
        found: u64,
        /// Bytes there should be.
        expected: u64,
    },
    /// More than a control file may hold.
    #[error("it holds {0} bytes, more than the limit of 1048576")]
    TooLarge(u64),
    /// Its bytes changed since it was written.
    #[error("its checksum is {found:08X} but should be {expected:08X}: it was damaged")]
    Checksum {
        /// What the bytes give.
        found: u32,
        /// What the file says.
        expected: u32,
    },
}

/// Reading and framing of the control file.
#[derive(Debug)]
pub struct ControlFile;

impl ControlFile {
    /// The most bytes a control file holds.
    pub const MAX_BODY: usize = 1 << 20;

    /// The body of the directory's control file, which is durable then; `None` if it has none.
    ///
    /// The directory is synced first: a process killed between renaming and syncing leaves a content that is there now and
    /// may be gone after the next power cut, when others have been told of it, or a cut it announced was done.
    pub fn load(disk: &dyn Disk, directory: &Path) -> Result<Option<Vec<u8>>, Error> {
        let path = directory.join(NAME);
        let file = match disk.open(&path, OpenMode::Read) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::io("opening", &path)(error)),
        };
        disk.sync_directory(directory).map_err(Error::io("syncing", directory))?;
        let broken = |source| Error::Control { path: path.clone(), source };
        let len = file.len().map_err(Error::io("reading", &path))?;
        if len > (BODY_AT + Self::MAX_BODY) as u64 {
            return Err(broken(ControlError::TooLarge(len)));
        }
        let mut bytes = vec![0; len as usize];
        let read = file.read_at(&mut bytes, 0).map_err(Error::io("reading", &path))?;
        bytes.truncate(read);
        Self::decode(&bytes).map(Some).map_err(broken)
    }

    /// The bytes of a control file with this body.
    pub fn encode(body: &[u8]) -> Result<Vec<u8>, ControlError> {
        if body.len() > Self::MAX_BODY {
            return Err(ControlError::TooLarge(body.len() as u64));
        }
        let mut bytes = Vec::with_capacity(BODY_AT + body.len());
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&(body.len() as u32).to_le_bytes());
        let crc = crc32c::crc32c_append(crc32c::crc32c(&bytes), body);
        bytes.extend_from_slice(&crc.to_le_bytes());
        bytes.extend_from_slice(body);
        Ok(bytes)
    }

    /// The body of a control file with these bytes.
    pub fn decode(bytes: &[u8]) -> Result<Vec<u8>, ControlError> {
        let word = |at: usize| bytes.get(at..at + 4).and_then(|word| word.try_into().ok()).map(u32::from_le_bytes);
        let (Some(magic), Some(version), Some(length), Some(expected)) =
            (word(MAGIC_AT), word(VERSION_AT), word(LENGTH_AT), word(CRC_AT))
        else {
            return Err(ControlError::Length { found: bytes.len() as u64, expected: BODY_AT as u64 });
        };
        if magic.to_le_bytes() != MAGIC {
            return Err(ControlError::Magic(magic.to_le_bytes()));
        }
        if version != VERSION {
            return Err(ControlError::Version(version));
        }
        if length as usize > Self::MAX_BODY {
            return Err(ControlError::TooLarge(u64::from(length)));
        }
        let body = &bytes[BODY_AT..];
        if body.len() != length as usize {
            let expected = BODY_AT as u64 + u64::from(length);
            return Err(ControlError::Length { found: bytes.len() as u64, expected });
        }
        let found = crc32c::crc32c_append(crc32c::crc32c(&bytes[..CRC_AT]), body);
        if found != expected {
            return Err(ControlError::Checksum { found, expected });
        }
        Ok(body.to_vec())
    }
}

/// Replaces the control file.
#[derive(Debug)]
#[must_use = "nothing is durable until the job has run"]
pub struct PersistJob {
    disk: Arc<dyn Disk>,
    directory: PathBuf,
    body: Vec<u8>,
    latch: Latch,
}

impl PersistJob {
    /// A job for a log that is not open: it has a latch of its own. An open log's are made by
    /// [`WalStorage::persist`](crate::WalStorage::persist).
    pub fn new(disk: Arc<dyn Disk>, directory: &Path, body: Vec<u8>) -> PersistJob {
        PersistJob { disk, directory: directory.to_owned(), body, latch: Latch::new() }
    }

    /// The same job, stopping and stopped by this latch.
    pub fn latched_by(mut self, latch: &Latch) -> PersistJob {
        self.latch = latch.clone();
        self
    }

    /// Writes, syncs, renames, syncs the directory. `Ok` means that the new content is durable. A full disk leaves the old
    /// content and does not latch; after any other failure either content may be there.
    pub fn run(self) -> Result<(), Error> {
        self.latch.check()?;
        self.latch.guard(self.replace())
    }

    fn replace(&self) -> Result<(), Error> {
        let (path, new) = (self.directory.join(NAME), self.directory.join(NEW_NAME));
        let bytes = ControlFile::encode(&self.body).map_err(|source| Error::Control { path: path.clone(), source })?;
        let file = crate::segment::create_fresh(&*self.disk, &new)?;
        file.write_at(&bytes, 0).map_err(Error::write("writing", &new))?;
        file.sync_all().map_err(Error::io("syncing", &new))?;
        self.disk.rename(&new, &path).map_err(Error::io("renaming", &new))?;
        self.disk.sync_directory(&self.directory).map_err(Error::io("syncing", &self.directory))
    }
}

#[cfg(test)]
#[path = "control_test.rs"]
mod tests;
