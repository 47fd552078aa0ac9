//! Safekeepers, proposers, and what travels between them.

use crate::rng::Rng;
use bytes::Bytes;
use consensus::{
    Acceptor, AcceptorCommand, AcceptorMessage, AcceptorState, AppendRequest, Campaign, Decision, Identity,
    Introduction, Leadership, Member, Membership, Outcome, ProposerGreeting, Refusal, ServerInfo, SessionId, Standing,
    Vote, VoteRequest,
};
use lsn::{ClusterId, DiskId, Lsn, NodeId, Path, SystemId, Term, Tli};
use std::collections::{BTreeMap, BTreeSet};

/// First byte of every log.
const FIRST: u64 = 1 << 20;
const CLUSTER: ClusterId = ClusterId { tenant: [1; 16], timeline: [2; 16] };
const SERVER: ServerInfo = ServerInfo { system_id: SystemId(7), segment_size: FIRST as u32, pg_version: 150_018 };
/// Safekeepers there are; the cluster begins with the first three.
const NODES: usize = 6;

fn member(index: usize) -> Member {
    let node = index as u64 + 1;
    Member { node: NodeId(node), disk: DiskId([node as u8; 16]), host: format!("sk{node}"), port: 1 }
}

fn index(node: NodeId) -> usize {
    node.0 as usize - 1
}

struct Node {
    acceptor: Acceptor,
    log: Vec<u8>,
}

/// What a safekeeper answers.
enum Answer {
    Vote(consensus::VoteResponse, Vec<u8>),
    Append(consensus::AppendResponse),
}

/// What is on its way: requests arrive in any order or never, whatever became of who sent them.
enum Travelling {
    Record { from: usize, node: usize, record: Membership },
    Taken { to: usize, node: usize, generation: u32, term: Term },
    Answer { to: usize, node: usize, answer: Answer },
}

enum Role {
    Looking(BTreeMap<usize, (Membership, Term)>),
    Campaigning(Campaign),
    Leading(Leadership),
    /// Its record is on the way; these took it in its term.
    Changing(Leadership, Membership, BTreeSet<NodeId>),
    Dead,
}

struct Proposer {
    role: Role,
    /// Sessions by node; greeted, or not there.
    sessions: BTreeMap<usize, SessionId>,
    asked: BTreeSet<usize>,
    votes: BTreeMap<usize, Vote>,
    logs: BTreeMap<NodeId, Vec<u8>>,
    /// What each safekeeper was sent, since its Elected message.
    sent: BTreeMap<usize, u64>,
    log: Vec<u8>,
}

pub(crate) struct World<'a> {
    rng: Rng,
    nodes: Vec<Node>,
    proposers: Vec<Proposer>,
    travelling: Vec<Travelling>,
    pub(crate) winners: BTreeMap<Term, usize>,
    records: BTreeMap<u32, Membership>,
    pub(crate) committed: Vec<u8>,
    pub(crate) finished: usize,
    next_session: u64,
    /// How many proposers may live at a time.
    rivals: usize,
    /// Who does not reach whom: a bit per node, changed now and then.
    cut_off: Vec<bool>,
    trace: &'a mut Vec<String>,
}

