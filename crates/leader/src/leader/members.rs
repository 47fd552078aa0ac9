//! Membership: safekeepers that only a record names, records passed on, and changes.
//!
//! A leader makes at most one record, and its term ends with it: as soon as a majority of every set of the new record has taken it,
//! everything begins anew with a look, and whoever is elected then counts by it. So no term ever counts by two records, and a change
//! that broke off anywhere goes on by itself: the next leader finds the highest record, brings it to those who lag, is elected by
//! it, and finishes it if it is joint.

use super::{Attempt, Leader, Phase, Step};
use crate::session::Session;
use crate::{Command, Peer};
use consensus::{Member, Membership};
use lsn::{DiskId, Lsn, NodeId};
use quorum_proto::{LogStatusRow, RecordTaken, Wish};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// A record that no majority took by then is left to the next look.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(5);
/// A wish that is not repeated for so long is dropped.
const WISH_LASTS: Duration = Duration::from_secs(15);
/// What is known of a learner is asked again after this.
const LEARNER_ASKED_EVERY: Duration = Duration::from_secs(1);
/// Most safekeepers there may be, those of records included.
const PEERS_MAX: usize = 128;
/// How soon safekeepers that only a record names must answer a look.
const LOOK_GRACE: Duration = Duration::from_millis(100);

/// A record on its way.
#[derive(Debug)]
pub(super) struct Change {
    record: Membership,
    taken: BTreeSet<NodeId>,
    deadline: Instant,
}

/// Somebody's wish, and what is known of those who are to become members.
#[derive(Debug, Default)]
pub(super) struct Wishes {
    wish: Option<(Wish, Instant)>,
    learners: BTreeMap<NodeId, (DiskId, Lsn)>,
    asked: Option<Instant>,
}

impl Leader {
    /// Asks members that only the newest record names. Returns whether there are any that were not asked before.
    pub(super) fn ask_members(&mut self, now: Instant) -> bool {
        let Some(newest) = self.attempt().and_then(|attempt| attempt.looks.newest().cloned()) else { return false };
        let before = self.sessions.len();
        for member in newest.all_members() {
            self.peer_of(now, member);
        }
        let round = self.round;
        let added = before..self.sessions.len();
        if added.is_empty() {
            return false;
        }
        if let Some(attempt) = self.attempt_mut() {
            attempt.looks.extend(added.len());
            attempt.looks.grace_until = Some(now + LOOK_GRACE);
        }
        self.commands.extend(added.map(|index| Command::Look { peer: Peer(index), round }));
        true
    }

    /// Where a member is reached; a new place if none is known. `None` if there are too many.
    fn peer_of(&mut self, now: Instant, member: &Member) -> Option<Peer> {
        let host = if member.host.contains(':') { format!("[{}]", member.host) } else { member.host.clone() };
        let address = format!("{host}:{}", member.port);
        let by_node = self.sessions.iter().position(|session| session.node == Some(member.node));
        let known = by_node.or_else(|| self.options.safekeepers.iter().position(|other| *other == address));
        if known.is_none() && self.sessions.len() < PEERS_MAX {
            self.options.safekeepers.push(address);
            self.sessions.push(Session::new(now));
            return Some(Peer(self.sessions.len() - 1));
        }
        known.map(Peer)
    }

    /// Addresses of all safekeepers, those that records named included, in the order of [`Peer`].
    pub fn safekeepers(&self) -> &[String] {
        &self.options.safekeepers
    }

    /// Brings the newest record to whoever was seen with an older one: without it they can neither vote for it nor follow.
    pub(super) fn pass_record_on(&mut self) {
        let Some(looks) = self.attempt().map(|attempt| &attempt.looks) else { return };
        let Some(newest) = looks.newest().filter(|newest| newest.is_well_made()).cloned() else { return };
        let lags = |row: &LogStatusRow| row.membership.is_set() && row.membership.generation < newest.generation;
        let lagging: Vec<Peer> = looks.rows().filter(|(_, row)| lags(row)).map(|(peer, _)| peer).collect();
        for peer in lagging {
            self.commands.push_back(Command::TakeRecord { peer, record: newest.clone() });
        }
    }

    /// A safekeeper's answer to [`Command::TakeRecord`].
    pub fn handle_record_taken(&mut self, now: Instant, peer: Peer, answer: Result<RecordTaken, String>) {
        let node = self.sessions.get(peer.0).and_then(|session| session.node);
        let Some(attempt) = self.attempt_mut() else { return };
        match (&mut attempt.step, answer) {
            // Somebody lacked it for a majority, perhaps.
            (Step::Resting { .. }, Ok(_)) => self.begin_look(),
            (Step::Leading(leadership), Ok(taken)) => {
                let (term, Some(change)) = (leadership.term(), &mut attempt.change) else { return };
                if taken.term > term {
                    return self.deposed(now, taken.term);
                }
                if let Some(node) = node.filter(|_| taken.generation == change.record.generation) {
                    change.taken.insert(node);
                }
                let Change { record, taken, .. } = change;
                if record.has_majority(|node| taken.contains(&node)) {
                    let reason = format!("the membership record has changed to generation {}", record.generation);
                    self.start_over_after(now, reason, Duration::ZERO);
                }
            }
            (_, Err(reason)) => {
                if let Some(session) = self.sessions.get_mut(peer.0) {
                    session.error = Some(format!("does not take the membership record: {reason}"));
                }
            }
            _ => {}
        }
    }

