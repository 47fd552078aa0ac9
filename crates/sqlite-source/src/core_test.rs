//! The core beside real SQLite: what was copied must rebuild what is there, whatever happens in between.
//!
//! The application is another connection. Locks between connections of one process work as between processes, because SQLite keeps them
//! by file; a crash of ours is the core being dropped, which leaves the WAL as a killed process does.

use super::*;
use proptest::prelude::*;
use rusqlite::Connection;
use std::collections::BTreeMap;
use std::path::Path;

/// A database, its application, and what a replica would have of it.
struct World {
    dir: tempfile::TempDir,
    app: Connection,
    reader: Option<Connection>,
    core: Core,
    generations: usize,
    /// The generation archived, the life its snapshot belongs to, and the snapshot.
    base: Option<(u64, u32, Vec<u8>)>,
    written: u32,
}

fn folder() -> tempfile::TempDir {
    // Thousands of little syncs: in memory where there is such a folder.
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory).unwrap() } else { tempfile::tempdir().unwrap() }
}

fn options(path: &Path) -> Options {
    Options { busy_timeout: Duration::from_millis(20), checkpoint_interval: Duration::ZERO, ..Options::new(path) }
}

fn core(path: &Path) -> Core {
    Core::new(options(path), Arc::new(disk::RealDisk))
}

fn connect(path: &Path) -> Connection {
    let connection = Connection::open(path).unwrap();
    connection.busy_timeout(Duration::from_millis(20)).unwrap();
    connection
}

fn rows(path: &Path) -> Vec<(i64, Vec<u8>)> {
    let connection = connect(path);
    let check: String = connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(check, "ok");
    let mut statement = connection.prepare("SELECT id, CAST(data AS BLOB) FROM t ORDER BY id").unwrap();
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
    rows.map(Result::unwrap).collect()
}

impl World {
    fn new(page_size: u32) -> World {
        let dir = folder();
        let path = dir.path().join("app.db");
        let app = connect(&path);
        app.execute_batch(&format!(
            "PRAGMA page_size = {page_size}; PRAGMA journal_mode = wal; PRAGMA synchronous = OFF;
             CREATE TABLE t (id INTEGER PRIMARY KEY, data BLOB);"
        ))
        .unwrap();
        let core = core(&path);
        World { dir, app, reader: None, core, generations: 0, base: None, written: 0 }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("app.db")
    }

    fn write(&mut self) {
        self.written += 1;
        // Sometimes several pages, sometimes a page that was there before.
        let len = [10, 3000, 9000][self.written as usize % 3];
        self.app.execute("INSERT INTO t (data) VALUES (randomblob(?1))", [len]).unwrap();
    }

    fn foreign(&self, mode: &str) {
        let other = connect(&self.path());
        other.busy_timeout(Duration::ZERO).unwrap();
        let _: i64 = other.query_row(&format!("PRAGMA wal_checkpoint({mode})"), [], |row| row.get(0)).unwrap();
    }

    fn turn(&mut self) {
        match self.core.turn(None) {
            Ok(_) => self.archive(),
            Err(Error::Busy(_)) => {}
            Err(error) => panic!("{error:?}"),
        }
    }

    /// As a replica does: a snapshot when a generation has begun.
    fn archive(&mut self) {
        let position = self.core.position().unwrap();
        if self.base.as_ref().is_none_or(|(generation, ..)| *generation != position.generation) {
            self.generations += 1;
            let frozen = self.core.freeze().unwrap();
            let mut bytes = Vec::new();
            loop {
                let more = frozen.read(bytes.len() as u64).unwrap();
                if more.is_empty() {
                    break;
                }
                bytes.extend(more);
            }
            frozen.unbroken().unwrap();
            self.base = Some((frozen.position.generation, frozen.position.index, bytes));
        }
    }

    fn checkpoint(&mut self) {
        self.turn();
        match self.core.checkpoint() {
            Ok(_) | Err(Error::Busy(_)) => {}
            Err(error) => panic!("{error:?}"),
        }
        self.turn();
    }

    fn crash(&mut self) {
        self.core = core(&self.path());
    }

