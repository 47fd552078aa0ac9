//! [`Acceptor`]: the promises of one safekeeper for one cluster.
//!
//! Drive it like this: hand every event to a `handle_*` method, then take commands from [`Acceptor::poll_command`] until
//! there are none and carry them out in order. While [`Acceptor::is_busy`] (an Elected message is being processed) no
//! further message of any session may be handed in; it always ends with a completion.
//!
//! Invariants
//! - `flush <= durable <= written`: end of the last whole record that is durable, end of the durable bytes, end of the bytes.
//! - A vote leaves after its term *and* all WAL received before it are durable; an acknowledgement of WAL after that WAL is.
//! - Nothing is appended between start-up and the first Elected of a term, because only a cut makes the tail known.
//! - Bytes are cut in three durable steps: announce, cut, adopt the history. A crash after any step is repaired at start-up.
//! - Nothing at or below the commit LSN is ever cut; a leader that asks for it is refused.

mod elected;
mod fencing;
mod learning;
mod promises;
mod record;
mod remembered;
#[cfg(feature = "faults")]
mod view;

use crate::faults::{Broken, Fault};
use crate::message::*;
use crate::{AcceptorState, Identity, Introduction, Refusal, ServerInfo};
use bytes::Bytes;
use lsn::{Lsn, Path, SegmentSize, Term};
use std::collections::{BTreeMap, VecDeque};

pub use learning::MembersLog;
pub use record::RecordRefusal;

/// One connection of a proposer, numbered by the caller; never reused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SessionId(pub u64);

/// Whether this disk may vote, and if not, why.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Standing {
    /// It counts.
    Member,
    /// The record does not name this node.
    Learner,
    /// It counts again once it has learned what it lost.
    Damaged,
    /// The record names this node with another disk.
    ForeignDisk,
}

/// What has to be done.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum AcceptorCommand {
    /// Make this state durable, then call [`Acceptor::handle_persisted`] with the ticket. At most one is under way.
    Persist {
        /// Counts up.
        ticket: u64,
        /// What to write.
        state: Box<AcceptorState>,
    },
    /// Put these bytes where they belong. They need not be durable yet.
    Write {
        /// First byte.
        begin: Lsn,
        /// The bytes.
        wal: Bytes,
    },
    /// Remove everything at and above `to` durably (an empty log begins there), then call [`Acceptor::handle_cut`].
    Cut {
        /// The new end of the log.
        to: Lsn,
        /// The log was empty and begins at `to`.
        first: bool,
        /// The leader's path: the log's from now on.
        path: Path,
        /// What is known of the primary by now; the segment size among it.
        server: ServerInfo,
    },
    /// Send this.
    Send {
        /// To whom.
        session: SessionId,
        /// What.
        message: AcceptorMessage,
    },
    /// End a session: it was refused in the middle of something.
    Refuse {
        /// Whom.
        session: SessionId,
        /// Why.
        refusal: Refusal,
    },
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Session {
    server: ServerInfo,
    introduction: Introduction,
}

/// An Elected message under way, with what its session said of the primary: the session itself may end meanwhile.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Elected {
    session: SessionId,
    server: ServerInfo,
    path: Path,
    tli_history: String,
    message: ProposerElected,
}

/// How far the processing of an Elected message has come.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
enum Phase {
    Steady,
    /// Everything written becomes durable first, so that the end of this log is known.
    Settling(Elected),
    /// Step (a): the cut is announced.
    Announcing {
        elected: Elected,
        to: Lsn,
        ticket: u64,
    },
    /// Step (b): bytes go.
    Cutting {
        elected: Elected,
        to: Lsn,
    },
    /// Step (c): the history is adopted.
    Adopting {
        elected: Elected,
        ticket: u64,
    },
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct PendingVote {
    session: SessionId,
    /// The term as this request left it; a later request may have raised it since.
    term: Term,
    granted: bool,
    after_ticket: u64,
    after_durable: Lsn,
}

/// Tickets of control-file writes: one under way, at most one more wanted.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
struct Tickets {
    issued: u64,
    done: u64,
    again: bool,
    commit_under_way: Lsn,
}

/// One cluster on one safekeeper, as far as consensus goes.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Acceptor {
    identity: Identity,
    state: AcceptorState,
    persisted_commit: Lsn,
    written: Lsn,
    durable: Lsn,
    flush: Lsn,
    /// Whether nothing but zeros and stale pages stands above `written`.
    tail_clean: bool,
    leader: Option<(Term, SessionId)>,
    leader_commit: Lsn,
    truncate: Lsn,
    standby: HotStandbyFeedback,
    sessions: BTreeMap<SessionId, Session>,
    phase: Phase,
    votes: Vec<PendingVote>,
    tickets: Tickets,
    commands: VecDeque<AcceptorCommand>,
    pub(crate) broken: Broken,
}

