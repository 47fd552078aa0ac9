//! Control over a live database: the two connections through which SQLite is made to keep its WAL until it was copied.
//!
//! The *guard* holds a read transaction all the time. While it does, the WAL can begin anew at most once, and only if every frame was
//! in the database file already when the guard began; no frame written after it began can be overwritten, whatever checkpoints
//! other processes run. So nothing is lost as long as (1) every frame that was there when a guard began is copied before the next
//! guard begins, and (2) a new guard begins before the old one ends, or while we hold the write lock.
//!
//! The *worker* exists while it is needed: it takes the write lock (nothing is written then; the log is *sealed*), under which the
//! guard may end, run the checkpoint and begin again. RESTART and TRUNCATE are never used: they need the write lock for themselves,
//! so what is written just before they take it would be cut away unseen.
//!
//! Nothing is created in the user's database. A write that changes nothing ([`Worker::touch`]) is the only one ever made.

use crate::error::Error;
use rusqlite::config::DbConfig;
use rusqlite::types::FromSql;
use rusqlite::wal::CheckpointMode;
use rusqlite::{Connection, ErrorCode, FileControl, MAIN_DB, OpenFlags};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The guard, begun.
#[derive(Debug)]
pub(crate) struct Control {
    path: PathBuf,
    busy_timeout: Duration,
    guard: Connection,
}

/// The second connection. What it holds ends when it is dropped.
#[derive(Debug)]
pub(crate) struct Worker {
    path: PathBuf,
    connection: Connection,
}

/// What a checkpoint reached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Checkpointed {
    /// Every frame is in the database file: the next writer begins the WAL anew, unless readers are still in it.
    pub(crate) whole: bool,
}

impl Control {
    /// Opens the database, makes sure of WAL mode and begins the guard.
    pub(crate) fn take(path: &Path, busy_timeout: Duration) -> Result<Control, Error> {
        let control = Control { path: path.to_path_buf(), busy_timeout, guard: connect(path, busy_timeout)? };
        let mode: String = control.ask("ask for the journal mode of", "PRAGMA journal_mode")?;
        if !mode.eq_ignore_ascii_case("wal") {
            let mode: String = control.ask("set the journal mode of", "PRAGMA journal_mode = wal")?;
            if !mode.eq_ignore_ascii_case("wal") {
                return Err(Error::JournalMode { path: path.to_path_buf(), mode });
            }
        }
        control.begin()?;
        Ok(control)
    }

    /// Opens the second connection.
    pub(crate) fn worker(&self) -> Result<Worker, Error> {
        Ok(Worker { path: self.path.clone(), connection: connect(&self.path, self.busy_timeout)? })
    }

    /// Begins the guard anew while the worker holds a read transaction or the write lock. The caller has copied every frame that was
    /// there when the worker began.
    pub(crate) fn renew(&self, _holding: &Worker) -> Result<(), Error> {
        self.end()?;
        self.begin()
    }

    /// Copies what is in the WAL into the database file while the worker holds the write lock, and begins the guard anew. Frames that
    /// readers keep from being copied stay.
    pub(crate) fn checkpoint(&self, _locked: &Worker) -> Result<Checkpointed, Error> {
        self.end()?;
        let outcome = passive(&self.guard, &self.path);
        self.begin()?;
        outcome
    }

    /// The database's size in pages as the guard sees it.
    pub(crate) fn page_count(&self) -> Result<u32, Error> {
        self.ask("ask for the size of", "PRAGMA page_count")
    }

    /// The size of its pages in bytes.
    pub(crate) fn page_size(&self) -> Result<u32, Error> {
        self.ask("ask for the page size of", "PRAGMA page_size")
    }

    fn begin(&self) -> Result<(), Error> {
        begin_reading(&self.guard, &self.path)
    }

    fn end(&self) -> Result<(), Error> {
        run(&self.guard, &self.path, "end reading", "COMMIT")
    }

    fn ask<T: FromSql>(&self, what: &'static str, sql: &str) -> Result<T, Error> {
        ask(&self.guard, &self.path, what, sql)
    }
}

