//! Archived WAL walked from one end to the other: every page header, every link, every checksum, across segments and TLI switches.
//!
//! [`fetch`](super::fetch) checks each segment by itself; here one scanner goes through all of them, so that a record that spans two
//! segments is checked too, and nothing between them is missing.

use super::fetch::{FetchError, Fetcher};
use super::plan::PlanError;
use lsn::{Lsn, SegmentNumber, Tli};
use wal_format::{ScanOptions, Scanner};

/// What a walk found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Walked {
    /// Complete records.
    pub records: u64,
    /// Bytes walked.
    pub bytes: u64,
    /// End of the last complete record.
    pub end: Lsn,
}

/// Walks from `begin`, the start of a segment, to the fetcher's end. `seen` is told the bytes of each segment.
///
/// # Errors
/// The first object that is missing or wrong.
pub async fn walk(fetcher: &Fetcher, begin: Lsn, mut seen: impl FnMut(u64)) -> Result<Walked, PlanError> {
    let size = fetcher.size();
    let options = ScanOptions { system_id: Some(fetcher.system_id()), min_tli: Tli(0), ..ScanOptions::new(size) };
    let mut scanner = Scanner::at_page_start(options, begin);
    let (mut records, mut bytes) = (0, 0);
    for number in (size.segment_of(begin).0..fetcher.end().0.div_ceil(size.bytes())).map(SegmentNumber) {
        let start = size.start_of(number);
        let Some(segment) = fetcher.on_lineage(number).await? else {
            return Err(PlanError::NoRecord(start, fetcher.end()));
        };
        let run = &segment.bytes[..segment.filled as usize];
        scanner.feed_with(run, &mut |_| records += 1).map_err(|source| {
            let step =
                fetcher.lineage().step_of_segment(size, number, fetcher.end()).unwrap_or(fetcher.lineage().tip());
            FetchError::Wal { object: format!("segment {}", fetcher.file_name(step, number)), source }
        })?;
        bytes += segment.filled;
        seen(segment.filled);
    }
    Ok(Walked { records, bytes, end: scanner.record_end() })
}
