//! [`Scanner`]: follows a stream of WAL and finds record ends.
//!
//! Bytes go in as they arrive, in slices of any size; nothing is kept but a page or record header that was split between
//! slices, and the checksum is computed piece by piece. The rules are those of PostgreSQL's own reader: page headers must
//! fit their place, records are chained by their previous-links, and every checksum is verified.
//!
//! Invariants: `verified_end <= record_end <= position`; `record_end` moves only when every byte of a record was seen, its
//! padding included and, behind XLOG_SWITCH, the zeros up to the segment's end. After an error nothing moves any more.
//!
//! A log may end in the middle of a record for ever: a server that crashed there goes on at the next page with a record
//! that replaces the unfinished one (flag 0x0008), and the scanner drops what it had seen of it.

use crate::fault::{PageFault, RecordFault, ScanError};
use crate::page::{self, PageHeader};
use crate::record::{self, ALIGNMENT, RECORD_HEADER, RecordHeader};
use lsn::{Lsn, SegmentSize, SystemId, Tli, WAL_PAGE_SIZE};

static ZERO_PAGE: [u8; WAL_PAGE_SIZE as usize] = [0; WAL_PAGE_SIZE as usize];

/// What a scanner knows before it sees a byte.
#[derive(Clone, Debug)]
pub struct ScanOptions {
    /// Bytes per segment.
    pub segment_size: SegmentSize,
    /// The cluster's system identifier; learned from the first segment start if `None`.
    pub system_id: Option<SystemId>,
    /// The page magic; learned from the first page (which must be a known one) if `None`.
    pub magic: Option<u16>,
    /// Pages must not lie on a lower TLI than this; 0 allows any.
    pub min_tli: Tli,
    /// Start of the record before the first one; if `None` the first record's link is only checked to point backwards.
    pub prev: Option<Lsn>,
}

impl ScanOptions {
    /// Options that know the segment size and learn the rest from the WAL.
    pub fn new(segment_size: SegmentSize) -> Self {
        ScanOptions { segment_size, system_id: None, magic: None, min_tli: Tli(0), prev: None }
    }
}

/// A complete record whose checksum holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RecordSeen {
    /// First byte of the record's header.
    pub start: Lsn,
    /// Where the next record can start: `start` plus the record, rounded up to 8; the next segment's start behind
    /// XLOG_SWITCH. On a page start it is the page start itself, not the end of that page's header.
    pub end: Lsn,
    /// The record's header; `header.crc` is the mark of a TLI if the record is the first on it.
    pub header: RecordHeader,
    /// The TLI of the page the record ends on, if that page's header was seen.
    pub tli: Option<Tli>,
}

/// What the next payload byte (one that is not in a page header) is.
#[derive(Clone, Copy, Debug)]
enum Phase {
    /// Nothing of the first page was seen: its header decides.
    Entry,
    /// Rest of a record that began before the scan.
    Skip { left: u32 },
    /// A record header of which `have` bytes were seen; 0 = at a record boundary.
    Header { have: usize },
    /// A record's bytes behind its header.
    Body { left: u32, crc: u32 },
    /// Padding up to the next multiple of 8; `complete` = behind a verified record.
    Padding { left: usize, complete: bool },
    /// Zeros from XLOG_SWITCH to the segment's end, page headers included.
    Zeros,
}

/// An incremental reader of WAL that finds record ends. See the file's head for the rules.
#[derive(Clone, Debug)]
pub struct Scanner {
    segment_size: SegmentSize,
    system_id: Option<SystemId>,
    magic: Option<u16>,
    tli: Option<Tli>,
    min_tli: Tli,
    prev: Option<Lsn>,
    position: Lsn,
    record_end: Lsn,
    verified_end: Option<Lsn>,
    last_start: Option<Lsn>,
    phase: Phase,
    /// The part of the current page's header that was seen.
    page_header: [u8; page::LONG_HEADER],
    /// The current record's header.
    header: [u8; RECORD_HEADER],
    record_start: Lsn,
    failed: Option<ScanError>,
}

impl Scanner {
    /// Begins at the start of a page (usually of a segment) with nothing known about what stands before it: the rest of an
    /// earlier record is skipped, unverified, and its end is a record end.
    ///
    /// A position that is not a page start makes the first `feed` fail.
    pub fn at_page_start(options: ScanOptions, at: Lsn) -> Scanner {
        let fault = (!at.0.is_multiple_of(WAL_PAGE_SIZE)).then_some("not the start of a page");
        Scanner::new(options, at, Phase::Entry, fault)
    }

