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
    /// Where other safekeepers may be reached (`host:port`), beside the addresses in the membership record.
    pub peers: Vec<String>,
    /// Whether the greeting of a foreign proposer may create a cluster.
    pub allow_foreign_creation: bool,
    /// Directory or file with public keys, once tokens exist.
    pub auth_keys: Option<PathBuf>,
    /// Bind beyond loopback without authentication all the same.
    pub insecure_no_auth: bool,
}
