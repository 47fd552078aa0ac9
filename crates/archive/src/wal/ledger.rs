//! [`Ledger`]: what the replica holds, and what is to be done next. Rules only: it is told the time and what became of its actions.

use super::held::Held;
use super::lineage::Track;
use lsn::{Lsn, SegmentNumber, SegmentSize, WAL_PAGE_SIZE};
use replica_client::{Generation, Piece, PieceEnd, PieceName};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::time::{Duration, Instant};

/// Most plain bytes of one piece, and so of memory for one upload.
const PIECE_BYTES_MAX: u64 = 16 << 20;
/// Larger segments are left in pieces: merging would take as much memory as a segment.
const MERGED_BYTES_MAX: u64 = 64 << 20;
/// The first commit after a pause waits this part of the interval for company: a transaction is rarely one commit LSN.
const COMPANY: u32 = 4;

/// How a ledger decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LedgerOptions {
    /// Bytes per segment.
    pub segment_size: SegmentSize,
    /// How long committed WAL may wait for more.
    pub interval: Duration,
    /// Most actions under way.
    pub parallelism: usize,
    /// How long pieces stay behind the object they were merged into: readers that listed before are done by then.
    pub delete_after: Duration,
}

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Tell where a generation comes from.
    Announce(Track),
    /// Store these committed bytes under this name.
    Store {
        /// Where.
        generation: Generation,
        /// The key; a whole segment at once gets the name of a merged one.
        name: PieceName,
        /// Which bytes.
        wal: Range<Lsn>,
    },
    /// Store a whole segment whose pieces are all there, and read it back.
    Merge {
        /// Where.
        generation: Generation,
        /// Which.
        segment: SegmentNumber,
        /// Its bytes.
        wal: Range<Lsn>,
    },
    /// Delete pieces whose segment was merged and read back long enough ago.
    Delete {
        /// Where.
        generation: Generation,
        /// Of which segment.
        segment: SegmentNumber,
        /// All there are.
        pieces: Vec<PieceName>,
    },
}

/// Pieces of a segment that is not merged, or was and still has them.
#[derive(Debug, Clone, Default)]
struct Pieces {
    names: BTreeSet<PieceName>,
    /// Set once this process has read the merged segment back.
    delete_at: Option<Instant>,
}

/// The state of one log's archive, in the hands of its uploader.
#[derive(Debug)]
pub struct Ledger {
    options: LedgerOptions,
    /// Oldest first.
    tracks: Vec<Track>,
    /// First byte that is still here; a segment's start.
    oldest: Lsn,
    held: BTreeMap<Generation, Held>,
    pieces: BTreeMap<(Generation, SegmentNumber), Pieces>,
    announced: BTreeSet<Generation>,
    under_way: Vec<Action>,
    /// When the end of the log was stored last.
    stored_end_at: Option<Instant>,
    /// When it is due.
    end_due: Option<Instant>,
}

impl Ledger {
    /// Of a replica of which nothing is known.
    pub fn new(options: LedgerOptions) -> Ledger {
        Ledger {
            options,
            tracks: Vec::new(),
            oldest: Lsn::INVALID,
            held: BTreeMap::new(),
            pieces: BTreeMap::new(),
            announced: BTreeSet::new(),
            under_way: Vec::new(),
            stored_end_at: None,
            end_due: None,
        }
    }

    /// What a listing of the replica shows.
    pub fn learn(&mut self, pieces: &[Piece]) {
        for piece in pieces {
            self.hold(piece.generation, piece.name);
        }
    }

    fn hold(&mut self, generation: Generation, name: PieceName) {
        let Some(wal) = self.wal_of(name) else { return };
        self.held.entry(generation).or_default().add(wal);
        if matches!(name.end, PieceEnd::At(_)) {
            self.pieces.entry((generation, SegmentNumber(name.index))).or_default().names.insert(name);
        }
    }

    /// The positions of a piece; `None` if there are none, whoever gave it that name.
    fn wal_of(&self, name: PieceName) -> Option<Range<Lsn>> {
        let size = self.options.segment_size;
        let start = name.index.checked_mul(size.bytes())?;
        let span = name.span(size)?;
        let inside = span.start < span.end && span.end <= size.bytes();
        inside.then(|| Some(Lsn(start.checked_add(span.start)?)..Lsn(start.checked_add(span.end)?)))?
    }

