//! A proposer's session against a whole keeper with real storage on a simulated disk.

use crate::rig::{Rig, START, SYSTEM, segment_size, wal};
use bytes::Bytes;
use consensus::AcceptorMessage;
use disk::{Op, SimDisk};
use keeper::UNSYNCED_BYTES_MAX;
use lsn::{Lsn, Term};
use quorum_proto::ProtoVersion;
use std::io;
use std::time::Duration;
use wal_format::build::WalBuilder;

#[test]
fn a_record_is_acknowledged_after_its_sync_and_only_whole() {
    let mut rig = Rig::new();
    let session = rig.lead_from_nothing(1);
    let mut wal = wal();
    let first = wal.record(&[7; 100]);
    wal.record(&[8; 5000]);
    let middle = Lsn(first.0 + 1000);
    rig.append(session, 1, START, wal.slice(START, middle), START);
    assert!(rig.acknowledged().is_empty(), "nothing is acknowledged before the sync");
    assert_eq!(rig.syncs, 1);
    rig.settle();
    assert_eq!(rig.last_flush(), first, "the record that is not whole is not acknowledged");
    rig.append(session, 1, middle, wal.slice(middle, wal.end()), START);
    rig.settle();
    assert_eq!(rig.last_flush(), wal.end());
}

#[test]
fn what_arrives_during_one_sync_shares_the_next() {
    let mut rig = Rig::new();
    let session = rig.lead_from_nothing(1);
    let mut wal = wal();
    let mut at = START;
    for _ in 0..20 {
        let end = wal.record(&[1; 300]);
        rig.append(session, 1, at, wal.slice(at, end), START);
        at = end;
    }
    assert_eq!(rig.syncs, 1, "the first sync is still under way");
    rig.settle();
    assert_eq!(rig.syncs, 2, "one more covers all the rest");
    assert_eq!(rig.last_flush(), at);
}

#[test]
fn unsynced_bytes_and_queues_are_bounded() {
    let mut rig = Rig::new();
    let session = rig.lead_from_nothing(1);
    let mut wal = wal();
    let mut at = START;
    let mut handed_in = 0_usize;
    while rig.keeper.wants_push(session) {
        let end = wal.fill_to(Lsn(at.0 + 100_000), 8000);
        rig.append(session, 1, at, wal.slice(at, end), START);
        handed_in += (end.0 - at.0) as usize;
        at = end;
        assert!(handed_in < 32 << 20, "the session never pushes back");
    }
    let view = rig.keeper.view(rig.now);
    assert!(view.written.bytes_since(view.row.flush) <= UNSYNCED_BYTES_MAX);
    assert!(view.receivers[0].queue_bytes <= keeper::QUEUE_BYTES_MAX + consensus::MAX_APPEND_BYTES);
    rig.settle();
    assert_eq!(rig.last_flush(), at);
    assert!(rig.keeper.wants_push(session));
}

#[test]
fn what_was_acknowledged_is_there_after_power_loss() {
    for seed in 0..40 {
        let mut rig = Rig::new();
        let session = rig.lead_from_nothing(1);
        let mut wal = wal();
        let mut at = START;
        for round in 0..12 {
            let end = wal.record(&vec![round as u8; 200 + 90_000 * (round % 3)]);
            for piece in (at.0..end.0).step_by(100_000) {
                let stop = Lsn((piece + 100_000).min(end.0));
                rig.append(session, 1, Lsn(piece), wal.slice(Lsn(piece), stop), START);
            }
            at = end;
            if round % 4 == 3 {
                rig.settle();
            } else if seed % 2 == 0 {
                rig.complete_one();
            }
        }
        let acknowledged = rig.last_flush();
        assert!(acknowledged > START);
        rig.disk.crash(seed);
        let rig = rig.restart();
        assert!(rig.keeper.timeline_status().0 >= acknowledged, "seed {seed}");
    }
}

#[test]
fn a_vote_survives_power_loss_and_is_given_once() {
    let mut rig = Rig::new();
    rig.lead_from_nothing(3);
    let candidate = rig.connect(2);
    rig.greet(candidate);
    rig.vote(candidate, 7);
    assert!(!rig.sent.iter().any(|(to, message)| *to == candidate && matches!(message, AcceptorMessage::Vote(_))));
    rig.settle();
    let granted = |rig: &Rig| {
        rig.sent.iter().rev().find_map(|(_, message)| match message {
            AcceptorMessage::Vote(vote) => Some(vote.granted),
            _ => None,
        })
    };
    assert_eq!(granted(&rig), Some(true));
    rig.disk.crash(5);
    let mut rig = rig.restart();
    let other = rig.connect(3);
    rig.greet(other);
    rig.vote(other, 7);
    rig.settle();
    assert_eq!(granted(&rig), Some(false));
}

