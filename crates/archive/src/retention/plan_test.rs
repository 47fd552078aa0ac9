//! The promise over random histories: failovers, forks, snapshots, idle times, and retention again and again.

use super::*;
use lsn::{SegmentSize, Tli};
use proptest::prelude::*;

const HOUR: i64 = 3600;
const WINDOW: i64 = 48 * HOUR;

fn size() -> SegmentSize {
    SegmentSize::new(1 << 20).unwrap()
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + seconds).unwrap()
}

#[derive(Debug, Clone)]
enum Event {
    /// The current branch writes so many half segments.
    Write(u8),
    /// An old branch, forked off by a failover, writes on.
    Zombie {
        which: u8,
        halves: u8,
    },
    /// A snapshot of the current branch.
    Snapshot {
        sound: bool,
    },
    /// A new TLI, so many half segments below the tip.
    Failover {
        back: u8,
    },
    Idle(u8),
    Retain,
}

fn steps() -> impl Strategy<Value = Vec<Event>> {
    let step = prop_oneof![
        6 => (1u8..6).prop_map(Event::Write),
        1 => (any::<u8>(), 1u8..6).prop_map(|(which, halves)| Event::Zombie { which, halves }),
        2 => proptest::bool::weighted(0.8).prop_map(|sound| Event::Snapshot { sound }),
        1 => (0u8..5).prop_map(|back| Event::Failover { back }),
        3 => (1u8..40).prop_map(Event::Idle),
        2 => Just(Event::Retain),
    ];
    proptest::collection::vec(step, 1..80)
}

/// A cluster and its replica.
struct World {
    inventory: Inventory,
    tips: BTreeMap<Generation, u64>,
    current: Generation,
    clock: i64,
    /// Where the cluster stood, and when.
    moments: Vec<(Generation, Lsn, i64)>,
}

impl World {
    fn new() -> World {
        let root = Generation::of_tli(0, Tli(1));
        let branch = Branch { is_linked: true, ..Branch::default() };
        World {
            inventory: Inventory { segment_size: size(), branches: [(root, branch)].into() },
            tips: [(root, 1 << 20)].into(),
            current: root,
            clock: 0,
            moments: Vec::new(),
        }
    }

    fn branch(&mut self, generation: Generation) -> &mut Branch {
        self.inventory.branches.entry(generation).or_default()
    }

    fn write(&mut self, generation: Generation, halves: u8) {
        let clock = self.clock;
        let Some(mut tip) = self.tips.get(&generation).copied() else { return };
        for _ in 0..halves {
            let (index, offset) = (tip >> 20, tip & 0xF_FFFF);
            let piece = PieceName::of_segment(index, offset..(offset + (1 << 19)).min(1 << 20));
            tip += 1 << 19;
            self.branch(generation).pieces.push((piece, at(clock)));
        }
        self.tips.insert(generation, tip);
        if generation == self.current {
            self.moments.push((generation, Lsn(tip), clock));
        }
    }

    fn step(&mut self, step: &Event) {
        self.clock += HOUR / 2;
        let current = self.current;
        match step {
            Event::Write(halves) => self.write(current, *halves),
            Event::Zombie { which, halves } => {
                let generations: Vec<Generation> = self.tips.keys().copied().collect();
                self.write(generations[*which as usize % generations.len()], *halves);
            }
            Event::Snapshot { sound } => {
                let begin = Lsn(self.tips[&current] + 40);
                self.write(current, 3);
                let end = Lsn(self.tips[&current] - 40);
                let end_time = at(self.clock);
                let snapshot = KeptSnapshot { begin, end, end_time, is_sound: *sound };
                self.branch(current).snapshots.push(snapshot);
            }
            Event::Failover { back } => {
                let start = self.inventory.branches[&current].parent.map_or(1 << 20, |(_, switch)| switch.0);
                let switch = self.tips[&current].saturating_sub(u64::from(*back) << 19).max(start) | 8;
                let tli = Tli(self.tips.len() as u32 + 1);
                let child = Generation::of_tli(tli.0 * 77, tli);
                self.branch(child).parent = Some((current, Lsn(switch)));
                self.branch(child).is_linked = true;
                // The first segment of a TLI is whole.
                self.tips.insert(child, switch & !0xF_FFFF);
                self.current = child;
                self.write(child, 2);
            }
            Event::Idle(hours) => self.clock += i64::from(*hours) * HOUR,
            Event::Retain => {}
        }
    }

    fn policy(&self) -> Policy {
        Policy { window: Duration::from_secs(WINDOW as u64), now: at(self.clock) }
    }

    /// Branches from the root, each with where it is left.
    fn way(&self, tip: Generation) -> Vec<(Generation, u64)> {
        let (mut way, mut next, mut leaves) = (Vec::new(), Some(tip), u64::MAX);
        while let Some(generation) = next {
            way.insert(0, (generation, leaves));
            let parent = self.inventory.branches.get(&generation).and_then(|branch| branch.parent);
            next = parent.map(|(parent, _)| parent);
            leaves = parent.map_or(0, |(_, switch)| switch.0);
        }
        way
    }

