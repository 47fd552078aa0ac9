//! The plan: what may go, decided over the whole tree of TLIs.
//!
//! A *tip* is the end of a branch. It is kept if its branch was written to within the window; the branch written last and the one of the
//! highest TLI are kept always: so every moment of the window lies on the way to a kept tip. For each kept tip the *base* is the newest
//! sound snapshot on its way that
//! was complete before the window began; the base, every snapshot on the way completed within the window, and every segment on the way
//! from the base's beginning to the tip stay. Without a base, all snapshots and all WAL of the way stay. Everything else may go.
//!
//! Pure. Times compared here come from servers (a snapshot's end) and stores (a piece's storing), so the window is made longer by
//! [`CLOCK_SLACK`] to cover what their clocks differ.

use super::inventory::{Branch, Inventory, KeptSnapshot};
use backup_format::Hold;
use jiff::Timestamp;
use lsn::{Lsn, SegmentNumber};
use replica_client::{Generation, PieceName};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// How much clocks may differ before a moment of the window is lost.
pub const CLOCK_SLACK: Duration = Duration::from_secs(3600);

/// What is promised.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Policy {
    /// Any moment of the last `window` can be restored.
    pub window: Duration,
    /// The present.
    pub now: Timestamp,
}

impl Policy {
    /// The earliest moment that must be restorable, with the slack.
    pub fn window_begin(&self) -> Timestamp {
        let length = self.window.saturating_add(CLOCK_SLACK);
        self.now.checked_sub(length).unwrap_or(Timestamp::MIN)
    }
}

/// What may go.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Plan {
    /// Snapshots.
    pub snapshots: BTreeSet<(Generation, Lsn)>,
    /// Folders of snapshots that were never finished. Those under way have a hold.
    pub unfinished: BTreeSet<(Generation, Lsn)>,
    /// Pieces of WAL.
    pub pieces: BTreeMap<Generation, Vec<PieceName>>,
    /// Whole generations; nothing of them is listed above.
    pub generations: BTreeSet<Generation>,
    /// Why less goes than could, for people.
    pub notes: Vec<String>,
}

/// One thing that may go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Doomed {
    /// A snapshot, finished or not.
    Snapshot(Generation, Lsn),
    /// A segment's pieces.
    Segment(Generation, u64),
    /// Everything of a generation.
    Generation(Generation),
}

impl Plan {
    /// Whether nothing may go.
    pub fn is_empty(&self) -> bool {
        self.snapshots.is_empty() && self.unfinished.is_empty() && self.pieces.is_empty() && self.generations.is_empty()
    }

    /// Everything that may go, one by one.
    pub fn doomed(&self) -> impl Iterator<Item = Doomed> {
        let snapshots = self.snapshots.iter().chain(&self.unfinished);
        let snapshots = snapshots.map(|(generation, begin)| Doomed::Snapshot(*generation, *begin));
        let segments = self
            .pieces
            .iter()
            .flat_map(|(generation, pieces)| pieces.iter().map(|piece| Doomed::Segment(*generation, piece.index)));
        snapshots.chain(segments).chain(self.generations.iter().map(|generation| Doomed::Generation(*generation)))
    }
}

/// One step of the way from a root to a tip: a branch, and where the way leaves it.
#[derive(Clone, Copy, Debug)]
struct Step {
    generation: Generation,
    /// `None` on the last branch.
    leaves: Option<Lsn>,
}

/// Decides what may go. Holds that have expired must have been taken out; `None` among them is one that could not be read, and keeps
/// everything.
pub fn plan(inventory: &Inventory, policy: Policy, holds: &[Option<Hold>]) -> Plan {
    let mut plan = Plan::default();
    if holds.iter().any(Option::is_none) {
        plan.notes.push("a hold cannot be read, so everything stays".to_owned());
        return plan;
    }
    let begin = policy.window_begin();
    let mut kept = Kept::default();
    for tip in kept_tips(inventory, begin) {
        match way_to(inventory, tip) {
            Ok(way) => keep_way(inventory, &way, begin, &mut kept, &mut plan.notes),
            Err(note) => {
                plan = Plan::default();
                plan.notes.push(note);
                return plan;
            }
        }
    }
    for hold in holds.iter().flatten() {
        keep_hold(inventory, hold, &mut kept);
    }
    for (generation, branch) in &inventory.branches {
        sort_out(*generation, branch, &kept, &mut plan);
    }
    plan
}

/// What stays.
#[derive(Default)]
struct Kept {
    snapshots: BTreeSet<(Generation, Lsn)>,
    /// Segments from here to there, both included.
    segments: BTreeMap<Generation, Vec<(u64, u64)>>,
    /// Their links are needed.
    generations: BTreeSet<Generation>,
}

fn kept_tips(inventory: &Inventory, window_begin: Timestamp) -> BTreeSet<Generation> {
    let alive = |branch: &&Branch| branch.newest().is_some_and(|at| at >= window_begin);
    let mut tips: BTreeSet<Generation> =
        inventory.branches.iter().filter(|(_, branch)| alive(branch)).map(|(generation, _)| *generation).collect();
    // However long ago that was: what was last written, and the highest TLI, to which "latest" leads. A cluster may be idle for longer
    // than the window while something writes to an old branch.
    let last = inventory.branches.iter().max_by_key(|(generation, branch)| (branch.newest(), **generation));
    let highest =
        inventory.branches.iter().max_by_key(|(generation, branch)| (generation.tli(), branch.newest(), **generation));
    tips.extend(last.into_iter().chain(highest).map(|(generation, _)| *generation));
    // A branch nobody has linked yet has just begun, or lost its link; it is nobody's to delete.
    let unlinked = inventory.branches.iter().filter(|(_, branch)| !branch.is_linked);
    tips.extend(unlinked.map(|(generation, _)| *generation));
    tips
}

