//! The WAL downloader through bad weather before a real S3 server.

use std::time::Duration;

use bytes::Bytes;
use pg_harness::{Fault, FaultProxy, Folder, Garage, S3Access};
use replica_client::download::{DownloadOptions, WalDownloader};
use replica_client::{Codec, CommitTimes, Destination, Generation, Kind, PieceName, Replica, RetryPolicy};

const GENERATION: Generation = Generation(7);

fn replica(access: &S3Access, attempts: u32) -> Replica {
    let options = [
        ("endpoint", access.endpoint()),
        ("region", access.region.clone()),
        ("access-key-id", access.access_key_id.clone()),
        ("secret-access-key", access.secret_access_key.clone()),
        ("force-path-style", "true".to_owned()),
    ];
    let options = options.map(|(name, value)| (name.to_owned(), value));
    let store = Destination::parse(&access.url("wal")).unwrap().with_options(options).unwrap().open().unwrap();
    let retry = RetryPolicy { attempts, first: Duration::from_millis(1), max: Duration::from_millis(20) };
    Replica::sqlite(store.with_retry(retry), Codec::plain())
}

/// Bytes LZ4 cannot make small.
fn noise(seed: u64, len: usize) -> Bytes {
    let mut state = seed | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..len).map(|_| next()).collect()
}

#[tokio::test]
async fn wal_comes_through_broken_reads() {
    let folder = Folder::new("weather").unwrap();
    let garage = Garage::start(&folder).await.unwrap();
    let calm = replica(garage.access(), 5);
    let mut expected = Vec::new();
    for index in 0..4 {
        let parts = [noise(index + 1, 300_000), noise(index + 100, 40_000)];
        for (part, offset) in parts.iter().zip([0, 300_000]) {
            let name = PieceName::sqlite(index, offset);
            calm.put_piece(GENERATION, name, part.clone(), CommitTimes::default()).await.unwrap();
        }
        expected.push(parts.concat());
    }
    let proxy = FaultProxy::to(garage.access().addr).await.unwrap();
    proxy.plan(|request| match (request.method.as_str(), request.number % 5) {
        ("GET", 0) => Fault::CutAnswer(100_000),
        ("GET", 1) => Fault::Status(503),
        ("GET", 2) => Fault::Slow(2_000_000),
        ("GET", 3) => Fault::CutAnswer(0),
        _ => Fault::None,
    });
    let stormy = replica(&garage.access().through(proxy.addr()), 20);
    let options = DownloadOptions { parallelism: 3, ..DownloadOptions::default() };
    let mut downloader = WalDownloader::new(stormy, folder.path().join("db"), GENERATION, 0..=3, options);
    for expected in &expected {
        let file = downloader.next().await.unwrap().unwrap();
        assert!(std::fs::read(file.path).unwrap() == *expected, "index {}", file.index);
    }
    assert_eq!(downloader.next().await.unwrap(), None);
    downloader.close().await.unwrap();
    let resumed: Vec<String> = proxy.requests().into_iter().filter_map(|request| request.range).collect();
    assert!(resumed.iter().any(|range| range != "bytes=0-"), "no read went on where it broke: {resumed:?}");

    // A store that is gone for good is told, and nothing stays behind.
    proxy.away();
    let gone = replica(&garage.access().through(proxy.addr()), 2);
    let empty = folder.sub("empty").unwrap();
    let mut downloader = WalDownloader::new(gone, empty.join("db"), GENERATION, 0..=3, options);
    assert_eq!(downloader.next().await.unwrap_err().kind(), Kind::Unavailable);
    assert_eq!(std::fs::read_dir(empty).unwrap().count(), 0);
}
