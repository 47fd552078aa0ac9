//! The database exactly as it is at one position, page by page.
//!
//! While it is read, the guard keeps frames above the position from being copied into the database file, so a page that is not in the
//! life up to the position is in the file as it was then; a page that is in the life is taken from there, whether the file has it
//! already or not. So the copy is a state that was committed, whatever checkpoints other processes run meanwhile, and not a mixture.

use crate::error::Error;
use crate::shadow::READ_LEN;
use crate::wal_file;
use bytes::{Bytes, BytesMut};
use sqlite_wal::{Chain, FRAME_HEADER_LEN, HEADER_LEN, Header, Position};
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// How much is read at once, at least a page.
const CHUNK: usize = 1024 * 1024;

/// The frozen database; checkpoints go on when it is dropped.
#[derive(Debug)]
pub(crate) struct Frozen {
    pub(crate) path: PathBuf,
    /// The state it shows.
    pub(crate) position: Position,
    pub(crate) header: Header,
    /// The database's size in pages.
    pub(crate) pages: u32,
    /// The database file.
    pub(crate) raw: Arc<File>,
    /// The life up to the position.
    pub(crate) life: Arc<dyn disk::File>,
    /// Where in the life the newest version of a page begins.
    pub(crate) newest: HashMap<u32, u64>,
    /// The epoch it was frozen in, and the present one.
    pub(crate) epoch: (u64, Arc<AtomicU64>),
    pub(crate) held: Arc<AtomicBool>,
}

impl Drop for Frozen {
    fn drop(&mut self) {
        self.held.store(false, Ordering::Release);
    }
}

impl Frozen {
    /// Finds the pages that stand in the life, checking it on the way.
    pub(crate) fn read_life(&mut self) -> Result<(), Error> {
        let frame_len = self.header.page_size.frame_len();
        let mut chain = Chain::new(self.header);
        let mut buffer = vec![0; READ_LEN / frame_len * frame_len];
        while chain.offset() < self.position.offset {
            let left = usize::try_from(self.position.offset - chain.offset()).unwrap_or(usize::MAX);
            let wanted = left.min(buffer.len());
            let read =
                self.life.read_at(&mut buffer[..wanted], chain.offset()).map_err(|source| self.failed(source))?;
            if read < wanted {
                return Err(self.failed(io::ErrorKind::UnexpectedEof.into()));
            }
            for frame in buffer[..wanted].chunks_exact(frame_len) {
                let frame = chain.next(frame).map_err(|error| self.failed(io::Error::other(error)))?;
                if frame.page_number.get() <= self.pages {
                    self.newest.insert(frame.page_number.get(), frame.offset + FRAME_HEADER_LEN as u64);
                }
            }
        }
        Ok(())
    }

    /// Where the log is needed from.
    pub(crate) fn begin(&self) -> Position {
        self.position.life()
    }

    /// Bytes of the whole copy.
    pub(crate) fn len(&self) -> u64 {
        u64::from(self.pages) * self.header.page_size.len() as u64
    }

    /// The bytes from `offset`, which is a page's beginning; empty at the end.
    pub(crate) fn read(&self, offset: u64) -> Result<Bytes, Error> {
        let page_len = self.header.page_size.len();
        let wanted = usize::try_from(self.len().saturating_sub(offset)).unwrap_or(CHUNK).min(CHUNK);
        let mut bytes = BytesMut::zeroed(wanted);
        // Behind the file's end: pages that a checkpoint would fill with zeros.
        wal_file::read_at(&self.raw, &mut bytes, offset).map_err(|source| self.failed(source))?;
        let first = offset / page_len as u64 + 1;
        for (number, page) in (first..).zip(bytes.chunks_exact_mut(page_len)) {
            let newest = u32::try_from(number).ok().and_then(|number| self.newest.get(&number));
            if let Some(at) = newest {
                let read = self.life.read_at(page, *at).map_err(|source| self.failed(source))?;
                if read < page_len {
                    return Err(self.failed(io::ErrorKind::UnexpectedEof.into()));
                }
            }
        }
        self.unbroken()?;
        Ok(bytes.freeze())
    }

    /// Whether what was read is worth something: control was never lost.
    pub(crate) fn unbroken(&self) -> Result<(), Error> {
        match self.epoch.1.load(Ordering::Acquire) == self.epoch.0 {
            true => Ok(()),
            false => Err(Error::Broken(self.path.clone())),
        }
    }

    fn failed(&self, source: io::Error) -> Error {
        Error::File { what: "read for a snapshot of", path: self.path.clone(), source }
    }
}

// A chunk holds whole pages of every size, and a header never counts as one.
const _: () = assert!(CHUNK.is_multiple_of(65536) && HEADER_LEN < 512);
