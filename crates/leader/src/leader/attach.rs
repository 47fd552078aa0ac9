//! Getting hold of the primary: facts, slot, stream; and losing it.

use super::{Attempt, Leader, Phase, Step, members};
use crate::compare::Knowledge;
use crate::lineage::{Lineage, Marks};
use crate::look::{Looks, first_byte};
use crate::ring::WalRing;
use crate::session::{Session, Stage};
use crate::{Command, PrimaryFacts, PrimaryFailure, Refusal, Slot, StreamFailure};
use bytes::Bytes;
use lsn::{Lsn, Path};
use quorum_proto::LogStatusRow;
use std::time::{Duration, Instant};

/// How long a primary that shuts down waits for its last record: without a majority it never comes.
const SHUTDOWN_PATIENCE: Duration = Duration::from_secs(20);

impl Leader {
    /// The primary is connected, and this is what it is.
    pub fn handle_primary_checked(&mut self, now: Instant, facts: PrimaryFacts) {
        if !matches!(self.phase, Phase::Checking) {
            return;
        }
        self.trouble = None;
        self.standby = false;
        let path = Path::root(facts.tli);
        self.phase = Phase::Attached(Box::new(Attempt {
            facts,
            looks: Looks::new(0, 0),
            evidence: None,
            path,
            from: Lsn::INVALID,
            ring: None,
            marks: Marks::default(),
            compares_all: false,
            substance: false,
            wishes: members::Wishes::default(),
            change: None,
            knowledge: Knowledge::default(),
            comparison: None,
            step: Step::Resting { until: now },
            shutdown_deadline: None,
            answered: Lsn::INVALID,
            feedback: None,
        }));
        self.begin_look();
    }

    /// The primary could not be attached, or was lost: connection, identity or slot. Ends the term, if there is one.
    pub fn handle_primary_failed(&mut self, now: Instant, failure: PrimaryFailure) {
        if matches!(self.phase, Phase::Pausing { .. }) {
            return;
        }
        match failure {
            PrimaryFailure::Retry(reason) => {
                self.standby = false;
                self.start_over(now, reason);
            }
            PrimaryFailure::Standby(reason) => {
                self.start_over(now, reason);
                // A refusal of the time before its server became a standby is no longer true.
                self.refusal = None;
                self.standby = true;
            }
            PrimaryFailure::Refused(reason) => self.refuse(now, Refusal::Primary(reason)),
        }
    }

    /// The slot was created and holds WAL from `restart` on.
    pub fn handle_slot_created(&mut self, now: Instant, restart: Lsn) {
        let Some(attempt) = self.attempt_mut().filter(|attempt| matches!(attempt.step, Step::CreatingSlot)) else {
            return;
        };
        attempt.facts.slot = Some(Slot { restart: Some(restart) });
        self.start_stream(now);
    }

    /// Asks for the stream of the slot, from the start of the segment from which bytes have to be compared.
    pub(super) fn start_stream(&mut self, now: Instant) {
        let (begin_at_slot, adopts) = (self.begin_at_slot, self.options.adopt);
        let Some(attempt) = self.attempt_mut() else { return };
        let Some(restart) = attempt.facts.slot.and_then(|slot| slot.restart) else {
            self.refuse(now, Refusal::EmptySlot);
            return;
        };
        attempt.compares_all = attempt.no_slot_vouches(adopts);
        let Some(from) = attempt.stream_begin(restart, begin_at_slot) else {
            self.refuse(now, Refusal::UnknownWal);
            return;
        };
        let (lineage, size) = (Lineage::of(&attempt.facts), attempt.facts.segment_size);
        let tli = lineage.tli_of_segment(from, size);
        attempt.marks = Marks::new(lineage.begins(), from, size);
        attempt.from = from;
        attempt.step = Step::StartingStream;
        self.commands.push_back(Command::StartStream { from, tli });
    }

    /// The stream runs, so the slot is ours. `restart` is the slot's restart_lsn now.
    pub fn handle_stream_started(&mut self, _now: Instant, restart: Lsn) {
        let Some(attempt) = self.attempt_mut().filter(|attempt| matches!(attempt.step, Step::StartingStream)) else {
            return;
        };
        attempt.facts.slot = Some(Slot { restart: Some(restart) });
        attempt.ring = Some(WalRing::new(attempt.from));
        // Whoever held the slot before us may have moved the quorum's log since the last look.
        self.begin_look();
    }

    /// The stream asked for does not come, or ended before its first byte.
    pub fn handle_stream_refused(&mut self, now: Instant, failure: StreamFailure) {
        let Some(attempt) = self.attempt() else { return };
        let failure = match failure {
            StreamFailure::Primary(failure) => failure,
            StreamFailure::SegmentRemoved if self.begin_at_slot => {
                let end = attempt.evidence.iter().flat_map(|found| &found.rows).map(|(_, row)| row.flush).max();
                let from = attempt.from;
                self.refuse(now, Refusal::WalRemoved { from, end: end.unwrap_or_default() });
                return;
            }
            // Minors before mid-2025 may let go of WAL the quorum's commit LSN still names; what the slot holds is there.
            StreamFailure::SegmentRemoved => {
                let from = attempt.from;
                self.begin_at_slot = true;
                self.start_over_after(now, format!("the primary has removed its WAL at {from}"), Duration::ZERO);
                return;
            }
        };
        self.handle_primary_failed(now, failure);
    }

