//! Containment, byte by byte: [`Comparison`] holds a donor's log against the primary's stream, [`Knowledge`] remembers what
//! earlier comparisons on this connection found out.
//!
//! Knowledge is kept by term history: one term has one leader, so two logs hold the same bytes up to the common point of their
//! histories. What was found about one log is true of every other log up to that point, and only there.

use crate::Peer;
use crate::ring::WalRing;
use bytes::Bytes;
use consensus::{TermHistory, Vote};
use lsn::Lsn;
use std::collections::VecDeque;
use std::time::Instant;

/// Donor bytes held while the primary's are still on their way: enough to keep both streams moving.
const MAX_DONOR_BYTES: u64 = 4 << 20;

#[derive(Debug)]
struct Finding {
    history: TermHistory,
    equal_to: Lsn,
    differs: bool,
}

/// What is known of this connection's primary against logs of the quorum.
#[derive(Debug, Default)]
pub(crate) struct Knowledge(Vec<Finding>);

impl Knowledge {
    /// The log of `vote` holds the primary's bytes up to `equal_to`; with `differs`, another byte there.
    pub(crate) fn learn(&mut self, vote: &Vote, equal_to: Lsn, differs: bool) {
        self.0.push(Finding { history: vote.history.clone(), equal_to, differs });
    }

    /// Whether the primary contains this log; `None` if that is not known.
    pub(crate) fn contains(&self, vote: &Vote) -> Option<bool> {
        self.0.iter().find_map(|finding| {
            let common = finding.history.common_point(&vote.history, vote.flush)?;
            if common == vote.flush && vote.flush <= finding.equal_to {
                Some(true)
            } else if finding.differs && common > finding.equal_to {
                Some(false)
            } else {
                None
            }
        })
    }

    /// Up to here the log of `vote` is known to hold the primary's bytes.
    pub(crate) fn equal_prefix(&self, vote: &Vote) -> Lsn {
        let shared = |finding: &Finding| {
            let common = finding.history.common_point(&vote.history, vote.flush).unwrap_or(Lsn::INVALID);
            common.min(finding.equal_to)
        };
        self.0.iter().map(shared).max().unwrap_or(Lsn::INVALID)
    }
}

/// What a comparison has come to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Progress {
    /// Bytes of one side are missing.
    Unfinished,
    /// All of it is equal.
    Equal,
    /// The first different byte.
    Differs(Lsn),
}

/// One donor's log against the stream.
#[derive(Debug)]
pub(crate) struct Comparison {
    /// Whose log.
    pub(crate) peer: Peer,
    /// The log.
    pub(crate) vote: Vote,
    /// When to give up unless something moves.
    pub(crate) deadline: Instant,
    position: Lsn,
    /// Whether a byte that is not zero was equal.
    substance: bool,
    donor: VecDeque<Bytes>,
    donor_end: Lsn,
}

impl Comparison {
    /// Compares `[from, vote.flush)`.
    pub(crate) fn new(peer: Peer, vote: Vote, from: Lsn, deadline: Instant) -> Comparison {
        Comparison { peer, vote, deadline, position: from, substance: false, donor: VecDeque::new(), donor_end: from }
    }

    /// Everything below is equal.
    pub(crate) fn position(&self) -> Lsn {
        self.position
    }

    /// Whether what was equal says anything: zeros are equal everywhere.
    pub(crate) fn has_substance(&self) -> bool {
        self.substance
    }

    /// The donor's log has nothing below `at`: begins there. Only before its first byte.
    pub(crate) fn begin_at(&mut self, at: Lsn) {
        if self.donor_end == self.position && at > self.position && at <= self.vote.flush {
            (self.position, self.donor_end) = (at, at);
        }
    }

    /// Takes bytes of the donor. False if they do not follow.
    #[must_use]
    pub(crate) fn push(&mut self, begin: Lsn, mut bytes: Bytes) -> bool {
        if begin != self.donor_end {
            return false;
        }
        let rest = self.vote.flush.bytes_since(self.donor_end);
        bytes.truncate(usize::try_from(rest).unwrap_or(usize::MAX));
        self.donor_end = self.donor_end.saturating_add(bytes.len() as u64);
        if !bytes.is_empty() {
            self.donor.push_back(bytes);
        }
        true
    }

    /// Whether more bytes of the donor may come.
    pub(crate) fn wants_donor_bytes(&self) -> bool {
        self.donor_end < self.vote.flush && self.donor_end.bytes_since(self.position) < MAX_DONOR_BYTES
    }

