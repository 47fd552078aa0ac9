//! Replicas as Litestream 0.3 writes them, made from the description of its layout alone: what the product must restore.
//!
//! Shares no code with the product. The databases and their WALs are a real SQLite's.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use rusqlite::Connection;

use super::reader::{sum, word};

/// A replica under construction, in a directory.
#[derive(Debug)]
pub struct Fixture {
    root: PathBuf,
    recipient: Option<age::x25519::Recipient>,
    /// Every object is stored a minute after the one before.
    clock: SystemTime,
}

/// What was put into a generation, piece by piece.
#[derive(Debug, Clone)]
pub struct Step {
    /// The life.
    pub index: u64,
    /// Where the piece begins in it.
    pub offset: u64,
    /// When it was stored.
    pub stored: SystemTime,
    /// How many rows the database has with it.
    pub rows: i64,
}

impl Fixture {
    /// An empty one; what is stored is encrypted for the recipient, if there is one.
    pub fn new(root: &Path, recipient: Option<age::x25519::Recipient>) -> Fixture {
        // Whole seconds, so that a moment can be written down.
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let clock = SystemTime::UNIX_EPOCH + Duration::from_secs(now.as_secs().saturating_sub(24 * 3600));
        Fixture { root: root.to_path_buf(), recipient, clock }
    }

    fn store(&mut self, key: &str, plain: &[u8]) -> Result<SystemTime> {
        use lz4_flex::frame::{BlockMode, BlockSize, FrameEncoder, FrameInfo};
        let info =
            FrameInfo::new().block_size(BlockSize::Max4MB).block_mode(BlockMode::Independent).content_checksum(true);
        let mut frame = FrameEncoder::with_frame_info(info, Vec::new());
        frame.write_all(plain)?;
        let frame = frame.finish()?;
        let object = match &self.recipient {
            Some(recipient) => age::encrypt(recipient, &frame)?,
            None => frame,
        };
        let path = self.root.join(key);
        fs::create_dir_all(path.parent().context("a key without a folder")?)?;
        fs::write(&path, object)?;
        self.clock += Duration::from_secs(60);
        fs::File::options().write(true).open(&path)?.set_modified(self.clock)?;
        Ok(self.clock)
    }

    /// Stores a snapshot.
    pub fn snapshot(&mut self, generation: &str, index: u64, plain: &[u8]) -> Result<SystemTime> {
        self.store(&format!("generations/{generation}/snapshots/{index:08x}.snapshot.lz4"), plain)
    }

    /// Stores a piece of a life. From 4 GiB on the offset has more than eight digits.
    pub fn piece(&mut self, generation: &str, index: u64, offset: u64, plain: &[u8]) -> Result<SystemTime> {
        self.store(&format!("generations/{generation}/wal/{index:08x}_{offset:08x}.wal.lz4"), plain)
    }

    /// Stores a life in `count` pieces of about one length, each of which ends with a transaction; says how many there are.
    pub fn cut(&mut self, generation: &str, index: u64, wal: &[u8], count: u64) -> Result<usize> {
        let (frame_len, step) = (24 + word(wal, 8) as usize, wal.len() / count.max(1) as usize);
        let (mut begin, mut at, mut pieces) = (0, 32, 0);
        while at + frame_len <= wal.len() {
            let commits = word(wal, at + 4) != 0;
            at += frame_len;
            if commits && (at - begin >= step || at + frame_len > wal.len()) {
                self.piece(generation, index, begin as u64, &wal[begin..at])?;
                (begin, pieces) = (at, pieces + 1);
            }
        }
        Ok(pieces)
    }