    fn toggle_reader(&mut self) {
        self.reader = match self.reader.take() {
            Some(_) => None,
            None => {
                let reader = connect(&self.path());
                reader.execute_batch("BEGIN").unwrap();
                let _: i64 = reader.query_row("SELECT count(*) FROM t", [], |row| row.get(0)).unwrap();
                Some(reader)
            }
        };
    }

    /// The database that snapshot and lives give.
    fn rebuild(&self) -> PathBuf {
        let (generation, first, mut image) = self.base.clone().unwrap();
        let end = self.core.position().unwrap();
        assert_eq!(generation, end.generation);
        let lives: BTreeMap<u32, Vec<u8>> = (first..=end.index)
            .map(|index| {
                let name = format!(".app.db-seawall/generations/{generation:016x}/wal/{index:08x}.wal");
                let mut bytes = fs::read(self.dir.path().join(name)).unwrap();
                if index == end.index {
                    bytes.truncate(end.offset as usize);
                }
                (index, bytes)
            })
            .collect();
        for bytes in lives.values() {
            let (mut stream, mut rest) = (sqlite_wal::Stream::new(), bytes.as_slice());
            let mut pages = None;
            while let Some(frame) = stream.next(&mut rest).unwrap() {
                let (at, len) = ((frame.page_number.get() as usize - 1) * frame.page.len(), frame.page.len());
                if image.len() < at + len {
                    image.resize(at + len, 0);
                }
                image[at..at + len].copy_from_slice(frame.page);
                pages = frame.commit.or(pages);
            }
            let end = stream.finish().unwrap();
            if let Some(pages) = pages {
                image.resize(pages.get() as usize * end.header.page_size.len(), 0);
            }
        }
        let path = self.dir.path().join("rebuilt.db");
        for suffix in ["-wal", "-shm"] {
            let _ = fs::remove_file(self.dir.path().join(format!("rebuilt.db{suffix}")));
        }
        fs::write(&path, image).unwrap();
        path
    }

    fn check(&mut self, what: &str) {
        // A reader may keep the write lock busy for nobody: turns need it only to begin.
        for _ in 0..3 {
            self.turn();
        }
        assert!(rows(&self.rebuild()) == rows(&self.path()), "{what}: the rebuilt database has other rows");
    }
}

const OPERATIONS: [&str; 9] = ["write", "passive", "full", "restart", "truncate", "copy", "seal", "crash", "reader"];

fn perform(world: &mut World, operation: &str) {
    match operation {
        "write" => world.write(),
        "copy" => world.turn(),
        "seal" => world.checkpoint(),
        "crash" => world.crash(),
        "reader" => world.toggle_reader(),
        mode => world.foreign(mode),
    }
}

/// Every sequence of three operations, after each of three beginnings: the WAL uncopied, copied, or copied and sealed, which is when it
/// may begin anew.
#[test]
fn every_interleaving_of_checkpoints() {
    let mut sequences = vec![Vec::new()];
    for _ in 0..3 {
        sequences = sequences
            .into_iter()
            .flat_map(|sequence| OPERATIONS.map(|operation| [sequence.clone(), vec![operation]].concat()))
            .collect();
    }
    for begin in [&["copy", "write"][..], &["write", "copy"], &["write", "copy", "seal"]] {
        for sequence in &sequences {
            hold([begin, sequence].concat(), 512);
        }
    }
}

/// Performs, and judges what was copied.
fn hold(sequence: Vec<&'static str>, page_size: u32) {
    let mut world = World::new(page_size);
    for operation in &sequence {
        perform(&mut world, operation);
    }
    world.write();
    world.check(&format!("{sequence:?}"));
    // A WAL that is cut may count as a life that nobody saw: a snapshot too many, and safe.
    let cuts = sequence.iter().filter(|operation| **operation == "truncate").count();
    if !sequence.contains(&"crash") && cuts == 0 {
        assert_eq!(world.generations, 1, "{sequence:?}: the guard let the WAL begin anew unseen");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]
    #[test]
    fn long_random_interleavings(sequence in prop::collection::vec(prop::sample::select(&OPERATIONS[..]), 5..25), power in 9u32..=16) {
        hold(sequence, 1 << power);
    }
}

fn position(world: &World) -> Position {
    world.core.position().unwrap()
}

