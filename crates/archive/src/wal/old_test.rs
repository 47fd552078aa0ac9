//! Reading back, from a store in memory and one in a directory whose objects are damaged.

use super::*;
use crate::wal::lineage::tracks;
use lsn::{Path, SegmentSize};
use replica_client::{Codec, CommitTimes, Era, Store};
use wal_format::build::WalBuilder;

const SEGMENT: u64 = 1 << 20;
const ROOT: Generation = Generation(1);

fn size() -> SegmentSize {
    SegmentSize::new(SEGMENT).unwrap()
}

fn era() -> Era {
    Era {
        system_id: SystemId(7),
        name: EraName::parse("0123456789abcdef").unwrap(),
        segment_size: size(),
        server_version: 150_013,
        cluster: "main".to_owned(),
        previous: None,
    }
}

fn log(path: &str, end: Lsn) -> OldLog {
    let path: Path = path.parse().unwrap();
    OldLog { system_id: SystemId(7), era: era().name, tracks: tracks(&path, end, size()) }
}

/// WAL from segment 1 on, of four segments.
fn wal() -> WalBuilder {
    let mut wal = WalBuilder::new(size(), Lsn(SEGMENT)).with_system_id(SystemId(7));
    wal.fill_to(Lsn(5 * SEGMENT + 4000), 3000);
    wal
}

async fn put(replica: &PostgresReplica, generation: Generation, wal: &WalBuilder, run: Range<Lsn>) -> PieceName {
    let number = size().segment_of(run.start).0;
    let start = size().offset_of(run.start);
    let length = run.end.bytes_since(run.start);
    let name = match length == SEGMENT {
        true => PieceName::segment(number),
        false => PieceName::of_segment(number, start..start + length),
    };
    let bytes = Bytes::copy_from_slice(wal.slice(run.start, run.end));
    replica.put_piece(generation, name, bytes, CommitTimes::default()).await.unwrap();
    name
}

/// Everything from `from` on until there is no more, in parts of at most `max`.
async fn read_all(old: &OldWal, log: &OldLog, from: Lsn, max: usize) -> Vec<u8> {
    let mut all = Vec::new();
    while let Some(part) = old.read(log, from.saturating_add(all.len() as u64), max).await.unwrap() {
        assert!(!part.is_empty() && part.len() <= max);
        all.extend_from_slice(&part);
    }
    all
}

#[tokio::test]
async fn segments_and_pieces_are_read_from_any_byte() {
    let archive = Archive::new(Store::memory(), Codec::plain());
    let old = OldWal::new(archive.clone());
    let wal = wal();
    let end = wal.end();
    assert_eq!(old.read(&log("1:0/0:0", end), Lsn(SEGMENT), 9).await.unwrap(), None, "no era yet");
    let replica = archive.claim(&era()).await.unwrap();
    put(&replica, ROOT, &wal, Lsn(SEGMENT)..Lsn(2 * SEGMENT)).await;
    // The second in pieces that overlap, the third from its second page on, the fourth missing.
    let cut = wal.records().iter().find(|record| record.start > Lsn(2 * SEGMENT + 300_000)).unwrap().start;
    put(&replica, ROOT, &wal, Lsn(2 * SEGMENT)..cut).await;
    put(&replica, ROOT, &wal, Lsn(2 * SEGMENT)..Lsn(2 * SEGMENT + 8192)).await;
    put(&replica, ROOT, &wal, cut..Lsn(3 * SEGMENT)).await;
    put(&replica, ROOT, &wal, Lsn(3 * SEGMENT + 8192)..Lsn(4 * SEGMENT)).await;
    let log = log("1:0/0:0", end);
    for (from, max) in [(SEGMENT, 1 << 17), (SEGMENT + 77, 99_999), (2 * SEGMENT + 9000, 1 << 30), (cut.0 - 1, 5000)] {
        let read = read_all(&old, &log, Lsn(from), max).await;
        assert!(read == wal.slice(Lsn(from), Lsn(3 * SEGMENT)), "from {from}: {} bytes", read.len());
    }
    assert!(
        read_all(&old, &log, Lsn(3 * SEGMENT + 9000), 1 << 30).await
            == wal.slice(Lsn(3 * SEGMENT + 9000), Lsn(4 * SEGMENT))
    );
    for missing in [3 * SEGMENT, 4 * SEGMENT, 5 * SEGMENT, 99 * SEGMENT] {
        assert_eq!(old.read(&log, Lsn(missing), 100).await.unwrap(), None, "{missing}");
    }
    old.forget_unused(Duration::ZERO);
    assert!(old.state.try_lock().unwrap().kept.is_empty());
    assert!(old.read(&log, Lsn(SEGMENT), 100).await.unwrap().is_some());
}

