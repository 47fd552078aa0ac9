//! [`Keeper`]: one cluster on one safekeeper as one state machine.
//!
//! Drive it like this: hand every event to a `handle_*` method, then carry out what [`Keeper::poll_command`] gives until it
//! gives nothing, in order; call [`Keeper::handle_timeout`] when [`Keeper::poll_timeout`] has passed.
//!
//! Invariants
//! - An acknowledgement is made from a [`Durable`], which only a finished sync yields.
//! - At most one sync and one control-file write are under way; the next sync begins as soon as bytes wait for it. That is
//!   the group commit: whatever arrived during one sync is covered by the next.
//! - At most [`UNSYNCED_BYTES_MAX`] are written and not durable; what exceeds it waits in the sessions' bounded queues.
//! - After a failed write or sync nothing is taken, voted or acknowledged any more.

use crate::command::Command;
use crate::control;
use crate::peers::PeerWatch;
use crate::pull::Pull;
use crate::readers::Readers;
use crate::receivers::Receivers;
use crate::tracker::Tracker;
use bytes::{Bytes, BytesMut};
use consensus::{
    Acceptor, AcceptorCommand, AcceptorMessage, AcceptorState, AppendRequest, Identity, Introduction, ProposerMessage,
    SessionId,
};
use lsn::{Lsn, SegmentSize, Term};
use pq_proto::replication::PgTime;
use quorum_proto::{ProtoVersion, decode_proposer, encode_acceptor};
use std::collections::VecDeque;
use std::time::{Duration, Instant};
use wal_storage::Durable;

/// Most bytes that may be written and not durable. Start-up takes own pages further than this behind a break for damage.
pub const UNSYNCED_BYTES_MAX: u64 = 8 << 20;
/// How often a moving flush LSN is written down as the floor, off the commit path.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(1);

/// What a keeper is told at start.
#[derive(Clone, Debug)]
pub struct KeeperOptions {
    /// Which safekeeper this is.
    pub identity: Identity,
    /// Most WAL kept locally, in bytes; older committed segments go, archived or not.
    pub max_wal: u64,
    /// How much more may be kept for replication slots, in bytes.
    pub max_slot_wal: u64,
    /// A moment on both clocks: messages to readers carry the time of day.
    pub clock: (Instant, PgTime),
}

/// Where the log was found to end at start-up.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FoundLog {
    /// End of the last whole record; durable by now.
    pub end: Lsn,
    /// First byte that is still here.
    pub oldest: Lsn,
    /// Up to here acknowledged WAL is missing, if start-up found so.
    pub damaged_below: Option<Lsn>,
}

/// One cluster on one safekeeper.
#[derive(Debug)]
pub struct Keeper {
    pub(crate) options: KeeperOptions,
    pub(crate) acceptor: Acceptor,
    pub(crate) receivers: Receivers,
    pub(crate) readers: Readers,
    pub(crate) pull: Pull,
    pub(crate) peers: PeerWatch,
    pub(crate) oldest: Lsn,
    pub(crate) written_down: crate::old_wal::WrittenDown,
    /// `None` where WAL cannot be read back from one.
    pub(crate) archive: Option<crate::old_wal::Archive>,
    pub(crate) stopped: Option<String>,
    pub(crate) leader_heard: Option<Instant>,
    pub(crate) version: u64,
    /// When the fence that stands, by its epoch, ends.
    pub(crate) fence_until: Option<(Term, Instant)>,
    tracker: Tracker,
    next_checkpoint: Option<Instant>,
    pub(crate) commands: VecDeque<Command>,
}

