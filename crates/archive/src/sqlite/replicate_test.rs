//! A replicator between real SQLite and a store: what is in the replica gives the database back.

use super::*;
use replica_client::{Codec, Store};
use rusqlite::Connection;
use sqlite_source::{Database, Reader};
use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Mutex;

struct World {
    dir: tempfile::TempDir,
    app: Connection,
    database: Database,
    stop: watch::Sender<bool>,
}

struct Running {
    status: watch::Receiver<Status>,
    stop: watch::Sender<bool>,
    task: JoinHandle<Result<(), Error>>,
}

fn options() -> Options {
    Options { sync_interval: Duration::from_millis(5), ..Options::default() }
}

fn database(path: &Path) -> Database {
    let options = sqlite_source::Options {
        monitor_interval: Duration::from_millis(5),
        min_checkpoint_pages: 40,
        replicas: 2,
        ..sqlite_source::Options::new(path)
    };
    Database::new(options, Arc::new(disk::RealDisk))
}

impl World {
    fn new() -> World {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("app.db");
        let app = Connection::open(&path).unwrap();
        app.busy_timeout(Duration::from_secs(5)).unwrap();
        app.execute_batch(
            "PRAGMA journal_mode = wal; PRAGMA synchronous = OFF; CREATE TABLE t (id INTEGER PRIMARY KEY, data BLOB)",
        )
        .unwrap();
        let (database, stop) = (database(&path), watch::channel(false).0);
        let world = World { dir, app, database, stop };
        world.look_after();
        world
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("app.db")
    }

    fn look_after(&self) {
        let (database, mut stop) = (self.database.clone(), self.stop.subscribe());
        tokio::spawn(async move {
            database.run(false, async move { stop.wait_for(|stop| *stop).await.map(drop).unwrap_or(()) }).await
        });
    }

    fn write(&self, rows: usize) {
        for _ in 0..rows {
            self.app.execute("INSERT INTO t (data) VALUES (randomblob(2000))", []).unwrap();
        }
    }

    fn setup(&self, slot: usize, replica: &Replica) -> Setup<Reader> {
        Setup {
            source: self.database.reader(slot),
            replica: replica.clone(),
            options: options(),
            limits: Limits::default(),
            database: "app.db".to_owned(),
            name: format!("r{slot}"),
            start_over: Arc::new(|_| {}),
            scratch: self.dir.path().join(format!("scratch-{slot}")),
        }
    }

    fn start(&self, setup: Setup<Reader>) -> Running {
        let replicator = Replicator::new(setup);
        let (stop, stopped) = watch::channel(false);
        Running { status: replicator.status(), stop, task: tokio::spawn(replicator.run(stopped)) }
    }

    /// What is committed is in the replica once this returns.
    async fn wait(&self, running: &mut Running) -> Position {
        let position = self.database.sync().await.unwrap();
        let reached = running.status.wait_for(|status| {
            status.confirmed.is_some_and(|at| at >= position && at.generation == position.generation)
        });
        match tokio::time::timeout(Duration::from_secs(30), reached).await {
            Ok(status) => status.unwrap().confirmed.unwrap(),
            Err(_) => panic!("{position} is not reached within 30 s"),
        }
    }

    fn rows(&self) -> Vec<(i64, Vec<u8>)> {
        rows(&self.app)
    }
}

impl Running {
    async fn until(&mut self, what: &str, reached: impl FnMut(&Status) -> bool) {
        let mut status = self.status.clone();
        match tokio::time::timeout(Duration::from_secs(30), status.wait_for(reached)).await {
            Ok(found) => drop(found.unwrap()),
            Err(_) => panic!("not within 30 s: {what}; {:?}", self.status.borrow()),
        }
    }

    async fn end(self) -> Result<(), Error> {
        self.stop.send_replace(true);
        self.task.await.unwrap()
    }
}

fn rows(connection: &Connection) -> Vec<(i64, Vec<u8>)> {
    let check: String = connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(check, "ok");
    let mut statement = connection.prepare("SELECT id, data FROM t ORDER BY id").unwrap();
    statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap().map(Result::unwrap).collect()
}

