//! [`Path`]: the lineage of TLIs a log lies on.
//!
//! Invariants: a path has at least one entry; begins never decrease; every entry after the root has a higher TLI than the
//! one before it. TLI numbers and history files of two promotions can be identical, so an entry also carries a mark: the
//! CRC field of the first record on that TLI (0 for the root).
//!
//! The text form is that of the `tli_path` option: `1:0/0:0;2:0/3063B90:8A0C44F1`, no comma and no space.

use crate::{Lsn, Tli};
use std::fmt;
use std::str::FromStr;

/// One TLI of a path.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct PathEntry {
    /// The TLI.
    pub tli: Tli,
    /// First byte on this TLI; for the root `0/0`.
    pub begin: Lsn,
    /// CRC field of the first record on this TLI; 0 for the root.
    pub mark: u32,
}

/// A lineage of TLIs, root first.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Path(Vec<PathEntry>);

/// Entries or text that do not make a path.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// There is no entry at all.
    #[error("a path needs at least one TLI")]
    Empty,
    /// TLI 0, or a TLI that is not above the one before it.
    #[error("TLI {0} does not follow the TLI before it")]
    Order(Tli),
    /// A begin below the one before it.
    #[error("TLI {0} begins below the TLI before it")]
    Begin(Tli),
    /// Text that is not `TLI:LSN:MARK[;…]`.
    #[error(
        "{0:?} is not a path: expected TLI:LSN:MARK entries joined by semicolons, like 1:0/0:0;2:0/3063B90:8A0C44F1"
    )]
    Text(String),
}

impl Path {
    /// The path of a log that has only ever been on one TLI.
    pub fn root(tli: Tli) -> Path {
        Path(vec![PathEntry { tli, begin: Lsn::INVALID, mark: 0 }])
    }

    /// Checks entries, root first.
    pub fn new(entries: Vec<PathEntry>) -> Result<Path, PathError> {
        let Some(root) = entries.first() else { return Err(PathError::Empty) };
        if root.tli == Tli(0) {
            return Err(PathError::Order(root.tli));
        }
        for (earlier, later) in entries.iter().zip(entries.iter().skip(1)) {
            if later.tli <= earlier.tli {
                return Err(PathError::Order(later.tli));
            }
            if later.begin < earlier.begin {
                return Err(PathError::Begin(later.tli));
            }
        }
        Ok(Path(entries))
    }

    /// The entries, root first; never empty.
    pub fn entries(&self) -> &[PathEntry] {
        &self.0
    }

    /// The newest TLI.
    pub fn last(&self) -> PathEntry {
        self.0[self.0.len() - 1]
    }

    /// The TLI on which the byte at `position` lies.
    pub fn tli_at(&self, position: Lsn) -> Tli {
        self.0.iter().rev().find(|entry| entry.begin <= position).unwrap_or(&self.0[0]).tli
    }

    /// How far two paths agree: the smaller begin at their first different entry; [`Lsn::MAX`] if one is a prefix of the
    /// other's entries and nothing differs. Different roots agree nowhere: [`Lsn::INVALID`].
    pub fn agree(&self, other: &Path) -> Lsn {
        for index in 0..self.0.len().max(other.0.len()) {
            match (self.0.get(index), other.0.get(index)) {
                (Some(a), Some(b)) if a == b => {}
                (Some(a), Some(b)) => return if index == 0 { Lsn::INVALID } else { a.begin.min(b.begin) },
                (Some(only), None) | (None, Some(only)) => return only.begin,
                (None, None) => {}
            }
        }
        Lsn::MAX
    }

    /// Whether a log on this path that ends at `end` holds, as far as lineage can tell, everything of a log on `other`
    /// that ends at `other_end`. Bytes are compared elsewhere.
    pub fn contains(&self, end: Lsn, other: &Path, other_end: Lsn) -> bool {
        self.agree(&other.cut(other_end)) >= other_end && end >= other_end
    }

    /// The path of the same log cut to `end`: TLIs that begin at or after `end` are gone, the root stays.
    pub fn cut(&self, end: Lsn) -> Path {
        Path(
            self.0
                .iter()
                .enumerate()
                .filter(|(index, entry)| *index == 0 || entry.begin < end)
                .map(|(_, e)| *e)
                .collect(),
        )
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, entry) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { ";" };
            write!(f, "{separator}{}:{}:{:X}", entry.tli, entry.begin, entry.mark)?;
        }
        Ok(())
    }
}