    /// Begins where a record ends or starts, possibly inside a page whose header will not be seen.
    ///
    /// A position where no record can begin (not a multiple of 8, inside a page header) makes the first `feed` fail.
    pub fn at_record_boundary(options: ScanOptions, at: Lsn) -> Scanner {
        let in_page = at.0 % WAL_PAGE_SIZE;
        let header = page::header_len(at.align_down(WAL_PAGE_SIZE), options.segment_size) as u64;
        let fault = if !at.0.is_multiple_of(ALIGNMENT) {
            Some("not a multiple of 8")
        } else if in_page != 0 && in_page < header {
            Some("inside a page header")
        } else {
            None
        };
        Scanner::new(options, at, Phase::Header { have: 0 }, fault)
    }

    fn new(options: ScanOptions, at: Lsn, phase: Phase, fault: Option<&'static str>) -> Scanner {
        Scanner {
            segment_size: options.segment_size,
            system_id: options.system_id,
            magic: options.magic,
            tli: None,
            min_tli: options.min_tli,
            prev: options.prev,
            position: at,
            record_end: at,
            verified_end: None,
            last_start: None,
            phase,
            page_header: [0; page::LONG_HEADER],
            header: [0; RECORD_HEADER],
            record_start: at,
            failed: fault.map(|why| ScanError::Start { at, why }),
        }
    }

    /// Where the next byte fed will lie.
    pub fn position(&self) -> Lsn {
        self.position
    }

    /// End of the last complete record, padding and switch zeros included; the start position until one was seen. The end
    /// of a record that began before the scan counts, although it was not verified.
    pub fn record_end(&self) -> Lsn {
        self.record_end
    }

    /// End of the last record whose checksum was verified; `None` until there was one.
    pub fn verified_end(&self) -> Option<Lsn> {
        self.verified_end
    }

    /// Whether at least one record was verified.
    pub fn verified(&self) -> bool {
        self.verified_end.is_some()
    }

    /// Start of the last complete, verified record: what the next one links back to.
    pub fn last_record_start(&self) -> Option<Lsn> {
        self.last_start
    }

    /// The system identifier given or learned.
    pub fn system_id(&self) -> Option<SystemId> {
        self.system_id
    }

    /// The page magic given or learned.
    pub fn magic(&self) -> Option<u16> {
        self.magic
    }

    /// The TLI of the last page header seen.
    pub fn tli(&self) -> Option<Tli> {
        self.tli
    }

