//! What of a replica can go. Pure: lists in, lists out.
//!
//! The promise: any moment of the window can be restored. For its oldest moment the newest snapshot *before* the window is needed, and
//! every piece from that snapshot's life on; so these stay, in every generation, however old they are.
//!
//! A generation that was given up gets no more objects. One that does is another database's, or a second replicator's.

use jiff::{SignedDuration, Timestamp};
use replica_client::{Generation, Piece, PieceName, SnapshotInfo};
use std::collections::BTreeMap;

/// What a replica has of one generation.
#[derive(Clone, PartialEq, Debug, Default)]
pub(super) struct Holding {
    /// Its snapshots.
    pub(super) snapshots: Vec<SnapshotInfo>,
    /// Its pieces.
    pub(super) pieces: Vec<Piece>,
}

/// What can go.
#[derive(Clone, PartialEq, Debug, Default)]
pub(super) struct Plan {
    /// Whole generations.
    pub(super) generations: Vec<Generation>,
    /// Snapshots of the others.
    pub(super) snapshots: Vec<SnapshotInfo>,
    /// Pieces of the others.
    pub(super) pieces: Vec<Piece>,
    /// Generations that somebody else has written to since we did: two databases have one place.
    pub(super) foreign: Vec<Generation>,
    /// When more can go, if nothing is added: the moment a snapshot becomes older than the window.
    pub(super) next: Option<Timestamp>,
}

/// Of our own, the end of a generation that was given up may still arrive so long after the beginning of the next.
const LATE: SignedDuration = SignedDuration::from_secs(60);

/// Plans. `window` is the oldest moment that can be restored, `current` the generation that is being written, by us alone since `since`.
/// What somebody else writes to is left alone, and told.
pub(super) fn plan(
    holdings: &BTreeMap<Generation, Holding>,
    window: Timestamp,
    current: Generation,
    since: Option<Timestamp>,
) -> Plan {
    let foreign = |generation: &Generation, holding: &Holding| {
        *generation != current
            && since.is_some_and(|since| holding.newest().is_some_and(|newest| newest > since + LATE))
    };
    let foreign: Vec<Generation> = holdings
        .iter()
        .filter(|(generation, holding)| foreign(generation, holding))
        .map(|(generation, _)| *generation)
        .collect();
    let mut plan = plan_alone(holdings, window, current);
    plan.generations.retain(|generation| !foreign.contains(generation));
    plan.snapshots.retain(|snapshot| !foreign.contains(&snapshot.generation));
    plan.pieces.retain(|piece| !foreign.contains(&piece.generation));
    Plan { foreign, ..plan }
}

impl Holding {
    /// When its newest object was stored.
    fn newest(&self) -> Option<Timestamp> {
        let snapshots = self.snapshots.iter().map(|snapshot| snapshot.created);
        snapshots.chain(self.pieces.iter().map(|piece| piece.created)).max()
    }

    /// When the first piece at or behind this one was stored.
    pub(super) fn stored_since(&self, name: PieceName) -> Option<Timestamp> {
        self.pieces.iter().filter(|piece| piece.name >= name).map(|piece| piece.created).min()
    }
}

fn plan_alone(holdings: &BTreeMap<Generation, Holding>, window: Timestamp, current: Generation) -> Plan {
    let all = || holdings.values().flat_map(|holding| &holding.snapshots);
    // The state at the window's beginning comes from this one.
    let base = all().filter(|snapshot| snapshot.created < window).max_by_key(|snapshot| snapshot.created);
    let needed = |snapshot: &SnapshotInfo| {
        snapshot.created >= window
            || base.is_some_and(|base| (base.generation, base.at) == (snapshot.generation, snapshot.at))
    };
    let mut plan = Plan {
        next: all().map(|snapshot| snapshot.created).filter(|created| *created >= window).min(),
        ..Plan::default()
    };
    if all().count() < 2 {
        plan.next = None;
    }
    for (generation, holding) in holdings {
        let newest = holding.snapshots.iter().max_by_key(|snapshot| snapshot.at);
        // What is being written keeps its newest snapshot, whatever the store's clock says.
        let kept = holding.snapshots.iter().filter(|snapshot| needed(snapshot)).min_by_key(|snapshot| snapshot.at);
        let kept = kept.or(if *generation == current { newest } else { None });
        match kept {
            Some(kept) => {
                plan.snapshots.extend(holding.snapshots.iter().filter(|snapshot| snapshot.at < kept.at));
                plan.pieces.extend(holding.pieces.iter().filter(|piece| piece.name.index < kept.at));
            }
            // Nothing can be restored from it. It may be another replicator's whose first snapshot is under way: then it is young.
            None if *generation != current && holding.pieces.iter().all(|piece| piece.created < window) => {
                plan.generations.push(*generation);
            }
            None => {}
        }
    }
    plan
}

#[cfg(test)]
#[path = "retention_test.rs"]
mod tests;
