//! Relaying: messages, timing, memory, those that lag, what standbys hold back.

use super::harness::*;
use super::parts::Node;
use crate::session::TRAIL_DELAY;
use crate::*;
use consensus::{AcceptorMessage, AppendResponse, HotStandbyFeedback, ProposerMessage};
use lsn::{Lsn, Term};
use std::time::Duration;

fn clear(world: &mut World) {
    for node in &mut world.nodes {
        node.appends.clear();
    }
}

#[test]
fn a_commit_lsn_rides_on_the_next_append() {
    let mut world = World::new().leading();
    world.pass(Duration::from_secs(1));
    clear(&mut world);
    for _ in 0..20 {
        world.write(64);
        world.settle();
        world.pass(Duration::from_millis(1));
    }
    let appends = &world.nodes[0].appends;
    assert_eq!(appends.len(), 20, "no message but those with WAL: {appends:?}");
    assert!(appends.windows(2).all(|pair| pair[1].2 == pair[0].1), "each carries the commit of the one before");
}

#[test]
fn in_an_idle_stream_the_commit_lsn_follows_a_little_later() {
    let mut world = World::new().leading();
    world.pass(Duration::from_secs(1));
    clear(&mut world);
    world.write(64);
    world.settle();
    world.pass(Duration::from_micros(4900));
    assert_eq!(world.nodes[0].appends.len(), 1);
    world.pass(Duration::from_micros(200));
    let end = world.primary.end;
    assert_eq!(world.nodes[0].appends.last(), Some(&(end, end, end)));
    assert_eq!(world.nodes[0].acceptor.as_ref().unwrap().commit(), end);
    world.pass(Duration::from_secs(4));
    assert_eq!(world.nodes[0].appends.len(), 2);
}

#[test]
fn an_idle_session_carries_a_heartbeat_every_five_seconds() {
    let mut world = World::new().leading();
    world.pass(Duration::from_secs(10));
    clear(&mut world);
    world.pass(Duration::from_secs(60));
    for node in &world.nodes {
        assert_eq!(node.appends.len(), 12);
    }
    assert!(world.leader.status().peers.iter().all(|peer| peer.state == PeerState::Streaming));
}

#[test]
fn a_silent_safekeeper_is_dropped_after_ten_seconds_and_tried_every_second() {
    let mut world = World::new().leading();
    world.nodes[1].frozen = true;
    world.pass(Duration::from_millis(9900));
    assert_eq!(world.leader.peer_status(Peer(1)).unwrap().state, PeerState::Streaming);
    world.pass(Duration::from_millis(200));
    let status = world.leader.peer_status(Peer(1)).unwrap();
    assert_eq!((status.state, status.error.as_deref()), (PeerState::Offline, Some("silent for 10 s")));
    world.nodes[1].frozen = false;
    world.pass(Duration::from_secs(1));
    assert_eq!(world.leader.peer_status(Peer(1)).unwrap().state, PeerState::Streaming);
}

#[test]
fn a_large_backlog_goes_out_in_appends_of_at_most_128_kib() {
    let mut world = World::new();
    world.crash(2);
    world.settle();
    world.pass(Duration::from_secs(1));
    world.write(1_000_000);
    world.settle();
    world.nodes[2].start();
    world.nodes[2].appends.clear();
    world.pass(Duration::from_secs(2));
    let with_wal: Vec<_> = world.nodes[2].appends.iter().filter(|append| append.1 > append.0).collect();
    assert_eq!(with_wal.len(), 1_001_000usize.div_ceil(consensus::MAX_APPEND_BYTES));
    assert_eq!(world.nodes[2].flush(), world.primary.end);
}

#[test]
fn uncommitted_wal_is_never_let_go_and_holds_the_stream_back() {
    let mut world = World::with_ring(64 << 10);
    world.settle();
    world.crash(0);
    world.crash(1);
    world.write(1 << 20);
    world.pass(Duration::from_secs(1));
    assert!(!world.leader.wants_wal());
    let received = world.leader.status().received.unwrap();
    let commit = world.leader.commit().unwrap();
    assert!((64 << 10..=(64 << 10) + world.piece).contains(&received.bytes_since(commit)));
    world.nodes[0].start();
    world.nodes[1].start();
    world.pass(Duration::from_secs(3));
    assert_eq!(world.primary.flushed, world.primary.end);
    assert_eq!(world.leader.term(), Some(Term(1)));
}

