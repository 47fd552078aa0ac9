//! The world: safekeepers, primaries, proposers, the sessions between them, and chance.

use crate::disk::{FIRST, RECORD_END, whole_records};
use crate::mutant::Mutant;
use crate::node::{Node, record};
use crate::primary::Primary;
use crate::proposer::{Proposer, Role};
use crate::rng::Rng;
use consensus::{AcceptorCommand, AcceptorMessage, Introduction, Membership, ProposerMessage, SessionId, Standing};
use lsn::{Lsn, Path, PathEntry, Term, Tli};
use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

/// A message to a proposer, and the sender's log and path at that time.
#[derive(Debug)]
pub(crate) struct Delivery {
    pub(crate) message: AcceptorMessage,
    pub(crate) log: Vec<u8>,
    pub(crate) path: Option<Path>,
}

#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) proposer: usize,
    pub(crate) node: usize,
    to_node: VecDeque<ProposerMessage>,
    to_proposer: VecDeque<Delivery>,
    proposer_open: bool,
    node_open: bool,
}

#[derive(Debug)]
pub(crate) struct World {
    pub(crate) rng: Rng,
    pub(crate) membership: Membership,
    pub(crate) nodes: Vec<Node>,
    /// The primary, its clones, and standbys that were promoted.
    pub(crate) primaries: Vec<Primary>,
    /// All that ever were.
    pub(crate) proposers: Vec<Proposer>,
    pub(crate) sessions: BTreeMap<u64, Session>,
    pub(crate) winners: BTreeMap<Term, usize>,
    pub(crate) committed: Vec<u8>,
    /// The lineage of the committed bytes.
    pub(crate) committed_path: Path,
    /// The last commit LSN declared in each term.
    pub(crate) commits: BTreeMap<Term, Lsn>,
    next_session: u64,
    rivals: usize,
    /// One event in so many is a misfortune.
    calm: usize,
    loses_disks: bool,
    /// One write in so many finds no space; 0 = none.
    pub(crate) tight: usize,
    /// A rule that is broken on purpose.
    pub(crate) mutant: Mutant,
    trace: Option<Rc<RefCell<Vec<String>>>>,
}

impl World {
    pub(crate) fn new(seed: u64, mutant: Mutant, trace: Option<Rc<RefCell<Vec<String>>>>) -> World {
        let mut rng = Rng::new(seed);
        let count = if rng.one_in(4) { 5 } else { 3 };
        let membership = record(count);
        World {
            nodes: (1..=count).map(|number| Node::new(number, &membership)).collect(),
            membership,
            primaries: vec![Primary::first()],
            proposers: Vec::new(),
            sessions: BTreeMap::new(),
            winners: BTreeMap::new(),
            committed: Vec::new(),
            committed_path: Path::root(Tli(1)),
            commits: BTreeMap::new(),
            next_session: 1,
            rivals: 1 + rng.below(3),
            calm: [12, 30, 60, 150][rng.below(4)],
            loses_disks: rng.one_in(3),
            tight: [0, 10, 100][rng.below(3)],
            rng,
            mutant,
            trace,
        }
    }

    /// Writes a line of the trace, if there is one.
    pub(crate) fn note(&self, line: impl FnOnce() -> String) {
        if let Some(trace) = &self.trace {
            trace.borrow_mut().push(line());
        }
    }

    /// One random event.
    pub(crate) fn step(&mut self) {
        if self.rng.one_in(self.calm) {
            self.misfortune();
            return;
        }
        let alive: Vec<usize> = (0..self.proposers.len()).filter(|&id| self.proposers[id].is_alive()).collect();
        match self.rng.below(20) {
            0..6 => self.deliver(true),
            6..10 => self.deliver(false),
            10..14 => {
                let all = 5 * self.nodes.len();
                let due: Vec<usize> = (0..all).filter(|at| self.nodes[at / 5].is_due(at % 5)).collect();
                if !due.is_empty() {
                    let at = due[self.rng.below(due.len())];
                    self.disk_event(at / 5, at % 5);
                }
            }
            14..18 if !alive.is_empty() => {
                let (id, node) = (alive[self.rng.below(alive.len())], self.rng.below(self.nodes.len()));
                // A campaign that gets nowhere times out.
                if self.proposers[id].leadership().is_none() && self.rng.one_in(100) {
                    self.kill(id);
                }
                self.tick(id, node);
            }
            18 => self.grow(),
            19 if self.rng.one_in(4) => {
                let node = self.rng.below(self.nodes.len());
                if self.nodes[node].acceptor.is_none() {
                    self.start(node);
                }
            }
            // Rivals that come too fast only depose each other.
            _ if alive.is_empty() || (alive.len() < self.rivals && self.rng.one_in(15)) => self.spawn(),
            _ => {}
        }
    }