impl Keeper {
    /// From what was found on disk.
    pub fn new(options: KeeperOptions, state: AcceptorState, found: FoundLog) -> Keeper {
        let written_down = crate::old_wal::WrittenDown::of(&state);
        let mut acceptor = Acceptor::new(options.identity, state, found.end);
        if let Some(below) = found.damaged_below {
            acceptor.mark_damaged(below);
        }
        let mut keeper = Keeper {
            options,
            acceptor,
            receivers: Receivers::default(),
            readers: Readers::default(),
            pull: Pull::default(),
            peers: PeerWatch::default(),
            oldest: found.oldest,
            written_down,
            archive: None,
            stopped: None,
            leader_heard: None,
            version: 1,
            fence_until: None,
            tracker: Tracker::new(found.end),
            next_checkpoint: None,
            commands: VecDeque::new(),
        };
        keeper.resume_fence();
        keeper.collect_commands();
        keeper
    }

    /// A proposer opened a session with START_WAL_PUSH.
    pub fn connect_receiver(
        &mut self,
        session: SessionId,
        version: ProtoVersion,
        introduction: Introduction,
        peer: String,
    ) {
        self.receivers.add(session, version, introduction, peer);
    }

    /// A proposer's session ended.
    pub fn disconnect_receiver(&mut self, now: Instant, session: SessionId) {
        self.receivers.remove(session);
        self.acceptor.handle_disconnect(session);
        self.drive(now);
    }

    /// Whether the driver should read more from this session.
    pub fn wants_push(&self, session: SessionId) -> bool {
        self.stopped.is_none() && self.receivers.wants_input(session)
    }

    /// One CopyData payload of a proposer. Call [`Keeper::drive`] when all that arrived together was handed in.
    pub fn handle_push(&mut self, now: Instant, session: SessionId, payload: Bytes) {
        let Some(version) = self.receivers.get(session).map(|receiver| receiver.version) else { return };
        if self.acceptor.leader_session() == Some(session) {
            self.note_leader_heard(now);
        }
        match decode_proposer(version, payload) {
            Ok(message) => self.receivers.push(session, message),
            Err(error) => self.close_receiver(session, error.to_string()),
        }
    }

    /// A sync asked for by [`Command::Sync`] has ended.
    pub fn handle_synced(&mut self, now: Instant, durable: Durable) {
        let (bytes, records) = self.tracker.end_sync(durable.lsn());
        self.acceptor.handle_flushed(bytes, records);
        self.drive(now);
    }

    /// The control file holds what was asked for with this ticket.
    pub fn handle_persisted(&mut self, now: Instant, ticket: u64) {
        self.acceptor.handle_persisted(ticket);
        self.written_down.finished(ticket);
        self.remove_old_wal();
        self.drive(now);
    }

    /// The cut asked for is durable, and the log ends where it should.
    pub fn handle_cut(&mut self, now: Instant, durable: Durable) {
        self.tracker.cut(durable.lsn());
        if !self.oldest.is_valid() {
            self.oldest = durable.lsn();
        }
        self.acceptor.handle_cut();
        self.drive(now);
    }

    /// A write could not be done for want of space; the log still ends at `written`.
    pub fn handle_write_refused(&mut self, now: Instant, written: Lsn, reason: &str) {
        let leader = self.acceptor.leader_session();
        let sync_dropped = self.commands.contains(&Command::Sync);
        self.commands.retain(|command| !matches!(command, Command::Write { .. } | Command::Sync));
        self.tracker.forget(written, sync_dropped);
        self.acceptor.handle_write_refused(written);
        if let Some(session) = leader {
            self.close_receiver(session, format!("no space for WAL: {reason}"));
        }
        self.drive(now);
    }

    /// Something on disk failed for good: nothing is promised any more until a restart.
    pub fn handle_failed(&mut self, now: Instant, reason: &str) {
        if self.stopped.is_some() {
            return;
        }
        self.stopped = Some(reason.to_owned());
        self.commands.clear();
        for session in self.receivers.ids() {
            self.close_receiver(session, format!("this cluster stopped on this safekeeper: {reason}"));
        }
        self.stop_readers(now, reason);
        self.version += 1;
    }

    /// Whole segments were removed; `oldest` is the first byte still here.
    pub fn handle_removed(&mut self, oldest: Lsn) {
        self.oldest = oldest;
        self.version += 1;
    }

