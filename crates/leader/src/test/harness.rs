//! A whole cluster on one thread: a primary as a value, safekeepers made of real acceptors, a leader, one virtual clock.
//!
//! Every answer to the primary is checked where it comes out: [`World::check_answer`].

use super::parts::{Node, Primary};
use crate::*;
use bytes::Bytes;
use consensus::{
    Acceptor, AcceptorState, Identity, Member, Membership, ProposerMessage, ServerInfo, SessionId, Standing,
};
use lsn::{ClusterId, DiskId, Lsn, NodeId, SegmentSize, SystemId, Tli};
use quorum_proto::{LogState, LogStatusRow, RecordTaken};
use std::time::{Duration, Instant};

pub(super) const SEGMENT: u64 = 1 << 20;
pub(super) const SYSTEM: SystemId = SystemId(77);
/// Start of the primary's WAL, and what its slot first holds.
pub(super) const FIRST: Lsn = Lsn(5 * SEGMENT);

/// The byte of the primary's WAL at a position, in one of several lineages that share what lies below `fork`.
pub(super) fn wal_byte(lineage: u8, fork: Lsn, position: u64) -> u8 {
    let base = (position.wrapping_mul(2_654_435_761) >> 7) as u8;
    if position >= fork.0 { base ^ lineage } else { base }
}

pub(super) struct World {
    pub(super) now: Instant,
    pub(super) leader: Leader,
    pub(super) primary: Primary,
    pub(super) nodes: Vec<Node>,
    pub(super) answers: Vec<Lsn>,
    /// The highest position ever answered, over all leaders.
    pub(super) promised: Lsn,
    pub(super) closed: Vec<String>,
    pub(super) commands: Vec<Command>,
    donor: Option<(Peer, Lsn, Lsn)>,
    next_session: u64,
    /// Bytes a stream hands over at once.
    pub(super) piece: u64,
    pub(super) ring_bytes: u64,
    /// Look answers that do not come: addresses unreachable for LOG_STATUS.
    pub(super) blind: Vec<bool>,
}

pub(super) fn members(count: u64) -> Membership {
    let member =
        |node| Member { node: NodeId(node), disk: DiskId([node as u8; 16]), host: format!("sk{node}"), port: 5454 };
    Membership::new(1, lsn::Term(0), (1..=count).map(member).collect(), None).unwrap()
}

pub(super) fn cluster() -> ClusterId {
    ClusterId { tenant: [1; 16], timeline: [2; 16] }
}

impl World {
    pub(super) fn new() -> World {
        World::with_ring(Options::RING_BYTES)
    }

    pub(super) fn with_ring(ring_bytes: u64) -> World {
        let now = Instant::now();
        let nodes = (1..=3u64).map(|node| {
            let identity = Identity { node: NodeId(node), disk: DiskId([node as u8; 16]) };
            let state = AcceptorState::new(cluster(), "orders".to_owned(), members(3), ServerInfo::default());
            Node::new(identity, state)
        });
        World {
            now,
            leader: Leader::new(options(ring_bytes), now),
            primary: Primary {
                up: true,
                system_id: SYSTEM,
                tli: Tli(1),
                segment_size: SEGMENT,
                end: Lsn(FIRST.0 + 1000),
                slot: None,
                oldest: FIRST,
                lineage: 0,
                fork: Lsn::MAX,
                stream: None,
                flushed: Lsn::INVALID,
                feedback: Vec::new(),
                ancestors: Vec::new(),
                records: Vec::new(),
                fence_token: None,
            },
            nodes: nodes.collect(),
            answers: Vec::new(),
            promised: Lsn::INVALID,
            closed: Vec::new(),
            commands: Vec::new(),
            donor: None,
            next_session: 0,
            piece: 3000,
            ring_bytes,
            blind: vec![false; 3],
        }
    }

    /// The proposer dies and another one starts. What it had sent but was not taken is lost.
    pub(super) fn restart_leader(&mut self) {
        for index in 0..self.nodes.len() {
            self.drop_session(Peer(index));
        }
        self.primary.stream = None;
        self.donor = None;
        self.answers.clear();
        self.leader = Leader::new(options(self.ring_bytes), self.now);
    }

    /// The same, with other options.
    pub(super) fn restart_leader_with(&mut self, change: impl FnOnce(&mut Options)) {
        self.restart_leader();
        let mut options = options(self.ring_bytes);
        change(&mut options);
        self.leader = Leader::new(options, self.now);
    }

    /// The primary writes whole records.
    pub(super) fn write(&mut self, bytes: u64) {
        self.primary.end = Lsn(self.primary.end.0 + bytes.next_multiple_of(8));
    }

