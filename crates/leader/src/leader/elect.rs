//! Look, compare, campaign: from a majority's logs to a won term.

use super::{Candidacy, Leader, Phase, RETRY, Step};
use crate::compare::{Comparison, Progress};
use crate::look::{Evidence, Looks, Verdict, check_log, first_byte};
use crate::session::Stage;
use crate::{Command, LookAnswer, Peer, Refusal};
use bytes::Bytes;
use consensus::{AcceptorGreeting, Campaign, Decision, Leadership, ProposerMessage, Vote, VoteRequest, VoteResponse};
use lsn::{Lsn, Term};
use std::cell::RefCell;
use std::time::{Duration, Instant};

/// How long a look waits for the others once a majority has answered: a better log may be among them.
const LOOK_GRACE: Duration = Duration::from_millis(100);
/// A comparison in which nothing moves for this long is given up.
const COMPARE_TIMEOUT: Duration = Duration::from_secs(10);
/// A campaign that is not won by then begins anew with a look.
const CAMPAIGN_TIMEOUT: Duration = Duration::from_secs(10);

impl Leader {
    pub(super) fn begin_look(&mut self) {
        self.round += 1;
        let (round, peers) = (self.round, self.sessions.len());
        let Some(attempt) = self.attempt_mut() else { return };
        attempt.looks = Looks::new(round, peers);
        attempt.step = Step::Looking;
        self.commands.extend((0..peers).map(|index| Command::Look { peer: Peer(index), round }));
    }

    /// Takes a safekeeper's answer to [`Command::Look`].
    pub fn handle_look(&mut self, now: Instant, round: u64, peer: Peer, answer: LookAnswer) {
        if let Some(session) = self.sessions.get_mut(peer.0) {
            match &answer {
                LookAnswer::Row(row) => session.node = Some(row.node),
                LookAnswer::Absent(node) => session.node = node.or(session.node),
                LookAnswer::Failed(_) => {}
            }
            session.error = match &answer {
                LookAnswer::Failed(reason) => Some(reason.clone()),
                LookAnswer::Absent(_) => Some("does not know this cluster".to_owned()),
                LookAnswer::Row(_) => None,
            };
            if let LookAnswer::Row(row) = &answer {
                session.flush = Some(row.flush);
            }
        }
        let Some(attempt) = self.attempt_mut() else { return };
        if !matches!(attempt.step, Step::Looking) || attempt.looks.round != round {
            return;
        }
        attempt.looks.take(peer, answer);
        if attempt.looks.is_complete() {
            self.judge_look(now);
        } else if attempt.looks.grace_until.is_none() && attempt.looks.has_majority() {
            attempt.looks.grace_until = Some(now + LOOK_GRACE);
        }
    }

    pub(super) fn judge_look(&mut self, now: Instant) {
        let Phase::Attached(attempt) = &mut self.phase else { return };
        match attempt.looks.judge(&self.options.safekeepers, &attempt.facts) {
            Verdict::Waiting(reason) => self.rest(now, reason),
            Verdict::Refused(refusal) => self.refuse(now, refusal),
            Verdict::Usable(evidence) => {
                attempt.evidence = Some(evidence);
                self.waiting = false;
                self.trouble = None;
                self.decide_look(now);
            }
        }
    }

    /// No majority: looks again in a second. The stream, if it runs, stays open.
    fn rest(&mut self, now: Instant, reason: String) {
        self.refusal = None;
        self.waiting = true;
        self.trouble = Some(reason);
        if let Some(attempt) = self.attempt_mut() {
            attempt.step = Step::Resting { until: now + RETRY };
        }
    }

    /// Would a campaign succeed, by what is known so far?
    fn decide_look(&mut self, now: Instant) {
        let Some(attempt) = self.attempt_mut() else { return };
        let Some(evidence) = attempt.evidence.take() else { return };
        let refusal = RefCell::new(None);
        let decision = evidence.campaign.decide(|vote| {
            self.contains(&evidence, vote).unwrap_or_else(|reason| {
                refusal.borrow_mut().get_or_insert(reason);
                Some(false)
            })
        });
        let Some(attempt) = self.attempt_mut() else { return };
        if let Decision::Compare(vote) | Decision::Won(vote) = &decision
            && let Some(path) = evidence.row(vote).and_then(|(_, row)| row.path.clone())
        {
            attempt.path = path;
        }
        let (streaming, has_slot) = (attempt.ring.is_some(), attempt.facts.slot.is_some());
        attempt.evidence = Some(evidence);
        match decision {
            Decision::Won(_) if !streaming && !has_slot => {
                attempt.step = Step::CreatingSlot;
                self.commands.push_back(Command::CreateSlot);
            }
            Decision::Won(_) if !streaming => self.start_stream(now),
            Decision::Won(_) => self.begin_campaign(now),
            Decision::Compare(vote) => {
                attempt.step = Step::Comparing;
                self.begin_compare(now, vote);
            }
            Decision::Undecided | Decision::Refused => {
                let reason = refusal.into_inner().unwrap_or(Refusal::NoDonor);
                self.refuse(now, reason);
            }
        }
    }

