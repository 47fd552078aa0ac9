//! Why retention did nothing, or stopped. What is deleted by then was superfluous.

use lsn::Lsn;
use replica_client::Generation;

/// Why retention did nothing, or stopped.
#[derive(Debug, thiserror::Error)]
pub enum RetentionError {
    /// The replica failed.
    #[error(transparent)]
    Replica(#[from] replica_client::Error),
    /// A snapshot's description cannot be read.
    #[error("the snapshot at {begin} of generation {generation} cannot be read, so nothing is deleted")]
    Snapshot {
        /// Where.
        generation: Generation,
        /// Which.
        begin: Lsn,
        /// Why not.
        source: backup_format::SnapshotError,
    },
    /// A snapshot's description is another's.
    #[error("the snapshot at {begin} of generation {generation} says it begins elsewhere, so nothing is deleted")]
    Misplaced {
        /// Where.
        generation: Generation,
        /// Which.
        begin: Lsn,
    },
    /// The store cannot make sure that only one deletes.
    #[error(
        "this store cannot keep two from deleting at once; if nobody else uploads to or deletes from this replica, say so with --sole-uploader"
    )]
    NoLease(#[source] replica_client::Error),
    /// Another one deletes now.
    #[error("another host is deleting from this replica now; wait for it")]
    Busy(#[source] replica_client::Error),
    /// The lease was lost.
    #[error("the lease on the replica was lost half-way; run it again")]
    LeaseLost,
    /// Clocks disagree.
    #[error(
        "the clock of this host is {seconds} s away from the store's, and a wrong clock would delete what is still promised; set it right"
    )]
    Clock {
        /// How far.
        seconds: i64,
    },
    /// A window of nothing.
    #[error("a window of no time would promise nothing; give at least one minute")]
    NoWindow,
}

impl RetentionError {
    /// Whether it refused to protect data, rather than failed.
    pub fn is_refusal(&self) -> bool {
        !matches!(self, RetentionError::Replica(_) | RetentionError::LeaseLost)
    }
}
