//! [`Membership`]: which safekeepers count, as a record that is carried from the first day.
//!
//! A member is a node *and* a disk: a safekeeper that comes back with an emptied disk has another disk id, is not a member,
//! and cannot forget an acknowledged commit in a vote. Addresses are hints. While a change is under way the record is joint:
//! majorities of both sets are needed.
//!
//! Text form, as LOG_STATUS and INIT_CLUSTER carry it: `generation/term/1:disk@host:port;2:disk@host:port`, with `|` before
//! the new members of a joint record.

use lsn::{DiskId, NodeId, Term};
use std::fmt;
use std::str::FromStr;

/// Most members one record may name.
pub(crate) const MAX_MEMBERS: usize = 31;
/// Longest host name of a member, in bytes.
const MAX_HOST_BYTES: usize = 255;

/// One safekeeper of a record.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Member {
    /// The operator's number for it; not 0.
    pub node: NodeId,
    /// The disk that holds its promise; [`DiskId::NONE`] in records made by foreign software.
    pub disk: DiskId,
    /// Host name or address; a hint.
    pub host: String,
    /// Port of the PostgreSQL protocol; a hint.
    pub port: u16,
}

/// A membership record. Generation 0 with no members means: none yet, count by the list you were given.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Membership {
    /// Number of the record within the cluster's life; the first real one is 1.
    pub generation: u32,
    /// Term of the leader that made it; 0 when made by `init`.
    pub term: Term,
    /// The members.
    pub members: Vec<Member>,
    /// The new members while a change is under way.
    pub new_members: Option<Vec<Member>>,
}

/// A record that cannot be one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MembershipError {
    /// A real generation without members, or members without a generation.
    #[error("generation {0} of a membership record does not go with its number of members")]
    Generation(u32),
    /// One node twice, or node 0.
    #[error("safekeeper {0} stands twice in the membership record, or is 0")]
    Node(NodeId),
    /// One node with two disks in a joint record.
    #[error("safekeeper {0} cannot change its disk within one change: remove it first, then add it with its new disk")]
    TwoDisks(NodeId),
    /// One disk twice.
    #[error("disk {0} stands twice in the membership record")]
    Disk(DiskId),
    /// More members than supported.
    #[error("a membership record names at most {MAX_MEMBERS} safekeepers")]
    TooMany,
    /// A host that is empty, too long or holds separators.
    #[error("{0:?} is not a host for a membership record")]
    Host(String),
    /// Text of another form.
    #[error("{0:?} is not a membership record: expected generation/term/node:disk@host:port;…")]
    Text(String),
}

impl Membership {
    /// The record that says nothing yet.
    pub fn none() -> Self {
        Membership::default()
    }

    /// Checks a record.
    pub fn new(
        generation: u32,
        term: Term,
        members: Vec<Member>,
        new_members: Option<Vec<Member>>,
    ) -> Result<Self, MembershipError> {
        if (generation == 0) != members.is_empty() || new_members.as_ref().is_some_and(Vec::is_empty) {
            return Err(MembershipError::Generation(generation));
        }
        for set in std::iter::once(&members).chain(&new_members) {
            check_set(set)?;
        }
        // Majorities are counted by node: in a joint record a node with two disks would count for both sets.
        for new in new_members.iter().flatten() {
            if members.iter().any(|old| old.node == new.node && old.disk != new.disk) {
                return Err(MembershipError::TwoDisks(new.node));
            }
        }
        Ok(Membership { generation, term, members, new_members })
    }

    /// Whether a real record is there.
    pub fn is_set(&self) -> bool {
        self.generation != 0
    }

    /// Order in which records replace each other: by generation, then by the term of the leader that made them.
    pub fn precedence(&self) -> (u32, Term) {
        (self.generation, self.term)
    }

    /// All members, old and new, each node once.
    pub fn all_members(&self) -> impl Iterator<Item = &Member> {
        let old = &self.members;
        let added =
            self.new_members.iter().flatten().filter(move |new| !old.iter().any(|member| member.node == new.node));
        old.iter().chain(added)
    }

    /// The member with this node id.
    pub fn member(&self, node: NodeId) -> Option<&Member> {
        self.all_members().find(|member| member.node == node)
    }

    /// Whether this very disk of this node is a member.
    pub fn includes(&self, node: NodeId, disk: DiskId) -> bool {
        self.members
            .iter()
            .chain(self.new_members.iter().flatten())
            .any(|member| member.node == node && member.disk == disk)
    }

    /// Whether the nodes for which `holds` is true are a majority of every set. Without a record there is no majority.
    pub fn has_majority(&self, holds: impl Fn(NodeId) -> bool) -> bool {
        let majority = |set: &[Member]| set.iter().filter(|member| holds(member.node)).count() > set.len() / 2;
        self.is_set() && majority(&self.members) && self.new_members.as_deref().is_none_or(majority)
    }

    /// The highest value that a majority of every set has reached: per set the value at the majority's place, counted from
    /// the top; the lowest over the sets.
    pub fn majority_value<T: Ord + Copy>(&self, value: impl Fn(NodeId) -> T) -> Option<T> {
        let of_set = |set: &[Member]| {
            let mut values: Vec<T> = set.iter().map(|member| value(member.node)).collect();
            values.sort_unstable_by(|a, b| b.cmp(a));
            values.get(set.len() / 2).copied()
        };
        let old = of_set(&self.members)?;
        match &self.new_members {
            Some(new) => Some(old.min(of_set(new)?)),
            None => Some(old),
        }
    }
}