    /// Whether the primary contains the log of a vote; `Ok(None)` if its bytes have to be compared. Before the stream has
    /// started, whether it may.
    fn contains(&self, evidence: &Evidence, vote: &Vote) -> Result<Option<bool>, Refusal> {
        let Some(attempt) = self.attempt().filter(|_| vote.flush.is_valid()) else { return Ok(Some(true)) };
        let row = evidence.row(vote).map(|(_, row)| row);
        check_log(&attempt.facts, vote, row.and_then(|row| row.path.as_ref()))?;
        let Some(ring) = &attempt.ring else {
            let primary = attempt.facts.flush;
            return if primary < vote.flush {
                Err(Refusal::PrimaryBehind { primary, log: vote.flush })
            } else {
                Ok(Some(true))
            };
        };
        let first = first_byte(&vote.history);
        let committed = row.map_or(first, |row| row.commit.max(first));
        if ring.start() > committed.max(attempt.knowledge.equal_prefix(vote)) {
            return Err(Refusal::WalRemoved { from: committed, end: vote.flush });
        }
        // Nothing lies between the start of the stream and the end of a log that has just begun.
        let known = attempt.knowledge.contains(vote);
        let verdict = if vote.flush <= ring.start().max(first) { known.or(Some(true)) } else { known };
        if verdict == Some(false) {
            let at = attempt.knowledge.equal_prefix(vote);
            let address = evidence.row(vote).map(|(peer, _)| self.address(peer)).unwrap_or_default();
            return Err(Refusal::Diverged { address, at });
        }
        Ok(verdict)
    }

    /// Reads a donor's log to hold it against the stream. What is known to be equal is not read again.
    fn begin_compare(&mut self, now: Instant, vote: Vote) {
        let campaigning = match self.attempt().map(|attempt| &attempt.step) {
            Some(Step::Campaigning(candidacy)) => candidacy.campaign.as_ref().map(Campaign::term),
            _ => None,
        };
        let Some(attempt) = self.attempt_mut() else { return };
        let (Some(ring), Some(evidence)) = (&attempt.ring, &attempt.evidence) else { return };
        let Some((peer, row)) = evidence.row(&vote) else {
            self.start_over(now, format!("safekeeper {} voted without having been looked at", vote.node));
            return;
        };
        let first = first_byte(&vote.history);
        let from = ring.start().max(first).max(attempt.knowledge.equal_prefix(&vote));
        if from < ring.begin() {
            self.start_over(now, format!("the WAL to compare from {from} on has left memory"));
            return;
        }
        let (term, tli, to) = (campaigning.unwrap_or(row.term), attempt.facts.tli, vote.flush);
        attempt.comparison = Some(Comparison::new(peer, vote, from, now + COMPARE_TIMEOUT));
        self.commands.push_back(Command::Compare { peer, term, tli, from, to });
        self.advance_comparison(now);
    }

    /// Takes bytes of the donor's log.
    pub fn handle_donor_bytes(&mut self, now: Instant, begin: Lsn, bytes: Bytes) {
        let Some(comparison) = self.attempt_mut().and_then(|attempt| attempt.comparison.as_mut()) else { return };
        if !comparison.push(begin, bytes) {
            self.handle_donor_failed(now, format!("its stream jumped to {begin}"));
            return;
        }
        self.advance_comparison(now);
        self.trim_ring();
    }

    /// The read of the donor's log ended before its end.
    pub fn handle_donor_failed(&mut self, now: Instant, reason: String) {
        let Some(comparison) = self.attempt_mut().and_then(|attempt| attempt.comparison.take()) else { return };
        self.commands.push_back(Command::StopCompare);
        let reason = format!("cannot read the log of {}: {reason}", self.address(comparison.peer));
        self.look_again(now, reason);
    }

