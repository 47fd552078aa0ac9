//! Leading: sessions, Elected, acknowledgements, answers to the primary.

use super::{Leader, Step};
use crate::session::{RECONNECT, Stage};
use crate::{Command, Peer};
use consensus::{
    AcceptorMessage, AppendRequest, AppendResponse, Introduction, Leadership, Membership, Outcome, ProposerGreeting,
    ProposerMessage,
};
use lsn::{DiskId, Lsn, NodeId};
use std::time::Instant;

/// How much of the ring must be ahead of a safekeeper that has caught up before its session is opened again, as a fraction:
/// what is trimmed while it greets must not take the ground from under it.
const REJOIN_SHARE: u64 = 4;

impl Leader {
    pub(super) fn open_session(&mut self, now: Instant, peer: Peer) {
        let Some(attempt) = self.attempt() else { return };
        let introduction = Introduction {
            path: attempt.path.clone(),
            tli_history: attempt.facts.tli_history.clone(),
            fence_token: self.fence_token(attempt),
            completes: self.options.completes,
        };
        let Some(session) = self.sessions.get_mut(peer.0) else { return };
        session.open(now);
        self.commands.push_back(Command::OpenPush { peer, introduction });
    }

    /// The push session is open. `node` and `disk` are what the safekeeper said of itself on this connection.
    pub fn handle_push_opened(&mut self, now: Instant, peer: Peer, node: NodeId, disk: DiskId) {
        let Some(session) = self.sessions.get(peer.0).filter(|session| session.stage == Stage::Opening) else { return };
        let Some(facts) = self.attempt().map(|attempt| &attempt.facts) else { return };
        // An emptied disk must not be counted: what it acknowledges, it may forget in the next vote.
        let member = self.counting_membership().is_some_and(|membership| membership.includes(node, disk));
        if !member {
            // Only another record makes it one, and that begins everything anew.
            self.commands.push_back(Command::ClosePush { peer });
            let reason = format!("safekeeper {node} with disk {disk} is not a member of the cluster");
            if let Some(session) = self.sessions.get_mut(peer.0) {
                session.close(Some(reason), None);
            }
            return;
        }
        let twin = |other: &Peer| {
            let session = self.sessions.get(other.0);
            *other != peer && session.is_some_and(|other| other.stage > Stage::Opening && other.node == Some(node))
        };
        if let Some(twin) = self.peers().find(twin) {
            let reason = format!("this is safekeeper {node}, which is reached at {} already", self.address(twin));
            self.fail_session(now, peer, reason);
            return;
        }
        let greeting = ProposerGreeting {
            cluster: self.options.cluster,
            membership: Membership::none(),
            pg_version: facts.version_num,
            system_id: facts.system_id,
            segment_size: facts.segment_size.as_u32(),
        };
        let flush = session.flush.filter(|_| session.node == Some(node));
        let Some(session) = self.sessions.get_mut(peer.0) else { return };
        (session.node, session.flush, session.heard) = (Some(node), flush, now);
        session.stage = Stage::Greeting;
        session.outbox.push_back(ProposerMessage::Greeting(greeting));
    }

    /// The push session could not be opened, or ended. One sentence, without the address.
    pub fn handle_push_closed(&mut self, now: Instant, peer: Peer, reason: String) {
        if let Some(session) = self.sessions.get_mut(peer.0).filter(|session| session.is_open()) {
            session.close(Some(reason), Some(now + RECONNECT));
            // It may have been one of those that commit.
            self.sessions.iter_mut().for_each(|session| session.set_trailing(false));
            self.forward_feedback();
        }
    }

    /// Closes a session that cannot go on, and opens it again in a second.
    pub(super) fn fail_session(&mut self, now: Instant, peer: Peer, reason: String) {
        if self.sessions.get(peer.0).is_some_and(|session| session.is_open()) {
            self.commands.push_back(Command::ClosePush { peer });
            self.handle_push_closed(now, peer, reason);
        }
    }

