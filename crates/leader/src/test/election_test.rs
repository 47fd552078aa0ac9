//! Terms: won, joined late, lost.

use super::harness::*;
use crate::session::TRAIL_DELAY;
use crate::*;
use consensus::{AppendResponse, ProposerMessage, TermEntry};
use lsn::{DiskId, Lsn, Path, Term, Tli};
use std::time::Duration;

#[test]
fn a_first_attach_creates_the_slot_and_begins_at_its_segment() {
    let mut world = World::new().leading();
    assert!(world.commands.contains(&Command::CreateSlot));
    assert!(world.commands.contains(&Command::StartStream { from: FIRST, tli: Tli(1) }));
    let status = world.leader.status();
    assert_eq!((status.term, status.term_start), (Some(Term(1)), Some(FIRST)));
    assert_eq!(status.commit, Some(world.primary.end));
    assert_eq!(world.primary.flushed, world.primary.end);
    world.write(100_000);
    world.pass(TRAIL_DELAY);
    assert_eq!(world.primary.flushed, world.primary.end);
    for node in &world.nodes {
        assert_eq!(node.saved.path, Some(Path::root(Tli(1))));
        assert_eq!(node.wal, world.primary.bytes(FIRST, world.primary.end));
    }
}

#[test]
fn the_start_of_the_term_commits_without_an_append() {
    let mut world = World::new().leading();
    let end = world.primary.end;
    world.lose_primary();
    world.answers.clear();
    world.pass(Duration::from_secs(1));
    let status = world.leader.status();
    assert_eq!(status.state, State::Leading);
    assert_eq!((status.term_start, status.commit, status.answered), (Some(end), Some(end), end));
    assert!(status.term > Some(Term(1)));
}

#[test]
fn every_connection_is_a_term_of_its_own() {
    let mut world = World::new().leading();
    for round in 2..6 {
        world.write(5000);
        world.settle();
        world.lose_primary();
        assert_ne!(world.leader.state(), State::Leading);
        world.pass(Duration::from_secs(1));
        assert_eq!(world.leader.term(), Some(Term(round)));
    }
    let history = world.nodes[0].saved.history.clone();
    assert_eq!(history.entries().len(), 5);
    assert_eq!(history.entries()[0], TermEntry { term: Term(1), begin: FIRST });
}

#[test]
fn two_of_three_are_enough_and_the_third_joins_late() {
    let mut world = World::new();
    world.crash(2);
    world.settle();
    world.pass(Duration::from_secs(2));
    assert_eq!(world.leader.state(), State::Leading);
    world.write(50_000);
    world.pass(Duration::from_secs(3));
    assert_eq!(world.primary.flushed, world.primary.end);
    assert_eq!(world.leader.peer_status(Peer(2)).unwrap().state, PeerState::Offline);
    world.nodes[2].start();
    world.pass(Duration::from_secs(2));
    assert_eq!(world.leader.peer_status(Peer(2)).unwrap().state, PeerState::Streaming);
    assert_eq!(world.nodes[2].flush(), world.primary.end);
    assert_eq!(world.leader.term(), Some(Term(1)), "joining late does not disturb the term");
}

#[test]
fn without_a_majority_nothing_is_raised() {
    let mut world = World::new();
    world.crash(1);
    world.crash(2);
    world.pass(Duration::from_secs(30));
    assert_eq!(world.leader.state(), State::Waiting);
    assert!(world.leader.trouble().unwrap().contains("sk2:5454: connection refused"), "{:?}", world.leader.trouble());
    assert_eq!(world.nodes[0].saved.term, Term(0));
    world.nodes[1].start();
    world.pass(Duration::from_secs(2));
    assert_eq!(world.leader.state(), State::Leading);
}

#[test]
fn the_stream_stays_open_however_long_the_quorum_is_away() {
    let mut world = World::new().leading();
    world.crash(0);
    world.crash(1);
    let answered = world.primary.flushed;
    world.write(100_000);
    world.pass(Duration::from_secs(3600));
    assert!(world.primary.stream.is_some());
    assert_eq!(world.primary.flushed, answered);
    world.nodes[0].start();
    world.pass(Duration::from_secs(2));
    assert_eq!(world.primary.flushed, world.primary.end);
    assert_eq!(world.leader.term(), Some(Term(1)));
}