    /// Compares what both sides have.
    pub(crate) fn advance(&mut self, ring: &WalRing) -> Progress {
        while self.position < self.vote.flush {
            let Some(donor) = self.donor.front_mut() else { return Progress::Unfinished };
            let primary = ring.at(self.position);
            let length = donor.len().min(primary.len());
            if length == 0 {
                return Progress::Unfinished;
            }
            let (ours, theirs) = (&primary[..length], &donor[..length]);
            if ours != theirs {
                let equal = ours.iter().zip(theirs).take_while(|(a, b)| a == b).count();
                self.position = self.position.saturating_add(equal as u64);
                return Progress::Differs(self.position);
            }
            self.substance = self.substance || theirs.iter().any(|byte| *byte != 0);
            self.position = self.position.saturating_add(length as u64);
            let _ = donor.split_to(length);
            if donor.is_empty() {
                self.donor.pop_front();
            }
        }
        Progress::Equal
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use consensus::TermEntry;
    use lsn::{NodeId, Term};
    use proptest::prelude::*;

    fn vote(flush: u64, terms: &[(u64, u64)]) -> Vote {
        let entries = terms.iter().map(|&(term, begin)| TermEntry { term: Term(term), begin: Lsn(begin) }).collect();
        Vote { node: NodeId(1), flush: Lsn(flush), history: TermHistory::new(entries).unwrap(), truncate: Lsn(0) }
    }

    #[test]
    fn findings_hold_for_other_logs_up_to_the_common_point() {
        let mut knowledge = Knowledge::default();
        let compared = vote(100, &[(1, 10), (3, 50)]);
        assert_eq!(knowledge.contains(&compared), None);
        knowledge.learn(&compared, Lsn(100), false);
        assert_eq!(knowledge.contains(&compared), Some(true));
        assert_eq!(knowledge.contains(&vote(90, &[(1, 10), (3, 50)])), Some(true), "shorter, same term");
        assert_eq!(knowledge.contains(&vote(50, &[(1, 10)])), Some(true), "older, a prefix");
        assert_eq!(knowledge.contains(&vote(101, &[(1, 10), (3, 50)])), None, "longer");
        assert_eq!(knowledge.contains(&vote(60, &[(1, 10)])), None, "parted at 50");
        assert_eq!(knowledge.contains(&vote(60, &[(1, 10), (2, 40)])), None, "parted at 40");
        assert_eq!(knowledge.contains(&vote(60, &[(2, 10)])), None, "shares nothing");
        assert_eq!(knowledge.equal_prefix(&vote(60, &[(1, 10), (2, 40)])), Lsn(40));
        assert_eq!(knowledge.equal_prefix(&vote(200, &[(1, 10), (3, 50)])), Lsn(100));
    }

    #[test]
    fn a_difference_speaks_only_of_logs_that_hold_it() {
        let mut knowledge = Knowledge::default();
        knowledge.learn(&vote(100, &[(1, 10), (3, 50)]), Lsn(70), true);
        assert_eq!(knowledge.contains(&vote(100, &[(1, 10), (3, 50)])), Some(false));
        assert_eq!(knowledge.contains(&vote(71, &[(1, 10), (3, 50)])), Some(false));
        assert_eq!(knowledge.contains(&vote(70, &[(1, 10), (3, 50)])), Some(true));
        assert_eq!(knowledge.contains(&vote(100, &[(1, 10), (4, 60)])), None);
    }

    proptest! {
        /// However both sides are cut into pieces, the first difference is found, and nothing else.
        #[test]
        fn pieces_do_not_matter(
            length in 1usize..200, differs in proptest::option::of(0usize..200),
            ours in proptest::collection::vec(1usize..30, 1..40), theirs in proptest::collection::vec(1usize..30, 1..40),
        ) {
            let primary: Vec<u8> = (0..length + 50).map(|i| i as u8).collect();
            let mut donor = primary[..length].to_vec();
            let differs = differs.filter(|at| *at < length);
            if let Some(at) = differs { donor[at] ^= 1; }
            let begin = 1000u64;
            let mut ring = WalRing::new(Lsn(begin));
            let target = vote(begin + length as u64, &[(1, begin)]);
            let mut comparison = Comparison::new(Peer(0), target, Lsn(begin), Instant::now());
            let (mut sent_primary, mut sent_donor, mut result) = (0, 0, Progress::Unfinished);
            for index in 0.. {
                let take = ours[index % ours.len()].min(primary.len() - sent_primary);
                let piece = Bytes::copy_from_slice(&primary[sent_primary..sent_primary + take]);
                prop_assert!(ring.push(Lsn(begin + sent_primary as u64), piece));
                sent_primary += take;
                let take = theirs[index % theirs.len()].min(donor.len() - sent_donor);
                let piece = Bytes::copy_from_slice(&donor[sent_donor..sent_donor + take]);
                prop_assert!(comparison.push(Lsn(begin + sent_donor as u64), piece));
                sent_donor += take;
                result = comparison.advance(&ring);
                ring.trim(0, comparison.position());
                if result != Progress::Unfinished { break; }
                prop_assert!(index < 1000);
            }
            match differs {
                Some(at) => prop_assert_eq!(result, Progress::Differs(Lsn(begin + at as u64))),
                None => prop_assert_eq!(result, Progress::Equal),
            }
        }
    }
}
