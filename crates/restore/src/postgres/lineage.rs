//! The way from an archive's root to one TLI: which generation holds which part of the WAL.
//!
//! An archive is a tree: every generation is one TLI of one lineage, and names the generation it left and where. A restore follows one
//! [`Lineage`] from the root to a tip and never mixes in WAL of another branch: two promotions can have taken the same TLI number, so
//! what decides is the generation, not the number.
//!
//! Pure. Invariants: TLIs strictly increase, begins never decrease, every step but the last ends where the next begins.

use lsn::{Lsn, SegmentNumber, SegmentSize, Tli};
use replica_client::{Generation, Parent};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use wal_format::history::{History, HistoryEntry};

/// One generation on the way.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Step {
    /// The generation.
    pub generation: Generation,
    /// First position on it; 0 for the root.
    #[serde(with = "crate::postgres::text")]
    pub begin: Lsn,
    /// Where the next generation begins; the highest position there is for the last.
    #[serde(with = "crate::postgres::text")]
    pub end: Lsn,
}

impl Step {
    /// The TLI of the generation.
    pub fn tli(&self) -> Tli {
        self.generation.tli()
    }
}

/// The generations from the root to a tip; never empty.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(try_from = "Vec<Step>", into = "Vec<Step>")]
pub struct Lineage(Vec<Step>);

/// Why there is no way to follow.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LineageError {
    /// Nothing was archived.
    #[error("the archive holds no generation")]
    Empty,
    /// The chosen generation is not there.
    #[error("the archive holds no generation {wanted}; it has {}", shown(known))]
    Unknown {
        /// The one that was asked for.
        wanted: Generation,
        /// Those there are.
        known: Vec<Generation>,
    },
    /// Two branches took the same TLI number.
    #[error("the archive holds several generations of TLI {tli} ({}): choose one with --generation", shown(candidates))]
    Ambiguous {
        /// The highest TLI.
        tli: Tli,
        /// Its generations.
        candidates: Vec<Generation>,
    },
    /// A generation other than the first does not say where it came from.
    #[error("the archive does not say which generation {0} left (generations/{0}/parent.json is missing)")]
    NoParent(Generation),
    /// A parent that is not in the archive.
    #[error("generation {generation} left generation {parent}, which the archive does not hold")]
    ParentMissing {
        /// The child.
        generation: Generation,
        /// Its parent.
        parent: Generation,
    },
    /// Parents that cannot be.
    #[error("the parent links of generation {0} contradict each other: TLIs and switch points must rise from the root")]
    Order(Generation),
}

fn shown(generations: &[Generation]) -> String {
    let shown: Vec<String> = generations.iter().take(20).map(ToString::to_string).collect();
    shown.join(", ")
}

impl Lineage {
    /// Follows the parent links from `wanted`, or from the generation with the highest TLI, to the root.
    pub fn choose(
        tree: &BTreeMap<Generation, Option<Parent>>,
        wanted: Option<Generation>,
    ) -> Result<Lineage, LineageError> {
        let tip = match wanted {
            Some(wanted) if tree.contains_key(&wanted) => wanted,
            Some(wanted) => return Err(LineageError::Unknown { wanted, known: tree.keys().copied().collect() }),
            None => newest(tree)?,
        };
        let (mut steps, mut generation, mut end) = (Vec::new(), tip, Lsn::MAX);
        loop {
            let parent = tree.get(&generation).copied().flatten();
            match parent {
                Some(Parent::Of { generation: parent, switch }) => {
                    steps.push(Step { generation, begin: switch, end });
                    if !tree.contains_key(&parent) {
                        return Err(LineageError::ParentMissing { generation, parent });
                    }
                    // TLIs fall on the way to the root, so that links in a circle end here.
                    if parent.tli() >= generation.tli() {
                        return Err(LineageError::Order(generation));
                    }
                    (generation, end) = (parent, switch);
                }
                // The first TLI of an archive has mark 0: nothing stands before it.
                None if generation.mark() != 0 => return Err(LineageError::NoParent(generation)),
                Some(Parent::Root) | None => {
                    steps.push(Step { generation, begin: Lsn::INVALID, end });
                    break;
                }
            }
        }
        steps.reverse();
        Lineage::try_from(steps)
    }