    /// A generation of `lives` lives with three transactions each, every one a piece of its own; with `big_endian` sums as a machine
    /// of that kind makes them. Each transaction adds a row to the table `t`.
    pub fn generation(
        &mut self,
        generation: &str,
        page_size: u32,
        big_endian: bool,
        lives: u64,
        scratch: &Path,
    ) -> Result<Vec<Step>> {
        let _ = fs::remove_dir_all(scratch);
        fs::create_dir_all(scratch)?;
        let (path, wal_path) = (scratch.join("made.db"), scratch.join("made.db-wal"));
        let connection = Connection::open(&path)?;
        connection.execute_batch(&format!(
            "PRAGMA page_size = {page_size}; PRAGMA journal_mode = wal; PRAGMA wal_autocheckpoint = 0;
             CREATE TABLE t (id INTEGER PRIMARY KEY, data BLOB); PRAGMA wal_checkpoint(TRUNCATE);"
        ))?;
        let (mut steps, mut rows) = (Vec::new(), 0);
        for index in 0..lives {
            if index == 0 || index == 2 {
                self.snapshot(generation, index, &fs::read(&path)?)?;
            }
            let mut offset = 0;
            for _ in 0..3 {
                connection.execute("INSERT INTO t (data) VALUES (randomblob(5000))", [])?;
                rows += 1;
                let wal = fs::read(&wal_path)?;
                let wal = if big_endian { as_big_endian(&wal)? } else { wal };
                let stored = self.piece(generation, index, offset, &wal[offset as usize..])?;
                steps.push(Step { index, offset, stored, rows });
                offset = wal.len() as u64;
            }
            connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
        }
        Ok(steps)
    }

    /// A generation whose one life is longer than `bytes`: most of it the same pages again and again, written over in the end by those of
    /// a real database, which is returned. `progress` hears how long the life is so far.
    pub fn long_life(
        &mut self,
        generation: &str,
        bytes: u64,
        scratch: &Path,
        mut progress: impl FnMut(u64),
    ) -> Result<Vec<u8>> {
        const PAGE: usize = 65536;
        fs::create_dir_all(scratch)?;
        let path = scratch.join("long.db");
        let connection = Connection::open(&path)?;
        connection.execute_batch(&format!(
            "PRAGMA page_size = {PAGE}; PRAGMA journal_mode = wal; CREATE TABLE t (id INTEGER PRIMARY KEY, data BLOB);
             WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 200)
             INSERT INTO t SELECT i, randomblob(20000) FROM n; PRAGMA wal_checkpoint(TRUNCATE);"
        ))?;
        drop(connection);
        let database = fs::read(&path)?;
        let pages = (database.len() / PAGE) as u32;
        self.snapshot(generation, 0, &database[..PAGE])?;
        let mut life = Vec::new();
        let mut header = [0_u32; 6];
        header.copy_from_slice(&[0x377f_0682, 3_007_000, PAGE as u32, 7, 0x0102_0304, 0x0506_0708]);
        life.extend(header.iter().flat_map(|word| word.to_be_bytes()));
        let mut state = sum((0, 0), false, &life);
        life.extend([state.0, state.1].iter().flat_map(|word| word.to_be_bytes()));
        let (mut offset, mut number, mut filler) = (0_u64, 0_u32, vec![0x11_u8; PAGE]);
        let mut frame = |life: &mut Vec<u8>, page: u32, commit: u32, content: &[u8]| {
            let head = [page, commit].map(u32::to_be_bytes).concat();
            state = sum(sum(state, false, &head), false, content);
            life.extend_from_slice(&head);
            life.extend([header[4], header[5], state.0, state.1].iter().flat_map(|word| word.to_be_bytes()));
            life.extend_from_slice(content);
        };
        while offset + life.len() as u64 <= bytes {
            number += 1;
            filler[..4].copy_from_slice(&number.to_be_bytes());
            let commit = if number.is_multiple_of(64) { pages } else { 0 };
            frame(&mut life, 2 + number % (pages - 1), commit, &filler);
            if commit != 0 && life.len() >= 256 << 20 {
                self.piece(generation, 0, offset, &life)?;
                offset += life.len() as u64;
                progress(offset);
                life.clear();
            }
        }
        self.piece(generation, 0, offset, &life)?;
        offset += life.len() as u64;
        life.clear();
        ensure!(offset > bytes, "the last piece begins at {offset}");
        for (number, page) in (1_u32..).zip(database.chunks_exact(PAGE)) {
            frame(&mut life, number, if number == pages { pages } else { 0 }, page);
        }
        self.piece(generation, 0, offset, &life)?;
        Ok(database)
    }
}

/// A database before and its WAL after many small transactions.
#[derive(Debug)]
pub struct Wal {
    /// The database before.
    pub snapshot: Vec<u8>,
    /// The whole WAL.
    pub wal: Vec<u8>,
}

