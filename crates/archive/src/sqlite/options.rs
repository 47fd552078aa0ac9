//! How one replica of a SQLite database is kept.

use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;

/// Intervals and limits of one replica; the defaults are Litestream's where it has one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Options {
    /// Changes are uploaded at most this often.
    pub sync_interval: Duration,
    /// Any moment in the last so much can be restored; zero: nothing is ever deleted.
    pub retention: Duration,
    /// How often it is looked for what can go.
    pub retention_check_interval: Duration,
    /// How often a snapshot is taken of a database that has changed; zero: once a retention.
    pub snapshot_interval: Duration,
    /// How often the replica is restored and compared with the database; zero: never.
    pub validation_interval: Duration,
    /// What is no longer needed is deleted so much later, so that a restore that has chosen it can finish.
    pub grace: Duration,
    /// Most plain bytes of one piece, and so of what is in memory.
    pub piece_bytes: u64,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            sync_interval: Duration::from_secs(1),
            retention: Duration::from_secs(24 * 3600),
            retention_check_interval: Duration::from_secs(3600),
            snapshot_interval: Duration::ZERO,
            validation_interval: Duration::ZERO,
            grace: Duration::from_secs(3600),
            piece_bytes: 16 * 1024 * 1024,
        }
    }
}

impl Options {
    /// How often a database that changes gets a snapshot; `None`: never but for a new generation.
    pub(super) fn snapshot_every(&self) -> Option<Duration> {
        [self.snapshot_interval, self.retention].into_iter().find(|interval| !interval.is_zero())
    }
}

/// What all replicas of a process share, so that many databases need no more memory than a few.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Snapshots under way at once.
    pub snapshots: Arc<Semaphore>,
    /// Pieces being uploaded at once.
    pub uploads: Arc<Semaphore>,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { snapshots: Arc::new(Semaphore::new(2)), uploads: Arc::new(Semaphore::new(8)) }
    }
}
