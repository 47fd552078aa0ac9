//! A seeded random model of membership changes: the production acceptor, campaign, leadership and records under proposers that
//! begin changes, die at any step, compete, and under records that arrive late or never.
//!
//! Disks are instant and lose nothing: what they may do wrong is the other model's matter. A leader's log is bytes of its own, so
//! two histories that differ are told apart. Checked after every step: one winner per term, one record per generation (S33), and
//! every commit LSN ever declared names the same bytes for ever.
//!
//! `SEAWALL_MODEL_SEEDS=N` runs N seeds, `SEAWALL_MODEL_SEED=N` only that one.

#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

#[path = "../model/rng.rs"]
mod rng;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use world::World;

/// Seeds of an ordinary test run.
const SEEDS: u64 = 1500;
/// Random steps of one run.
const STEPS: usize = 3000;

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().and_then(|text| text.parse().ok())
}

#[test]
fn changes_lose_nothing_under_every_seed() {
    let only = number("SEAWALL_MODEL_SEED");
    let seeds = only.map_or(0..number("SEAWALL_MODEL_SEEDS").unwrap_or(SEEDS), |seed| seed..seed + 1);
    let (mut wins, mut changes, mut commits) = (0, 0, 0);
    for seed in seeds.clone() {
        let mut trace = Vec::new();
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            let mut world = World::new(seed, &mut trace);
            (0..STEPS).for_each(|_| world.step());
            world.settle();
            (world.winners.len(), world.finished, world.committed.len())
        }));
        match outcome {
            Ok((won, finished, committed)) => {
                wins += won;
                changes += finished;
                commits += committed;
            }
            Err(panic) => {
                let shown = trace.split_off(trace.len().saturating_sub(120)).join("\n");
                eprintln!("{shown}\nreplay: SEAWALL_MODEL_SEED={seed} cargo test -p consensus --test members");
                std::panic::resume_unwind(panic);
            }
        }
    }
    println!("{wins} terms won, {changes} changes finished, {commits} bytes committed");
    // A model in which nothing happens would pass as well.
    let enough = wins as u64 > 5 * seeds.end && changes as u64 > 2 * seeds.end && commits as u64 > 20 * seeds.end;
    assert!(only.is_some() || enough, "{wins} wins, {changes} changes, {commits} bytes");
}
