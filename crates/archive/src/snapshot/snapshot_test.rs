//! Snapshots into a replica in memory: all there, or nothing that counts.

use super::*;
use backup_format::chunk::{Decoder, Event};
use backup_format::{Blob, DataPath, LsnOnTli, Snapshot, SnapshotError as DescriptionError, WalRange};
use bytes::Bytes;
use lsn::{Lsn, SegmentSize, SystemId, Tli};
use replica_client::{
    Archive, Codec, CommitTimes, Control, Era, EraName, Generation, Parent, Part, PieceName, Plain, PostgresReplica,
    Store,
};
use std::collections::BTreeMap;
use std::time::Duration;

const BEGIN: Lsn = Lsn(0x20_0028);
const END: Lsn = Lsn(0x20_0100);

fn segment_size() -> SegmentSize {
    SegmentSize::new(1 << 20).unwrap()
}

async fn replica() -> (PostgresReplica, Generation) {
    let era = Era {
        system_id: SystemId(7),
        name: EraName::parse("solo-1").unwrap(),
        segment_size: segment_size(),
        server_version: 150_000,
        cluster: "c".into(),
        previous: None,
    };
    let replica = Archive::new(Store::memory(), Codec::default()).claim(&era).await.unwrap();
    let generation = Generation::of_tli(0, Tli(1));
    replica.put_parent(generation, Parent::Root).await.unwrap();
    (replica, generation)
}

fn files() -> BTreeMap<String, Vec<u8>> {
    (0..40).map(|number| (format!("base/{number}"), vec![number as u8; number * 97])).collect()
}

fn options(holder: &str) -> SnapshotOptions {
    SnapshotOptions { chunk_bytes: 10_000, ..SnapshotOptions::new(holder) }
}

async fn fill(taker: &mut SnapshotTaker, files: &BTreeMap<String, Vec<u8>>) {
    taker.directory(DataPath::parse("base").unwrap(), 0o700).await.unwrap();
    for (path, content) in files {
        taker.file(DataPath::parse(path.as_str()).unwrap(), 0o600, content.len() as u64).await.unwrap();
        for run in content.chunks(1000) {
            taker.data(Bytes::copy_from_slice(run)).await.unwrap();
        }
    }
}

async fn sealed(replica: &PostgresReplica, generation: Generation, holder: &str) -> Result<Sealed, SnapshotError> {
    let mut taker = SnapshotTaker::begin(replica, generation, BEGIN, &options(holder)).await?;
    fill(&mut taker, &files()).await;
    taker.seal(Bytes::from_static(b"manifest")).await
}

fn on(lsn: Lsn, tli: u32) -> LsnOnTli {
    LsnOnTli { lsn, tli: Tli(tli) }
}

fn range(tli: u32, begin: Lsn, end: Lsn) -> WalRange {
    WalRange { tli: Tli(tli), begin, end }
}

fn description() -> Snapshot {
    Snapshot {
        version: 1,
        system_id: SystemId(7),
        server_version: 150_000,
        segment_size: segment_size(),
        begin: on(BEGIN, 1),
        end: on(END, 1),
        wal_ranges: vec![range(1, BEGIN, END)],
        begin_time: "2024-05-01T10:00:00Z".parse().unwrap(),
        end_time: "2024-05-01T10:00:09Z".parse().unwrap(),
        from_standby: false,
        label: "l".into(),
        tablespaces: vec![],
        damaged_pages: vec![],
        chunks: vec![],
        manifest: Blob { length: 0, crc32c: 0 },
        files: 40,
        bytes: files().values().map(|content| content.len() as u64).sum(),
    }
}

