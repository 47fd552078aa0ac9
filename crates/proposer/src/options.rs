//! What a proposer process is told.

use std::path::PathBuf;

/// Options of one proposer.
#[derive(Clone, Debug)]
pub struct ProposerOptions {
    /// How to connect to the primary: key/value pairs or a URI, as libpq takes them. What they leave open comes from the
    /// environment (`PGPASSWORD` and the like).
    pub primary: String,
    /// Addresses of the safekeepers, `host:port`, an IPv6 host in brackets. They win over those in the membership record.
    pub safekeepers: Vec<String>,
    /// Name of the cluster; not needed where the safekeepers have only one.
    pub cluster: Option<String>,
    /// Where people and Prometheus connect: `host:port`. Port 0 takes a free one.
    pub listen_http: String,
    /// File with public keys, once tokens exist.
    pub auth_keys: Option<PathBuf>,
    /// Bind beyond loopback without authentication all the same.
    pub insecure_no_auth: bool,
}