#[test]
fn bytes_that_are_not_wal_end_the_session_and_harm_nothing() {
    let mut rig = Rig::new();
    let session = rig.lead_from_nothing(1);
    let mut wal = wal();
    let good = wal.record(&[1; 50]);
    rig.append(session, 1, START, wal.slice(START, good), START);
    rig.settle();
    rig.append(session, 1, good, &[0xAB; 64], START);
    rig.settle();
    assert!(rig.closed[0].1.contains("is not valid"), "{:?}", rig.closed);
    assert_eq!(rig.keeper.timeline_status().0, good);
    let again = rig.connect(9);
    rig.greet(again);
    rig.elect(again, good, &[(1, START)]);
    rig.settle();
    let end = wal.record(&[2; 50]);
    rig.append(again, 1, good, wal.slice(good, end), START);
    rig.settle();
    assert_eq!(rig.last_flush(), end);
}

#[test]
fn garbage_ends_the_session() {
    let mut rig = Rig::new();
    let session = rig.connect(1);
    rig.keeper.handle_push(rig.now, session, Bytes::from_static(b"zzz"));
    rig.carry_out();
    assert_eq!(rig.closed.len(), 1);
    let session = rig.connect(2);
    rig.vote(session, 1);
    assert!(rig.closed[1].1.contains("greeting"), "{:?}", rig.closed);
}

#[test]
fn what_lies_below_a_terms_start_is_pulled_before_anything_is_committed_in_it() {
    let mut rig = Rig::new();
    let session = rig.lead_from_nothing(1);
    let mut wal = wal();
    let end = wal.fill_to(Lsn(START.0 + 300_000), 7000);
    rig.vote(session, 2);
    rig.settle();
    rig.elect(session, START, &[(1, START), (2, end)]);
    rig.settle();
    // The leader can commit nothing before a majority reaches its start, and we are needed for it.
    rig.append(session, 2, end, &[], Lsn(0));
    rig.settle();
    assert_eq!(rig.pulls, vec![(Term(2), START, end)]);
    assert!(!rig.keeper.handle_pulled(rig.now, Term(2), START, Bytes::copy_from_slice(wal.slice(START, end))));
    rig.keeper.handle_pull_ended(rig.now, Ok(()));
    rig.settle();
    assert_eq!(rig.last_flush(), end);
}

#[test]
fn a_gap_that_only_a_peer_can_fill_is_pulled_and_acknowledged() {
    let mut rig = Rig::new();
    let session = rig.lead_from_nothing(1);
    let mut wal = wal();
    let end = wal.fill_to(Lsn(START.0 + 3_000_000), 7000);
    rig.append(session, 1, end, &[], end);
    rig.settle();
    assert_eq!(rig.pulls, vec![(Term(1), START, end)]);
    let mut at = START;
    while at < end {
        let to = Lsn((at.0 + 131_072).min(end.0));
        let more = rig.keeper.handle_pulled(rig.now, Term(1), at, Bytes::copy_from_slice(wal.slice(at, to)));
        assert_eq!(more, to < end);
        rig.settle();
        at = to;
    }
    rig.keeper.handle_pull_ended(rig.now, Ok(()));
    rig.settle();
    assert_eq!(rig.last_flush(), end);
    assert_eq!(rig.keeper.timeline_status().1, end);
    assert!(!rig.keeper.handle_pulled(rig.now, Term(1), at, Bytes::from_static(b"more")), "the pull is over");
}

#[test]
fn a_full_disk_refuses_appends_and_resumes() {
    let mut rig = Rig::new();
    let session = rig.lead_from_nothing(1);
    let mut wal = wal();
    let kept = wal.record(&[1; 1000]);
    rig.append(session, 1, START, wal.slice(START, kept), START);
    rig.settle();
    rig.disk.set_free_space(Some(0));
    let end = wal.fill_to(Lsn(START.0 + 1_500_000), 9000);
    let mut at = kept;
    while at < end && rig.closed.is_empty() {
        let to = Lsn((at.0 + 131_072).min(end.0));
        rig.append(session, 1, at, wal.slice(at, to), START);
        at = to;
    }
    rig.settle();
    assert!(rig.closed[0].1.contains("no space"), "{:?}", rig.closed);
    let acknowledged = rig.last_flush();
    rig.disk.set_free_space(None);
    let again = rig.connect(5);
    rig.greet(again);
    rig.vote(again, 1);
    rig.settle();
    let flush = rig.keeper.timeline_status().0;
    assert!(flush >= acknowledged);
    rig.elect(again, flush, &[(1, START)]);
    rig.settle();
    let mut at = flush;
    while at < end {
        let to = Lsn((at.0 + 131_072).min(end.0));
        rig.append(again, 1, at, wal.slice(at, to), START);
        rig.settle();
        at = to;
    }
    assert_eq!(rig.last_flush(), end);
}