/// The database that a replica gives, by its newest snapshot; checks that nothing is missing between the pieces.
async fn rebuild(replica: &Replica, generation: u64) -> Vec<(i64, Vec<u8>)> {
    let generation = Generation(generation);
    let snapshot = replica.snapshots(generation).await.unwrap().pop().expect("a snapshot");
    let mut image = replica.open_snapshot(generation, snapshot.at).unwrap().read_all(1 << 30).await.unwrap().to_vec();
    let mut lives: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
    for piece in replica.pieces(generation, snapshot.at..=u64::MAX).await.unwrap() {
        let life = lives.entry(piece.name.index).or_default();
        assert_eq!(life.len() as u64, piece.name.start, "{:?}", piece.name);
        life.extend(replica.read_piece(generation, piece.name).await.unwrap());
    }
    for (expected, (index, bytes)) in (snapshot.at..).zip(&lives) {
        assert_eq!(*index, expected);
        let (mut stream, mut rest, mut pages) = (sqlite_wal::Stream::new(), bytes.as_slice(), None);
        while let Some(frame) = stream.next(&mut rest).unwrap() {
            let (at, len) = ((frame.page_number.get() as usize - 1) * frame.page.len(), frame.page.len());
            image.resize(image.len().max(at + len), 0);
            image[at..at + len].copy_from_slice(frame.page);
            pages = frame.commit.or(pages);
        }
        let end = stream.finish().unwrap();
        if let Some(pages) = pages {
            image.resize(pages.get() as usize * end.header.page_size.len(), 0);
        }
    }
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("r.db"), image).unwrap();
    rows(&Connection::open(dir.path().join("r.db")).unwrap())
}

/// A pair made for this test.
const RECIPIENT: &str = "age1zn26hykkt2plntehqw03hl6a2cw5wnqjupprrmlqfwlv0k8u2s8q0chd6t";
const IDENTITY: &str = "AGE-SECRET-KEY-156MZQT0KD655A0QSF9UFMWW46URKW98KAAD6745D93JLR9MTD0WQWXY609";

#[tokio::test]
async fn everything_arrives_in_every_replica() {
    let world = World::new();
    let (one, two) =
        (Replica::sqlite(Store::memory(), Codec::plain()), Replica::sqlite(Store::memory(), Codec::plain()));
    let mut first = world.start(world.setup(0, &one));
    let mut second = world.start(world.setup(1, &two));
    for _ in 0..12 {
        world.write(20);
        let at = world.wait(&mut first).await;
        assert_eq!(rebuild(&one, at.generation).await, world.rows());
    }
    let at = world.wait(&mut second).await;
    assert!(at.index >= 3, "checkpoints began new lives: {at}");
    assert_eq!(rebuild(&two, at.generation).await, world.rows());
    // Lives that both have are not kept here.
    let lives = world.dir.path().join(format!(".app.db-seawall/generations/{:016x}/wal", at.generation));
    world.write(1);
    world.wait(&mut first).await;
    world.wait(&mut second).await;
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while std::fs::read_dir(&lives).unwrap().count() > 2 {
        assert!(std::time::Instant::now() < deadline, "{:?}", std::fs::read_dir(&lives).unwrap().collect::<Vec<_>>());
        world.database.sync().await.unwrap();
        sleep(Duration::from_millis(20)).await;
    }
    first.end().await.unwrap();
    second.end().await.unwrap();
}

#[tokio::test]
async fn a_host_that_can_only_encrypt_goes_on_after_a_restart() {
    let world = World::new();
    let store = Store::memory();
    let sealing = Replica::sqlite(store.clone(), Codec::new(&[RECIPIENT], &[] as &[&str]).unwrap());
    let opening = Replica::sqlite(store, Codec::new(&[RECIPIENT], &[IDENTITY]).unwrap());
    for _ in 0..3 {
        let mut running = world.start(world.setup(0, &sealing));
        world.write(5);
        let at = world.wait(&mut running).await;
        running.end().await.unwrap();
        assert_eq!(opening.snapshots(Generation(at.generation)).await.unwrap().len(), 1, "no second snapshot");
        assert_eq!(rebuild(&opening, at.generation).await, world.rows());
    }
}