    /// Takes a message of a safekeeper.
    pub fn handle_push_message(&mut self, now: Instant, peer: Peer, message: AcceptorMessage) {
        let Some(session) = self.sessions.get_mut(peer.0).filter(|session| session.is_open()) else { return };
        session.heard = now;
        match message {
            AcceptorMessage::Greeting(greeting) if session.stage == Stage::Greeting => {
                self.handle_greeting(now, peer, greeting);
            }
            AcceptorMessage::Greeting(_) => self.fail_session(now, peer, "greeted out of turn".to_owned()),
            AcceptorMessage::Vote(response) => self.handle_vote(now, peer, response),
            AcceptorMessage::Append(response) => self.handle_append_response(now, peer, response),
        }
    }

    fn counting_membership(&self) -> Option<&Membership> {
        match &self.attempt()?.step {
            Step::Campaigning(candidacy) => Some(&candidacy.membership),
            Step::Leading(leadership) => Some(leadership.membership()),
            _ => None,
        }
    }

    pub(super) fn begin_leading(&mut self, now: Instant, leadership: Leadership) {
        let Some(attempt) = self.attempt_mut() else { return };
        let received = attempt.ring.as_ref().map_or(Lsn::INVALID, |ring| ring.end());
        assert!(leadership.start() <= received, "a donor is contained only up to what was received and compared");
        attempt.step = Step::Leading(leadership);
        self.elections += 1;
        self.refusals = 0;
        self.begin_at_slot = false;
        self.clear_trouble();
        for peer in self.peers() {
            if self.sessions.get(peer.0).is_some_and(|session| session.stage == Stage::Voted) {
                self.send_elected(now, peer);
            }
        }
        self.trim_ring();
    }

    /// Tells a safekeeper of the term, and probes at once: its answer counts towards the commit of the term's start.
    pub(super) fn send_elected(&mut self, now: Instant, peer: Peer) {
        let Some(vote) = self.sessions.get(peer.0).and_then(|session| session.vote.clone()) else { return };
        let Some(attempt) = self.attempt_mut() else { return };
        let (Step::Leading(leadership), Some(ring)) = (&mut attempt.step, &attempt.ring) else { return };
        let elected = leadership.elected_for(&vote);
        let start = elected.start_streaming_at;
        let commit = leadership.commit().unwrap_or(Lsn::INVALID);
        let (ring_begin, ring_end) = (ring.begin(), ring.end());
        if start > ring_end {
            let reason = format!("claims WAL of our term up to {start}, which the primary has not sent");
            self.fail_session(now, peer, reason);
            return;
        }
        let (stage, position) =
            if start < ring_begin { (Stage::CatchingUp, ring_end) } else { (Stage::Streaming { next: start }, start) };
        // Without a commit LSN in it the probe is answered whatever the safekeeper knows already.
        let probe = AppendRequest {
            generation: elected.generation,
            term: elected.term,
            begin: position,
            end: position,
            commit: Lsn::INVALID,
            truncate: Lsn::INVALID,
            wal: bytes::Bytes::new(),
        };
        let Some(session) = self.sessions.get_mut(peer.0) else { return };
        session.stage = stage;
        session.outbox.push_back(ProposerMessage::Elected(elected));
        session.outbox.push_back(ProposerMessage::Append(probe));
        session.note_sent(now, Lsn::INVALID);
        session.note_commit(now, commit);
    }

    fn handle_append_response(&mut self, now: Instant, peer: Peer, response: AppendResponse) {
        let received = self.ring().map_or(Lsn::INVALID, |ring| ring.end());
        let Some(session) = self.sessions.get_mut(peer.0).filter(|session| session.is_elected()) else {
            self.fail_session(now, peer, "acknowledged WAL before it was elected to".to_owned());
            return;
        };
        let Some(node) = session.node else { return };
        let Some(Step::Leading(leadership)) = self.attempt_mut().map(|attempt| &mut attempt.step) else { return };
        if response.term == leadership.term() && response.flush > received {
            let reason = format!("acknowledged WAL up to {}, which was never sent", response.flush);
            self.fail_session(now, peer, reason);
            return;
        }
        let outcome = leadership.handle_append_response(node, &response);
        match outcome {
            Outcome::Deposed(term) => return self.deposed(now, term),
            Outcome::Foreign => {
                self.fail_session(now, peer, "answered by another membership record or term".to_owned());
                return;
            }
            Outcome::Committed(_) | Outcome::Noted => {}
        }
        if let Some(session) = self.sessions.get_mut(peer.0) {
            session.flush = Some(response.flush);
            session.responded = Some(now);
            session.standby = response.standby;
            session.error = None;
        }
        if let Outcome::Committed(commit) = outcome {
            self.choose_trailing(now, commit);
            for session in &mut self.sessions {
                session.note_commit(now, commit);
            }
            self.answer_primary();
            self.trim_ring();
        }
        self.forward_feedback();
        self.rejoin(now, peer);
        if let Some(feedback) = &response.feedback {
            self.take_feedback(now, feedback);
        }
        self.consider_change(now);
    }

