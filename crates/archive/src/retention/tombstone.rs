//! [`Tombstone`]: what a run of retention found superfluous, and when. Deleted is only what one a day old names.

use super::plan::Plan;
use jiff::Timestamp;
use lsn::Lsn;
use replica_client::{Generation, PieceName};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// How long a tombstone stands before what it names is deleted.
pub const GRACE: Duration = Duration::from_secs(24 * 3600);
/// The version that is written, and the only one that is believed.
const VERSION: u32 = 1;

/// What is to be deleted later.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Tombstone {
    version: u32,
    /// When it was made.
    pub made: Timestamp,
    /// Snapshots, finished or not: generation, then beginnings.
    snapshots: BTreeMap<String, BTreeSet<u64>>,
    /// WAL: generation, then runs of segments, first and last.
    wal: BTreeMap<String, Vec<(u64, u64)>>,
    /// Whole generations.
    generations: BTreeSet<String>,
}

impl Tombstone {
    /// Names what a plan found superfluous.
    pub fn of(plan: &Plan, made: Timestamp) -> Tombstone {
        let mut snapshots: BTreeMap<String, BTreeSet<u64>> = BTreeMap::new();
        for (generation, begin) in plan.snapshots.iter().chain(&plan.unfinished) {
            snapshots.entry(generation.to_string()).or_default().insert(begin.0);
        }
        let wal = plan.pieces.iter().map(|(generation, pieces)| (generation.to_string(), runs(pieces))).collect();
        let generations = plan.generations.iter().map(Generation::to_string).collect();
        Tombstone { version: VERSION, made, snapshots, wal, generations }
    }

    /// Reads one; `None` if it is something else, which names nothing.
    pub fn from_json(bytes: &[u8]) -> Option<Tombstone> {
        serde_json::from_slice(bytes).ok().filter(|tombstone: &Tombstone| tombstone.version == VERSION)
    }

    /// Its bytes.
    pub fn to_json(&self) -> Vec<u8> {
        // Numbers, strings and lists of them: nothing that serialisation could refuse.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Whether it has stood long enough. One from the future has not.
    pub fn is_due(&self, now: Timestamp) -> bool {
        self.made.checked_add(GRACE).is_ok_and(|due| due <= now)
    }

    fn names_snapshot(&self, generation: Generation, begin: Lsn) -> bool {
        let text = generation.to_string();
        self.generations.contains(&text) || self.snapshots.get(&text).is_some_and(|begins| begins.contains(&begin.0))
    }

    fn names_piece(&self, generation: Generation, piece: &PieceName) -> bool {
        let text = generation.to_string();
        let runs = self.wal.get(&text).map(Vec::as_slice).unwrap_or_default();
        self.generations.contains(&text) || runs.iter().any(|(first, last)| (*first..=*last).contains(&piece.index))
    }

    /// The part of a plan that this one named too.
    pub(super) fn cut(&self, plan: &Plan) -> Plan {
        let named = |(generation, begin): &&(Generation, Lsn)| self.names_snapshot(*generation, *begin);
        let pieces = plan.pieces.iter().filter_map(|(generation, pieces)| {
            let pieces: Vec<PieceName> =
                pieces.iter().filter(|piece| self.names_piece(*generation, piece)).copied().collect();
            (!pieces.is_empty()).then_some((*generation, pieces))
        });
        Plan {
            snapshots: plan.snapshots.iter().filter(named).copied().collect(),
            unfinished: plan.unfinished.iter().filter(named).copied().collect(),
            pieces: pieces.collect(),
            generations: plan
                .generations
                .iter()
                .filter(|generation| self.generations.contains(&generation.to_string()))
                .copied()
                .collect(),
            notes: Vec::new(),
        }
    }
}

/// Segments as runs; the pieces come in order.
fn runs(pieces: &[PieceName]) -> Vec<(u64, u64)> {
    let mut runs: Vec<(u64, u64)> = Vec::new();
    for index in pieces.iter().map(|piece| piece.index) {
        match runs.last_mut() {
            Some((_, last)) if index == *last || last.checked_add(1) == Some(index) => *last = index,
            _ => runs.push((index, index)),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan() -> Plan {
        let generation = Generation(1);
        let pieces = [3, 4, 4, 5, 9].map(|index| PieceName::of_segment(index, 0..10)).to_vec();
        Plan {
            snapshots: [(generation, Lsn(5))].into(),
            unfinished: [(generation, Lsn(7))].into(),
            pieces: [(generation, pieces)].into(),
            generations: [Generation(2)].into(),
            notes: vec![],
        }
    }

    #[test]
    fn names_what_the_plan_named_and_only_that() {
        let made: Timestamp = "2024-05-01T10:00:00Z".parse().unwrap();
        let tombstone = Tombstone::of(&plan(), made);
        assert_eq!(Tombstone::from_json(&tombstone.to_json()).unwrap(), tombstone);
        assert_eq!(tombstone.cut(&plan()), plan());
        let mut more = plan();
        more.snapshots.insert((Generation(1), Lsn(6)));
        more.pieces.get_mut(&Generation(1)).unwrap().push(PieceName::of_segment(6, 0..10));
        more.generations.insert(Generation(3));
        assert_eq!(tombstone.cut(&more), plan());
        assert!(tombstone.cut(&Plan::default()).is_empty());
        assert!(Tombstone::from_json(b"{}").is_none());
    }

    #[test]
    fn a_day_must_have_passed() {
        let made: Timestamp = "2024-05-01T10:00:00Z".parse().unwrap();
        let tombstone = Tombstone::of(&plan(), made);
        assert!(!tombstone.is_due("2024-05-02T09:59:59Z".parse().unwrap()));
        assert!(tombstone.is_due("2024-05-02T10:00:00Z".parse().unwrap()));
        assert!(!tombstone.is_due("2024-04-01T10:00:00Z".parse().unwrap()), "made in the future");
    }
}
