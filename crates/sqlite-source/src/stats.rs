//! What is measured of one database. Labels: `database`, the path; counters of checkpoints also `outcome`.

use crate::error::Error;
use crate::shadow::{Log, Shadow};
use metrics::{counter, gauge, histogram};
use sqlite_wal::Position;
use std::fs;
use std::path::Path;
use std::time::Duration;

/// The metrics of one database.
#[derive(Debug)]
pub(crate) struct Stats {
    database: String,
}

impl Stats {
    pub(crate) fn new(path: &Path) -> Stats {
        Stats { database: path.display().to_string() }
    }

    /// A turn of the sync loop has ended.
    pub(crate) fn turn(&self, took: Duration, error: Option<&Error>) {
        let database = self.database.clone();
        counter!("seawall_sqlite_syncs_total", "database" => database.clone()).increment(1);
        histogram!("seawall_sqlite_sync_seconds", "database" => database.clone()).record(took.as_secs_f64());
        if error.is_some_and(|error| !error.is_transient()) {
            counter!("seawall_sqlite_sync_errors_total", "database" => database.clone()).increment(1);
        }
        let full = error.is_some_and(Error::is_disk_full);
        gauge!("seawall_sqlite_disk_full", "database" => database).set(f64::from(u8::from(full)));
    }

    /// WAL bytes were copied.
    pub(crate) fn copied(&self, bytes: u64) {
        counter!("seawall_sqlite_wal_bytes_total", "database" => self.database.clone()).increment(bytes);
    }

    /// A checkpoint has ended.
    pub(crate) fn checkpoint(&self, took: Duration, outcome: &Result<bool, Error>) {
        let word = match outcome {
            Ok(true) => "whole",
            Ok(false) => "partial",
            Err(Error::Busy(_)) => "busy",
            Err(_) => "error",
        };
        let database = self.database.clone();
        counter!("seawall_sqlite_checkpoints_total", "database" => database.clone(), "mode" => "passive", "outcome" => word)
            .increment(1);
        histogram!("seawall_sqlite_checkpoint_seconds", "database" => database, "mode" => "passive")
            .record(took.as_secs_f64());
    }

    /// A generation has begun.
    pub(crate) fn generation(&self) {
        counter!("seawall_sqlite_generations_total", "database" => self.database.clone()).increment(1);
    }

    /// Where the copy ends.
    pub(crate) fn position(&self, position: Position) {
        gauge!("seawall_sqlite_position_index", "database" => self.database.clone()).set(f64::from(position.index));
        gauge!("seawall_sqlite_position_offset", "database" => self.database.clone()).set(position.offset as f64);
    }

    /// How large the files are; what cannot be asked is left as it was.
    pub(crate) fn sizes(&self, path: &Path, wal: &Path, shadow: Option<&Shadow>, log: Option<&Log>) {
        let set = |name: &'static str, bytes: Option<u64>| {
            if let Some(bytes) = bytes {
                gauge!(name, "database" => self.database.clone()).set(bytes as f64);
            }
        };
        let len = |path: &Path| fs::metadata(path).map(|found| found.len()).ok();
        set("seawall_sqlite_db_bytes", len(path));
        set("seawall_sqlite_wal_file_bytes", len(wal));
        set("seawall_sqlite_shadow_bytes", shadow.zip(log).and_then(|(shadow, log)| shadow.bytes(log.generation).ok()));
    }
}
