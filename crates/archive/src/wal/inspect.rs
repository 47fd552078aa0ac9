//! A look at WAL before it is stored: are its records whole, and when did its transactions commit?

use jiff::Timestamp;
use lsn::{Lsn, SegmentSize, SystemId, WAL_PAGE_SIZE};
use replica_client::CommitTimes;
use wal_format::page::header_len;
use wal_format::{RecordSeen, ScanError, ScanOptions, Scanner};

/// Resource manager of transactions, and the bits of its record that say what happened.
const RM_XACT: u8 = 1;
const XACT_OPERATION: u8 = 0x70;
const XACT_COMMIT: u8 = 0x00;
const XACT_COMMIT_PREPARED: u8 = 0x30;
/// Block ids that are none: they introduce the record's main data and what comes before it (access/xlogrecord.h).
const DATA_SHORT: u8 = 255;
const DATA_LONG: u8 = 254;
const ORIGIN: u8 = 253;
const TOP_XID: u8 = 252;
/// Enough of a commit record to find its time: header, origin, top transaction, data header, time.
const HEAD_BYTES: usize = 24 + 3 + 5 + 5 + 8;
/// Between 1970 and 2000, which PostgreSQL counts from, in microseconds.
const EPOCH_MICROS: i64 = 946_684_800_000_000;

/// What was found in a run of WAL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Inspected {
    /// When the transactions committed whose commit records lie in it whole.
    pub commits: CommitTimes,
    /// Whole records.
    pub records: u64,
}

/// Checks pages and records of `bytes`, which begin at `begin`: the start of a page, or a place where a record begins. The rest of a
/// record that began earlier, and one that goes on behind the end, are not checked.
pub fn inspect(
    begin: Lsn,
    bytes: &[u8],
    segment_size: SegmentSize,
    system_id: SystemId,
) -> Result<Inspected, ScanError> {
    let mut options = ScanOptions::new(segment_size);
    options.system_id = (system_id != SystemId(0)).then_some(system_id);
    let enter = match begin.0.is_multiple_of(WAL_PAGE_SIZE) {
        true => Scanner::at_page_start,
        false => Scanner::at_record_boundary,
    };
    let mut found = Inspected::default();
    enter(options, begin).feed_with(bytes, &mut |record: &RecordSeen| {
        found.records += 1;
        let operation = record.header.info & XACT_OPERATION;
        if record.header.rmgr == RM_XACT && matches!(operation, XACT_COMMIT | XACT_COMMIT_PREPARED) {
            let head = head(begin, bytes, record.start, segment_size);
            if let Some(time) = commit_time(&head) {
                let commits = &mut found.commits;
                commits.first = Some(commits.first.map_or(time, |first| first.min(time)));
                commits.last = Some(commits.last.map_or(time, |last| last.max(time)));
            }
        }
    })?;
    Ok(found)
}

/// The first bytes of a record, without the page headers between them.
fn head(begin: Lsn, bytes: &[u8], record: Lsn, segment_size: SegmentSize) -> Vec<u8> {
    let mut head = Vec::with_capacity(HEAD_BYTES);
    let mut at = record;
    while head.len() < HEAD_BYTES {
        let page = at.align_down(WAL_PAGE_SIZE);
        let in_page = at.bytes_since(page) as usize;
        let skip = header_len(page, segment_size).saturating_sub(in_page);
        let from = at.bytes_since(begin) as usize + skip;
        let room = WAL_PAGE_SIZE as usize - in_page - skip;
        let to = from.saturating_add(room.min(HEAD_BYTES - head.len())).min(bytes.len());
        match bytes.get(from..to) {
            Some(part) if !part.is_empty() => head.extend_from_slice(part),
            _ => break,
        }
        at = page.saturating_add(WAL_PAGE_SIZE);
    }
    head
}

/// The time in a commit record; `None` if it is built in a way we do not know.
fn commit_time(head: &[u8]) -> Option<Timestamp> {
    let mut rest = head.get(24..)?;
    loop {
        let (&id, after) = rest.split_first()?;
        let skip = match id {
            ORIGIN => 2,
            TOP_XID => 4,
            DATA_SHORT => 1,
            DATA_LONG => 4,
            _ => return None,
        };
        rest = after.get(skip..)?;
        if matches!(id, DATA_SHORT | DATA_LONG) {
            let micros = i64::from_le_bytes(*rest.first_chunk()?);
            return Timestamp::from_microsecond(micros.checked_add(EPOCH_MICROS)?).ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wal_format::build::WalBuilder;

    fn commit(micros: i64, prefix: &[u8]) -> Vec<u8> {
        let mut payload = prefix.to_vec();
        payload.extend([DATA_SHORT, 8]);
        payload.extend(micros.to_le_bytes());
        payload
    }

    #[test]
    fn commit_times_are_found_wherever_a_record_lies() {
        let size = SegmentSize::new(1 << 20).unwrap();
        for room in (0..80).step_by(8) {
            let mut wal = WalBuilder::new(size, Lsn(1 << 20));
            wal.fill_to(Lsn((1 << 20) + WAL_PAGE_SIZE - 200 + room), 40);
            wal.record_of(RM_XACT, XACT_COMMIT, &commit(1_000_000, &[]));
            wal.record_of(RM_XACT, 0x20, &commit(9_000_000, &[]));
            wal.record_of(
                RM_XACT,
                0x80 | XACT_COMMIT_PREPARED,
                &commit(3_000_000, &[ORIGIN, 1, 0, TOP_XID, 1, 2, 3, 4]),
            );
            wal.record_of(RM_XACT, XACT_COMMIT, &[0, 1, 2]);
            let found = inspect(wal.start(), wal.bytes(), size, SystemId(0)).unwrap();
            let second = |seconds: i64| Timestamp::from_second(946_684_800 + seconds).ok();
            assert_eq!(found.commits, CommitTimes { first: second(1), last: second(3) }, "{room}");
        }
    }

    #[test]
    fn a_flipped_bit_is_found_and_a_cut_record_is_none() {
        let size = SegmentSize::new(1 << 20).unwrap();
        let mut wal = WalBuilder::new(size, Lsn(1 << 20));
        for number in 0..50_u8 {
            wal.record(&[number; 300]);
        }
        let (begin, bytes) = (wal.start(), wal.bytes());
        let whole = inspect(begin, bytes, size, SystemId(0)).unwrap();
        assert_eq!(whole.records, 50);
        // From a record boundary in the middle.
        let from = wal.records()[20].end;
        assert_eq!(inspect(from, wal.slice(from, wal.end()), size, SystemId(0)).unwrap().records, 29);
        let cut = inspect(begin, &bytes[..bytes.len() - 100], size, SystemId(0)).unwrap();
        assert_eq!(cut.records, 49);
        for at in (0..bytes.len() - 400).step_by(97) {
            let mut damaged = bytes.to_vec();
            damaged[at] ^= 4;
            assert!(inspect(begin, &damaged, size, SystemId(0)).is_err(), "byte {at}");
        }
    }
}