/// Everything a published snapshot holds.
async fn unpack(replica: &PostgresReplica, generation: Generation, snapshot: &Snapshot) -> BTreeMap<String, Vec<u8>> {
    let mut files: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    for chunk in &snapshot.chunks {
        let reader = replica.open_part(generation, BEGIN, Part::Chunk(chunk.number)).unwrap();
        let mut reader = reader.expect(Plain { length: chunk.length, crc32c: chunk.crc32c });
        let (mut decoder, mut parts) = (Decoder::new(), Vec::new());
        while let Some(bytes) = reader.next().await.unwrap() {
            decoder.push(bytes);
            while let Some(event) = decoder.poll().unwrap() {
                match event {
                    Event::Index(index) => parts = index,
                    Event::Data { part, offset, bytes } => {
                        let part = &parts[part];
                        let file = files.entry(part.path.to_string()).or_insert_with(|| vec![0; part.size as usize]);
                        file[offset as usize..][..bytes.len()].copy_from_slice(&bytes);
                    }
                    Event::PartDone(part) if parts[part].kind == backup_format::Kind::File => {
                        files.entry(parts[part].path.to_string()).or_default();
                    }
                    Event::PartDone(_) => {}
                }
            }
        }
        decoder.finish().unwrap();
    }
    files
}

#[tokio::test]
async fn what_was_taken_is_there() {
    let (replica, generation) = replica().await;
    let sealed = sealed(&replica, generation, "me").await.unwrap();
    assert!(replica.snapshots(generation).await.unwrap().is_empty(), "sealed is not published");
    let snapshot = sealed.publish(description()).await.unwrap();
    assert!(snapshot.chunks.len() > 5, "{}", snapshot.chunks.len());
    assert_eq!(snapshot.manifest.length, 8);
    let listed = replica.snapshots(generation).await.unwrap();
    assert_eq!(listed.iter().map(|snapshot| snapshot.at).collect::<Vec<_>>(), [BEGIN.0]);
    let read = Snapshot::from_json(&replica.read_snapshot(generation, BEGIN).await.unwrap()).unwrap();
    assert_eq!(read, snapshot);
    assert_eq!(unpack(&replica, generation, &snapshot).await, files());
    assert!(replica.control_list(Control::Hold).await.unwrap().is_empty(), "the claim is gone");
}

#[tokio::test]
async fn given_up_at_any_point_it_never_was() {
    let (replica, generation) = replica().await;
    for point in 0..4 {
        let mut taker = SnapshotTaker::begin(&replica, generation, BEGIN, &options("me")).await.unwrap();
        if point > 0 {
            fill(&mut taker, &files()).await;
        }
        match point {
            // Dropped, as by a kill, and found by the next one.
            0 | 1 => drop(taker),
            2 => taker.abandon().await.unwrap(),
            _ => taker.seal(Bytes::new()).await.unwrap().abandon().await.unwrap(),
        }
        assert!(replica.snapshots(generation).await.unwrap().is_empty());
        let is_empty = replica.snapshot_parts(generation, BEGIN).await.unwrap().is_empty();
        assert_eq!(is_empty, point != 1, "{point}");
    }
    sealed(&replica, generation, "me").await.unwrap().publish(description()).await.unwrap();
}

#[tokio::test]
async fn of_two_with_one_beginning_only_a_whole_one_counts() {
    let (replica, generation) = replica().await;
    let first = sealed(&replica, generation, "first").await.unwrap();
    // It is claimed, and the claim is fresh.
    assert!(matches!(sealed(&replica, generation, "second").await, Err(SnapshotError::Busy { .. })));
    // The first is silent for long: its claim is taken over, its chunks are thrown away.
    let name = replica.control_list(Control::Hold).await.unwrap()[0].name.clone();
    replica.control_delete(Control::Hold, &[name]).await.unwrap();
    let second = sealed(&replica, generation, "second").await.unwrap();
    assert!(matches!(
        first.publish(description()).await,
        Err(SnapshotError::PartsGone { .. } | SnapshotError::Lost(_))
    ));
    let snapshot = second.publish(description()).await.unwrap();
    assert_eq!(unpack(&replica, generation, &snapshot).await, files());
    assert!(sealed(&replica, generation, "third").await.is_err(), "a finished one stays");
    assert_eq!(unpack(&replica, generation, &snapshot).await, files());
}

#[tokio::test]
async fn one_that_lost_its_claim_throws_nothing_of_others_away() {
    let (replica, generation) = replica().await;
    let first = sealed(&replica, generation, "first").await.unwrap();
    let name = replica.control_list(Control::Hold).await.unwrap()[0].name.clone();
    replica.control_delete(Control::Hold, &[name]).await.unwrap();
    let second = sealed(&replica, generation, "second").await.unwrap();
    assert!(matches!(first.abandon().await, Err(SnapshotError::Lost(_))));
    second.publish(description()).await.unwrap();
}

