//! Headers of WAL pages, and which PostgreSQL writes which magic.
//!
//! Every 8192-byte page begins with a header; the first page of a segment has the long form.
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 2 | magic |
//! | 2 | 2 | flags |
//! | 4 | 4 | TLI of this page |
//! | 8 | 8 | page address: the LSN of the page's first byte |
//! | 16 | 4 | bytes of the continued record still to come, this page included |
//! | 20 | 4 | padding |
//! | 24 | 8 | long only: system identifier |
//! | 32 | 4 | long only: segment size |
//! | 36 | 4 | long only: page size |
//!
//! Source: PostgreSQL's `access/xlog_internal.h`. This file parses; what is plausible at a place is judged by the scanner.

use crate::array;
use lsn::{Lsn, SystemId, Tli, WAL_PAGE_SIZE};

/// Bytes of the header of a page that does not begin a segment.
pub const SHORT_HEADER: usize = 24;
/// Bytes of the header of a segment's first page.
pub const LONG_HEADER: usize = 40;

/// Bytes of every header that are always zero.
pub const PADDING: std::ops::Range<usize> = 20..24;

/// Flag: the page begins with the rest of a record of the page before.
pub const FIRST_IS_CONTINUATION: u16 = 0x0001;
/// Flag: the header is the long one.
pub const LONG: u16 = 0x0002;
/// Flag: full-page images in this page may be removed by a compressor. No meaning for framing.
pub const BACKUP_BLOCKS_REMOVABLE: u16 = 0x0004;
/// Flag: the page's first record replaces a record of the page before that was never finished.
pub const FIRST_IS_OVERWRITE_CONTRECORD: u16 = 0x0008;
/// All flags there are; other bits must be zero.
pub const ALL_FLAGS: u16 = 0x000F;

/// (major version, page magic), oldest first.
const MAGICS: [(u32, u16); 6] = [(13, 0xD106), (14, 0xD10D), (15, 0xD110), (16, 0xD113), (17, 0xD116), (18, 0xD118)];

/// The page magic that a server writes, by its `server_version_num` (such as 150018). `None` for a major version that is
/// not one of 13 to 18.
pub fn magic_for_version_num(version_num: u32) -> Option<u16> {
    MAGICS.iter().find(|(major, _)| *major == version_num / 10_000).map(|(_, magic)| *magic)
}

/// The major version (13 to 18) that writes this page magic; `None` if it is none of theirs.
pub fn major_for_magic(magic: u16) -> Option<u32> {
    MAGICS.iter().find(|(_, known)| *known == magic).map(|(major, _)| *major)
}

/// How many bytes the header of the page at `page_start` takes: 40 at a segment start, else 24.
pub fn header_len(page_start: Lsn, segment_size: lsn::SegmentSize) -> usize {
    if segment_size.offset_of(page_start) == 0 { LONG_HEADER } else { SHORT_HEADER }
}

/// The fields that only a segment's first page has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LongFields {
    /// The cluster's system identifier.
    pub system_id: SystemId,
    /// Bytes per segment as the header says; not checked.
    pub segment_size: u32,
    /// Bytes per page as the header says; not checked.
    pub page_size: u32,
}

/// A page header, parsed but not judged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PageHeader {
    /// Which PostgreSQL wrote the page, see [`major_for_magic`].
    pub magic: u16,
    /// Flag bits, unknown ones included.
    pub flags: u16,
    /// The TLI under which the page was begun.
    pub tli: Tli,
    /// Where the page claims to lie.
    pub address: Lsn,
    /// Bytes of the continued record still to come, on this page and later ones.
    pub remaining: u32,
    /// Present exactly if the long flag is set.
    pub long: Option<LongFields>,
}

