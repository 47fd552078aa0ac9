//! [`Server`]: a PostgreSQL data directory and, while it runs, its server, as far as WAL goes.
//!
//! It obeys PostgreSQL's rules: WAL is flushed up to a record's end by a commit and up to a page's end otherwise; a walsender
//! sends what is flushed; a crash keeps what was flushed and perhaps more; recovery ends at the last whole record, and a record that
//! went on over a page's end is overwritten on the page behind; a promotion begins a new TLI at the last whole record, whose number
//! depends on the directory's own history only; a copy carries the slot, a base backup does not. Bytes are real: framed, linked and
//! checksummed.

use crate::chance::Chance;
use leader::{Ancestor, PrimaryFacts, Slot};
use lsn::{Lsn, SegmentSize, SystemId, Tli, WAL_PAGE_SIZE};
use std::collections::BTreeMap;
use wal_format::build::WalBuilder;
use wal_format::history::{History, HistoryEntry};

/// Bytes per segment: the least PostgreSQL allows.
pub(crate) const SEGMENT: u64 = 1 << 20;
/// The database cluster's system identifier.
pub(crate) const SYSTEM: SystemId = SystemId(0x5EA_0001);
/// First byte of the primary's WAL.
pub(crate) const FIRST: Lsn = Lsn(16 * SEGMENT);
/// Version and page magic of PostgreSQL 15.
pub(crate) const VERSION_NUM: u32 = 150_018;
const MAGIC: u16 = 0xD110;

/// How long a checkpoint takes. A safekeeper writes its commit LSN down within a second; where all of them lose it and the primary
/// has removed the WAL since, the primary is refused until its files are compared by hand.
const CHECKPOINT_MICROS: u64 = 10_000_000;

pub(crate) fn segment_size() -> SegmentSize {
    SegmentSize::new(SEGMENT).unwrap_or_default()
}

/// What runs on a data directory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Role {
    Down,
    Primary,
    Standby,
}

/// A data directory.
#[derive(Clone, Debug)]
pub(crate) struct Server {
    pub(crate) role: Role,
    /// Counts starts: what belonged to an earlier one is over.
    pub(crate) run: u64,
    wal: WalBuilder,
    /// How the payload of the record at a position is made again.
    payloads: BTreeMap<Lsn, (u64, usize)>,
    pub(crate) tli: Tli,
    pub(crate) ancestors: Vec<Ancestor>,
    pub(crate) flush: Lsn,
    /// Our slot, and what it holds.
    pub(crate) slot: Option<Option<Lsn>>,
    pub(crate) oldest: Lsn,
    /// What the slot held at the checkpoint before: PostgreSQL removes WAL by what it has written down.
    saved: (u64, Lsn),
    /// The proposer whose stream holds the slot, and the number of its connection.
    pub(crate) walsender: Option<(usize, u64)>,
    /// Where its stream stands.
    pub(crate) sent: Lsn,
    pub(crate) streaming: bool,
    /// The highest answer received.
    pub(crate) acknowledged: Lsn,
}