    fn spawn(&mut self) {
        let primary = self.rng.below(self.primaries.len());
        self.proposers.push(Proposer::new(primary, &self.primaries[primary], self.nodes.len()));
        self.note(|| format!("P{} starts on primary {primary}", self.proposers.len() - 1));
    }

    /// The primary of somebody writes a record.
    fn grow(&mut self) {
        let primary = self.rng.below(self.primaries.len());
        for _ in 0..self.rng.below(3) {
            let byte = 1 + self.rng.below(127) as u8;
            self.primaries[primary].log.push(byte);
        }
        let byte = RECORD_END | self.rng.below(128) as u8;
        self.primaries[primary].log.push(byte);
    }

    fn misfortune(&mut self) {
        let node = self.rng.below(self.nodes.len());
        let id = self.rng.below(self.proposers.len().max(1));
        match self.rng.below(18) {
            0..3 => self.crash(node),
            3..6 => {
                // A power cut takes several at once.
                for node in 0..self.nodes.len() {
                    if self.rng.one_in(2) && self.rng.one_in(2) {
                        self.crash(node);
                    }
                }
            }
            6..8 => {
                let session = self.random_session(|_| true);
                if let Some(session) = session {
                    self.close_at_proposer(session);
                }
            }
            8 if !self.proposers.is_empty() => self.kill(id),
            9 if self.mutant == Mutant::TermKept => self.move_leader(),
            9 => {
                // The primary restarts: every connection to it ends, and with it every term.
                let primary = self.rng.below(self.primaries.len());
                for id in 0..self.proposers.len() {
                    if self.proposers[id].primary == primary {
                        self.kill(id);
                    }
                }
            }
            10 if self.primaries.len() < 6 => self.clone_primary(),
            16..18 if self.primaries.len() < 6 => self.promote(),
            11..13 => {
                if let Some(acceptor) = &mut self.nodes[node].acceptor {
                    acceptor.checkpoint();
                }
            }
            13..15 if !self.proposers.is_empty() => {
                for node in 0..self.nodes.len() {
                    self.proposers[id].reach[node] = !self.rng.one_in(4);
                }
            }
            15 if self.loses_disks => self.lose_disk(node),
            _ => {}
        }
    }

    fn clone_primary(&mut self) {
        let of = self.rng.below(self.primaries.len());
        let log = &self.primaries[of].log;
        let length = whole_records(&log[..self.rng.below(log.len() + 1)]);
        let end = Lsn(FIRST + length as u64);
        self.note(|| format!("primary {} is a clone of {of} up to {end}", self.primaries.len()));
        let Primary { log, path } = &self.primaries[of];
        let clone = Primary { log: log[..length].to_vec(), path: path.cut(end) };
        self.primaries.push(clone);
    }

    /// A standby is promoted: one that a primary fed, or one fed by the safekeepers with what is committed. Two of them may
    /// take the same number at the same place; only the first record tells them apart.
    fn promote(&mut self) {
        let fed = if self.rng.one_in(3) { None } else { Some(self.rng.below(self.primaries.len())) };
        let (log, path) = match fed {
            Some(of) => (&self.primaries[of].log, &self.primaries[of].path),
            None => (&self.committed, &self.committed_path),
        };
        let available = if self.rng.one_in(2) { log.len() } else { self.rng.below(log.len() + 1) };
        let mut log = log[..whole_records(&log[..available])].to_vec();
        let end = Lsn(FIRST + log.len() as u64);
        let mut entries = path.cut(end).entries().to_vec();
        let last = entries[entries.len() - 1];
        let tli = Tli(last.tli.0 + 1 + u32::from(self.rng.one_in(8)));
        let record = [1 + self.rng.below(127) as u8, RECORD_END | self.rng.below(128) as u8];
        let begin = if last.begin > end { last.begin } else { end };
        entries.push(PathEntry { tli, begin, mark: u32::from(u16::from_le_bytes(record)) });
        log.extend(record);
        self.note(|| format!("primary {} is promoted at {end} on TLI {tli}, fed by {fed:?}", self.primaries.len()));
        let path = Path::new(entries).unwrap_or_else(|error| panic!("a promotion makes no path: {error}"));
        self.primaries.push(Primary { log, path });
    }