    /// Whether what is there can be restored to this position: a sound snapshot below it, and every byte from there to it.
    fn restores(&self, inventory: &Inventory, generation: Generation, to: Lsn) -> bool {
        let way = self.way(generation);
        way.iter().enumerate().any(|(from, (first, leaves))| {
            let last_here = if from + 1 == way.len() { to.0 } else { *leaves };
            let Some(branch) = inventory.branches.get(first) else { return false };
            branch.snapshots.iter().filter(|snapshot| snapshot.is_sound && snapshot.end.0 <= last_here).any(
                |snapshot| {
                    way[from..].iter().enumerate().all(|(later, (generation, leaves))| {
                        let begin = if later == 0 { snapshot.begin.0 } else { way[from + later - 1].1 } & !0xF_FFFF;
                        // The segment in which a way leaves a branch is taken from the next one.
                        let end = if from + later + 1 == way.len() { to.0 } else { *leaves & !0xF_FFFF };
                        has_wal(inventory, *generation, begin, end)
                    })
                },
            )
        })
    }

    /// Applies a plan as a run that is not interrupted does.
    fn apply(&mut self, plan: &Plan) {
        for generation in &plan.generations {
            self.inventory.branches.remove(generation);
        }
        for (generation, branch) in &mut self.inventory.branches {
            branch.snapshots.retain(|snapshot| !plan.snapshots.contains(&(*generation, snapshot.begin)));
            let gone = plan.pieces.get(generation).cloned().unwrap_or_default();
            branch.pieces.retain(|(name, _)| !gone.contains(name));
        }
        self.tips.retain(|generation, _| self.inventory.branches.contains_key(generation));
    }
}

fn has_wal(inventory: &Inventory, generation: Generation, begin: u64, end: u64) -> bool {
    let Some(branch) = inventory.branches.get(&generation) else { return begin >= end };
    let mut position = begin;
    while position < end {
        let covers = |piece: &PieceName| {
            let span = piece.span(size()).unwrap();
            let start = piece.index << 20;
            (start + span.start..start + span.end).contains(&position).then_some(start + span.end)
        };
        match branch.pieces.iter().find_map(|(piece, _)| covers(piece)) {
            Some(next) => position = next,
            None => return false,
        }
    }
    true
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn every_moment_of_the_window_stays_restorable_and_nothing_older_stays(steps in steps()) {
        let mut world = World::new();
        for step in steps {
            world.step(&step);
            if !matches!(step, Event::Retain) {
                continue;
            }
            let policy = world.policy();
            let plan = plan(&world.inventory, policy, &[]);
            let before = world.inventory.clone();
            world.apply(&plan);
            for (generation, lsn, when) in &world.moments {
                if at(*when) < policy.now.checked_sub(policy.window).unwrap() {
                    continue;
                }
                let could = world.restores(&before, *generation, *lsn);
                prop_assert!(!could || world.restores(&world.inventory, *generation, *lsn), "{generation} {lsn} of {when} is lost");
            }
            // A way that nothing can restore yet keeps what a snapshot under way may need.
            let current = world.current;
            prop_assert!(before.branches[&current].pieces.is_empty() || !world.inventory.branches[&current].pieces.is_empty());
            nothing_older(&world, &before, policy)?;
            // What is left is all needed: a second plan finds nothing.
            let again = super::plan(&world.inventory, policy, &[]);
            prop_assert!(again.is_empty(), "{again:?}");
        }
    }

    #[test]
    fn what_is_held_stays(steps in steps(), pick in any::<prop::sample::Index>()) {
        let mut world = World::new();
        steps.iter().for_each(|step| world.step(step));
        let snapshots: Vec<(Generation, Lsn)> = world
            .inventory
            .branches
            .iter()
            .flat_map(|(generation, branch)| branch.snapshots.iter().map(|snapshot| (*generation, snapshot.begin)))
            .collect();
        prop_assume!(!snapshots.is_empty());
        let (generation, begin) = snapshots[pick.index(snapshots.len())];
        let hold = Hold::new("restore", "me", generation.to_string(), begin, at(world.clock));
        let tips: Vec<(Generation, Lsn)> = world.tips.iter().map(|(tip, end)| (*tip, Lsn(*end))).collect();
        world.clock += 1000 * HOUR;
        let plan = plan(&world.inventory, world.policy(), &[Some(hold)]);
        let sound = |inventory: &mut Inventory| {
            // Only the held snapshot counts, as if it were sound.
            for (branch, facts) in &mut inventory.branches {
                facts.snapshots.retain(|snapshot| (*branch, snapshot.begin) == (generation, begin));
                facts.snapshots.iter_mut().for_each(|snapshot| snapshot.is_sound = true);
            }
        };
        let mut before = world.inventory.clone();
        world.apply(&plan);
        let mut after = world.inventory.clone();
        sound(&mut before);
        sound(&mut after);
        for (tip, end) in tips {
            prop_assert!(!world.restores(&before, tip, end) || world.restores(&after, tip, end), "{tip} from {begin}");
        }
    }
}