impl Acceptor {
    /// From what was found on disk: the control file's state and the end of the last whole record, durable by now.
    ///
    /// `state.cutting` must have been redone already, and is taken as done. An `end` below its floor or its commit LSN is damage.
    pub fn new(identity: Identity, mut state: AcceptorState, end: Lsn) -> Acceptor {
        state.cutting = None;
        let promised = state.floor.max(state.commit);
        if end < promised {
            state.damaged_below = state.damaged_below.max(promised);
        }
        let persisted_commit = state.commit;
        let acceptor = Acceptor {
            identity,
            persisted_commit,
            written: end,
            durable: end,
            flush: end,
            tail_clean: false,
            leader: None,
            leader_commit: Lsn::INVALID,
            truncate: Lsn::INVALID,
            standby: HotStandbyFeedback::default(),
            sessions: BTreeMap::new(),
            phase: Phase::Steady,
            votes: Vec::new(),
            tickets: Tickets::default(),
            commands: VecDeque::new(),
            broken: Broken::default(),
            state,
        };
        acceptor.validate();
        acceptor
    }

    /// Marks the log as damaged up to `below`, found in another way than by its end.
    pub fn mark_damaged(&mut self, below: Lsn) {
        self.state.damaged_below = self.state.damaged_below.max(below);
        self.request_persist();
    }

    /// The newest state, durable or not.
    pub fn state(&self) -> &AcceptorState {
        &self.state
    }

    /// Who this is.
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// End of the bytes taken in.
    pub fn written(&self) -> Lsn {
        self.written
    }

    /// The flush LSN.
    pub fn flush(&self) -> Lsn {
        self.flush
    }

    /// The commit LSN, never above the flush LSN but right after damage.
    pub fn commit(&self) -> Lsn {
        self.state.commit
    }

    /// The leader's commit LSN as last heard; may be above what is here.
    pub fn leader_commit(&self) -> Lsn {
        self.leader_commit
    }

    /// The term whose Elected message was processed since start-up and still stands.
    pub fn leader_term(&self) -> Option<Term> {
        self.leader.map(|(term, _)| term)
    }

    /// The session the current leader appends on.
    pub fn leader_session(&self) -> Option<SessionId> {
        self.leader.map(|(_, session)| session)
    }

    /// Whether this disk may vote.
    pub fn standing(&self) -> Standing {
        let Identity { node, disk } = self.identity;
        let membership = &self.state.membership;
        if membership.is_set() && !membership.includes(node, disk) && !self.broken.is(Fault::ForeignVoter) {
            return if membership.member(node).is_some() { Standing::ForeignDisk } else { Standing::Learner };
        }
        let damaged = self.state.damaged_below.is_valid() && !self.broken.is(Fault::DamagedVoter);
        if damaged { Standing::Damaged } else { Standing::Member }
    }

    /// The lineage that may be shown: a TLI is public once something on it is committed, because until then another primary
    /// may win, and its TLI may have the same number.
    pub fn public_path(&self) -> Option<Path> {
        let end = if self.broken.is(Fault::SwitchShownEarly) { self.flush } else { self.state.commit };
        self.state.path.as_ref().map(|path| path.cut(end))
    }

    /// Whether messages have to wait.
    pub fn is_busy(&self) -> bool {
        !matches!(self.phase, Phase::Steady)
    }

