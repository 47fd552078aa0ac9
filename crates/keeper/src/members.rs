//! Membership, as far as one safekeeper has to do with it: taking a record, and passing a wish on to the leader.

use crate::keeper::Keeper;
use consensus::{MembersLog, Membership, RecordRefusal, ServerInfo};
use lsn::Lsn;
use quorum_proto::{LogState, LogStatusRow, RecordTaken, Wish};
use std::time::Instant;

impl Keeper {
    /// Takes a record with a higher generation. Returns the ticket for [`Keeper::has_persisted`]; sessions that count by the record
    /// before are ended.
    pub fn handle_record(&mut self, now: Instant, record: Membership) -> Result<u64, RecordRefusal> {
        let before = self.acceptor.state().membership.generation;
        let ticket = self.acceptor.handle_record(record)?;
        let after = self.acceptor.state().membership.generation;
        if after != before {
            self.pull.clear_gap();
            for session in self.receivers.ids() {
                self.close_receiver(session, format!("the membership record has changed to generation {after}"));
            }
            self.version += 1;
        }
        self.drive(now);
        Ok(ticket)
    }

    /// Gives the cluster another name; the ticket says when it is durable.
    pub fn rename(&mut self, now: Instant, name: String) -> Result<u64, RecordRefusal> {
        let ticket = self.acceptor.rename(name)?;
        self.version += 1;
        self.drive(now);
        Ok(ticket)
    }

    /// Whether everything up to a ticket is durable.
    pub fn has_persisted(&self, ticket: u64) -> bool {
        self.acceptor.has_persisted(ticket)
    }

    /// What is answered to whoever brought a record.
    pub fn record_taken(&self) -> RecordTaken {
        let state = self.acceptor.state();
        RecordTaken { generation: state.membership.generation, term: state.term, flush: self.acceptor.flush() }
    }

    /// Passes a wish on to the leader. False if none leads here, or counts by another generation.
    pub fn forward_wish(&mut self, now: Instant, wish: &Wish) -> bool {
        let ours = self.acceptor.state().membership.generation;
        if self.acceptor.leader_term().is_none() || wish.wanted.generation != ours {
            return false;
        }
        self.acceptor.send_feedback(wish.to_feedback());
        self.drive(now);
        true
    }

    /// An operator takes a damaged log as it is. Returns the ticket for [`Keeper::has_persisted`]; `None` if it is not damaged, or does
    /// not end at `end`.
    pub fn handle_accepted(&mut self, now: Instant, end: Lsn) -> Option<u64> {
        let ticket = self.acceptor.handle_accepted(end)?;
        self.version += 1;
        self.drive(now);
        Some(ticket)
    }

    /// A member told its log, whose first byte is `oldest`: a learner follows it. Does nothing on a member, and while WAL is being
    /// pulled already.
    pub fn handle_members_log(&mut self, now: Instant, row: &LogStatusRow, oldest: Lsn) {
        let Some(path) = row.path.clone() else { return };
        let usable = row.state == LogState::Member && row.last_log_term == row.term;
        if !usable || self.stopped.is_some() || self.is_member() || self.pull.is_under_way() {
            return;
        }
        let server =
            ServerInfo { system_id: row.system_id, segment_size: row.segment_size, pg_version: row.pg_version };
        let log = MembersLog { term: row.term, history: row.history.clone(), path, server, commit: row.commit, oldest };
        match self.acceptor.handle_learn(log) {
            Ok(true) => self.pull.see_gap(row.term),
            Ok(false) => {}
            Err(refusal) => self.pull.ended(now, Err(format!("cannot learn from safekeeper {}: {refusal}", row.node))),
        }
        self.drive(now);
    }

    /// First byte that is still here.
    pub fn oldest(&self) -> Lsn {
        self.oldest
    }

    /// Whether this safekeeper's disk may be forgotten: its record does not name it.
    pub fn is_member(&self) -> bool {
        let (state, identity) = (self.acceptor.state(), self.options.identity);
        !state.membership.is_set() || state.membership.includes(identity.node, identity.disk)
    }
}
