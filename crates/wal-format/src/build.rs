//! [`WalBuilder`]: makes valid WAL for tests, byte for byte framed as PostgreSQL frames it.
//!
//! Records hold whatever payload the test gives; page headers, continuation, previous-links, checksums, padding, switches
//! and unfinished records are right. What records mean is nobody's business here: `pg_waldump` finds the framing valid but
//! cannot describe the payloads. Meant for tests of this and other crates; it panics where a test asks for what cannot be.

use crate::page::{self, LongFields, PageHeader};
use crate::record::{self, RECORD_HEADER, RecordHeader};
use lsn::{Lsn, SegmentSize, SystemId, Tli, WAL_PAGE_SIZE};

/// One record as it was built.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Built {
    /// First byte of its header.
    pub start: Lsn,
    /// Where the next record can start (see `RecordSeen::end`).
    pub end: Lsn,
    /// Its checksum field.
    pub crc: u32,
}

/// Grows a run of WAL record by record. Every method that adds WAL returns the new end.
///
/// ```
/// use lsn::{Lsn, SegmentSize};
/// use wal_format::{ScanOptions, Scanner, build::WalBuilder};
///
/// let mut wal = WalBuilder::new(SegmentSize::DEFAULT, Lsn(0x100_0000));
/// wal.record(&[7; 20_000]);
/// let end = wal.switch();
/// let mut scanner = Scanner::at_page_start(ScanOptions::new(SegmentSize::DEFAULT), wal.start());
/// scanner.feed(wal.bytes())?;
/// assert_eq!((scanner.record_end(), end), (Lsn(0x200_0000), Lsn(0x200_0000)));
/// # Ok::<(), wal_format::ScanError>(())
/// ```
#[derive(Clone, Debug)]
pub struct WalBuilder {
    segment_size: SegmentSize,
    system_id: SystemId,
    magic: u16,
    tli: Tli,
    start: Lsn,
    bytes: Vec<u8>,
    first_prev: Lsn,
    prev: Lsn,
    records: Vec<Built>,
}

impl WalBuilder {
    /// The system identifier in long headers unless [`with_system_id`](Self::with_system_id) says otherwise.
    pub const SYSTEM_ID: SystemId = SystemId(0x5EA_0A11);

    /// Begins at `start`, a multiple of 8 where a record can begin; on a page start the page's header comes with the first
    /// record. PostgreSQL 15, TLI 1, previous-link 0.
    pub fn new(segment_size: SegmentSize, start: Lsn) -> WalBuilder {
        let in_page = start.0 % WAL_PAGE_SIZE;
        let header = page::header_len(start.align_down(WAL_PAGE_SIZE), segment_size) as u64;
        assert!(start.0.is_multiple_of(8) && (in_page == 0 || in_page >= header), "no record can begin at {start}");
        WalBuilder {
            segment_size,
            system_id: Self::SYSTEM_ID,
            magic: 0xD110,
            tli: Tli(1),
            start,
            bytes: Vec::new(),
            first_prev: Lsn(0),
            prev: Lsn(0),
            records: Vec::new(),
        }
    }

    /// Sets the system identifier written into long headers from now on.
    pub fn with_system_id(mut self, system_id: SystemId) -> WalBuilder {
        self.system_id = system_id;
        self
    }

    /// Sets the page magic written from the next page on.
    pub fn with_magic(mut self, magic: u16) -> WalBuilder {
        self.magic = magic;
        self
    }

    /// Sets what the first record links back to.
    pub fn with_prev(mut self, prev: Lsn) -> WalBuilder {
        assert!(self.records.is_empty());
        self.first_prev = prev;
        self.prev = prev;
        self
    }

    /// Begins the (still empty) run with the last `len` bytes of a record that began before it. Only on a page start.
    pub fn with_continuation(mut self, len: u32) -> WalBuilder {
        assert!(self.bytes.is_empty() && self.start.0.is_multiple_of(WAL_PAGE_SIZE) && len > 0);
        self.put(&vec![0xCC; len as usize]);
        self.pad();
        self
    }

    /// Pages begun from now on lie on this TLI.
    pub fn set_tli(&mut self, tli: Tli) {
        self.tli = tli;
    }

    /// First byte of the run.
    pub fn start(&self) -> Lsn {
        self.start
    }

    /// One past the last byte of the run.
    pub fn end(&self) -> Lsn {
        self.start.saturating_add(self.bytes.len() as u64)
    }

    /// The run's bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The run's bytes from `from` up to `to`; panics if they are not in it.
    pub fn slice(&self, from: Lsn, to: Lsn) -> &[u8] {
        &self.bytes[from.bytes_since(self.start) as usize..to.bytes_since(self.start) as usize]
    }

    /// The complete records, in order.
    pub fn records(&self) -> &[Built] {
        &self.records
    }

    /// Adds a record with this payload behind its header; its end is returned.
    pub fn record(&mut self, payload: &[u8]) -> Lsn {
        self.record_of(record::RMGR_LOGICAL_MESSAGE, 0, payload)
    }

    /// Adds a record of a resource manager and kind; its end is returned.
    pub fn record_of(&mut self, rmgr: u8, info: u8, payload: &[u8]) -> Lsn {
        let (start, bytes) = self.framed(rmgr, info, payload);
        self.put(&bytes);
        self.pad();
        self.complete(start, &bytes)
    }

