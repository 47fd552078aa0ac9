//! [`Refusal`]: why this primary may not lead this quorum. Nothing was raised or changed when one comes out.

use lsn::{Lsn, Path, SystemId, Tli};

/// A reason to leave the quorum alone, as a sentence that says what to do.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refusal {
    /// Another PostgreSQL altogether.
    #[error(
        "the primary's system identifier is {primary}, the quorum keeps the WAL of {quorum}: this is another database cluster; \
         check the connection string"
    )]
    SystemId {
        /// The primary's.
        primary: SystemId,
        /// The one the quorum knows.
        quorum: SystemId,
    },
    /// Segments of another size.
    #[error("the primary writes WAL segments of {primary} bytes, the quorum keeps segments of {quorum}")]
    SegmentSize {
        /// The primary's.
        primary: u32,
        /// The one the quorum knows.
        quorum: u32,
    },
    /// A majority was reached and nobody knows the cluster.
    #[error("no safekeeper knows this cluster: make it known with `seawall init`")]
    NoCluster,
    /// A fence stands.
    #[error("{address} holds a fence ({fence}): lift it before a primary can lead again")]
    Fenced {
        /// Who has it.
        address: String,
        /// Its text.
        fence: String,
    },
    /// The primary is on another TLI than the log.
    #[error(
        "the primary writes on TLI {primary}, the quorum's log lies on {log}: following a promotion is not permitted without \
         a fence or takeover"
    )]
    OtherTli {
        /// The primary's TLI.
        primary: Tli,
        /// The log's path.
        log: Path,
    },
    /// WAL of an ancestor TLI would have to be streamed.
    #[error(
        "the stream would begin at {from}, before TLI {tli} began at {begin}: let the quorum commit on its TLI first"
    )]
    BeforeSwitch {
        /// Start of the stream.
        from: Lsn,
        /// The newest TLI.
        tli: Tli,
        /// Its first byte.
        begin: Lsn,
    },
    /// The slot moved beyond what a majority has.
    #[error(
        "the slot begins at {restart}, above {end} where the quorum's log ends: a majority of the safekeepers lost WAL it had \
         acknowledged; bring their disks back"
    )]
    LostWal {
        /// The slot's restart_lsn.
        restart: Lsn,
        /// End of the best log found.
        end: Lsn,
    },
    /// The primary has less than the log.
    #[error(
        "the primary's WAL ends at {primary}, below {log} where the quorum's log ends: it was restored from an older copy or \
         lost WAL, and may not continue this log"
    )]
    PrimaryBehind {
        /// The primary's end.
        primary: Lsn,
        /// End of the log.
        log: Lsn,
    },
    /// No slot of ours where there is a log already.
    #[error(
        "the primary has no slot of ours although the quorum has WAL up to {end}: it looks like a copy of the primary, and two \
         primaries on one TLI would overwrite each other; start the original"
    )]
    Clone {
        /// End of the log.
        end: Lsn,
    },
    /// The slot exists and holds no WAL.
    #[error(
        "the primary's slot holds no WAL (never used, or invalidated): drop it with pg_drop_replication_slot and attach anew"
    )]
    EmptySlot,
    /// The primary no longer has the WAL that must be compared.
    #[error(
        "the primary has removed its WAL at {from}, which the quorum still needs to compare its log ending at {end}"
    )]
    WalRemoved {
        /// First byte needed.
        from: Lsn,
        /// End of the log.
        end: Lsn,
    },
    /// The bytes differ.
    #[error(
        "the primary's WAL differs from the log of {address} at {at}: the two have parted, and the primary may not continue \
         this log"
    )]
    Diverged {
        /// Whose log.
        address: String,
        /// First different byte.
        at: Lsn,
    },
    /// Every member voted, and no log that the primary contains has a majority.
    #[error("the primary contains no log that a majority of the safekeepers is at or below")]
    NoDonor,
    /// The driver's sentence about the primary.
    #[error("{0}")]
    Primary(String),
}

impl Refusal {
    /// A word for metrics and status.
    pub fn code(&self) -> &'static str {
        match self {
            Refusal::SystemId { .. } => "system_id",
            Refusal::SegmentSize { .. } => "segment_size",
            Refusal::NoCluster => "no_cluster",
            Refusal::Fenced { .. } => "fenced",
            Refusal::OtherTli { .. } => "other_tli",
            Refusal::BeforeSwitch { .. } => "before_switch",
            Refusal::LostWal { .. } => "lost_wal",
            Refusal::PrimaryBehind { .. } => "primary_behind",
            Refusal::Clone { .. } => "clone",
            Refusal::EmptySlot => "empty_slot",
            Refusal::WalRemoved { .. } => "wal_removed",
            Refusal::Diverged { .. } => "diverged",
            Refusal::NoDonor => "no_donor",
            Refusal::Primary(_) => "primary",
        }
    }
}
