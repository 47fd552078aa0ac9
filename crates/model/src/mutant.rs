//! [`Mutant`]: one rule broken on purpose, in the production code or in what drives it.

use crate::node::Reply;
use consensus::{Decision, Fault, Membership, Vote};
use lsn::Tli;

/// What is broken.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Mutant {
    /// Nothing.
    None,
    /// A rule of the production types.
    Rule(Fault),
    /// A leader whose connection ends at another server goes on in its term.
    TermKept,
    /// The donor is the log on the highest TLI.
    DonorByTli,
    /// Only the old set of a joint record is counted.
    JointOneSet,
    /// A joint record is finished before anything was committed in the term.
    ChangeBeforeCommit,
    /// A leader makes records as it likes.
    ManyRecords,
    /// An emptied disk comes back under its old name.
    EmptyVoter,
    /// A disk that was put back to what it was is not told what it promised.
    Untold,
    /// Completions are reported before the disk is done.
    ReleaseBeforePersist,
    /// The primary is told of what was received, not of what is committed.
    AnswerEarly,
}

impl Mutant {
    /// The rule of the production types that is broken.
    pub(crate) fn rule(self) -> Option<Fault> {
        if let Mutant::Rule(fault) = self { Some(fault) } else { None }
    }

    /// The record a candidate counts by.
    pub(crate) fn record(self, record: &Membership) -> Membership {
        let new_members = record.new_members.clone().filter(|_| self != Mutant::JointOneSet);
        Membership { new_members, ..record.clone() }
    }
}

/// What a campaign that looks at the TLIs of logs decides.
pub(crate) fn decide_by_tli(
    membership: &Membership,
    votes: &[(&Vote, &Reply)],
    contains: impl Fn(&Vote) -> Option<bool>,
) -> Decision {
    let tli = |reply: &Reply| reply.path.as_ref().map_or(Tli(0), |path| path.last().tli);
    let mut votes = votes.to_vec();
    votes.sort_by_key(|(vote, reply)| std::cmp::Reverse((tli(reply), vote.flush)));
    for (index, (candidate, _)) in votes.iter().enumerate() {
        let counted = &votes[index..];
        if !membership.has_majority(|node| counted.iter().any(|(vote, _)| vote.node == node)) {
            break;
        }
        if contains(candidate) == Some(true) {
            return Decision::Won((*candidate).clone());
        }
    }
    let all_voted = membership.all_members().all(|member| votes.iter().any(|(vote, _)| vote.node == member.node));
    if all_voted { Decision::Refused } else { Decision::Undecided }
}