    /// Adds records with payloads of `len` bytes until the end is at or above `to`; the end is returned.
    pub fn fill_to(&mut self, to: Lsn, len: usize) -> Lsn {
        while self.end() < to {
            let seed = self.records.len() as u8;
            self.record(&vec![seed; len]);
        }
        self.end()
    }

    /// Adds XLOG_SWITCH and the zeros behind it; the end, a segment start, is returned.
    pub fn switch(&mut self) -> Lsn {
        let (start, bytes) = self.framed(record::RMGR_XLOG, record::XLOG_SWITCH, &[]);
        self.put(&bytes);
        let to_end = self.segment_size.start_of_segment_at(self.end().saturating_add(self.segment_size.bytes() - 1));
        self.bytes.resize(to_end.bytes_since(self.start) as usize, 0);
        self.complete(start, &bytes)
    }

    /// Adds the beginning of a record with this payload, cut at a page end after `pages` page ends were crossed, as a crash
    /// leaves it; then, on the next page, the record that replaces it. Panics if the record ends before that.
    pub fn aborted(&mut self, payload: &[u8], pages: u64) -> Lsn {
        let (start, bytes) = self.framed(record::RMGR_LOGICAL_MESSAGE, 0, payload);
        let cut = start.align_down(WAL_PAGE_SIZE).saturating_add((pages + 1) * WAL_PAGE_SIZE);
        self.put(&bytes);
        assert!(self.end() > cut, "the record must reach beyond {cut}");
        self.bytes.truncate(cut.bytes_since(self.start) as usize);
        self.page_header(page::FIRST_IS_OVERWRITE_CONTRECORD | page::BACKUP_BLOCKS_REMOVABLE, 0);
        // Body of OVERWRITE_CONTRECORD: a data header of two bytes, the aborted record's start, a time.
        let mut body = vec![0xFF, 16];
        body.extend_from_slice(&start.0.to_le_bytes());
        body.extend_from_slice(&[0; 8]);
        self.record_of(record::RMGR_XLOG, record::XLOG_OVERWRITE_CONTRECORD, &body)
    }

    /// Adds only the first `keep` bytes (page headers not counted) of a record with this payload; the end is returned.
    /// Nothing can be added behind it.
    pub fn torn(&mut self, payload: &[u8], keep: usize) -> Lsn {
        let (_, bytes) = self.framed(record::RMGR_LOGICAL_MESSAGE, 0, payload);
        assert!(keep < bytes.len());
        // Page headers must promise the whole record, so it is put whole and cut where its kept part ends.
        let mut kept = self.clone();
        kept.put(&bytes[..keep]);
        self.put(&bytes);
        self.bytes.truncate(kept.bytes.len());
        self.end()
    }

    /// Makes the run end at `to`, its start or the end of one of its records, as if nothing had been added behind it.
    pub fn cut(&mut self, to: Lsn) {
        assert!(to == self.start || self.records.iter().any(|record| record.end == to), "no record ends at {to}");
        self.bytes.truncate(to.bytes_since(self.start) as usize);
        self.records.retain(|record| record.end <= to);
        self.prev = self.records.last().map_or(self.first_prev, |record| record.start);
    }

    fn framed(&mut self, rmgr: u8, info: u8, payload: &[u8]) -> (Lsn, Vec<u8>) {
        if self.end().0.is_multiple_of(WAL_PAGE_SIZE) {
            self.page_header(0, 0);
        }
        let total_len = (payload.len() + RECORD_HEADER) as u32;
        let mut header = RecordHeader { total_len, xid: 0, prev: self.prev, info, rmgr, crc: 0 };
        header.crc = record::checksum(&header.encode(), payload);
        let mut bytes = header.encode().to_vec();
        bytes.extend_from_slice(payload);
        (self.end(), bytes)
    }

    fn complete(&mut self, start: Lsn, bytes: &[u8]) -> Lsn {
        let crc = u32::from_le_bytes(crate::array(bytes, record::CHECKED_HEADER));
        self.records.push(Built { start, end: self.end(), crc });
        self.prev = start;
        self.end()
    }

    /// Puts bytes, with page headers that say how much is still to come.
    fn put(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.end().0.is_multiple_of(WAL_PAGE_SIZE) {
                self.page_header(page::FIRST_IS_CONTINUATION, bytes.len() as u32);
            }
            let room = (WAL_PAGE_SIZE - self.end().0 % WAL_PAGE_SIZE) as usize;
            let (now, later) = bytes.split_at(bytes.len().min(room));
            self.bytes.extend_from_slice(now);
            bytes = later;
        }
    }

    fn pad(&mut self) {
        let padding = self.end().align_up(8).bytes_since(self.end()) as usize;
        self.bytes.resize(self.bytes.len() + padding, 0);
    }

    fn page_header(&mut self, flags: u16, remaining: u32) {
        let address = self.end();
        let long = (self.segment_size.offset_of(address) == 0).then(|| LongFields {
            system_id: self.system_id,
            segment_size: self.segment_size.as_u32(),
            page_size: WAL_PAGE_SIZE as u32,
        });
        PageHeader { magic: self.magic, flags, tli: self.tli, address, remaining, long }.encode(&mut self.bytes);
    }
}