    /// WAL pulled from another member. False once it no longer fits: then the pull is over.
    pub fn handle_pulled(&mut self, now: Instant, term: Term, begin: Lsn, wal: Bytes) -> bool {
        let Some(limit) = self.pull.limit(term) else { return false };
        if self.stopped.is_some() || !self.has_room(wal.len()) {
            return false;
        }
        let wal = wal.slice(..wal.len().min(limit.bytes_since(begin) as usize));
        let tracker = &mut self.tracker;
        let fits = self.acceptor.handle_pulled(term, begin, wal, |begin, bytes| tracker.check(begin, bytes));
        self.drive(now);
        fits && self.acceptor.written() < limit
    }

    /// Whether so much more WAL may be written before a sync.
    pub fn has_room(&self, bytes: usize) -> bool {
        self.tracker.unsynced() + bytes as u64 <= UNSYNCED_BYTES_MAX
    }

    /// The pull under way ended, or failed for this reason.
    pub fn handle_pull_ended(&mut self, now: Instant, result: Result<(), String>) {
        self.pull.ended(now, result);
        self.drive(now);
    }

    /// When [`Keeper::handle_timeout`] is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        [self.next_checkpoint, self.readers.next_timeout(), self.hold_timeout(), self.fence_timeout()]
            .into_iter()
            .flatten()
            .min()
    }

    /// A point in time named by [`Keeper::poll_timeout`] has come.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.next_checkpoint.is_some_and(|at| now >= at) {
            self.next_checkpoint = None;
            self.acceptor.checkpoint();
            self.remove_old_wal();
        }
        self.readers.handle_timeout(now);
        self.check_hold(now);
        self.check_fence(now);
        self.drive(now);
    }

    /// A clean stop: the newest flush LSN is written down as the floor.
    pub fn prepare_stop(&mut self, now: Instant) {
        self.acceptor.checkpoint();
        self.drive(now);
    }

    pub(crate) fn wall_clock(&self, now: Instant) -> PgTime {
        let (then, clock) = self.options.clock;
        PgTime(clock.0.saturating_add(now.saturating_duration_since(then).as_micros() as i64))
    }

    /// The next thing to do.
    pub fn poll_command(&mut self) -> Option<Command> {
        self.commands.pop_front()
    }

    /// The next command, if it is a write: drivers write what belongs together in one go.
    pub fn poll_write(&mut self) -> Option<(Lsn, Bytes)> {
        match self.commands.pop_front()? {
            Command::Write { begin, wal } => Some((begin, wal)),
            other => {
                self.commands.push_front(other);
                None
            }
        }
    }

    /// Moves everything on as far as it goes. Called by every `handle_*` but `handle_push`.
    pub fn drive(&mut self, now: Instant) {
        if self.stopped.is_some() {
            return;
        }
        let (flush, commit, term) = (self.acceptor.flush(), self.acceptor.commit(), self.acceptor.state().term);
        self.collect_commands();
        while let Some((session, message)) = self.next_message() {
            self.process(session, message);
            self.collect_commands();
        }
        self.consider_pull(now);
        if self.tracker.wants_sync() {
            self.tracker.begin_sync();
            self.commands.push_back(Command::Sync);
        }
        let moved =
            self.acceptor.flush() != flush || self.acceptor.commit() != commit || self.acceptor.state().term != term;
        if moved || self.version == 1 {
            self.version += 1;
            self.next_checkpoint.get_or_insert(now + CHECKPOINT_EVERY);
        }
        self.note_settled();
        self.serve_readers(now);
    }

    fn next_message(&mut self) -> Option<(SessionId, ProposerMessage)> {
        if self.acceptor.is_busy() {
            return None;
        }
        let (tracker, acceptor, holds_votes) = (&self.tracker, &self.acceptor, self.peers.holds_votes());
        self.receivers.pop(|message| match message {
            ProposerMessage::Append(append) => {
                let new = append.term == acceptor.state().term && !append.wal.is_empty();
                !new || tracker.unsynced() + append.wal.len() as u64 <= UNSYNCED_BYTES_MAX
            }
            ProposerMessage::Vote(_) => !holds_votes,
            _ => true,
        })
    }

    fn process(&mut self, session: SessionId, message: ProposerMessage) {
        let result = match message {
            ProposerMessage::Greeting(greeting) => {
                let receiver = self.receivers.get(session);
                let Some(introduction) = receiver.map(|receiver| receiver.introduction.clone()) else { return };
                self.acceptor.handle_greeting(session, &greeting, introduction)
            }
            ProposerMessage::Vote(request) => self.acceptor.handle_vote(session, request),
            ProposerMessage::Elected(elected) => {
                self.pull.clear_gap();
                self.acceptor.handle_elected(session, elected)
            }
            ProposerMessage::Append(append) => self.process_append(session, append),
        };
        if let Err(refusal) = result {
            self.close_receiver(session, refusal.to_string());
        }
    }

    fn process_append(&mut self, session: SessionId, append: AppendRequest) -> Result<(), consensus::Refusal> {
        if append.term == self.acceptor.state().term {
            let beyond = append.wal.is_empty() && append.begin > self.acceptor.written();
            if beyond { self.pull.see_gap(append.term) } else { self.pull.clear_gap() }
        }
        let tracker = &mut self.tracker;
        self.acceptor.handle_append(session, append, |begin, bytes| tracker.check(begin, bytes))
    }

    fn collect_commands(&mut self) {
        let led = self.acceptor.leader_term();
        while let Some(command) = self.acceptor.poll_command() {
            match command {
                AcceptorCommand::Persist { ticket, state } => {
                    self.written_down.asked(ticket, &state);
                    self.commands.push_back(Command::PersistControl { ticket, bytes: control::encode(&state) });
                }
                AcceptorCommand::Write { begin, wal } => self.commands.push_back(Command::Write { begin, wal }),
                AcceptorCommand::Cut { to, first, path, server } => {
                    self.commands.push_back(Command::Cut { to, first, path, server });
                }
                AcceptorCommand::Send { session, message } => self.send(session, &message),
                AcceptorCommand::Refuse { session, refusal } => self.close_receiver(session, refusal.to_string()),
            }
        }
        if led.is_some() && self.tracker.is_idle() {
            self.follow_leader();
        }
    }

    /// A leader stands and nobody follows its log yet: the next append begins at the end of what is written.
    fn follow_leader(&mut self) {
        let server = self.acceptor.state().server;
        if let Ok(segment_size) = SegmentSize::new(server.segment_size.into()) {
            self.tracker.follow(self.acceptor.written(), segment_size, server.system_id, server.pg_version);
        }
    }

    fn send(&mut self, session: SessionId, message: &AcceptorMessage) {
        let Some(receiver) = self.receivers.get(session) else { return };
        let mut out = BytesMut::with_capacity(64);
        encode_acceptor(receiver.version, message, &mut out);
        self.commands.push_back(Command::SendPush { session, payload: out.freeze() });
    }

    pub(crate) fn close_receiver(&mut self, session: SessionId, reason: String) {
        if self.receivers.remove(session).is_some() {
            self.acceptor.handle_disconnect(session);
            self.commands.push_back(Command::ClosePush { session, reason });
        }
    }

    fn consider_pull(&mut self, now: Instant) {
        // Below the term's start every byte is the leader's log, and the leader may have nothing committed until we have it.
        let (written, to) = (self.acceptor.written(), self.acceptor.leader_commit().max(self.acceptor.term_start()));
        let Some(term) = self.pull.wants_start(now, written, to) else { return };
        if self.acceptor.leader_term() != Some(term) || self.acceptor.is_busy() {
            return;
        }
        let node = self.options.identity.node;
        let members = self.acceptor.state().membership.all_members().filter(|member| member.node != node);
        let mut members: Vec<_> = members.cloned().collect();
        let first = self.pull.rounds() % members.len().max(1);
        members.rotate_left(first);
        self.pull.started(term, to);
        self.commands.push_back(Command::Pull { term, from: written, to, members });
    }
}
