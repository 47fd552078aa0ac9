//! WAL as it lies on disk.

use lsn::{Lsn, SegmentSize, Tli};
use wal_format::history::History;
use wal_format::{ScanOptions, Scanner};

/// Where the address stands in a page header.
const PAGE_ADDRESS: std::ops::Range<usize> = 8..16;

/// The first byte chooses the segment size, the second how the bytes are cut into pieces: however they are cut, the scanner sees
/// the same records, and never claims an end beyond what it was given.
pub(super) fn scanner(data: &[u8]) {
    let Some((&[size, cut], wal)) = data.split_first_chunk::<2>() else { return };
    let Ok(segment_size) = SegmentSize::new(1 << (20 + u32::from(size % 11))) else { return };
    let address = wal.get(PAGE_ADDRESS).and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_le_bytes);
    // Far from the end of what 64 bits can name; a page begins at a multiple of its size.
    let start = Lsn((address & (u64::MAX >> 8)).max(1 << 20) / lsn::WAL_PAGE_SIZE * lsn::WAL_PAGE_SIZE);
    let scan = |piece: usize| {
        let mut scanner = Scanner::at_page_start(ScanOptions::new(segment_size), start);
        let mut seen = Vec::new();
        let outcome =
            wal.chunks(piece.max(1)).try_for_each(|piece| scanner.feed_with(piece, &mut |record| seen.push(*record)));
        assert!(scanner.record_end() <= start.saturating_add(wal.len() as u64), "an end beyond the bytes");
        assert!(scanner.verified_end().is_none_or(|end| end <= scanner.position()), "an end beyond what was looked at");
        (outcome.is_ok(), scanner.record_end(), scanner.verified_end(), seen)
    };
    assert_eq!(scan(usize::from(cut) + 1), scan(wal.len()));
}

pub(super) fn history(data: &[u8]) {
    for tli in [1, 2, 3, 7, u32::MAX] {
        let Ok(history) = History::parse(Tli(tli), data) else { continue };
        let printed = history.to_string();
        assert_eq!(History::parse(Tli(tli), printed.as_bytes()).ok(), Some(history));
    }
}
