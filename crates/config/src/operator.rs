//! The options of what operators type: `up`, `init`, `status`.

use std::path::PathBuf;

use crate::error::Error;
use crate::file::{Config, Env};
use crate::flags::CommonOptions;
use crate::proposer::choose_safekeepers;
use crate::safekeeper::default_listen_http;
use crate::values::{Address, ByteSize, ClusterName, Conninfo, LogFormat};

const DATA_DIR_DEFAULT: &str = "./seawall-data";
const UP_MAX_WAL_DEFAULT: ByteSize = ByteSize(1 << 30);
const UP_CLUSTER_DEFAULT: &str = "main";

/// The flags of `seawall up`.
#[derive(Debug, Clone, Default, PartialEq, Eq, clap::Args)]
pub struct UpFlags {
    /// Where everything is kept [default: ./seawall-data]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Your PostgreSQL; without it a throw-away one is made from the installed PostgreSQL
    #[arg(long, value_name = "CONNINFO")]
    pub primary: Option<Conninfo>,
    /// The folder with postgres and initdb, if it is not found by itself [else: the environment's PG_BIN]
    #[arg(long, value_name = "DIR")]
    pub pg_bin: Option<PathBuf>,
    /// The cluster's name [default: main]
    #[arg(long, value_name = "NAME")]
    pub cluster: Option<ClusterName>,
    /// Where the proposer shows status and metrics; without it a port is picked once and kept
    #[arg(long, value_name = "HOST:PORT")]
    pub listen_http: Option<Address>,
    /// How much WAL each safekeeper keeps [default: 1GiB]
    #[arg(long, value_name = "SIZE")]
    pub max_wal: Option<ByteSize>,
    /// Log lines for people (human) or one JSON object a line (json) [default: human]
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<LogFormat>,
}

/// What `up` is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpOptions {
    /// Where everything is kept.
    pub data_dir: PathBuf,
    /// The user's PostgreSQL; `None` for a throw-away one.
    pub primary: Option<Conninfo>,
    /// Where PostgreSQL's programs are, if a flag says so; the environment's `PG_BIN` is not looked at here.
    pub pg_bin: Option<PathBuf>,
    /// The cluster's name.
    pub cluster: ClusterName,
    /// Where the proposer shows status; `None` to pick a port once and keep it.
    pub listen_http: Option<Address>,
    /// How much WAL each safekeeper keeps.
    pub max_wal: ByteSize,
    /// Log format and the like.
    pub common: CommonOptions,
}

impl UpFlags {
    /// Fills in the defaults.
    pub fn resolve(self) -> Result<UpOptions, Error> {
        let name = || UP_CLUSTER_DEFAULT.parse();
        let cluster = self.cluster.map_or_else(name, Ok);
        let cluster = cluster.map_err(|err| Error::Refused { what: err.to_string(), mend: "give --cluster" })?;
        Ok(UpOptions {
            data_dir: self.data_dir.unwrap_or_else(|| PathBuf::from(DATA_DIR_DEFAULT)),
            primary: self.primary,
            pg_bin: self.pg_bin,
            cluster,
            listen_http: self.listen_http,
            max_wal: self.max_wal.unwrap_or(UP_MAX_WAL_DEFAULT),
            common: CommonOptions { log_format: self.log_format.unwrap_or_default(), exit_on_stdin_eof: false },
        })
    }
}

/// The flags of `seawall init`.
#[derive(Debug, Clone, Default, PartialEq, Eq, clap::Args)]
pub struct InitFlags {
    /// The name of the new cluster
    #[arg(long, value_name = "NAME")]
    pub cluster: Option<ClusterName>,
    /// Its safekeepers
    #[arg(long, value_name = "HOST:PORT,…", value_delimiter = ',')]
    pub safekeepers: Vec<Address>,
    /// Its primary, asked for system identifier, segment size and version
    #[arg(long, value_name = "CONNINFO")]
    pub primary: Option<Conninfo>,
    /// Configuration file; flags win over it
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Print the outcome as JSON
    #[arg(long)]
    pub json: bool,
}