    /// The connection to the primary breaks.
    pub(super) fn lose_primary(&mut self) {
        if self.primary.stream.take().is_some() {
            self.leader.handle_primary_failed(self.now, PrimaryFailure::Retry("connection lost".to_owned()));
        }
    }

    fn row(&self, index: usize) -> Option<LogStatusRow> {
        let node = &self.nodes[index];
        let acceptor = node.acceptor.as_ref()?;
        let state = acceptor.state();
        let history = state.history.cut(acceptor.flush());
        Some(LogStatusRow {
            node: node.identity.node,
            disk: node.identity.disk,
            name: state.name.clone(),
            cluster: state.cluster,
            state: match acceptor.standing() {
                Standing::Member => LogState::Member,
                Standing::Learner => LogState::Learner,
                Standing::Damaged => LogState::Damaged,
                Standing::ForeignDisk => LogState::ForeignDisk,
            },
            term: state.term,
            last_log_term: history.last_term(),
            flush: acceptor.flush(),
            commit: acceptor.commit(),
            history,
            path: state.path.as_ref().map(|path| path.cut(acceptor.flush())),
            membership: state.membership.clone(),
            fence: node.fence.clone(),
            leader_silent_ms: node.silent_ms,
            system_id: state.server.system_id,
            segment_size: state.server.segment_size,
            pg_version: state.server.pg_version,
            version: 1,
        })
    }

    fn execute(&mut self, command: Command) {
        self.commands.push(command.clone());
        let now = self.now;
        match command {
            Command::CheckPrimary => {
                if self.primary.up {
                    let facts = PrimaryFacts {
                        system_id: self.primary.system_id,
                        tli: self.primary.tli,
                        flush: self.primary.end,
                        segment_size: SegmentSize::new(self.primary.segment_size).unwrap(),
                        version_num: 150_018,
                        slot: self.primary.slot.map(|restart| Slot { restart }),
                        ancestors: self.primary.ancestors.clone(),
                        tli_history: String::new(),
                        oldest: Some(self.primary.oldest),
                        fence_token: self.primary.fence_token,
                    };
                    self.leader.handle_primary_checked(now, facts);
                } else {
                    self.leader.handle_primary_failed(now, PrimaryFailure::Retry("connection refused".to_owned()));
                }
            }
            Command::Look { peer, round } => {
                let node = &self.nodes[peer.0];
                let answer = match self.row(peer.0) {
                    _ if self.blind[peer.0] => LookAnswer::Failed("no answer".to_owned()),
                    None => LookAnswer::Failed("connection refused".to_owned()),
                    Some(_) if !node.known => LookAnswer::Absent(Some(node.identity.node)),
                    Some(row) => LookAnswer::Row(Box::new(row)),
                };
                self.leader.handle_look(now, round, peer, answer);
            }
            Command::CreateSlot => {
                let restart = Lsn(self.primary.end.0 - 100);
                self.primary.slot = Some(Some(restart));
                self.leader.handle_slot_created(now, restart);
            }
            Command::StartStream { from, tli } => {
                assert!(tli <= self.primary.tli);
                if from < self.primary.oldest {
                    self.leader.handle_stream_refused(now, StreamFailure::SegmentRemoved);
                } else {
                    self.primary.stream = Some(from);
                    self.leader.handle_stream_started(now, self.primary.slot.flatten().unwrap());
                }
            }
            Command::ClosePrimary { reason } => {
                self.primary.stream = None;
                self.answers.clear();
                self.closed.push(reason);
            }
            Command::Compare { peer, from, to, term, .. } => {
                assert!(from < to);
                // The guard of a read: another term, or nobody there, is an ordinary failure.
                if self.nodes[peer.0].acceptor.as_ref().map(|acceptor| acceptor.state().term) == Some(term) {
                    self.donor = Some((peer, from, to));
                } else {
                    self.leader.handle_donor_failed(now, "another term".to_owned());
                }
            }
            Command::StopCompare => self.donor = None,
            Command::OpenPush { peer, introduction } => {
                let node = &mut self.nodes[peer.0];
                assert!(node.session.is_none(), "a session is opened once");
                if node.acceptor.is_some() && node.known {
                    self.next_session += 1;
                    node.session = Some(SessionId(self.next_session));
                    node.introduction = Some(introduction);
                    let Identity { node, disk } = node.identity;
                    self.leader.handle_push_opened(now, peer, node, disk);
                } else {
                    self.leader.handle_push_closed(now, peer, "connection refused".to_owned());
                }
            }
            Command::TakeRecord { peer, record } => self.bring(peer, record),
            Command::ClosePush { peer } => self.drop_session(peer),
            Command::AnswerPrimary { write, flush, apply } => {
                assert_eq!((write, apply), (flush, Lsn::INVALID));
                self.check_answer(flush);
            }
            Command::Feedback { xmin, catalog_xmin } => self.primary.feedback.push((xmin, catalog_xmin)),
        }
    }