    /// The lineage of a quorum's log.
    pub fn of_path(path: &lsn::Path) -> Lineage {
        let entries = path.entries();
        let ends = entries.iter().skip(1).map(|next| next.begin).chain([Lsn::MAX]);
        let step = |(entry, end): (&lsn::PathEntry, Lsn)| Step {
            generation: Generation::of_tli(entry.mark, entry.tli),
            begin: entry.begin,
            end,
        };
        Lineage(entries.iter().zip(ends).map(step).collect())
    }

    /// The steps, root first.
    pub fn steps(&self) -> &[Step] {
        &self.0
    }

    /// The last step.
    pub fn tip(&self) -> Step {
        self.0[self.0.len() - 1]
    }

    /// The step of a generation, if it is on the way.
    pub fn step(&self, generation: Generation) -> Option<Step> {
        self.0.iter().find(|step| step.generation == generation).copied()
    }

    /// The step of a TLI, if it is on the way.
    pub fn step_of_tli(&self, tli: Tli) -> Option<Step> {
        self.0.iter().find(|step| step.tli() == tli).copied()
    }

    /// The step whose file holds segment `number` for a log that ends at `end`: the newest that begins below the segment's end, because the first
    /// segment of a TLI is whole. `None` for a segment that begins at or above `end`.
    pub fn step_of_segment(&self, size: SegmentSize, number: SegmentNumber, end: Lsn) -> Option<Step> {
        let (start, limit) = (size.start_of(number), size.start_of(number.next()).min(end));
        if start >= end {
            return None;
        }
        // A step of no length (left where it began) is passed over: the file of the one after it has the same bytes.
        self.0.iter().rev().find(|step| step.begin < limit).copied().or_else(|| self.0.first().copied())
    }

    /// The same up to and including the step that holds the byte before `end`.
    pub fn cut(&self, end: Lsn) -> Lineage {
        let kept = self.0.iter().skip(1).take_while(|step| step.begin < end).count() + 1;
        let mut steps = self.0[..kept].to_vec();
        if let Some(last) = steps.last_mut() {
            last.end = Lsn::MAX;
        }
        Lineage(steps)
    }

    /// The content of a TLI's history file; `None` for the root, which has none, and for a TLI that is not on the way.
    pub fn history(&self, tli: Tli) -> Option<History> {
        let place = self.0.iter().position(|step| step.tli() == tli)?;
        let entry =
            |step: &Step| HistoryEntry { tli: step.tli(), switch: step.end, reason: "archived lineage".to_owned() };
        let entries: Vec<_> = self.0[..place].iter().map(entry).collect();
        if entries.is_empty() { None } else { History::new(tli, entries).ok() }
    }

    /// Whether a history file says the same as the lineage: the same ancestors, left at the same points. Ancestors older than the root
    /// may be named: an archive can begin on any TLI.
    pub fn agrees_with(&self, history: &History) -> bool {
        let Some(place) = self.0.iter().position(|step| step.tli() == history.tli()) else { return false };
        let ours = self.0[..place].iter().map(|step| (step.tli(), step.end));
        let theirs = history.entries().iter().filter(|entry| entry.tli >= self.0[0].tli()).map(|e| (e.tli, e.switch));
        ours.eq(theirs)
    }
}

impl TryFrom<Vec<Step>> for Lineage {
    type Error = LineageError;

