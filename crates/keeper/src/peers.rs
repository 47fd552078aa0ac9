//! What other safekeepers tell, judged: whether this disk once held more than it does now, and whether its readers would be
//! better off elsewhere.
//!
//! *Forgotten.* A disk that was replaced by an older copy of itself looks whole from inside. Its peers remember what it promised; so
//! after a start no vote is given until they were asked. The wait is short and ends by itself ([`HOLD_LONGEST`]): an answer that
//! comes later still counts, and safety on disks that keep their bytes never depends on it. Two safekeepers that start together
//! answer each other without a vote, so nothing waits in a circle.
//!
//! *Behind.* A safekeeper that hears no leader while another has committed more cannot serve its readers; after
//! [`BEHIND_PATIENCE`] they are sent away until it is led again or has caught up.

use crate::keeper::Keeper;
use lsn::{Lsn, NodeId, Term};
use quorum_proto::Promise;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// Once a majority, this safekeeper included, has answered, the others get this long since the start.
const HOLD_GRACE: Duration = Duration::from_secs(1);
/// No vote waits longer than this for peers: where they cannot be asked, the quorum must work without them.
pub const HOLD_LONGEST: Duration = Duration::from_secs(5);
/// How long a safekeeper may hear no leader while a peer is ahead before it sends its readers away.
const BEHIND_PATIENCE: Duration = Duration::from_secs(30);

/// What the disk held when it was opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Found {
    term: Term,
    log_term: Term,
    flush: Lsn,
}

impl Found {
    /// Whether a disk that once promised this much cannot hold so little unless it went back.
    ///
    /// Within one term whose history was adopted the flush LSN never falls. A disk that has promised a later term since may have
    /// been cut by that term's leader, and is not judged by its length.
    fn falls_short_of(&self, promise: &Promise) -> bool {
        let same_term = self.term == promise.log_term && promise.log_term != Term(0);
        self.term < promise.term || (same_term && (self.log_term != promise.log_term || self.flush < promise.flush))
    }
}

/// The state of both judgements.
#[derive(Debug, Default)]
pub(crate) struct PeerWatch {
    found: Option<Found>,
    /// The promised term and the last one of the history, as they stood on disk last.
    settled: Option<(Term, Term)>,
    /// What was judged already: the same memory, told again by the next peer, says nothing new.
    judged: Promise,
    hold: Option<Hold>,
    /// Since when a peer has been ahead, this safekeeper asked for readers' sake.
    behind_since: Option<Instant>,
    sent_away: bool,
}

#[derive(Debug)]
struct Hold {
    began: Instant,
    heard: BTreeSet<NodeId>,
}

impl Hold {
    fn ends(&self, has_majority: bool) -> Instant {
        self.began + if has_majority { HOLD_GRACE } else { HOLD_LONGEST }
    }
}

impl PeerWatch {
    pub(crate) fn holds_votes(&self) -> bool {
        self.hold.is_some()
    }
}

impl Keeper {
    /// Right after opening a log that was there before: votes wait until its peers were asked what they remember of it.
    pub fn hold_votes(&mut self, now: Instant) {
        let state = self.acceptor.state();
        self.peers.found =
            Some(Found { term: state.term, log_term: state.history.last_term(), flush: self.acceptor.flush() });
        self.peers.hold = Some(Hold { began: now, heard: BTreeSet::new() });
        self.note_settled();
        self.check_hold(now);
    }

    /// Whether votes wait for peers.
    pub fn holds_votes(&self) -> bool {
        self.peers.holds_votes()
    }

    /// A peer was asked; `remembered` is what it heard from this disk before this run, nothing if it knows of none.
    ///
    /// Returns whether the disk was found to have forgotten something because of it.
    pub fn handle_remembered(&mut self, now: Instant, peer: NodeId, remembered: Promise) -> bool {
        let known = self.peers.judged.join(remembered) == self.peers.judged;
        self.peers.judged = self.peers.judged.join(remembered);
        let forgotten = !known && self.peers.found.is_some_and(|found| found.falls_short_of(&remembered));
        if forgotten {
            self.acceptor.handle_forgotten(remembered.term, remembered.flush);
            self.version += 1;
        }
        if let Some(hold) = &mut self.peers.hold {
            hold.heard.insert(peer);
        }
        self.check_hold(now);
        self.drive(now);
        forgotten
    }

    /// When the hold ends by itself.
    pub(crate) fn hold_timeout(&self) -> Option<Instant> {
        self.peers.hold.as_ref().map(|hold| hold.ends(self.has_heard_majority(hold)))
    }

    /// Ends the hold if everybody was heard, or if it is time.
    pub(crate) fn check_hold(&mut self, now: Instant) {
        let Some(hold) = &self.peers.hold else { return };
        let own = self.options.identity.node;
        let mut others = self.acceptor.state().membership.all_members().filter(|member| member.node != own);
        if others.all(|member| hold.heard.contains(&member.node)) || now >= hold.ends(self.has_heard_majority(hold)) {
            self.peers.hold = None;
        }
    }

    fn has_heard_majority(&self, hold: &Hold) -> bool {
        let own = self.options.identity.node;
        self.acceptor.state().membership.has_majority(|node| node == own || hold.heard.contains(&node))
    }

    /// What this disk has promised, durably; `None` while something is on its way to the disk.
    pub fn promise(&self) -> Option<Promise> {
        let state = self.acceptor.state();
        // A flush LSN is durable by itself; the terms are if nothing but it has changed since they were written.
        if self.peers.settled != Some((state.term, state.history.last_term())) || self.stopped.is_some() {
            return None;
        }
        let adopted = state.term == state.history.last_term() && state.cutting.is_none();
        let (log_term, flush) = if adopted { (state.term, self.acceptor.flush()) } else { Default::default() };
        Some(Promise { term: state.term, log_term, flush })
    }

    /// Notes what is on disk by now.
    pub(crate) fn note_settled(&mut self) {
        if self.acceptor.is_settled() {
            let state = self.acceptor.state();
            self.peers.settled = Some((state.term, state.history.last_term()));
        }
    }

    /// Counts up whenever the row of LOG_STATUS has changed.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The leader said something: readers may stay, and come again at once.
    pub(crate) fn note_leader_heard(&mut self, now: Instant) {
        self.leader_heard = Some(now);
        if std::mem::take(&mut self.peers.sent_away) {
            self.readers.refusal = None;
        }
    }

    /// Called about once a second with the highest commit LSN among the peers that answer.
    pub fn handle_peers(&mut self, now: Instant, best_commit: Lsn) {
        if best_commit <= self.acceptor.commit() {
            self.peers.behind_since = None;
        } else {
            self.peers.behind_since.get_or_insert(now);
        }
        let since = self.peers.behind_since.map(|since| self.leader_heard.map_or(since, |heard| heard.max(since)));
        let late = since.is_some_and(|since| now >= since + BEHIND_PATIENCE);
        if late != self.peers.sent_away {
            self.peers.sent_away = late;
            let reason = late.then(|| {
                let (commit, node) = (self.acceptor.commit(), self.options.identity.node);
                format!(
                    "safekeeper {node} has heard no leader for {} s and is behind at {commit} of {best_commit}: read from another",
                    BEHIND_PATIENCE.as_secs()
                )
            });
            self.refuse_readers(now, reason);
        }
    }
}

#[cfg(test)]
#[path = "peers_test.rs"]
mod tests;