    fn lose_disk(&mut self, node: usize) {
        let broken = self.nodes.iter().filter(|node| node.emptied || node.forgetful).count();
        let known = self.nodes[node].emptied || self.nodes[node].forgetful;
        if !known && broken == (self.nodes.len() - 1) / 2 {
            return;
        }
        self.crash(node);
        if self.rng.one_in(2) && !self.nodes[node].emptied {
            self.note(|| format!("N{} forgets", node + 1));
            self.nodes[node].forget(&mut self.rng);
        } else if !self.nodes[node].forgetful {
            self.note(|| format!("N{} is emptied", node + 1));
            self.nodes[node].empty(&self.membership);
        }
    }

    fn crash(&mut self, node: usize) {
        if self.nodes[node].acceptor.is_none() {
            return;
        }
        self.note(|| format!("N{} crashes", node + 1));
        self.nodes[node].crash(&mut self.rng);
        for session in self.sessions.values_mut().filter(|session| session.node == node) {
            session.node_open = false;
            session.to_node.clear();
        }
    }

    pub(crate) fn start(&mut self, node: usize) {
        self.note(|| format!("N{} starts", node + 1));
        self.nodes[node].start();
    }

    pub(crate) fn kill(&mut self, id: usize) {
        if self.proposers[id].is_alive() {
            self.note(|| format!("P{id} ends"));
            self.proposers[id].role = Role::Dead;
            for link in std::mem::take(&mut self.proposers[id].links).into_values() {
                self.close_at_proposer(link.session);
            }
        }
    }

    // ---- sessions ----

    pub(crate) fn open(&mut self, proposer: usize, node: usize) -> u64 {
        let session = self.next_session;
        self.next_session += 1;
        let queues = (VecDeque::new(), VecDeque::new());
        let opened =
            Session { proposer, node, to_node: queues.0, to_proposer: queues.1, proposer_open: true, node_open: true };
        self.sessions.insert(session, opened);
        session
    }

    pub(crate) fn send_to_node(&mut self, session: u64, message: ProposerMessage) {
        if let Some(session) = self.sessions.get_mut(&session).filter(|session| session.node_open) {
            session.to_node.push_back(message);
        }
    }

    fn close_at_proposer(&mut self, number: u64) {
        let Some(session) = self.sessions.get_mut(&number) else { return };
        session.proposer_open = false;
        session.to_proposer.clear();
        let links = &mut self.proposers[session.proposer].links;
        if links.get(&session.node).is_some_and(|link| link.session == number) {
            links.remove(&session.node);
        }
        self.forget_closed(number);
    }

    pub(crate) fn close_at_node(&mut self, number: u64) {
        let Some(session) = self.sessions.get_mut(&number) else { return };
        session.node_open = false;
        session.to_node.clear();
        if let Some(acceptor) = &mut self.nodes[session.node].acceptor {
            acceptor.handle_disconnect(SessionId(number));
        }
        self.forget_closed(number);
    }

    fn forget_closed(&mut self, number: u64) {
        if self.sessions.get(&number).is_some_and(|session| !session.node_open && !session.proposer_open) {
            self.sessions.remove(&number);
        }
    }

    fn random_session(&mut self, wanted: impl Fn(&Session) -> bool) -> Option<u64> {
        let proposers = &self.proposers;
        let reached = |session: &Session| proposers[session.proposer].reach[session.node];
        let numbers: Vec<u64> = self
            .sessions
            .iter()
            .filter(|(_, session)| wanted(session) && reached(session))
            .map(|(&number, _)| number)
            .collect();
        if numbers.is_empty() { None } else { Some(numbers[self.rng.below(numbers.len())]) }
    }

