//! A tar archive as it arrives: headers become entries, contents are passed through as slices.
//!
//! The header is read by the `tar` crate; the walk over blocks is here, because its own reader wants to pull bytes. PostgreSQL writes
//! ustar with binary sizes for large files and no extensions; anything else is refused. Servers up to 14 leave the two zero blocks at the
//! end out.

use backup_format::{DataPath, PathError};
use bytes::{Buf, Bytes, BytesMut};
use std::collections::VecDeque;

const BLOCK: usize = 512;

/// Bytes that are not an archive as PostgreSQL writes it.
#[derive(Debug, thiserror::Error)]
pub enum TarError {
    /// A header block makes no sense.
    #[error("a header cannot be read")]
    Header(#[from] std::io::Error),
    /// A header block is damaged.
    #[error("a header's checksum is wrong")]
    Checksum,
    /// A member that is neither file nor directory.
    #[error("{0} is neither a file nor a directory")]
    Kind(String),
    /// A name that leads elsewhere.
    #[error(transparent)]
    Path(#[from] PathError),
    /// It ends early.
    #[error("it ends in the middle")]
    Truncated,
    /// It goes on after its end.
    #[error("it goes on after its end")]
    TrailingBytes,
}

/// A member of the archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) path: DataPath,
    pub(super) is_directory: bool,
    /// Permission bits.
    pub(super) mode: u32,
    /// Bytes of content; 0 for a directory.
    pub(super) size: u64,
    /// Seconds since 1970-01-01 UTC.
    pub(super) modified: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Event {
    Entry(Entry),
    /// Content of the last entry; never empty.
    Data(Bytes),
}

/// Reads one archive.
#[derive(Debug, Default)]
pub(super) struct Reader {
    input: VecDeque<Bytes>,
    header: BytesMut,
    /// Bytes of content to come.
    content: u64,
    /// Zeros that fill the last block of the content.
    padding: u64,
    /// A zero block was seen: only more of them may follow.
    ended: bool,
}

impl Reader {
    pub(super) fn push(&mut self, bytes: Bytes) {
        self.input.push_back(bytes);
    }

    pub(super) fn is_within_entry(&self) -> bool {
        self.content > 0 || self.padding > 0 || !self.header.is_empty() || !self.input.is_empty()
    }

    /// The next entry or run of content; `None` until more bytes are pushed.
    pub(super) fn poll(&mut self) -> Result<Option<Event>, TarError> {
        loop {
            if self.content > 0 {
                let Some(bytes) = self.take(self.content) else { return Ok(None) };
                self.content -= bytes.len() as u64;
                return Ok(Some(Event::Data(bytes)));
            }
            if self.padding > 0 {
                let Some(bytes) = self.take(self.padding) else { return Ok(None) };
                self.padding -= bytes.len() as u64;
                continue;
            }
            let Some(bytes) = self.take((BLOCK - self.header.len()) as u64) else { return Ok(None) };
            self.header.extend_from_slice(&bytes);
            if self.header.len() < BLOCK {
                continue;
            }
            let block = self.header.split();
            if block.iter().all(|byte| *byte == 0) {
                self.ended = true;
                continue;
            }
            if self.ended {
                return Err(TarError::TrailingBytes);
            }
            let entry = parse(&block)?;
            self.content = entry.size;
            self.padding = entry.size.next_multiple_of(BLOCK as u64) - entry.size;
            return Ok(Some(Event::Entry(entry)));
        }
    }

    /// Ends the archive.
    pub(super) fn finish(self) -> Result<(), TarError> {
        if self.is_within_entry() { Err(TarError::Truncated) } else { Ok(()) }
    }

    /// At most `limit` bytes of what is there; `None` if nothing is.
    fn take(&mut self, limit: u64) -> Option<Bytes> {
        let front = self.input.front_mut()?;
        let length = front.len().min(usize::try_from(limit).unwrap_or(usize::MAX));
        let bytes = front.split_to(length);
        if !front.has_remaining() {
            self.input.pop_front();
        }
        Some(bytes)
    }
}

fn parse(block: &[u8]) -> Result<Entry, TarError> {
    let header = tar::Header::from_byte_slice(block);
    let mut expected = header.clone();
    expected.set_cksum();
    if header.cksum()? != expected.cksum()? {
        return Err(TarError::Checksum);
    }
    let name = header.path_bytes();
    let is_directory = match header.entry_type() {
        tar::EntryType::Regular => false,
        tar::EntryType::Directory => true,
        _ => return Err(TarError::Kind(String::from_utf8_lossy(&name).into_owned())),
    };
    let size = if is_directory { 0 } else { header.entry_size()? };
    // Far above any file there can be, and low enough to be rounded up.
    if size > 1 << 62 {
        return Err(std::io::Error::from(std::io::ErrorKind::InvalidData).into());
    }
    let path = DataPath::parse(name.strip_prefix(b"./").unwrap_or(&name))?;
    Ok(Entry { path, is_directory, mode: header.mode()? & 0o7777, size, modified: header.mtime()? })
}

#[cfg(test)]
#[path = "tar_test.rs"]
mod tests;
