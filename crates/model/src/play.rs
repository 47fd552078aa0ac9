//! Carrying actions out: sessions, safekeepers, proposers.

use crate::action::{Action, Completion};
use crate::config::Config;
use crate::disk::{FIRST, RECORD_END, index, position};
use crate::mutant::Mutant;
use crate::node::{CLUSTER, Letter, Loss, Reply, SERVER, Wire, member};
use crate::property::Property::*;
use crate::proposer::{Link, Proposer, Role};
use crate::world::{Server, World};
use bytes::Bytes;
use consensus::{
    AcceptorMessage, AppendRequest, Campaign, Fault, Fence, FenceLine, FenceToken, Introduction, Membership,
    ProposerGreeting, SessionId, Vote, VoteRequest,
};
use lsn::{Lsn, Path, PathEntry, Term, Tli};
use std::sync::Arc;

/// Carries an action out in a copy of the world that is its own.
pub(crate) struct Play<'a> {
    pub(crate) config: &'a Config,
    pub(crate) mutant: Mutant,
    pub(crate) world: &'a mut World,
}

impl Play<'_> {
    /// False if the action cannot happen, or is another one in disguise.
    pub(crate) fn act(&mut self, action: &Action) -> bool {
        let done = match *action {
            Action::Start { proposer, term, server, record, completes, voters } => {
                self.start(proposer, term, server, record, completes);
                !self.config.is_atomic() || self.campaign(proposer, voters)
            }
            Action::Ask { proposer, node, crash } => {
                let asked = self.ask(proposer, node) && self.pump(node, crash);
                if self.config.is_atomic() {
                    self.hang_up(proposer, node);
                }
                asked
            }
            Action::Elect { proposer, node, crash } => {
                let told = if self.config.is_atomic() {
                    self.tell(proposer, node, crash)
                } else {
                    self.elect(proposer, node) && self.pump(node, crash)
                };
                self.end_brief(proposer, node);
                told
            }
            Action::Append { proposer, node, crash } => {
                let fresh = crash == Some(u8::MAX);
                if fresh {
                    self.crash(node);
                }
                let crash = crash.filter(|_| !fresh);
                let untold = fresh && self.mutant == Mutant::Rule(Fault::AppendUnelected);
                let told = match (self.config.brief, untold) {
                    (true, false) => self.tell(proposer, node, None),
                    (true, true) => self.resume(proposer, node),
                    (false, _) => true,
                };
                let sent = told && self.append(proposer, node, true) && self.pump(node, crash);
                self.end_brief(proposer, node);
                sent
            }
            Action::Beat { proposer, node } => {
                let told = !self.config.brief || self.tell(proposer, node, None);
                let sent = told && self.append(proposer, node, false) && self.pump(node, None);
                self.end_brief(proposer, node);
                sent
            }
            Action::Write { server } => {
                let place = self.world.servers[server].log.len();
                let byte = self.byte(server as u64 + 1, place);
                Arc::make_mut(&mut self.world.servers)[server].log.push(byte);
                true
            }
            Action::Fork { server, bytes, promoted } => self.fork(server, bytes, promoted),
            Action::Crash { node } => {
                self.crash(node);
                true
            }
            Action::Checkpoint { node } => {
                self.world.node(node).acceptor.checkpoint();
                self.pump(node, None)
            }
            Action::Empty { node } => {
                self.world.past().losses.0 += 1;
                self.world.node(node).empty(self.mutant == Mutant::EmptyVoter);
                true
            }
            Action::Rewind { node } => self.rewind(node),
            Action::Forget { node, keep } => {
                self.world.past().losses.1 += 1;
                let world = &mut *self.world;
                let node = Arc::make_mut(&mut world.nodes[node]);
                node.loss = Loss::Forgot;
                node.missing = node.disk.control.floor;
                node.disk.synced = keep;
                node.restart(&mut world.broken);
                true
            }
            Action::Finish { node, what } => self.finish(node, what),
            Action::ToNode { node, session } => {
                self.deliver(node, session);
                self.pump(node, None)
            }
            Action::ToProposer { node, session } => {
                self.reply(node, session);
                true
            }
            Action::Break { node, session, half } => self.part(node, session, half),
            Action::Change { proposer, abandon } => self.change(proposer, abandon),
            Action::Record { record, node, crash } => {
                let record = self.world.past.records[record].clone();
                self.world.node(node).acceptor.handle_record(record).is_ok() && self.pump(node, crash)
            }
            Action::Fence { proposer, node, crash } => self.fence(proposer, node) && self.pump(node, crash),
            Action::Move { proposer, server } => {
                self.world.proposer(proposer).server = server;
                true
            }
        };
        self.sweep();
        if self.config.is_atomic() {
            self.bury();
        }
        done
    }

    /// A leader whom nobody would listen to any more is as good as gone.
    fn bury(&mut self) {
        for proposer in 0..self.world.proposers.len() {
            let Some((term, _)) = self.world.proposers[proposer].counting() else { continue };
            if !self.config.stubborn && self.world.nodes.iter().all(|node| node.acceptor.state().term > term) {
                self.retire(proposer);
            }
        }
    }

    /// A byte of a log: who wrote it, and whether it ends a record.
    fn byte(&self, writer: u64, place: usize) -> u8 {
        let ends = (place + 1).is_multiple_of(self.config.record);
        writer as u8 | if ends { RECORD_END } else { 0 }
    }

    // ---- safekeepers ----

    /// Lets a safekeeper work: commands, letters that wait, and, unless disks go their own way, completions. With `crash`, it ends
    /// after so many completions, which must leave something undone.
    fn pump(&mut self, at: usize, crash: Option<u8>) -> bool {
        let (mut completions, mut saved) = (0, self.config.lagging);
        loop {
            let world = &mut *self.world;
            let node = Arc::make_mut(&mut world.nodes[at]);
            if self.mutant == Mutant::ReleaseBeforePersist {
                node.hasty = true;
            }
            if node.obey(&mut world.broken) {
                continue;
            }
            if self.hand_replies_over(at) || self.deliver_next(at) {
                continue;
            }
            let world = &mut *self.world;
            let node = Arc::make_mut(&mut world.nodes[at]);
            if self.config.disks {
                return true;
            }
            if crash == Some(completions) {
                let undone = node.disk.is_busy();
                self.crash(at);
                return undone;
            }
            if node.finish_persist(&mut world.broken) || node.finish_cut() || node.finish_sync() {
                completions += 1;
                continue;
            }
            node.regain();
            if !std::mem::replace(&mut saved, true) && node.is_free() {
                node.acceptor.checkpoint();
                continue;
            }
            return crash.is_none();
        }
    }

    fn finish(&mut self, at: usize, what: Completion) -> bool {
        let world = &mut *self.world;
        let node = Arc::make_mut(&mut world.nodes[at]);
        let done = match what {
            Completion::Persist => node.finish_persist(&mut world.broken),
            Completion::Cut => node.finish_cut(),
            Completion::Sync => node.finish_sync(),
        };
        done && self.pump(at, None)
    }

    /// Without travelling messages a letter that waits is there at once, as soon as it may be handed in.
    fn deliver_next(&mut self, at: usize) -> bool {
        let node = &self.world.nodes[at];
        if self.config.messages || !node.is_free() {
            return false;
        }
        let Some(session) = node.wires.iter().find(|wire| wire.open && !wire.to_node.is_empty()).map(|w| w.session)
        else {
            return false;
        };
        self.deliver(at, session);
        true
    }

    /// Hands in what waits on a session: one letter, and the probe that follows an Elected message at once.
    fn deliver(&mut self, at: usize, session: SessionId) {
        let world = &mut *self.world;
        let node = Arc::make_mut(&mut world.nodes[at]);
        let Some(wire) = node.wire(session).filter(|wire| !wire.to_node.is_empty()) else { return };
        let letter = wire.to_node.remove(0);
        let elected = matches!(letter, Letter::Elected(_));
        node.hand_in(session, letter, &mut world.broken);
        if elected && self.config.messages {
            while node.obey(&mut world.broken)
                || node.finish_persist(&mut world.broken)
                || node.finish_cut()
                || node.finish_sync()
            {}
            let node = Arc::make_mut(&mut world.nodes[at]);
            if node.wire(session).is_some_and(|wire| !wire.to_node.is_empty()) {
                self.deliver(at, session);
            }
        }
    }

    fn crash(&mut self, at: usize) {
        let world = &mut *self.world;
        let node = Arc::make_mut(&mut world.nodes[at]);
        node.restart(&mut world.broken);
    }

    fn rewind(&mut self, at: usize) -> bool {
        self.world.past().losses.1 += 1;
        let told = self.mutant != Mutant::Untold;
        let node = self.world.node(at);
        let (term, flush) = (node.acceptor.state().term, node.acceptor.flush());
        node.empty(true);
        node.loss = Loss::Forgot;
        node.missing = if term > Term(0) { flush.max(Lsn(1)) } else { Lsn::INVALID };
        if told && term > Term(0) {
            node.acceptor.handle_forgotten(term, flush);
        }
        self.pump(at, None)
    }

    // ---- sessions ----

    /// Opens a session and sends a letter. False if the safekeeper does not take the greeting.
    fn open(&mut self, proposer: usize, at: usize, letter: Letter) -> bool {
        let of = &self.world.proposers[proposer];
        let introduction = Introduction { completes: of.completes, ..Introduction::of(of.path.clone()) };
        let greeting = ProposerGreeting {
            cluster: CLUSTER,
            membership: Membership::none(),
            pg_version: SERVER.pg_version,
            system_id: SERVER.system_id,
            segment_size: SERVER.segment_size,
        };
        let world = &mut *self.world;
        let node = Arc::make_mut(&mut world.nodes[at]);
        let used = |number: u64| node.wires.iter().any(|wire| wire.session == SessionId(number));
        let Some(session) = (0..64).find(|number| !used(*number)).map(SessionId) else { return false };
        if node.acceptor.handle_greeting(session, &greeting, introduction).is_err() {
            return false;
        }
        let to_node = vec![letter];
        node.wires.push(Wire { session, proposer: Some(proposer), open: true, to_node, to_proposer: Vec::new() });
        while node.obey(&mut world.broken) {}
        // A vote that was counted stays counted, whatever becomes of its session.
        let link = &mut world.proposer(proposer).links[at];
        let kept = if link.counted { std::mem::take(link) } else { Link::default() };
        *link = Link { session: Some(session), sent: None, ..kept };
        true
    }

    fn post(&mut self, proposer: usize, at: usize, letters: Vec<Letter>) -> bool {
        let Some(session) = self.world.proposers[proposer].links[at].session else { return false };
        let Some(wire) = self.world.node(at).wire(session).filter(|wire| wire.open) else { return false };
        wire.to_node.extend(letters);
        true
    }

    /// Gives a proposer everything that a safekeeper has sent, unless messages travel. Whether there was something.
    fn hand_replies_over(&mut self, at: usize) -> bool {
        if self.config.messages {
            return false;
        }
        let waiting = |wire: &&Wire| wire.proposer.is_some() && !wire.to_proposer.is_empty();
        let Some(session) = self.world.nodes[at].wires.iter().find(waiting).map(|wire| wire.session) else {
            return false;
        };
        self.reply(at, session);
        true
    }

    /// The next message on a session arrives at its proposer.
    fn reply(&mut self, at: usize, session: SessionId) {
        let Some(wire) = self.world.node(at).wire(session).filter(|wire| !wire.to_proposer.is_empty()) else { return };
        let reply = wire.to_proposer.remove(0);
        if let Some(proposer) = wire.proposer {
            self.take(proposer, at, reply);
        }
    }

    pub(crate) fn part(&mut self, at: usize, session: SessionId, half: bool) -> bool {
        let node = self.world.node(at);
        let Some(wire) = node.wire(session) else { return false };
        if let Some(proposer) = wire.proposer.take() {
            wire.to_proposer.clear();
            self.world.proposer(proposer).links[at].session = None;
            self.unlink(proposer, at);
        }
        if !half {
            self.world.node(at).close(session);
        }
        true
    }

    /// A proposer has lost a session: what it knew by it is of no use any more, but a vote that was counted stays counted.
    fn unlink(&mut self, proposer: usize, at: usize) {
        let link = &mut self.world.proposer(proposer).links[at];
        let counted = link.counted;
        let kept = if counted { std::mem::take(link) } else { Link::default() };
        *link = Link { session: None, sent: None, ..kept };
    }

    /// Forgets sessions that are over on either side.
    fn sweep(&mut self) {
        for at in 0..self.world.nodes.len() {
            let idle = |wire: &Wire| wire.open && wire.proposer.is_some();
            if !self.world.nodes[at].wires.iter().all(idle) {
                self.world.node(at).sweep();
            }
        }
        for proposer in 0..self.world.proposers.len() {
            for at in 0..self.world.nodes.len() {
                let Some(session) = self.world.proposers[proposer].links[at].session else { continue };
                let ours = |wire: &Wire| wire.session == session && wire.proposer == Some(proposer);
                if !self.world.nodes[at].wires.iter().any(ours) {
                    self.unlink(proposer, at);
                }
            }
        }
    }

    // ---- proposers ----

    /// A proposer leaves all its sessions; what it sent may still arrive where messages travel.
    pub(crate) fn retire(&mut self, proposer: usize) {
        for at in 0..self.world.nodes.len() {
            if self.world.nodes[at].wires.iter().all(|wire| wire.proposer != Some(proposer)) {
                continue;
            }
            let travels = self.config.messages;
            let node = self.world.node(at);
            for wire in node.wires.iter_mut().filter(|wire| wire.proposer == Some(proposer)) {
                wire.proposer = None;
                wire.to_proposer.clear();
                if !travels {
                    wire.to_node.clear();
                }
            }
            node.sweep();
        }
        let nodes = self.world.nodes.len();
        let path = self.world.past.committed_path.clone();
        *self.world.proposer(proposer) = Proposer::idle(nodes, path.cut(Lsn::INVALID));
    }

    fn start(&mut self, proposer: usize, term: u64, server: usize, record: usize, completes: bool) {
        self.retire(proposer);
        let record = self.mutant.record(&self.world.past.records[record]);
        let path = match self.world.servers.get(server) {
            Some(_) if completes => self.world.donor_path(&record),
            Some(server) => server.path.clone(),
            None => Path::root(Tli(1)),
        };
        let mut campaign = Campaign::new(record, Term(term));
        self.mutant.rule().into_iter().for_each(|fault| campaign.break_rule(fault));
        let of = self.world.proposer(proposer);
        (of.role, of.server, of.completes, of.path) = (Role::Campaigning(campaign), server, completes, path);
    }

    /// A whole campaign: the voters are asked, and only then it is decided.
    fn campaign(&mut self, proposer: usize, voters: u8) -> bool {
        for at in 0..self.world.nodes.len() {
            if voters & (1 << at) != 0 && !(self.ask(proposer, at) && self.pump(at, None)) {
                self.retire(proposer);
                return true;
            }
        }
        self.decide(proposer);
        if self.world.proposers[proposer].leadership().is_none() {
            self.retire(proposer);
        }
        for at in 0..self.world.nodes.len() {
            self.hang_up(proposer, at);
        }
        true
    }

    /// A leader asks for the state of a log and tells of its election, in one go.
    fn tell(&mut self, proposer: usize, at: usize, crash: Option<u8>) -> bool {
        let told = self.ask(proposer, at) && self.pump(at, None) && self.elect(proposer, at);
        told && self.pump(at, crash)
    }

    /// A leader that takes a new session for the one before.
    fn resume(&mut self, proposer: usize, at: usize) -> bool {
        let known = self.ask(proposer, at) && self.pump(at, None);
        let end = index(self.world.nodes[at].acceptor.flush());
        self.world.proposer(proposer).links[at].sent = Some(end);
        known
    }

    /// Ends the session where none outlives a message.
    fn end_brief(&mut self, proposer: usize, at: usize) {
        if self.config.brief {
            self.hang_up(proposer, at);
        }
    }

    /// A proposer ends a session.
    fn hang_up(&mut self, proposer: usize, at: usize) {
        if let Some(session) = self.world.proposers[proposer].links[at].session {
            self.part(at, session, false);
        }
        self.world.proposer(proposer).links[at] = Link::default();
    }

    fn ask(&mut self, proposer: usize, at: usize) -> bool {
        let Some((term, record)) = self.world.proposers[proposer].counting() else { return false };
        let request = VoteRequest { generation: record.generation, term };
        self.open(proposer, at, Letter::Vote(request))
    }

    pub(crate) fn elect(&mut self, proposer: usize, at: usize) -> bool {
        let of = self.world.proposer(proposer);
        let link = &mut of.links[at];
        let (Role::Leading(leadership), Some(vote)) = (&mut of.role, link.vote.take()) else { return false };
        let message = leadership.elected_for(&vote);
        let (generation, term, begin) = (message.generation, message.term, message.start_streaming_at);
        link.sent = Some(index(begin));
        link.counted = false;
        let probe = AppendRequest {
            generation,
            term,
            begin,
            end: begin,
            commit: Lsn::INVALID,
            truncate: Lsn::INVALID,
            wal: Bytes::new(),
        };
        self.post(proposer, at, vec![Letter::Elected(message), Letter::Append(probe)])
    }

    fn append(&mut self, proposer: usize, at: usize, wal: bool) -> bool {
        let of = &self.world.proposers[proposer];
        let (Role::Leading(leadership), Some(sent)) = (&of.role, of.links[at].sent) else { return false };
        let (generation, term) = (leadership.membership().generation, leadership.term());
        let commit = leadership.commit().unwrap_or(Lsn::INVALID);
        let mut log = self.world.log_of(of);
        if wal && sent == log.len() {
            log.push(self.byte(term.0, sent));
            self.world.proposer(proposer).log.clone_from(&log);
        }
        let bytes = if wal { log[sent..=sent].to_vec() } else { Vec::new() };
        let (begin, end) = (position(sent), position(sent + bytes.len()));
        self.world.proposer(proposer).links[at].sent = Some(index(end));
        self.check_one_path(proposer, term);
        let wal = Bytes::from(bytes);
        let append = AppendRequest { generation, term, begin, end, commit, truncate: Lsn::INVALID, wal };
        self.post(proposer, at, vec![Letter::Append(append)])
    }

    /// A message of a safekeeper arrives at a proposer.
    fn take(&mut self, proposer: usize, at: usize, reply: Reply) {
        let number = self.world.nodes[at].number();
        let of = self.world.proposer(proposer);
        match (reply.message, &mut of.role) {
            (AcceptorMessage::Vote(response), Role::Campaigning(campaign)) => {
                let term = campaign.term();
                let link = &mut of.links[at];
                if campaign.handle_vote(number, &response) {
                    let vote = Some(Vote::new(number, &response));
                    *link = Link { vote, log: reply.log, path: reply.path, counted: true, ..link.clone() };
                    if !self.config.is_atomic() {
                        self.decide(proposer);
                    }
                } else if response.term > term {
                    self.retire(proposer);
                } else if let Some(session) = link.session {
                    // It voted for another one in this term. There is nothing more to ask it.
                    self.part(at, session, false);
                }
            }
            (AcceptorMessage::Vote(response), Role::Leading(leadership)) => {
                if response.term > leadership.term() {
                    self.retire(proposer);
                } else {
                    of.links[at].vote = Some(Vote::new(number, &response));
                }
            }
            (AcceptorMessage::Append(response), Role::Leading(_)) => self.count(proposer, at, &response),
            _ => {}
        }
    }

    // ---- servers ----

    fn fork(&mut self, server: usize, bytes: usize, promoted: bool) -> bool {
        let number = self.world.servers.len();
        let Server { log, path } = &self.world.servers[server];
        let (mut log, end) = (log[..bytes].to_vec(), position(bytes));
        let mut entries = path.cut(end).entries().to_vec();
        if promoted {
            let last = entries[entries.len() - 1];
            let begin = if last.begin > end { last.begin } else { end };
            entries.push(PathEntry { tli: Tli(last.tli.0 + 1), begin, mark: number as u32 });
            log.push(self.byte(number as u64 + 1, bytes));
        }
        let Ok(path) = Path::new(entries) else { return false };
        Arc::make_mut(&mut self.world.servers).push(Server { log, path });
        true
    }

    // ---- records and fences ----

    fn change(&mut self, proposer: usize, abandon: bool) -> bool {
        let Some((_, new)) = self.config.members else { return false };
        let hasty = matches!(self.mutant, Mutant::ManyRecords);
        let of = &self.world.proposers[proposer];
        let Role::Leading(leadership) = &of.role else { return false };
        let (term, held) = (leadership.term(), leadership.membership());
        // What a leader with one of its sets left out counts by is not what it continues.
        let record = self.world.past.records.iter().find(|record| record.generation == held.generation);
        let Some(record) = record.cloned() else { return false };
        let mut wanted: Vec<_> = new.iter().map(|node| member(*node)).collect();
        if abandon {
            wanted.truncate(1);
        }
        let next = if record.new_members.is_some() { record.finished(term) } else { record.joint(term, wanted) };
        let Ok(next) = next else { return false };
        if !hasty && self.world.past.records.iter().any(|made| made.generation == next.generation) {
            self.world.broken.require(false, S33);
        }
        self.world.proposer(proposer).made = true;
        if !self.world.past.records.contains(&next) {
            self.world.past().records.push(next);
        }
        true
    }

    fn fence(&mut self, proposer: usize, at: usize) -> bool {
        let of = &self.world.proposers[proposer];
        let Role::Leading(leadership) = &of.role else { return false };
        let (epoch, lsn) = (leadership.term(), leadership.start());
        let line = FenceLine { epoch, path: of.path.cut(lsn), lsn, expires_ms: None };
        let fence = Fence { line, token: FenceToken([9; 16]) };
        if self.world.node(at).acceptor.set_fence(fence.clone()).is_err() {
            return false;
        }
        self.world.past().fence = Some(fence);
        true
    }
}

/// First byte of a log without a donor.
pub(crate) const BEGIN: Lsn = Lsn(FIRST);