    /// Takes the bytes at [`position`](Self::position), any number of them.
    ///
    /// After an error the scanner is of no further use: it returns the same error again. What it says of the WAL before the
    /// fault stays right.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<(), ScanError> {
        self.feed_with(bytes, &mut |_| {})
    }

    /// As [`feed`](Self::feed), and calls `seen` for every record that became complete, in order.
    pub fn feed_with(&mut self, bytes: &[u8], seen: &mut impl FnMut(&RecordSeen)) -> Result<(), ScanError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let result = if self.position.checked_add(bytes.len() as u64).is_none() {
            Err(ScanError::Range { at: self.position })
        } else {
            self.consume(bytes, seen)
        };
        if let Err(error) = &result {
            self.failed = Some(error.clone());
        }
        result
    }

    fn consume(&mut self, mut bytes: &[u8], seen: &mut impl FnMut(&RecordSeen)) -> Result<(), ScanError> {
        while !bytes.is_empty() {
            let used =
                if matches!(self.phase, Phase::Zeros) { self.zeros(bytes, seen)? } else { self.in_page(bytes, seen)? };
            debug_assert!(used > 0);
            bytes = bytes.get(used..).unwrap_or_default();
        }
        Ok(())
    }

    /// Consumes part of a page header or of one phase; at least one byte.
    fn in_page(&mut self, bytes: &[u8], seen: &mut impl FnMut(&RecordSeen)) -> Result<usize, ScanError> {
        let offset = (self.position.0 % WAL_PAGE_SIZE) as usize;
        let page_start = self.position.align_down(WAL_PAGE_SIZE);
        let header_len = page::header_len(page_start, self.segment_size);
        if offset < header_len {
            let used = bytes.len().min(header_len - offset);
            self.page_header[offset..offset + used].copy_from_slice(&bytes[..used]);
            self.advance(used);
            if offset + used == header_len {
                self.page_header_seen(page_start, header_len)?;
            }
            return Ok(used);
        }
        let available = &bytes[..bytes.len().min(WAL_PAGE_SIZE as usize - offset)];
        match self.phase {
            Phase::Header { have } => self.record_header(available, have, seen),
            Phase::Body { left, crc } => {
                let used = available.len().min(left as usize);
                let crc = crc32c::crc32c_append(crc, &available[..used]);
                let left = left - used as u32;
                self.phase = Phase::Body { left, crc };
                self.advance(used);
                if left == 0 {
                    self.body_seen(crc, seen)?;
                }
                Ok(used)
            }
            Phase::Skip { left } => {
                let used = available.len().min(left as usize);
                let left = left - used as u32;
                self.phase = Phase::Skip { left };
                self.advance(used);
                if left == 0 {
                    self.pad(false, seen);
                }
                Ok(used)
            }
            Phase::Padding { left, complete } => {
                let used = available.len().min(left);
                if available[..used] != ZERO_PAGE[..used] {
                    return Err(ScanError::Record { at: self.record_start, what: RecordFault::Padding });
                }
                let left = left - used;
                self.phase = Phase::Padding { left, complete };
                self.advance(used);
                if left == 0 {
                    self.boundary(complete, seen);
                }
                Ok(used)
            }
            // Entry ends with the first page header, and zeros are consumed without regard to pages.
            Phase::Entry | Phase::Zeros => unreachable!("no payload byte belongs to this phase"),
        }
    }

    fn advance(&mut self, bytes: usize) {
        self.position = self.position.saturating_add(bytes as u64);
    }

    fn page_header_seen(&mut self, at: Lsn, header_len: usize) -> Result<(), ScanError> {
        let fault = |what| ScanError::Page { at, what };
        // The flags may promise a long header where only 24 bytes were read; parse judges by the flags.
        let header =
            PageHeader::parse(&self.page_header[..header_len]).ok_or_else(|| fault(PageFault::HeaderLength))?;
        self.check_page(&header, at).map_err(fault)?;
        self.phase = match self.phase {
            Phase::Entry if header.is_continuation() => Phase::Skip { left: header.remaining },
            Phase::Entry => Phase::Header { have: 0 },
            Phase::Header { have: 0 } if header.is_continuation() => {
                return Err(fault(PageFault::UnexpectedContinuation));
            }
            Phase::Header { have: 0 } => Phase::Header { have: 0 },
            // The open record was never finished: its writer crashed, and goes on here.
            _ if header.is_overwrite_contrecord() => Phase::Header { have: 0 },
            open => {
                let expected = match open {
                    Phase::Header { have } => RecordHeader::parse(&self.header).total_len - have as u32,
                    Phase::Body { left, .. } | Phase::Skip { left } => left,
                    Phase::Entry | Phase::Padding { .. } | Phase::Zeros => 0,
                };
                if !header.is_continuation() {
                    return Err(fault(PageFault::MissingContinuation));
                }
                if header.remaining != expected {
                    return Err(fault(PageFault::ContinuationLength { found: header.remaining, expected }));
                }
                open
            }
        };
        Ok(())
    }

    fn check_page(&mut self, header: &PageHeader, at: Lsn) -> Result<(), PageFault> {
        let magic_fits = match self.magic {
            Some(magic) => header.magic == magic,
            None => page::major_for_magic(header.magic).is_some(),
        };
        if !magic_fits {
            return Err(PageFault::Magic(header.magic));
        }
        let overwrites = header.is_overwrite_contrecord();
        let continues = header.is_continuation();
        if header.flags & !page::ALL_FLAGS != 0 || (overwrites && continues) || (continues && header.remaining == 0) {
            return Err(PageFault::Flags(header.flags));
        }
        // What PostgreSQL leaves zero must be zero: after a crash a tail that was not written can show the bytes of a recycled
        // file, and two logs that end alike would differ.
        if !continues && header.remaining != 0 {
            return Err(PageFault::ContinuationLength { found: header.remaining, expected: 0 });
        }
        if self.page_header[page::PADDING] != [0; 4] {
            return Err(PageFault::Padding);
        }
        if header.long.is_some() != (self.segment_size.offset_of(at) == 0) {
            return Err(PageFault::HeaderLength);
        }
        if header.address != at {
            return Err(PageFault::Address(header.address));
        }
        let last = self.tli.unwrap_or(self.min_tli).max(self.min_tli);
        if header.tli < last || header.tli == Tli(0) {
            return Err(PageFault::TliBackwards { found: header.tli, last });
        }
        if let Some(long) = header.long {
            if self.system_id.is_some_and(|expected| expected != long.system_id) {
                return Err(PageFault::SystemId(long.system_id));
            }
            if long.segment_size != self.segment_size.as_u32() {
                return Err(PageFault::SegmentSize(long.segment_size));
            }
            if u64::from(long.page_size) != WAL_PAGE_SIZE {
                return Err(PageFault::PageSize(long.page_size));
            }
            self.system_id = Some(long.system_id);
        }
        self.magic = Some(header.magic);
        self.tli = Some(header.tli);
        Ok(())
    }

    fn record_header(
        &mut self,
        available: &[u8],
        have: usize,
        seen: &mut impl FnMut(&RecordSeen),
    ) -> Result<usize, ScanError> {
        if have == 0 {
            self.record_start = self.position;
        }
        let used = available.len().min(RECORD_HEADER - have);
        self.header[have..have + used].copy_from_slice(&available[..used]);
        let now = have + used;
        self.phase = Phase::Header { have: now };
        self.advance(used);
        let fault = |what| ScanError::Record { at: self.record_start, what };
        let header = RecordHeader::parse(&self.header);
        // The length is judged as soon as it is there: records are aligned, so a page never splits it, and the page behind
        // the log's end would otherwise be blamed.
        if now >= size_of::<u32>() && !(record::MIN_TOTAL_LEN..=record::MAX_TOTAL_LEN).contains(&header.total_len) {
            return Err(fault(RecordFault::Length(header.total_len)));
        }
        if now == RECORD_HEADER {
            match self.prev {
                Some(expected) if header.prev != expected => {
                    return Err(fault(RecordFault::PrevLink { found: header.prev, expected }));
                }
                None if header.prev >= self.record_start => return Err(fault(RecordFault::PrevForward(header.prev))),
                _ => {}
            }
            let left = header.total_len - record::MIN_TOTAL_LEN;
            self.phase = Phase::Body { left, crc: 0 };
            if left == 0 {
                self.body_seen(0, seen)?;
            }
        }
        Ok(used)
    }

    fn body_seen(&mut self, crc: u32, seen: &mut impl FnMut(&RecordSeen)) -> Result<(), ScanError> {
        let header = RecordHeader::parse(&self.header);
        let computed = record::finish_checksum(&self.header, crc);
        if computed != header.crc {
            let what = RecordFault::Checksum { found: header.crc, computed };
            return Err(ScanError::Record { at: self.record_start, what });
        }
        if header.is_switch() {
            self.phase = Phase::Zeros;
            if self.segment_size.offset_of(self.position) == 0 {
                self.boundary(true, seen);
            }
        } else {
            self.pad(true, seen);
        }
        Ok(())
    }

    /// Behind a record's last byte: padding if there is any, else the boundary.
    fn pad(&mut self, complete: bool, seen: &mut impl FnMut(&RecordSeen)) {
        let left = self.position.align_up(ALIGNMENT).bytes_since(self.position) as usize;
        if left == 0 {
            self.boundary(complete, seen);
        } else {
            self.phase = Phase::Padding { left, complete };
        }
    }

    /// A record ended here, padding and zeros included.
    fn boundary(&mut self, complete: bool, seen: &mut impl FnMut(&RecordSeen)) {
        self.phase = Phase::Header { have: 0 };
        self.record_end = self.position;
        if complete {
            self.verified_end = Some(self.position);
            self.prev = Some(self.record_start);
            self.last_start = Some(self.record_start);
            let header = RecordHeader::parse(&self.header);
            seen(&RecordSeen { start: self.record_start, end: self.position, header, tli: self.tli });
        }
    }

    fn zeros(&mut self, bytes: &[u8], seen: &mut impl FnMut(&RecordSeen)) -> Result<usize, ScanError> {
        let to_end = self.segment_size.bytes() - self.segment_size.offset_of(self.position);
        let used = bytes.len().min(usize::try_from(to_end).unwrap_or(usize::MAX));
        // Whole pages first: a switch can leave a gigabyte of zeros.
        let unlike = bytes[..used].chunks(ZERO_PAGE.len()).position(|chunk| *chunk != ZERO_PAGE[..chunk.len()]);
        let unlike = unlike.map_or(used, |chunk| chunk * ZERO_PAGE.len());
        if let Some(index) = bytes[unlike..used].iter().position(|byte| *byte != 0).map(|index| unlike + index) {
            let what = RecordFault::AfterSwitch(self.position.saturating_add(index as u64));
            return Err(ScanError::Record { at: self.record_start, what });
        }
        self.advance(used);
        if self.segment_size.offset_of(self.position) == 0 {
            self.boundary(true, seen);
        }
        Ok(used)
    }
}

#[cfg(test)]
#[path = "scanner_test.rs"]
mod tests;