    /// Feedback on an append response may be a wish.
    pub(super) fn take_feedback(&mut self, now: Instant, feedback: &bytes::Bytes) {
        let Some(wish) = Wish::from_feedback(feedback) else { return };
        if let Some(attempt) = self.attempt_mut() {
            attempt.wishes.wish = Some((wish, now));
        }
        self.consider_change(now);
    }

    /// What a look found of a safekeeper while leading: it may be about to become a member.
    pub(super) fn note_learner(&mut self, now: Instant, row: &LogStatusRow) {
        let Some(attempt) = self.attempt_mut().filter(|attempt| attempt.wishes.wish.is_some()) else { return };
        attempt.wishes.learners.insert(row.node, (row.disk, row.flush));
        self.consider_change(now);
    }

    /// A leader that has committed in its own term finishes a joint record, and begins a change that somebody wishes once those who are
    /// to come have little left to learn.
    pub(super) fn consider_change(&mut self, now: Instant) {
        let completes = self.options.completes;
        let Some(attempt) = self.attempt_mut().filter(|attempt| attempt.change.is_none() && !completes) else { return };
        let Step::Leading(leadership) = &attempt.step else { return };
        let (Some(commit), record, term) = (leadership.commit(), leadership.membership(), leadership.term()) else {
            return;
        };
        if record.new_members.is_some() {
            if let Ok(next) = record.finished(term) {
                self.begin_change(now, next);
            }
            return;
        }
        attempt.wishes.wish.take_if(|(_, at)| now >= *at + WISH_LASTS);
        let Some((wish, _)) = attempt.wishes.wish.clone() else { return };
        // A fence stands on the members of its time; it is not carried to others.
        let fenced = attempt.evidence.as_ref().is_some_and(|evidence| !evidence.fences.is_empty());
        if fenced || wish.wanted.generation != record.generation {
            return;
        }
        let Ok(joint) = record.joint(term, wish.wanted.members.clone()) else { return };
        let (ring, old) = (self.options.ring_bytes, record_members(&joint));
        let new: Vec<Member> =
            wish.wanted.members.iter().filter(|member| !old.contains(&member.node)).cloned().collect();
        let Some(attempt) = self.attempt_mut() else { return };
        let ready = |member: &Member| {
            let learner = attempt.wishes.learners.get(&member.node);
            learner.is_some_and(|(disk, flush)| *disk == member.disk && flush.saturating_add(ring) >= commit)
        };
        if new.iter().all(ready) {
            return self.begin_change(now, joint);
        }
        if attempt.wishes.asked.is_some_and(|at| now < at + LEARNER_ASKED_EVERY) {
            return;
        }
        attempt.wishes.asked = Some(now);
        let round = self.round;
        for member in new {
            if let Some(peer) = self.peer_of(now, &member) {
                self.commands.push_back(Command::Look { peer, round });
            }
        }
    }

    fn begin_change(&mut self, now: Instant, record: Membership) {
        for member in record.all_members() {
            if let Some(peer) = self.peer_of(now, member) {
                self.commands.push_back(Command::TakeRecord { peer, record: record.clone() });
            }
        }
        // Those who go are told, so that they stop asking for votes among each other.
        for peer in self.peers() {
            let node = self.sessions.get(peer.0).and_then(|session| session.node);
            if node.is_some_and(|node| record.member(node).is_none()) {
                self.commands.push_back(Command::TakeRecord { peer, record: record.clone() });
            }
        }
        if let Phase::Attached(attempt) = &mut self.phase {
            attempt.change = Some(Change { record, taken: BTreeSet::new(), deadline: now + CHANGE_TIMEOUT });
        }
    }

    pub(super) fn check_change(&mut self, now: Instant) {
        let late = self.attempt().and_then(Attempt::change_deadline).is_some_and(|deadline| now >= deadline);
        if late {
            self.start_over(now, "no majority took the new membership record".to_owned());
        }
    }
}

impl Attempt {
    pub(super) fn change_deadline(&self) -> Option<Instant> {
        self.change.as_ref().map(|change| change.deadline)
    }
}

fn record_members(record: &Membership) -> Vec<NodeId> {
    record.members.iter().map(|member| member.node).collect()
}