#[tokio::test]
async fn a_contradictory_description_is_not_published() {
    let (replica, generation) = replica().await;
    let taken = sealed(&replica, generation, "me").await.unwrap();
    let wrong = Snapshot { end: on(BEGIN, 1), ..description() };
    let error = taken.publish(wrong).await.unwrap_err();
    assert!(matches!(error, SnapshotError::Description(DescriptionError::Wrong(_))), "{error}");
    assert!(replica.snapshots(generation).await.unwrap().is_empty());
}

#[tokio::test]
async fn one_whose_chunk_vanished_is_not_published() {
    let (replica, generation) = replica().await;
    let taken = sealed(&replica, generation, "me").await.unwrap();
    let chunk = |key: &String| key.contains("/chunks/");
    let keys: Vec<String> =
        replica.store().list("generations").await.unwrap().into_iter().map(|object| object.key).collect();
    let gone = keys.into_iter().find(chunk).unwrap();
    replica.store().delete(vec![gone]).await.unwrap();
    let error = taken.publish(description()).await.unwrap_err();
    assert!(matches!(error, SnapshotError::PartsGone { missing: 1 }), "{error}");
    assert!(replica.snapshots(generation).await.unwrap().is_empty());
}

async fn put_wal(replica: &PostgresReplica, generation: Generation, index: u64, start: u64, end: u64) {
    let bytes = Bytes::from(vec![7; (end - start) as usize]);
    let piece = PieceName::of_segment(index, start..end);
    replica.put_piece(generation, piece, bytes, CommitTimes::default()).await.unwrap();
}

#[tokio::test]
async fn it_waits_for_its_wal_from_the_start_of_its_segment() {
    let (replica, generation) = replica().await;
    let mut taken = sealed(&replica, generation, "me").await.unwrap();
    let ranges = [range(1, BEGIN, END)];
    put_wal(&replica, generation, 2, 0x28, 0x1000).await;
    let missing = taken.await_wal(&ranges, segment_size(), Duration::ZERO, |_| ()).await.unwrap_err();
    assert!(matches!(missing, SnapshotError::WalMissing { needed: END, reached: Lsn(0x20_0000), .. }), "{missing}");
    put_wal(&replica, generation, 2, 0, 0xC0).await;
    let mut seen = Vec::new();
    let uploading = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        put_wal(&replica, generation, 2, 0x80, 0x2000).await;
    };
    let (outcome, ()) = tokio::join!(
        taken.await_wal(&ranges, segment_size(), Duration::from_secs(20), |reached| seen.push(reached)),
        uploading
    );
    outcome.unwrap();
    taken.publish(description()).await.unwrap();
}

#[tokio::test]
async fn wal_of_several_tlis_is_found_in_their_generations() {
    let (replica, root) = replica().await;
    let (switch, end) = (Lsn(0x28_0000), Lsn(0x38_0000));
    let ranges = [range(1, BEGIN, switch), range(2, switch, end)];
    let reach = async || wal_end(&replica, root, &ranges, segment_size()).await.unwrap();
    put_wal(&replica, root, 2, 0, 0x80000).await;
    assert_eq!(reach().await, switch, "the other TLI is not there");
    let child = Generation::of_tli(99, Tli(2));
    let stranger = Generation::of_tli(98, Tli(2));
    replica.put_parent(stranger, Parent::Of { generation: root, switch: Lsn(0x20_1000) }).await.unwrap();
    replica.put_parent(child, Parent::Of { generation: root, switch }).await.unwrap();
    for index in 2..4 {
        put_wal(&replica, stranger, index, 0, 1 << 20).await;
    }
    assert_eq!(reach().await, Lsn(0x20_0000), "its first segment is to be whole");
    put_wal(&replica, child, 2, 0, 1 << 20).await;
    assert_eq!(reach().await, Lsn(0x30_0000));
    put_wal(&replica, child, 3, 0, 1 << 20).await;
    assert_eq!(reach().await, end);
}
