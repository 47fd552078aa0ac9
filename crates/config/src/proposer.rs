//! The proposer's options.

use crate::error::Error;
use crate::file::{Config, Env};
use crate::flags::{AuthFlags, AuthOptions, CommonFlags, CommonOptions};
use crate::safekeeper::default_listen_http;
use crate::section::Section;
use crate::values::{Address, ClusterName, Conninfo};

/// What may be said about a proposer: its flags. `[proposer]` has `cluster`, `listen_http` and `log_format`; primary and safekeepers
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
    /// Where to show status and metrics [default: 127.0.0.1:7676]
    #[arg(long, value_name = "HOST:PORT")]
    pub listen_http: Option<Address>,
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
    /// Where to show status and metrics.
    pub listen_http: Address,
    /// Whom to believe.
    pub auth: AuthOptions,
    /// Log format and the like.
    pub common: CommonOptions,
}

impl ProposerFlags {
    pub(crate) fn from_section(section: &mut Section<'_>) -> Result<ProposerFlags, Error> {
        Ok(ProposerFlags {
            cluster: section.take("cluster")?,
            listen_http: section.take("listen_http")?,
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
        Ok(ProposerOptions {
            primary,
            safekeepers: choose_safekeepers(self.safekeepers, cluster.map(|cluster| &*cluster.safekeepers))?,
            cluster: wanted.or_else(|| Some(cluster?.name.clone())),
            listen_http: self.listen_http.or(below.listen_http).unwrap_or_else(default_listen_http),
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