fn payload(seed: u64, len: usize) -> Vec<u8> {
    let mut chance = Chance::new(seed);
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        bytes.extend_from_slice(&chance.next().to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

impl Server {
    /// A new database, with a little WAL.
    pub(crate) fn new(chance: &mut Chance) -> Server {
        let mut server = Server {
            role: Role::Primary,
            run: 1,
            wal: WalBuilder::new(segment_size(), FIRST).with_system_id(SYSTEM).with_magic(MAGIC),
            payloads: BTreeMap::new(),
            tli: Tli(1),
            ancestors: Vec::new(),
            flush: FIRST,
            slot: None,
            oldest: FIRST,
            saved: (0, FIRST),
            walsender: None,
            sent: FIRST,
            streaming: false,
            acknowledged: Lsn::INVALID,
        };
        server.add(chance, 200);
        server.flush = server.end();
        server
    }

    /// End of what was inserted.
    pub(crate) fn end(&self) -> Lsn {
        self.wal.end()
    }

    pub(crate) fn bytes(&self, from: Lsn, to: Lsn) -> &[u8] {
        self.wal.slice(from, to)
    }

    /// The last record end at or below a position.
    pub(crate) fn record_end(&self, at: Lsn) -> Lsn {
        let ends = self.wal.records();
        let index = ends.partition_point(|record| record.end <= at);
        index.checked_sub(1).and_then(|last| ends.get(last)).map_or(FIRST, |record| record.end)
    }

    /// Adds a record; nothing is flushed.
    pub(crate) fn add(&mut self, chance: &mut Chance, len: usize) {
        let seed = chance.next();
        self.wal.record(&payload(seed, len));
        if let Some(record) = self.wal.records().last() {
            self.payloads.insert(record.start, (seed, len));
        }
    }

    /// Switches to the next segment, which flushes everything.
    pub(crate) fn switch(&mut self) {
        self.wal.switch();
        self.flush = self.end();
    }

    /// A commit flushes what there is; otherwise only whole pages are. True if anything was.
    pub(crate) fn flush(&mut self, commits: bool) -> bool {
        let to = if commits { self.end() } else { self.end().align_down(WAL_PAGE_SIZE) };
        let moved = to > self.flush;
        self.flush = self.flush.max(to);
        moved
    }

    /// The server is gone: what is on the disk is what was flushed, and perhaps more.
    pub(crate) fn crash(&mut self, chance: &mut Chance) -> Lsn {
        self.role = Role::Down;
        self.run += 1;
        self.walsender = None;
        self.streaming = false;
        let beyond = self.end().bytes_since(self.flush);
        let kept = Lsn(self.flush.0 + chance.below(beyond + 1));
        // Torn pages count for nothing but what recovery makes of them: ends of records and of pages.
        kept.align_down(WAL_PAGE_SIZE).max(self.record_end(kept)).max(self.flush)
    }

    /// Ends recovery of what a crash left up to `kept`. With `overwrites` a record that was cut off behind a page's end is
    /// overwritten, as a primary does; else, as a promotion does, the log ends at the last whole record. True if one was.
    pub(crate) fn recover(&mut self, kept: Lsn, overwrites: bool) -> bool {
        let end = self.record_end(kept);
        let torn = self.wal.records().iter().find(|record| record.end > end).copied();
        self.wal.cut(end);
        let again =
            torn.filter(|torn| overwrites && kept.align_down(WAL_PAGE_SIZE) > torn.start.align_down(WAL_PAGE_SIZE));
        let mut overwritten = false;
        if let Some((torn, (seed, len))) = again.and_then(|torn| Some((torn, *self.payloads.get(&torn.start)?))) {
            let pages =
                kept.align_down(WAL_PAGE_SIZE).bytes_since(torn.start.align_down(WAL_PAGE_SIZE)) / WAL_PAGE_SIZE;
            self.wal.aborted(&payload(seed, len), pages - 1);
            overwritten = true;
        }
        let end = self.end();
        self.payloads.retain(|start, _| *start < end);
        self.flush = end;
        overwritten
    }

    /// Starts it as a primary again, with the record PostgreSQL writes then.
    pub(crate) fn start(&mut self, chance: &mut Chance) {
        self.role = Role::Primary;
        self.run += 1;
        self.add(chance, 80);
        self.flush(true);
    }

    /// Ends recovery on a new TLI. It must end with a whole record.
    pub(crate) fn promote(&mut self, chance: &mut Chance) {
        let (tli, switch) = (self.tli, self.end());
        self.ancestors.push(Ancestor { tli, switch });
        self.tli = Tli(tli.0 + 1);
        self.wal.set_tli(self.tli);
        self.start(chance);
    }

    /// A copy of what was flushed, cut at the last whole record at or below `at`: stopped, in recovery.
    pub(crate) fn copy(&self, at: Lsn, with_slot: bool) -> Server {
        let end = self.record_end(at.min(self.flush));
        let mut wal = self.wal.clone();
        wal.cut(end);
        let ancestors: Vec<Ancestor> = self.ancestors.iter().copied().filter(|left| left.switch < end).collect();
        let tli = match self.ancestors.get(ancestors.len()) {
            Some(left) => left.tli,
            None => self.tli,
        };
        wal.set_tli(tli);
        let mut copy = self.clone();
        copy.payloads.retain(|start, _| *start < end);
        Server {
            role: Role::Standby,
            wal,
            tli,
            ancestors,
            flush: end,
            // A slot that moved beyond what was copied was copied before it did.
            slot: self.slot.filter(|restart| with_slot && restart.is_none_or(|restart| restart <= end)),
            walsender: None,
            streaming: false,
            acknowledged: Lsn::INVALID,
            ..copy
        }
    }

    /// Ends a checkpoint and begins the next, at a moment in microseconds: segments go that nobody needed when it began.
    pub(crate) fn checkpoint(&mut self, now: u64) {
        if now < self.saved.0 + CHECKPOINT_MICROS {
            return;
        }
        let held = self.slot.flatten().unwrap_or(self.flush);
        let (_, before) = std::mem::replace(&mut self.saved, (now, held));
        self.oldest = self.oldest.max(segment_size().start_of_segment_at(before.min(held).min(self.flush)));
    }

    /// What a proposer finds out.
    pub(crate) fn facts(&self) -> PrimaryFacts {
        PrimaryFacts {
            system_id: SYSTEM,
            tli: self.tli,
            ancestors: self.ancestors.clone(),
            tli_history: self.history(),
            oldest: Some(self.oldest),
            flush: self.flush,
            segment_size: segment_size(),
            version_num: VERSION_NUM,
            slot: self.slot.map(|restart| Slot { restart }),
            fence_token: None,
        }
    }

    fn history(&self) -> String {
        let entry = |left: &Ancestor| HistoryEntry {
            tli: left.tli,
            switch: left.switch,
            reason: "no recovery target specified".to_owned(),
        };
        if self.ancestors.is_empty() {
            return String::new();
        }
        History::new(self.tli, self.ancestors.iter().map(entry).collect()).map(|it| it.to_string()).unwrap_or_default()
    }
}