    /// Whether more of the donor's log may be handed in. While false, it should stay in the socket.
    pub fn wants_donor_bytes(&self) -> bool {
        let comparison = self.attempt().and_then(|attempt| attempt.comparison.as_ref());
        comparison.is_some_and(Comparison::wants_donor_bytes)
    }

    /// Gives the campaign up, keeps the stream, and looks again in a second.
    fn look_again(&mut self, now: Instant, reason: String) {
        self.close_sessions();
        self.rest(now, reason);
    }

    pub(super) fn advance_comparison(&mut self, now: Instant) {
        let Some(attempt) = self.attempt_mut() else { return };
        let (Some(ring), Some(comparison)) = (&attempt.ring, &mut attempt.comparison) else { return };
        let before = comparison.position();
        let differs = match comparison.advance(ring) {
            Progress::Unfinished => {
                if comparison.position() > before {
                    comparison.deadline = now + COMPARE_TIMEOUT;
                }
                return;
            }
            Progress::Equal => false,
            Progress::Differs(_) => true,
        };
        let Some(comparison) = attempt.comparison.take() else { return };
        attempt.knowledge.learn(&comparison.vote, comparison.position(), differs);
        self.commands.push_back(Command::StopCompare);
        match self.attempt().map(|attempt| &attempt.step) {
            Some(Step::Comparing) => self.decide_look(now),
            Some(Step::Campaigning(_)) => self.decide_votes(now),
            _ => {}
        }
    }

    pub(super) fn give_up_comparison(&mut self, now: Instant) {
        let Some(attempt) = self.attempt() else { return };
        let (Some(ring), Some(comparison)) = (&attempt.ring, &attempt.comparison) else { return };
        if now < comparison.deadline {
            return;
        }
        let (primary, log) = (ring.end(), comparison.vote.flush);
        if primary <= comparison.position() && primary < log {
            self.refuse(now, Refusal::PrimaryBehind { primary, log });
        } else {
            self.handle_donor_failed(now, "it sends nothing".to_owned());
        }
    }

    /// A look says that a campaign would be won: now terms may rise.
    fn begin_campaign(&mut self, now: Instant) {
        self.clear_trouble();
        let Some(attempt) = self.attempt_mut() else { return };
        let Some(evidence) = &attempt.evidence else { return };
        attempt.step = Step::Campaigning(Candidacy {
            membership: evidence.membership.clone(),
            max_term: evidence.max_term,
            campaign: None,
            deadline: now + CAMPAIGN_TIMEOUT,
        });
        for peer in self.peers() {
            self.open_session(now, peer);
        }
    }

    pub(super) fn handle_greeting(&mut self, now: Instant, peer: Peer, greeting: AcceptorGreeting) {
        let Some(node) = self.sessions.get(peer.0).and_then(|session| session.node) else { return };
        if node != greeting.node {
            self.fail_session(now, peer, format!("greets as safekeeper {}, but is {node}", greeting.node));
            return;
        }
        let Some(ours) = self.membership() else { return };
        if greeting.membership.precedence() > ours.precedence() {
            self.start_over(now, format!("safekeeper {node} has a newer membership record"));
            return;
        }
        if let Some(session) = self.sessions.get_mut(peer.0) {
            session.stage = Stage::Greeted;
        }
        let (deposed, ask) = match self.attempt_mut().map(|attempt| &mut attempt.step) {
            Some(Step::Campaigning(candidacy)) => {
                candidacy.max_term = candidacy.max_term.max(greeting.term);
                let campaign = candidacy.campaign.as_ref();
                (campaign.is_some_and(|campaign| greeting.term > campaign.term()), campaign.is_some())
            }
            Some(Step::Leading(leadership)) => (greeting.term > leadership.term(), true),
            _ => return,
        };
        if deposed {
            self.deposed(now, greeting.term);
        } else if ask {
            self.request_vote(peer);
        } else {
            self.begin_votes();
        }
    }

    fn membership(&self) -> Option<&consensus::Membership> {
        match &self.attempt()?.step {
            Step::Campaigning(candidacy) => Some(&candidacy.membership),
            Step::Leading(leadership) => Some(leadership.membership()),
            _ => None,
        }
    }