impl Wal {
    /// Of about so many bytes.
    pub fn make(scratch: &Path, bytes: u64) -> Result<Wal> {
        fs::create_dir_all(scratch)?;
        let (path, wal_path) = (scratch.join("wal.db"), scratch.join("wal.db-wal"));
        let connection = Connection::open(&path)?;
        connection.execute_batch(
            "PRAGMA journal_mode = wal; PRAGMA synchronous = OFF; PRAGMA wal_autocheckpoint = 0;
             CREATE TABLE t (id INTEGER PRIMARY KEY, data BLOB); PRAGMA wal_checkpoint(TRUNCATE);",
        )?;
        let snapshot = fs::read(&path)?;
        while fs::metadata(&wal_path)?.len() < bytes {
            connection.execute("INSERT INTO t (data) VALUES (randomblob(12000))", [])?;
        }
        Ok(Wal { snapshot, wal: fs::read(&wal_path)? })
    }
}

/// A WAL with the sums of a big-endian machine.
fn as_big_endian(wal: &[u8]) -> Result<Vec<u8>> {
    let mut made = wal.to_vec();
    let page_size = word(wal, 8) as usize;
    made[..4].copy_from_slice(&0x377f_0683_u32.to_be_bytes());
    let put = |bytes: &mut [u8], (s0, s1): (u32, u32)| {
        bytes[..4].copy_from_slice(&s0.to_be_bytes());
        bytes[4..8].copy_from_slice(&s1.to_be_bytes());
    };
    let mut state = sum((0, 0), true, &made[..24]);
    put(&mut made[24..32], state);
    for frame in made[32..].chunks_mut(24 + page_size) {
        ensure!(frame.len() == 24 + page_size, "a torn frame");
        state = sum(sum(state, true, &frame[..8]), true, &frame[24..]);
        put(&mut frame[16..24], state);
    }
    Ok(made)
}

/// Makes a database of more than 1 GiB that takes hardly any room: most of its pages are free, and rows stand on both sides of the page
/// that SQLite leaves out because locks are held on its bytes.
pub fn beyond_the_lock_page(path: &Path) -> Result<Connection> {
    const PAGE: u32 = 65536;
    const LOCK_PAGE: u32 = 0x4000_0000 / PAGE + 1;
    let connection = Connection::open(path)?;
    connection.execute_batch(&format!(
        "PRAGMA page_size = {PAGE}; CREATE TABLE t (id INTEGER PRIMARY KEY, data BLOB); INSERT INTO t (data) VALUES (x'00')"
    ))?;
    drop(connection);
    let file = fs::File::options().read(true).write(true).open(path)?;
    use std::os::unix::fs::FileExt;
    let mut head = [0; 100];
    file.read_exact_at(&mut head, 0)?;
    let used = word(&head, 28);
    let (trunk, last) = (used + 1, LOCK_PAGE + 20);
    // One trunk of the free list holds all other pages but the lock page; those at its end are taken first.
    let leaves: Vec<u32> = (trunk + 1..=last).filter(|page| *page != LOCK_PAGE).collect();
    let mut page = vec![0; PAGE as usize];
    page[4..8].copy_from_slice(&(leaves.len() as u32).to_be_bytes());
    ensure!(leaves.len() <= PAGE as usize / 4 - 8, "too many free pages for one trunk");
    for (slot, leaf) in page[8..].chunks_exact_mut(4).zip(&leaves) {
        slot.copy_from_slice(&leaf.to_be_bytes());
    }
    file.set_len(u64::from(last) * u64::from(PAGE))?;
    file.write_all_at(&page, u64::from(trunk - 1) * u64::from(PAGE))?;
    for (at, value) in [(28, last), (32, trunk), (36, leaves.len() as u32 + 1)] {
        file.write_all_at(&value.to_be_bytes(), at)?;
    }
    drop(file);
    let connection = Connection::open(path)?;
    connection.busy_timeout(Duration::from_secs(30))?;
    connection.execute_batch("PRAGMA journal_mode = wal; PRAGMA synchronous = NORMAL")?;
    for _ in 0..40 {
        connection.execute("INSERT INTO t (data) VALUES (randomblob(60000))", [])?;
    }
    Ok(connection)
}