    /// Delivers the next message, or the end, of some session.
    fn deliver(&mut self, to_node: bool) {
        let number = self.random_session(|session| match to_node {
            true => session.node_open && !(session.to_node.is_empty() && session.proposer_open),
            false => session.proposer_open && !(session.to_proposer.is_empty() && session.node_open),
        });
        let Some(number) = number else { return };
        if to_node {
            self.deliver_to_node(number)
        } else {
            self.deliver_to_proposer(number)
        };
    }

    /// Whether there was something.
    pub(crate) fn deliver_to_node(&mut self, number: u64) -> bool {
        let Some(session) = self.sessions.get_mut(&number).filter(|session| session.node_open) else { return false };
        let node = session.node;
        let Node { acceptor: Some(acceptor), announced, .. } = &mut self.nodes[node] else { return false };
        let Some(message) = session.to_node.front() else {
            let ended = !session.proposer_open;
            if ended {
                self.close_at_node(number);
            }
            return ended;
        };
        if acceptor.is_busy() {
            return false;
        }
        if let Some(trace) = &self.trace {
            trace.borrow_mut().push(format!("S{number} P{} -> N{}: {}", session.proposer, node + 1, brief(message)));
        }
        if let (Mutant::HistoryBeforeCut, ProposerMessage::Elected(elected)) = (self.mutant, message) {
            *announced = Some((elected.history.clone(), self.proposers[session.proposer].path.clone()));
        }
        let Some(message) = session.to_node.pop_front() else { return false };
        let id = SessionId(number);
        let introduction = Introduction::of(self.proposers[session.proposer].path.clone());
        let taken = match message {
            ProposerMessage::Greeting(greeting) => acceptor.handle_greeting(id, &greeting, introduction),
            ProposerMessage::Vote(request) => acceptor.handle_vote(id, request),
            ProposerMessage::Elected(elected) => acceptor.handle_elected(id, elected),
            ProposerMessage::Append(append) => acceptor.handle_append(id, append, |_, _| Ok(())),
        };
        if let Err(refusal) = taken {
            self.note(|| format!("N{} refuses S{number}: {refusal}", node + 1));
            self.close_at_node(number);
        }
        self.maybe_drain(node);
        true
    }

    pub(crate) fn deliver_to_proposer(&mut self, number: u64) -> bool {
        let Some(session) = self.sessions.get_mut(&number).filter(|session| session.proposer_open) else {
            return false;
        };
        let (id, node) = (session.proposer, session.node);
        let Some(delivery) = session.to_proposer.pop_front() else {
            let ended = !session.node_open;
            if ended {
                self.close_at_proposer(number);
            }
            return ended;
        };
        self.note(|| format!("S{number} N{} -> P{id}: {}", node + 1, brief(&delivery.message)));
        self.handle_at_proposer(id, node, delivery);
        true
    }

    // ---- safekeepers ----

    /// Something a safekeeper's disk or loop does by itself.
    pub(crate) fn disk_event(&mut self, node: usize, duty: usize) {
        let Node { disk, acceptor, .. } = &mut self.nodes[node];
        let Some(acceptor) = acceptor else { return };
        match duty {
            0 => {}
            1 => {
                if let Some((ticket, state)) = disk.persisting.take() {
                    let fell = state.term < disk.control.term || state.commit < disk.control.commit;
                    assert!(!fell, "the control file went back from {:?} to {state:?}", disk.control);
                    disk.control = state;
                    acceptor.handle_persisted(ticket);
                }
            }
            2 => disk.start_sync(),
            3 => {
                if let Some((durable, flush)) = disk.finish_sync() {
                    acceptor.handle_flushed(durable, flush);
                }
            }
            _ => {
                if disk.finish_cut() {
                    acceptor.handle_cut();
                }
            }
        }
        if duty == 0 { self.drain(node) } else { self.maybe_drain(node) }
    }

    /// Mostly commands are carried out at once; sometimes other events come first.
    fn maybe_drain(&mut self, node: usize) {
        if !self.rng.one_in(5) {
            self.drain(node);
        }
    }

