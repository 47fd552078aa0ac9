//! Reading the WAL of a live database: other processes write it meanwhile.
//!
//! The file's length says nothing: stale frames of earlier lives stand behind the ones of this life. Only the checksum chain says
//! where it ends. The file may be opened and closed freely (SQLite's locks lie on other files).

use crate::error::Error;
use sqlite_wal::{Checksum, FRAME_HEADER_LEN, FrameHeader, HEADER_LEN, Header};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// The WAL, open for reading.
#[derive(Debug)]
pub(crate) struct WalFile {
    path: PathBuf,
    file: File,
}

/// What stands at the beginning of a WAL.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Begin {
    /// Not even a header: SQLite has not written one, or has cut the file.
    Empty,
    /// 32 bytes that are no header: one is being written, or, when nobody writes, the WAL is empty for SQLite.
    Invalid,
    /// A header.
    Header(Header),
}

impl WalFile {
    /// Opens it; `None` if there is none.
    pub(crate) fn open(path: &Path) -> Result<Option<WalFile>, Error> {
        match File::open(path) {
            Ok(file) => Ok(Some(WalFile { path: path.to_path_buf(), file })),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(Error::File { what: "open the WAL", path: path.to_path_buf(), source }),
        }
    }

    /// Reads its beginning.
    pub(crate) fn begin(&self) -> Result<Begin, Error> {
        let mut bytes = [0; HEADER_LEN];
        if self.read_at(&mut bytes, 0)? < HEADER_LEN {
            return Ok(Begin::Empty);
        }
        Ok(Header::parse(&bytes).map_or(Begin::Invalid, Begin::Header))
    }

    /// Whether the frame that ends at `end` is still the one with this sum: then, as the sum is of everything before it, nothing was
    /// written over what was copied.
    pub(crate) fn still_has(&self, header: &Header, end: u64, checksum: Checksum) -> Result<bool, Error> {
        let Some(start) = end.checked_sub(header.page_size.frame_len() as u64) else { return Ok(true) };
        let mut bytes = [0; FRAME_HEADER_LEN];
        if self.read_at(&mut bytes, start)? < FRAME_HEADER_LEN {
            return Ok(false);
        }
        let frame = FrameHeader::parse(&bytes);
        Ok(frame.salts == header.salts && frame.checksum == checksum)
    }

    /// Its length in bytes, stale ones included.
    pub(crate) fn len(&self) -> Result<u64, Error> {
        let found = self.file.metadata().map_err(|source| self.failed(source))?;
        Ok(found.len())
    }

    /// Reads until the buffer is full or the file ends.
    pub(crate) fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize, Error> {
        read_at(&self.file, buffer, offset).map_err(|source| self.failed(source))
    }

    fn failed(&self, source: io::Error) -> Error {
        Error::File { what: "read the WAL", path: self.path.clone(), source }
    }
}

/// Reads until the buffer is full or the file ends.
pub(crate) fn read_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut done = 0;
    while done < buffer.len() {
        match file.read_at(&mut buffer[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(read) => done += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}
