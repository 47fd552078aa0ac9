//! The messages between proposer and acceptor, as values. Their bytes are made elsewhere.

use crate::{Membership, TermHistory};
use bytes::Bytes;
use lsn::{ClusterId, Lsn, NodeId, SystemId, Term};

/// Most WAL bytes in one [`AppendRequest`]: 16 pages.
pub const MAX_APPEND_BYTES: usize = 128 * 1024;

/// First message of a session: who is asking for what.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct ProposerGreeting {
    /// The cluster.
    pub cluster: ClusterId,
    /// The proposer's membership record; ours sends none.
    pub membership: Membership,
    /// `server_version_num` of the primary, 0 if unknown.
    pub pg_version: u32,
    /// The primary's system identifier, 0 if unknown.
    pub system_id: SystemId,
    /// Bytes in a WAL segment of the primary.
    pub segment_size: u32,
}

/// Asks for a vote.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct VoteRequest {
    /// Generation of the membership record by which the candidate counts.
    pub generation: u32,
    /// The term it wants.
    pub term: Term,
}

/// Tells that the sender won its term, and what its log looks like.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct ProposerElected {
    /// Generation of the membership record by which the leader counts.
    pub generation: u32,
    /// Its term.
    pub term: Term,
    /// Where this acceptor's log is cut and goes on.
    pub start_streaming_at: Lsn,
    /// The leader's term history, its own term last.
    pub history: TermHistory,
}

/// A run of WAL, or none: then it is a heartbeat and the carrier of a newer commit LSN.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct AppendRequest {
    /// Generation of the membership record by which the leader counts.
    pub generation: u32,
    /// Its term.
    pub term: Term,
    /// First byte of `wal`.
    pub begin: Lsn,
    /// First byte after `wal`.
    pub end: Lsn,
    /// The leader's commit LSN.
    pub commit: Lsn,
    /// Below this every safekeeper has the WAL.
    pub truncate: Lsn,
    /// The bytes, at most [`MAX_APPEND_BYTES`].
    pub wal: Bytes,
}

/// What a proposer says.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum ProposerMessage {
    /// See [`ProposerGreeting`].
    Greeting(ProposerGreeting),
    /// See [`VoteRequest`].
    Vote(VoteRequest),
    /// See [`ProposerElected`].
    Elected(ProposerElected),
    /// See [`AppendRequest`].
    Append(AppendRequest),
}

/// Answer to a greeting. Promises nothing.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct AcceptorGreeting {
    /// The safekeeper.
    pub node: NodeId,
    /// Its membership record.
    pub membership: Membership,
    /// Its term.
    pub term: Term,
}

/// Answer to a vote request. Term and WAL are durable before it leaves.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct VoteResponse {
    /// The acceptor's generation.
    pub generation: u32,
    /// Its term after the request.
    pub term: Term,
    /// Whether the vote is given.
    pub granted: bool,
    /// Its flush LSN.
    pub flush: Lsn,
    /// Below this every safekeeper has the WAL, as far as it knows.
    pub truncate: Lsn,
    /// Its term history cut to its flush LSN.
    pub history: TermHistory,
}

/// What the standbys of a safekeeper hold back from vacuum, aggregated.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct HotStandbyFeedback {
    /// Time of the newest feedback, microseconds since 2000-01-01 UTC.
    pub time: i64,
    /// Oldest needed transaction, epoch in the upper half; 0 = none.
    pub xmin: u64,
    /// Oldest transaction needed in catalogs, likewise.
    pub catalog_xmin: u64,
}

/// Acknowledges WAL: everything below `flush` is durable.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct AppendResponse {
    /// The acceptor's generation.
    pub generation: u32,
    /// Its term; above the request's, nothing else in here means anything.
    pub term: Term,
    /// Its flush LSN.
    pub flush: Lsn,
    /// The commit LSN it has on disk.
    pub commit: Lsn,
    /// Aggregated over its standbys.
    pub standby: HotStandbyFeedback,
    /// Feedback of a replica, passed on as it came: pairs of key and big-endian value.
    pub feedback: Option<Bytes>,
}

/// What an acceptor says.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum AcceptorMessage {
    /// See [`AcceptorGreeting`].
    Greeting(AcceptorGreeting),
    /// See [`VoteResponse`].
    Vote(VoteResponse),
    /// See [`AppendResponse`].
    Append(AppendResponse),
}