    /// The log as it is now: its committed tracks, oldest first, and the first byte that is still here.
    pub fn set_log(&mut self, tracks: Vec<Track>, oldest: Lsn) {
        self.tracks = tracks;
        self.oldest = oldest;
    }

    /// Everything from the oldest byte here up to this position is in the replica.
    pub fn archived(&self) -> Lsn {
        let gap = self.tracks.iter().find_map(|track| self.held(track.generation).first_gap(self.wanted(track)));
        match (gap, self.tracks.last()) {
            (Some(gap), _) => gap.start,
            (None, Some(track)) => track.wal.end,
            (None, None) => Lsn::INVALID,
        }
    }

    /// Where the WAL begins that is in the replica without a gap up to [`Ledger::archived`]; it may lie below the oldest byte here.
    pub fn archived_from(&self) -> Lsn {
        let mut from = self.archived();
        for track in self.tracks.iter().rev().filter(|track| track.wal.start < self.archived()) {
            // A TLI's first segment has its parent's bytes in front: the parent's own end where the TLI begins.
            if track.wal.end < from {
                break;
            }
            from = self.held(track.generation).run_start(from);
            if from > track.wal.start {
                break;
            }
        }
        from
    }

    fn held(&self, generation: Generation) -> &Held {
        const NOTHING: &Held = &Held::EMPTY;
        self.held.get(&generation).unwrap_or(NOTHING)
    }

    /// What of a track can be archived from here.
    fn wanted(&self, track: &Track) -> Range<Lsn> {
        track.wal.start.max(self.oldest)..track.wal.end
    }

    /// Whether nothing more may begin before something ends.
    pub fn is_full(&self) -> bool {
        self.under_way.len() >= self.options.parallelism
    }

    /// The next thing to do, which is under way from now on.
    pub fn poll(&mut self, now: Instant) -> Option<Action> {
        if self.is_full() {
            return None;
        }
        let action =
            self.announcement().or_else(|| self.store(now)).or_else(|| self.merge()).or_else(|| self.deletion(now))?;
        self.under_way.push(action.clone());
        Some(action)
    }

    fn announcement(&self) -> Option<Action> {
        let new = |track: &&Track| {
            let busy =
                |action: &Action| matches!(action, Action::Announce(other) if other.generation == track.generation);
            !self.announced.contains(&track.generation) && !self.under_way.iter().any(busy)
        };
        self.tracks.iter().filter(|track| !self.wanted(track).is_empty()).find(new).cloned().map(Action::Announce)
    }

    fn store(&mut self, now: Instant) -> Option<Action> {
        let (generation, wal, is_end) = self.next_run()?;
        if is_end {
            if now < self.end_due_from(now) {
                return None;
            }
            self.end_due = None;
            self.stored_end_at = Some(now);
        }
        let size = self.options.segment_size;
        let segment = size.segment_of(wal.start);
        let whole = wal.start == size.start_of(segment) && wal.end.bytes_since(wal.start) == size.bytes();
        let name = match whole && size.bytes() <= MERGED_BYTES_MAX {
            true => PieceName::segment(segment.0),
            false => {
                let start = size.offset_of(wal.start);
                PieceName::of_segment(segment.0, start..start + wal.end.bytes_since(wal.start))
            }
        };
        Some(Action::Store { generation, name, wal })
    }

    /// The first run that is neither held nor on its way, cut to what fits a piece; and whether it is the growing end of the log.
    fn next_run(&self) -> Option<(Generation, Range<Lsn>, bool)> {
        let size = self.options.segment_size;
        let last = self.tracks.len().checked_sub(1)?;
        self.tracks.iter().enumerate().find_map(|(number, track)| {
            let mut wanted = self.wanted(track);
            let held = self.held(track.generation);
            let gap = loop {
                let gap = held.first_gap(wanted.clone())?;
                let (before, after): (Vec<_>, Vec<_>) = self
                    .on_their_way(track.generation)
                    .filter(|run| run.end > gap.start)
                    .partition(|run| run.start <= gap.start);
                match before.into_iter().map(|run| run.end).max() {
                    Some(end) => wanted.start = end,
                    None => break gap.start..after.iter().map(|run| run.start).fold(gap.end, Lsn::min),
                }
            };
            let segment_end = size.start_of(size.segment_of(gap.start)).saturating_add(size.bytes());
            let mut end = gap.end.min(segment_end);
            let is_end = number == last && end == track.wal.end && end < segment_end;
            if end.bytes_since(gap.start) > PIECE_BYTES_MAX {
                // A page's start, so that the next piece can be checked by itself.
                end = gap.start.saturating_add(PIECE_BYTES_MAX).align_down(WAL_PAGE_SIZE);
                return Some((track.generation, gap.start..end, false));
            }
            Some((track.generation, gap.start..end, is_end))
        })
    }

