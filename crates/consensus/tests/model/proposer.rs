//! A proposer: real [`Campaign`] and [`Leadership`] between a primary's byte log and its sessions.
//!
//! It looks (greetings of a majority), asks for the next term, compares the donor's bytes with its primary's, and leads until
//! it hears of a higher term, is refused, or dies. It never comes back: another one is started.

use crate::disk::FIRST;
use crate::node::{CLUSTER, SERVER};
use crate::primary::Primary;
use crate::world::{Delivery, World};
use bytes::Bytes;
use consensus::{
    AcceptorMessage, AppendRequest, Campaign, Decision, Leadership, Membership, Outcome, ProposerGreeting,
    ProposerMessage, Vote, VoteRequest, VoteResponse,
};
use lsn::{Lsn, NodeId, Path, Term};
use std::collections::BTreeMap;

#[derive(Debug)]
pub(crate) enum Role {
    Looking,
    Campaigning(Campaign),
    Leading(Box<Leadership>),
    Dead,
}

/// One session as its proposer sees it.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) session: u64,
    greeted: bool,
    asked: bool,
    vote: Option<Vote>,
    /// End of what was sent since the Elected message.
    pub(crate) sent: Option<u64>,
}

#[derive(Debug)]
pub(crate) struct Proposer {
    pub(crate) primary: usize,
    /// What its sessions say: the path of its primary.
    pub(crate) path: Path,
    pub(crate) role: Role,
    /// By index of the node.
    pub(crate) links: BTreeMap<usize, Link>,
    /// Whom its messages reach at the moment.
    pub(crate) reach: Vec<bool>,
    terms: BTreeMap<usize, Term>,
    /// Each voter's log and path at the time of its vote.
    pub(crate) logs: BTreeMap<NodeId, (Vec<u8>, Option<Path>)>,
    /// The votes that counted.
    pub(crate) votes: BTreeMap<NodeId, Vote>,
    /// Votes whose logs were compared, and whether the primary contains them.
    compared: Vec<(Vote, bool)>,
    comparing: Option<Vote>,
}

impl Proposer {
    pub(crate) fn new(primary: usize, server: &Primary, nodes: usize) -> Proposer {
        Proposer {
            primary,
            path: server.path.clone(),
            role: Role::Looking,
            links: BTreeMap::new(),
            reach: vec![true; nodes],
            terms: BTreeMap::new(),
            logs: BTreeMap::new(),
            votes: BTreeMap::new(),
            compared: Vec::new(),
            comparing: None,
        }
    }

    pub(crate) fn is_alive(&self) -> bool {
        !matches!(self.role, Role::Dead)
    }

    pub(crate) fn leadership(&self) -> Option<&Leadership> {
        if let Role::Leading(leadership) = &self.role { Some(leadership) } else { None }
    }

    fn has_majority(&self, membership: &Membership) -> bool {
        membership.has_majority(|node| self.terms.contains_key(&(node.0 as usize - 1)))
    }
}

impl World {
    /// A moment of a proposer's own time, spent on one safekeeper.
    pub(crate) fn tick(&mut self, id: usize, node: usize) {
        self.compare(id);
        if !self.proposers[id].is_alive() || !self.proposers[id].reach[node] {
            return;
        }
        let Some(link) = self.proposers[id].links.get(&node) else {
            if self.nodes[node].acceptor.is_some() {
                let session = self.open(id, node);
                let link = Link { session, greeted: false, asked: false, vote: None, sent: None };
                self.proposers[id].links.insert(node, link);
                let greeting = ProposerGreeting {
                    cluster: CLUSTER,
                    membership: Membership::none(),
                    pg_version: SERVER.pg_version,
                    system_id: SERVER.system_id,
                    segment_size: SERVER.segment_size,
                };
                self.send_to_node(session, ProposerMessage::Greeting(greeting));
            }
            return;
        };
        if let (Some(sent), session) = (link.sent, link.session) {
            self.append(id, node, session, sent);
        }
    }

    fn append(&mut self, id: usize, node: usize, session: u64, sent: u64) {
        let Role::Leading(leadership) = &self.proposers[id].role else { return };
        let log = &self.primaries[self.proposers[id].primary].log;
        let behind = log.len().saturating_sub((sent - FIRST) as usize);
        let length = self.rng.below(7).min(behind);
        let begin = (sent - FIRST) as usize;
        let append = AppendRequest {
            generation: 1,
            term: leadership.term(),
            begin: Lsn(sent),
            end: Lsn(sent + length as u64),
            commit: self.commit_of(leadership).unwrap_or(Lsn::INVALID),
            truncate: leadership.truncate(),
            wal: Bytes::copy_from_slice(&log[begin..begin + length]),
        };
        if let Some(link) = self.proposers[id].links.get_mut(&node) {
            link.sent = Some(append.end.0);
        }
        self.send_to_node(session, ProposerMessage::Append(append));
    }

