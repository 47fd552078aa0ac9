//! The archiver against a store in memory and a log that grows.

use super::*;
use lsn::SegmentSize;
use replica_client::{Codec, EraName, Store};
use std::sync::Mutex;
use wal_format::build::WalBuilder;

const SEGMENT: u64 = 1 << 20;

/// A log in memory, and bits of it that flip when they are read.
struct Log(Mutex<WalBuilder>, Mutex<Option<Lsn>>);

impl WalBytes for Log {
    async fn read(&self, wal: Range<Lsn>) -> Result<Bytes, String> {
        let mut bytes = self.0.lock().unwrap().slice(wal.start, wal.end).to_vec();
        if let Some(at) = self.1.lock().unwrap().filter(|at| wal.contains(at)) {
            bytes[at.bytes_since(wal.start) as usize] ^= 1;
        }
        Ok(bytes.into())
    }
}

fn era(segment_size: SegmentSize) -> Era {
    Era {
        system_id: SystemId(7),
        name: EraName::parse("0123456789abcdef0123456789abcdef").unwrap(),
        segment_size,
        server_version: 150_013,
        cluster: "main".to_owned(),
        previous: None,
    }
}

struct Rig {
    log: Arc<Log>,
    archive: Archive,
    feed: watch::Sender<CommittedWal>,
    status: watch::Receiver<WalStatus>,
}

impl Rig {
    fn new(store: Store, options: ArchiverOptions) -> Rig {
        let size = SegmentSize::new(SEGMENT).unwrap();
        let wal = WalBuilder::new(size, Lsn(SEGMENT)).with_system_id(SystemId(7));
        let log = Arc::new(Log(Mutex::new(wal), Mutex::default()));
        let archive = Archive::new(store, Codec::plain());
        let (feed, fed) = watch::channel(CommittedWal::default());
        let (told, status) = watch::channel(WalStatus::default());
        tokio::spawn(Archiver::new(archive.clone(), options, Arc::clone(&log), fed, told).run());
        Rig { log, archive, feed, status }
    }

    /// Appends records and commits them.
    fn write(&self, records: usize) -> Lsn {
        let mut wal = self.log.0.lock().unwrap();
        for number in 0..records {
            wal.record(&[number as u8; 1000]);
        }
        let (end, size) = (wal.end(), SegmentSize::new(SEGMENT).unwrap());
        let log = CommittedLog {
            era: era(size),
            path: Path::root(Tli(1)),
            oldest: Lsn(SEGMENT),
            end,
            histories: BTreeMap::new(),
        };
        self.feed.send_replace(CommittedWal { uploads: true, log: Some(log) });
        end
    }

    async fn wait(&self, what: impl FnMut(&WalStatus) -> bool) {
        let mut status = self.status.clone();
        let waited = tokio::time::timeout(Duration::from_secs(60), status.wait_for(what)).await;
        waited.unwrap_or_else(|_| panic!("still {:?}", self.status.borrow())).unwrap();
    }

    async fn names(&self) -> Vec<PieceName> {
        let replica = self.archive.only().await.unwrap();
        let pieces = replica.pieces(Generation(1), 0..=u64::MAX).await.unwrap();
        pieces.into_iter().map(|piece| piece.name).collect()
    }
}

fn quick() -> ArchiverOptions {
    ArchiverOptions { interval: Duration::from_millis(40), ..ArchiverOptions::default() }
}

