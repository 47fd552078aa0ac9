//! Every refusal: the sentence, and that nothing was raised or changed.

use super::harness::*;
use crate::*;
use lsn::{Lsn, SystemId, Term, Tli};
use std::time::Duration;

/// A quorum with a log, its leader gone, and the primary changed by `change`.
fn refused(change: impl FnOnce(&mut World)) -> (World, Refusal) {
    let mut world = World::new().leading();
    world.write(50_000);
    world.settle();
    let before: Vec<_> = world.nodes.iter().map(|node| (node.saved.clone(), node.wal.clone())).collect();
    world.restart_leader();
    world.answers.clear();
    change(&mut world);
    world.pass(Duration::from_secs(200));
    assert_eq!(world.leader.state(), State::Refused, "{:?}", world.leader.status());
    for (node, (saved, wal)) in world.nodes.iter().zip(before) {
        assert_eq!((node.saved.term, &node.saved.history, &node.wal), (saved.term, &saved.history, &wal));
    }
    assert!(world.answers.is_empty());
    let refusal = world.leader.refusal().cloned().unwrap();
    let checks = world.commands.iter().filter(|command| matches!(command, Command::CheckPrimary)).count();
    // A permission to take over is waited for more eagerly.
    let most = if matches!(refusal, Refusal::Takeover { .. }) { 60 } else { 20 };
    assert!(checks < most, "looks become rare: {checks}");
    (world, refusal)
}

#[test]
fn another_database_cluster() {
    let (_, refusal) = refused(|world| world.primary.system_id = SystemId(78));
    assert_eq!(refusal, Refusal::SystemId { primary: SystemId(78), quorum: SYSTEM });
    assert!(refusal.to_string().starts_with("the primary's system identifier is 78, the quorum keeps the WAL of 77"));
}

#[test]
fn other_segments() {
    let (_, refusal) = refused(|world| world.primary.segment_size = 16 << 20);
    assert_eq!(refusal, Refusal::SegmentSize { primary: 16 << 20, quorum: 1 << 20 });
}

#[test]
fn a_promoted_standby_without_permission() {
    let (_, refusal) = refused(|world| {
        world.primary.promote(1);
        world.primary.slot = None;
    });
    assert!(matches!(refusal, Refusal::Takeover { primary: Tli(2), .. }));
    assert!(refusal.to_string().contains("--takeover"), "{refusal}");
}

#[test]
fn a_standby_promoted_too_early() {
    // The quorum's log ends at +51000.
    let (_, refusal) = refused(|world| {
        world.primary.end = Lsn(FIRST.0 + 40_000);
        world.primary.promote(1);
        world.write(50_000);
        world.primary.slot = None;
    });
    let (at, end) = (Lsn(FIRST.0 + 40_000), Lsn(FIRST.0 + 51_000));
    assert_eq!(refusal, Refusal::Forked { primary: Tli(2), at, end, log: lsn::Path::root(Tli(1)) });
}

#[test]
fn a_fence() {
    let fence = format!("2 {} 0 1:0/0:0", Lsn(FIRST.0 + 51_000));
    let (_, refusal) = refused(|world| world.nodes[1].fence = Some(fence.clone()));
    assert!(refusal.to_string().starts_with(&format!("sk2:5454 holds a fence ({fence})")), "{refusal}");
    assert!(refusal.to_string().contains("seawall fence --lift"));
}

#[test]
fn nobody_knows_the_cluster() {
    let (mut world, refusal) = refused(|world| {
        for node in &mut world.nodes {
            node.known = false;
        }
    });
    assert_eq!(refusal, Refusal::NoCluster);
    for node in &mut world.nodes {
        node.known = true;
    }
    world.pass(Duration::from_secs(61));
    assert_eq!(world.leader.state(), State::Leading, "a refusal ends when its reason does");
    assert_eq!(world.leader.refusal(), None);
}

#[test]
fn no_slot_but_a_log() {
    let (_, refusal) = refused(|world| world.primary.slot = None);
    assert!(matches!(refusal, Refusal::Clone { .. }));
    assert!(refusal.to_string().contains("looks like a copy of the primary"));
}

#[test]
fn a_slot_that_holds_nothing() {
    let (_, refusal) = refused(|world| world.primary.slot = Some(None));
    assert_eq!(refusal, Refusal::EmptySlot);
}

