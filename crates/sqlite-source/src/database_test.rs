//! A database as a source: its log is contiguous over lives, its snapshots are states, and its end is told.

use super::*;
use rusqlite::Connection;
use source::{Snapshot as _, Stream as _};

struct World {
    _dir: tempfile::TempDir,
    app: Connection,
    database: Database,
}

impl World {
    fn new() -> World {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("app.db");
        let app = Connection::open(&path).unwrap();
        app.execute_batch("PRAGMA journal_mode = wal; PRAGMA synchronous = OFF; CREATE TABLE t (data BLOB)").unwrap();
        let options =
            Options { min_checkpoint_pages: 20, monitor_interval: Duration::from_millis(5), ..Options::new(&path) };
        World { database: Database::new(options, Arc::new(disk::RealDisk)), app, _dir: dir }
    }

    fn write(&self) {
        self.app.execute("INSERT INTO t VALUES (randomblob(9000))", []).unwrap();
    }
}

#[tokio::test]
async fn the_log_is_contiguous_over_lives() {
    let world = World::new();
    let begin = world.database.sync().await.unwrap().life();
    let mut reader = world.database.reader(0);
    let mut stream = reader.stream(begin).await.unwrap();
    let (mut at, mut lives) = (begin, 1);
    for _ in 0..40 {
        world.write();
        let end = world.database.sync().await.unwrap();
        while at < end {
            let chunk = stream.next_chunk().await.unwrap().unwrap();
            if chunk.begin.index != at.index {
                lives += 1;
                at = Position { index: at.index + 1, offset: 0, ..at };
            }
            assert_eq!(chunk.begin, at);
            at.offset += chunk.bytes.len() as u64;
        }
        assert_eq!(at, end);
    }
    assert!(lives > 2, "{lives}");
    // A stream that waits is woken, and is told that a generation has ended.
    let waiting = tokio::spawn(async move { (stream.next_chunk().await, stream) });
    world.write();
    world.database.sync().await.unwrap();
    let (chunk, mut stream) = waiting.await.unwrap();
    let begin = chunk.unwrap().unwrap().begin;
    assert!(begin == at || begin == Position { index: at.index + 1, offset: 0, ..at }, "{begin} after {at}");
    world.database.start_over().await.unwrap();
    world.database.sync().await.unwrap();
    while let Some(chunk) = stream.next_chunk().await.unwrap() {
        assert_eq!(chunk.begin.generation, at.generation);
    }
    assert!(matches!(reader.stream(at).await, Err(Error::Gone { .. })));
}

#[tokio::test]
async fn lives_are_kept_until_every_replica_has_them() {
    let world = World::new();
    let begin = world.database.sync().await.unwrap().life();
    let mut reader = world.database.reader(0);
    let busy = async |times: usize| {
        for _ in 0..times {
            world.write();
            world.database.sync().await.unwrap();
        }
        world.database.sync().await.unwrap()
    };
    let end = busy(40).await;
    assert!(end.index > begin.index + 2);
    // Nobody has said anything: all is there.
    let mut stream = reader.stream(begin).await.unwrap();
    assert_eq!(stream.next_chunk().await.unwrap().unwrap().begin, begin);
    busy(2).await;
    let mut again = reader.stream(begin).await.unwrap();
    assert_eq!(again.next_chunk().await.unwrap().unwrap().begin, begin, "it was asked for and is kept");
    reader.stream(end).await.unwrap();
    busy(2).await;
    let mut late = reader.stream(begin).await.unwrap();
    assert!(matches!(late.next_chunk().await, Err(Error::Gone { .. })));
}

#[tokio::test]
async fn a_snapshot_is_the_state_at_its_position_whatever_is_written_meanwhile() {
    let world = World::new();
    for _ in 0..10 {
        world.write();
    }
    let mut reader = world.database.reader(0);
    let mut snapshot = reader.snapshot().await.unwrap();
    let position = snapshot.position();
    // Another process checkpoints, and more is written than a checkpoint waits for.
    for _ in 0..60 {
        world.write();
        world.app.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(())).unwrap();
        world.database.sync().await.unwrap();
    }
    let mut bytes = Vec::new();
    while let Some(more) = snapshot.next_bytes().await.unwrap() {
        bytes.extend_from_slice(&more);
    }
    assert_eq!(snapshot.finish().await.unwrap(), position);
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("s.db"), bytes).unwrap();
    let copy = Connection::open(dir.path().join("s.db")).unwrap();
    let check: String = copy.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    let count: i64 = copy.query_row("SELECT count(*) FROM t", [], |row| row.get(0)).unwrap();
    assert_eq!((check.as_str(), count), ("ok", 10));
    // One that was being read when control was lost is worth nothing.
    let mut broken = reader.snapshot().await.unwrap();
    world.database.start_over().await.unwrap();
    world.database.sync().await.unwrap();
    assert!(matches!(broken.next_bytes().await, Err(Error::Broken(_))));
    assert!(matches!(broken.finish().await, Err(Error::Broken(_))));
}

#[tokio::test]
async fn it_runs_until_it_is_stopped_and_has_everything_then() {
    let world = World::new();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let database = world.database.clone();
    let running = tokio::spawn(async move { database.run(false, async move { drop(stopped.await) }).await });
    let mut position = world.database.watch();
    let first = position.wait_for(Option::is_some).await.unwrap().unwrap();
    world.write();
    position.wait_for(|now| now.is_some_and(|now| now > first)).await.unwrap();
    world.write();
    stop.send(()).unwrap();
    let last = running.await.unwrap().unwrap();
    assert_eq!(world.database.sync().await.unwrap(), last);
    world.database.close().await.unwrap();
    assert_eq!(*position.borrow(), None);
}
