//! What a proposer concludes from the answers, and what must be true of it: terms won, positions called committed.

use crate::disk::{index, position, whole_records};
use crate::mutant::{Mutant, decide_by_tli};
use crate::node::{Reply, highest};
use crate::play::{BEGIN, Play};
use crate::property::Property::*;
use crate::proposer::Role;
use crate::world::{Server, Won, World};
use consensus::{
    AcceptorMessage, AppendResponse, Campaign, Decision, Introduction, Leadership, Membership, Outcome, Vote,
    VoteResponse,
};
use lsn::{Lsn, Path, Term, Tli};

impl Server {
    /// Whether it has all of a log, as far as lineage and bytes tell.
    fn contains(&self, end: Lsn, path: Option<&Path>, log: &[u8]) -> bool {
        let here = position(self.log.len());
        path.is_none_or(|path| self.path.contains(here, path, end)) && self.log.starts_with(log)
    }
}

impl World {
    /// Whether a look would let a proposer on this server campaign by this record. Without servers any may.
    pub(crate) fn may_lead(&self, server: usize, record: &Membership) -> bool {
        let Some(server) = self.servers.get(server) else { return true };
        let mut look = Campaign::new(record.clone(), Term(u64::MAX));
        for node in &self.nodes {
            look.handle_vote(node.number(), &self.row(self.index_of(node.number()), record));
        }
        let contains = |vote: &Vote| {
            let node = &self.nodes[self.index_of(vote.node)];
            Some(server.contains(vote.flush, node.path().as_ref(), node.flushed()))
        };
        matches!(look.decide(contains), Decision::Won(_))
    }

    /// The path of the best log by which a look would judge.
    pub(crate) fn donor_path(&self, record: &Membership) -> Path {
        let mut look = Campaign::new(record.clone(), Term(u64::MAX));
        for node in &self.nodes {
            look.handle_vote(node.number(), &self.row(self.index_of(node.number()), record));
        }
        let donor = match look.decide(|_| Some(true)) {
            Decision::Won(donor) => self.nodes[self.index_of(donor.node)].path(),
            _ => None,
        };
        donor.unwrap_or_else(|| Path::root(Tli(1)))
    }

    /// What LOG_STATUS of a safekeeper shows, as if it were a vote.
    fn row(&self, at: usize, record: &Membership) -> VoteResponse {
        let acceptor = &self.nodes[at].acceptor;
        let same = acceptor.state().membership.generation == record.generation;
        VoteResponse {
            generation: record.generation,
            term: Term(u64::MAX),
            granted: same && acceptor.standing() == consensus::Standing::Member,
            flush: acceptor.flush(),
            truncate: Lsn::INVALID,
            history: acceptor.state().history.cut(acceptor.flush()),
        }
    }
}