/// What is done while nobody watches, and whether the log can be gone on with afterwards.
fn down(page_size: u32, meanwhile: impl FnOnce(&mut World)) -> (Position, Position) {
    let mut world = World::new(page_size);
    // The first turn takes a snapshot, with which a life begins.
    world.turn();
    for _ in 0..4 {
        world.write();
    }
    world.turn();
    let before = position(&world);
    world.core.detach();
    meanwhile(&mut world);
    world.crash();
    world.turn();
    let after = position(&world);
    world.write();
    world.check("after a time without a replicator");
    (before, after)
}

#[test]
fn a_restart_goes_on() {
    let (before, after) = down(4096, World::write);
    assert_eq!((after.generation, after.index), (before.generation, before.index));
    assert!(after.offset > before.offset);
}

#[test]
fn a_life_that_ended_in_sight_is_followed() {
    for page_size in [512, 4096, 65536] {
        // Nothing more was written to it.
        let (before, after) = down(page_size, |world| {
            world.foreign("RESTART");
            world.write();
        });
        assert_eq!((after.generation, after.index), (before.generation, before.index + 1));
        // What was is still there behind the new one.
        let (before, after) = down(page_size, |world| {
            for _ in 0..6 {
                world.write();
            }
            world.foreign("RESTART");
            world.write();
        });
        assert_eq!((after.generation, after.index), (before.generation, before.index + 1));
    }
}

#[test]
fn a_life_that_cannot_be_followed_to_its_end_begins_a_new_generation() {
    let restart = |world: &mut World, writes: usize| {
        world.foreign("RESTART");
        (0..writes).for_each(|_| world.write());
    };
    // Written over, cut, or followed by another; and as long as it was by chance.
    for meanwhile in [
        &(|world: &mut World| restart(world, 12)) as &dyn Fn(&mut World),
        &|world| {
            (0..6).for_each(|_| world.write());
            world.foreign("TRUNCATE");
            world.write();
        },
        &|world| {
            (0..6).for_each(|_| world.write());
            restart(world, 12);
        },
        &|world| {
            world.foreign("TRUNCATE");
            (0..12).for_each(|_| world.write());
        },
        &|world| {
            restart(world, 1);
            restart(world, 1);
        },
    ] {
        let (before, after) = down(4096, meanwhile);
        assert_ne!(after.generation, before.generation);
    }
}

#[test]
fn a_tail_that_never_reached_the_database_is_not_followed() {
    let (before, after) = down(4096, |world| {
        for _ in 0..6 {
            world.write();
        }
        let end = world.core.shadow().unwrap().resume().unwrap().unwrap().chain.offset() as usize;
        world.foreign("RESTART");
        world.write();
        // A page of the rest that the new life has not; the database has something else there, and all sums are right.
        let wal = fs::read(&world.core.wal_path).unwrap();
        let frames = |from: usize| wal[from..].chunks_exact(24 + 4096);
        let page = |frame: &[u8]| u32::from_be_bytes(frame[..4].try_into().unwrap());
        let newer: Vec<u32> = frames(32).take_while(|frame| frame[8..16] == wal[16..24]).map(page).collect();
        let last = frames(end).map(page).filter(|page| !newer.contains(page)).max().unwrap();
        let database = File::options().write(true).open(world.path()).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&database, &[0x5a; 8], u64::from(last - 1) * 4096 + 2000).unwrap();
    });
    assert_ne!(after.generation, before.generation);
}

#[test]
fn a_tail_that_is_damaged_or_mixed_is_not_followed() {
    let frame = 24 + 512;
    // Where in the first frame behind what was copied, and what is put there.
    for salts_of_the_new_life in [false, true] {
        let (before, after) = down(512, |world| {
            let end = world.core.shadow().unwrap().resume().unwrap().unwrap().chain.offset() as usize;
            for _ in 0..6 {
                world.write();
            }
            world.foreign("RESTART");
            world.write();
            let wal = world.core.wal_path.clone();
            let mut bytes = fs::read(&wal).unwrap();
            match salts_of_the_new_life {
                // As a power cut leaves it: one block of what was written over it is there.
                true => bytes.copy_within(16..24, end + 2 * frame + 8),
                false => bytes[end + 2 * frame + 100] ^= 1,
            }
            fs::write(&wal, bytes).unwrap();
        });
        assert_ne!(after.generation, before.generation);
    }
}