impl FromStr for Path {
    type Err = PathError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || PathError::Text(text.chars().take(200).collect());
        let entry = |part: &str| {
            let mut fields = part.split(':');
            let (tli, begin, mark) = (fields.next()?, fields.next()?, fields.next()?);
            let plausible = (1..=8).contains(&mark.len()) && mark.bytes().all(|b| b.is_ascii_hexdigit());
            if fields.next().is_some() || !plausible {
                return None;
            }
            Some(PathEntry {
                tli: tli.parse().ok()?,
                begin: begin.parse().ok()?,
                mark: u32::from_str_radix(mark, 16).ok()?,
            })
        };
        let entries = text.split(';').map(entry).collect::<Option<Vec<_>>>().ok_or_else(error)?;
        Path::new(entries)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn path(text: &str) -> Path {
        text.parse().unwrap()
    }

    #[test]
    fn text_form_of_the_option() {
        let text = "1:0/0:0;2:0/3063B90:8A0C44F1";
        assert_eq!(path(text).to_string(), text);
        for bad in [
            "",
            "1",
            "1:0/0",
            "1:0/0:0;",
            "1:0/0:0,2:0/1:0",
            "0:0/0:0",
            "2:0/0:0;1:0/5:1",
            "1:0/5:0;2:0/4:1",
            "1:0/0:0:0",
        ] {
            assert!(bad.parse::<Path>().is_err(), "{bad}");
        }
    }

    #[test]
    fn agreement_ends_where_the_first_difference_begins() {
        let a = path("1:0/0:0;2:0/100:A");
        assert_eq!(a.agree(&a), Lsn::MAX);
        assert_eq!(a.agree(&path("1:0/0:0")), Lsn(0x100));
        assert_eq!(a.agree(&path("1:0/0:0;2:0/100:B")), Lsn(0x100));
        assert_eq!(a.agree(&path("1:0/0:0;3:0/80:A")), Lsn(0x80));
        assert_eq!(a.agree(&path("5:0/0:0")), Lsn::INVALID);
    }

    #[test]
    fn same_number_and_place_but_another_mark_is_another_lineage() {
        let primary = path("1:0/0:0;2:0/100:A");
        assert!(primary.contains(Lsn(0x200), &path("1:0/0:0;2:0/100:A"), Lsn(0x150)));
        assert!(!primary.contains(Lsn(0x200), &path("1:0/0:0;2:0/100:B"), Lsn(0x150)));
        // Cut to its end the other log has nothing of the differing TLI.
        assert!(primary.contains(Lsn(0x200), &path("1:0/0:0;2:0/100:B"), Lsn(0x100)));
        assert!(!primary.contains(Lsn(0x140), &path("1:0/0:0;2:0/100:A"), Lsn(0x150)));
        // A log that went on upon the parent beyond the switch point is not contained.
        assert!(!primary.contains(Lsn(0x200), &path("1:0/0:0"), Lsn(0x101)));
        assert!(primary.contains(Lsn(0x200), &path("1:0/0:0"), Lsn(0x100)));
    }

    #[test]
    fn bytes_lie_on_the_tli_that_began_last() {
        let a = path("1:0/0:0;2:0/100:A");
        assert_eq!(a.tli_at(Lsn(0xFF)), Tli(1));
        assert_eq!(a.tli_at(Lsn(0x100)), Tli(2));
    }

    fn any_path() -> impl Strategy<Value = Path> {
        proptest::collection::vec((1u32..3, 0u64..40, 0u32..2), 0..4).prop_map(|steps| {
            let mut entries = vec![PathEntry { tli: Tli(1), begin: Lsn(0), mark: 0 }];
            for (tli, begin, mark) in steps {
                let last = entries[entries.len() - 1];
                entries.push(PathEntry { tli: Tli(last.tli.0 + tli), begin: Lsn(last.begin.0 + begin), mark });
            }
            Path::new(entries).unwrap()
        })
    }

    proptest! {
        #[test]
        fn agreement_is_symmetric(a in any_path(), b in any_path()) {
            prop_assert_eq!(a.agree(&b), b.agree(&a));
        }

        #[test]
        fn a_log_contains_its_own_prefixes(a in any_path(), end in 0u64..200, cut in 0u64..200) {
            let (end, cut) = (Lsn(end.max(cut)), Lsn(cut));
            prop_assert!(a.contains(end, &a.cut(cut), cut));
        }

        #[test]
        fn containment_means_the_same_tli_at_every_byte(a in any_path(), b in any_path(), end in 1u64..200) {
            let end = Lsn(end);
            if a.contains(end, &b, end) {
                for position in 0..end.0 {
                    prop_assert_eq!(a.tli_at(Lsn(position)), b.tli_at(Lsn(position)));
                }
            }
        }

        #[test]
        fn cutting_twice_is_cutting_to_the_lower(a in any_path(), x in 0u64..200, y in 0u64..200) {
            prop_assert_eq!(a.cut(Lsn(x)).cut(Lsn(y)), a.cut(Lsn(x.min(y))));
        }

        #[test]
        fn parsing_never_panics(text in "[0-9A-F:;/x]{0,40}") {
            let _ = text.parse::<Path>();
        }
    }
}
