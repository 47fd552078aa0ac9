//! One safekeeper: a production [`Acceptor`], its disk, and the ends of its sessions.

use crate::disk::{Disk, FIRST, index, position};
use crate::property::{Property::*, Set};
use consensus::{
    Acceptor, AcceptorCommand, AcceptorMessage, AcceptorState, AppendRequest, Fault, Identity, Member, Membership,
    ProposerElected, ServerInfo, SessionId, Standing, VoteRequest,
};
use lsn::{ClusterId, DiskId, Lsn, NodeId, Path, SystemId, Term};
use std::hash::{DefaultHasher, Hash, Hasher};

pub(crate) const CLUSTER: ClusterId = ClusterId { tenant: [1; 16], timeline: [2; 16] };
pub(crate) const SERVER: ServerInfo =
    ServerInfo { system_id: SystemId(7), segment_size: FIRST as u32, pg_version: 150_018 };

/// Member number `node`, counted from 0, with its first disk.
pub(crate) fn member(node: usize) -> Member {
    let number = node as u64 + 1;
    Member { node: NodeId(number), disk: DiskId([number as u8; 16]), host: "h".to_owned(), port: 1 }
}

/// What a proposer sends on a session, after the greeting, which promises nothing and is delivered at once.
#[derive(Clone, PartialEq, Hash, Debug)]
pub(crate) enum Letter {
    Vote(VoteRequest),
    Elected(ProposerElected),
    Append(AppendRequest),
}

/// What a safekeeper sends. A vote comes with the log it speaks of, as a read under the guard of its term would show it.
#[derive(Clone, PartialEq, Hash, Debug)]
pub(crate) struct Reply {
    pub(crate) message: AcceptorMessage,
    pub(crate) log: Vec<u8>,
    pub(crate) path: Option<Path>,
}

/// A session, with what is on its way in both directions.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Wire {
    pub(crate) session: SessionId,
    /// Whose it is; `None` once that one has left it.
    pub(crate) proposer: Option<usize>,
    /// Whether the safekeeper still has it.
    pub(crate) open: bool,
    pub(crate) to_node: Vec<Letter>,
    pub(crate) to_proposer: Vec<Reply>,
}

/// What a disk did wrong.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Loss {
    Nothing,
    Emptied,
    Forgot,
}

#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Node {
    pub(crate) acceptor: Acceptor,
    pub(crate) disk: Disk,
    pub(crate) wires: Vec<Wire>,
    pub(crate) loss: Loss,
    /// Up to where it had promised to keep its log and has not, until it has it again; any valid position if it forgot a term.
    pub(crate) missing: Lsn,
    /// Nodes of the same class are interchangeable.
    pub(crate) class: u8,
    pub(crate) fault: Option<Fault>,
    /// Only what is durable tells it from others.
    pub(crate) brief: bool,
    /// Its driver reports control-file writes before they are durable.
    pub(crate) hasty: bool,
    /// What tells it from others, by the order in which proposers are looked at.
    pub(crate) view: [u64; 2],
}

impl Node {
    pub(crate) fn new(number: usize, membership: Membership, class: u8, fault: Option<Fault>) -> Node {
        let Member { node, disk, .. } = member(number);
        let state = AcceptorState::new(CLUSTER, String::new(), membership, ServerInfo::default());
        let disk_of = Disk::new(state.clone());
        let mut acceptor = Acceptor::new(Identity { node, disk }, state, Lsn::INVALID);
        fault.into_iter().for_each(|fault| acceptor.break_rule(fault));
        let mut node = Node {
            acceptor,
            disk: disk_of,
            wires: Vec::new(),
            loss: Loss::Nothing,
            missing: Lsn::INVALID,
            class,
            fault,
            brief: false,
            hasty: false,
            view: [0; 2],
        };
        node.review();
        node
    }

    pub(crate) fn number(&self) -> NodeId {
        self.acceptor.identity().node
    }

    pub(crate) fn wire(&mut self, session: SessionId) -> Option<&mut Wire> {
        self.wires.iter_mut().find(|wire| wire.session == session)
    }

    /// Whether it may be handed messages.
    pub(crate) fn is_free(&self) -> bool {
        !self.acceptor.is_busy()
    }

    /// Its path up to its end, as a look would show it.
    pub(crate) fn path(&self) -> Option<Path> {
        self.acceptor.state().path.as_ref().map(|path| path.cut(self.acceptor.flush()))
    }

    /// The bytes below its flush LSN.
    pub(crate) fn flushed(&self) -> &[u8] {
        &self.disk.log[..index(self.acceptor.flush()).min(self.disk.log.len())]
    }

    /// Whether these bytes, from the first, are durable here, or were until the disk broke its promise.
    pub(crate) fn holds(&self, bytes: &[u8]) -> bool {
        self.disk.log[..self.disk.synced].starts_with(bytes) || self.loss != Loss::Nothing
    }

