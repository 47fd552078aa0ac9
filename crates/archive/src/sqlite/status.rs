//! What is known of a replica from outside, and its metrics. Labels: `database` and `replica`.

use jiff::Timestamp;
use metrics::{counter, gauge};
use sqlite_wal::Position;

/// How a replica stands.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Status {
    /// What the replica is known to have.
    pub confirmed: Option<Position>,
    /// When it was last known to have everything the shadow WAL had.
    pub confirmed_at: Option<Timestamp>,
    /// It has everything, as far as is known.
    pub in_sync: bool,
    /// Why the last try failed; `None` after a good one.
    pub error: Option<String>,
    /// Somebody else writes to the same place: which generation, and what to do.
    pub shared: Option<String>,
    /// The last validation: when it ended and whether the replica was right.
    pub validated: Option<(Timestamp, bool)>,
}

/// Names in metrics and logs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Labels {
    pub(super) database: String,
    pub(super) replica: String,
}

impl Labels {
    pub(super) fn uploaded(&self, bytes: u64, at: Position) {
        let (database, replica) = (self.database.clone(), self.replica.clone());
        counter!("seawall_sqlite_replica_wal_bytes_total", "database" => database.clone(), "replica" => replica.clone())
            .increment(bytes);
        gauge!("seawall_sqlite_replica_index", "database" => database.clone(), "replica" => replica.clone())
            .set(f64::from(at.index));
        gauge!("seawall_sqlite_replica_offset", "database" => database, "replica" => replica).set(at.offset as f64);
    }

    pub(super) fn shared(&self, shared: bool) {
        let (database, replica) = (self.database.clone(), self.replica.clone());
        gauge!("seawall_sqlite_replica_shared", "database" => database, "replica" => replica)
            .set(f64::from(u8::from(shared)));
    }

    pub(super) fn count(&self, name: &'static str, outcome: &'static str) {
        let (database, replica) = (self.database.clone(), self.replica.clone());
        counter!(name, "database" => database, "replica" => replica, "outcome" => outcome).increment(1);
    }
}

impl Status {
    /// Seconds since the replica was last known to have everything; `None` if it never was. 0 while nothing new was written: an idle
    /// database is not behind.
    pub fn seconds_behind(&self, now: Timestamp) -> Option<f64> {
        let at = self.confirmed_at?;
        Some(if self.in_sync { 0.0 } else { now.duration_since(at).as_secs_f64().max(0.0) })
    }

    /// Seconds since the last confirmed upload.
    pub fn seconds_since_confirmed(&self, now: Timestamp) -> Option<f64> {
        Some(now.duration_since(self.confirmed_at?).as_secs_f64().max(0.0))
    }
}
