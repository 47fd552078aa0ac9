//! What an acceptor keeps on disk, as a value. Its bytes are made elsewhere.

use crate::{Fence, Membership, TermHistory};
use lsn::{ClusterId, DiskId, Lsn, NodeId, Path, SystemId, Term};

/// Which safekeeper this is, down to the disk.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Identity {
    /// The operator's number for it.
    pub node: NodeId,
    /// The random identity of its data directory.
    pub disk: DiskId,
}

/// What is known of the primary's cluster. Zeros mean unknown.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct ServerInfo {
    /// The system identifier.
    pub system_id: SystemId,
    /// Bytes in a WAL segment.
    pub segment_size: u32,
    /// `server_version_num`, like 150018.
    pub pg_version: u32,
}

impl ServerInfo {
    /// The major version; 0 if unknown.
    pub fn major(&self) -> u32 {
        self.pg_version / 10_000
    }

    /// What the other knows added to what is known here; what is known stays, but the version follows a minor upgrade.
    pub(crate) fn completed_by(&self, other: &ServerInfo) -> ServerInfo {
        let first_known = |a: u32, b: u32| if a == 0 { b } else { a };
        ServerInfo {
            system_id: if self.system_id == SystemId(0) { other.system_id } else { self.system_id },
            segment_size: first_known(self.segment_size, other.segment_size),
            pg_version: first_known(other.pg_version, self.pg_version),
        }
    }
}

/// A cut that was begun: start-up does it again.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Cutting {
    /// Everything at and above this position goes.
    pub to: Lsn,
}

/// The durable state of one cluster on one safekeeper.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct AcceptorState {
    /// The cluster's ids on the wire.
    pub cluster: ClusterId,
    /// Its name in the configuration; empty if a foreign proposer's greeting created it.
    pub name: String,
    /// The membership record; none if a foreign proposer's greeting created the cluster.
    pub membership: Membership,
    /// The highest term ever promised. Never decreases.
    pub term: Term,
    /// Which term wrote what; may describe positions that are not here yet.
    pub history: TermHistory,
    /// The lineage of TLIs; `None` while the log is empty. May name TLIs that begin beyond the log's end.
    pub path: Option<Path>,
    /// Content of the history file of the path's last TLI; empty if it has none.
    pub tli_history: String,
    /// What is known of the primary.
    pub server: ServerInfo,
    /// First byte this log ever had; 0/0 while it is empty.
    pub log_start: Lsn,
    /// A commit LSN that was reached. Never decreases.
    pub commit: Lsn,
    /// A flush LSN that was reached: finding less at start-up means damage.
    pub floor: Lsn,
    /// A cut under way.
    pub cutting: Option<Cutting>,
    /// Up to here acknowledged WAL was found missing; 0/0 if the log is whole. While it is set there is no vote.
    pub damaged_below: Lsn,
    /// The fence that stands.
    pub fence: Option<Fence>,
}

impl AcceptorState {
    /// A cluster that exists and has no WAL yet.
    pub fn new(cluster: ClusterId, name: String, membership: Membership, server: ServerInfo) -> AcceptorState {
        AcceptorState {
            cluster,
            name,
            membership,
            term: Term(0),
            history: TermHistory::empty(),
            path: None,
            tli_history: String::new(),
            server,
            log_start: Lsn::INVALID,
            commit: Lsn::INVALID,
            floor: Lsn::INVALID,
            cutting: None,
            damaged_below: Lsn::INVALID,
            fence: None,
        }
    }
}
