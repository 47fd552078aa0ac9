//! Small worlds, explored to the last state. Larger ones: `cargo xtask model`.

#![expect(clippy::print_stdout, reason = "how much was seen is worth a line")]

use model::{Quorum, config};

/// Everything is seen, nothing fails, and it is not an empty world.
fn holds(world: &str, at_least: usize) {
    let config = config(world).expect("a world with this name");
    let report = Quorum::new(config).explore(false, 1, None);
    println!("{world}: {} states, {} steps, {:.1} s", report.states, report.steps, report.time.as_secs_f64());
    assert!(report.complete, "{world}: {:#?}", report.failure);
    assert!(report.states >= at_least, "{world} has only {} states", report.states);
}

#[test]
fn base() {
    holds("base", 10_000);
}

#[test]
fn sessions_that_last() {
    holds("calm", 4_000);
}

#[test]
fn crashes() {
    holds("crashes", 5_000);
}

#[test]
fn commit_written_down_late() {
    holds("lag", 9_000);
}

#[test]
fn records_of_two_bytes() {
    holds("records", 1_900);
}

#[test]
fn moved() {
    holds("moved", 100_000);
}

#[test]
fn a_disk_relearns() {
    holds("relearn", 3_000);
}

#[test]
fn promotions_that_fork() {
    holds("paths", 50_000);
}

#[test]
fn copies_on_one_tli() {
    holds("clones", 100_000);
}

#[test]
fn a_fence() {
    holds("fence", 80_000);
}

#[test]
fn an_emptied_disk() {
    holds("emptied", 30_000);
}