    /// A membership record arrives; what counts by the one before is ended.
    fn bring(&mut self, peer: Peer, record: Membership) {
        let node = &mut self.nodes[peer.0];
        let taken = match node.acceptor.as_mut() {
            None => Err("connection refused".to_owned()),
            Some(acceptor) => acceptor.handle_record(record).map_err(|refusal| refusal.to_string()),
        };
        node.carry_out();
        let answer = taken.map(|_| {
            let acceptor = node.acceptor.as_ref().unwrap();
            let state = acceptor.state();
            RecordTaken { generation: state.membership.generation, term: state.term, flush: acceptor.flush() }
        });
        if answer.is_ok() && node.session.is_some() {
            self.drop_session(peer);
            self.leader.handle_push_closed(self.now, peer, "the membership record has changed".to_owned());
        }
        self.leader.handle_record_taken(self.now, peer, answer);
    }

    fn drop_session(&mut self, peer: Peer) {
        let node = &mut self.nodes[peer.0];
        if let (Some(session), Some(acceptor)) = (node.session.take(), node.acceptor.as_mut()) {
            acceptor.handle_disconnect(session);
        }
        node.inbox.clear();
        node.outbox.clear();
        node.carry_out();
    }

    /// The promise: a majority has these very bytes on disk, in this term; never backwards, never beyond what was received.
    fn check_answer(&mut self, flush: Lsn) {
        let status = self.leader.status();
        assert!(Some(flush) <= status.received, "answered {flush} beyond what was received");
        assert!(Some(flush) <= status.commit, "answered {flush} beyond the own-term commit LSN");
        assert!(flush > self.answers.last().copied().unwrap_or_default(), "answers go forward");
        assert!(flush >= self.primary.slot.flatten().unwrap(), "an answer must not move the slot back");
        let primary = &self.primary;
        let holders = self.nodes.iter_mut().filter_map(|node| {
            let end = Lsn(node.base.0 + node.wal.len() as u64);
            let here = node.base.is_valid() && node.durable >= flush && end >= flush;
            if !here || node.saved.term < status.term.unwrap() {
                return None;
            }
            let from = node.verified.max(node.base);
            if from < flush {
                let place = |position: Lsn| position.bytes_since(node.base) as usize;
                assert!(
                    node.wal[place(from)..place(flush)] == primary.bytes(from, flush)[..],
                    "other bytes below {flush}"
                );
                node.verified = flush;
            }
            Some(())
        });
        assert!(holders.count() >= 2, "answered {flush} without a majority");
        self.answers.push(flush);
        self.promised = self.promised.max(flush);
        self.primary.slot = Some(Some(flush));
        self.primary.flushed = flush;
    }

    /// One thing happens somewhere; `which` chooses what. Returns whether anything did.
    pub(super) fn step(&mut self, which: usize) -> bool {
        if let Some(command) = self.leader.poll_command() {
            self.execute(command);
            return true;
        }
        let kinds = 2 + 3 * self.nodes.len();
        (0..kinds).any(|offset| match (which + offset) % kinds {
            0 => self.step_primary(),
            1 => self.step_donor(),
            other => {
                let index = (other - 2) / 3;
                match (other - 2) % 3 {
                    0 => self.step_transmit(index),
                    1 => self.step_node(index),
                    _ => self.step_response(index),
                }
            }
        })
    }

    fn step_primary(&mut self) -> bool {
        let Some(position) = self.primary.stream.filter(|position| *position < self.primary.end) else { return false };
        if !self.leader.wants_wal() {
            return false;
        }
        let to = Lsn((position.0 + self.piece).min(self.primary.end.0));
        self.primary.stream = Some(to);
        self.leader.handle_wal(self.now, position, Bytes::from(self.primary.bytes(position, to)));
        true
    }

    fn step_donor(&mut self) -> bool {
        let Some((peer, from, to)) = self.donor else { return false };
        if !self.leader.wants_donor_bytes() {
            return false;
        }
        let node = &self.nodes[peer.0];
        if node.acceptor.is_none() || node.flush() < to || from < node.base {
            self.donor = None;
            self.leader.handle_donor_failed(self.now, "gone".to_owned());
            return true;
        }
        let until = Lsn((from.0 + self.piece + 11).min(to.0));
        let bytes = node.wal[from.bytes_since(node.base) as usize..until.bytes_since(node.base) as usize].to_vec();
        self.donor = (until < to).then_some((peer, until, to));
        self.leader.handle_donor_bytes(self.now, from, Bytes::from(bytes));
        true
    }

