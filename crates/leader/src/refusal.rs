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
    #[error(
        "{address} holds a fence ({fence}): only a server promoted from all of the fenced log may lead; promote one, or lift \
         the fence with `seawall fence --lift`"
    )]
    Fenced {
        /// Who has it.
        address: String,
        /// Its text.
        fence: String,
    },
    /// The primary was promoted, and nobody permitted it to take over.
    #[error(
        "the primary was promoted: its TLI {primary} is not on the quorum's log, {log}; if it is to take over, start its \
         proposer with --takeover, or give it the fence token of `seawall pre-promote`"
    )]
    Takeover {
        /// The primary's TLI.
        primary: Tli,
        /// The log's path.
        log: Path,
    },
    /// The primary's lineage and the log's part below the log's end.
    #[error(
        "the primary, on TLI {primary}, left the quorum's log ({log}) at {at}, below its end {end}: WAL that may have been \
         acknowledged is missing there; promote a server that has it, or rewind this one with pg_rewind"
    )]
    Forked {
        /// The primary's TLI.
        primary: Tli,
        /// Where they part.
        at: Lsn,
        /// End of the log.
        end: Lsn,
        /// The log's path.
        log: Path,
    },
    /// The log's first TLI is not among the primary's.
    #[error(
        "the primary's TLI {primary} does not descend from the quorum's log, {log}; connect the primary that wrote it, or \
         begin a new era with `seawall rebase`"
    )]
    Unrelated {
        /// The primary's TLI.
        primary: Tli,
        /// The log's path.
        log: Path,
    },
    /// What is there at a switch point is no record.
    #[error("the primary's WAL at {at}, where one of its TLIs begins, cannot be read: {reason}")]
    BadSwitch {
        /// The switch point.
        at: Lsn,
        /// What the scanner said.
        reason: String,
    },
    /// Everything there is has to be compared, and nobody says what that is.
    #[error("the primary does not say which WAL it has; GRANT pg_monitor to the role")]
    UnknownWal,
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
         primaries on one TLI would overwrite each other; start the original, or if this is the original and its slot was lost, \
         compare all WAL there is with `seawall adopt`"
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
        "the primary no longer has its WAL around {from}, and without bytes in common nothing shows that it has all of the quorum's log, \
         which ends at {end}; bring the missing segments back into its pg_wal, or promote another server, and set wal_keep_size on \
         every one"
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
    /// Whether it says that the WAL of the two sides does not fit, rather than who they are or what is permitted.
    pub(crate) fn is_about_wal(&self) -> bool {
        matches!(
            self,
            Refusal::Forked { .. }
                | Refusal::LostWal { .. }
                | Refusal::PrimaryBehind { .. }
                | Refusal::WalRemoved { .. }
                | Refusal::Diverged { .. }
                | Refusal::NoDonor
        )
    }

    /// A word for metrics and status.
    pub fn code(&self) -> &'static str {
        match self {
            Refusal::SystemId { .. } => "system_id",
            Refusal::SegmentSize { .. } => "segment_size",
            Refusal::NoCluster => "no_cluster",
            Refusal::Fenced { .. } => "fenced",
            Refusal::Takeover { .. } => "takeover",
            Refusal::Forked { .. } => "forked",
            Refusal::Unrelated { .. } => "unrelated",
            Refusal::BadSwitch { .. } => "bad_switch",
            Refusal::UnknownWal => "unknown_wal",
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