#[test]
fn a_safekeeper_below_the_ring_learns_from_others_and_comes_back() {
    let mut world = World::with_ring(64 << 10);
    world.settle();
    world.crash(2);
    world.write(1 << 20);
    world.settle();
    assert_eq!(world.primary.flushed, world.primary.end);
    world.nodes[2].start();
    world.pass(Duration::from_secs(2));
    assert_eq!(world.leader.peer_status(Peer(2)).unwrap().state, PeerState::CatchingUp);
    let end = world.primary.end;
    let last = world.nodes[2].appends.last().copied().unwrap();
    assert_eq!(last, (end, end, end), "it is told how far the others are, and given nothing");
    world.write(5000);
    world.pass(Duration::from_secs(1));
    assert_eq!(world.primary.flushed, world.primary.end, "the others go on");
    assert!(world.pull(2, 0));
    world.pass(Duration::from_secs(1));
    assert_eq!(world.leader.peer_status(Peer(2)).unwrap().state, PeerState::Streaming);
    world.write(5000);
    world.pass(TRAIL_DELAY);
    assert_eq!(world.nodes[2].flush(), world.primary.end);
    assert_eq!(world.nodes[2].wal, world.nodes[0].wal);
}

#[test]
fn a_slow_safekeeper_from_under_which_the_ring_is_trimmed_learns_from_others() {
    let mut world = World::with_ring(64 << 10);
    world.settle();
    world.pass(Duration::from_secs(1));
    world.nodes[2].blocked = true;
    world.write(1 << 20);
    world.settle();
    assert_eq!(world.primary.flushed, world.primary.end);
    assert_eq!(world.leader.peer_status(Peer(2)).unwrap().state, PeerState::CatchingUp);
}

#[test]
fn feedback_is_the_least_of_all_and_is_withdrawn() {
    let mut world = World::new().leading();
    assert_eq!(world.primary.feedback, [(0, 0)], "the slot may remember what nobody needs any more");
    let feedback = |world: &mut World, peer: usize, xmin: u64, catalog_xmin: u64| {
        let response = AppendResponse {
            generation: 1,
            term: Term(1),
            flush: world.nodes[peer].flush(),
            commit: Lsn(0),
            standby: HotStandbyFeedback { time: 0, xmin, catalog_xmin },
            feedback: None,
        };
        world.leader.handle_push_message(world.now, Peer(peer), AcceptorMessage::Append(response));
        world.settle();
    };
    feedback(&mut world, 0, 900, 0);
    feedback(&mut world, 1, 800, 700);
    feedback(&mut world, 1, 800, 700);
    feedback(&mut world, 1, 0, 0);
    world.crash(0);
    world.settle();
    assert_eq!(world.primary.feedback, [(0, 0), (900, 0), (800, 700), (900, 0), (0, 0)]);
}

#[test]
fn nobody_can_acknowledge_what_was_never_sent() {
    let mut world = World::new().leading();
    let answered = world.primary.flushed;
    for peer in 0..3 {
        let flush = Lsn(world.primary.end.0 + 8);
        let response = AppendResponse { generation: 1, term: Term(1), flush, ..AppendResponse::default() };
        world.leader.handle_push_message(world.now, Peer(peer), AcceptorMessage::Append(response));
    }
    world.settle();
    assert_eq!(world.primary.flushed, answered);
    assert!(world.leader.peer_status(Peer(0)).unwrap().error.unwrap().contains("never sent"));
}

#[test]
fn messages_out_of_turn_end_the_session_and_nothing_else() {
    let mut world = World::new();
    for _ in 0..400 {
        if matches!(world.nodes[0].inbox.front(), Some(ProposerMessage::Greeting(_))) {
            break;
        }
        world.step(2);
    }
    let early = AppendResponse { generation: 1, term: Term(1), flush: Lsn(1), ..AppendResponse::default() };
    world.leader.handle_push_message(world.now, Peer(0), AcceptorMessage::Append(early));
    let state = world.leader.peer_status(Peer(0)).unwrap();
    assert_eq!((state.state, state.error.is_some()), (PeerState::Offline, true));
    world.pass(Duration::from_secs(2));
    assert_eq!(world.leader.state(), State::Leading);
    assert_eq!(world.leader.peer_status(Peer(0)).unwrap().state, PeerState::Streaming);
}

