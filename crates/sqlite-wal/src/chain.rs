//! Following the checksums from frame to frame.

use crate::checksum::Checksum;
use crate::frame::{FRAME_HEADER_LEN, Frame, FrameHeader};
use crate::header::{HEADER_LEN, Header};
use std::num::NonZeroU32;

/// The end of a run of valid frames: what the next one must continue.
///
/// Invariants: `committed() <= offset()`, both at a frame's boundary.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Chain {
    header: Header,
    checksum: Checksum,
    offset: u64,
    committed: u64,
    pages: Option<NonZeroU32>,
}

/// Why bytes are not the next frame. The offset is where the frame would begin.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ChainError {
    /// Not as long as a frame.
    #[error("the frame at offset {offset} of the WAL has {found} bytes instead of {expected}")]
    Length {
        /// Where the frame begins.
        offset: u64,
        /// Bytes there are.
        found: usize,
        /// Bytes a frame has.
        expected: usize,
    },
    /// From another life: in a live WAL, where the stale tail begins.
    #[error(
        "the frame at offset {offset} of the WAL belongs to another life of it (its salts differ from the header's)"
    )]
    Salts {
        /// Where the frame begins.
        offset: u64,
    },
    /// Changed bytes, or a frame that is missing before it.
    #[error(
        "the frame at offset {offset} of the WAL does not continue the checksums before it: bytes are damaged or missing"
    )]
    Checksum {
        /// Where the frame begins.
        offset: u64,
    },
    /// No page has the number 0.
    #[error("the frame at offset {offset} of the WAL is for page 0, which does not exist")]
    Page {
        /// Where the frame begins.
        offset: u64,
    },
}

impl Chain {
    /// Before the first frame.
    pub fn new(header: Header) -> Chain {
        let start = HEADER_LEN as u64;
        Chain { header, checksum: header.checksum(), offset: start, committed: start, pages: None }
    }

    /// Behind the frame that ends at `offset` and stored `checksum`; it must have ended a transaction, or be the header's end.
    /// `None` if no frame ends at `offset`.
    pub fn resume(header: Header, offset: u64, checksum: Checksum) -> Option<Chain> {
        let fits = offset >= HEADER_LEN as u64 && header.page_size.is_aligned(offset);
        fits.then_some(Chain { header, checksum, offset, committed: offset, pages: None })
    }

    /// The header the chain began with.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The sum at [`Chain::offset`].
    pub fn checksum(&self) -> Checksum {
        self.checksum
    }

    /// Where the next frame begins.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Where the last transaction that is whole ends (32 before the first).
    pub fn committed(&self) -> u64 {
        self.committed
    }

    /// The database's size in pages after the last transaction that is whole; `None` before the first since the chain began.
    pub fn pages(&self) -> Option<NonZeroU32> {
        self.pages
    }

    /// Takes the next frame. An error changes nothing.
    pub fn next<'a>(&mut self, frame: &'a [u8]) -> Result<Frame<'a>, ChainError> {
        let (offset, expected) = (self.offset, self.header.page_size.frame_len());
        let (head, page) = match frame.split_first_chunk::<FRAME_HEADER_LEN>() {
            Some(parts) if frame.len() == expected => parts,
            _ => return Err(ChainError::Length { offset, found: frame.len(), expected }),
        };
        let fields = FrameHeader::parse(head);
        if fields.salts != self.header.salts {
            return Err(ChainError::Salts { offset });
        }
        let checksum = self.sum(head, page);
        if checksum != fields.checksum {
            return Err(ChainError::Checksum { offset });
        }
        let Some(page_number) = NonZeroU32::new(fields.page_number) else { return Err(ChainError::Page { offset }) };
        let commit = NonZeroU32::new(fields.commit);
        self.advance(checksum, commit);
        Ok(Frame { offset, page_number, commit, page })
    }

    /// Makes the header of the next frame, as SQLite would write it, and takes it; `commit` as in [`Frame`]. `None` if the page has
    /// not the WAL's page size.
    pub fn append(
        &mut self,
        page_number: NonZeroU32,
        commit: Option<NonZeroU32>,
        page: &[u8],
    ) -> Option<[u8; FRAME_HEADER_LEN]> {
        if page.len() != self.header.page_size.len() {
            return None;
        }
        let mut fields = FrameHeader {
            page_number: page_number.get(),
            commit: commit.map_or(0, NonZeroU32::get),
            salts: self.header.salts,
            checksum: Checksum::default(),
        };
        fields.checksum = self.sum(&fields.encode(), page);
        self.advance(fields.checksum, commit);
        Some(fields.encode())
    }

    /// Page number, commit field and page are summed; salts are not.
    fn sum(&self, head: &[u8; FRAME_HEADER_LEN], page: &[u8]) -> Checksum {
        self.checksum.over(self.header.order, &head[..8]).over(self.header.order, page)
    }

    fn advance(&mut self, checksum: Checksum, commit: Option<NonZeroU32>) {
        self.checksum = checksum;
        self.offset += self.header.page_size.frame_len() as u64;
        if commit.is_some() {
            self.committed = self.offset;
            self.pages = commit;
        }
    }
}

#[cfg(test)]
#[path = "chain_test.rs"]
mod tests;