impl PageHeader {
    /// Reads the header at the start of `bytes`; `None` if `bytes` is shorter than the header (24 bytes, or 40 if the
    /// long flag is set). Any bit pattern parses.
    pub fn parse(bytes: &[u8]) -> Option<PageHeader> {
        if bytes.len() < SHORT_HEADER {
            return None;
        }
        let flags = u16::from_le_bytes(array(bytes, 2));
        let long = if flags & LONG == 0 {
            None
        } else if bytes.len() < LONG_HEADER {
            return None;
        } else {
            Some(LongFields {
                system_id: SystemId(u64::from_le_bytes(array(bytes, 24))),
                segment_size: u32::from_le_bytes(array(bytes, 32)),
                page_size: u32::from_le_bytes(array(bytes, 36)),
            })
        };
        Some(PageHeader {
            magic: u16::from_le_bytes(array(bytes, 0)),
            flags,
            tli: Tli(u32::from_le_bytes(array(bytes, 4))),
            address: Lsn(u64::from_le_bytes(array(bytes, 8))),
            remaining: u32::from_le_bytes(array(bytes, 16)),
            long,
        })
    }

    /// Appends the header's bytes (24, or 40 with long fields) to `out`. The long flag is written as `long` demands.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let flags = if self.long.is_some() { self.flags | LONG } else { self.flags & !LONG };
        out.extend_from_slice(&self.magic.to_le_bytes());
        out.extend_from_slice(&flags.to_le_bytes());
        out.extend_from_slice(&self.tli.0.to_le_bytes());
        out.extend_from_slice(&self.address.0.to_le_bytes());
        out.extend_from_slice(&self.remaining.to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        if let Some(long) = self.long {
            out.extend_from_slice(&long.system_id.0.to_le_bytes());
            out.extend_from_slice(&long.segment_size.to_le_bytes());
            out.extend_from_slice(&long.page_size.to_le_bytes());
        }
    }

    /// Whether the page begins with the rest of an earlier record.
    pub fn is_continuation(&self) -> bool {
        self.flags & FIRST_IS_CONTINUATION != 0
    }

    /// Whether the page begins with the record that replaces an unfinished one.
    pub fn is_overwrite_contrecord(&self) -> bool {
        self.flags & FIRST_IS_OVERWRITE_CONTRECORD != 0
    }

    /// Whether a PostgreSQL we know wrote this page for exactly this place, as opposed to zeros or a recycled page.
    pub fn belongs_at(&self, page_start: Lsn) -> bool {
        debug_assert_eq!(page_start.0 % WAL_PAGE_SIZE, 0);
        major_for_magic(self.magic).is_some() && self.flags & !ALL_FLAGS == 0 && self.address == page_start
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// First page of segment 1 of a PostgreSQL 15 cluster, put together by hand from the table above.
    const LONG_PAGE: [u8; 40] = [
        0x10, 0xD1, 0x02, 0x00, 1, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 8, 7, 6, 5, 4, 3, 2, 1, 0,
        0, 0, 1, 0, 0x20, 0, 0,
    ];

    #[test]
    fn long_header_by_the_table() {
        let header = PageHeader::parse(&LONG_PAGE).unwrap();
        assert_eq!((header.magic, header.flags, header.tli, header.address), (0xD110, LONG, Tli(1), Lsn(0x100_0000)));
        let long = header.long.unwrap();
        assert_eq!((long.system_id.0, long.segment_size, long.page_size), (0x0102_0304_0506_0708, 16 << 20, 8192));
        assert_eq!(PageHeader::parse(&LONG_PAGE[..39]), None);
        assert_eq!(PageHeader::parse(&LONG_PAGE[..23]), None);
        assert!(header.belongs_at(Lsn(0x100_0000)));
        assert!(!header.belongs_at(Lsn(0x200_0000)));
    }

    #[test]
    fn versions_and_magics() {
        assert_eq!(magic_for_version_num(130_016), Some(0xD106));
        assert_eq!(magic_for_version_num(150_018), Some(0xD110));
        assert_eq!(magic_for_version_num(180_006), Some(0xD118));
        assert_eq!(magic_for_version_num(120_000), None);
        assert_eq!(magic_for_version_num(190_000), None);
        for major in 13..=18 {
            assert_eq!(major_for_magic(magic_for_version_num(major * 10_000).unwrap()), Some(major));
        }
        assert_eq!(major_for_magic(0), None);
    }

    proptest! {
        #[test]
        fn parse_and_encode_round_trip(mut bytes in proptest::collection::vec(any::<u8>(), 40)) {
            bytes[20..24].fill(0);
            let header = PageHeader::parse(&bytes).unwrap();
            let mut out = Vec::new();
            header.encode(&mut out);
            prop_assert_eq!(&out[..], &bytes[..out.len()]);
        }
    }
}