#[test]
fn a_deposed_leader_ends_its_term_and_waits_before_it_campaigns_again() {
    let mut world = World::new().leading();
    let response = AppendResponse { generation: 1, term: Term(9), ..AppendResponse::default() };
    world.leader.handle_push_message(world.now, Peer(0), consensus::AcceptorMessage::Append(response));
    assert_ne!(world.leader.state(), State::Leading);
    world.settle();
    assert!(world.primary.stream.is_none(), "the stream is given up with the term");
    world.pass(Duration::from_millis(900));
    assert_eq!(world.leader.term(), None);
    world.pass(Duration::from_millis(200));
    assert_eq!(world.leader.state(), State::Leading);
}

#[test]
fn an_unacknowledged_tail_on_one_safekeeper_is_cut_or_kept_but_never_lost_twice() {
    let mut world = World::new().leading();
    world.nodes[1].frozen = true;
    world.nodes[2].frozen = true;
    world.write(20_000);
    world.settle();
    assert_eq!(world.nodes[0].flush(), world.primary.end);
    world.crash(0);
    world.nodes[1].frozen = false;
    world.nodes[2].frozen = false;
    world.restart_leader();
    // What was on its way to the two is lost with the old proposer; they lead without the tail.
    world.pass(Duration::from_secs(3));
    assert_eq!(world.leader.state(), State::Leading);
    assert_eq!(world.primary.flushed, world.primary.end, "the primary still had it");
    world.nodes[0].start();
    world.pass(Duration::from_secs(2));
    assert_eq!(world.nodes[0].flush(), world.primary.end);
    assert_eq!(world.nodes[0].wal, world.nodes[1].wal);
}

#[test]
fn the_higher_log_that_votes_late_is_compared_before_it_counts() {
    let mut world = World::new().leading();
    world.nodes[1].frozen = true;
    world.write(20_000);
    world.pass(TRAIL_DELAY);
    let end = world.primary.end;
    assert_eq!(world.primary.flushed, end);
    world.crash(2);
    world.restart_leader();
    world.nodes[1].frozen = false;
    world.pass(Duration::from_secs(3));
    assert_eq!(world.leader.status().term_start, Some(end));
    assert!(
        world
            .commands
            .iter()
            .any(|command| matches!(command, Command::Compare { peer: Peer(0), to, .. } if *to == end))
    );
}

#[test]
fn an_emptied_disk_is_not_counted() {
    let mut world = World::new().leading();
    world.crash(2);
    world.nodes[2].identity.disk = DiskId([99; 16]);
    world.nodes[2].start();
    world.pass(Duration::from_secs(2));
    let status = world.leader.peer_status(Peer(2)).unwrap();
    assert!(status.error.unwrap().contains("is not a member"));
    world.crash(1);
    let answered = world.primary.flushed;
    world.write(1000);
    world.pass(Duration::from_secs(5));
    assert_eq!(world.primary.flushed, answered, "one member is no majority");
}

#[test]
fn one_safekeeper_under_two_addresses_is_pushed_to_once() {
    let mut world = World::new();
    world.nodes[2].identity = world.nodes[1].identity;
    world.settle();
    world.pass(Duration::from_secs(1));
    assert_eq!(world.leader.state(), State::Leading);
    let error = world.leader.peer_status(Peer(2)).unwrap().error.unwrap();
    assert_eq!(error, "this is safekeeper 2, which is reached at sk2:5454 already");
}

#[test]
fn a_safekeeper_that_promised_a_higher_term_makes_the_campaign_begin_anew() {
    let mut world = World::new();
    for _ in 0..1000 {
        let voting =
            |world: &World| world.nodes.iter().any(|n| matches!(n.inbox.front(), Some(ProposerMessage::Vote(_))));
        if voting(&world) {
            break;
        }
        assert!(world.step(2));
    }
    // Another proposer was faster at two of three.
    for index in [0, 1] {
        world.nodes[index].saved.term = Term(40);
        world.nodes[index].crash();
        world.nodes[index].start();
        world.leader.handle_push_closed(world.now, Peer(index), "reset".to_owned());
    }
    world.pass(Duration::from_secs(5));
    assert_eq!(world.leader.state(), State::Leading);
    assert!(world.leader.term() > Some(Term(40)));
}

#[test]
fn a_shutdown_waits_twenty_seconds_for_a_majority() {
    let mut world = World::new().leading();
    world.leader.handle_primary_shutdown(world.now);
    world.pass(Duration::from_secs(60));
    assert!(world.primary.stream.is_some(), "all was acknowledged, so the primary ends the stream itself");
    world.crash(0);
    world.crash(1);
    world.write(120);
    world.settle();
    world.leader.handle_primary_shutdown(world.now);
    world.pass(Duration::from_secs(19));
    assert!(world.primary.stream.is_some());
    world.primary.up = false;
    world.pass(Duration::from_secs(2));
    assert!(world.primary.stream.is_none());
    assert!(
        world.closed.last().unwrap().contains("shuts down") || world.closed.iter().any(|c| c.contains("shuts down"))
    );
}

