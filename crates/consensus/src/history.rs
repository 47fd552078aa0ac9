//! [`TermHistory`]: which term wrote which part of a log.
//!
//! Invariants: terms strictly increase, begins never decrease. A stored history may describe positions its node does not
//! have yet, so every use of it is cut to the end of the log first.

use lsn::{Lsn, Term};
use std::fmt;
use std::str::FromStr;

/// One term and the position from which it wrote.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct TermEntry {
    /// The term.
    pub term: Term,
    /// Where it began.
    pub begin: Lsn,
}

/// The terms of a log, oldest first. Empty for a log that never had a leader.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct TermHistory(Vec<TermEntry>);

/// Entries or text that are no term history.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HistoryError {
    /// A term that is not above the one before it.
    #[error("term {0} does not follow the term before it")]
    Order(Term),
    /// A begin below the one before it.
    #[error("term {0} begins below the term before it")]
    Begin(Term),
    /// Text that is not `TERM:LSN[,…]`.
    #[error("{0:?} is not a term history: expected TERM:LSN pairs joined by commas, like 1:0/1000000,3:0/1600000")]
    Text(String),
}

impl TermHistory {
    /// The history of a log without a leader.
    pub fn empty() -> Self {
        TermHistory(Vec::new())
    }

    /// Checks entries, oldest first.
    pub fn new(entries: Vec<TermEntry>) -> Result<Self, HistoryError> {
        for (earlier, later) in entries.iter().zip(entries.iter().skip(1)) {
            if later.term <= earlier.term {
                return Err(HistoryError::Order(later.term));
            }
            if later.begin < earlier.begin {
                return Err(HistoryError::Begin(later.term));
            }
        }
        Ok(TermHistory(entries))
    }

    /// The entries, oldest first.
    pub fn entries(&self) -> &[TermEntry] {
        &self.0
    }

    /// Whether no term is recorded.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The newest entry.
    pub fn last(&self) -> Option<TermEntry> {
        self.0.last().copied()
    }

    /// The newest term, 0 without any.
    pub fn last_term(&self) -> Term {
        self.last().map_or(Term(0), |entry| entry.term)
    }

    /// The history of the same log cut to `end`: entries that begin above `end` are gone. An entry that begins exactly at
    /// `end` stays, because its leader was elected there.
    pub fn cut(&self, end: Lsn) -> TermHistory {
        TermHistory(self.0.iter().copied().filter(|entry| entry.begin <= end).collect())
    }

    /// This history with one more term.
    pub fn extended(&self, term: Term, begin: Lsn) -> Result<TermHistory, HistoryError> {
        let mut entries = self.0.clone();
        entries.push(TermEntry { term, begin });
        TermHistory::new(entries)
    }

    /// The highest position up to which a log with history `other` (cut to its end) that ends at `other_end` holds the same
    /// bytes as this one, the leader's; `None` if the two share no term, or contradict each other.
    ///
    /// One term has one leader, so equal terms at the front mean equal bytes until either history goes another way.
    pub fn common_point(&self, other: &TermHistory, other_end: Lsn) -> Option<Lsn> {
        let shared = self.0.iter().zip(&other.0).take_while(|(ours, theirs)| ours == theirs).count();
        let last = shared.checked_sub(1)?;
        match (self.0.get(last + 1), other.0.get(last + 1)) {
            (None, None) => Some(other_end),
            (Some(ours), None) => Some(ours.begin.min(other_end)),
            // The other log went on in a term the leader never saw: what it wrote there is not ours, wherever we end.
            (None, Some(theirs)) => Some(theirs.begin.min(other_end)),
            (Some(ours), Some(theirs)) => Some(ours.begin.min(theirs.begin).min(other_end)),
        }
    }
}

impl fmt::Display for TermHistory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, entry) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "," };
            write!(f, "{separator}{}:{}", entry.term, entry.begin)?;
        }
        Ok(())
    }
}

impl FromStr for TermHistory {
    type Err = HistoryError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.is_empty() {
            return Ok(TermHistory::empty());
        }
        let entry = |part: &str| {
            let (term, begin) = part.split_once(':')?;
            Some(TermEntry { term: term.parse().ok()?, begin: begin.parse().ok()? })
        };
        let entries = text.split(',').map(entry).collect::<Option<Vec<_>>>();
        TermHistory::new(entries.ok_or_else(|| HistoryError::Text(text.chars().take(200).collect()))?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn history(pairs: &[(u64, u64)]) -> TermHistory {
        TermHistory::new(pairs.iter().map(|&(term, begin)| TermEntry { term: Term(term), begin: Lsn(begin) }).collect())
            .unwrap()
    }

    #[test]
    fn common_point_vectors() {
        let leader = history(&[(1, 10), (2, 20), (4, 40)]);
        assert_eq!(leader.common_point(&history(&[(1, 10), (2, 20), (3, 30)]), Lsn(40)), Some(Lsn(30)));
        assert_eq!(leader.common_point(&history(&[(1, 10), (2, 20)]), Lsn(32)), Some(Lsn(32)));
        let leader = history(&[(1, 10), (2, 20)]);
        assert_eq!(leader.common_point(&history(&[(1, 10), (2, 20)]), Lsn(32)), Some(Lsn(32)));
        assert_eq!(history(&[(0, 1)]).common_point(&history(&[(1, 1), (2, 2)]), Lsn(3)), None);
    }

    #[test]
    fn same_term_with_another_begin_is_not_shared() {
        assert_eq!(history(&[(1, 10), (2, 20)]).common_point(&history(&[(1, 10), (2, 25)]), Lsn(30)), Some(Lsn(20)));
    }

    #[test]
    fn text_form() {
        let text = "1:0/1000000,3:0/1600000";
        assert_eq!(text.parse::<TermHistory>().unwrap().to_string(), text);
        assert_eq!("".parse::<TermHistory>().unwrap(), TermHistory::empty());
        for bad in [",", "1", "1:0/5,1:0/6", "2:0/5,3:0/4", "1:0/5,", "a:0/5"] {
            assert!(bad.parse::<TermHistory>().is_err(), "{bad}");
        }
    }

    proptest! {
        /// Two logs grow from a common start, one term at a time; the common point never exceeds what they truly share.
        #[test]
        fn common_point_is_where_the_logs_part(shared in 1usize..4, ours in 0usize..3, theirs in 0usize..3, length in 1u64..9) {
            let mut entries = Vec::new();
            for index in 0..shared as u64 {
                entries.push((index + 1, 10 * (index + 1)));
            }
            let fork = 10 * shared as u64 + length;
            let (mut left, mut right) = (entries.clone(), entries);
            for index in 0..ours as u64 { left.push((100 + 2 * index, fork + index)); }
            for index in 0..theirs as u64 { right.push((101 + 2 * index, fork + index)); }
            let end = Lsn(fork + 50);
            let point = history(&left).common_point(&history(&right), end).unwrap();
            if ours == 0 && theirs == 0 {
                prop_assert_eq!(point, end);
            } else {
                prop_assert_eq!(point, Lsn(fork));
            }
        }
    }
}