/// What `init` is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InitOptions {
    /// The name of the new cluster.
    pub cluster: ClusterName,
    /// Its safekeepers, at least one, none twice.
    pub safekeepers: Vec<Address>,
    /// Its primary, if it is to be asked.
    pub primary: Option<Conninfo>,
    /// Print the outcome as JSON.
    pub json: bool,
}

impl InitFlags {
    /// Reads the file of `--config`, if any, and lays the flags over it.
    pub fn resolve(self, env: Env<'_>) -> Result<InitOptions, Error> {
        let config = Config::load_if(self.config.as_deref(), env)?;
        let cluster = config.choose(self.cluster.as_ref())?;
        let name = self.cluster.or_else(|| Some(cluster?.name.clone()));
        Ok(InitOptions {
            cluster: name.ok_or(Error::Missing {
                what: "the cluster's name",
                flag: "--cluster",
                key: "name under [[cluster]]",
            })?,
            safekeepers: choose_safekeepers(self.safekeepers, cluster.map(|cluster| &*cluster.safekeepers))?,
            primary: self.primary.or_else(|| cluster?.primary.clone()),
            json: self.json,
        })
    }
}

/// The flags of `seawall status`.
#[derive(Debug, Clone, Default, PartialEq, Eq, clap::Args)]
pub struct StatusFlags {
    /// The data directory of `seawall up` [default: ./seawall-data]
    #[arg(long, value_name = "DIR", conflicts_with_all = ["config", "http"])]
    pub data_dir: Option<PathBuf>,
    /// Configuration file: ask the parts whose listen_http stands in it
    #[arg(long, value_name = "FILE", conflicts_with = "http")]
    pub config: Option<PathBuf>,
    /// Ask this part; may be given several times
    #[arg(long, value_name = "URL", value_parser = http_address)]
    pub http: Vec<Address>,
    /// Show it again and again until stopped
    #[arg(long)]
    pub watch: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Who is asked for status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StatusSource {
    /// The parts named in `up.json` in this data directory.
    DataDir(PathBuf),
    /// These parts, by their HTTP address.
    Parts(Vec<Address>),
}

/// What `status` is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatusOptions {
    /// Who is asked.
    pub source: StatusSource,
    /// Again and again.
    pub watch: bool,
    /// As JSON.
    pub json: bool,
}

impl StatusFlags {
    /// Chooses whom to ask: `--data-dir`, else `--config`, else `--http`, else the default data directory.
    pub fn resolve(self, env: Env<'_>) -> Result<StatusOptions, Error> {
        let source = match (self.data_dir, self.config) {
            (Some(dir), _) => StatusSource::DataDir(dir),
            (None, Some(path)) => StatusSource::Parts(parts_in(&Config::load(&path, env)?)?),
            (None, None) if self.http.is_empty() => StatusSource::DataDir(PathBuf::from(DATA_DIR_DEFAULT)),
            (None, None) => StatusSource::Parts(self.http),
        };
        Ok(StatusOptions { source, watch: self.watch, json: self.json })
    }
}

/// The HTTP addresses of the parts a file configures.
fn parts_in(config: &Config) -> Result<Vec<Address>, Error> {
    let safekeeper = config.safekeeper.as_ref().map(|part| part.listen_http.clone());
    let proposer = config.proposer.as_ref().map(|part| part.listen_http.clone());
    let mut parts: Vec<Address> =
        [proposer, safekeeper].into_iter().flatten().map(|listen| listen.unwrap_or_else(default_listen_http)).collect();
    parts.dedup();
    match parts.is_empty() {
        true => {
            Err(Error::Missing { what: "a part to ask", flag: "--http", key: "a section [safekeeper] or [proposer]" })
        }
        false => Ok(parts),
    }
}

/// `http://host:port/` or `host:port`.
fn http_address(text: &str) -> Result<Address, crate::values::ValueError> {
    let text = text.strip_prefix("http://").unwrap_or(text);
    text.strip_suffix('/').unwrap_or(text).parse()
}
