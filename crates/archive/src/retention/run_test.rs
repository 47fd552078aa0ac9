//! Runs over a replica in memory. Nothing here waits a day: tombstones are made older instead.

use super::*;
use backup_format::{Blob, Chunk, Hold, LsnOnTli, Snapshot, WalRange};
use bytes::Bytes;
use lsn::{Lsn, SegmentSize, SystemId, Tli};
use replica_client::{Archive, Codec, CommitTimes, Era, EraName, Generation, Parent, Part, PieceName, Store};

const HOUR: i64 = 3600;

async fn replica() -> (PostgresReplica, Generation) {
    let era = Era {
        system_id: SystemId(7),
        name: EraName::parse("solo-1").unwrap(),
        segment_size: SegmentSize::new(1 << 20).unwrap(),
        server_version: 150_000,
        cluster: "c".into(),
        previous: None,
    };
    let replica = Archive::new(Store::memory(), Codec::default()).claim(&era).await.unwrap();
    let generation = Generation::of_tli(0, Tli(1));
    replica.put_parent(generation, Parent::Root).await.unwrap();
    (replica, generation)
}

fn hours_ago(hours: i64) -> Timestamp {
    Timestamp::from_second(Timestamp::now().as_second() - hours * HOUR).unwrap()
}

/// A snapshot in this segment, complete so many hours ago.
async fn snapshot(replica: &PostgresReplica, generation: Generation, segment: u64, age: i64) {
    let begin = Lsn((segment << 20) + 0x28);
    let on = |lsn| LsnOnTli { lsn, tli: generation.tli() };
    let end = Lsn(begin.0 + 0x100);
    let writer = replica.begin_snapshot(generation, begin).await.unwrap();
    let stored = writer.put_part_bytes(Part::Chunk(0), Bytes::from_static(b"chunk")).await.unwrap();
    let description = Snapshot {
        version: 1,
        system_id: SystemId(7),
        server_version: 150_000,
        segment_size: SegmentSize::new(1 << 20).unwrap(),
        begin: on(begin),
        end: on(end),
        wal_ranges: vec![WalRange { tli: generation.tli(), begin, end }],
        begin_time: hours_ago(age),
        end_time: hours_ago(age),
        from_standby: false,
        label: "l".into(),
        tablespaces: vec![],
        damaged_pages: vec![],
        chunks: vec![Chunk { number: 0, length: stored.length, crc32c: stored.crc32c }],
        manifest: Blob { length: 0, crc32c: 0 },
        files: 0,
        bytes: 0,
    };
    writer.finish(&description.to_json()).await.unwrap();
}

async fn wal(replica: &PostgresReplica, generation: Generation, segments: std::ops::Range<u64>) {
    for segment in segments {
        let plain = Bytes::from(vec![1; 1 << 20]);
        replica.put_piece(generation, PieceName::segment(segment), plain, CommitTimes::default()).await.unwrap();
    }
}

fn options() -> RetainOptions {
    RetainOptions { window: Duration::from_secs(24 * 3600), dry_run: false, sole: Sole::Lease, holder: "me".into() }
}

/// What is there: beginnings of snapshots by segment, and segments of WAL.
async fn there(replica: &PostgresReplica, generation: Generation) -> (Vec<u64>, Vec<u64>) {
    let snapshots = replica.snapshots(generation).await.unwrap().iter().map(|snapshot| snapshot.at >> 20).collect();
    let pieces = replica.pieces(generation, 0..=u64::MAX).await.unwrap().iter().map(|piece| piece.name.index).collect();
    (snapshots, pieces)
}

/// As if the tombstones had been put two days earlier.
async fn age_tombstones(replica: &PostgresReplica) {
    for info in replica.control_list(Control::Tombstone).await.unwrap() {
        let bytes = replica.control_get(Control::Tombstone, &info.name).await.unwrap().unwrap();
        if let Some(mut tombstone) = Tombstone::from_json(&bytes) {
            tombstone.made = Timestamp::from_second(tombstone.made.as_second() - 48 * HOUR).unwrap();
            replica.control_put(Control::Tombstone, &info.name, tombstone.to_json().into()).await.unwrap();
        }
    }
}

/// Snapshots 72, 48 and 1 hours old in segments 1, 4 and 7, and all WAL.
async fn filled() -> (PostgresReplica, Generation) {
    let (replica, root) = replica().await;
    for (segment, age) in [(1, 72), (4, 48), (7, 1)] {
        snapshot(&replica, root, segment, age).await;
    }
    wal(&replica, root, 1..10).await;
    (replica, root)
}