impl<'a> World<'a> {
    pub(crate) fn new(seed: u64, trace: &'a mut Vec<String>) -> World<'a> {
        let mut rng = Rng::new(seed);
        let first = Membership::new(1, Term(0), (0..3).map(member).collect(), None).unwrap();
        let node = |at: usize| {
            let state = AcceptorState::new(CLUSTER, "model".into(), first.clone(), ServerInfo::default());
            let identity = Identity { node: NodeId(at as u64 + 1), disk: member(at).disk };
            Node { acceptor: Acceptor::new(identity, state, Lsn::INVALID), log: Vec::new() }
        };
        World {
            nodes: (0..NODES).map(node).collect(),
            proposers: Vec::new(),
            travelling: Vec::new(),
            winners: BTreeMap::new(),
            records: BTreeMap::from([(1, first.clone())]),
            committed: Vec::new(),
            finished: 0,
            next_session: 1,
            rivals: 1 + rng.below(3),
            cut_off: vec![false; NODES],
            rng,
            trace,
        }
    }

    fn note(&mut self, line: String) {
        self.trace.push(line);
    }

    pub(crate) fn step(&mut self) {
        if self.rng.one_in(80) {
            self.cut_off = (0..NODES).map(|_| self.rng.one_in(5)).collect();
        }
        let alive = self.alive();
        match self.rng.below(20) {
            0..10 => self.arrive(),
            10 if self.rng.one_in(6) && !self.travelling.is_empty() => {
                let at = self.rng.below(self.travelling.len());
                self.travelling.swap_remove(at);
            }
            11 if self.rng.one_in(20) && !alive.is_empty() => {
                let id = alive[self.rng.below(alive.len())];
                self.kill(id);
            }
            _ if alive.is_empty() || (alive.len() < self.rivals && self.rng.one_in(25)) => self.spawn(),
            _ => {
                let (id, node) = (alive[self.rng.below(alive.len())], self.rng.below(NODES));
                if !self.cut_off[node] {
                    self.act(id, node);
                }
            }
        }
    }

    fn alive(&self) -> Vec<usize> {
        (0..self.proposers.len()).filter(|&id| !matches!(self.proposers[id].role, Role::Dead)).collect()
    }

    fn spawn(&mut self) {
        self.proposers.push(Proposer {
            role: Role::Looking(BTreeMap::new()),
            sessions: BTreeMap::new(),
            asked: BTreeSet::new(),
            votes: BTreeMap::new(),
            logs: BTreeMap::new(),
            sent: BTreeMap::new(),
            log: Vec::new(),
        });
    }

    fn kill(&mut self, id: usize) {
        self.note(format!("P{id} ends"));
        self.proposers[id].role = Role::Dead;
        for (node, session) in std::mem::take(&mut self.proposers[id].sessions) {
            self.nodes[node].acceptor.handle_disconnect(session);
        }
    }

    /// A moment of a proposer, spent on one safekeeper.
    fn act(&mut self, id: usize, node: usize) {
        match &self.proposers[id].role {
            Role::Looking(_) => self.look(id, node),
            Role::Campaigning(_) => {
                self.ask(id, node);
                if self.rng.one_in(80) {
                    self.kill(id);
                }
            }
            Role::Leading(_) => self.lead(id, node),
            // A change that gets nowhere is given up like everything else: the term ends.
            Role::Changing(_, record, taken) => {
                let named = record.member(NodeId(node as u64 + 1)).is_some() || self.rng.one_in(4);
                if named && !taken.contains(&NodeId(node as u64 + 1)) {
                    let record = record.clone();
                    self.travelling.push(Travelling::Record { from: id, node, record });
                }
                if self.rng.one_in(80) {
                    self.kill(id);
                }
            }
            Role::Dead => {}
        }
    }

    fn look(&mut self, id: usize, node: usize) {
        let state = self.nodes[node].acceptor.state();
        let row = (state.membership.clone(), state.term);
        let Role::Looking(rows) = &mut self.proposers[id].role else { return };
        rows.insert(node, row);
        let Some(newest) = rows.values().map(|(record, _)| record.clone()).max_by_key(Membership::precedence) else {
            return;
        };
        let lagging: Vec<usize> = rows
            .iter()
            .filter(|(_, (record, _))| record.generation < newest.generation)
            .map(|(node, _)| *node)
            .collect();
        if !lagging.is_empty() {
            // Passed on, and looked at again.
            lagging.iter().for_each(|node| drop(rows.remove(node)));
            for node in lagging {
                self.travelling.push(Travelling::Record { from: id, node, record: newest.clone() });
            }
            return;
        }
        if newest.has_majority(|member| rows.contains_key(&index(member))) {
            let term = rows.values().map(|(_, term)| *term).max().unwrap_or_default().next();
            self.proposers[id].role = Role::Campaigning(Campaign::new(newest, term));
            self.note(format!("P{id} asks for term {term}"));
        }
    }

    /// Opens a session unless there is one.
    fn session(&mut self, id: usize, node: usize) -> SessionId {
        if let Some(session) = self.proposers[id].sessions.get(&node) {
            return *session;
        }
        let session = SessionId(self.next_session);
        self.next_session += 1;
        let ServerInfo { system_id, segment_size, pg_version } = SERVER;
        let greeting =
            ProposerGreeting { cluster: CLUSTER, membership: Membership::none(), pg_version, system_id, segment_size };
        let introduction = Introduction::of(Path::root(Tli(1)));
        self.nodes[node].acceptor.handle_greeting(session, &greeting, introduction).unwrap();
        self.proposers[id].sessions.insert(node, session);
        session
    }

    fn close(&mut self, id: usize, node: usize) {
        if let Some(session) = self.proposers[id].sessions.remove(&node) {
            self.nodes[node].acceptor.handle_disconnect(session);
        }
        self.proposers[id].asked.remove(&node);
        self.proposers[id].sent.remove(&node);
    }

    fn ask(&mut self, id: usize, node: usize) {
        let (generation, term) = match &self.proposers[id].role {
            Role::Campaigning(campaign) => (campaign.membership().generation, campaign.term()),
            Role::Leading(leadership) => (leadership.membership().generation, leadership.term()),
            _ => return,
        };
        if !self.proposers[id].asked.insert(node) {
            return;
        }
        let session = self.session(id, node);
        if let Err(refusal) = self.nodes[node].acceptor.handle_vote(session, VoteRequest { generation, term }) {
            self.refused(id, node, &refusal);
        }
        self.drain(id, node, session);
    }

    /// Whoever hears of a newer record begins anew.
    fn refused(&mut self, id: usize, node: usize, refusal: &Refusal) {
        self.note(format!("N{} refuses P{id}: {refusal}", node + 1));
        self.close(id, node);
        if matches!(refusal, Refusal::Generation { ours, theirs } if ours > theirs) {
            self.kill(id);
        }
    }

    fn lead(&mut self, id: usize, node: usize) {
        if let Some(&sent) = self.proposers[id].sent.get(&node) {
            return self.append(id, node, sent);
        }
        self.ask(id, node);
        let proposer = &mut self.proposers[id];
        let (Role::Leading(leadership), Some(vote)) = (&mut proposer.role, proposer.votes.get(&node)) else { return };
        if leadership.membership().member(vote.node).is_none() {
            return;
        }
        let message = leadership.elected_for(vote);
        proposer.votes.remove(&node);
        proposer.sent.insert(node, message.start_streaming_at.0);
        let session = self.session(id, node);
        if let Err(refusal) = self.nodes[node].acceptor.handle_elected(session, message) {
            self.refused(id, node, &refusal);
        }
        self.drain(id, node, session);
    }

    fn append(&mut self, id: usize, node: usize, sent: u64) {
        if self.rng.one_in(3) {
            let byte = self.rng.below(256) as u8;
            self.proposers[id].log.push(byte);
        }
        if self.rng.one_in(10) {
            self.begin_change(id);
        }
        let proposer = &mut self.proposers[id];
        let Role::Leading(leadership) = &proposer.role else { return };
        let log = &proposer.log[(sent - FIRST) as usize..];
        let wal = &log[..self.rng.below(log.len() + 1)];
        let append = AppendRequest {
            generation: leadership.membership().generation,
            term: leadership.term(),
            begin: Lsn(sent),
            end: Lsn(sent + wal.len() as u64),
            commit: leadership.commit().unwrap_or(Lsn::INVALID),
            truncate: Lsn::INVALID,
            wal: Bytes::copy_from_slice(wal),
        };
        proposer.sent.insert(node, append.end.0);
        let session = self.session(id, node);
        if let Err(refusal) = self.nodes[node].acceptor.handle_append(session, append, |_, _| Ok(())) {
            self.refused(id, node, &refusal);
        }
        self.drain(id, node, session);
    }

    /// A leader that has committed in its own term finishes a joint record, or perhaps begins a change.
    fn begin_change(&mut self, id: usize) {
        let Role::Leading(leadership) = &self.proposers[id].role else { return };
        let (record, term) = (leadership.membership().clone(), leadership.term());
        if leadership.commit().is_none() {
            return;
        }
        let next = if record.new_members.is_some() {
            record.finished(term)
        } else {
            let mut new: Vec<usize> = record.members.iter().map(|member| index(member.node)).collect();
            for _ in 0..1 + self.rng.below(3) {
                let node = self.rng.below(NODES);
                match new.iter().position(|at| *at == node) {
                    Some(at) if new.len() > 1 => drop(new.remove(at)),
                    Some(_) => {}
                    None => new.push(node),
                }
            }
            record.joint(term, new.into_iter().map(member).collect())
        };
        let Ok(next) = next else { return };
        self.note(format!("P{id} makes {next}"));
        let earlier = self.records.insert(next.generation, next.clone());
        assert!(earlier.is_none(), "generation {} has two records", next.generation);
        let role = std::mem::replace(&mut self.proposers[id].role, Role::Dead);
        let Role::Leading(leadership) = role else { return };
        self.proposers[id].role = Role::Changing(leadership, next, BTreeSet::new());
    }

    /// Something arrives.
    fn arrive(&mut self) {
        if self.travelling.is_empty() {
            return;
        }
        let at = self.rng.below(self.travelling.len());
        match self.travelling.swap_remove(at) {
            Travelling::Record { from, node, record } => {
                let generation = record.generation;
                if self.nodes[node].acceptor.handle_record(record).is_ok() {
                    self.note(format!("N{} takes generation {generation}", node + 1));
                    self.drain_alone(node);
                    let term = self.nodes[node].acceptor.state().term;
                    self.travelling.push(Travelling::Taken { to: from, node, generation, term });
                }
            }
            Travelling::Taken { to, node, generation, term } => self.taken(to, node, generation, term),
            Travelling::Answer { to, node, answer } => self.answered(to, node, answer),
        }
    }

    fn taken(&mut self, id: usize, node: usize, generation: u32, term: Term) {
        let Role::Changing(leadership, record, taken) = &mut self.proposers[id].role else { return };
        if generation == record.generation && term == leadership.term() {
            taken.insert(NodeId(node as u64 + 1));
        }
        if record.has_majority(|node| taken.contains(&node)) {
            self.finished += usize::from(record.new_members.is_none());
            self.kill(id);
        }
    }

    fn answered(&mut self, id: usize, node: usize, answer: Answer) {
        let number = NodeId(node as u64 + 1);
        match answer {
            Answer::Vote(response, log) => {
                let proposer = &mut self.proposers[id];
                let vote = Vote::new(number, &response);
                proposer.votes.insert(node, vote);
                let Role::Campaigning(campaign) = &mut proposer.role else { return };
                if campaign.handle_vote(number, &response) {
                    proposer.logs.insert(number, log);
                    self.decide(id);
                } else if response.term >= campaign.term() {
                    self.kill(id);
                }
            }
            Answer::Append(response) => {
                let Role::Leading(leadership) = &mut self.proposers[id].role else { return };
                match leadership.handle_append_response(number, &response) {
                    Outcome::Committed(commit) => self.declare(id, commit),
                    Outcome::Deposed(_) => self.kill(id),
                    Outcome::Noted | Outcome::Foreign => {}
                }
            }
        }
    }

    fn decide(&mut self, id: usize) {
        let proposer = &mut self.proposers[id];
        let Role::Campaigning(campaign) = &proposer.role else { return };
        let Decision::Won(donor) = campaign.decide(|_| Some(true)) else { return };
        let (term, record) = (campaign.term(), campaign.membership().clone());
        let leadership = Leadership::new(record, term, &donor, Lsn(FIRST)).unwrap();
        proposer.log = proposer.logs.get(&donor.node).cloned().unwrap_or_default();
        let contains = proposer.log.starts_with(&self.committed);
        proposer.role = Role::Leading(leadership);
        self.note(format!("P{id} wins term {term} with the log of {}", donor.node));
        assert_eq!(self.winners.insert(term, id), None, "term {term} has two winners");
        // Another leader may still commit while this one is being told of its votes; `declare` finds it if it should not.
        let newest = self.winners.keys().next_back() == Some(&term);
        assert!(contains || !newest, "term {term} begins without what was committed");
    }

    fn declare(&mut self, id: usize, commit: Lsn) {
        let Role::Leading(leadership) = &self.proposers[id].role else { return };
        let (term, record) = (leadership.term(), leadership.membership().clone());
        let bytes = self.proposers[id].log[..(commit.0 - FIRST) as usize].to_vec();
        let shared = bytes.len().min(self.committed.len());
        assert_eq!(bytes[..shared], self.committed[..shared], "term {term} commits other bytes");
        let holds = |node: NodeId| self.nodes[index(node)].log.starts_with(&bytes);
        assert!(record.has_majority(holds), "commit {commit} of term {term} is not on a majority");
        if bytes.len() > shared {
            self.committed = bytes;
        }
    }

    /// Carries a safekeeper's commands out; its answers travel to a proposer.
    fn drain(&mut self, id: usize, node: usize, session: SessionId) {
        for (to, message) in self.drain_alone(node) {
            let answer = match message {
                AcceptorMessage::Vote(vote) => {
                    if vote.granted {
                        assert_eq!(self.nodes[node].acceptor.standing(), Standing::Member, "only members vote");
                    }
                    Answer::Vote(vote, self.nodes[node].log.clone())
                }
                AcceptorMessage::Append(response) => Answer::Append(response),
                AcceptorMessage::Greeting(_) => continue,
            };
            if to == session {
                self.travelling.push(Travelling::Answer { to: id, node, answer });
            }
        }
    }

    fn drain_alone(&mut self, node: usize) -> Vec<(SessionId, AcceptorMessage)> {
        let Node { acceptor, log } = &mut self.nodes[node];
        let mut sent = Vec::new();
        while let Some(command) = acceptor.poll_command() {
            match command {
                AcceptorCommand::Persist { ticket, .. } => acceptor.handle_persisted(ticket),
                AcceptorCommand::Write { begin, wal } => {
                    log.truncate((begin.0 - FIRST) as usize);
                    log.extend_from_slice(&wal);
                    let end = acceptor.written();
                    acceptor.handle_flushed(end, end);
                }
                AcceptorCommand::Cut { to, .. } => {
                    log.truncate((to.0 - FIRST) as usize);
                    acceptor.handle_cut();
                }
                AcceptorCommand::Send { session, message } => sent.push((session, message)),
                AcceptorCommand::Refuse { .. } => {}
            }
        }
        sent
    }

    /// Everybody reaches everybody, one proposer after the other: the cluster must work again and finish what was begun.
    pub(crate) fn settle(&mut self) {
        self.note("settling".to_owned());
        self.cut_off = vec![false; NODES];
        self.rivals = 1;
        self.alive().into_iter().for_each(|id| self.kill(id));
        let before = self.committed.len();
        for _ in 0..20_000 {
            match self.rng.below(2) {
                0 => self.arrive(),
                _ if self.alive().is_empty() => self.spawn(),
                _ => {
                    let (id, node) = (self.alive()[0], self.rng.below(NODES));
                    self.act(id, node);
                }
            }
            if self.committed.len() > before + 3 {
                return;
            }
        }
        panic!("nothing is committed with everybody up");
    }
}