    /// Starts from what is durable. Sessions are gone; what was on its way to a proposer may still arrive.
    pub(crate) fn restart(&mut self, broken: &mut Set) {
        let before = (self.acceptor.state().term, self.acceptor.state().membership.generation);
        let durable = self.disk.control.term;
        self.disk.crash();
        let promised = self.disk.control.floor;
        let cutting = self.disk.control.cutting.is_some();
        let end = self.disk.recover();
        let identity = self.acceptor.identity();
        let mut acceptor = Acceptor::new(identity, self.disk.control.clone(), end);
        self.fault.into_iter().for_each(|fault| acceptor.break_rule(fault));
        let after = acceptor.state();
        broken.require(after.term == durable && after.term <= before.0, S2);
        broken.require(after.membership.generation <= before.1, S19);
        let lost = self.loss != Loss::Nothing;
        broken.require(lost || cutting || end >= promised, S13);
        broken.require(lost || acceptor.standing() != Standing::Damaged, S13);
        self.acceptor = acceptor;
        for wire in &mut self.wires {
            wire.open = false;
            wire.to_node.clear();
        }
    }

    /// The directory is gone: an empty one with another disk id is in its place.
    pub(crate) fn empty(&mut self, same_disk: bool) {
        let Identity { node, disk } = self.acceptor.identity();
        let disk = if same_disk { disk } else { DiskId([100 + node.0 as u8; 16]) };
        let membership = self.acceptor.state().membership.clone();
        let state = AcceptorState::new(CLUSTER, String::new(), membership, ServerInfo::default());
        self.disk = Disk::new(state.clone());
        self.acceptor = Acceptor::new(Identity { node, disk }, state, Lsn::INVALID);
        self.fault.into_iter().for_each(|fault| self.acceptor.break_rule(fault));
        self.loss = Loss::Emptied;
        self.wires.clear();
    }

    /// Carries out what the acceptor wants done next. False if it wants nothing.
    pub(crate) fn obey(&mut self, broken: &mut Set) -> bool {
        let Some(command) = self.acceptor.poll_command() else { return false };
        match command {
            AcceptorCommand::Persist { ticket, state } => {
                assert!(self.hasty || self.disk.persisting.is_none(), "one write of the control file at a time");
                self.disk.persisting = Some((ticket, *state));
                if self.hasty {
                    self.acceptor.handle_persisted(ticket);
                }
            }
            AcceptorCommand::Write { begin, wal } => {
                broken.require(begin == position(self.disk.log.len()) && self.disk.begun, S16);
                self.disk.log.truncate(index(begin));
                self.disk.log.extend_from_slice(&wal);
            }
            AcceptorCommand::Cut { to, path, .. } => {
                broken.require(to >= self.acceptor.commit().min(self.acceptor.flush()), S12);
                self.disk.cutting = Some((to, path));
            }
            AcceptorCommand::Send { session, message } => self.send(session, message, broken),
            AcceptorCommand::Refuse { session, .. } => self.close(session),
        }
        true
    }

    /// Ends a session from this side.
    pub(crate) fn close(&mut self, session: SessionId) {
        self.acceptor.handle_disconnect(session);
        if let Some(wire) = self.wire(session) {
            wire.open = false;
            wire.to_node.clear();
        }
    }

    /// Forgets sessions on which nothing will come any more.
    pub(crate) fn sweep(&mut self) {
        let over = |wire: &Wire| wire.open && wire.proposer.is_none() && wire.to_node.is_empty();
        for session in self.wires.iter().filter(|wire| over(wire)).map(|wire| wire.session).collect::<Vec<_>>() {
            self.close(session);
        }
        self.wires.retain(|wire| wire.open || (wire.proposer.is_some() && !wire.to_proposer.is_empty()));
    }

    /// A message leaves: everything it promises must be durable by now.
    fn send(&mut self, session: SessionId, message: AcceptorMessage, broken: &mut Set) {
        let control = &self.disk.control;
        let durable = self.disk.durable_end();
        let (mut log, mut path) = (Vec::new(), None);
        match &message {
            AcceptorMessage::Greeting(_) => {}
            AcceptorMessage::Vote(vote) => {
                if vote.granted {
                    broken.require(control.term >= vote.term, S4);
                    broken.require(self.disk.synced == self.disk.log.len(), S13);
                    let sound = self.loss != Loss::Emptied && !self.missing.is_valid();
                    broken.require(sound && self.acceptor.standing() == Standing::Member, S31);
                }
                broken.require(vote.flush <= durable, S13);
                log = self.flushed().to_vec();
                path = self.path();
            }
            AcceptorMessage::Append(response) => {
                broken.require(response.flush <= durable, S13);
                broken.require(control.commit >= response.commit, S13);
                let follows = control.term >= response.term && control.history.last_term() == response.term;
                broken.require(!response.flush.is_valid() || follows, S13);
            }
        }
        if let Some(wire) = self.wire(session).filter(|wire| wire.proposer.is_some()) {
            // A greeting is answered at once, when the session is opened.
            if !matches!(message, AcceptorMessage::Greeting(_)) {
                wire.to_proposer.push(Reply { message, log, path });
            }
        }
    }