    /// Once a majority has been greeted the term can be chosen: above all that were seen.
    fn begin_votes(&mut self) {
        let greeted: Vec<Peer> =
            self.peers().filter(|peer| self.sessions.get(peer.0).is_some_and(|s| s.stage == Stage::Greeted)).collect();
        let nodes: Vec<_> = greeted.iter().filter_map(|peer| self.sessions.get(peer.0)?.node).collect();
        let Some(Step::Campaigning(candidacy)) = self.attempt_mut().map(|attempt| &mut attempt.step) else { return };
        if !candidacy.membership.has_majority(|node| nodes.contains(&node)) {
            return;
        }
        candidacy.campaign = Some(Campaign::new(candidacy.membership.clone(), candidacy.max_term.next()));
        for peer in greeted {
            self.request_vote(peer);
        }
    }

    fn request_vote(&mut self, peer: Peer) {
        let (generation, term) = match self.attempt().map(|attempt| &attempt.step) {
            Some(Step::Campaigning(Candidacy { membership, campaign: Some(campaign), .. })) => {
                (membership.generation, campaign.term())
            }
            Some(Step::Leading(leadership)) => (leadership.membership().generation, leadership.term()),
            _ => return,
        };
        if let Some(session) = self.sessions.get_mut(peer.0) {
            session.stage = Stage::Voting;
            session.outbox.push_back(ProposerMessage::Vote(VoteRequest { generation, term }));
        }
    }

    pub(super) fn handle_vote(&mut self, now: Instant, peer: Peer, response: VoteResponse) {
        let Some(session) = self.sessions.get_mut(peer.0).filter(|session| session.stage == Stage::Voting) else {
            self.fail_session(now, peer, "answered a vote nobody asked for".to_owned());
            return;
        };
        let Some(node) = session.node else { return };
        session.stage = Stage::Voted;
        session.vote = Some(Vote::new(node, &response));
        let (term, leading) = match self.attempt_mut().map(|attempt| &mut attempt.step) {
            Some(Step::Campaigning(Candidacy { campaign: Some(campaign), .. })) => {
                campaign.handle_vote(node, &response);
                (campaign.term(), false)
            }
            Some(Step::Leading(leadership)) => (leadership.term(), true),
            _ => return,
        };
        if response.term > term {
            self.deposed(now, response.term);
        } else if leading {
            // Granted or not: the term is won, and the answer says where this log stands.
            self.send_elected(now, peer);
        } else {
            self.decide_votes(now);
        }
    }

    /// Another proposer has a higher term. Never fight: whoever still holds the slot's stream afterwards may campaign.
    pub(super) fn deposed(&mut self, now: Instant, by: Term) {
        self.start_over_after(now, format!("deposed by term {by}"), RETRY);
    }

    fn decide_votes(&mut self, now: Instant) {
        let Some(attempt) = self.attempt() else { return };
        let (Step::Campaigning(Candidacy { campaign: Some(campaign), membership, .. }), Some(evidence), None) =
            (&attempt.step, &attempt.evidence, &attempt.comparison)
        else {
            return;
        };
        let refusal = RefCell::new(None);
        let decision = campaign.decide(|vote| {
            self.contains(evidence, vote).unwrap_or_else(|reason| {
                refusal.borrow_mut().get_or_insert(reason);
                Some(false)
            })
        });
        match decision {
            Decision::Undecided => {}
            Decision::Compare(vote) => self.begin_compare(now, vote),
            Decision::Refused => {
                let reason = refusal.into_inner().unwrap_or(Refusal::NoDonor);
                self.refuse(now, reason);
            }
            Decision::Won(donor) => match Leadership::new(membership.clone(), campaign.term(), &donor, attempt.from) {
                Ok(leadership) => self.begin_leading(now, leadership),
                Err(err) => self.start_over(now, format!("the donor's history cannot be continued: {err}")),
            },
        }
    }

    pub(super) fn check_campaign(&mut self, now: Instant) {
        let late = match self.attempt().map(|attempt| &attempt.step) {
            Some(Step::Campaigning(candidacy)) => now >= candidacy.deadline,
            _ => false,
        };
        if !late {
            return;
        }
        if let Some(attempt) = self.attempt_mut()
            && attempt.comparison.take().is_some()
        {
            self.commands.push_back(Command::StopCompare);
        }
        self.look_again(now, "no majority of the safekeepers voted".to_owned());
    }
}