#[tokio::test]
async fn other_bytes_in_the_replica_begin_a_new_generation() {
    let world = World::new();
    let replica = Replica::sqlite(Store::memory(), Codec::plain());
    let mut running = world.start(world.setup(0, &replica));
    world.write(3);
    world.wait(&mut running).await;
    let status = running.status.clone();
    running.end().await.unwrap();
    let at = status.borrow().confirmed.unwrap();
    // Somebody else's piece stands where the next one belongs.
    let name = PieceName::sqlite(u64::from(at.index), at.offset);
    replica.put_piece(Generation(at.generation), name, vec![1; 600].into(), CommitTimes::default()).await.unwrap();
    let told = Arc::new(Mutex::new(Vec::new()));
    let (hear, mut setup) = (Arc::clone(&told), world.setup(0, &replica));
    setup.start_over = Arc::new(move |why| hear.lock().unwrap().push(why.to_owned()));
    let running = world.start(setup);
    world.write(3);
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while told.lock().unwrap().is_empty() {
        assert!(std::time::Instant::now() < deadline, "{:?}", running.status.borrow());
        sleep(Duration::from_millis(10)).await;
    }
    running.task.abort();
}

#[tokio::test]
async fn a_failed_upload_is_tried_again_though_nobody_writes() {
    let world = World::new();
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("replica");
    let store = replica_client::Destination::parse(&folder.display().to_string()).unwrap().open().unwrap();
    let replica = Replica::sqlite(store.with_retry(replica_client::RetryPolicy::none()), Codec::plain());
    // A file stands where the folder belongs.
    std::fs::remove_dir_all(&folder).unwrap();
    std::fs::write(&folder, b"x").unwrap();
    world.write(1);
    let mut running = world.start(world.setup(0, &replica));
    running.until("an error", |status| status.error.is_some()).await;
    std::fs::remove_file(&folder).unwrap();
    std::fs::create_dir(&folder).unwrap();
    let at = world.wait(&mut running).await;
    assert_eq!(rebuild(&replica, at.generation).await, world.rows());
}

/// Counts requests.
#[derive(Default)]
struct Requests(Mutex<HashMap<String, u64>>);

struct Count(Arc<Requests>, String);

impl metrics::CounterFn for Count {
    fn increment(&self, value: u64) {
        *self.0.0.lock().unwrap().entry(self.1.clone()).or_default() += value;
    }
    fn absolute(&self, _: u64) {}
}

struct Recorder(Arc<Requests>);

impl metrics::Recorder for Recorder {
    fn describe_counter(&self, _: metrics::KeyName, _: Option<metrics::Unit>, _: metrics::SharedString) {}
    fn describe_gauge(&self, _: metrics::KeyName, _: Option<metrics::Unit>, _: metrics::SharedString) {}
    fn describe_histogram(&self, _: metrics::KeyName, _: Option<metrics::Unit>, _: metrics::SharedString) {}
    fn register_counter(&self, key: &metrics::Key, _: &metrics::Metadata<'_>) -> metrics::Counter {
        metrics::Counter::from_arc(Arc::new(Count(Arc::clone(&self.0), key.name().to_owned())))
    }
    fn register_gauge(&self, _: &metrics::Key, _: &metrics::Metadata<'_>) -> metrics::Gauge {
        metrics::Gauge::noop()
    }
    fn register_histogram(&self, _: &metrics::Key, _: &metrics::Metadata<'_>) -> metrics::Histogram {
        metrics::Histogram::noop()
    }
}

#[tokio::test]
async fn an_idle_database_asks_nothing_of_the_store_and_writes_nothing() {
    let requests = Arc::new(Requests::default());
    let recorder = Recorder(Arc::clone(&requests));
    let _local = metrics::set_default_local_recorder(&recorder);
    let count = || requests.0.lock().unwrap().get("seawall_replica_operations_total").copied().unwrap_or_default();
    let world = World::new();
    let replica = Replica::sqlite(Store::memory(), Codec::plain());
    let mut setup = world.setup(0, &replica);
    // Timers that fire all the time find nothing to do.
    setup.options.snapshot_interval = Duration::from_millis(50);
    setup.options.retention = Duration::from_millis(60);
    setup.options.grace = Duration::from_millis(1);
    setup.options.retention_check_interval = Duration::from_millis(50);
    let mut running = world.start(setup);
    world.write(5);
    world.wait(&mut running).await;
    // What was begun by the writes ends: a snapshot of them, and the deletion of what it makes superfluous.
    let (mut last, mut since) = (0, std::time::Instant::now());
    let deadline = since + Duration::from_secs(30);
    while since.elapsed() < Duration::from_secs(2) {
        assert!(std::time::Instant::now() < deadline, "requests do not end: {last}");
        sleep(Duration::from_millis(50)).await;
        if count() != last {
            (last, since) = (count(), std::time::Instant::now());
        }
    }
    assert!(last > 0);
    let (wal, file) = (world.dir.path().join("app.db-wal"), world.path());
    let stamp = |path: &Path| std::fs::metadata(path).unwrap().modified().unwrap();
    let before = (stamp(&wal), stamp(&file), world.database.sync().await.unwrap());
    sleep(Duration::from_secs(2)).await;
    assert_eq!((stamp(&wal), stamp(&file), world.database.sync().await.unwrap()), before);
    assert_eq!(count(), last);
    running.end().await.unwrap();
}

