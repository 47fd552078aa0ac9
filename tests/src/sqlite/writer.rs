//! What an application does to its database, in a process of its own, until it is killed.
//!
//! Every transaction leaves the database so that it can be judged alone: `state` has the number of the transaction, the number of rows and
//! the sum over all of them. A mixture of two states, or a state with pages of another, has other rows than its sum says.

use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rand::rngs::StdRng;
use rand::{Rng, RngCore, SeedableRng};
use rusqlite::{Connection, ErrorCode, TransactionBehavior};

const BUSY: Duration = Duration::from_secs(10);

/// What a database says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ledger {
    /// The last transaction.
    pub number: i64,
    /// How many rows there are.
    pub rows: i64,
    /// The sum over them.
    pub sum: i64,
}

fn mix(id: i64, data: &[u8]) -> i64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64 ^ id as u64;
    for byte in data {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    }
    hash as i64
}

impl Ledger {
    /// Makes the database of a test.
    pub fn create(path: &Path, page_size: u32) -> Result<()> {
        let connection = open(path)?;
        connection.execute_batch(&format!(
            "PRAGMA page_size = {page_size}; PRAGMA journal_mode = wal;
             CREATE TABLE data (id INTEGER PRIMARY KEY, content BLOB, mix INTEGER);
             CREATE INDEX by_mix ON data (mix);
             CREATE TABLE state (one INTEGER PRIMARY KEY, number INTEGER, rows INTEGER, sum INTEGER);
             INSERT INTO state VALUES (1, 0, 0, 0);"
        ))?;
        Ok(())
    }

    /// What the database says of itself, unchecked.
    pub fn read(path: &Path) -> Result<Ledger> {
        said(&open(path)?)
    }

    /// Checks that the database is sound and its rows are those its ledger says.
    pub fn check(path: &Path) -> Result<Ledger> {
        let connection = Connection::open(path)?;
        let integrity: String = connection.query_row("PRAGMA integrity_check", [], |row| row.get(0))?;
        ensure!(integrity == "ok", "integrity_check: {integrity}");
        let ledger = said(&connection)?;
        let mut statement = connection.prepare("SELECT id, content FROM data")?;
        let mut rows = statement.query([])?;
        let (mut count, mut sum) = (0, 0_i64);
        while let Some(row) = rows.next()? {
            count += 1;
            sum = sum.wrapping_add(mix(row.get(0)?, row.get_ref(1)?.as_blob()?));
        }
        ensure!(
            (count, sum) == (ledger.rows, ledger.sum),
            "{count} rows with sum {sum}, and its ledger says {ledger:?}"
        );
        Ok(ledger)
    }
}

fn open(path: &Path) -> Result<Connection> {
    let connection = Connection::open(path)?;
    connection.busy_timeout(BUSY)?;
    connection.execute_batch("PRAGMA synchronous = NORMAL")?;
    Ok(connection)
}

fn said(connection: &Connection) -> Result<Ledger> {
    let ledger = connection.query_row("SELECT number, rows, sum FROM state", [], |row| {
        Ok(Ledger { number: row.get(0)?, rows: row.get(1)?, sum: row.get(2)? })
    });
    ledger.context("read the ledger")
}

/// Writes, reads, vacuums and checkpoints for ever. An error other than a lock ends it: then something is wrong with the database.
pub fn write_until_killed(path: &Path, seed: u64) -> Result<()> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut connection = open(path)?;
    loop {
        let done = match random.random_range(0..100) {
            0..50 => transaction(&mut connection, &mut random),
            50..51 => connection.execute_batch("VACUUM").map_err(Into::into),
            51..56 => {
                let mode = ["PASSIVE", "FULL", "RESTART", "TRUNCATE"][random.random_range(0..4)];
                connection.busy_timeout(Duration::from_millis(50))?;
                let done = connection.query_row(&format!("PRAGMA wal_checkpoint({mode})"), [], |_| Ok(()));
                connection.busy_timeout(BUSY)?;
                done.map_err(Into::into)
            }
            56..58 => read_long(&mut connection, &mut random),
            58..59 => {
                connection = open(path)?;
                Ok(())
            }
            _ => {
                sleep(Duration::from_millis(random.random_range(0..50)));
                Ok(())
            }
        };
        match done {
            Err(error) if !is_lock(&error) => return Err(error),
            _ => {}
        }
    }
}

fn is_lock(error: &anyhow::Error) -> bool {
    let code = error.downcast_ref::<rusqlite::Error>().and_then(rusqlite::Error::sqlite_error_code);
    matches!(code, Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
}

fn read_long(connection: &mut Connection, random: &mut StdRng) -> Result<()> {
    let transaction = connection.transaction()?;
    let before = said(&transaction)?;
    let until = Instant::now() + Duration::from_millis(random.random_range(0..800));
    while Instant::now() < until {
        sleep(Duration::from_millis(20));
        ensure!(said(&transaction)? == before, "a reader's view has changed");
    }
    Ok(())
}

/// One random transaction; some are given up.
fn transaction(connection: &mut Connection, random: &mut StdRng) -> Result<()> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let mut ledger = said(&transaction)?;
    let count = match random.random_range(0..40) {
        0 => 300,
        1..10 => 20,
        _ => 3,
    };
    for _ in 0..count {
        let id: Option<i64> = transaction
            .query_row(
                "SELECT id FROM data WHERE id >= abs(random()) % (SELECT coalesce(max(id), 0) + 1 FROM data) LIMIT 1",
                [],
                |row| row.get(0),
            )
            .ok();
        let old: i64 = match id {
            Some(id) => transaction.query_row("SELECT mix FROM data WHERE id = ?1", [id], |row| row.get(0))?,
            None => 0,
        };
        let most = [100, 2000, 12_000][random.random_range(0..3)];
        let mut content = vec![0; random.random_range(0..most)];
        random.fill_bytes(&mut content);
        match (id, random.random_range(0..10)) {
            // So that the database does not grow for ever.
            (Some(id), 0..3) | (Some(id), 3..6) if ledger.rows > 1500 || random.random_bool(0.5) => {
                transaction.execute("DELETE FROM data WHERE id = ?1", [id])?;
                (ledger.rows, ledger.sum) = (ledger.rows - 1, ledger.sum.wrapping_sub(old));
            }
            (Some(id), 0..6) => {
                let new = mix(id, &content);
                transaction.execute("UPDATE data SET content = ?2, mix = ?3 WHERE id = ?1", (id, &content, new))?;
                ledger.sum = ledger.sum.wrapping_sub(old).wrapping_add(new);
            }
            _ => {
                transaction.execute("INSERT INTO data (content) VALUES (?1)", [&content])?;
                let id = transaction.last_insert_rowid();
                let new = mix(id, &content);
                transaction.execute("UPDATE data SET mix = ?2 WHERE id = ?1", (id, new))?;
                (ledger.rows, ledger.sum) = (ledger.rows + 1, ledger.sum.wrapping_add(new));
            }
        }
    }
    transaction
        .execute("UPDATE state SET number = ?1, rows = ?2, sum = ?3", (ledger.number + 1, ledger.rows, ledger.sum))?;
    match random.random_range(0..15) {
        0 => transaction.rollback()?,
        _ => transaction.commit()?,
    }
    Ok(())
}
