//! The safekeeper's options.

use std::path::PathBuf;

use lsn::NodeId;

use crate::archive::{ArchiveFlags, ArchiveOptions};
use crate::error::Error;
use crate::file::{Config, Env};
use crate::flags::{AuthFlags, AuthOptions, CommonFlags, CommonOptions};
use crate::section::Section;
use crate::values::{Address, ByteSize};

/// 5454 on loopback.
pub(crate) fn default_listen_pg() -> Address {
    Address::new("127.0.0.1", 5454)
}

/// 7676 on loopback.
pub(crate) fn default_listen_http() -> Address {
    Address::new("127.0.0.1", 7676)
}

const MAX_WAL_DEFAULT: ByteSize = ByteSize(16 << 30);
/// What a crashed primary is compared with reaches back to its last checkpoint, which `max_wal_size` (1 GiB unless set) bounds.
const MIN_WAL_DEFAULT: ByteSize = ByteSize(2 << 30);
const MIN_FREE_DEFAULT: ByteSize = ByteSize(64 << 20);

/// What may be said about a safekeeper: its flags, and the keys of `[safekeeper]`.
#[derive(Debug, Clone, Default, PartialEq, Eq, clap::Args)]
pub struct SafekeeperFlags {
    /// This safekeeper's number, 1 or more; no other safekeeper has it
    #[arg(long, value_name = "N")]
    pub id: Option<NodeId>,
    /// Where WAL and votes are kept
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Where to speak PostgreSQL's protocol [default: 127.0.0.1:5454]
    #[arg(long, value_name = "HOST:PORT")]
    pub listen_pg: Option<Address>,
    /// Where to show status and metrics [default: 127.0.0.1:7676]
    #[arg(long, value_name = "HOST:PORT")]
    pub listen_http: Option<Address>,
    /// How much WAL to keep for each cluster [default: 16GiB]
    #[arg(long, value_name = "SIZE")]
    pub max_wal: Option<ByteSize>,
    /// How much of that to keep though it is archived; older WAL is read back from the archive [default: 2GiB]
    #[arg(long, value_name = "SIZE")]
    pub min_wal: Option<ByteSize>,
    /// How much more to keep for replication slots of readers that lag [default: as much as --max-wal]
    #[arg(long, value_name = "SIZE")]
    pub max_slot_wal: Option<ByteSize>,
    /// Hosts that consumers may ask to be called at while WAL waits for them
    #[arg(long, value_name = "HOST[:PORT],…", value_delimiter = ',')]
    pub call_back_hosts: Vec<String>,
    /// Refuse WAL while less than this is free on the disk, for every cluster; resumes by itself [default: 64MiB]
    #[arg(long, value_name = "SIZE")]
    pub min_free: Option<ByteSize>,
    /// Addresses of other safekeepers to catch up from, if those in the members' record are out of date
    #[arg(long, value_name = "HOST:PORT,…", value_delimiter = ',')]
    pub peers: Vec<Address>,
    /// Let a foreign proposer's greeting create a cluster
    #[arg(long)]
    pub allow_foreign_creation: bool,
    /// Where WAL is archived.
    #[command(flatten)]
    pub archive: ArchiveFlags,
    /// Whom to believe.
    #[command(flatten)]
    pub auth: AuthFlags,
    /// What every part takes.
    #[command(flatten)]
    pub common: CommonFlags,
}