    fn try_from(steps: Vec<Step>) -> Result<Lineage, LineageError> {
        if steps.is_empty() {
            return Err(LineageError::Empty);
        }
        for (earlier, later) in steps.iter().zip(&steps[1..]) {
            if later.tli() <= earlier.tli() || later.begin < earlier.begin || earlier.end != later.begin {
                return Err(LineageError::Order(later.generation));
            }
        }
        Ok(Lineage(steps))
    }
}

impl From<Lineage> for Vec<Step> {
    fn from(lineage: Lineage) -> Vec<Step> {
        lineage.0
    }
}

fn newest(tree: &BTreeMap<Generation, Option<Parent>>) -> Result<Generation, LineageError> {
    let tli = tree.keys().map(|generation| generation.tli()).max().ok_or(LineageError::Empty)?;
    let candidates: Vec<Generation> = tree.keys().copied().filter(|generation| generation.tli() == tli).collect();
    match candidates[..] {
        [only] => Ok(only),
        _ => Err(LineageError::Ambiguous { tli, candidates }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn generation(mark: u32, tli: u32) -> Generation {
        Generation::of_tli(mark, Tli(tli))
    }

    fn tree(entries: &[(u32, u32, Option<Parent>)]) -> BTreeMap<Generation, Option<Parent>> {
        entries.iter().map(|(mark, tli, parent)| (generation(*mark, *tli), *parent)).collect()
    }

    fn of(parent: Generation, switch: u64) -> Option<Parent> {
        Some(Parent::Of { generation: parent, switch: Lsn(switch) })
    }

    const ROOT: Option<Parent> = Some(Parent::Root);

    #[test]
    fn the_highest_tli_is_followed_to_the_root() {
        let (one, two) = (generation(0, 1), generation(7, 2));
        let tree = tree(&[(0, 1, ROOT), (7, 2, of(one, 0x300)), (9, 3, of(one, 0x200)), (8, 4, of(two, 0x500))]);
        let lineage = Lineage::choose(&tree, None).unwrap();
        let shown: Vec<_> = lineage.steps().iter().map(|step| (step.tli().0, step.begin.0, step.end.0)).collect();
        assert_eq!(shown, [(1, 0, 0x300), (2, 0x300, 0x500), (4, 0x500, u64::MAX)]);
        let branch = Lineage::choose(&tree, Some(generation(9, 3))).unwrap();
        assert_eq!((branch.steps().len(), branch.tip().begin), (2, Lsn(0x200)));
        assert_eq!(lineage.cut(Lsn(0x500)).tip().tli(), Tli(2));
        assert_eq!(lineage.cut(Lsn(0x501)), lineage);
        assert_eq!(lineage.cut(Lsn(1)).tip(), Step { generation: one, begin: Lsn(0), end: Lsn::MAX });
    }

    #[test]
    fn two_branches_of_one_number_need_a_choice() {
        let one = generation(0, 1);
        let tree = tree(&[(0, 1, ROOT), (7, 2, of(one, 0x300)), (8, 2, of(one, 0x400))]);
        let error = Lineage::choose(&tree, None).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the archive holds several generations of TLI 2 (0000000700000002, 0000000800000002): choose one with --generation"
        );
        assert_eq!(Lineage::choose(&tree, Some(generation(8, 2))).unwrap().tip().begin, Lsn(0x400));
        assert!(matches!(Lineage::choose(&tree, Some(generation(9, 2))), Err(LineageError::Unknown { .. })));
    }

    #[test]
    fn links_that_lead_nowhere_are_named() {
        let one = generation(0, 1);
        assert_eq!(Lineage::choose(&tree(&[]), None), Err(LineageError::Empty));
        assert_eq!(
            Lineage::choose(&tree(&[(0, 1, ROOT), (7, 2, None)]), None),
            Err(LineageError::NoParent(generation(7, 2)))
        );
        assert_eq!(Lineage::choose(&tree(&[(0, 1, None)]), None).unwrap().steps().len(), 1);
        let missing = tree(&[(7, 2, of(one, 0x300))]);
        assert!(matches!(Lineage::choose(&missing, None), Err(LineageError::ParentMissing { .. })));
        // A circle, and a switch point below the parent's own begin.
        let circle = tree(&[(7, 2, of(generation(8, 3), 1)), (8, 3, of(generation(7, 2), 1))]);
        assert!(matches!(Lineage::choose(&circle, None), Err(LineageError::Order(_))));
        let below = tree(&[(0, 1, ROOT), (7, 2, of(one, 0x300)), (8, 3, of(generation(7, 2), 0x200))]);
        assert!(matches!(Lineage::choose(&below, None), Err(LineageError::Order(_))));
    }

    #[test]
    fn the_first_segment_of_a_tli_is_its_own() {
        let size = SegmentSize::new(1 << 20).unwrap();
        let lineage = Lineage::of_path(&"1:0/0:0;2:0/180000:A;3:0/300000:B".parse().unwrap());
        let tli = |number, end| lineage.step_of_segment(size, SegmentNumber(number), Lsn(end)).map(|step| step.tli().0);
        assert_eq!(tli(0, u64::MAX), Some(1));
        assert_eq!(tli(1, u64::MAX), Some(2));
        assert_eq!(tli(2, u64::MAX), Some(2));
        assert_eq!(tli(3, u64::MAX), Some(3));
        // A log that ends before the switch never was on the newer TLI.
        assert_eq!(tli(1, 0x17_FFF8), Some(1));
        assert_eq!(tli(3, 0x30_0000), None);
    }

    #[test]
    fn history_files_say_what_the_lineage_says() {
        let lineage = Lineage::of_path(&"4:0/0:0;5:0/180000:A;7:0/300000:B".parse().unwrap());
        assert!(lineage.history(Tli(4)).is_none() && lineage.history(Tli(6)).is_none());
        let history = lineage.history(Tli(7)).unwrap();
        assert_eq!(history.to_string(), "4\t0/180000\tarchived lineage\n\n5\t0/300000\tarchived lineage\n");
        assert!(lineage.agrees_with(&history));
        let parse = |text: &str| History::parse(Tli(7), text.as_bytes()).unwrap();
        assert!(lineage.agrees_with(&parse("1\t0/10\tolder than the archive\n4\t0/180000\tx\n5\t0/300000\t\n")));
        for other in [
            "",
            "4\t0/180000\n",
            "4\t0/180000\n5\t0/300008\n",
            "5\t0/300000\n",
            "4\t0/180000\n5\t0/300000\n6\t0/300000\n",
        ] {
            assert!(!lineage.agrees_with(&parse(other)), "{other:?}");
        }
    }

    proptest! {
        /// A lineage and a path give every byte the same TLI, and survive being written down.
        #[test]
        fn bytes_lie_where_the_path_says(begins in prop::collection::vec(1u64..1 << 23, 0..5), at in 0u64..1 << 23) {
            let mut begins = begins;
            begins.sort_unstable();
            let mut entries = vec![lsn::PathEntry { tli: Tli(1), begin: Lsn(0), mark: 0 }];
            entries.extend(begins.iter().zip(2..).map(|(begin, tli)| lsn::PathEntry { tli: Tli(tli), begin: Lsn(*begin), mark: tli }));
            let path = lsn::Path::new(entries).unwrap();
            let lineage = Lineage::of_path(&path);
            let size = SegmentSize::new(1 << 20).unwrap();
            let cut = lineage.cut(Lsn(at + 1));
            prop_assert_eq!(cut.tip().tli(), path.tli_at(Lsn(at)));
            let step = lineage.step_of_segment(size, size.segment_of(Lsn(at)), Lsn(at + 1)).unwrap();
            prop_assert_eq!(step.tli(), path.tli_at(Lsn(at)));
            let json = serde_json::to_string(&lineage).unwrap();
            prop_assert_eq!(serde_json::from_str::<Lineage>(&json).unwrap(), lineage);
        }
    }
}