#[tokio::test]
async fn old_lives_and_generations_go_and_what_is_left_restores() {
    let world = World::new();
    let replica = Replica::sqlite(Store::memory(), Codec::plain());
    // A generation of long ago, as far as the window reaches.
    replica.put_snapshot(Generation(7), 0, None, &b"old"[..]).await.unwrap();
    sleep(Duration::from_millis(200)).await;
    let mut setup = world.setup(0, &replica);
    setup.options.snapshot_interval = Duration::from_millis(100);
    setup.options.retention = Duration::from_millis(150);
    setup.options.grace = Duration::from_millis(1);
    setup.options.retention_check_interval = Duration::from_millis(50);
    let mut running = world.start(setup);
    let deadline = std::time::Instant::now() + Duration::from_secs(30);
    loop {
        world.write(10);
        let at = world.wait(&mut running).await;
        let generation = Generation(at.generation);
        let gone = !replica.generations().await.unwrap().contains(&Generation(7));
        let snapshots = replica.snapshots(generation).await.unwrap();
        if gone && snapshots.first().is_some_and(|snapshot| snapshot.at > 0) {
            let pieces = replica.pieces(generation, 0..=u64::MAX).await.unwrap();
            assert!(pieces.iter().all(|piece| piece.name.index >= snapshots[0].at));
            assert_eq!(rebuild(&replica, at.generation).await, world.rows());
            break;
        }
        assert!(std::time::Instant::now() < deadline, "{snapshots:?}");
        sleep(Duration::from_millis(20)).await;
    }
    running.end().await.unwrap();
}

#[tokio::test]
async fn the_validator_says_right_and_wrong() {
    let world = World::new();
    let replica = Replica::sqlite(Store::memory(), Codec::plain());
    let validating = |slot: usize, replica: &Replica| {
        let mut setup = world.setup(slot, replica);
        setup.options.validation_interval = Duration::from_millis(100);
        setup
    };
    let mut running = world.start(validating(0, &replica));
    // Freed pages, a database that shrinks, and one that grows again.
    world.write(100);
    world.wait(&mut running).await;
    world.app.execute("DELETE FROM t WHERE id % 2 = 0", []).unwrap();
    let begun = Timestamp::now();
    running.until("a right one", |status| status.validated.is_some_and(|(at, right)| right && at > begun)).await;
    world.app.execute_batch("VACUUM").unwrap();
    world.write(30);
    let begun = Timestamp::now();
    running.until("another right one", |status| status.validated.is_some_and(|(at, right)| right && at > begun)).await;
    running.end().await.unwrap();

    // A snapshot whose encoding is right and whose content is not; nothing is written over it any more.
    let other = Replica::sqlite(Store::memory(), Codec::plain());
    let mut running = world.start(world.setup(1, &other));
    let at = world.wait(&mut running).await;
    running.end().await.unwrap();
    let generation = Generation(at.generation);
    let snapshot = other.snapshots(generation).await.unwrap()[0];
    let mut plain = other.open_snapshot(generation, snapshot.at).unwrap().read_all(1 << 30).await.unwrap().to_vec();
    let last = plain.len() - 10;
    plain[last] ^= 1;
    other.delete_snapshot(generation, snapshot.at).await.unwrap();
    other.put_snapshot(generation, snapshot.at, None, &plain[..]).await.unwrap();
    let mut running = world.start(validating(1, &other));
    running.until("a wrong one", |status| status.validated.is_some_and(|(_, right)| !right)).await;
    // A piece that is gone.
    for _ in 0..3 {
        world.write(1);
        world.wait(&mut running).await;
    }
    let pieces = other.pieces(generation, 0..=u64::MAX).await.unwrap();
    other.delete_pieces(generation, &[pieces[pieces.len() / 2].name]).await.unwrap();
    running.until("a gap", |status| status.error.as_ref().is_some_and(|error| error.contains("comes"))).await;
    running.end().await.unwrap();
    assert!(!world.dir.path().join("scratch-1").exists());
}