    /// Carries out a comparison of bytes that the votes called for.
    fn compare(&mut self, id: usize) {
        let proposer = &mut self.proposers[id];
        let Some(vote) = proposer.comparing.take() else { return };
        let (log, path) = proposer.logs.get(&vote.node).cloned().unwrap_or_default();
        let server = &self.primaries[proposer.primary];
        let end = Lsn(FIRST + server.log.len() as u64);
        let lineage = path.is_none_or(|path| server.path.contains(end, &path, vote.flush));
        let contains = lineage && server.log.starts_with(&log);
        proposer.compared.push((vote, contains));
        self.decide(id);
    }

    /// A message of node `node` arrives at a proposer.
    pub(crate) fn handle_at_proposer(&mut self, id: usize, node: usize, delivery: Delivery) {
        let number = self.nodes[node].identity.node;
        match delivery.message {
            AcceptorMessage::Greeting(greeting) => {
                let proposer = &mut self.proposers[id];
                proposer.terms.insert(node, greeting.term);
                if let Some(link) = proposer.links.get_mut(&node) {
                    link.greeted = true;
                }
                if matches!(proposer.role, Role::Looking) && proposer.has_majority(&self.membership) {
                    let highest = proposer.terms.values().copied().max().unwrap_or(Term(0));
                    proposer.role = Role::Campaigning(Campaign::new(self.membership.clone(), highest.next()));
                }
                self.ask(id);
            }
            AcceptorMessage::Vote(response) => {
                self.handle_vote(id, node, number, &response, (delivery.log, delivery.path));
            }
            AcceptorMessage::Append(response) => {
                let Role::Leading(leadership) = &mut self.proposers[id].role else { return };
                match leadership.handle_append_response(number, &response) {
                    Outcome::Committed(_) | Outcome::Noted => {
                        let Some(leadership) = self.proposers[id].leadership() else { return };
                        if let Some(commit) = self.commit_of(leadership) {
                            let (term, start) = (leadership.term(), leadership.start());
                            self.declare(id, term, start, commit);
                        }
                    }
                    Outcome::Deposed(_) => self.kill(id),
                    Outcome::Foreign => {
                        panic!("a response of another term from {number} within a session: {response:?}")
                    }
                }
            }
        }
    }

    /// Asks everybody greeted for the vote.
    fn ask(&mut self, id: usize) {
        let term = match &self.proposers[id].role {
            Role::Campaigning(campaign) => campaign.term(),
            Role::Leading(leadership) => leadership.term(),
            Role::Looking | Role::Dead => return,
        };
        let mut sessions = Vec::new();
        for link in self.proposers[id].links.values_mut().filter(|link| link.greeted && !link.asked) {
            link.asked = true;
            sessions.push(link.session);
        }
        for session in sessions {
            self.send_to_node(session, ProposerMessage::Vote(VoteRequest { generation: 1, term }));
        }
    }

    fn handle_vote(
        &mut self,
        id: usize,
        node: usize,
        number: NodeId,
        response: &VoteResponse,
        log: (Vec<u8>, Option<Path>),
    ) {
        let proposer = &mut self.proposers[id];
        let vote = Vote::new(number, response);
        if let Some(link) = proposer.links.get_mut(&node) {
            link.vote = Some(vote.clone());
        }
        match &mut proposer.role {
            Role::Campaigning(campaign) => {
                if campaign.handle_vote(number, response) {
                    proposer.logs.insert(number, log);
                    proposer.votes.insert(number, vote);
                    self.decide(id);
                } else if response.term >= campaign.term() {
                    self.kill(id);
                }
            }
            Role::Leading(leadership) if response.term > leadership.term() => self.kill(id),
            Role::Leading(_) => self.elect(id, node),
            Role::Looking | Role::Dead => {}
        }
    }

    fn decide(&mut self, id: usize) {
        let proposer = &mut self.proposers[id];
        let Role::Campaigning(campaign) = &proposer.role else { return };
        let known =
            |vote: &Vote| proposer.compared.iter().find(|(seen, _)| seen == vote).map(|(_, contains)| *contains);
        let decision =
            if self.mutant.chooses_donor() { proposer.wrong_donor(self.mutant, known) } else { campaign.decide(known) };
        match decision {
            Decision::Undecided => {}
            Decision::Compare(vote) => proposer.comparing = Some(vote),
            Decision::Refused => self.kill(id),
            Decision::Won(donor) => {
                let term = campaign.term();
                let leadership = Leadership::new(self.membership.clone(), term, &donor, Lsn(FIRST));
                let leadership =
                    leadership.unwrap_or_else(|error| panic!("the donor of term {term} is wrong: {error}"));
                self.win(id, &leadership);
                self.proposers[id].role = Role::Leading(Box::new(leadership));
                for node in 0..self.nodes.len() {
                    self.elect(id, node);
                }
            }
        }
    }

    /// Sends Elected to a safekeeper whose log is known.
    fn elect(&mut self, id: usize, node: usize) {
        let proposer = &mut self.proposers[id];
        let Role::Leading(leadership) = &mut proposer.role else { return };
        let Some(link) = proposer.links.get_mut(&node) else { return };
        let Some(vote) = &link.vote else { return };
        let message = leadership.elected_for(vote);
        link.sent = Some(message.start_streaming_at.0);
        let session = link.session;
        self.send_to_node(session, ProposerMessage::Elected(message));
    }
}