#[tokio::test]
async fn marked_first_and_deleted_a_day_later() {
    let (replica, root) = filled().await;
    let all = (vec![1, 4, 7], (1..10).collect::<Vec<_>>());
    let outcome = run(&replica, &RetainOptions { dry_run: true, ..options() }).await.unwrap();
    assert_eq!((outcome.superfluous.snapshots.len(), outcome.superfluous.pieces[&root].len()), (1, 3));
    assert!(replica.control_list(Control::Tombstone).await.unwrap().is_empty(), "a dry run leaves nothing");
    for _ in 0..3 {
        let outcome = run(&replica, &options()).await.unwrap();
        assert!(outcome.deleted.is_empty());
        assert_eq!(there(&replica, root).await, all);
    }
    let tombstones = replica.control_list(Control::Tombstone).await.unwrap();
    assert_eq!(tombstones.iter().filter(|info| info.name != CLOCK).count(), 1, "what is marked is not marked again");
    age_tombstones(&replica).await;
    let outcome = run(&replica, &options()).await.unwrap();
    assert_eq!(there(&replica, root).await, (vec![4, 7], (4..10).collect()));
    assert_eq!(outcome.deleted, outcome.superfluous);
    assert!(outcome.objects >= 4, "{}", outcome.objects);
    let again = run(&replica, &options()).await.unwrap();
    assert!(again.superfluous.is_empty() && again.deleted.is_empty());
    assert_eq!(replica.control_list(Control::Tombstone).await.unwrap().len(), 1, "only the clock is left");
}

#[tokio::test]
async fn a_hold_put_after_the_mark_is_honoured() {
    let (replica, root) = filled().await;
    run(&replica, &options()).await.unwrap();
    age_tombstones(&replica).await;
    let hold = Hold::new("restore", "other", root.to_string(), Lsn((1 << 20) + 0x28), Timestamp::now());
    replica.control_put(Control::Hold, "restore-other", hold.to_json().into()).await.unwrap();
    let outcome = run(&replica, &options()).await.unwrap();
    assert!(outcome.deleted.is_empty());
    assert_eq!(there(&replica, root).await.0, [1, 4, 7]);
    // It ran out, an hour for the clocks included.
    let expired = Hold { expires: hours_ago(2), ..hold };
    replica.control_put(Control::Hold, "restore-other", expired.to_json().into()).await.unwrap();
    run(&replica, &options()).await.unwrap();
    age_tombstones(&replica).await;
    run(&replica, &options()).await.unwrap();
    assert_eq!(there(&replica, root).await.0, [4, 7]);
    assert!(replica.control_list(Control::Hold).await.unwrap().is_empty(), "it is swept");
}

#[tokio::test]
async fn an_unreadable_snapshot_stops_everything() {
    let (replica, root) = filled().await;
    run(&replica, &options()).await.unwrap();
    age_tombstones(&replica).await;
    let writer = replica.begin_snapshot(root, Lsn(0x80_0028)).await.unwrap();
    writer.finish(b"{\"version\": 9}").await.unwrap();
    let error = run(&replica, &options()).await.unwrap_err();
    assert!(matches!(error, RetentionError::Snapshot { .. }) && error.is_refusal(), "{error}");
    assert_eq!(there(&replica, root).await.1, (1..10).collect::<Vec<_>>());
}

#[tokio::test]
async fn only_the_holder_of_the_lease_deletes() {
    let (replica, _) = filled().await;
    let lease = replica.acquire_lease("other", Duration::from_secs(600), Duration::ZERO).await.unwrap();
    tokio::time::pause();
    let error = run(&replica, &options()).await.unwrap_err();
    assert!(matches!(error, RetentionError::Busy(_)), "{error}");
    lease.release().await.unwrap();
    run(&replica, &options()).await.unwrap();
    run(&replica, &RetainOptions { sole: Sole::Promised, ..options() }).await.unwrap();
}

#[tokio::test]
async fn a_window_of_nothing_is_refused() {
    let (replica, _) = filled().await;
    let nothing = RetainOptions { window: Duration::ZERO, sole: Sole::Promised, ..options() };
    assert!(matches!(run(&replica, &nothing).await, Err(RetentionError::NoWindow)));
}
