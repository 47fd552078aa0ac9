//! Why a snapshot could not be made. Until it is published, nothing counts.

use lsn::Lsn;
use std::time::Duration;

/// Why a snapshot could not be made.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The replica failed.
    #[error(transparent)]
    Replica(#[from] replica_client::Error),
    /// A part is not in the replica as it was packed.
    #[error("chunk {number} was stored with other bytes than were packed; take the backup again")]
    Stored {
        /// The chunk.
        number: u32,
    },
    /// Another backup of the same beginning is under way, or broke off a moment ago.
    #[error("{holder} is taking a backup that begins at {begin} too, or was until a moment ago; wait for it, or {} minutes", .wait.as_secs().div_ceil(60))]
    Busy {
        /// Who.
        holder: String,
        /// Where both begin.
        begin: Lsn,
        /// How long until its claim runs out.
        wait: Duration,
    },
    /// Another backup of the same beginning took over.
    #[error("another backup that begins at {0} took over from this one, which was silent too long")]
    Lost(Lsn),
    /// Parts vanished.
    #[error("{missing} of the snapshot's parts are not in the replica any more; take the backup again")]
    PartsGone {
        /// How many.
        missing: usize,
    },
    /// The WAL did not come.
    #[error(
        "the WAL this backup needs, up to {needed}, is in the replica only up to {reached} after {} s: is anything \
         archiving this cluster? If nothing does, take the backup with its WAL (--include-wal)",
        .waited.as_secs()
    )]
    WalMissing {
        /// Where the WAL must reach.
        needed: Lsn,
        /// Where it reaches.
        reached: Lsn,
        /// How long was waited.
        waited: Duration,
    },
    /// What is to be published contradicts itself.
    #[error("the backup cannot be described")]
    Description(#[from] backup_format::SnapshotError),
    /// More chunks than eight digits number.
    #[error("the backup has too many chunks; take larger ones")]
    TooManyChunks,
    /// A worker died.
    #[error("a chunk's upload broke off")]
    Worker,
}