#[test]
fn a_quorum_that_lost_wal() {
    let (_, refusal) = refused(|world| {
        // The slot is in a later segment than the log's first, so it was answered.
        world.primary.slot = Some(Some(Lsn(FIRST.0 + 2 * SEGMENT)));
        world.primary.end = Lsn(FIRST.0 + 3 * SEGMENT);
    });
    assert!(matches!(refusal, Refusal::LostWal { .. }));
    assert!(refusal.to_string().contains("a majority of the safekeepers lost WAL"));
}

#[test]
fn a_primary_restored_from_an_older_copy() {
    let (_, refusal) = refused(|world| {
        world.primary.slot = Some(Some(Lsn(FIRST.0 + 900)));
        world.primary.end = Lsn(FIRST.0 + 10_000);
    });
    assert_eq!(refusal, Refusal::PrimaryBehind { primary: Lsn(FIRST.0 + 10_000), log: Lsn(FIRST.0 + 51_000) });
}

#[test]
fn a_copy_that_went_its_own_way() {
    let fork = Lsn(FIRST.0 + 30_001);
    let (_, refusal) = refused(|world| {
        world.primary.slot = Some(Some(Lsn(FIRST.0 + 900)));
        (world.primary.lineage, world.primary.fork) = (0x55, fork);
        world.primary.end = Lsn(FIRST.0 + 90_000);
    });
    assert_eq!(refusal, Refusal::Diverged { address: "sk1:5454".to_owned(), at: fork });
}

#[test]
fn the_drivers_own_refusals_are_shown() {
    let mut world = World::new();
    world.leader.handle_primary_failed(world.now, PrimaryFailure::Refused("role seawall lacks REPLICATION".to_owned()));
    assert_eq!(world.leader.refusal().unwrap().to_string(), "role seawall lacks REPLICATION");
    assert_eq!(world.leader.state(), State::Refused);
}

#[test]
fn a_primary_that_ends_while_it_is_compared_is_behind() {
    let mut world = World::new().leading();
    world.write(50_000);
    world.settle();
    world.restart_leader();
    while world.primary.stream.is_none() {
        assert!(world.step(0));
    }
    world.primary.slot = Some(Some(Lsn(FIRST.0 + 900)));
    world.primary.end = Lsn(FIRST.0 + 10_000);
    world.pass(Duration::from_secs(11));
    assert!(matches!(world.leader.refusal(), Some(Refusal::PrimaryBehind { .. })), "{:?}", world.leader.status());
}

#[test]
fn an_interrupted_first_attach_goes_on() {
    let mut world = World::new();
    // The safekeepers stop answering when some WAL below the slot's restart_lsn has arrived.
    world.piece = 100;
    while world.nodes.iter().all(|node| node.flush() < Lsn(FIRST.0 + 200)) {
        assert!(world.step(2));
    }
    assert!(world.nodes.iter().all(|node| node.flush() < world.primary.slot.flatten().unwrap()));
    world.restart_leader();
    world.pass(Duration::from_secs(1));
    assert_eq!(world.leader.state(), State::Leading, "{:?}", world.leader.status());
    assert!(world.leader.term() > Some(Term(1)));
    assert_eq!(world.primary.flushed, world.primary.end);
}

#[test]
fn each_refusal_has_a_word_of_its_own() {
    let zero = Lsn(0);
    let all = [
        Refusal::SystemId { primary: SYSTEM, quorum: SYSTEM },
        Refusal::SegmentSize { primary: 0, quorum: 0 },
        Refusal::NoCluster,
        Refusal::Fenced { address: String::new(), fence: String::new() },
        Refusal::Takeover { primary: Tli(1), log: lsn::Path::root(Tli(1)) },
        Refusal::Forked { primary: Tli(1), at: zero, end: zero, log: lsn::Path::root(Tli(1)) },
        Refusal::Unrelated { primary: Tli(1), log: lsn::Path::root(Tli(1)) },
        Refusal::BadSwitch { at: zero, reason: String::new() },
        Refusal::UnknownWal,
        Refusal::LostWal { restart: zero, end: zero },
        Refusal::PrimaryBehind { primary: zero, log: zero },
        Refusal::Clone { end: zero },
        Refusal::EmptySlot,
        Refusal::WalRemoved { from: zero, end: zero },
        Refusal::Diverged { address: String::new(), at: zero },
        Refusal::NoDonor,
        Refusal::Primary(String::new()),
    ];
    let mut codes: Vec<_> = all.iter().map(Refusal::code).collect();
    codes.sort_unstable();
    codes.dedup();
    assert_eq!(codes.len(), all.len());
}