    /// The write of the control file that is under way is done.
    pub(crate) fn finish_persist(&mut self, broken: &mut Set) -> bool {
        let Some((ticket, state)) = self.disk.persisting.take() else { return false };
        broken.require(state.term >= self.disk.control.term, S2);
        broken.require(state.commit >= self.disk.control.commit, S7);
        broken.require(state.membership.generation >= self.disk.control.membership.generation, S19);
        self.disk.control = state;
        if !self.hasty {
            self.acceptor.handle_persisted(ticket);
        }
        true
    }

    /// The cut that is under way is done.
    pub(crate) fn finish_cut(&mut self) -> bool {
        let Some((to, _)) = self.disk.cutting.take() else { return false };
        self.disk.log.truncate(index(to));
        self.disk.synced = self.disk.log.len();
        self.disk.begun = true;
        self.acceptor.handle_cut();
        true
    }

    /// A sync of everything taken in is done.
    pub(crate) fn finish_sync(&mut self) -> bool {
        if self.disk.synced == self.disk.log.len() {
            return false;
        }
        self.disk.synced = self.disk.log.len();
        let flush = position(crate::disk::whole_records(&self.disk.log));
        self.acceptor.handle_flushed(position(self.disk.synced), flush);
        true
    }

    /// Hands a letter in. A refusal ends the session.
    pub(crate) fn hand_in(&mut self, session: SessionId, letter: Letter, broken: &mut Set) {
        let ours = self.acceptor.state().membership.generation;
        let theirs = match &letter {
            Letter::Vote(vote) => vote.generation,
            Letter::Elected(elected) => elected.generation,
            Letter::Append(append) => append.generation,
        };
        let before = (ours != theirs).then(|| self.acceptor.clone());
        let term = self.acceptor.state().term;
        let vote = if let Letter::Vote(vote) = &letter { Some(vote.term) } else { None };
        let (led, written) = (self.acceptor.leader_term().is_some(), self.acceptor.written());
        let taken = match letter {
            Letter::Vote(request) => self.acceptor.handle_vote(session, request),
            Letter::Elected(elected) => self.acceptor.handle_elected(session, elected),
            Letter::Append(append) => self.acceptor.handle_append(session, append, |_, _| Ok(())),
        };
        if let Some(before) = before {
            broken.require(taken.is_err() && before == self.acceptor, S17);
        }
        broken.require(led || self.acceptor.written() == written, S15);
        if let Some(asked) = vote {
            broken.require(!self.acceptor.is_granting(session) || asked > term, S3);
        }
        if taken.is_err() {
            self.close(session);
        }
    }

    /// Forgets what was lost once it is here again.
    pub(crate) fn regain(&mut self) {
        if self.acceptor.flush() >= self.missing && self.acceptor.standing() == Standing::Member {
            self.missing = Lsn::INVALID;
        }
    }

    /// Computes anew what tells it from others.
    pub(crate) fn review(&mut self) {
        let forward = self.view_by(&|proposer| proposer);
        self.view = [forward, if self.brief { forward } else { self.view_by(&|proposer| 1 - proposer.min(1)) }];
    }

    fn view_by(&self, order: &dyn Fn(usize) -> usize) -> u64 {
        let mut hasher = DefaultHasher::new();
        if self.brief {
            self.acceptor.hash_durable(&mut hasher);
            (&self.disk.log, self.disk.control.commit, self.loss, self.missing, self.class).hash(&mut hasher);
            return hasher.finish();
        }
        let mut names: Vec<(SessionId, u64)> = Vec::new();
        for wire in &self.wires {
            let mut name = DefaultHasher::new();
            (wire.proposer.map(order), wire.open, &wire.to_node, &wire.to_proposer).hash(&mut name);
            names.push((wire.session, name.finish()));
        }
        let name = |session: SessionId| names.iter().find(|(known, _)| *known == session).map_or(0, |(_, name)| *name);
        let losses = self.loss != Loss::Nothing;
        self.acceptor.hash_view(&mut hasher, &name, losses);
        let mut all: Vec<u64> = names.iter().map(|(_, name)| *name).collect();
        all.sort_unstable();
        all.hash(&mut hasher);
        let control = &self.disk.control;
        (control.term, &control.history, &control.path, control.commit, control.cutting).hash(&mut hasher);
        (control.damaged_below, &control.fence, control.membership.generation, control.log_start).hash(&mut hasher);
        if let Some((_, state)) = &self.disk.persisting {
            (state.term, &state.history, &state.path, state.commit, state.cutting).hash(&mut hasher);
            (state.damaged_below, &state.fence, state.membership.generation, state.log_start).hash(&mut hasher);
        }
        if losses {
            control.floor.hash(&mut hasher);
        }
        (&self.disk.log, self.disk.synced, self.disk.begun, &self.disk.cutting).hash(&mut hasher);
        (self.loss, self.missing, self.class).hash(&mut hasher);
        hasher.finish()
    }
}

/// The highest term of a set of nodes.
pub(crate) fn highest<'a>(nodes: impl Iterator<Item = &'a Node>) -> Term {
    nodes.map(|node| node.acceptor.state().term).max().unwrap_or_default()
}
