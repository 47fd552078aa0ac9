//! What a [`Leader`](crate::Leader) shows of itself. Values for people and metrics: nothing decides by them.

use crate::{PrimaryFacts, Refusal};
use lsn::{Lsn, NodeId, Term};
use std::fmt;
use std::time::Instant;

/// What a leader is doing.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum State {
    /// Getting hold of the primary.
    Connecting,
    /// Asking the safekeepers what they have.
    Looking,
    /// Comparing, and getting votes.
    Campaigning,
    /// Elected; WAL is relayed.
    Leading,
    /// This primary may not lead; only looks are made from time to time.
    Refused,
    /// No majority of the safekeepers can be reached.
    Waiting,
    /// The server is a standby; its promotion is waited for.
    Standby,
}

impl State {
    /// The word for it in status output.
    pub fn as_str(self) -> &'static str {
        match self {
            State::Connecting => "connecting",
            State::Looking => "looking",
            State::Campaigning => "campaigning",
            State::Leading => "leading",
            State::Refused => "refused",
            State::Waiting => "waiting",
            State::Standby => "standby",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How far the session with one safekeeper has come.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum PeerState {
    /// No connection.
    Offline,
    /// Connecting and greeting.
    Connecting,
    /// Greeted or voting.
    Voting,
    /// It gets WAL as it comes.
    Streaming,
    /// It learns from other safekeepers what is no longer here.
    CatchingUp,
}

impl PeerState {
    /// The word for it in status output.
    pub fn as_str(self) -> &'static str {
        match self {
            PeerState::Offline => "offline",
            PeerState::Connecting => "connecting",
            PeerState::Voting => "voting",
            PeerState::Streaming => "streaming",
            PeerState::CatchingUp => "catching-up",
        }
    }
}

impl fmt::Display for PeerState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One safekeeper, as the leader sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PeerStatus {
    /// Its address, as given.
    pub address: String,
    /// Its node id, once it told it.
    pub node: Option<NodeId>,
    /// How far the session has come.
    pub state: PeerState,
    /// The flush LSN it acknowledged last.
    pub flush: Option<Lsn>,
    /// Bytes received from the primary and not acknowledged by it.
    pub lag_bytes: Option<u64>,
    /// Bytes received from the primary and not handed out to it.
    pub queue_bytes: u64,
    /// When it acknowledged something last.
    pub responded: Option<Instant>,
    /// What went wrong last, while it is not streaming.
    pub error: Option<String>,
}

/// A leader at one moment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Status {
    /// What it is doing.
    pub state: State,
    /// Why it is refused.
    pub refusal: Option<Refusal>,
    /// What is in the way otherwise: the primary's or the quorum's trouble, as a sentence.
    pub trouble: Option<String>,
    /// The primary, while attached.
    pub primary: Option<PrimaryFacts>,
    /// The term won.
    pub term: Option<Term>,
    /// Where it began.
    pub term_start: Option<Lsn>,
    /// The own-term commit LSN.
    pub commit: Option<Lsn>,
    /// End of what this connection received.
    pub received: Option<Lsn>,
    /// What the primary was told last; 0/0 until something was.
    pub answered: Lsn,
    /// Elections won since the start.
    pub elections: u64,
    /// The safekeepers, in the order given.
    pub peers: Vec<PeerStatus>,
}