#[test]
fn a_stream_that_jumps_ends_the_term() {
    let mut world = World::new().leading();
    let beyond = Lsn(world.primary.end.0 + 1);
    world.leader.handle_wal(world.now, beyond, bytes::Bytes::from_static(b"x"));
    assert_eq!(world.leader.term(), None);
    assert!(world.leader.trouble().unwrap().contains("jumped"));
}

#[test]
fn who_is_not_needed_for_a_commit_gets_wal_in_larger_batches() {
    let mut world = World::new().leading();
    world.pass(Duration::from_secs(1));
    clear(&mut world);
    for _ in 0..50 {
        world.write(64);
        world.settle();
        assert_eq!(world.primary.flushed, world.primary.end, "two of three commit at once");
        world.pass(Duration::from_millis(1));
    }
    let mut counts: Vec<usize> = world.nodes.iter().map(|node| node.appends.len()).collect();
    counts.sort_unstable();
    assert!(counts[0] <= 11 && counts[1] >= 50 && counts[2] >= 50, "appends: {counts:?}");
    world.pass(TRAIL_DELAY);
    assert!(world.nodes.iter().all(|node| node.flush() == world.primary.end), "nobody is left behind");
}

#[test]
fn a_large_batch_does_not_wait() {
    let mut world = World::new().leading();
    world.pass(Duration::from_secs(1));
    world.write(128 << 10);
    world.settle();
    assert!(world.nodes.iter().all(|node| node.flush() == world.primary.end));
}

#[test]
fn a_safekeeper_that_stalls_trades_its_place_with_the_trailing_one() {
    let mut world = World::new().leading();
    world.pass(Duration::from_secs(1));
    world.write(64);
    world.settle();
    let needed = (0..3).find(|&index| world.nodes[index].flush() == world.primary.end).unwrap();
    world.nodes[needed].frozen = true;
    world.write(64);
    world.settle();
    assert!(world.primary.flushed < world.primary.end);
    world.pass(TRAIL_DELAY);
    assert_eq!(world.primary.flushed, world.primary.end, "the third one helps after the delay");
    for _ in 0..5 {
        world.write(64);
        world.settle();
        assert_eq!(world.primary.flushed, world.primary.end, "and at once from then on");
    }
}

#[test]
fn a_session_that_ends_releases_what_the_others_wait_for() {
    let mut world = World::new().leading();
    world.pass(Duration::from_secs(1));
    world.write(64);
    world.settle();
    let needed = (0..3).find(|&index| world.nodes[index].flush() == world.primary.end).unwrap();
    world.crash(needed);
    world.write(64);
    world.settle();
    assert_eq!(world.primary.flushed, world.primary.end, "no delay once it is known to be away");
}

/// No commit LSN lies inside a record, nor in the zeros behind a segment switch: holding the stream back there would be for ever.
#[test]
fn a_record_longer_than_the_ring_is_relayed_whole() {
    let mut world = World::with_ring(10_000).leading();
    world.pass(Duration::from_secs(1));
    world.nodes.iter_mut().for_each(|node| node.lazy = true);
    world.write(50_000);
    world.pass(Duration::from_secs(1));
    assert_eq!(world.leader.status().received, Some(world.primary.end), "{:?}", world.leader.status());
    world.nodes.iter_mut().for_each(Node::sync);
    world.settle();
    assert_eq!(world.primary.flushed, world.primary.end);
}

#[test]
fn the_stream_is_held_back_while_no_majority_takes_what_there_is() {
    let mut world = World::with_ring(10_000).leading();
    world.pass(Duration::from_secs(1));
    world.crash(1);
    world.crash(2);
    let before = world.primary.end;
    world.write(2_000_000);
    world.pass(Duration::from_secs(1));
    let received = world.leader.status().received.unwrap();
    assert!(received > before && received < world.primary.end, "{received}");
}