    /// What the standbys here hold back, for the next acknowledgements.
    pub fn set_standby_feedback(&mut self, standby: HotStandbyFeedback) {
        self.standby = standby;
    }

    /// Takes a greeting. The introduction comes from the options of the session.
    pub fn handle_greeting(
        &mut self,
        session: SessionId,
        greeting: &ProposerGreeting,
        introduction: Introduction,
    ) -> Result<(), Refusal> {
        if greeting.cluster != self.state.cluster {
            return Err(Refusal::Cluster(greeting.cluster));
        }
        let ours = &self.state.server;
        let theirs = ServerInfo {
            system_id: greeting.system_id,
            segment_size: greeting.segment_size,
            pg_version: greeting.pg_version,
        };
        if SegmentSize::new(theirs.segment_size.into()).is_err() {
            return Err(Refusal::SegmentSize { ours: ours.segment_size, theirs: theirs.segment_size });
        }
        let unlike = |a: u64, b: u64| a != 0 && b != 0 && a != b;
        if unlike(ours.system_id.0, theirs.system_id.0) {
            return Err(Refusal::SystemId { ours: ours.system_id, theirs: theirs.system_id });
        }
        if unlike(ours.segment_size.into(), theirs.segment_size.into()) {
            return Err(Refusal::SegmentSize { ours: ours.segment_size, theirs: theirs.segment_size });
        }
        if unlike(ours.major().into(), theirs.major().into()) {
            return Err(Refusal::Version { ours: ours.major(), theirs: theirs.major() });
        }
        self.sessions.insert(session, Session { server: theirs, introduction });
        let answer = AcceptorGreeting {
            node: self.identity.node,
            membership: self.state.membership.clone(),
            term: self.state.term,
        };
        self.send(session, AcceptorMessage::Greeting(answer));
        Ok(())
    }

    /// Takes a vote request. The answer leaves once the term and all WAL received so far are durable.
    pub fn handle_vote(&mut self, session: SessionId, request: VoteRequest) -> Result<(), Refusal> {
        self.check_session(session)?;
        self.check_fence(session)?;
        self.check_generation(request.generation)?;
        let again = request.term == self.state.term && self.broken.is(Fault::VoteTwice);
        let granted = self.standing() == Standing::Member && (request.term > self.state.term || again);
        let mut after_ticket = self.tickets.done;
        if granted {
            self.state.term = request.term;
            // Whoever led before is deposed from this instant: its appends are answered with the new term.
            self.leader = self.leader.filter(|_| self.broken.is(Fault::DeposedAppends));
            let ticket = self.request_persist();
            after_ticket = if self.broken.is(Fault::VoteBeforePersist) { after_ticket } else { ticket };
        } else if self.tickets.issued > self.tickets.done {
            // The term reported may be one that is still on its way to the disk.
            after_ticket = if self.tickets.again { self.tickets.issued + 1 } else { self.tickets.issued };
        }
        self.votes.push(PendingVote {
            session,
            term: self.state.term,
            granted,
            after_ticket,
            after_durable: if self.broken.is(Fault::VoteBeforeSync) { self.durable } else { self.written },
        });
        self.release_votes();
        Ok(())
    }

    /// Takes an Elected message; the acceptor is busy until it is processed. There is no answer.
    pub fn handle_elected(&mut self, session: SessionId, message: ProposerElected) -> Result<(), Refusal> {
        let Some(Session { server, introduction }) = self.sessions.get(&session) else {
            return Err(Refusal::NoGreeting);
        };
        let (server, path, tli_history) = (*server, introduction.path.clone(), introduction.tli_history.clone());
        self.check_fence(session)?;
        self.check_generation(message.generation)?;
        assert!(!self.is_busy(), "one Elected message at a time");
        if message.history.last_term() != message.term {
            return Err(Refusal::History(message.term));
        }
        if message.term < self.state.term {
            // The sender learns of the higher term from the answer to its next append.
            return Ok(());
        }
        if matches!(self.standing(), Standing::Learner | Standing::ForeignDisk) {
            return Err(Refusal::NotMember);
        }
        self.leader = None;
        self.phase = Phase::Settling(Elected { session, server, path, tli_history, message });
        self.advance_phase();
        Ok(())
    }

