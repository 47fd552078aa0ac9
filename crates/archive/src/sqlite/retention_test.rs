//! Retention: every moment of the window stays restorable, and nothing older is kept for long.

use super::*;
use proptest::prelude::*;
use replica_client::PieceName;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn snapshot(generation: u64, index: u64, second: i64) -> SnapshotInfo {
    SnapshotInfo { generation: Generation(generation), at: index, stored: 1, created: at(second) }
}

fn piece(generation: u64, index: u64, second: i64) -> Piece {
    Piece { generation: Generation(generation), name: PieceName::sqlite(index, 0), stored: 1, created: at(second) }
}

/// Generations one after another, each `(snapshots, pieces)` by index; the clock goes up by one with every object.
fn history(shape: &[Vec<bool>]) -> (BTreeMap<Generation, Holding>, i64) {
    let (mut holdings, mut clock) = (BTreeMap::new(), 0);
    for (generation, lives) in shape.iter().enumerate() {
        let mut holding = Holding::default();
        for (index, with_snapshot) in lives.iter().enumerate() {
            if *with_snapshot || index == 0 {
                clock += 1;
                holding.snapshots.push(snapshot(generation as u64, index as u64, clock));
            }
            clock += 1;
            holding.pieces.push(piece(generation as u64, index as u64, clock));
        }
        holdings.insert(Generation(generation as u64), holding);
    }
    (holdings, clock)
}

/// The snapshot and the pieces a restore to this moment takes.
fn restore(holdings: &BTreeMap<Generation, Holding>, moment: Timestamp) -> Option<(SnapshotInfo, Vec<Piece>)> {
    let snapshots = holdings.values().flat_map(|holding| &holding.snapshots);
    let base = snapshots.filter(|snapshot| snapshot.created <= moment).max_by_key(|snapshot| snapshot.created)?;
    let pieces = holdings[&base.generation].pieces.iter();
    let pieces = pieces.filter(|piece| piece.name.index >= base.at && piece.created <= moment).cloned().collect();
    Some((*base, pieces))
}

fn without(holdings: &BTreeMap<Generation, Holding>, plan: &Plan) -> BTreeMap<Generation, Holding> {
    let mut left = holdings.clone();
    left.retain(|generation, _| !plan.generations.contains(generation));
    for holding in left.values_mut() {
        holding.snapshots.retain(|snapshot| !plan.snapshots.contains(snapshot));
        holding.pieces.retain(|piece| !plan.pieces.contains(piece));
    }
    left
}

proptest! {
    #[test]
    fn the_window_stays_restorable(shape in prop::collection::vec(prop::collection::vec(any::<bool>(), 1..6), 1..5), back in 0i64..40) {
        let (holdings, now) = history(&shape);
        let current = Generation(shape.len() as u64 - 1);
        let window = now - back;
        let plan = plan(&holdings, at(window), current, None);
        let left = without(&holdings, &plan);
        for moment in window..=now {
            prop_assert_eq!(restore(&left, at(moment)), restore(&holdings, at(moment)), "moment {}", moment);
        }
        // Of what is older there is one snapshot at most, but for the generation being written.
        let old = left.iter().filter(|(generation, _)| **generation != current);
        let old = old.flat_map(|(_, holding)| &holding.snapshots).filter(|snapshot| snapshot.created < at(window));
        prop_assert!(old.count() <= 1);
        // Doing it again finds nothing.
        let again = super::plan(&left, at(window), current, None);
        prop_assert!(again.generations.is_empty() && again.snapshots.is_empty() && again.pieces.is_empty());
    }
}

#[test]
fn the_only_snapshot_stays_however_old() {
    let (holdings, _) = history(&[vec![true, false, false]]);
    let plan = plan(&holdings, at(1000), Generation(0), None);
    assert_eq!(plan, Plan::default());
}

#[test]
fn a_generation_that_only_begins_is_left_alone() {
    let mut holdings = history(&[vec![true]]).0;
    let pieces = vec![piece(7, 0, 50)];
    holdings.insert(Generation(7), Holding { snapshots: vec![], pieces });
    assert_eq!(plan(&holdings, at(40), Generation(0), None).generations, []);
    assert_eq!(plan(&holdings, at(60), Generation(0), None).generations, [Generation(7)]);
}

#[test]
fn what_somebody_else_writes_to_is_told_and_left_alone() {
    let mut holdings = BTreeMap::new();
    let ours = Holding { snapshots: vec![snapshot(1, 0, 500)], pieces: vec![piece(1, 0, 501), piece(1, 1, 700)] };
    holdings.insert(Generation(1), ours);
    // Given up long ago, given up by us just now, and another database's, which has long been idle but for one piece.
    for (generation, last) in [(2, 100), (3, 520), (4, 590)] {
        let pieces = vec![piece(generation, 0, 20), piece(generation, 1, last)];
        holdings.insert(Generation(generation), Holding { snapshots: vec![snapshot(generation, 0, 10)], pieces });
    }
    let since = holdings[&Generation(1)].stored_since(PieceName::sqlite(0, 0));
    assert_eq!(since, Some(at(501)));
    let plan = plan(&holdings, at(600), Generation(1), since);
    assert_eq!(plan.foreign, [Generation(4)]);
    assert_eq!(plan.generations, [Generation(2), Generation(3)]);
    assert_eq!(super::plan(&holdings, at(600), Generation(1), None).generations.len(), 3);
}