#[test]
fn a_failed_sync_stops_the_cluster_for_good() {
    let mut rig = Rig::new();
    let session = rig.lead_from_nothing(1);
    let mut wal = wal();
    let end = wal.record(&[1; 1000]);
    rig.disk.fail(Op::Sync, 0, io::ErrorKind::Other);
    rig.append(session, 1, START, wal.slice(START, end), START);
    rig.settle();
    assert!(rig.acknowledged().is_empty());
    assert!(rig.closed[0].1.contains("stopped"), "{:?}", rig.closed);
    let candidate = rig.connect(2);
    rig.greet(candidate);
    rig.vote(candidate, 9);
    rig.settle();
    assert!(rig.acknowledged().is_empty());
    assert!(!rig.sent.iter().any(|(to, _)| *to == candidate));
}

#[test]
fn both_protocol_versions_carry_a_whole_session() {
    for version in [ProtoVersion::V2, ProtoVersion::V3] {
        let mut rig = Rig::foreign(version);
        let session = rig.lead_from_nothing(1);
        let mut wal = wal();
        let end = wal.record(&[9; 3000]);
        rig.append(session, 1, START, wal.slice(START, end), START);
        rig.settle();
        assert_eq!(rig.last_flush(), end, "{version:?}");
        assert!(rig.closed.is_empty());
    }
}

#[test]
fn a_foreign_log_may_begin_inside_a_segment() {
    let mut rig = Rig::foreign(ProtoVersion::V3);
    let start = Lsn(START.0 + 20_520);
    let session = rig.connect(1);
    rig.greet(session);
    rig.vote(session, 1);
    rig.settle();
    rig.elect(session, start, &[(1, start)]);
    rig.settle();
    let mut wal = WalBuilder::new(segment_size(), start).with_system_id(SYSTEM);
    let end = wal.record(&[9; 3000]);
    rig.append(session, 1, start, wal.slice(start, end), start);
    rig.settle();
    assert_eq!(rig.last_flush(), end);
    rig.disk.crash(3);
    let rig = rig.restart();
    assert_eq!(rig.keeper.timeline_status().0, end);
}

#[test]
fn a_session_of_generation_0_is_refused_where_there_is_a_record() {
    let mut rig = Rig::new();
    let session = rig.connect(1);
    rig.greet(session);
    let request = consensus::VoteRequest { generation: 0, term: Term(1) };
    rig.tell(session, &consensus::ProposerMessage::Vote(request));
    assert!(rig.closed[0].1.contains("generation"), "{:?}", rig.closed);
}

#[test]
fn the_floor_follows_within_a_second_and_old_segments_go() {
    let mut rig = Rig::new();
    let session = rig.lead_from_nothing(1);
    let mut wal = wal();
    let end = wal.fill_to(Lsn(START.0 + (8 << 20)), 60_000);
    let mut at = START;
    while at < end {
        let to = Lsn((at.0 + 131_072).min(end.0));
        rig.append(session, 1, at, wal.slice(at, to), at);
        rig.settle();
        at = to;
    }
    rig.append(session, 1, end, &[], end);
    rig.settle();
    rig.now += Duration::from_secs(2);
    for _ in 0..2 {
        rig.keeper.handle_timeout(rig.now);
        rig.settle();
        rig.now += Duration::from_secs(2);
        rig.append(session, 1, end, &[], end);
        let more = wal.record(&[3; 10]);
        let _ = more;
    }
    let view = rig.keeper.view(rig.now);
    assert!(view.oldest > START, "{view:?}");
    assert!(view.row.flush.bytes_since(view.oldest) >= 4 << 20, "as much as was allowed is still here");
    let disk: &SimDisk = &rig.disk;
    disk.kill();
    let rig = rig.restart();
    assert_eq!(rig.keeper.timeline_status(), (end, end));
}
