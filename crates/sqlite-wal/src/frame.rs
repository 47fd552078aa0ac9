//! One frame: the 24 bytes before a page.

use crate::checksum::Checksum;
use crate::header::Salts;
use std::num::NonZeroU32;

/// Bytes before a frame's page.
pub const FRAME_HEADER_LEN: usize = 24;

/// The header of a frame, read and not checked: [`Chain`](crate::Chain) checks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FrameHeader {
    /// Which page follows; the first is 1.
    pub page_number: u32,
    /// 0, or, if this is the last frame of a transaction, the database's size in pages after it.
    pub commit: u32,
    /// The life the frame belongs to.
    pub salts: Salts,
    /// The sum up to the end of its page.
    pub checksum: Checksum,
}

impl FrameHeader {
    /// Reads the fields.
    pub fn parse(bytes: &[u8; FRAME_HEADER_LEN]) -> FrameHeader {
        let (eights, _) = bytes.as_chunks::<8>();
        let both = u64::from_be_bytes(eights[0]);
        FrameHeader {
            page_number: (both >> 32) as u32,
            commit: both as u32,
            salts: Salts(eights[1]),
            checksum: Checksum::from_bytes(eights[2]),
        }
    }

    /// The fields as SQLite writes them.
    pub fn encode(&self) -> [u8; FRAME_HEADER_LEN] {
        let mut bytes = [0; FRAME_HEADER_LEN];
        bytes[..4].copy_from_slice(&self.page_number.to_be_bytes());
        bytes[4..8].copy_from_slice(&self.commit.to_be_bytes());
        bytes[8..16].copy_from_slice(&self.salts.0);
        bytes[16..].copy_from_slice(&self.checksum.to_bytes());
        bytes
    }
}

/// A frame that continues the chain.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Frame<'a> {
    /// Where it begins in the WAL.
    pub offset: u64,
    /// Which page it holds.
    pub page_number: NonZeroU32,
    /// If it ends a transaction: the database's size in pages after it.
    pub commit: Option<NonZeroU32>,
    /// The page.
    pub page: &'a [u8],
}
