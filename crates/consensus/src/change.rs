//! How one membership record follows another.
//!
//! Records form one line, in the order of their generations. Only a leader makes one, at most one in its term, and the
//! generation of what it makes is its term plus one: no two records ever share a generation, and a later leader's is higher. All
//! messages of an election carry the generation and are refused by whoever has another, so every vote that is counted comes from
//! somebody who holds exactly the record it is counted by.
//!
//! ```text
//! plain record of O --(leader by O)--> joint record O|N --(leader by O and N)--> plain record of N
//! ```
//!
//! A joint record has one successor only, so two leaders that finish the same change agree. It may be finished by a leader that was
//! elected by it and has committed in its own term: then a majority of O and a majority of N hold it in that term, and the
//! majority of N holds everything that was ever committed. Nobody can be elected any more by the record before it, because
//! that would take a majority of O.

use crate::membership::{Member, Membership, MembershipError};
use lsn::Term;

/// Why a record cannot follow.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ChangeError {
    /// A change is under way already.
    #[error("a membership change is under way: it is finished first")]
    Joint,
    /// There is none to finish.
    #[error("no membership change is under way")]
    NotJoint,
    /// A cluster made by a foreign proposer's greeting.
    #[error(
        "the cluster has no membership record: it was made by foreign software, and its proposer decides who counts"
    )]
    NoRecord,
    /// The new members are the old ones.
    #[error("these are the members already")]
    NoChange,
    /// The term has made its record, or the next generation has no number.
    #[error("term {0} cannot make a membership record")]
    Term(Term),
    /// The new members cannot be a set.
    #[error(transparent)]
    Members(#[from] MembershipError),
}

impl Membership {
    /// The generation of a record made by the leader of `term`.
    pub fn generation_of(term: Term) -> Option<u32> {
        u32::try_from(term.0).ok()?.checked_add(1)
    }

    /// Whether generation and term go together as they do in every record that was made by `init` or a leader of ours.
    pub fn is_well_made(&self) -> bool {
        self.is_set() && Membership::generation_of(self.term) == Some(self.generation)
    }

    /// The record with which the leader of `term`, who counts by this one, begins a change to `new`.
    pub fn joint(&self, term: Term, new: Vec<Member>) -> Result<Membership, ChangeError> {
        if !self.is_set() {
            return Err(ChangeError::NoRecord);
        }
        if self.new_members.is_some() {
            return Err(ChangeError::Joint);
        }
        let same = |member: &Member| new.iter().any(|new| (new.node, new.disk) == (member.node, member.disk));
        if new.len() == self.members.len() && self.members.iter().all(same) {
            return Err(ChangeError::NoChange);
        }
        self.next(term, self.members.clone(), Some(new))
    }

    /// The record with which the leader of `term`, who was elected by this joint one and has committed in its own term, ends the
    /// change.
    pub fn finished(&self, term: Term) -> Result<Membership, ChangeError> {
        let new = self.new_members.clone().ok_or(ChangeError::NotJoint)?;
        self.next(term, new, None)
    }

    fn next(&self, term: Term, members: Vec<Member>, new: Option<Vec<Member>>) -> Result<Membership, ChangeError> {
        let generation = Membership::generation_of(term).filter(|generation| *generation > self.generation);
        Ok(Membership::new(generation.ok_or(ChangeError::Term(term))?, term, members, new)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lsn::{DiskId, NodeId};

    fn members(nodes: &[u64]) -> Vec<Member> {
        let member =
            |&node: &u64| Member { node: NodeId(node), disk: DiskId([node as u8; 16]), host: "h".into(), port: 1 };
        nodes.iter().map(member).collect()
    }

    fn first() -> Membership {
        Membership::new(1, Term(0), members(&[1, 2, 3]), None).unwrap()
    }

    #[test]
    fn a_change_goes_through_a_joint_record() {
        let joint = first().joint(Term(4), members(&[1, 2, 4])).unwrap();
        assert_eq!((joint.generation, joint.term), (5, Term(4)));
        assert!(joint.is_well_made() && first().is_well_made());
        assert_eq!(joint.joint(Term(5), members(&[1])), Err(ChangeError::Joint));
        let done = joint.finished(Term(5)).unwrap();
        assert_eq!((done.generation, &done.members, &done.new_members), (6, &members(&[1, 2, 4]), &None));
        assert_eq!(done.finished(Term(6)), Err(ChangeError::NotJoint));
    }

    #[test]
    fn one_term_makes_one_record() {
        let joint = first().joint(Term(4), members(&[1, 2])).unwrap();
        assert_eq!(joint.finished(Term(4)), Err(ChangeError::Term(Term(4))));
        assert_eq!(first().joint(Term(0), members(&[1, 2])), Err(ChangeError::Term(Term(0))));
        assert_eq!(first().joint(Term(u64::MAX), members(&[1])), Err(ChangeError::Term(Term(u64::MAX))));
    }

    #[test]
    fn what_changes_nothing_or_cannot_be_is_refused() {
        assert_eq!(first().joint(Term(4), members(&[3, 2, 1])), Err(ChangeError::NoChange));
        assert_eq!(Membership::none().joint(Term(4), members(&[1])), Err(ChangeError::NoRecord));
        let mut other_disk = members(&[1, 2, 3]);
        other_disk[2].disk = DiskId([9; 16]);
        let two = Err(ChangeError::Members(MembershipError::TwoDisks(NodeId(3))));
        assert_eq!(first().joint(Term(4), other_disk), two);
        assert!(first().joint(Term(4), Vec::new()).is_err());
    }
}