    fn drain(&mut self, at: usize) {
        loop {
            let full = self.tight > 0 && self.rng.one_in(self.tight);
            let node = &mut self.nodes[at];
            let Some(acceptor) = &mut node.acceptor else { return };
            let Some(command) = acceptor.poll_command() else { return };
            if let Some(trace) = &self.trace {
                trace.borrow_mut().push(format!("N{}: {}", at + 1, brief(&command)));
            }
            match command {
                AcceptorCommand::Persist { ticket, state } => {
                    assert!(node.disk.persisting.is_none(), "one persist at a time");
                    node.disk.persisting = Some((ticket, *state));
                }
                AcceptorCommand::Write { wal, .. } if full => {
                    node.disk.smear(&wal[..self.rng.below(wal.len() + 1)]);
                    acceptor.handle_write_refused(Lsn(node.disk.written));
                }
                AcceptorCommand::Write { begin, wal } => {
                    assert_eq!(node.disk.path, acceptor.state().path, "N{}: bytes go to another path's files", at + 1);
                    node.disk.write(begin.0, &wal);
                }
                AcceptorCommand::Cut { to, first, path, .. } => {
                    let commit = acceptor.commit().min(acceptor.flush());
                    assert!(to >= commit, "N{}: a cut to {to} below its commit {commit}", at + 1);
                    node.said_flush = node.said_flush.min(to);
                    node.disk.start_cut(to, first, path);
                    self.mutate_cut(at);
                }
                AcceptorCommand::Send { session, message } => self.send(at, session.0, message),
                AcceptorCommand::Refuse { session, .. } => self.close_at_node(session.0),
            }
        }
    }

    /// A message leaves a safekeeper: everything it promises must be durable by now.
    fn send(&mut self, at: usize, number: u64, message: AcceptorMessage) {
        let node = &mut self.nodes[at];
        let (disk, name) = (&node.disk, node.identity.node);
        let end = match &message {
            AcceptorMessage::Greeting(_) => FIRST,
            AcceptorMessage::Vote(vote) => {
                if vote.granted {
                    assert!(!node.emptied, "{name}: an emptied safekeeper votes");
                    let sound = node.acceptor.as_ref().is_some_and(|acceptor| acceptor.standing() == Standing::Member);
                    assert!(sound, "{name}: a damaged safekeeper votes");
                    assert!(disk.control.term >= vote.term, "{name}: a vote before its term {} is durable", vote.term);
                    assert_eq!(disk.synced, disk.written, "{name}: a vote before the WAL is durable");
                    node.said_term = node.said_term.max(vote.term);
                }
                assert!(vote.flush.0 <= disk.synced, "{name}: a vote tells a flush LSN that is not durable");
                node.said_flush = node.said_flush.max(vote.flush);
                vote.flush.0
            }
            AcceptorMessage::Append(response) => {
                assert!(response.flush.0 <= disk.synced, "{name}: {} acknowledged before its sync", response.flush);
                assert!(
                    disk.control.commit >= response.commit,
                    "{name}: commit {} told before it is durable",
                    response.commit
                );
                if response.flush.is_valid() {
                    assert!(disk.control.term >= response.term, "{name}: acknowledged in a term that is not durable");
                    assert!(
                        disk.control.history.last_term() == response.term,
                        "{name}: acknowledged without its history"
                    );
                }
                node.said_flush = node.said_flush.max(response.flush);
                node.said_commit = node.said_commit.max(response.commit);
                FIRST
            }
        };
        let (log, path) = (disk_log(node, end), node.path());
        if let Some(session) =
            self.sessions.get_mut(&number).filter(|session| session.proposer_open && session.node_open)
        {
            session.to_proposer.push_back(Delivery { message, log, path });
        }
    }
}

/// A value for the trace, without what is the same everywhere.
fn brief(value: &impl std::fmt::Debug) -> String {
    let mut text = format!("{value:?}");
    for (from, to) in
        [("cluster: ", ", "), ("name: ", ", "), ("membership: ", "new_members: None }, "), ("server: ", "}, ")]
    {
        if let Some(begin) = text.find(from)
            && let Some(length) = text[begin..].find(to)
        {
            text.replace_range(begin..begin + length + to.len(), "");
        }
    }
    text
}

/// The log a vote speaks of.
fn disk_log(node: &Node, end: u64) -> Vec<u8> {
    node.disk.log(end).to_vec()
}
