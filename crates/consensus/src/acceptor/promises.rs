//! What leaves an acceptor only when its promise is durable: votes, acknowledgements, and the control-file writes they wait for.

use super::{Acceptor, AcceptorCommand, PendingVote};
use crate::faults::Fault;
use crate::message::{AcceptorMessage, AppendResponse, VoteResponse};
use bytes::Bytes;
use lsn::Lsn;

impl Acceptor {
    /// Tells the leader how far this log is durable.
    pub(super) fn acknowledge(&mut self) {
        self.acknowledge_with(None);
    }

    pub(super) fn acknowledge_with(&mut self, feedback: Option<Bytes>) {
        let Some((term, session)) = self.leader else { return };
        assert!(self.flush <= self.durable, "only durable WAL is acknowledged");
        let early = self.broken.is(Fault::AcknowledgeBeforeSync);
        let response = AppendResponse {
            generation: self.generation(),
            term,
            flush: if early { self.written } else { self.flush },
            commit: self.persisted_commit,
            standby: self.standby,
            feedback,
        };
        self.send(session, AcceptorMessage::Append(response));
    }

    /// Returns whether the commit LSN moved.
    pub(super) fn advance_commit(&mut self) -> bool {
        let beyond = self.broken.is(Fault::CommitBeyondFlush);
        let new = if beyond { self.leader_commit } else { self.leader_commit.min(self.flush) };
        if self.leader.is_none() || new <= self.state.commit {
            return false;
        }
        self.state.commit = new;
        self.heal();
        // A proposer that only completes a quorum waits until the start of its term is known to be committed here.
        if new >= self.term_start() && self.persisted_commit < self.term_start() {
            self.request_persist();
        }
        true
    }

    /// A damaged log is whole again once it holds, under a leader that others elected, all it lost and all that is committed.
    pub(super) fn heal(&mut self) {
        let below = self.state.damaged_below;
        let learned = self.leader.is_some() && self.flush >= below && self.state.commit >= self.term_start();
        if below.is_valid() && learned && self.flush >= self.leader_commit {
            self.state.damaged_below = Lsn::INVALID;
            self.request_persist();
        }
    }

    pub(super) fn release_votes(&mut self) {
        let (done, durable) = (self.tickets.done, self.durable);
        let ready = |vote: &PendingVote| vote.after_ticket <= done && vote.after_durable <= durable;
        let (released, waiting) = std::mem::take(&mut self.votes).into_iter().partition(ready);
        self.votes = waiting;
        let released: Vec<PendingVote> = released;
        let told = if self.broken.is(Fault::HistoryNotCut) { Lsn::MAX } else { self.flush };
        for vote in released {
            let response = VoteResponse {
                generation: self.generation(),
                term: vote.term,
                granted: vote.granted,
                flush: self.flush,
                truncate: self.truncate,
                history: self.state.history.cut(told),
            };
            self.send(vote.session, AcceptorMessage::Vote(response));
        }
    }

    pub(super) fn request_persist(&mut self) -> u64 {
        if self.tickets.issued > self.tickets.done {
            self.tickets.again = true;
            return self.tickets.issued + 1;
        }
        self.issue_persist();
        self.tickets.issued
    }

    pub(super) fn issue_persist(&mut self) {
        self.tickets.issued += 1;
        self.tickets.commit_under_way = self.state.commit;
        if self.state.cutting.is_none() && self.state.damaged_below <= self.flush {
            self.state.floor = self.flush;
        }
        let state = Box::new(self.state.clone());
        self.commands.push_back(AcceptorCommand::Persist { ticket: self.tickets.issued, state });
    }
}
