//! A seeded random model of the quorum: the production [`consensus::Acceptor`], [`consensus::Campaign`] and
//! [`consensus::Leadership`] on one thread under a network that delays and drops, disks that finish whenever they like, crashes at
//! any instant, proposers that die or compete, clones of the primary that diverge, standbys that are promoted anywhere, and a
//! safekeeper whose disk is emptied or forgets.
//!
//! A primary is a log of bytes on a path: one byte is one LSN, a record is one to three bytes. Sessions deliver in order, at any pace.
//! After every step `check.rs` holds the world against the promises; every run ends with everybody up and one proposer
//! at a time, which must commit within a bounded number of rounds.
//!
//! `SEAWALL_MODEL_SEEDS=N` runs N seeds, `SEAWALL_MODEL_SEED=N` only that one, with its trace printed if it fails.

mod check;
mod disk;
mod mutant;
mod node;
mod primary;
mod proposer;
mod rng;
mod settle;
mod world;

use mutant::Mutant;
use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use world::World;

/// Seeds of an ordinary test run.
const SEEDS: u64 = 800;
/// Random steps of one run.
const STEPS: usize = 5000;
/// Lines of the trace that a failure shows.
const SHOWN: usize = 120;

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().and_then(|text| text.parse().ok())
}

/// One run; the message of its failure. The trace ends where it failed.
fn run(seed: u64, mutant: Mutant, trace: Option<Rc<RefCell<Vec<String>>>>) -> Result<World, String> {
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let mut world = World::new(seed, mutant, trace);
        for _ in 0..STEPS {
            world.step();
            world.check();
        }
        world.settle();
        world
    }));
    outcome.map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_else(|| "panic".into())
    })
}

#[test]
fn promises_hold_under_every_seed() {
    let only = number("SEAWALL_MODEL_SEED");
    let seeds = only.map_or(0..number("SEAWALL_MODEL_SEEDS").unwrap_or(SEEDS), |seed| seed..seed + 1);
    let (mut wins, mut commits) = (0, 0);
    for seed in seeds.clone() {
        match run(seed, Mutant::None, None) {
            Ok(world) => {
                wins += world.winners.len();
                commits += world.committed.len();
            }
            Err(failure) => {
                let trace = Rc::new(RefCell::new(Vec::new()));
                let again = run(seed, Mutant::None, Some(trace.clone())).err();
                let trace = trace.borrow();
                let shown = trace[trace.len().saturating_sub(SHOWN)..].join("\n");
                assert_eq!(again.as_ref(), Some(&failure), "seed {seed} does not replay");
                panic!(
                    "{shown}\nseed {seed} fails at event {}: {failure}\n\
                     replay: SEAWALL_MODEL_SEED={seed} cargo test -p consensus --test model",
                    trace.len()
                );
            }
        }
    }
    // A model in which nothing happens would pass as well.
    println!("{wins} terms won, {commits} bytes committed");
    assert!(
        only.is_some() || (wins as u64 > 4 * seeds.end && commits as u64 > 100 * seeds.end),
        "{wins} wins, {commits} bytes"
    );
}

/// Seeds within which every mutant must be caught.
const MUTANT_SEEDS: u64 = 800;

#[test]
fn every_broken_rule_is_noticed() {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let caught = Mutant::ALL.map(|mutant| {
        let found = (0..MUTANT_SEEDS).find_map(|seed| run(seed, mutant, None).err().map(|error| (seed, error)));
        (mutant, found)
    });
    std::panic::set_hook(hook);
    for (mutant, found) in &caught {
        println!("{mutant:?}: {found:?}");
    }
    assert!(caught.iter().all(|(_, found)| found.is_some()), "a broken rule passes {MUTANT_SEEDS} seeds");
}