#[tokio::test]
async fn a_generation_is_not_read_beyond_where_the_lineage_left_it() {
    let archive = Archive::new(Store::memory(), Codec::plain());
    let replica = archive.claim(&era()).await.unwrap();
    let wal = wal();
    let switch = wal.records().iter().find(|record| record.start > Lsn(2 * SEGMENT + 200_000)).unwrap().start;
    put(&replica, ROOT, &wal, Lsn(SEGMENT)..Lsn(2 * SEGMENT)).await;
    put(&replica, ROOT, &wal, Lsn(2 * SEGMENT)..Lsn(3 * SEGMENT)).await;
    let log = log(&format!("1:0/0:0;2:{switch}:00000009"), wal.end());
    let old = OldWal::new(archive.clone());
    let read = read_all(&old, &log, Lsn(SEGMENT), 1 << 16).await;
    assert!(read == wal.slice(Lsn(SEGMENT), switch), "{} bytes", read.len());
    // What the parent lacks may stand in front of the child.
    let child = log.tracks[1].generation;
    let (other, begin) = (Archive::new(Store::memory(), Codec::plain()), Lsn(2 * SEGMENT));
    let replica = other.claim(&era()).await.unwrap();
    put(&replica, child, &wal, begin..Lsn(3 * SEGMENT)).await;
    assert!(read_all(&OldWal::new(other), &log, begin, 1 << 20).await == wal.slice(begin, Lsn(3 * SEGMENT)));
}

#[tokio::test]
async fn what_is_damaged_or_another_segment_is_never_handed_out() {
    let archive = Archive::new(Store::memory(), Codec::plain());
    let replica = archive.claim(&era()).await.unwrap();
    let wal = wal();
    let log = log("1:0/0:0", wal.end());
    // Under the name of segment 1 stands segment 2, whole and with a good checksum.
    let bytes = Bytes::copy_from_slice(wal.slice(Lsn(2 * SEGMENT), Lsn(3 * SEGMENT)));
    replica.put_piece(ROOT, PieceName::segment(1), bytes, CommitTimes::default()).await.unwrap();
    let old = OldWal::new(archive.clone());
    for _ in 0..2 {
        let told = old.read(&log, Lsn(SEGMENT + 100), 100).await.unwrap_err().to_string();
        assert!(told.contains("0000000000000001 in generation"), "{told}");
    }
    // A flipped bit inside a record.
    let mut bytes = wal.slice(Lsn(2 * SEGMENT), Lsn(3 * SEGMENT)).to_vec();
    bytes[500_000] ^= 1;
    replica.put_piece(ROOT, PieceName::segment(2), bytes.into(), CommitTimes::default()).await.unwrap();
    assert!(matches!(old.read(&log, Lsn(2 * SEGMENT), 1).await, Err(WalError::Object { segment: 2, .. })));
}

#[tokio::test]
async fn memory_is_bounded_whatever_is_read() {
    let mut state = State::default();
    for number in 0..100 {
        let bytes = Bytes::from(vec![0; 8 << 20]);
        let wal = Lsn(number)..Lsn(number + 1);
        state.keep(Object { generation: ROOT, wal, bytes });
        let kept: usize = state.kept.iter().map(|object| object.bytes.len()).sum();
        assert!(kept <= KEPT_BYTES_MAX + (8 << 20), "{kept}");
    }
}