    fn on_their_way(&self, of: Generation) -> impl Iterator<Item = Range<Lsn>> {
        self.under_way.iter().filter_map(move |action| match action {
            Action::Store { generation, wal, .. } if *generation == of => Some(wal.clone()),
            _ => None,
        })
    }

    fn end_due_from(&mut self, now: Instant) -> Instant {
        let interval = self.options.interval;
        let after_last = self.stored_end_at.map_or(now, |at| at + interval);
        *self.end_due.get_or_insert_with(|| after_last.max(now + interval / COMPANY))
    }

    /// The bytes of a segment, if they are all in a generation of ours, all here, and may be merged.
    fn mergeable(&self, generation: Generation, segment: SegmentNumber) -> Option<Range<Lsn>> {
        let size = self.options.segment_size;
        let track = self.tracks.iter().find(|track| track.generation == generation)?;
        let start = size.start_of(segment);
        let wal = start..start.checked_add(size.bytes())?;
        let wanted = self.wanted(track);
        let inside = wanted.start <= wal.start && wal.end <= wanted.end && size.bytes() <= MERGED_BYTES_MAX;
        (inside && self.held(generation).holds(wal.clone())).then_some(wal)
    }

    fn merge(&self) -> Option<Action> {
        if self.under_way.iter().any(|action| matches!(action, Action::Merge { .. })) {
            return None;
        }
        self.pieces.iter().filter(|(_, pieces)| pieces.delete_at.is_none()).find_map(|(&(generation, segment), _)| {
            let wal = self.mergeable(generation, segment)?;
            Some(Action::Merge { generation, segment, wal })
        })
    }

    fn deletion(&self, now: Instant) -> Option<Action> {
        let busy = |key: &(Generation, SegmentNumber)| {
            let same = |action: &Action| matches!(action, Action::Delete { generation, segment, .. } if (*generation, *segment) == *key);
            self.under_way.iter().any(same)
        };
        let due = |pieces: &Pieces| pieces.delete_at.is_some_and(|at| at <= now);
        let (&(generation, segment), pieces) = self.pieces.iter().find(|(key, pieces)| due(pieces) && !busy(key))?;
        Some(Action::Delete { generation, segment, pieces: pieces.names.iter().copied().collect() })
    }

    /// An action was carried out.
    pub fn done(&mut self, action: &Action, now: Instant) {
        self.under_way.retain(|other| other != action);
        match action {
            Action::Announce(track) => drop(self.announced.insert(track.generation)),
            Action::Store { generation, name, .. } => self.hold(*generation, *name),
            Action::Merge { generation, segment, .. } => {
                if let Some(pieces) = self.pieces.get_mut(&(*generation, *segment)) {
                    pieces.delete_at = Some(now + self.options.delete_after);
                }
            }
            Action::Delete { generation, segment, .. } => drop(self.pieces.remove(&(*generation, *segment))),
        }
    }

    /// An action was not carried out; [`Ledger::poll`] gives it again.
    pub fn failed(&mut self, action: &Action) {
        self.under_way.retain(|other| other != action);
        if matches!(action, Action::Store { .. }) {
            // It has waited its time already; how long to wait after a failure is the caller's business.
            self.end_due = self.stored_end_at;
        }
    }

    /// When [`Ledger::poll`] may have something to do though nothing happens; `None` while everything is done.
    pub fn next_due(&mut self, now: Instant) -> Option<Instant> {
        let end = match self.next_run() {
            Some((_, _, true)) => Some(self.end_due_from(now)),
            Some(_) => Some(now),
            None => None,
        };
        end.into_iter().chain(self.pieces.values().filter_map(|pieces| pieces.delete_at)).min()
    }
}

#[cfg(test)]
#[path = "ledger_test.rs"]
mod tests;
