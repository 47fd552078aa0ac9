//! A fixed handful of seeds: nothing promised is lost, every kind of fault really happened, the same seed is the same run, and the
//! oracle sees what is broken on purpose.

use sim::{Coverage, Sabotage, run};

/// Seeds that once found something, and enough others that everything in [`WANTED`] happens.
const SEEDS: &[u64] = &[3, 6, 16, 25, 31, 43, 45, 67, 76, 96, 146, 293, 852, 1181, 1472, 1582, 11238];

/// What must have happened over the handful.
const WANTED: &[&str] = &[
    "fault: safekeeper killed",
    "fault: power cut",
    "fault: power cut after some operations",
    "fault: power cut everywhere",
    "fault: disk error",
    "fault: failed sync",
    "fault: full disk",
    "fault: rot",
    "fault: emptied disk",
    "fault: slow disk",
    "fault: stalled process",
    "fault: connection reset",
    "fault: one-way partition",
    "fault: host cut off",
    "fault: slow link",
    "fault: proposer killed",
    "fault: another proposer for a primary",
    "fault: a conninfo leads elsewhere",
    "fault: primary crashed",
    "fault: connection to a primary lost",
    "fault: a standby of the quorum promoted",
    "fault: a direct standby promoted",
    "fault: a copy of a data directory started",
    "fault: a membership change wished",
    "a cluster stopped by its disk",
    "a commit on a new TLI",
    "a damaged log found",
    "a flush in the middle of a record",
    "a membership record brought",
    "a pull that ended well",
    "WAL given to a reader",
    "a record overwritten after a crash",
    "a segment switch",
    "an announced cut done again",
    "an append refused by a full disk",
    "old segments removed",
    "power lost in the middle of an operation",
    "refused: left the log below its end",
    "refused: the primary is behind",
];

fn run_some(part: usize, parts: usize) -> Coverage {
    let mut coverage = Coverage::default();
    for seed in SEEDS.iter().skip(part).step_by(parts) {
        match run(*seed, None, false) {
            Ok(outcome) => coverage.add(&outcome.coverage),
            Err(failure) => panic!("{failure}"),
        }
    }
    coverage
}

#[test]
fn nothing_promised_is_lost_and_every_fault_happens() {
    // Two threads: a run is single-threaded, and a handful is long without optimisation.
    let other = std::thread::spawn(|| run_some(0, 2));
    let mut coverage = run_some(1, 2);
    coverage.add(&other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
    assert_eq!(coverage.missing(WANTED), [""; 0], "these never happened:\n{coverage}");
}

#[test]
fn the_same_seed_is_the_same_run() {
    for seed in [11, 23] {
        let outcome = |keeps_trace| run(seed, None, keeps_trace).map_err(|failure| failure.to_string());
        let (one, other) = (outcome(false).unwrap(), outcome(false).unwrap());
        assert_eq!((one.hash, one.actions, &one.coverage), (other.hash, other.actions, &other.coverage), "seed {seed}");
        assert_ne!(one.hash, run(seed + 1, None, false).unwrap().hash);
    }
}

/// Some seed must show it, and say what it saw.
fn is_seen(sabotage: Sabotage) {
    let seen = (1..40).find_map(|seed| run(seed, Some(sabotage), false).err());
    let seen = seen.unwrap_or_else(|| panic!("{sabotage:?} was not seen"));
    let expected =
        ["came back with", "is committed", "does not hold", "was won twice", "other bytes", "control file", "damaged"];
    assert!(expected.iter().any(|text| seen.what.contains(text)), "{sabotage:?}: {}", seen.what);
}

#[test]
fn an_acknowledgement_before_the_sync_is_seen() {
    is_seen(Sabotage::AcknowledgeBeforeSync);
}

#[test]
fn a_vote_before_it_is_written_down_is_seen() {
    is_seen(Sabotage::VoteBeforePersist);
}

#[test]
fn a_cut_below_the_commit_lsn_is_seen() {
    is_seen(Sabotage::CutBelowCommit);
}