    /// Takes an append. `check` looks at new bytes before they are taken and says what is wrong with them, if anything.
    pub fn handle_append(
        &mut self,
        session: SessionId,
        append: AppendRequest,
        check: impl FnOnce(Lsn, &[u8]) -> Result<(), String>,
    ) -> Result<(), Refusal> {
        self.check_session(session)?;
        let AppendRequest { generation, term, begin, end, commit, truncate, wal } = append;
        self.check_generation(generation)?;
        if begin > end || wal.len() > MAX_APPEND_BYTES || end.bytes_since(begin) != wal.len() as u64 {
            return Err(Refusal::Length { begin, end, bytes: wal.len() });
        }
        let leads = self.leader == Some((term, session));
        if term < self.state.term && !(leads && self.broken.is(Fault::DeposedAppends)) {
            let deposed =
                AppendResponse { generation: self.generation(), term: self.state.term, ..AppendResponse::default() };
            self.send(session, AcceptorMessage::Append(deposed));
            return Ok(());
        }
        if !leads && !self.broken.is(Fault::AppendUnelected) {
            return Err(Refusal::NotElected(term));
        }
        let heartbeat = wal.is_empty();
        if !heartbeat {
            self.take_wal(begin, wal, check)?;
        }
        self.leader_commit = self.leader_commit.max(commit);
        self.truncate = self.truncate.max(truncate);
        let advanced = self.advance_commit();
        if self.broken.is(Fault::AppendUnelected) && self.leader.is_none() {
            self.leader = Some((term, session));
        }
        let early = self.broken.is(Fault::AcknowledgeBeforeSync);
        if (heartbeat && !advanced) || early {
            self.acknowledge();
        }
        Ok(())
    }

    /// Takes WAL that was pulled from another member under the leader's term `term`. False if it no longer fits: another
    /// term, another end, or a broken log; the pull is over then.
    pub fn handle_pulled(
        &mut self,
        term: Term,
        begin: Lsn,
        wal: Bytes,
        check: impl FnOnce(Lsn, &[u8]) -> Result<(), String>,
    ) -> bool {
        let fits =
            self.leader_term() == Some(term) && self.state.term == term && !self.is_busy() && begin == self.written;
        fits && self.take_wal(begin, wal, check).is_ok()
    }

    fn take_wal(
        &mut self,
        begin: Lsn,
        wal: Bytes,
        check: impl FnOnce(Lsn, &[u8]) -> Result<(), String>,
    ) -> Result<(), Refusal> {
        if begin != self.written {
            return Err(Refusal::Contiguity { begin, end: self.written });
        }
        let Some(end) = begin.checked_add(wal.len() as u64) else {
            return Err(Refusal::Length { begin, end: Lsn::MAX, bytes: wal.len() });
        };
        if let Err(reason) = check(begin, &wal) {
            // The checker has lost its place; only a new Elected message gives it a new one.
            self.leader = None;
            return Err(Refusal::BadWal { begin, reason });
        }
        self.written = end;
        self.commands.push_back(AcceptorCommand::Write { begin, wal });
        Ok(())
    }

    /// A write could not be done for want of space and left the log as it was before: appends stop until the next Elected
    /// message, votes go on.
    pub fn handle_write_refused(&mut self, written: Lsn) {
        assert!(written >= self.durable && written <= self.written, "a refused write leaves what was there");
        self.written = written;
        self.tail_clean = false;
        self.leader = None;
        self.commands.retain(|command| !matches!(command, AcceptorCommand::Write { .. }));
        for vote in &mut self.votes {
            vote.after_durable = vote.after_durable.min(written);
        }
        self.release_votes();
        self.advance_phase();
    }

    /// WAL became durable: all bytes below `durable`, of which the last whole record ends at `flush`.
    pub fn handle_flushed(&mut self, durable: Lsn, flush: Lsn) {
        assert!(flush <= durable && durable <= self.written, "only what was written can become durable");
        self.durable = self.durable.max(durable);
        let moved = flush > self.flush;
        self.flush = self.flush.max(flush);
        self.advance_commit();
        if moved {
            self.heal();
            self.acknowledge();
        }
        self.release_votes();
        self.advance_phase();
    }

