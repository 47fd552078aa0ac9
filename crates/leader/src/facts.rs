//! What a driver found out and hands to a [`Leader`](crate::Leader).

use consensus::FenceToken;
use lsn::{Lsn, NodeId, SegmentSize, SystemId, Tli};
use quorum_proto::LogStatusRow;

/// A safekeeper, by its place in [`Options::safekeepers`](crate::Options).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Peer(pub usize);

/// What a look at the primary found, all of it on one pair of connections to one server.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PrimaryFacts {
    /// Its system identifier; not 0.
    pub system_id: SystemId,
    /// The TLI it writes on.
    pub tli: Tli,
    /// The TLIs it descends from, oldest first; from the history file.
    pub ancestors: Vec<Ancestor>,
    /// Content of the history file of its TLI; empty if it has none.
    pub tli_history: String,
    /// Start of the oldest WAL segment it has; `None` if it does not say.
    pub oldest: Option<Lsn>,
    /// Its flush LSN when it was asked.
    pub flush: Lsn,
    /// Size of its WAL segments.
    pub segment_size: SegmentSize,
    /// `server_version_num`, like 150018.
    pub version_num: u32,
    /// Our slot, if the primary has it.
    pub slot: Option<Slot>,
    /// What lets this proposer pass a fence, if somebody left it one by now.
    pub fence_token: Option<FenceToken>,
}

/// A TLI that was left for another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ancestor {
    /// The TLI.
    pub tli: Tli,
    /// The first position that is not on it any more.
    pub switch: Lsn,
}

/// Our physical replication slot on the primary.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Slot {
    /// From here on the primary keeps its WAL for us; `None` if the slot holds nothing, or lost what it held.
    pub restart: Option<Lsn>,
}

/// Why the primary could not be attached, or was lost.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PrimaryFailure {
    /// It is a standby, which may be promoted. One sentence.
    Standby(String),
    /// It may work in a second: unreachable, starting, the slot busy, the connection lost. One sentence.
    Retry(String),
    /// It will not work until somebody changes something. One sentence, with what to do.
    Refused(String),
}

/// Why the stream asked for did not come.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum StreamFailure {
    /// The primary has already removed the segment with the first byte asked for.
    SegmentRemoved,
    /// Anything else.
    Primary(PrimaryFailure),
}

/// What one safekeeper said to LOG_STATUS.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum LookAnswer {
    /// Its row for this cluster.
    Row(Box<LogStatusRow>),
    /// It answered and does not know this cluster. Its node id, if it told it.
    Absent(Option<NodeId>),
    /// It could not be asked; one sentence without its address.
    Failed(String),
}
