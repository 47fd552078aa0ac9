//! [`Tracker`]: where records end, and which record end a finished sync makes durable.
//!
//! New WAL passes the scanner before it is taken. A sync covers the bytes written before it began, so the record end known
//! at that moment is the flush LSN it yields. Knows no session and no term.

use lsn::{Lsn, SegmentSize, SystemId, WAL_PAGE_SIZE};
use wal_format::{ScanOptions, Scanner, magic_for_version_num};

/// What a sync under way will have made durable.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Covered {
    bytes: Lsn,
    records: Lsn,
}

/// The record ends of one log.
#[derive(Debug)]
pub(crate) struct Tracker {
    scanner: Option<Scanner>,
    written: Lsn,
    synced: Lsn,
    under_way: Option<Covered>,
    /// End of the last whole record written.
    record_end: Lsn,
    /// End of the last whole record that is durable: the flush LSN.
    flushed: Lsn,
}

impl Tracker {
    /// A log that ends, durably, at `end`.
    pub(crate) fn new(end: Lsn) -> Tracker {
        Tracker { scanner: None, written: end, synced: end, under_way: None, record_end: end, flushed: end }
    }

    /// Begins to follow the log anew at `at`, a record boundary or the start of a page.
    pub(crate) fn follow(&mut self, at: Lsn, segment_size: SegmentSize, system_id: SystemId, pg_version: u32) {
        let mut options = ScanOptions::new(segment_size);
        options.system_id = (system_id != SystemId(0)).then_some(system_id);
        options.magic = magic_for_version_num(pg_version);
        // A log may begin inside a record that continues on its first page, so a page start is entered by its header.
        let page_start = at.0.is_multiple_of(WAL_PAGE_SIZE);
        let enter = if page_start { Scanner::at_page_start } else { Scanner::at_record_boundary };
        self.scanner = Some(enter(options, at));
        (self.written, self.record_end, self.flushed) = (at, at, at);
    }

    /// The log now ends, durably, at `at`; nobody follows it until [`Tracker::follow`].
    pub(crate) fn cut(&mut self, at: Lsn) {
        *self = Tracker::new(at);
    }

    /// Looks at bytes about to be appended.
    pub(crate) fn check(&mut self, begin: Lsn, bytes: &[u8]) -> Result<(), String> {
        let Some(scanner) = &mut self.scanner else { return Err("no leader's log is being followed".to_owned()) };
        if scanner.position() != begin {
            return Err(format!("the scanner stands at {}", scanner.position()));
        }
        if let Err(error) = scanner.feed(bytes) {
            self.scanner = None;
            return Err(error.to_string());
        }
        self.written = begin.saturating_add(bytes.len() as u64);
        // The rest of a record that began before the log has no checksum here, and start-up could not vouch for it: what
        // is acknowledged ends with a verified record.
        self.record_end = scanner.verified_end().unwrap_or(self.record_end);
        Ok(())
    }

    /// A write was refused: the log still ends at `written`, and the scanner has seen too much. Which record ends at or
    /// before `written` is not known any more, so the flush LSN stays where it was until the log is followed anew.
    pub(crate) fn forget(&mut self, written: Lsn, sync_dropped: bool) {
        self.scanner = None;
        self.written = written;
        self.record_end = self.flushed;
        self.under_way =
            self.under_way.filter(|_| !sync_dropped).map(|covered| Covered { records: self.flushed, ..covered });
    }

    /// Whether nobody follows the log.
    pub(crate) fn is_idle(&self) -> bool {
        self.scanner.is_none()
    }

    /// Whether bytes wait for a sync and none is under way.
    pub(crate) fn wants_sync(&self) -> bool {
        self.under_way.is_none() && self.written > self.synced
    }

    /// Bytes that are not durable yet.
    pub(crate) fn unsynced(&self) -> u64 {
        self.written.bytes_since(self.synced)
    }

    /// A sync begins.
    pub(crate) fn begin_sync(&mut self) {
        self.under_way = Some(Covered { bytes: self.written, records: self.record_end });
    }

    /// The sync under way has ended; returns (end of the durable bytes, end of the last whole record among them).
    pub(crate) fn end_sync(&mut self, durable: Lsn) -> (Lsn, Lsn) {
        let covered = self.under_way.take().unwrap_or(Covered { bytes: self.synced, records: self.synced });
        let bytes = covered.bytes.min(durable);
        self.synced = self.synced.max(bytes);
        if covered.records <= bytes {
            self.flushed = self.flushed.max(covered.records);
        }
        (bytes, self.flushed)
    }
}