#[test]
fn a_primary_that_answers_again_was_not_shutting_down() {
    let mut world = World::new().leading();
    let term = world.leader.term();
    world.crash(0);
    world.crash(1);
    world.write(120);
    world.settle();
    world.leader.handle_primary_shutdown(world.now);
    world.pass(Duration::from_secs(1));
    world.leader.handle_primary_stays();
    world.pass(Duration::from_secs(60));
    assert!(world.primary.stream.is_some(), "the stream stays open however long the quorum is away");
    assert_eq!(world.leader.term(), term);
}

#[test]
fn a_slot_that_begins_after_the_commit_lsn_is_compared_from_the_commit_lsn() {
    let mut world = World::new().leading();
    world.write(3 * SEGMENT);
    world.settle();
    // The safekeepers know less of the commit LSN than the primary's slot.
    for node in &mut world.nodes {
        node.crash();
        node.saved.commit = Lsn(FIRST.0 + 500);
        node.start();
    }
    world.restart_leader();
    world.pass(Duration::from_secs(1));
    assert_eq!(world.leader.state(), State::Leading);
    assert!(matches!(
        world.commands.iter().rev().find(|command| matches!(command, Command::StartStream { .. })),
        Some(Command::StartStream { from: FIRST, .. })
    ));
    // If the primary has removed that, what the slot holds is enough only if the commit LSN lies in it.
    world.primary.oldest = Lsn(FIRST.0 + SEGMENT);
    for node in &mut world.nodes {
        node.crash();
        node.saved.commit = Lsn(FIRST.0 + 500);
        node.start();
    }
    world.restart_leader();
    world.pass(Duration::from_secs(1));
    assert!(matches!(world.leader.refusal(), Some(Refusal::WalRemoved { .. })), "{:?}", world.leader.status());
}

#[test]
fn an_answer_that_was_not_taken_out_dies_with_its_connection() {
    let mut world = World::new().leading();
    let end = Lsn(world.primary.end.0 + 800);
    let bytes = bytes::Bytes::from(vec![0; 800]);
    world.leader.handle_wal(world.now, world.primary.end, bytes);
    for peer in [0, 1] {
        let response = AppendResponse { generation: 1, term: Term(1), flush: end, ..AppendResponse::default() };
        world.leader.handle_push_message(world.now, Peer(peer), consensus::AcceptorMessage::Append(response));
    }
    assert_eq!(world.leader.commit(), Some(end));
    world.leader.handle_primary_failed(world.now, PrimaryFailure::Retry("gone".to_owned()));
    while let Some(command) = world.leader.poll_command() {
        assert!(!matches!(command, Command::AnswerPrimary { .. } | Command::Feedback { .. }), "{command:?}");
    }
}

#[test]
fn the_quorum_is_looked_at_again_once_the_slot_is_ours() {
    let mut world = World::new();
    while !world.commands.iter().any(|command| matches!(command, Command::StartStream { .. })) {
        assert!(world.step(0));
    }
    world.nodes[1].fence = Some("raised meanwhile".to_owned());
    world.settle();
    assert!(matches!(world.leader.refusal(), Some(Refusal::Fenced { .. })), "{:?}", world.leader.status());
    assert_eq!(world.nodes[0].saved.term, Term(0));
}

/// A commit LSN is final, whoever of the counted knows it: the others' logs need not be compared from where they had heard last.
#[test]
fn what_one_safekeeper_knows_to_be_committed_is_committed_in_every_log() {
    for knows in 0..3 {
        let mut world = World::new().leading();
        world.write(SEGMENT + 5000);
        world.pass(Duration::from_secs(1));
        for node in (0..3).filter(|node| *node != knows) {
            world.crash(node);
            world.nodes[node].start();
            assert!(
                world.nodes[node].acceptor.as_ref().unwrap().commit() < Lsn(FIRST.0 + SEGMENT),
                "it was told lately"
            );
        }
        world.primary.oldest = Lsn(FIRST.0 + SEGMENT);
        world.restart_leader();
        world.pass(Duration::from_secs(5));
        assert_eq!(world.leader.state(), State::Leading, "{knows}: {:?}", world.leader.status());
    }
}
