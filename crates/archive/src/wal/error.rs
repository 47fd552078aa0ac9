//! Why WAL is not archived for the moment.

use lsn::Lsn;

/// What keeps a step from being done. All of them are tried again, later and later.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WalError {
    /// The replica.
    #[error(transparent)]
    Replica(#[from] replica_client::Error),
    /// The local WAL cannot be read.
    #[error("cannot read the local WAL at {at}: {reason}")]
    Local {
        /// From where on.
        at: Lsn,
        /// Why.
        reason: String,
    },
    /// The local WAL is not what was committed.
    #[error("the local WAL is damaged and is not archived: {0}")]
    Damaged(#[from] wal_format::ScanError),
    /// An archived object does not hold the WAL its name says.
    #[error(
        "the archived WAL of segment {segment:016x} in generation {generation} is damaged at its byte {start}: {error}"
    )]
    Object {
        /// Its generation.
        generation: replica_client::Generation,
        /// The segment's number.
        segment: u64,
        /// The first byte of the object, in the segment.
        start: u64,
        /// What is wrong with it.
        error: wal_format::ScanError,
    },
    /// Checking was cut short.
    #[error("checking archived WAL was cut short")]
    Stopped,
    /// The merged object does not hold what was stored.
    #[error("the merged WAL of {at} does not read back as it was stored; its pieces are kept")]
    ReadBack {
        /// The segment's start.
        at: Lsn,
    },
}
