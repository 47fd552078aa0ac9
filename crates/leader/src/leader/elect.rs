//! Look, compare, campaign: from a majority's logs to a won term.

use super::{Attempt, Candidacy, Leader, Phase, Step};
use crate::compare::{Comparison, Progress};
use crate::lineage::Lineage;
use crate::look::{Evidence, Looks, Verdict, check_log, first_byte};
use crate::session::Stage;
use crate::{Command, LookAnswer, Peer, Refusal};
use bytes::Bytes;
use consensus::{
    AcceptorGreeting, Campaign, Decision, FenceLine, FenceToken, Leadership, ProposerMessage, Vote, VoteRequest,
    VoteResponse,
};
use lsn::{Lsn, Path, Term};
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
        if let LookAnswer::Row(row) = &answer {
            self.note_learner(now, row);
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
        if self.ask_members(now) {
            return;
        }
        self.pass_record_on();
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
        let pause = self.options.retry;
        if let Some(attempt) = self.attempt_mut() {
            attempt.step = Step::Resting { until: now + pause };
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
        let (streaming, has_slot) = (attempt.ring.is_some(), attempt.facts.slot.is_some());
        attempt.evidence = Some(evidence);
        match decision {
            Decision::Won(_) if !streaming && !has_slot => {
                attempt.step = Step::CreatingSlot;
                self.commands.push_back(Command::CreateSlot);
            }
            Decision::Won(_) if !streaming => self.start_stream(now),
            Decision::Won(donor) => self.settle_path(now, &donor),
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

    /// The donor is contained: once all marks are read our path is known, and terms may rise.
    fn settle_path(&mut self, now: Instant, donor: &Vote) {
        let Some(attempt) = self.attempt_mut() else { return };
        if let Some((at, reason)) = attempt.marks.fault() {
            let refusal = Refusal::BadSwitch { at, reason: reason.to_owned() };
            return self.refuse(now, refusal);
        }
        if attempt.marks.missing().is_some() {
            attempt.step = Step::ReadingMarks { until: now + COMPARE_TIMEOUT };
            return;
        }
        let log = attempt.evidence.as_ref().and_then(|evidence| evidence.row(donor)?.1.path.clone());
        let log = log.unwrap_or_else(|| Path::root(attempt.facts.tli)).cut(donor.flush);
        let root = log.entries().first().map_or(attempt.facts.tli, |entry| entry.tli);
        let of_log = |tli, begin| log.entries().iter().find(|entry| (entry.tli, entry.begin) == (tli, begin));
        let mark = |tli, begin| attempt.marks.get(begin).or(of_log(tli, begin).map(|entry| entry.mark)).unwrap_or(0);
        let Some(path) = Lineage::of(&attempt.facts).path_from(root, mark) else {
            let refusal = Refusal::Unrelated { primary: attempt.facts.tli, log };
            return self.refuse(now, refusal);
        };
        // What the stream says of a TLI must be what the log says of it.
        if path.agree(&log) < donor.flush {
            let refusal = Refusal::Forked { primary: attempt.facts.tli, at: path.agree(&log), end: donor.flush, log };
            return self.refuse(now, refusal);
        }
        attempt.path = path;
        self.begin_campaign(now);
    }

    pub(super) fn advance_marks(&mut self, now: Instant) {
        let Some(attempt) = self.attempt() else { return };
        let settled = attempt.marks.missing().is_none() || attempt.marks.fault().is_some();
        if settled && matches!(attempt.step, Step::ReadingMarks { .. }) {
            self.decide_look(now);
        }
    }

    /// Everything but bytes that decides whether the primary may continue the log of a vote.
    fn may_continue(&self, attempt: &Attempt, evidence: &Evidence, vote: &Vote) -> Result<(), Refusal> {
        let path = evidence.row(vote).and_then(|(_, row)| row.path.as_ref());
        let relation = check_log(&attempt.facts, vote, path, self.options.adopt)?;
        self.check_fences(attempt, evidence, &relation.path)?;
        let token = self.fence_token(attempt).is_some();
        let silent = |after: Duration| evidence.is_silent(u64::try_from(after.as_millis()).unwrap_or(u64::MAX));
        let permitted = self.options.takeover
            || (token && !evidence.fences.is_empty())
            || self.options.takeover_after.is_some_and(silent);
        if relation.adds_tli && !permitted {
            let log = path.cloned().unwrap_or_else(|| Path::root(attempt.facts.tli));
            return Err(Refusal::Takeover { primary: attempt.facts.tli, log });
        }
        Ok(())
    }

    /// The token that is shown. Whoever may take over in any case needs none, and one of an earlier fence would bar it.
    pub(super) fn fence_token(&self, attempt: &Attempt) -> Option<FenceToken> {
        attempt.facts.fence_token.filter(|_| !self.options.takeover)
    }

    /// Whether every fence that stands lets a server on this path pass.
    fn check_fences(&self, attempt: &Attempt, evidence: &Evidence, path: &Path) -> Result<(), Refusal> {
        if self.options.completes || self.fence_token(attempt).is_some() {
            return Ok(());
        }
        let left = |fence: &str| fence.parse().is_ok_and(|line: FenceLine| line.is_left_by(path));
        match evidence.fences.iter().find(|(_, fence)| !left(fence)) {
            Some((peer, fence)) => Err(Refusal::Fenced { address: self.address(*peer), fence: fence.clone() }),
            None => Ok(()),
        }
    }

    /// Whether the primary contains the log of a vote; `Ok(None)` if its bytes have to be compared. Before the stream has
    /// started, whether it may.
    fn contains(&self, evidence: &Evidence, vote: &Vote) -> Result<Option<bool>, Refusal> {
        let Some(attempt) = self.attempt() else { return Ok(Some(true)) };
        if !vote.flush.is_valid() {
            self.check_fences(attempt, evidence, &Path::root(attempt.facts.tli))?;
            return Ok(Some(true));
        }
        let row = evidence.row(vote).map(|(_, row)| row);
        self.may_continue(attempt, evidence, vote)?;
        let Some(ring) = &attempt.ring else {
            let primary = attempt.facts.flush;
            return if primary < vote.flush {
                Err(Refusal::PrimaryBehind { primary, log: vote.flush })
            } else {
                Ok(Some(true))
            };
        };
        let first = first_byte(&vote.history);
        let committed = row.map_or(first, |row| evidence.committed_in(row).max(first));
        if ring.start() > committed.max(attempt.knowledge.equal_prefix(vote)) {
            return Err(Refusal::WalRemoved { from: committed, end: vote.flush });
        }
        // Nothing lies between the start of the stream and the end of a log that has just begun.
        let known = attempt.knowledge.contains(vote);
        let verdict = if vote.flush <= ring.start().max(first) { known.or(Some(true)) } else { known };
        // Where no slot vouches for anything, equal bytes must be there to do it.
        if attempt.compares_all && verdict == Some(true) && !attempt.substance {
            return Err(Refusal::WalRemoved { from: committed, end: vote.flush });
        }
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
        let (term, to) = (campaigning.unwrap_or(row.term), vote.flush);
        attempt.comparison = Some(Comparison::new(peer, vote, from, now + COMPARE_TIMEOUT));
        self.commands.push_back(Command::Compare { peer, term, from, to });
        self.advance_comparison(now);
    }

    /// The donor's log has nothing below `oldest` any more: the comparison begins there, if it is one of everything that both
    /// sides have, and fails otherwise. Returns where the read has to begin.
    pub fn handle_donor_oldest(&mut self, now: Instant, oldest: Lsn) -> Option<Lsn> {
        let attempt = self.attempt_mut()?;
        let comparison = attempt.comparison.as_mut()?;
        if oldest > comparison.position() && attempt.compares_all {
            comparison.begin_at(oldest);
        }
        if oldest <= comparison.position() {
            return Some(comparison.position());
        }
        self.handle_donor_failed(now, format!("it has removed its WAL below {oldest}"));
        None
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
        attempt.substance |= comparison.has_substance();
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
        if matches!(attempt.step, Step::ReadingMarks { until } if now >= until) {
            let at = attempt.marks.missing().unwrap_or_default();
            return self.start_over(now, format!("the primary's stream does not reach {at}, where its TLI begins"));
        }
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
        let pause = self.options.retry;
        self.start_over_after(now, format!("deposed by term {by}"), pause);
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
