//! A WAL that comes in pieces of any length, from its first byte.

use crate::chain::{Chain, ChainError};
use crate::frame::Frame;
use crate::header::{HEADER_LEN, Header, HeaderError};
use std::num::NonZeroU32;

/// Checks a whole WAL while it passes. Keeps at most one frame (64 KiB and a bit).
///
/// ```
/// # fn check(pieces: &[&[u8]]) -> Result<(), sqlite_wal::StreamError> {
/// let mut stream = sqlite_wal::Stream::new();
/// for piece in pieces {
///     let mut rest = *piece;
///     while let Some(frame) = stream.next(&mut rest)? {
///         println!("page {}", frame.page_number);
///     }
/// }
/// let end = stream.finish()?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Default)]
pub struct Stream {
    /// The beginning of a header or frame whose rest has not come yet.
    partial: Vec<u8>,
    /// The frame last given out is still in `partial`.
    given: bool,
    chain: Option<Chain>,
}

/// How a whole WAL ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct End {
    /// Its header.
    pub header: Header,
    /// Its length in bytes.
    pub len: u64,
    /// The database's size in pages at its end; `None` if it has no frame.
    pub pages: Option<NonZeroU32>,
}

/// Why bytes are not a whole WAL.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum StreamError {
    /// The first 32 bytes.
    #[error(transparent)]
    Header(#[from] HeaderError),
    /// A frame.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// It ends inside its header or a frame.
    #[error("the WAL ends after {len} bytes, within a frame or its header")]
    Torn {
        /// Bytes that came.
        len: u64,
    },
    /// It ends before its last transaction does.
    #[error("the WAL ends at offset {len} within a transaction; the last whole one ends at {committed}")]
    Uncommitted {
        /// Bytes that came.
        len: u64,
        /// Where the last transaction that is whole ends.
        committed: u64,
    },
}

impl Stream {
    /// Before the first byte.
    pub fn new() -> Stream {
        Stream::default()
    }

    /// Where the chain stands; `None` until the header has come.
    pub fn chain(&self) -> Option<&Chain> {
        self.chain.as_ref()
    }

    /// Takes bytes from the front of `bytes` until a frame is whole; `None` once they are used up. An error is final: the stream is
    /// of no use afterwards.
    pub fn next<'s, 'a: 's>(&'s mut self, bytes: &mut &'a [u8]) -> Result<Option<Frame<'s>>, StreamError> {
        if std::mem::take(&mut self.given) {
            self.partial.clear();
        }
        if self.chain.is_none() {
            let Some(header) = fill(&mut self.partial, bytes, HEADER_LEN) else { return Ok(None) };
            let Some(header) = header.first_chunk::<HEADER_LEN>() else { return Ok(None) };
            self.chain = Some(Chain::new(Header::parse(header)?));
            self.partial.clear();
        }
        let Some(chain) = &mut self.chain else { return Ok(None) };
        let len = chain.header().page_size.frame_len();
        if self.partial.is_empty()
            && let Some((frame, rest)) = bytes.split_at_checked(len)
        {
            *bytes = rest;
            return Ok(Some(chain.next(frame)?));
        }
        if fill(&mut self.partial, bytes, len).is_none() {
            return Ok(None);
        }
        self.given = true;
        Ok(Some(chain.next(&self.partial)?))
    }

    /// Ends it: every byte must belong to a whole transaction.
    pub fn finish(self) -> Result<End, StreamError> {
        let torn = if self.given { 0 } else { self.partial.len() as u64 };
        let Some(chain) = self.chain else { return Err(StreamError::Torn { len: torn }) };
        if torn != 0 {
            return Err(StreamError::Torn { len: chain.offset() + torn });
        }
        if chain.committed() != chain.offset() {
            return Err(StreamError::Uncommitted { len: chain.offset(), committed: chain.committed() });
        }
        Ok(End { header: *chain.header(), len: chain.offset(), pages: chain.pages() })
    }
}

/// Moves bytes until `partial` has `len` of them; `None` if they do not suffice.
fn fill<'p>(partial: &'p mut Vec<u8>, bytes: &mut &[u8], len: usize) -> Option<&'p [u8]> {
    let wanted = len.saturating_sub(partial.len()).min(bytes.len());
    let (taken, rest) = bytes.split_at(wanted);
    partial.extend_from_slice(taken);
    *bytes = rest;
    (partial.len() == len).then_some(partial.as_slice())
}

#[cfg(test)]
#[path = "stream_test.rs"]
mod tests;
