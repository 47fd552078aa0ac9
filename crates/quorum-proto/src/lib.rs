//! The bytes of the quorum's messages.
//!
//! [`decode_proposer`] and [`encode_proposer`] are what a proposer says, [`decode_acceptor`] and [`encode_acceptor`] what a
//! safekeeper answers; both in protocol 2 and 3, byte-exact with the software that spoke them first. [`PushOptions`],
//! [`InitCluster`], [`FenceCommand`] and [`LogStatusRow`] are the values beside those messages: options and rows, as text.
//!
//! Each message is the payload of one CopyData. Everything here is a function from bytes to values and back: no sockets, no
//! framing, no judgement of what a message asks for.

#![cfg_attr(doctest, doc = include_str!("../README.md"))]

mod acceptor;
mod error;
mod feedback;
mod fence_command;
mod init_cluster;
mod log_status;
mod members;
mod membership;
mod proposer;
mod push_options;
mod remembered;
mod wire;

pub use acceptor::{decode_acceptor, encode_acceptor};
pub use error::Error;
pub use feedback::ReplicaFeedback;
pub use fence_command::FenceCommand;
pub use init_cluster::InitCluster;
pub use log_status::{LogState, LogStatusRow};
pub use members::{MembersCommand, RecordTaken, Wish};
pub use proposer::{decode_proposer, encode_append_header, encode_proposer};
pub use push_options::PushOptions;
pub use remembered::{Archived, BootId, Memory, NotAPromise, NotArchived, PeerColumns, Promise};

/// Most entries of a term history that one message may carry.
pub const MAX_HISTORY_ENTRIES: usize = 100_000;

/// The version of the messages of one session, chosen by the proposer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ProtoVersion {
    /// Little-endian structs without generation and membership.
    V2,
    /// Big-endian fields; what our own proposer speaks.
    V3,
}

impl ProtoVersion {
    /// The number that stands for it in `proto_version`.
    pub fn number(self) -> u32 {
        match self {
            ProtoVersion::V2 => 2,
            ProtoVersion::V3 => 3,
        }
    }
}
