//! Reading WAL that lies in memory: where its last whole record is, and which of its records a target means.
//!
//! Bytes have been fetched in whole or as the beginning of a segment. [`records`] checks page headers, links and checksums of all of
//! them on the way (the scanner of `wal-format`), so that whoever looks for something also learns that the bytes are sound.
//!
//! Pure. Layout of commit and restore point records: PostgreSQL's `access/xact.h`, `access/xlog_internal.h`; of what stands between a
//! record's header and its data: `access/xlogrecord.h`. Times are microseconds since 2000-01-01 UTC.

use jiff::Timestamp;
use lsn::{Lsn, SegmentSize, SystemId, Tli, WAL_PAGE_SIZE};
use wal_format::record::{self, RECORD_HEADER};
use wal_format::{RecordSeen, ScanError, ScanOptions, Scanner, page};

/// Microseconds from 1970 to 2000.
const PG_EPOCH: i64 = 946_684_800_000_000;
/// Bytes of a record behind its header that are looked at: enough for every field in front of the ones wanted.
const BODY: usize = 128;

/// A run of WAL that begins at the start of a segment, with what it must look like.
#[derive(Clone, Copy, Debug)]
pub struct Run<'a> {
    /// Bytes per segment.
    pub size: SegmentSize,
    /// Whose WAL it is.
    pub system_id: SystemId,
    /// Position of the first byte: the start of a segment.
    pub start: Lsn,
    /// The bytes, of one segment or of several that follow each other.
    pub bytes: &'a [u8],
}

/// What a record means for a target.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Meaning {
    /// A transaction ended: committed or aborted, at this time. `xid` is that of the record, 0 for a prepared transaction's.
    End {
        /// The transaction.
        xid: u32,
        /// By the clock of the server.
        at: Timestamp,
    },
    /// A named restore point.
    RestorePoint {
        /// Its name.
        name: String,
    },
    /// Anything else.
    Other,
}

/// Checks a run and shows its complete records in order. The first bytes may be the rest of a record that began before, the last ones
/// the beginning of one that goes on behind the run. Returns how far records reach.
///
/// # Errors
/// The first thing that is wrong with the bytes.
pub fn records(run: Run<'_>, mut seen: impl FnMut(&RecordSeen, Meaning)) -> Result<Lsn, ScanError> {
    let options = ScanOptions { system_id: Some(run.system_id), min_tli: Tli(0), ..ScanOptions::new(run.size) };
    let mut scanner = Scanner::at_page_start(options, run.start);
    scanner.feed_with(run.bytes, &mut |record| seen(record, meaning(run, record)))?;
    Ok(scanner.record_end())
}

/// Start and end of the last record that ends at or below `limit`, if the run holds one whole.
pub fn last_record(run: Run<'_>, limit: Lsn) -> Result<Option<(Lsn, Lsn)>, ScanError> {
    let mut last = None;
    records(run, |record, _| {
        if record.end <= limit {
            last = Some((record.start, record.end));
        }
    })?;
    Ok(last)
}

fn meaning(run: Run<'_>, record: &RecordSeen) -> Meaning {
    let header = &record.header;
    let known = match header.rmgr {
        record::RMGR_TRANSACTION => transaction(run, record),
        record::RMGR_XLOG if header.is_xlog(record::XLOG_RESTORE_POINT) => restore_point(run, record),
        _ => None,
    };
    known.unwrap_or(Meaning::Other)
}

fn transaction(run: Run<'_>, record: &RecordSeen) -> Option<Meaning> {
    let kind = record.header.info & record::TRANSACTION_INFO_MASK;
    let xid = match kind {
        record::TRANSACTION_COMMIT | record::TRANSACTION_ABORT => record.header.xid,
        record::TRANSACTION_COMMIT_PREPARED | record::TRANSACTION_ABORT_PREPARED => 0,
        _ => return None,
    };
    let body = body(run, record);
    let micros = i64::from_le_bytes(*main_data(&body)?.first_chunk::<8>()?);
    let at = Timestamp::from_microsecond(micros.checked_add(PG_EPOCH)?).ok()?;
    Some(Meaning::End { xid, at })
}

fn restore_point(run: Run<'_>, record: &RecordSeen) -> Option<Meaning> {
    let body = body(run, record);
    let name = main_data(&body)?.get(8..)?;
    let name = name.split(|byte| *byte == 0).next()?;
    Some(Meaning::RestorePoint { name: String::from_utf8_lossy(name).into_owned() })
}

/// The first bytes of a record behind its header, page headers left out.
fn body(run: Run<'_>, record: &RecordSeen) -> Vec<u8> {
    let wanted = BODY.min((record.header.total_len as usize).saturating_sub(RECORD_HEADER));
    let (mut body, mut skip) = (Vec::with_capacity(wanted), RECORD_HEADER as u64);
    let mut at = record.start;
    while body.len() < wanted {
        if at.0.is_multiple_of(WAL_PAGE_SIZE) {
            at = at.saturating_add(page::header_len(at, run.size) as u64);
        }
        let in_page = WAL_PAGE_SIZE - at.0 % WAL_PAGE_SIZE;
        let step = if skip > 0 { in_page.min(skip) } else { in_page.min((wanted - body.len()) as u64) };
        let offset = at.bytes_since(run.start) as usize;
        let Some(bytes) = run.bytes.get(offset..offset + step as usize) else { break };
        if skip > 0 {
            skip -= step;
        } else {
            body.extend_from_slice(bytes);
        }
        at = at.saturating_add(step);
    }
    body
}

/// A record's main data, behind the ids that may stand before it. Only records without page references are read here.
fn main_data(body: &[u8]) -> Option<&[u8]> {
    // Ids of xlogrecord.h: a replication origin (2 bytes follow), a top-level transaction (4), main data with a short (1) or long (4) length.
    let mut rest = body;
    loop {
        let (id, behind) = rest.split_first()?;
        rest = match id {
            253 => behind.get(2..)?,
            252 => behind.get(4..)?,
            255 => return behind.get(1..),
            254 => return behind.get(4..),
            _ => return None,
        };
    }
}

#[cfg(test)]
#[path = "walk_test.rs"]
mod tests;
