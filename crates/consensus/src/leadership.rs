//! [`Leadership`]: what the leader of a term may call committed.
//!
//! Commit counts only positions of the own term: a flush LSN below the term's start is worth nothing, because a later leader
//! may still cut it (the figure-8 case of Raft). The term's start itself counts as soon as a majority processed Elected, so a
//! term need not append anything to commit what it inherited. Values are counted only from append responses of this term.

use crate::faults::{Broken, Fault};
use crate::{AppendResponse, HistoryError, Membership, ProposerElected, TermHistory, Vote};
use lsn::{Lsn, NodeId, Term};
use std::collections::BTreeMap;

/// What an append response meant.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// The commit LSN moved to this position.
    Committed(Lsn),
    /// Taken in; the commit LSN stays.
    Noted,
    /// The safekeeper knows a higher term: this leadership is over.
    Deposed(Term),
    /// Another generation, another term or no member: it says nothing about this term.
    Foreign,
}

/// A won term.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Leadership {
    membership: Membership,
    term: Term,
    start: Lsn,
    history: TermHistory,
    flush: BTreeMap<NodeId, Lsn>,
    commit: Option<Lsn>,
    pub(crate) broken: Broken,
}

impl Leadership {
    /// The term won in a campaign. Its log goes on where the donor's ends, or at `first` if no safekeeper has any WAL.
    ///
    /// Fails if the donor's history cannot be extended by `term`, which only a wrong donor can cause.
    pub fn new(membership: Membership, term: Term, donor: &Vote, first: Lsn) -> Result<Leadership, HistoryError> {
        let start = if donor.flush.is_valid() { donor.flush } else { first };
        let history = donor.history.extended(term, start)?;
        let broken = Broken::default();
        Ok(Leadership { membership, term, start, history, flush: BTreeMap::new(), commit: None, broken })
    }

    /// The term.
    pub fn term(&self) -> Term {
        self.term
    }

    /// Where the term begins.
    pub fn start(&self) -> Lsn {
        self.start
    }

    /// The leader's term history, its own term last.
    pub fn history(&self) -> &TermHistory {
        &self.history
    }

    /// The membership record counted by.
    pub fn membership(&self) -> &Membership {
        &self.membership
    }

    /// The Elected message for a safekeeper whose log is as `vote` says: it is cut to the common point and goes on there.
    /// What it acknowledged before counts no further than the log it has now: its disk may have lost the rest.
    pub fn elected_for(&mut self, vote: &Vote) -> ProposerElected {
        if let Some(flush) = self.flush.get_mut(&vote.node)
            && !self.broken.is(Fault::LostWalCounts)
        {
            *flush = (*flush).min(vote.flush);
        }
        let first = self.history.entries().first().map_or(self.start, |entry| entry.begin);
        let start_streaming_at = self.history.common_point(&vote.history, vote.flush).unwrap_or(first);
        ProposerElected {
            generation: self.membership.generation,
            term: self.term,
            start_streaming_at,
            history: self.history.clone(),
        }
    }

    /// Counts an acknowledgement.
    pub fn handle_append_response(&mut self, node: NodeId, response: &AppendResponse) -> Outcome {
        if response.term > self.term {
            return Outcome::Deposed(response.term);
        }
        let ours = response.term == self.term && response.generation == self.membership.generation;
        if !ours || self.membership.member(node).is_none() {
            return Outcome::Foreign;
        }
        let flush = self.flush.entry(node).or_insert(Lsn::INVALID);
        *flush = (*flush).max(response.flush);
        let start = if self.broken.is(Fault::NoTermStart) { Lsn::INVALID } else { self.start };
        let counted = |node: NodeId| self.flush.get(&node).copied().filter(|&flush| flush >= start);
        let reached = self.membership.majority_value(|node| counted(node).unwrap_or(Lsn::INVALID));
        match reached {
            Some(reached) if reached.is_valid() && self.commit.is_none_or(|commit| reached > commit) => {
                assert!(reached >= start, "a commit LSN lies in its own term");
                self.commit = Some(reached);
                Outcome::Committed(reached)
            }
            _ => Outcome::Noted,
        }
    }

    /// The own-term commit LSN; `None` until a majority has processed Elected. Never decreases.
    pub fn commit(&self) -> Option<Lsn> {
        self.commit
    }

    /// The flush LSN a safekeeper acknowledged in this term.
    pub fn flush_of(&self, node: NodeId) -> Option<Lsn> {
        self.flush.get(&node).copied()
    }

    /// Below this position every member has acknowledged the WAL in this term and it is committed; 0/0 until all have.
    pub fn truncate(&self) -> Lsn {
        let everywhere =
            self.membership.all_members().map(|member| self.flush_of(member.node).unwrap_or(Lsn::INVALID)).min();
        everywhere.unwrap_or(Lsn::INVALID).min(self.commit.unwrap_or(Lsn::INVALID))
    }
}

#[cfg(test)]
#[path = "leadership_test.rs"]
mod tests;
