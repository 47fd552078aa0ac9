//! [`Refusal`]: why an acceptor does not take a message. An ordinary outcome: the session ends with the sentence, the
//! acceptor is unharmed.

use crate::MAX_APPEND_BYTES;
use lsn::{Lsn, Path, Term};

/// Why a message was refused. The session ends with this sentence; the acceptor is unharmed.
#[derive(Clone, PartialEq, Eq, Hash, Debug, thiserror::Error)]
pub enum Refusal {
    /// Any message before the greeting.
    #[error("the first message of a session must be a greeting")]
    NoGreeting,
    /// The greeting is for another cluster than the connection chose.
    #[error("the greeting names cluster {0}, the connection another")]
    Cluster(lsn::ClusterId),
    /// Another system identifier.
    #[error("system identifier {theirs} is not that of this cluster, {ours}: this is another PostgreSQL")]
    SystemId {
        /// What this cluster has.
        ours: lsn::SystemId,
        /// What the proposer has.
        theirs: lsn::SystemId,
    },
    /// Another segment size.
    #[error("WAL segments of {theirs} bytes do not fit this cluster, whose segments have {ours}")]
    SegmentSize {
        /// What this cluster has.
        ours: u32,
        /// What the proposer has.
        theirs: u32,
    },
    /// Another major version.
    #[error("PostgreSQL {theirs} does not continue the WAL of PostgreSQL {ours}: a new major version begins a new era")]
    Version {
        /// What this cluster has.
        ours: u32,
        /// What the proposer has.
        theirs: u32,
    },
    /// Another membership generation.
    #[error("the message counts by membership generation {theirs}, this safekeeper by {ours}")]
    Generation {
        /// What this cluster has.
        ours: u32,
        /// What the proposer has.
        theirs: u32,
    },
    /// Only members take WAL from a leader.
    #[error("this safekeeper's disk is not a member of the cluster")]
    NotMember,
    /// An empty history, or one that does not end with the leader's term.
    #[error("the term history of an Elected message must end with its term {0}")]
    History(Term),
    /// The leader and this log disagree about where they part.
    #[error("the leader wants to go on at {theirs}, but the logs part at {ours}")]
    StartPoint {
        /// The common point computed here.
        ours: Lsn,
        /// The one in the message.
        theirs: Lsn,
    },
    /// Committed WAL would be cut.
    #[error("going on at {start} would cut WAL committed up to {commit}")]
    BelowCommit {
        /// Where the leader wants to go on.
        start: Lsn,
        /// The commit LSN here.
        commit: Lsn,
    },
    /// A log begins with a whole segment.
    #[error("a log must begin at the start of a WAL segment, not at {0}")]
    FirstByte(Lsn),
    /// The log would have to begin elsewhere.
    #[error("the leader's log begins at {theirs}, this one at {ours}; remove the cluster here to begin anew")]
    LogStart {
        /// First byte here.
        ours: Lsn,
        /// First byte of the leader's log.
        theirs: Lsn,
    },
    /// The lineages of TLIs differ below the common point.
    #[error("the leader's path {theirs} is not that of this log, {ours}")]
    Path {
        /// Path of this log.
        ours: Path,
        /// Path of the leader.
        theirs: Path,
    },
    /// A fence stands that the proposer's path does not leave.
    #[error(
        "a fence stands (epoch {epoch}, at {lsn}): only a server promoted from all of it may lead; promote one, or lift the \
         fence with `seawall fence --lift`"
    )]
    Fenced {
        /// The fence's epoch.
        epoch: Term,
        /// Where the fenced log ends.
        lsn: Lsn,
    },
    /// A fence belongs to the term that completed the log, and only then.
    #[error("a fence of term {theirs} cannot be set in term {ours}: another proposer came in between; try again")]
    FenceTerm {
        /// The term here.
        ours: Term,
        /// The fence's epoch.
        theirs: Term,
    },
    /// Appends need an Elected message on the same session first.
    #[error("an append of term {0} came before its Elected message")]
    NotElected(Term),
    /// Appends follow each other without a gap or an overlap.
    #[error("the append begins at {begin}, but this log ends at {end}")]
    Contiguity {
        /// First byte of the append.
        begin: Lsn,
        /// End of this log.
        end: Lsn,
    },
    /// Bounds and bytes of an append do not go together.
    #[error(
        "an append from {begin} to {end} with {bytes} bytes of WAL is malformed; at most {MAX_APPEND_BYTES} are allowed"
    )]
    Length {
        /// First byte.
        begin: Lsn,
        /// First byte after it.
        end: Lsn,
        /// Bytes that came.
        bytes: usize,
    },
    /// The bytes are not WAL that could stand there.
    #[error("the WAL from {begin} is not valid: {reason}")]
    BadWal {
        /// First byte of the append.
        begin: Lsn,
        /// What the scanner said.
        reason: String,
    },
}
