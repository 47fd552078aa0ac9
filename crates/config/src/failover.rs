//! The options of what operators type around a failover: `walproposer --sync`, `fence`, `pre-promote`, `adopt`, `pre-start`.

use std::path::PathBuf;

use crate::error::Error;
use crate::file::{Config, Env};
use crate::flags::{AuthFlags, AuthOptions};
use crate::proposer::{ProposerFlags, choose_safekeepers};
use crate::values::{Address, ClusterName, Conninfo};

const WITHIN_DEFAULT: u32 = 60;
const PRE_PROMOTE_FENCE_DEFAULT: u32 = 120;

/// Which quorum, and how long it may take.
#[derive(Debug, Clone, Default, PartialEq, Eq, clap::Args)]
pub struct FailoverFlags {
    /// The safekeepers of the cluster
    #[arg(long, value_name = "HOST:PORT,…", value_delimiter = ',')]
    pub safekeepers: Vec<Address>,
    /// The cluster's name; not needed where there is only one
    #[arg(long, value_name = "NAME")]
    pub cluster: Option<ClusterName>,
    /// Fail if it is not done after so many seconds [default: 60]
    #[arg(long, value_name = "SECONDS")]
    pub within: Option<u32>,
    /// Configuration file; flags win over it
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Certificates of the safekeepers: TLS is spoken to them
    #[arg(long, value_name = "FILE")]
    pub tls_ca: Option<PathBuf>,
    /// File with the token we show to them; else the environment variable SEAWALL_TOKEN
    #[arg(long, value_name = "FILE")]
    pub auth_token_file: Option<PathBuf>,
    /// Print the outcome as JSON
    #[arg(long)]
    pub json: bool,
}

/// What everything around a failover is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailoverOptions {
    /// The safekeepers, at least one, none twice.
    pub safekeepers: Vec<Address>,
    /// The cluster's name, if it was named.
    pub cluster: Option<ClusterName>,
    /// The primary of the cluster, if a file names it.
    pub primary: Option<Conninfo>,
    /// Seconds it may take.
    pub within: u32,
    /// What we show to safekeepers.
    pub auth: AuthOptions,
    /// Print the outcome as JSON.
    pub json: bool,
}

impl FailoverFlags {
    /// Reads the file of `--config`, if any, and lays the flags over it.
    pub fn resolve(self, env: Env<'_>) -> Result<FailoverOptions, Error> {
        let config = Config::load_if(self.config.as_deref(), env)?;
        let cluster = config.choose(self.cluster.as_ref())?;
        let auth = AuthFlags { tls_ca: self.tls_ca, auth_token_file: self.auth_token_file, ..AuthFlags::default() };
        Ok(FailoverOptions {
            safekeepers: choose_safekeepers(self.safekeepers, cluster.map(|cluster| &*cluster.safekeepers))?,
            primary: cluster.and_then(|cluster| cluster.primary.clone()),
            cluster: self.cluster.or_else(|| Some(cluster?.name.clone())),
            within: self.within.unwrap_or(WITHIN_DEFAULT),
            auth: auth.resolve(&config.auth),
            json: self.json,
        })
    }
}

impl ProposerFlags {
    /// What `walproposer --sync` needs of a proposer's flags: no primary.
    pub fn resolve_sync(self, env: Env<'_>) -> Result<FailoverOptions, Error> {
        let flags = FailoverFlags {
            safekeepers: self.safekeepers,
            cluster: self.cluster,
            within: None,
            config: self.common.config,
            tls_ca: self.auth.tls_ca,
            auth_token_file: self.auth.auth_token_file,
            json: false,
        };
        flags.resolve(env)
    }
}

/// The flags of `seawall fence`.
#[derive(Debug, Clone, Default, PartialEq, Eq, clap::Args)]
pub struct FenceFlags {
    /// Which quorum.
    #[command(flatten)]
    pub quorum: FailoverFlags,
    /// Take the fence away
    #[arg(long, conflicts_with_all = ["seconds", "token_file"])]
    pub lift: bool,
    /// Let it end by itself after so many seconds; without this it stands until it is lifted
    #[arg(long = "for", value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..))]
    pub seconds: Option<u32>,
    /// Leave the token there that passes it, for `walproposer --fence-token-file`
    #[arg(long, value_name = "PATH")]
    pub token_file: Option<PathBuf>,
}

/// The flags of `seawall pre-promote`.
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
pub struct PrePromoteFlags {
    /// Which quorum.
    #[command(flatten)]
    pub quorum: FailoverFlags,
    /// The standby that is to be promoted
    #[arg(long, value_name = "CONNINFO")]
    pub standby: Conninfo,
    /// Leave the standby's primary_conninfo alone: it has another source of WAL that works without the primary
    #[arg(long)]
    pub no_feed: bool,
    /// How long the fence stands, in seconds [default: 120]
    #[arg(long = "for", value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..))]
    pub seconds: Option<u32>,
    /// Leave the token there that passes the fence, for `walproposer --fence-token-file`
    #[arg(long, value_name = "PATH")]
    pub token_file: Option<PathBuf>,
}

impl PrePromoteFlags {
    /// How long the fence stands.
    pub fn fence_seconds(&self) -> u32 {
        self.seconds.unwrap_or(PRE_PROMOTE_FENCE_DEFAULT)
    }
}

/// The flags of `seawall adopt`.
#[derive(Debug, Clone, Default, PartialEq, Eq, clap::Args)]
pub struct AdoptFlags {
    /// Which quorum.
    #[command(flatten)]
    pub quorum: FailoverFlags,
    /// The primary whose slot was lost
    #[arg(long, value_name = "CONNINFO")]
    pub primary: Option<Conninfo>,
}

/// The flags of `seawall pre-start`.
#[derive(Debug, Clone, Default, PartialEq, Eq, clap::Args)]
pub struct PreStartFlags {
    /// Which quorum.
    #[command(flatten)]
    pub quorum: FailoverFlags,
    /// The data directory of the server, which must be down
    #[arg(long, value_name = "DIR")]
    pub pgdata: PathBuf,
    /// Let it take over if it was promoted: see `walproposer --help`
    #[arg(long)]
    pub takeover: bool,
}

/// The flags of `seawall rebase`.
#[derive(Debug, Clone, Default, PartialEq, Eq, clap::Args)]
pub struct RebaseFlags {
    /// Which quorum.
    #[command(flatten)]
    pub quorum: FailoverFlags,
    /// The primary whose WAL the new era begins with
    #[arg(long, value_name = "CONNINFO")]
    pub primary: Option<Conninfo>,
    /// Do not ask a majority of the era that ends: its disks are lost for good
    #[arg(long)]
    pub abandon: bool,
}

/// The flags of `seawall release`.
#[derive(Debug, Clone, Default, PartialEq, Eq, clap::Args)]
pub struct ReleaseFlags {
    /// Which quorum.
    #[command(flatten)]
    pub quorum: FailoverFlags,
    /// The primary whose commits hang
    #[arg(long, value_name = "CONNINFO")]
    pub primary: Option<Conninfo>,
    /// The way back: wait until the quorum has everything, and let commits wait for it again
    #[arg(long)]
    pub end: bool,
}
