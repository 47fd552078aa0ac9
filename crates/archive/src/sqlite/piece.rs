//! Cutting a life of the WAL into pieces, each checked once more before it leaves the machine.

use super::error::ShadowError;
use bytes::{Bytes, BytesMut};
use sqlite_wal::{Chain, FRAME_HEADER_LEN, FrameHeader, HEADER_LEN, Header};

/// Where uploading stands in a life.
#[derive(Clone, Copy, Debug)]
pub(super) enum Mark {
    /// Before its header.
    Begin,
    /// Behind a frame.
    Frame(Chain),
}

/// The piece that is being put together.
#[derive(Debug)]
pub(super) struct Piece {
    /// Where it begins.
    begin: u64,
    bytes: BytesMut,
    /// Bytes of it that were checked.
    checked: usize,
    mark: Mark,
    /// The last commit in it.
    committed: Option<(usize, Chain)>,
}

/// A piece that can be uploaded.
#[derive(Debug)]
pub(super) struct Cut {
    /// Its bytes.
    pub(super) bytes: Bytes,
    /// Where uploading stands when it is stored.
    pub(super) mark: Mark,
}

impl Mark {
    /// From a header and the header of the frame that ends at `offset`.
    pub(super) fn resume(header: &[u8], frame: &[u8], offset: u64) -> Result<Mark, ShadowError> {
        let header = Header::parse(header.first_chunk::<HEADER_LEN>().ok_or(ShadowError::Short)?)?;
        let frame = FrameHeader::parse(frame.first_chunk::<FRAME_HEADER_LEN>().ok_or(ShadowError::Short)?);
        let checksum = if offset == HEADER_LEN as u64 { header.checksum() } else { frame.checksum };
        Chain::resume(header, offset, checksum).map(Mark::Frame).ok_or(ShadowError::Short)
    }

    fn offset(&self) -> u64 {
        match self {
            Mark::Begin => 0,
            Mark::Frame(chain) => chain.offset(),
        }
    }
}

impl Piece {
    pub(super) fn new(mark: Mark) -> Piece {
        Piece { begin: mark.offset(), bytes: BytesMut::new(), checked: 0, mark, committed: None }
    }

    /// Where the next byte belongs.
    pub(super) fn end(&self) -> u64 {
        self.begin + self.bytes.len() as u64
    }

    /// Bytes so far.
    pub(super) fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// Adds bytes and checks every frame that is whole.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Result<(), ShadowError> {
        self.bytes.extend_from_slice(bytes);
        loop {
            let rest = &self.bytes[self.checked..];
            match &mut self.mark {
                Mark::Begin => {
                    let Some(header) = rest.first_chunk::<HEADER_LEN>() else { return Ok(()) };
                    self.mark = Mark::Frame(Chain::new(Header::parse(header)?));
                    self.checked += HEADER_LEN;
                }
                Mark::Frame(chain) => {
                    let len = chain.header().page_size.frame_len();
                    let Some(frame) = rest.get(..len) else { return Ok(()) };
                    let commit = chain.next(frame)?.commit.is_some();
                    self.checked += len;
                    if commit {
                        self.committed = Some((self.checked, *chain));
                    }
                }
            }
        }
    }

    /// Takes what can be uploaded, up to the last commit; a transaction without one yet only if `anyway`, up to its last whole frame.
    pub(super) fn cut(&mut self, anyway: bool) -> Option<Cut> {
        let (len, mark) = match (self.committed.take(), self.mark) {
            (Some((len, chain)), _) => (len, Mark::Frame(chain)),
            (None, mark) if anyway && self.checked > 0 => (self.checked, mark),
            (None, _) => return None,
        };
        let bytes = self.bytes.split_to(len).freeze();
        self.begin += len as u64;
        self.checked -= len;
        Some(Cut { bytes, mark })
    }
}

#[cfg(test)]
#[path = "piece_test.rs"]
mod tests;