impl Worker {
    /// Begins a read transaction.
    pub(crate) fn read(&self) -> Result<(), Error> {
        begin_reading(&self.connection, &self.path)
    }

    /// Takes the write lock; waits for it at most the busy time-out.
    pub(crate) fn lock(&self) -> Result<(), Error> {
        run(&self.connection, &self.path, "take the write lock of", "BEGIN IMMEDIATE")
    }

    /// Ends what it holds.
    pub(crate) fn end(&self) -> Result<(), Error> {
        run(&self.connection, &self.path, "end a transaction of", "ROLLBACK")
    }

    /// Copies into the database file what the guard allows, without the write lock: nobody waits for it. What the guard allows was
    /// there when it began and has been copied by us before; the guard stands, so the WAL cannot begin anew.
    pub(crate) fn checkpoint(&self) -> Result<Checkpointed, Error> {
        passive(&self.connection, &self.path)
    }

    /// Writes a transaction that changes nothing: the user's version is set to what it is. A WAL that was copied into the database
    /// begins anew with it, and one that was empty gets its header.
    pub(crate) fn touch(&self) -> Result<(), Error> {
        self.lock()?;
        let version: i64 = ask(&self.connection, &self.path, "read", "PRAGMA user_version")?;
        run(&self.connection, &self.path, "write to", &format!("PRAGMA user_version = {version}; COMMIT"))
    }
}

fn begin_reading(connection: &Connection, path: &Path) -> Result<(), Error> {
    run(connection, path, "begin to read", "BEGIN")?;
    // A transaction begins with its first read; this one needs no schema.
    ask::<i64>(connection, path, "begin to read", "PRAGMA schema_version").map(drop)
}

fn passive(connection: &Connection, path: &Path) -> Result<Checkpointed, Error> {
    match connection.wal_checkpoint_v2(Some(MAIN_DB), CheckpointMode::PASSIVE) {
        Ok((frames, copied)) => Ok(Checkpointed { whole: frames >= 0 && frames == copied }),
        // Another process is at a checkpoint: as good as ours, but nothing is known about how far it comes.
        Err(error) if is_busy(&error) => Ok(Checkpointed { whole: false }),
        Err(source) => Err(sqlite_error("checkpoint", path, source)),
    }
}

fn run(connection: &Connection, path: &Path, what: &'static str, sql: &str) -> Result<(), Error> {
    connection.execute_batch(sql).map_err(|source| sqlite_error(what, path, source))
}

fn ask<T: FromSql>(connection: &Connection, path: &Path, what: &'static str, sql: &str) -> Result<T, Error> {
    connection.query_row(sql, [], |row| row.get(0)).map_err(|source| sqlite_error(what, path, source))
}

fn sqlite_error(what: &'static str, path: &Path, source: rusqlite::Error) -> Error {
    match is_busy(&source) {
        true => Error::Busy(path.to_path_buf()),
        false => Error::Sqlite { what, path: path.to_path_buf(), source },
    }
}

fn is_busy(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
}

/// A connection that leaves the WAL alone: no checkpoint by itself, not even when it is closed, and the file stays.
fn connect(path: &Path, busy_timeout: Duration) -> Result<Connection, Error> {
    let open = || -> rusqlite::Result<Connection> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags)?;
        connection.busy_timeout(busy_timeout)?;
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
        connection.file_control(Some(MAIN_DB), FileControl::PersistWal(&mut 1))?;
        // None of these writes to the database. The guard reads one page, and a checkpoint needs no cache; what was allocated for more of
        // them is given back, because there may be thousands of guards.
        connection.execute_batch(
            "PRAGMA wal_autocheckpoint = 0; PRAGMA cache_size = 2; PRAGMA mmap_size = 0; PRAGMA synchronous = NORMAL;
             PRAGMA shrink_memory;",
        )?;
        Ok(connection)
    };
    open().map_err(|source| sqlite_error("open", path, source))
}

#[cfg(test)]
mod tests {
    #[test]
    fn sqlite_is_new_enough_to_checkpoint_beside_writers() {
        // Versions before 3.51.3 can lose committed pages when one process writes while another checkpoints.
        assert!(rusqlite::version_number() >= 3_051_003, "{}", rusqlite::version());
    }
}