    /// The control file holds the state of this ticket.
    pub fn handle_persisted(&mut self, ticket: u64) {
        assert!(ticket == self.tickets.issued && ticket > self.tickets.done, "tickets are answered once, in order");
        self.tickets.done = ticket;
        let start = self.term_start();
        let early = self.persisted_commit < start && self.tickets.commit_under_way >= start;
        self.persisted_commit = self.persisted_commit.max(self.tickets.commit_under_way);
        if std::mem::take(&mut self.tickets.again) {
            self.issue_persist();
        }
        if early {
            self.acknowledge();
        }
        self.release_votes();
        self.advance_phase();
    }

    /// The cut asked for is durable.
    pub fn handle_cut(&mut self) {
        let Phase::Cutting { elected, to } = std::mem::replace(&mut self.phase, Phase::Steady) else {
            unreachable!("a cut ends only once");
        };
        (self.written, self.durable, self.flush) = (to, to, to);
        self.tail_clean = true;
        self.adopt(elected);
        self.validate();
    }

    /// A session ended, however.
    pub fn handle_disconnect(&mut self, session: SessionId) {
        self.sessions.remove(&session);
        self.votes.retain(|vote| vote.session != session);
        self.commands.retain(|command| !matches!(command, AcceptorCommand::Send { session: to, .. } if *to == session));
        if self.leader.is_some_and(|(_, of)| of == session) {
            self.leader = None;
        }
    }

    /// Passes a replica's feedback on to the leader, riding on an acknowledgement. Dropped while there is no leader.
    pub fn send_feedback(&mut self, feedback: Bytes) {
        self.acknowledge_with(Some(feedback));
    }

    /// Asks for the newest commit LSN and floor to be written down, if they moved. Off the commit path.
    pub fn checkpoint(&mut self) {
        // The floor stays where it is while a log is damaged: there is nothing to write down then.
        let floor_moves = self.flush > self.state.floor && self.state.damaged_below <= self.flush;
        if !self.is_busy() && (self.state.commit > self.persisted_commit || floor_moves) {
            self.request_persist();
        }
    }

    /// The next thing to do.
    pub fn poll_command(&mut self) -> Option<AcceptorCommand> {
        self.commands.pop_front()
    }

    fn check_session(&self, session: SessionId) -> Result<(), Refusal> {
        if self.sessions.contains_key(&session) { Ok(()) } else { Err(Refusal::NoGreeting) }
    }

    fn check_generation(&self, theirs: u32) -> Result<(), Refusal> {
        let ours = self.generation();
        let same = ours == theirs || self.broken.is(Fault::AnyGeneration);
        if same { Ok(()) } else { Err(Refusal::Generation { ours, theirs }) }
    }

    fn generation(&self) -> u32 {
        self.state.membership.generation
    }

    /// Where the last term of the adopted history begins; 0/0 without one.
    pub fn term_start(&self) -> Lsn {
        self.state.history.last().map_or(Lsn::INVALID, |entry| entry.begin)
    }

    fn send(&mut self, session: SessionId, message: AcceptorMessage) {
        self.commands.push_back(AcceptorCommand::Send { session, message });
    }

    /// What must hold between any two events.
    fn validate(&self) {
        assert!(self.flush <= self.durable && self.durable <= self.written, "flush <= durable <= written");
        assert!(self.state.history.last_term() <= self.state.term, "no history beyond the promised term");
        assert!(self.persisted_commit <= self.state.commit, "the commit LSN on disk follows the one in memory");
        assert!(self.state.commit <= self.flush || self.state.damaged_below.is_valid(), "commit <= flush");
        let leads = self.leader.is_none_or(|(term, _)| term == self.state.term);
        assert!(leads || self.broken.is(Fault::DeposedAppends), "a leader leads in the current term");
    }
}

#[cfg(test)]
#[path = "acceptor_test.rs"]
mod tests;
