//! What stands before a log's first byte in its segment, when the log begins inside one.
//!
//! A proposer that begins in the middle of a segment never sends what lies before. So that tools can read the file from its
//! start, the missing bytes are pages of one record's continuation that ends exactly where the log begins: valid headers, zeros
//! for content. The rule is that of PostgreSQL's own reader, which skips a continuation it has not seen the beginning of.

use crate::page::{self, LongFields, PageHeader};
use lsn::{Lsn, SegmentSize, SystemId, Tli, WAL_PAGE_SIZE};

/// Flag of a page whose first bytes continue a record.
const CONTINUES: u16 = 0x0001;

/// What the headers say.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PrefixOptions {
    /// Bytes per segment.
    pub segment_size: SegmentSize,
    /// The cluster's system identifier.
    pub system_id: SystemId,
    /// The page magic.
    pub magic: u16,
    /// The TLI of the log's first byte.
    pub tli: Tli,
}

/// The bytes from the start of the segment up to `start`, page by page; the last item may be part of a page. `None` if no log
/// can begin at `start`: it is not a multiple of 8, or lies inside a page header.
pub fn before(options: PrefixOptions, start: Lsn) -> Option<impl Iterator<Item = Vec<u8>>> {
    let PrefixOptions { segment_size, system_id, magic, tli } = options;
    let segment_start = segment_size.start_of_segment_at(start);
    let header_len = move |address: Lsn| page::header_len(address, segment_size) as u64;
    let in_page = start.0 % WAL_PAGE_SIZE;
    if !start.0.is_multiple_of(8) || (in_page != 0 && in_page < header_len(start.align_down(WAL_PAGE_SIZE))) {
        return None;
    }
    let pages = start.bytes_since(segment_start).div_ceil(WAL_PAGE_SIZE);
    // Every page but the first has a short header; what is left after the headers is the continued record.
    let headers = if pages == 0 { 0 } else { page::LONG_HEADER as u64 + (pages - 1) * page::SHORT_HEADER as u64 };
    let mut remaining = start.bytes_since(segment_start).saturating_sub(headers);
    Some((0..pages).map(move |index| {
        let address = segment_start.saturating_add(index * WAL_PAGE_SIZE);
        let length = WAL_PAGE_SIZE.min(start.bytes_since(address));
        let long = (index == 0).then(|| LongFields {
            system_id,
            segment_size: segment_size.as_u32(),
            page_size: WAL_PAGE_SIZE as u32,
        });
        // A log that begins right behind the page header continues nothing.
        let flags = if remaining > 0 { CONTINUES } else { 0 };
        let header = PageHeader { magic, flags, tli, address, remaining: remaining as u32, long };
        let mut bytes = Vec::with_capacity(WAL_PAGE_SIZE as usize);
        header.encode(&mut bytes);
        remaining = remaining.saturating_sub(length - bytes.len() as u64);
        bytes.resize(length as usize, 0);
        bytes
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build::WalBuilder;
    use crate::{ScanOptions, Scanner};
    use proptest::prelude::*;

    fn options() -> PrefixOptions {
        let segment_size = SegmentSize::new(1 << 20).unwrap();
        PrefixOptions { segment_size, system_id: SystemId(5), magic: 0xD110, tli: Tli(1) }
    }

    #[test]
    fn no_log_begins_inside_a_page_header_or_off_the_grid() {
        for start in [0x10_0001, 0x10_0008, 0x10_2008, 0x10_2004] {
            assert!(before(options(), Lsn(start)).is_none(), "{start:X}");
        }
        assert_eq!(before(options(), Lsn(0x10_0000)).unwrap().count(), 0);
    }

    proptest! {
        #[test]
        fn a_reader_from_the_segment_start_arrives_at_the_log(offset in 5u64..131_072) {
            let start = Lsn((1 << 20) + offset * 8);
            if let Some(pages) = before(options(), start) {
                let mut bytes: Vec<u8> = pages.flatten().collect();
                prop_assert_eq!(bytes.len() as u64, offset * 8);
                let mut wal = WalBuilder::new(options().segment_size, start).with_system_id(SystemId(5));
                wal.record(&[1; 100]);
                let end = wal.record(&[2; 20_000]);
                bytes.extend_from_slice(wal.bytes());
                let mut scanner = Scanner::at_page_start(ScanOptions::new(options().segment_size), Lsn(1 << 20));
                scanner.feed(&bytes).unwrap();
                prop_assert_eq!(scanner.record_end(), end);
            }
        }
    }
}