fn check_set(set: &[Member]) -> Result<(), MembershipError> {
    if set.len() > MAX_MEMBERS {
        return Err(MembershipError::TooMany);
    }
    for (index, member) in set.iter().enumerate() {
        let earlier = &set[..index];
        if member.node == NodeId(0) || earlier.iter().any(|other| other.node == member.node) {
            return Err(MembershipError::Node(member.node));
        }
        if member.disk != DiskId::NONE && earlier.iter().any(|other| other.disk == member.disk) {
            return Err(MembershipError::Disk(member.disk));
        }
        let separator = |c: char| c.is_whitespace() || c.is_control() || ";|@,/'\"\\".contains(c);
        if member.host.is_empty() || member.host.len() > MAX_HOST_BYTES || member.host.contains(separator) {
            return Err(MembershipError::Host(member.host.chars().take(80).collect()));
        }
    }
    Ok(())
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}@{}:{}", self.node, self.disk, self.host, self.port)
    }
}

impl fmt::Display for Membership {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/", self.generation, self.term)?;
        let write_set = |f: &mut fmt::Formatter<'_>, set: &[Member]| {
            for (index, member) in set.iter().enumerate() {
                write!(f, "{}{member}", if index == 0 { "" } else { ";" })?;
            }
            Ok(())
        };
        write_set(f, &self.members)?;
        if let Some(new) = &self.new_members {
            f.write_str("|")?;
            write_set(f, new)?;
        }
        Ok(())
    }
}

impl FromStr for Membership {
    type Err = MembershipError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || MembershipError::Text(text.chars().take(200).collect());
        let member = |part: &str| {
            let (node, rest) = part.split_once(':')?;
            let (disk, address) = rest.split_once('@')?;
            let (host, port) = address.rsplit_once(':')?;
            Some(Member {
                node: node.parse().ok()?,
                disk: disk.parse().ok()?,
                host: host.to_owned(),
                port: port.parse().ok()?,
            })
        };
        let set = |part: &str| {
            if part.is_empty() { Some(Vec::new()) } else { part.split(';').map(member).collect::<Option<Vec<_>>>() }
        };
        let mut parts = text.splitn(3, '/');
        let generation = parts.next().and_then(|part| part.parse().ok()).ok_or_else(error)?;
        let term = parts.next().and_then(|part| part.parse().ok()).ok_or_else(error)?;
        let sets = parts.next().ok_or_else(error)?;
        let (members, new_members) = match sets.split_once('|') {
            Some((old, new)) => (set(old), Some(set(new).ok_or_else(error)?)),
            None => (set(sets), None),
        };
        Membership::new(generation, term, members.ok_or_else(error)?, new_members)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn members(nodes: &[u64]) -> Vec<Member> {
        nodes
            .iter()
            .map(|&node| Member {
                node: NodeId(node),
                disk: DiskId([node as u8; 16]),
                host: format!("sk{node}"),
                port: 5454,
            })
            .collect()
    }

    #[test]
    fn text_round_trip() {
        for record in [
            Membership::none(),
            Membership::new(1, Term(0), members(&[1, 2, 3]), None).unwrap(),
            Membership::new(4, Term(9), members(&[1, 2, 3]), Some(members(&[2, 3, 4]))).unwrap(),
        ] {
            assert_eq!(record.to_string().parse::<Membership>().unwrap(), record);
        }
        let v6 = format!("1/0/1:{}@::1:5454", DiskId([7; 16]));
        assert_eq!(v6.parse::<Membership>().unwrap().members[0].host, "::1");
    }

    #[test]
    fn impossible_records_are_refused() {
        assert!(Membership::new(0, Term(0), members(&[1]), None).is_err());
        assert!(Membership::new(1, Term(0), vec![], None).is_err());
        assert!(Membership::new(1, Term(0), members(&[1, 1]), None).is_err());
        assert!(Membership::new(1, Term(0), members(&[0]), None).is_err());
        let mut same_disk = members(&[1, 2]);
        same_disk[1].disk = same_disk[0].disk;
        assert!(Membership::new(1, Term(0), same_disk, None).is_err());
        assert!(Membership::new(1, Term(0), members(&(1..=32).collect::<Vec<_>>()), None).is_err());
        for text in ["", "1", "1/0", "1/0/", "x/0/", "1/0/1:zz@h:1", "1/0/1@h:1"] {
            assert!(text.parse::<Membership>().is_err(), "{text}");
        }
    }

    #[test]
    fn joint_records_need_both_majorities() {
        let joint = Membership::new(2, Term(1), members(&[1, 2, 3]), Some(members(&[3, 4, 5]))).unwrap();
        assert!(!joint.has_majority(|node| [1, 2, 3].contains(&node.0)));
        assert!(joint.has_majority(|node| [1, 3, 4].contains(&node.0)));
        assert_eq!(joint.majority_value(|node| node.0 * 10), Some(20));
        assert!(!Membership::none().has_majority(|_| true));
    }

    #[test]
    fn an_emptied_disk_is_not_a_member() {
        let record = Membership::new(1, Term(0), members(&[1, 2, 3]), None).unwrap();
        assert!(record.includes(NodeId(1), DiskId([1; 16])));
        assert!(!record.includes(NodeId(1), DiskId([9; 16])));
    }

    proptest! {
        #[test]
        fn majority_value_is_reached_by_a_majority(values in proptest::collection::vec(0u64..20, 1..8)) {
            let nodes: Vec<u64> = (1..=values.len() as u64).collect();
            let record = Membership::new(1, Term(0), members(&nodes), None).unwrap();
            let value = |node: NodeId| values[node.0 as usize - 1];
            let reached = record.majority_value(value).unwrap();
            prop_assert!(record.has_majority(|node| value(node) >= reached));
            prop_assert!(!record.has_majority(|node| value(node) > reached));
        }
    }
}
