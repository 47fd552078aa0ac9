//! [`Campaign`]: a proposer's way to a term.
//!
//! Votes are ordered by (last log term, flush LSN), never by LSN alone: a longer log of an older term may hold bytes that
//! were never acknowledged, and lack ones that were. The donor is the highest vote whose log the primary contains, provided
//! that the votes at or below it form a majority; higher votes are not counted and are cut later. Counting only a majority
//! is as safe as taking the maximum of all votes, and a lone unacknowledged tail cannot keep the cluster down.

use crate::faults::{Broken, Fault};
use crate::{Membership, TermHistory, VoteResponse};
use lsn::{Lsn, NodeId, Term};
use std::collections::BTreeMap;

/// Where a voter's log ends, and what it is made of.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Vote {
    /// The voter.
    pub node: NodeId,
    /// Its flush LSN.
    pub flush: Lsn,
    /// Its term history, cut to `flush`.
    pub history: TermHistory,
    /// Below this every safekeeper has the WAL, as far as the voter knows.
    pub truncate: Lsn,
}

impl Vote {
    /// From a response, whatever it claims beyond its own end.
    pub fn new(node: NodeId, response: &VoteResponse) -> Vote {
        Vote { node, flush: response.flush, history: response.history.cut(response.flush), truncate: response.truncate }
    }

    /// What votes are ordered by: (last log term, flush LSN).
    pub fn precedence(&self) -> (Term, Lsn) {
        (self.history.last_term(), self.flush)
    }
}

/// What the votes so far allow.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Decision {
    /// More votes are needed.
    Undecided,
    /// Whether the primary contains this log has to be found out before anything can be decided.
    Compare(Vote),
    /// The term is won, with this donor.
    Won(Vote),
    /// Every member has voted and no vote that the primary contains has a majority at or below it: nothing may be changed.
    Refused,
}

/// The votes of one term.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Campaign {
    membership: Membership,
    term: Term,
    votes: BTreeMap<NodeId, Vote>,
    pub(crate) broken: Broken,
}

impl Campaign {
    /// Starts to count votes for `term` by `membership`.
    pub fn new(membership: Membership, term: Term) -> Campaign {
        assert!(membership.is_set(), "a campaign needs a membership record to count by");
        Campaign { membership, term, votes: BTreeMap::new(), broken: Broken::default() }
    }

    /// The term asked for.
    pub fn term(&self) -> Term {
        self.term
    }

    /// The record counted by.
    pub fn membership(&self) -> &Membership {
        &self.membership
    }

    /// Takes an answer. Only a vote granted for exactly this term, in exactly this generation, by a member counts; the
    /// return value says whether it did.
    pub fn handle_vote(&mut self, node: NodeId, response: &VoteResponse) -> bool {
        let counts = response.granted
            && response.term == self.term
            && response.generation == self.membership.generation
            && self.membership.member(node).is_some();
        if counts {
            let mut vote = Vote::new(node, response);
            if self.broken.is(Fault::HistoryNotCut) {
                vote.history.clone_from(&response.history);
            }
            self.votes.insert(node, vote);
        }
        counts
    }

    /// What the votes allow. `contains` says whether the primary contains a voter's log, `None` if that is not known yet.
    pub fn decide(&self, contains: impl Fn(&Vote) -> Option<bool>) -> Decision {
        let mut votes: Vec<&Vote> = self.votes.values().collect();
        let by_lsn = self.broken.is(Fault::DonorByLsn);
        votes.sort_by_key(|vote| std::cmp::Reverse(if by_lsn { (Term(0), vote.flush) } else { vote.precedence() }));
        for (index, candidate) in votes.iter().enumerate() {
            let counted = &votes[index..];
            let enough = self.membership.has_majority(|node| counted.iter().any(|vote| vote.node == node));
            if !enough && !self.broken.is(Fault::MinorityElects) {
                break;
            }
            if self.broken.is(Fault::DonorUncompared) {
                return Decision::Won((*candidate).clone());
            }
            match contains(candidate) {
                Some(true) => return Decision::Won((*candidate).clone()),
                Some(false) => {}
                None => return Decision::Compare((*candidate).clone()),
            }
        }
        let all_voted = self.membership.all_members().all(|member| self.votes.contains_key(&member.node));
        if all_voted { Decision::Refused } else { Decision::Undecided }
    }
}

#[cfg(test)]
#[path = "campaign_test.rs"]
mod tests;