#[test]
fn a_torn_shadow_is_not_gone_on_with_blindly() {
    let mut world = World::new(512);
    for _ in 0..6 {
        world.write();
    }
    world.turn();
    let at = position(&world);
    let name = format!(".app.db-seawall/generations/{:016x}/wal/{:08x}.wal", at.generation, at.index);
    let shadow = world.dir.path().join(name);
    // In the middle: what is behind it must not count, and is copied again.
    let mut bytes = fs::read(&shadow).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&shadow, bytes).unwrap();
    world.crash();
    world.turn();
    assert_eq!(position(&world), at, "the WAL still has what was torn");
    world.check("after a torn shadow");
    // A header that is none.
    world.core.detach();
    fs::write(&shadow, [7; 40]).unwrap();
    world.crash();
    world.check("after a shadow without a header");
    assert_ne!(position(&world).generation, at.generation);
}

#[test]
fn another_file_in_its_place_begins_a_new_generation() {
    let mut world = World::new(4096);
    world.write();
    world.turn();
    let before = position(&world);
    let (path, other) = (world.path(), world.dir.path().join("other.db"));
    let connection = connect(&other);
    connection.execute_batch("PRAGMA journal_mode = wal; CREATE TABLE t (id INTEGER PRIMARY KEY, data BLOB); INSERT INTO t VALUES (99, 'x')").unwrap();
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    drop(connection);
    world.app = Connection::open_in_memory().unwrap();
    for suffix in ["-wal", "-shm"] {
        let _ = fs::remove_file(world.dir.path().join(format!("app.db{suffix}")));
    }
    fs::rename(&other, &path).unwrap();
    world.check("after it was replaced");
    assert_ne!(position(&world).generation, before.generation);
    // Deleted: nothing to do, and no error to tell anybody about.
    for suffix in ["", "-wal", "-shm"] {
        let _ = fs::remove_file(world.dir.path().join(format!("app.db{suffix}")));
    }
    assert!(matches!(world.core.turn(None), Err(Error::Absent(_))));
    assert!(matches!(world.core.turn(None), Err(Error::Absent(_))));
}

#[test]
fn a_database_that_comes_later_and_one_without_a_byte() {
    let dir = folder();
    let path = dir.path().join("app.db");
    let (mut core, mut second) = (core(&path), core(&path));
    assert!(matches!(core.turn(None), Err(Error::Absent(_))));
    fs::write(&path, []).unwrap();
    assert!(matches!(core.turn(None), Err(Error::Absent(_))), "the page size is the application's to choose");
    let app = connect(&path);
    app.execute_batch("PRAGMA page_size = 8192; CREATE TABLE t (id INTEGER PRIMARY KEY, data BLOB)").unwrap();
    core.turn(None).unwrap();
    // So that the connection looks at the file again.
    app.query_row("SELECT count(*) FROM t", [], |_| Ok(())).unwrap();
    let mode: String = app.query_row("PRAGMA journal_mode", [], |row| row.get(0)).unwrap();
    assert_eq!(mode, "wal");
    let tables: i64 = app.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).unwrap();
    assert_eq!(tables, 1, "nothing of ours is in it");
    assert!(matches!(second.turn(None), Err(Error::Locked { .. })), "a second replicator");
}

#[test]
fn a_database_that_is_locked_is_tried_again_and_nothing_is_forgotten() {
    let mut world = World::new(4096);
    world.write();
    world.turn();
    let at = position(&world);
    world.app.execute_batch("BEGIN IMMEDIATE; INSERT INTO t (data) VALUES ('x')").unwrap();
    assert!(!world.core.checkpoint().unwrap(), "busy");
    world.turn();
    assert_eq!(position(&world), at);
    world.app.execute_batch("COMMIT").unwrap();
    assert!(world.core.checkpoint().unwrap());
    world.check("after the lock");
    assert_eq!(position(&world).generation, at.generation);
    // At the start, too. (What is not in the database file yet keeps the WAL from beginning anew.)
    world.write();
    world.turn();
    world.app.execute_batch("BEGIN IMMEDIATE; INSERT INTO t (data) VALUES ('y')").unwrap();
    world.crash();
    assert!(matches!(world.core.turn(None), Err(Error::Busy(_))));
    world.app.execute_batch("COMMIT").unwrap();
    world.check("after a lock at the start");
    assert_eq!(position(&world).generation, at.generation);
}