    /// Takes WAL of the primary, received on this connection.
    pub fn handle_wal(&mut self, now: Instant, begin: Lsn, wal: Bytes) {
        let Some(attempt) = self.attempt_mut() else { return };
        let Some(ring) = &mut attempt.ring else { return };
        let expected = ring.end();
        attempt.marks.feed(begin, &wal);
        if !ring.push(begin, wal) {
            self.start_over(now, format!("the primary's stream jumped from {expected} to {begin}"));
            return;
        }
        let end = ring.end();
        for session in &mut self.sessions {
            session.note_wal(now, end);
        }
        self.advance_comparison(now);
        self.advance_marks(now);
        self.trim_ring();
    }

    /// Whether more WAL of the primary may be handed in. While false, it should stay in the socket.
    pub fn wants_wal(&self) -> bool {
        let Some(attempt) = self.attempt() else { return false };
        let Some(ring) = &attempt.ring else { return false };
        // A donor's uncommitted tail is compared whatever its length: the leader that wrote it was bound by the same ring.
        let starving = attempt.comparison.as_ref().is_some_and(|comparison| ring.end() < comparison.vote.flush)
            || matches!(attempt.step, Step::ReadingMarks { .. });
        let kept = ring.end().bytes_since(ring.begin().max(attempt.trim_limit()));
        starving || kept < self.options.ring_bytes || self.has_handed_all_out()
    }

    /// Whether a majority has been given all there is. What it holds may still end inside a record, or the zeros behind a segment
    /// switch, that is longer than the ring: no commit LSN can lie there, so only more WAL gets it any further. How much a majority
    /// takes without making it durable is bounded by the safekeepers.
    fn has_handed_all_out(&self) -> bool {
        let (Some(leadership), Some(ring)) = (self.leadership(), self.ring()) else { return false };
        let up_to_date = |session: &Session| matches!(session.stage, Stage::Streaming { next } if next >= ring.end());
        leadership
            .membership()
            .has_majority(|node| self.sessions.iter().any(|session| session.node == Some(node) && up_to_date(session)))
    }

    pub(super) fn trim_ring(&mut self) {
        let keep = self.options.ring_bytes;
        let Some(attempt) = self.attempt_mut() else { return };
        let limit = attempt.trim_limit();
        let Some(ring) = &mut attempt.ring else { return };
        ring.trim(keep, limit);
        let begin = ring.begin();
        for session in &mut self.sessions {
            session.fall_behind(begin);
        }
    }

    /// The primary is shutting down: it waits for its last record to be acknowledged.
    pub fn handle_primary_shutdown(&mut self, now: Instant) {
        if let Some(attempt) = self.attempt_mut() {
            attempt.shutdown_deadline.get_or_insert(now + SHUTDOWN_PATIENCE);
        }
    }

    /// The primary answers again: what looked like its shutdown was the end of one connection.
    pub fn handle_primary_stays(&mut self) {
        if let Some(attempt) = self.attempt_mut() {
            attempt.shutdown_deadline = None;
        }
    }

    /// Lets a primary go that shuts down while no majority can acknowledge its last record.
    pub(super) fn check_shutdown(&mut self, now: Instant) {
        let Some(attempt) = self.attempt_mut() else { return };
        if attempt.shutdown_deadline.is_none_or(|deadline| now < deadline) {
            return;
        }
        attempt.shutdown_deadline = None;
        let received = attempt.ring.as_ref().map_or(Lsn::INVALID, WalRing::end);
        if attempt.answered < received {
            let reason = format!("the primary shuts down and no majority acknowledged its WAL up to {received}");
            self.start_over(now, reason);
        }
    }
}

impl Attempt {
    /// Whether some log that may become the donor cannot be vouched for by the slot.
    fn no_slot_vouches(&self, adopts: bool) -> bool {
        let votes = self.evidence.iter().flat_map(|found| found.candidates()).filter(|row| row.flush.is_valid());
        let mut relations = votes.map(|row| {
            let relation = Lineage::of(&self.facts).relation(row.path.as_ref().unwrap_or(&self.path), row.flush);
            relation.is_ok_and(|relation| relation.adds_tli)
        });
        adopts || relations.any(|adds_tli| adds_tli)
    }

    /// Start of the segment with the first byte to compare: that of the slot or of the commit LSN, whichever is lower, but not
    /// below the first byte of the log; where no slot vouches for anything, the oldest the primary has. `None` if that is
    /// needed and not known. An empty log begins on the primary's newest TLI, whose first segment is whole.
    fn stream_begin(&self, restart: Lsn, begin_at_slot: bool) -> Option<Lsn> {
        let segment = |position: Lsn| self.facts.segment_size.start_of_segment_at(position);
        let logs = self.evidence.iter().flat_map(|found| found.candidates().map(|row| (row, found.committed_in(row))));
        let logs = logs.filter(|(row, _)| row.flush.is_valid());
        let oldest = if self.compares_all { Some(segment(self.facts.oldest?)) } else { None };
        let first_to_compare = |(row, committed): (&LogStatusRow, Lsn)| {
            let first = first_byte(&row.history);
            let from = if begin_at_slot { restart } else { restart.min(committed.max(first)) };
            oldest.unwrap_or_else(|| segment(from)).max(first)
        };
        let first = logs.map(first_to_compare).min();
        Some(first.unwrap_or_else(|| segment(restart).max(segment(Lineage::of(&self.facts).newest_begin()))))
    }

    /// Bytes from here on are needed: not committed, or not compared.
    pub(super) fn trim_limit(&self) -> Lsn {
        if let Step::Leading(leadership) = &self.step {
            return leadership.commit().unwrap_or(Lsn::INVALID);
        }
        let committed = self.evidence.iter().flat_map(|found| &found.rows).map(|(_, row)| row.commit).max();
        let compared = self.comparison.as_ref().map_or(Lsn::INVALID, |comparison| comparison.position());
        committed.unwrap_or(Lsn::INVALID).min(compared)
    }
}