/// Everything that stays lies on the way to something of the window, at or above the newest sound snapshot that is older.
fn nothing_older(world: &World, before: &Inventory, policy: Policy) -> Result<(), TestCaseError> {
    let begin = policy.window_begin();
    let inventory = &world.inventory;
    let newest = inventory.branches.values().filter_map(Branch::newest).max();
    let highest = inventory.branches.keys().map(|generation| generation.tli()).max();
    let is_alive = |generation: &Generation| {
        let last = inventory.branches[generation].newest();
        last >= Some(begin) || last == newest || newest.is_none() || Some(generation.tli()) == highest
    };
    let alive: Vec<Vec<(Generation, u64)>> =
        inventory.branches.keys().filter(|generation| is_alive(generation)).map(|tip| world.way(*tip)).collect();
    // On this way, a sound snapshot from before the window lies after this place.
    let superseded = |way: &[(Generation, u64)], place: (usize, u64)| {
        way.iter().enumerate().any(|(at, (generation, leaves))| {
            let branch = before.branches.get(generation);
            branch.is_some_and(|branch| {
                branch.snapshots.iter().any(|snapshot| {
                    snapshot.is_sound
                        && snapshot.end_time <= begin
                        && snapshot.end.0 <= *leaves
                        && (at, snapshot.begin.0 >> 20) > place
                })
            })
        })
    };
    for (generation, branch) in &inventory.branches {
        let ways = || alive.iter().filter_map(|way| Some((way, way.iter().position(|(step, _)| step == generation)?)));
        prop_assert!(ways().next().is_some(), "{generation} leads nowhere");
        for (piece, _) in &branch.pieces {
            let needed = ways().any(|(way, at)| piece.index <= way[at].1 >> 20 && !superseded(way, (at, piece.index)));
            prop_assert!(needed, "{piece:?} of {generation} is paid for");
        }
        for snapshot in branch.snapshots.iter().filter(|snapshot| snapshot.end_time <= begin) {
            let needed =
                ways().any(|(way, at)| snapshot.end.0 <= way[at].1 && !superseded(way, (at, snapshot.begin.0 >> 20)));
            prop_assert!(needed, "snapshot {} of {generation} is paid for", snapshot.begin);
        }
    }
    Ok(())
}

#[test]
fn an_unreadable_hold_keeps_everything() {
    let mut world = World::new();
    world.step(&Event::Snapshot { sound: true });
    world.clock += 1000 * HOUR;
    world.step(&Event::Snapshot { sound: true });
    world.clock += 1000 * HOUR;
    assert!(!plan(&world.inventory, world.policy(), &[]).is_empty());
    let plan = plan(&world.inventory, world.policy(), &[None]);
    assert!(plan.is_empty() && plan.notes.len() == 1, "{plan:?}");
}

#[test]
fn a_loop_of_parents_keeps_everything() {
    let mut world = World::new();
    world.step(&Event::Snapshot { sound: true });
    world.step(&Event::Failover { back: 0 });
    let child = world.current;
    world.branch(Generation::of_tli(0, Tli(1))).parent = Some((child, Lsn(5)));
    world.clock += 1000 * HOUR;
    let plan = plan(&world.inventory, world.policy(), &[]);
    assert!(plan.is_empty() && plan.notes[0].contains("ancestor"), "{plan:?}");
}

#[test]
fn unfinished_snapshots_go_unless_they_are_held() {
    let mut world = World::new();
    world.step(&Event::Write(4));
    let root = world.current;
    world.branch(root).unfinished = vec![Lsn(5)];
    let found = plan(&world.inventory, world.policy(), &[]);
    assert_eq!(found.unfinished, [(root, Lsn(5))].into());
    let hold = Hold::new("backup", "me", root.to_string(), Lsn(5), at(0));
    assert!(plan(&world.inventory, world.policy(), &[Some(hold)]).is_empty());
}

#[test]
fn what_nobody_linked_stays() {
    let mut world = World::new();
    world.step(&Event::Snapshot { sound: true });
    let stray = Generation::of_tli(9, Tli(9));
    world.branch(stray).pieces.push((PieceName::segment(3), at(0)));
    world.clock += 1000 * HOUR;
    world.step(&Event::Write(1));
    let found = plan(&world.inventory, world.policy(), &[]);
    assert!(!found.generations.contains(&stray) && !found.pieces.contains_key(&stray), "{found:?}");
}