#[test]
fn a_long_reader_does_not_stop_copying_and_a_huge_wal_begins_anew_after_it() {
    let mut world = World::new(512);
    world.core.options.min_checkpoint_pages = 10;
    world.core.options.truncate_pages = 20;
    world.turn();
    world.toggle_reader();
    for _ in 0..10 {
        world.write();
        world.turn();
    }
    let during = position(&world);
    world.check("beside a reader");
    world.toggle_reader();
    world.write();
    world.core.stuck_at = None;
    world.turn();
    world.turn();
    let after = position(&world);
    assert_eq!((after.generation, after.index), (during.generation, during.index + 1));
    assert!(after.offset < during.offset);
    world.check("after the reader");
}

#[test]
fn what_a_lost_life_looks_like_is_known() {
    let header = |first: u32| Header {
        order: sqlite_wal::ByteOrder::Little,
        page_size: PageSize::new(512).unwrap(),
        sequence: 0,
        salts: sqlite_wal::Salts((u64::from(first) << 32 | 7).to_be_bytes()),
    };
    let lost = |known: u32, next: u32| lost_between(&header(known), &header(next));
    assert!(!lost(5, 6), "counted up by one");
    assert!(!lost(u32::MAX, 0), "and around");
    assert!(lost(5, 5), "drawn with the same first salt");
    assert!(lost(5, 7), "one between");
    assert!(lost(5, 4), "an older one");
    assert!(lost(5, 0x9000_0000), "drawn");
}

#[test]
fn salts_that_were_drawn_begin_a_new_generation() {
    let mut world = World::new(512);
    world.turn();
    let before = position(&world);
    // Cut to nothing, and recovered by a process that comes after one that died: by hand, as it takes bad luck.
    world.core.control().unwrap().worker().unwrap().checkpoint().unwrap();
    let mut header = *world.core.log.as_ref().unwrap().chain.header();
    header.salts = sqlite_wal::Salts([0xab; 8]);
    fs::write(&world.core.wal_path, header.encode()).unwrap();
    world.core.turn(None).unwrap();
    assert_ne!(position(&world).generation, before.generation);
}

#[test]
fn writes_that_fall_between_copy_and_checkpoint_are_not_lost() {
    let mut world = World::new(512);
    world.core.options.busy_timeout = Duration::from_secs(2);
    world.turn();
    let stop = Arc::new(AtomicBool::new(false));
    let (path, until) = (world.path(), Arc::clone(&stop));
    let writer = std::thread::spawn(move || {
        let app = connect(&path);
        app.busy_timeout(Duration::from_secs(10)).unwrap();
        app.execute_batch("PRAGMA synchronous = OFF").unwrap();
        while !until.load(Ordering::Relaxed) {
            app.execute("INSERT INTO t (data) VALUES (randomblob(700))", []).unwrap();
        }
    });
    for _ in 0..150 {
        world.checkpoint();
    }
    stop.store(true, Ordering::Relaxed);
    writer.join().unwrap();
    world.check("beside a writer");
    assert_eq!(world.generations, 1);
    assert!(position(&world).index > 2, "{}", position(&world));
}

#[test]
fn a_snapshot_beside_a_reader_is_a_state_by_itself() {
    let mut world = World::new(512);
    world.write();
    world.turn();
    // What is written now cannot be copied into the database file.
    world.toggle_reader();
    for _ in 0..5 {
        world.write();
    }
    let frozen = world.core.freeze().unwrap();
    let path = world.dir.path().join("alone.db");
    fs::write(&path, frozen.read(0).unwrap()).unwrap();
    assert_eq!(rows(&path), rows(&world.path()));
}