    /// Who was not needed for this commit gets its WAL in larger batches, until a commit needs it. Whoever acknowledged first
    /// is the majority of the next commits, so a safekeeper that stalls trades its place with one that does not.
    fn choose_trailing(&mut self, now: Instant, commit: Lsn) {
        let Some(end) = self.ring().map(|ring| ring.end()) else { return };
        let Some(Step::Leading(leadership)) = self.attempt().map(|attempt| &attempt.step) else { return };
        let behind =
            |node: Option<NodeId>| node.and_then(|node| leadership.flush_of(node)).is_none_or(|flush| flush < commit);
        let behind: Vec<bool> = self.sessions.iter().map(|session| behind(session.node)).collect();
        for (session, behind) in self.sessions.iter_mut().zip(behind) {
            session.set_trailing(behind);
            session.note_wal(now, end);
        }
    }

    /// Reports to the primary what may release its commits.
    fn answer_primary(&mut self) {
        let Some(attempt) = self.attempt_mut() else { return };
        let (Step::Leading(leadership), Some(ring)) = (&attempt.step, &attempt.ring) else { return };
        let Some(commit) = leadership.commit() else { return };
        // An earlier answer would move the slot back; one below the TLI would speak of another server's WAL.
        let restart = attempt.facts.slot.and_then(|slot| slot.restart).unwrap_or(Lsn::MAX);
        let newest = attempt.path.last().begin;
        if commit < restart || (newest.is_valid() && commit <= newest) {
            return;
        }
        let position = commit.min(ring.end());
        if position <= attempt.answered {
            return;
        }
        attempt.answered = position;
        self.commands.push_back(Command::AnswerPrimary { write: position, flush: position, apply: Lsn::INVALID });
    }

    /// Passes on what the standbys hold back. The first time even if it is nothing: the slot may remember more.
    fn forward_feedback(&mut self) {
        if self.commit().is_none() {
            return;
        }
        let least = |value: fn(&consensus::HotStandbyFeedback) -> u64| {
            self.sessions.iter().map(|session| value(&session.standby)).filter(|&xid| xid != 0).min().unwrap_or(0)
        };
        let (xmin, catalog_xmin) = (least(|standby| standby.xmin), least(|standby| standby.catalog_xmin));
        let Some(attempt) = self.attempt_mut() else { return };
        if attempt.feedback != Some((xmin, catalog_xmin)) {
            attempt.feedback = Some((xmin, catalog_xmin));
            self.commands.push_back(Command::Feedback { xmin, catalog_xmin });
        }
    }

    /// A safekeeper that learned from others until it is within our memory again gets a new session, and WAL from us.
    fn rejoin(&mut self, now: Instant, peer: Peer) {
        let margin = self.options.ring_bytes / REJOIN_SHARE;
        let (Some(ring), Some(commit)) = (self.ring(), self.commit()) else { return };
        let Some(session) = self.sessions.get(peer.0).filter(|session| session.stage == Stage::CatchingUp) else {
            return;
        };
        let near = session.flush.unwrap_or_default();
        if near >= ring.begin() && near >= ring.begin().saturating_add(margin).min(commit) {
            self.commands.push_back(Command::ClosePush { peer });
            if let Some(session) = self.sessions.get_mut(peer.0) {
                session.close(None, None);
            }
            self.open_session(now, peer);
        }
    }
}
