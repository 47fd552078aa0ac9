//! Promotions: who may take over, and what a primary that was left behind is told.

use super::harness::*;
use super::parts::Primary;
use crate::*;
use consensus::FenceToken;
use lsn::{Lsn, Path, Tli};
use std::time::Duration;

/// A quorum with a log up to `FIRST + 51000`, and its primary a standby that was promoted there, without our slot.
fn promoted(salt: u8) -> World {
    let mut world = World::new().leading();
    world.write(50_000);
    world.settle();
    world.primary.promote(salt);
    world.primary.slot = None;
    world
}

fn switch() -> Lsn {
    Lsn(FIRST.0 + 51_000)
}

fn path_of(world: &World) -> Path {
    world.nodes[0].saved.path.clone().unwrap()
}

fn leads(world: &mut World) {
    world.pass(Duration::from_secs(8));
    assert_eq!(world.leader.state(), State::Leading, "{:?}", world.leader.status());
    assert_eq!(world.primary.flushed, world.primary.end);
}

#[test]
fn a_promoted_standby_takes_over_with_permission() {
    let mut world = promoted(1);
    world.restart_leader_with(|options| options.takeover = true);
    leads(&mut world);
    let path = path_of(&world);
    assert_eq!((path.last().tli, path.last().begin), (Tli(2), switch()));
    assert_ne!(path.last().mark, 0, "the mark was read from its stream");
    // Afterwards it is an ordinary primary, which needs no permission.
    world.write(5_000);
    world.restart_leader();
    leads(&mut world);
    assert_eq!(path_of(&world), path);
}

#[test]
fn a_standby_that_was_ahead_of_the_quorum_brings_its_tail_along() {
    let mut world = World::new().leading();
    world.write(50_000);
    world.settle();
    for node in &mut world.nodes {
        node.blocked = true;
    }
    world.write(9_000);
    world.settle();
    world.primary.promote(1);
    world.primary.slot = None;
    world.restart_leader_with(|options| options.takeover = true);
    for node in &mut world.nodes {
        node.blocked = false;
    }
    leads(&mut world);
    assert_eq!(path_of(&world).last().begin, Lsn(FIRST.0 + 60_000));
}

#[test]
fn the_zombie_and_a_twin_of_the_new_primary_are_refused() {
    let mut world = World::new().leading();
    world.write(50_000);
    world.settle();
    let put = |world: &mut World, saved: &Primary| {
        world.primary = Primary { stream: None, ..saved.clone() };
    };
    let zombie = world.primary.clone();
    world.primary.promote(1);
    world.primary.slot = None;
    world.restart_leader_with(|options| options.takeover = true);
    leads(&mut world);
    let (path, term) = (path_of(&world), world.leader.term());
    let log = world.nodes[0].wal.clone();
    // The old primary, which went on writing, even with the permission of somebody who errs.
    put(&mut world, &zombie);
    world.write(70_000);
    world.answers.clear();
    world.restart_leader_with(|options| options.takeover = true);
    world.pass(Duration::from_secs(20));
    assert!(matches!(world.leader.refusal(), Some(Refusal::Forked { primary: Tli(1), at, .. }) if *at == switch()));
    // Another standby, promoted at the same place: number and history file are the same, the first record is not.
    put(&mut world, &zombie);
    world.primary.promote(2);
    world.write(70_000);
    world.primary.slot = None;
    world.restart_leader_with(|options| (options.takeover, options.adopt) = (true, true));
    world.pass(Duration::from_secs(20));
    let refusal = world.leader.refusal();
    assert!(matches!(refusal, Some(Refusal::Forked { .. } | Refusal::Diverged { .. })), "{refusal:?}");
    assert!(world.answers.is_empty());
    for node in &world.nodes {
        assert!(Some(node.saved.term) == term && node.saved.path.as_ref() == Some(&path));
    }
    assert_eq!(world.nodes[0].wal, log);
}

#[test]
fn a_token_is_permission_while_its_fence_stands() {
    let mut world = promoted(1);
    world.primary.fence_token = Some(FenceToken([1; 16]));
    world.restart_leader();
    world.pass(Duration::from_secs(8));
    assert!(matches!(world.leader.refusal(), Some(Refusal::Takeover { .. })), "no fence stands");
    for node in &mut world.nodes {
        node.fence = Some(format!("1 {} 0 1:0/0:0", switch()));
    }
    leads(&mut world);
}

#[test]
fn a_fence_lets_a_promoted_server_pass_that_may_take_over_otherwise() {
    let mut world = promoted(1);
    world.nodes[2].fence = Some(format!("1 {} 0 1:0/0:0", Lsn(switch().0 + 8)));
    world.restart_leader_with(|options| options.takeover = true);
    world.pass(Duration::from_secs(8));
    assert!(matches!(world.leader.refusal(), Some(Refusal::Fenced { .. })), "promoted before the fenced end");
    world.nodes[2].fence = Some(format!("1 {} 0 1:0/0:0", switch()));
    world.restart_leader_with(|options| options.takeover = true);
    leads(&mut world);
}

