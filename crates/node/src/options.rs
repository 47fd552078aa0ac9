//! What a safekeeper process is told.

use lsn::NodeId;
use std::path::PathBuf;

/// Options of one safekeeper.
#[derive(Clone, Debug)]
pub struct NodeOptions {
    /// The operator's number for it, not 0; a data directory keeps the one it was made with.
    pub id: NodeId,
    /// Everything it stores.
    pub data_dir: PathBuf,
    /// Where proposers, readers and peers connect: `host:port`. Port 0 takes a free one.
    pub listen_pg: String,
    /// Where people and Prometheus connect: `host:port`.
    pub listen_http: String,
    /// Most WAL kept per cluster, in bytes.
    pub max_wal: u64,
    /// How much of that stays where it is archived and could be read back, in bytes.
    pub min_wal: u64,
    /// How much more may be kept per cluster for replication slots, in bytes.
    pub max_slot_wal: u64,
    /// Hosts (`host`, or `host:port`) that readers may ask to be called at.
    pub call_back_hosts: Vec<String>,
    /// Appends are refused while fewer bytes are free where the data directory is; 0 for no limit.
    pub min_free: u64,
    /// Where other safekeepers may be reached (`host:port`), beside the addresses in the membership record.
    pub peers: Vec<String>,
    /// Whether the greeting of a foreign proposer may create a cluster.
    pub allow_foreign_creation: bool,
    /// Where WAL is archived.
    pub archive: crate::ArchiveOptions,
    /// Who is let in, and how.
    pub auth: auth::GateOptions,
    /// What it shows to other safekeepers.
    pub outgoing: auth::Outgoing,
}