impl Play<'_> {
    /// What the votes so far come to.
    pub(crate) fn decide(&mut self, proposer: usize) {
        let of = &self.world.proposers[proposer];
        let Role::Campaigning(campaign) = &of.role else { return };
        let server = self.world.servers.get(of.server).filter(|_| !of.completes);
        let contains = |vote: &Vote| {
            let link = &of.links[self.world.index_of(vote.node)];
            Some(server.is_none_or(|server| server.contains(vote.flush, link.path.as_ref(), &link.log)))
        };
        let decision = if self.mutant == Mutant::DonorByTli {
            let voted: Vec<(Vote, Reply)> = of.links.iter().filter(|link| link.counted).filter_map(as_reply).collect();
            let votes: Vec<(&Vote, &Reply)> = voted.iter().map(|(vote, reply)| (vote, reply)).collect();
            decide_by_tli(campaign.membership(), &votes, contains)
        } else {
            campaign.decide(contains)
        };
        match decision {
            Decision::Undecided | Decision::Compare(_) => {}
            Decision::Refused => self.retire(proposer),
            Decision::Won(donor) => self.win(proposer, &donor),
        }
    }

    fn win(&mut self, proposer: usize, donor: &Vote) {
        let of = &self.world.proposers[proposer];
        let Role::Campaigning(campaign) = &of.role else { return };
        let (term, record) = (campaign.term(), campaign.membership().clone());
        let donor_link = &of.links[self.world.index_of(donor.node)];
        let (log, path) = (donor_link.log.clone(), donor_link.path.clone());
        let root = Path::root(Tli(1));
        if of.completes && path.as_ref().unwrap_or(&root).cut(donor.flush) != of.path.cut(donor.flush) {
            // Its sessions say another path than the donor's: it begins anew.
            return self.retire(proposer);
        }
        let Ok(mut leadership) = Leadership::new(record.clone(), term, donor, BEGIN) else {
            self.world.broken.require(false, S25);
            return self.retire(proposer);
        };
        self.mutant.rule().into_iter().for_each(|fault| leadership.break_rule(fault));
        let start = leadership.start();
        let led = match self.world.servers.get(of.server).filter(|_| !of.completes) {
            Some(server) => server.log.clone(),
            None => log.clone(),
        };
        self.check_won(proposer, term, start, &led);
        let of = self.world.proposer(proposer);
        for link in &mut of.links {
            link.counted = false;
            link.log.clear();
            link.path = None;
        }
        of.log = log;
        of.role = Role::Leading(leadership);
        if self.config.messages {
            for at in 0..self.world.nodes.len() {
                self.elect(proposer, at);
            }
        }
    }

    /// A term is won.
    fn check_won(&mut self, proposer: usize, term: Term, start: Lsn, log: &[u8]) {
        let of = &self.world.proposers[proposer];
        let (server, path) = (of.server, of.path.clone());
        let introduction = Introduction { completes: of.completes, ..Introduction::of(path.clone()) };
        let votes: Vec<_> = of.links.iter().map(|link| link.counted).collect();
        let generation = of.counting().map_or(0, |(_, record)| record.generation);
        let past = &self.world.past;
        let mut broken = self.world.broken;
        let slot = (term.0 as usize).wrapping_sub(1);
        broken.require(past.won.get(slot).is_some_and(Option::is_none), S1);
        // Whoever wins late was overtaken: what later terms committed since is theirs.
        let newest = past.won.iter().skip(slot + 1).all(Option::is_none);
        broken.require(!newest || log.starts_with(&past.committed), S9);
        let committed = position(past.committed.len());
        broken.require(!newest || past.committed.is_empty() || start >= committed, S10);
        let record = past.records.iter().find(|record| record.generation == generation);
        let voted = |number| votes.get(self.world.index_of(number)).copied().unwrap_or(false);
        broken.require(record.is_some_and(|record| record.has_majority(voted)), S18);
        if let Some(fence) = &past.fence {
            let holds = |number| {
                let held = self.world.nodes[self.world.index_of(number)].disk.control.fence.as_ref();
                held.is_some_and(|held| held.line.epoch == fence.line.epoch)
            };
            let stands = term > fence.line.epoch && record.is_some_and(|record| record.has_majority(holds));
            broken.require(!stands || introduction.passes(fence), S30);
        }
        self.world.broken = broken;
        if let Some(won) = self.world.past().won.get_mut(slot) {
            won.get_or_insert(Won { start, server, path });
        }
    }

    /// A leader sends: on the connection, server and path it was elected on.
    pub(crate) fn check_one_path(&mut self, proposer: usize, term: Term) {
        let of = &self.world.proposers[proposer];
        let won = self.world.past.won.get((term.0 as usize).wrapping_sub(1)).and_then(Option::as_ref);
        let same = won.is_some_and(|won| won.server == of.server && won.path == of.path);
        self.world.broken.require(same, S26);
    }

    /// Counts an acknowledgement.
    pub(crate) fn count(&mut self, proposer: usize, at: usize, response: &AppendResponse) {
        let number = self.world.nodes[at].number();
        let of = self.world.proposer(proposer);
        let Role::Leading(leadership) = &mut of.role else { return };
        let before = leadership.commit();
        match leadership.handle_append_response(number, response) {
            Outcome::Deposed(_) => self.retire(proposer),
            Outcome::Committed(commit) => self.declare(proposer, commit),
            Outcome::Noted => {
                let same = leadership.commit() == before;
                self.world.broken.require(same, S7);
            }
            Outcome::Foreign => {
                let session = of.links[at].session;
                if let Some(session) = session {
                    self.part(at, session, false);
                }
            }
        }
        self.answer_early(proposer);
    }

    /// A leader calls something committed, and tells its primary.
    fn declare(&mut self, proposer: usize, commit: Lsn) {
        let of = &self.world.proposers[proposer];
        let Role::Leading(leadership) = &of.role else { return };
        let (term, start) = (leadership.term(), leadership.start());
        let log = self.world.log_of(of);
        let past = &self.world.past;
        let mut broken = self.world.broken;
        broken.require(commit >= start, S11);
        let bytes = &log[..index(commit).min(log.len())];
        broken.require(bytes.len() == index(commit), S9);
        broken.require(whole_records(bytes) == bytes.len(), S8);
        let shared = bytes.len().min(past.committed.len());
        broken.require(bytes[..shared] == past.committed[..shared], S9);
        let path = if of.completes {
            of.path.clone()
        } else {
            self.world.servers.get(of.server).map_or(of.path.clone(), |server| server.path.clone())
        }
        .cut(commit);
        broken.require(shared == 0 || path.agree(&past.committed_path) >= position(shared), S9);
        // Whoever was elected later begins at or above it.
        let later = past.won.iter().skip(term.0 as usize).flatten();
        broken.require(later.into_iter().all(|won| won.start >= commit), S10);
        let generation = leadership.membership().generation;
        let record = past.records.iter().find(|record| record.generation == generation);
        let holds = |number| self.world.nodes[self.world.index_of(number)].holds(bytes);
        broken.require(record.is_some_and(|record| record.has_majority(holds)), S18);
        // What a primary is told lies on its own newest TLI, and is its own.
        if let Some(server) = self.world.servers.get(of.server).filter(|_| !of.completes) {
            let told = server.path.last().begin < commit || !server.path.last().begin.is_valid();
            broken.require(!told || server.log.starts_with(bytes), S29);
        }
        let longer = bytes.len() > shared;
        let bytes = bytes.to_vec();
        self.world.broken = broken;
        if longer {
            let past = self.world.past();
            past.committed = bytes;
            past.committed_path = path;
        }
    }

    /// The primary is told of what its leader has sent.
    fn answer_early(&mut self, proposer: usize) {
        if self.mutant != Mutant::AnswerEarly {
            return;
        }
        let of = &self.world.proposers[proposer];
        let told = of.links.iter().filter_map(|link| link.sent).max().unwrap_or(0);
        let committed = of.leadership().and_then(Leadership::commit).map_or(0, index);
        self.world.broken.require(told <= committed, S29);
    }

    /// The next term anybody would ask for.
    pub(crate) fn next_term(&self) -> Term {
        highest(self.world.nodes.iter().map(|node| &**node)).next()
    }
}

/// A counted vote with the log it spoke of.
fn as_reply(link: &crate::proposer::Link) -> Option<(Vote, Reply)> {
    let vote = link.vote.clone()?;
    let response = VoteResponse {
        generation: 0,
        term: Term(0),
        granted: true,
        flush: vote.flush,
        truncate: vote.truncate,
        history: vote.history.clone(),
    };
    let reply = Reply { message: AcceptorMessage::Vote(response), log: link.log.clone(), path: link.path.clone() };
    Some((vote, reply))
}