    fn step_transmit(&mut self, index: usize) -> bool {
        if self.nodes[index].blocked {
            return false;
        }
        let ready = self.leader.has_transmit(Peer(index));
        let message = self.leader.poll_transmit(self.now, Peer(index));
        assert_eq!(ready, message.is_some(), "has_transmit tells whether poll_transmit has something");
        let Some(transmit) = message else { return false };
        let message = match transmit {
            Transmit::Message(message) => message,
            Transmit::Append { mut request, wal } => {
                request.wal = Bytes::from(wal.concat());
                assert_eq!(request.end.bytes_since(request.begin), request.wal.len() as u64);
                assert!(!request.wal.is_empty() && request.wal.len() <= consensus::MAX_APPEND_BYTES);
                ProposerMessage::Append(request)
            }
        };
        self.nodes[index].inbox.push_back(message);
        true
    }

    fn step_node(&mut self, index: usize) -> bool {
        let node = &mut self.nodes[index];
        if node.frozen {
            return false;
        }
        if let Some(message) = node.inbox.pop_front() {
            node.take(message);
            if node.session.is_none() {
                self.drop_session(Peer(index));
                self.leader.handle_push_closed(self.now, Peer(index), "refused".to_owned());
            }
            return true;
        }
        false
    }

    fn step_response(&mut self, index: usize) -> bool {
        let node = &mut self.nodes[index];
        if node.frozen {
            return false;
        }
        let Some(message) = node.outbox.pop_front() else { return false };
        self.leader.handle_push_message(self.now, Peer(index), message);
        true
    }

    /// Lets everything happen that needs no time.
    pub(super) fn settle(&mut self) {
        for count in 0.. {
            assert!(count < 1_000_000, "it never settles");
            if !self.step(count) {
                return;
            }
        }
    }

    /// Lets time pass, and everything happen that is due meanwhile.
    pub(super) fn pass(&mut self, duration: Duration) {
        let until = self.now + duration;
        self.settle();
        for count in 0.. {
            assert!(count < 1_000_000, "a timeout that is never in the future");
            let Some(next) = self.leader.poll_timeout().filter(|next| *next <= until) else { break };
            self.now = self.now.max(next);
            self.leader.handle_timeout(self.now);
            self.settle();
        }
        self.now = until;
        self.settle();
    }

    pub(super) fn crash(&mut self, index: usize) {
        let had_session = self.nodes[index].session.is_some();
        self.nodes[index].crash();
        if self.donor.is_some_and(|(peer, ..)| peer.0 == index) {
            self.donor = None;
            self.leader.handle_donor_failed(self.now, "gone".to_owned());
        }
        if had_session {
            self.leader.handle_push_closed(self.now, Peer(index), "connection reset".to_owned());
        }
    }

    /// A safekeeper learns what it lacks from another one, up to the leader's commit LSN. False if it may not, or need not.
    pub(super) fn pull(&mut self, index: usize, from: usize) -> bool {
        let source = &self.nodes[from];
        let end = self.nodes[index].end();
        let gap = self.nodes[index].appends.last().is_some_and(|append| append.0 > end && append.0 == append.1);
        let led = |node: &Node| node.acceptor.as_ref().and_then(Acceptor::leader_term);
        let (Some(term), Some(limit)) = (led(source), source.acceptor.as_ref().map(Acceptor::commit)) else {
            return false;
        };
        if !gap || led(&self.nodes[index]) != Some(term) || limit <= end || !end.is_valid() {
            return false;
        }
        let bytes = source.wal[end.bytes_since(source.base) as usize..limit.bytes_since(source.base) as usize].to_vec();
        let node = &mut self.nodes[index];
        let Some(acceptor) = node.acceptor.as_mut() else { return false };
        let taken = acceptor.handle_pulled(term, end, Bytes::from(bytes), |_, _| Ok(()));
        node.carry_out();
        node.sync();
        taken
    }

    pub(super) fn leading(mut self) -> World {
        self.settle();
        assert_eq!(self.leader.state(), State::Leading, "{:?}", self.leader.status());
        self
    }
}

fn options(ring_bytes: u64) -> Options {
    let addresses = (1..=3).map(|node| format!("sk{node}:5454")).collect();
    Options { ring_bytes, ..Options::new(cluster(), addresses) }
}
