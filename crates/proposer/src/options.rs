//! What a proposer process is told.

use std::path::PathBuf;
use std::time::Duration;

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
    /// Who may take over.
    pub takeover: Takeover,
    /// Where people and Prometheus connect: `host:port`. Port 0 takes a free one.
    pub listen_http: String,
    /// Who is let in at the HTTP port, and how.
    pub auth: auth::GateOptions,
    /// What it shows to safekeepers.
    pub outgoing: auth::Outgoing,
}

/// What permits a primary to take over that was promoted: one on a TLI that the quorum's log is not on. Without any of it such
/// a primary is refused, because a restored copy of an old one looks the same.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Takeover {
    /// It may.
    pub always: bool,
    /// It may once a majority of the safekeepers has not heard a leader for so long.
    pub after_silence: Option<Duration>,
    /// It may while the fence stands whose token is in this file, which may come later.
    pub token_file: Option<PathBuf>,
}