/// The branches from the root to the end of `tip`.
fn way_to(inventory: &Inventory, tip: Generation) -> Result<Vec<Step>, String> {
    let mut way = vec![Step { generation: tip, leaves: None }];
    let mut at = tip;
    while let Some((parent, switch)) = inventory.branches.get(&at).and_then(|branch| branch.parent) {
        if !inventory.branches.contains_key(&parent) {
            // Its snapshots and WAL begin on what is there.
            break;
        }
        if way.iter().any(|step| step.generation == parent) {
            return Err(format!("generation {parent} is its own ancestor, so everything stays"));
        }
        way.push(Step { generation: parent, leaves: Some(switch) });
        at = parent;
    }
    way.reverse();
    Ok(way)
}

/// Whether a snapshot of this step's branch lies on the way: complete before the way leaves the branch.
fn lies_on_way(snapshot: &KeptSnapshot, step: &Step) -> bool {
    step.leaves.is_none_or(|leaves| snapshot.end <= leaves)
}

fn keep_way(inventory: &Inventory, way: &[Step], window_begin: Timestamp, kept: &mut Kept, notes: &mut Vec<String>) {
    let on_way = || {
        way.iter().enumerate().flat_map(|(at, step)| {
            let snapshots = inventory.branches.get(&step.generation).map(|branch| branch.snapshots.as_slice());
            snapshots
                .unwrap_or_default()
                .iter()
                .filter(|snapshot| lies_on_way(snapshot, step))
                .map(move |snapshot| (at, snapshot))
        })
    };
    let base = on_way()
        .filter(|(_, snapshot)| snapshot.is_sound && snapshot.end_time <= window_begin)
        .max_by_key(|(at, snapshot)| (*at, snapshot.begin));
    for (at, snapshot) in on_way() {
        // One of the window may serve any of its later moments faster than the base; an older one besides the base serves none.
        let is_base = base.is_some_and(|(base_at, base)| (at, snapshot.begin) == (base_at, base.begin));
        if base.is_none() || is_base || snapshot.end_time > window_begin {
            kept.snapshots.insert((way[at].generation, snapshot.begin));
        }
    }
    kept.generations.extend(way.iter().map(|step| step.generation));
    if base.is_none()
        && let Some(last) = way.last()
    {
        let tli = last.generation.tli();
        notes.push(format!("no snapshot is older than the window on the way to TLI {tli}, so all of its WAL stays"));
    }
    keep_wal(inventory, way, base.map(|(at, snapshot)| (at, snapshot.begin)), kept);
}

/// Keeps the WAL of the way, from a position on one of its steps, or all of it.
fn keep_wal(inventory: &Inventory, way: &[Step], from: Option<(usize, Lsn)>, kept: &mut Kept) {
    for (at, step) in way.iter().enumerate() {
        let first = match from {
            Some((from_step, _)) if at < from_step => continue,
            Some((from_step, begin)) if at == from_step => inventory.segment_size.segment_of(begin),
            _ => SegmentNumber(0),
        };
        // The segment where the way leaves is whole on the next branch; here it stays too, because another reader may take it from here.
        let last = step.leaves.map_or(SegmentNumber(u64::MAX), |leaves| inventory.segment_size.segment_of(leaves));
        kept.segments.entry(step.generation).or_default().push((first.0, last.0));
    }
}

/// A hold keeps its snapshot, and the WAL from there on every way through its generation.
fn keep_hold(inventory: &Inventory, hold: &Hold, kept: &mut Kept) {
    let Ok(generation) = hold.generation.parse::<Generation>() else { return };
    kept.snapshots.insert((generation, hold.from));
    for tip in inventory.branches.keys() {
        let Ok(way) = way_to(inventory, *tip) else { continue };
        let Some(at) = way.iter().position(|step| step.generation == generation) else { continue };
        if way[at].leaves.is_some_and(|leaves| leaves <= hold.from) {
            continue;
        }
        kept.generations.extend(way.iter().map(|step| step.generation));
        keep_wal(inventory, &way, Some((at, hold.from)), kept);
        // What lies above on the way may be what the holder goes on with.
        for step in &way[at..] {
            let Some(branch) = inventory.branches.get(&step.generation) else { continue };
            let above = |snapshot: &&KeptSnapshot| step.generation != generation || snapshot.begin >= hold.from;
            kept.snapshots
                .extend(branch.snapshots.iter().filter(above).map(|snapshot| (step.generation, snapshot.begin)));
        }
    }
}

fn sort_out(generation: Generation, branch: &Branch, kept: &Kept, plan: &mut Plan) {
    if !kept.generations.contains(&generation) {
        plan.generations.insert(generation);
        return;
    }
    let stays = |begin: &Lsn| kept.snapshots.contains(&(generation, *begin));
    let snapshots = branch.snapshots.iter().map(|snapshot| snapshot.begin).filter(|begin| !stays(begin));
    plan.snapshots.extend(snapshots.map(|begin| (generation, begin)));
    let unfinished = branch.unfinished.iter().filter(|begin| !stays(begin));
    plan.unfinished.extend(unfinished.map(|begin| (generation, *begin)));
    let spans = kept.segments.get(&generation).map(Vec::as_slice).unwrap_or_default();
    let is_kept = |name: &PieceName| spans.iter().any(|(first, last)| (*first..=*last).contains(&name.index));
    let pieces: Vec<PieceName> = branch.pieces.iter().map(|(name, _)| *name).filter(|name| !is_kept(name)).collect();
    if !pieces.is_empty() {
        plan.pieces.insert(generation, pieces);
    }
}

#[cfg(test)]
#[path = "plan_test.rs"]
mod tests;