#[test]
fn a_transaction_that_is_not_committed_is_not_copied() {
    let mut world = World::new(512);
    world.write();
    world.turn();
    let before = position(&world);
    // More than the cache holds, so that it is in the WAL before its end.
    world.app.execute_batch("PRAGMA cache_size = 5; BEGIN; INSERT INTO t (data) VALUES (randomblob(200000))").unwrap();
    let wal = fs::metadata(world.core.wal_path.clone()).unwrap().len();
    assert!(wal > before.offset + 50_000, "{wal}");
    world.turn();
    assert_eq!(position(&world), before);
    world.app.execute_batch("ROLLBACK").unwrap();
    world.write();
    world.check("after a transaction that was given up");
    assert_eq!(world.generations, 1);
}

#[test]
fn frames_that_were_written_over_begin_a_new_generation() {
    let mut world = World::new(512);
    world.write();
    world.turn();
    let wal = world.core.wal_path.clone();
    let older = fs::read(&wal).unwrap();
    world.write();
    world.turn();
    let copied = position(&world);
    // As after a power cut under an application that does not sync: the last transaction is gone, and another takes its place.
    world.core.detach();
    world.app.set_db_config(rusqlite::config::DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).unwrap();
    world.app = Connection::open_in_memory().unwrap();
    fs::write(&wal, older).unwrap();
    let _ = fs::remove_file(world.dir.path().join("app.db-shm"));
    world.app = connect(&world.path());
    for _ in 0..3 {
        world.write();
    }
    world.crash();
    world.check("after frames were written over");
    assert_ne!(position(&world).generation, copied.generation);
}

#[test]
fn a_life_that_was_lost_under_our_eyes_begins_a_new_generation() {
    let mut world = World::new(512);
    for _ in 0..3 {
        world.write();
    }
    world.turn();
    let before = position(&world);
    // Two lives later, by hand: the guard lets nobody do it.
    let mut header = *world.core.log.as_ref().unwrap().chain.header();
    let first = header.salts.first().wrapping_add(2);
    header.salts.0[..4].copy_from_slice(&first.to_be_bytes());
    let mut bytes = fs::read(&world.core.wal_path).unwrap();
    bytes[..32].copy_from_slice(&header.encode());
    fs::write(&world.core.wal_path, bytes).unwrap();
    world.core.turn(None).unwrap();
    assert_ne!(position(&world).generation, before.generation);
}

#[test]
fn what_is_written_before_the_lock_is_copied_under_it() {
    let mut world = World::new(512);
    world.write();
    world.turn();
    for _ in 0..4 {
        world.write();
    }
    let worker = world.core.checkpoint_ahead().unwrap().unwrap();
    for _ in 0..3 {
        world.write();
    }
    assert!(world.core.checkpoint_sealed(worker).unwrap());
    // The WAL begins anew, over what was written before the lock.
    for _ in 0..5 {
        world.write();
    }
    world.check("after a sealed checkpoint");
    assert_eq!((world.generations, position(&world).index), (1, 2));
}

#[test]
fn frames_beyond_4_gib_are_copied() {
    use std::num::NonZeroU32;
    use std::os::unix::fs::FileExt;
    let mut world = World::new(65536);
    world.turn();
    let log = world.core.log.unwrap();
    let header = *log.chain.header();
    let offset = header.page_size.frame_offset(65_600);
    assert!(offset > u64::from(u32::MAX));
    // As if the life had been copied up to there: in files that are mostly holes.
    let mut chain = Chain::resume(header, offset, sqlite_wal::Checksum::default()).unwrap();
    world.core.log = Some(Log { chain, ..log });
    let wal = File::options().write(true).open(&world.core.wal_path).unwrap();
    let before = offset - header.page_size.frame_len() as u64;
    wal.write_all_at(&header.salts.0, before + 8).unwrap();
    let page = vec![7; header.page_size.len()];
    let head = chain.append(NonZeroU32::MIN, Some(NonZeroU32::MIN), &page).unwrap();
    wal.write_all_at(&[head.as_slice(), &page].concat(), offset).unwrap();
    assert_eq!(world.core.capture().unwrap(), Captured::Copied);
    let end = position(&world).offset;
    assert_eq!(end, offset + header.page_size.frame_len() as u64);
    assert!(world.core.options.is_large(header.page_size, end));
    let shadow = world.core.shadow().unwrap().open_life(log.generation, log.index, OpenMode::Read).unwrap();
    let mut copied = vec![0; page.len()];
    shadow.read_at(&mut copied, offset + 24).unwrap();
    assert_eq!(copied, page);
}