#[test]
fn silence_of_the_last_leader_on_a_majority_is_permission_where_configured() {
    let mut world = promoted(1);
    let after = |options: &mut Options| options.takeover_after = Some(Duration::from_secs(30));
    world.nodes[0].silent_ms = Some(40_000);
    world.nodes[1].silent_ms = Some(29_000);
    world.restart_leader_with(after);
    world.pass(Duration::from_secs(8));
    assert!(matches!(world.leader.refusal(), Some(Refusal::Takeover { .. })), "only one heard nothing for so long");
    world.nodes[1].silent_ms = Some(30_000);
    leads(&mut world);
}

#[test]
fn everything_there_is_is_compared_before_a_takeover() {
    // A copy that went its own way long ago, and was promoted at the end of the log.
    let mut world = promoted(1);
    world.primary.records.clear();
    (world.primary.lineage, world.primary.fork) = (0x55, Lsn(FIRST.0 + 100));
    world.primary.end = switch();
    world.primary.promote(1);
    world.primary.ancestors.pop();
    world.primary.tli = Tli(2);
    // A slot of any age proves nothing there.
    world.primary.slot = Some(Some(Lsn(FIRST.0 + 50_900)));
    world.restart_leader_with(|options| options.takeover = true);
    world.pass(Duration::from_secs(20));
    let differs = Refusal::Diverged { address: "sk1:5454".to_owned(), at: Lsn(FIRST.0 + 100) };
    assert_eq!(world.leader.refusal(), Some(&differs));
}

#[test]
fn a_primary_whose_slot_was_lost_is_adopted_if_all_is_equal() {
    let mut world = World::new().leading();
    world.write(50_000);
    world.settle();
    world.primary.slot = None;
    world.restart_leader_with(|options| options.adopt = true);
    leads(&mut world);
    // One that has nothing in common with the log any more is not.
    world.primary.slot = None;
    world.primary.oldest = Lsn(FIRST.0 + SEGMENT);
    world.primary.end = Lsn(FIRST.0 + SEGMENT + 500);
    world.answers.clear();
    world.restart_leader_with(|options| options.adopt = true);
    world.pass(Duration::from_secs(20));
    assert!(matches!(world.leader.refusal(), Some(Refusal::WalRemoved { .. })), "{:?}", world.leader.status());
}

#[test]
fn a_slot_made_after_a_promotion_whose_proposer_died_is_mended_by_adopting() {
    let mut world = promoted(1);
    world.restart_leader_with(|options| options.takeover = true);
    leads(&mut world);
    // The quorum is on the new TLI, and the slot beyond what it has: nobody can tell that from WAL a majority lost.
    world.restart_leader();
    world.write(SEGMENT);
    world.primary.slot = Some(Some(world.primary.end));
    world.write(5_000);
    world.pass(Duration::from_secs(20));
    assert!(matches!(world.leader.refusal(), Some(Refusal::LostWal { .. })), "{:?}", world.leader.status());
    world.restart_leader_with(|options| options.adopt = true);
    leads(&mut world);
}

#[test]
fn logs_that_move_while_they_are_completed_are_looked_at_again() {
    let mut world = World::new().leading();
    world.write(50_000);
    world.settle();
    // What was read of the best log a moment ago is behind it now.
    let (end, slot) = (world.primary.end, world.primary.slot);
    world.restart_leader_with(|options| options.completes = true);
    world.primary.end = Lsn(end.0 - 1000);
    world.pass(Duration::from_secs(3));
    assert_eq!((world.leader.refusal(), world.leader.term()), (None, None), "it is tried again, and nobody is deposed");
    (world.primary.end, world.primary.slot) = (end, slot);
    world.pass(Duration::from_secs(3));
    assert_eq!(world.leader.state(), State::Leading, "{:?}", world.leader.status());
}

#[test]
fn a_server_that_was_promoted_before_the_first_attach_is_the_root() {
    let mut world = World::new();
    world.primary.promote(1);
    world.write(5_000);
    world.restart_leader();
    leads(&mut world);
    assert_eq!(path_of(&world), Path::root(Tli(2)));
    world.primary.promote(3);
    world.restart_leader_with(|options| options.takeover = true);
    leads(&mut world);
    assert_eq!(path_of(&world).entries().len(), 2);
}

#[test]
fn a_standby_is_waited_for() {
    let mut world = World::new();
    let reason = "db2 is a standby";
    world.leader.handle_primary_failed(world.now, PrimaryFailure::Standby(reason.to_owned()));
    assert_eq!((world.leader.state(), world.leader.trouble()), (State::Standby, Some(reason)));
    world.pass(Duration::from_secs(3));
    assert_eq!(world.leader.state(), State::Leading, "it was promoted meanwhile");
}
