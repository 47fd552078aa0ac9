//! The proposer's options.

use crate::backup::{SnapshotFlags, SnapshotOptions};
use crate::error::Error;
use crate::file::{Config, Env};
use crate::flags::{AuthFlags, AuthOptions, CommonFlags, CommonOptions};
use crate::safekeeper::default_listen_http;
use crate::section::Section;
use crate::upkeep::{UpkeepFlags, UpkeepOptions};
use crate::values::{Address, ClusterName, Conninfo};
use std::path::PathBuf;

/// What may be said about a proposer: its flags. `[proposer]` has `cluster`, `takeover`, `takeover_after`,
/// `fence_token_file`, `listen_http`, `archive`, `snapshot_interval`, `archive_recipients`, `retain`,
/// `sole_uploader`, `validate_interval` and `log_format`; primary and safekeepers
/// stand under `[[cluster]]`.
#[derive(Debug, Clone, Default, PartialEq, Eq, clap::Args)]
pub struct ProposerFlags {
    /// How to connect to the primary, as libpq takes it
    #[arg(long, value_name = "CONNINFO")]
    pub primary: Option<Conninfo>,
    /// The safekeepers of the cluster
    #[arg(long, value_name = "HOST:PORT,…", value_delimiter = ',')]
    pub safekeepers: Vec<Address>,
    /// The cluster's name; not needed where there is only one
    #[arg(long, value_name = "NAME")]
    pub cluster: Option<ClusterName>,
    /// Let a primary take over that was promoted: one on a TLI the quorum's log is not on
    #[arg(long)]
    pub takeover: bool,
    /// Let it take over once a majority of the safekeepers has heard no leader for so many seconds
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..))]
    pub takeover_after: Option<u32>,
    /// Let it take over while the fence stands whose token is in this file (`seawall pre-promote` writes it)
    #[arg(long, value_name = "PATH")]
    pub fence_token_file: Option<PathBuf>,
    /// Where to show status and metrics [default: 127.0.0.1:7676]
    #[arg(long, value_name = "HOST:PORT")]
    pub listen_http: Option<Address>,
    /// The snapshots it takes.
    #[command(flatten)]
    pub snapshots: SnapshotFlags,
    /// What else it does for the archive.
    #[command(flatten)]
    pub upkeep: UpkeepFlags,
    /// Whom to believe.
    #[command(flatten)]
    pub auth: AuthFlags,
    /// What every part takes.
    #[command(flatten)]
    pub common: CommonFlags,
}

/// What a proposer is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProposerOptions {
    /// How to connect to the primary.
    pub primary: Conninfo,
    /// The safekeepers, at least one, none twice.
    pub safekeepers: Vec<Address>,
    /// The cluster's name; `None` if the safekeepers have only one.
    pub cluster: Option<ClusterName>,
    /// Whether a promoted primary may take over.
    pub takeover: bool,
    /// After how many seconds without a leader it may.
    pub takeover_after: Option<u32>,
    /// Where the token of a fence is left that it may pass.
    pub fence_token_file: Option<PathBuf>,
    /// Where to show status and metrics.
    pub listen_http: Address,
    /// The snapshots it takes, if any.
    pub snapshots: Option<SnapshotOptions>,
    /// What else it does for the archive, if anything.
    pub upkeep: Option<UpkeepOptions>,
    /// Whom to believe.
    pub auth: AuthOptions,
    /// Log format and the like.
    pub common: CommonOptions,
}

impl ProposerFlags {
    pub(crate) fn from_section(section: &mut Section<'_>) -> Result<ProposerFlags, Error> {
        Ok(ProposerFlags {
            cluster: section.take("cluster")?,
            takeover: section.take("takeover")?.unwrap_or_default(),
            takeover_after: section.take("takeover_after")?,
            fence_token_file: section.take("fence_token_file")?,
            listen_http: section.take("listen_http")?,
            snapshots: SnapshotFlags::from_section(section)?,
            upkeep: UpkeepFlags::from_section(section)?,
            common: CommonFlags::from_section(section)?,
            ..ProposerFlags::default()
        })
    }

    /// Reads the file of `--config`, if any, and lays the flags over it.
    pub fn resolve(self, env: Env<'_>) -> Result<ProposerOptions, Error> {
        let config = Config::load_if(self.common.config.as_deref(), env)?;
        self.resolve_over(&config)
    }

    /// Lays the flags over a file already read.
    pub fn resolve_over(self, config: &Config) -> Result<ProposerOptions, Error> {
        let below = config.proposer.clone().unwrap_or_default();
        let wanted = self.cluster.or(below.cluster);
        let cluster = config.choose(wanted.as_ref())?;
        let primary = self.primary.or_else(|| cluster?.primary.clone()).ok_or(Error::Missing {
            what: "the primary",
            flag: "--primary",
            key: "primary under [[cluster]]",
        })?;
        let archive = self.snapshots.archive.clone().or_else(|| below.snapshots.archive.clone());
        let archive = archive.or_else(|| cluster?.archive.clone());
        Ok(ProposerOptions {
            primary,
            safekeepers: choose_safekeepers(self.safekeepers, cluster.map(|cluster| &*cluster.safekeepers))?,
            cluster: wanted.or_else(|| Some(cluster?.name.clone())),
            takeover: self.takeover || below.takeover,
            takeover_after: self.takeover_after.or(below.takeover_after),
            fence_token_file: self.fence_token_file.or(below.fence_token_file),
            listen_http: self.listen_http.or(below.listen_http).unwrap_or_else(default_listen_http),
            snapshots: self.snapshots.resolve(below.snapshots, cluster)?,
            upkeep: self.upkeep.resolve(below.upkeep, archive)?,
            auth: self.auth.resolve(&config.auth),
            common: self.common.resolve(&below.common),
        })
    }
}

/// Safekeepers from the flags, else from the file; at least one, none twice.
pub(crate) fn choose_safekeepers(flags: Vec<Address>, file: Option<&[Address]>) -> Result<Vec<Address>, Error> {
    let safekeepers = if flags.is_empty() { file.unwrap_or_default().to_vec() } else { flags };
    if safekeepers.is_empty() {
        let (flag, key) = ("--safekeepers", "safekeepers under [[cluster]]");
        return Err(Error::Missing { what: "the list of safekeepers", flag, key });
    }
    match first_twice(&safekeepers) {
        Some(twice) => Err(Error::Refused {
            what: format!("safekeeper {twice} is listed twice"),
            mend: "name each safekeeper once",
        }),
        None => Ok(safekeepers),
    }
}

/// The first item that also stands earlier.
pub(crate) fn first_twice<T: PartialEq>(items: &[T]) -> Option<&T> {
    items.iter().enumerate().find(|(index, item)| items[..*index].contains(item)).map(|(_, item)| item)
}
