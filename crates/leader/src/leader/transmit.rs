//! Messages out, and time.

use super::{Leader, Phase, Step};
use crate::session::{SESSION_TIMEOUT, Stage};
use crate::{Command, Peer, Transmit};
use bytes::Bytes;
use consensus::{AppendRequest, MAX_APPEND_BYTES, ProposerMessage};
use lsn::Lsn;
use std::time::Instant;

impl Leader {
    /// Whether [`Leader::poll_transmit`] has something for this safekeeper.
    pub fn has_transmit(&self, peer: Peer) -> bool {
        self.sessions.get(peer.0).is_some_and(|session| session.has_transmit(self.ring()))
    }

    /// The next message for a safekeeper. Take only what its connection can take: what stays here is not lost, and may become
    /// part of a larger append.
    pub fn poll_transmit(&mut self, now: Instant, peer: Peer) -> Option<Transmit> {
        let session = self.sessions.get_mut(peer.0)?;
        if let Some(message) = session.outbox.pop_front() {
            return Some(Transmit::Message(message));
        }
        let Phase::Attached(attempt) = &self.phase else { return None };
        let (Step::Leading(leadership), Some(ring)) = (&attempt.step, &attempt.ring) else { return None };
        if !session.append_due && !session.wants_wal(ring.end()) {
            return None;
        }
        let begin = match session.stage {
            Stage::Streaming { next } => next,
            // Empty appends are exempt from contiguity: this only says how far the others are.
            Stage::CatchingUp => ring.end(),
            _ => return None,
        };
        let mut wal = Vec::new();
        let length = ring.collect(begin, MAX_APPEND_BYTES, &mut wal);
        let end = begin.saturating_add(length as u64);
        let commit = leadership.commit().unwrap_or(Lsn::INVALID);
        if let Stage::Streaming { next } = &mut session.stage {
            *next = end;
        }
        session.note_sent(now, commit);
        session.note_wal(now, ring.end());
        let request = AppendRequest {
            generation: leadership.membership().generation,
            term: leadership.term(),
            begin,
            end,
            commit,
            truncate: leadership.truncate(),
            wal: Bytes::new(),
        };
        if length == 0 {
            return Some(Transmit::Message(ProposerMessage::Append(request)));
        }
        Some(Transmit::Append { request, wal })
    }

    /// When [`Leader::handle_timeout`] is to be called next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let sessions = self.sessions.iter().filter_map(|session| session.next_timeout()).min();
        let phase = match &self.phase {
            Phase::Pausing { until } => Some(*until),
            Phase::Checking => None,
            Phase::Attached(attempt) => {
                let step = match &attempt.step {
                    Step::Looking => attempt.looks.grace_until,
                    Step::Resting { until } => Some(*until),
                    Step::Campaigning(candidacy) => Some(candidacy.deadline),
                    Step::ReadingMarks { until } => Some(*until),
                    Step::CreatingSlot | Step::StartingStream | Step::Comparing | Step::Leading(_) => None,
                };
                let comparison = attempt.comparison.as_ref().map(|comparison| comparison.deadline);
                [step, comparison, attempt.shutdown_deadline, attempt.change_deadline()].into_iter().flatten().min()
            }
        };
        [sessions, phase].into_iter().flatten().min()
    }

    /// Does what is due. Harmless when nothing is.
    pub fn handle_timeout(&mut self, now: Instant) {
        match &self.phase {
            Phase::Pausing { until } if *until <= now => {
                self.phase = Phase::Checking;
                self.commands.push_back(Command::CheckPrimary);
            }
            Phase::Pausing { .. } | Phase::Checking => {}
            Phase::Attached(attempt) => match &attempt.step {
                Step::Looking if attempt.looks.grace_until.is_some_and(|until| until <= now) => self.judge_look(now),
                Step::Resting { until } if *until <= now => self.begin_look(),
                _ => {}
            },
        }
        self.give_up_comparison(now);
        self.check_campaign(now);
        self.check_shutdown(now);
        self.check_change(now);
        for peer in self.peers() {
            self.check_session(now, peer);
        }
    }

    fn check_session(&mut self, now: Instant, peer: Peer) {
        let Some(session) = self.sessions.get_mut(peer.0) else { return };
        if !session.is_open() {
            if session.retry_at.is_some_and(|at| at <= now) {
                self.open_session(now, peer);
            }
        } else if session.heard + SESSION_TIMEOUT <= now {
            self.fail_session(now, peer, format!("silent for {} s", SESSION_TIMEOUT.as_secs()));
        } else {
            session.mark_due(now);
        }
    }
}