/// What a safekeeper is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SafekeeperOptions {
    /// Its number, never 0.
    pub id: NodeId,
    /// Where WAL and votes are kept.
    pub data_dir: PathBuf,
    /// Where to speak PostgreSQL's protocol.
    pub listen_pg: Address,
    /// Where to show status and metrics.
    pub listen_http: Address,
    /// How much WAL to keep for each cluster.
    pub max_wal: ByteSize,
    /// How much of that stays though it is archived; at most [`SafekeeperOptions::max_wal`].
    pub min_wal: ByteSize,
    /// How much more to keep for replication slots.
    pub max_slot_wal: ByteSize,
    /// Hosts that may be called back.
    pub call_back_hosts: Vec<String>,
    /// Refuse WAL while less than this is free on the disk.
    pub min_free: ByteSize,
    /// Hints where other safekeepers are.
    pub peers: Vec<Address>,
    /// Let a foreign proposer's greeting create a cluster.
    pub allow_foreign_creation: bool,
    /// Where WAL is archived.
    pub archive: ArchiveOptions,
    /// Whom to believe.
    pub auth: AuthOptions,
    /// Log format and the like.
    pub common: CommonOptions,
}

impl SafekeeperFlags {
    pub(crate) fn from_section(section: &mut Section<'_>) -> Result<SafekeeperFlags, Error> {
        Ok(SafekeeperFlags {
            id: section.take("id")?,
            data_dir: section.take("data_dir")?,
            listen_pg: section.take("listen_pg")?,
            listen_http: section.take("listen_http")?,
            max_wal: section.take("max_wal")?,
            min_wal: section.take("min_wal")?,
            max_slot_wal: section.take("max_slot_wal")?,
            call_back_hosts: section.take_list("call_back_hosts")?,
            min_free: section.take("min_free")?,
            peers: section.take_list("peers")?,
            allow_foreign_creation: section.take("allow_foreign_creation")?.unwrap_or_default(),
            archive: ArchiveFlags::from_section(section)?,
            auth: AuthFlags::default(),
            common: CommonFlags::from_section(section)?,
        })
    }

    /// Reads the file of `--config`, if any, and lays the flags over it.
    pub fn resolve(self, env: Env<'_>) -> Result<SafekeeperOptions, Error> {
        let config = Config::load_if(self.common.config.as_deref(), env)?;
        self.resolve_over(&config)
    }

    /// Lays the flags over a file already read.
    pub fn resolve_over(self, config: &Config) -> Result<SafekeeperOptions, Error> {
        let below = config.safekeeper.clone().unwrap_or_default();
        let id = self.id.or(below.id).ok_or(Error::Missing {
            what: "the safekeeper's number",
            flag: "--id",
            key: "id under [safekeeper]",
        })?;
        if id == NodeId(0) {
            return Err(Error::Refused { what: "0 is no safekeeper's number".to_owned(), mend: "count from 1" });
        }
        let max_wal = self.max_wal.or(below.max_wal).unwrap_or(MAX_WAL_DEFAULT);
        Ok(SafekeeperOptions {
            id,
            data_dir: self.data_dir.or(below.data_dir).filter(|dir| !dir.as_os_str().is_empty()).ok_or(
                Error::Missing {
                    what: "the safekeeper's data directory",
                    flag: "--data-dir",
                    key: "data_dir under [safekeeper]",
                },
            )?,
            listen_pg: self.listen_pg.or(below.listen_pg).unwrap_or_else(default_listen_pg),
            listen_http: self.listen_http.or(below.listen_http).unwrap_or_else(default_listen_http),
            max_wal,
            min_wal: self.min_wal.or(below.min_wal).unwrap_or(MIN_WAL_DEFAULT).min(max_wal),
            max_slot_wal: self.max_slot_wal.or(below.max_slot_wal).unwrap_or(max_wal),
            min_free: self.min_free.or(below.min_free).unwrap_or(MIN_FREE_DEFAULT),
            call_back_hosts: match self.call_back_hosts.is_empty() {
                true => below.call_back_hosts,
                false => self.call_back_hosts,
            },
            peers: if self.peers.is_empty() { below.peers } else { self.peers },
            allow_foreign_creation: self.allow_foreign_creation || below.allow_foreign_creation,
            archive: self.archive.resolve(&below.archive, config),
            auth: self.auth.resolve(&config.auth),
            common: self.common.resolve(&below.common),
        })
    }
}