#[tokio::test]
async fn what_commits_is_archived_merged_and_tidied_up() {
    let rig = Rig::new(Store::memory(), ArchiverOptions { delete_after: Duration::from_millis(10), ..quick() });
    for _ in 0..5 {
        let end = rig.write(300);
        rig.wait(|status| status.archived == end).await;
    }
    // The first segment is full: in the end it is one object.
    let deadline = Instant::now() + Duration::from_secs(60);
    let merged = loop {
        let names = rig.names().await;
        if names.iter().filter(|name| name.index == 1).eq([&PieceName::segment(1)]) {
            break names;
        }
        assert!(Instant::now() < deadline, "{names:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    assert!(merged.len() > 1);
    let replica = rig.archive.only().await.unwrap();
    assert_eq!(replica.parent(Generation(1)).await.unwrap(), Some(Parent::Root));
    for name in merged {
        let span = name.span(SegmentSize::new(SEGMENT).unwrap()).unwrap();
        let (begin, end) = (Lsn(name.index * SEGMENT + span.start), Lsn(name.index * SEGMENT + span.end));
        assert!(replica.read_piece(Generation(1), name).await.unwrap() == rig.log.0.lock().unwrap().slice(begin, end));
    }
}

#[tokio::test]
async fn rot_on_the_local_disk_does_not_reach_the_archive() {
    let rig = Rig::new(Store::memory(), quick());
    let good = rig.write(10);
    rig.wait(|status| status.archived == good).await;
    *rig.log.1.lock().unwrap() = Some(good.saturating_add(500));
    let end = rig.write(3);
    rig.wait(|status| status.problem.as_deref().is_some_and(|problem| problem.contains("damaged"))).await;
    assert_eq!(rig.status.borrow().archived, good);
    // The disk gives the right bytes again.
    *rig.log.1.lock().unwrap() = None;
    rig.wait(|status| status.archived == end && status.problem.is_none() && status.failing_since.is_none()).await;
}

#[tokio::test]
async fn two_uploaders_that_overlap_only_add() {
    let store = Store::memory();
    let (one, two) = (Rig::new(store.clone(), quick()), Rig::new(store, quick()));
    for _ in 0..10 {
        // The same log, written by both at their own pace.
        let (first, second) = (one.write(40), two.write(40));
        assert_eq!(first, second);
    }
    let end = one.write(1);
    assert_eq!(two.write(1), end);
    one.wait(|status| status.archived == end).await;
    two.wait(|status| status.archived == end).await;
    for rig in [&one, &two] {
        assert_eq!(rig.status.borrow().problem, None);
    }
    let spans: Vec<Range<u64>> =
        one.names().await.iter().map(|name| name.span(SegmentSize::new(SEGMENT).unwrap()).unwrap()).collect();
    assert_eq!(replica_client::cover::reach(&spans, 0), end.0 - SEGMENT);
}

#[tokio::test]
async fn other_bytes_under_the_same_name_are_told_and_stay() {
    let rig = Rig::new(Store::memory(), quick());
    let first = rig.write(1);
    rig.wait(|status| status.archived == first).await;
    let replica = rig.archive.only().await.unwrap();
    // As if by another cluster that takes itself for this one. One more record of the same length follows.
    let (start, end) = (first.0 - SEGMENT, rig.log.0.lock().unwrap().end().0 - SEGMENT);
    let name = PieceName::of_segment(1, start..end + 1024);
    let lie = Bytes::from(vec![9; 1024]);
    replica.put_piece(Generation(1), name, lie.clone(), CommitTimes::default()).await.unwrap();
    assert_eq!(rig.write(1).0 - SEGMENT, end + 1024, "the name the archiver will choose");
    rig.wait(|status| status.problem.as_deref().is_some_and(|problem| problem.contains("other bytes"))).await;
    assert_eq!(replica.read_piece(Generation(1), name).await.unwrap(), lie);
}

#[tokio::test]
async fn nobody_uploads_who_is_not_chosen() {
    let rig = Rig::new(Store::memory(), quick());
    let end = rig.write(3);
    rig.wait(|status| status.archived == end).await;
    rig.feed.send_modify(|feed| feed.uploads = false);
    rig.wait(|status| !status.uploading).await;
    let before = rig.names().await;
    let end = rig.write(3);
    rig.wait(|status| status.archived == end).await;
    assert!(rig.names().await.len() > before.len(), "chosen again, it goes on");
}
