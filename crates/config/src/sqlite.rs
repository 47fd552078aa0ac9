//! `[[sqlite]]` and the flags of `seawall replicate`: SQLite files and where they are replicated to.
//!
//! ```toml
//! [[sqlite]]
//! path = "/srv/app.db"
//! replicas = ["s3://backups/app"]
//!
//! [[sqlite]]
//! dir = "/srv/tenants"
//! pattern = "*.db"
//! [[sqlite.replica]]
//! url = "s3://backups/tenants"
//! recipients = ["age1…"]
//! ```
//!
//! Of a directory every database goes to its own folder below each replica's URL, named as the file.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use crate::error::Error;
use crate::file::{Config, Env};
use crate::flags::{AuthFlags, AuthOptions};
use crate::section::Section;
use crate::values::{Address, LogFormat, ValueError};

/// A length of time, from none to years: `500ms`, `1s`, `90m`, `24h`, `7d`; `0` is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Interval(pub Duration);

const UNITS: [(&str, u64); 5] = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

impl FromStr for Interval {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Interval, ValueError> {
        let refused = || ValueError::new(text, "a length of time (like 500ms, 1s, 90m, 24h, 7d, 1h30m, or 0)");
        if text == "0" {
            return Ok(Interval::default());
        }
        // Parts may follow one another, as Go prints them: 24h0m0s.
        let (mut rest, mut total) = (text, 0_u64);
        while !rest.is_empty() {
            let end = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(refused)?;
            let (number, after) = rest.split_at(end);
            let unit_end = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
            let (unit, after) = after.split_at(unit_end);
            let (_, factor) = UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(refused)?;
            let number: u64 = number.parse().map_err(|_| refused())?;
            total = number.checked_mul(*factor).and_then(|part| total.checked_add(part)).ok_or_else(refused)?;
            rest = after;
        }
        match text.is_empty() {
            true => Err(refused()),
            false => Ok(Interval(Duration::from_millis(total))),
        }
    }
}

impl fmt::Display for Interval {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.0.as_millis() as u64;
        let unit = UNITS.iter().rev().find(|(_, factor)| millis != 0 && millis.is_multiple_of(*factor));
        match unit {
            Some((name, factor)) => write!(f, "{}{name}", millis / factor),
            None => f.write_str("0"),
        }
    }
}

/// What a database is found by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SqliteSource {
    /// One file.
    File(PathBuf),
    /// Every file of a directory whose name matches, those that appear later too.
    Directory {
        /// The directory.
        dir: PathBuf,
        /// The pattern of names, with `*` and `?`.
        pattern: String,
        /// In the directories below as well.
        recursive: bool,
    },
}

/// One `[[sqlite]]`: a database file, or a directory of them, and where it is replicated to. `None`: the product's default.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SqliteOptions {
    /// Which database, unique in the file.
    pub source: SqliteSource,
    /// The folder of the shadow WAL and the state; of a directory, the folder in which each database has its own.
    pub meta_path: Option<PathBuf>,
    /// How often the WAL is looked at.
    pub monitor_interval: Option<Interval>,
    /// How often a WAL that has grown is checkpointed.
    pub checkpoint_interval: Option<Interval>,
    /// Pages that bring a checkpoint.
    pub min_checkpoint_pages: Option<u64>,
    /// Pages that make a checkpoint wait for readers.
    pub truncate_pages: Option<u64>,
    /// How long a lock is waited for.
    pub busy_timeout: Option<Interval>,
    /// Its replicas, at least one.
    pub replicas: Vec<SqliteReplicaOptions>,
}

/// One replica of a database. `None`: the product's default.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct SqliteReplicaOptions {
    /// Where.
    pub url: String,
    /// Its name in metrics and lists.
    pub name: Option<String>,
    /// How often changes are uploaded.
    pub sync_interval: Option<Interval>,
    /// How far back any moment can be restored; 0: nothing is deleted.
    pub retention: Option<Interval>,
    /// How often it is looked for what can go.
    pub retention_check_interval: Option<Interval>,
    /// How often a database that changes gets a snapshot.
    pub snapshot_interval: Option<Interval>,
    /// How often the replica is restored and compared.
    pub validation_interval: Option<Interval>,
    /// age recipients.
    pub recipients: Vec<String>,
    /// age identities.
    pub identities: Vec<String>,
    /// Options of the store, by name: `endpoint`, `region`, `access-key-id`….
    pub store: Vec<(String, String)>,
}

impl fmt::Debug for SqliteReplicaOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The options may hold secrets.
        f.debug_struct("SqliteReplicaOptions").field("url", &self.url).finish_non_exhaustive()
    }
}

/// Keys of a `[[sqlite.replica]]` that are options of its store.
const STORE_KEYS: [(&str, &str); 9] = [
    ("endpoint", "endpoint"),
    ("region", "region"),
    ("force_path_style", "force-path-style"),
    ("skip_verify", "skip-verify"),
    ("access_key_id", "access-key-id"),
    ("secret_access_key", "secret-access-key"),
    ("session_token", "session-token"),
    ("account_name", "account-name"),
    ("account_key", "account-key"),
];

impl SqliteOptions {
    /// A file with these replicas and defaults.
    pub fn new(path: PathBuf, replicas: Vec<String>) -> SqliteOptions {
        SqliteOptions {
            source: SqliteSource::File(path),
            meta_path: None,
            monitor_interval: None,
            checkpoint_interval: None,
            min_checkpoint_pages: None,
            truncate_pages: None,
            busy_timeout: None,
            replicas: replicas.into_iter().map(|url| SqliteReplicaOptions { url, ..Default::default() }).collect(),
        }
    }

    pub(crate) fn from_section(section: &mut Section<'_>) -> Result<SqliteOptions, Error> {
        let (path, dir): (Option<PathBuf>, Option<PathBuf>) = (section.take("path")?, section.take("dir")?);
        let (pattern, recursive): (Option<String>, Option<bool>) =
            (section.take("pattern")?, section.take("recursive")?);
        let source = match (path, dir) {
            (Some(path), None) if pattern.is_none() && recursive.is_none() => SqliteSource::File(path),
            (Some(_), None) => return Err(section.refuse("path", "pattern and recursive go with dir".to_owned())),
            (None, Some(dir)) => SqliteSource::Directory {
                dir,
                pattern: pattern.unwrap_or_else(|| "*.db".to_owned()),
                recursive: recursive.unwrap_or_default(),
            },
            _ => return Err(section.refuse("path", "either path or dir is needed".to_owned())),
        };
        let mut sqlite = SqliteOptions {
            source,
            meta_path: section.take("meta_path")?,
            monitor_interval: section.take("monitor_interval")?,
            checkpoint_interval: section.take("checkpoint_interval")?,
            min_checkpoint_pages: section.take("min_checkpoint_pages")?,
            truncate_pages: section.take("truncate_pages")?,
            busy_timeout: section.take("busy_timeout")?,
            replicas: section
                .take_list::<String>("replicas")?
                .into_iter()
                .map(|url| SqliteReplicaOptions { url, ..Default::default() })
                .collect(),
        };
        for mut table in section.take_tables("replica")? {
            sqlite.replicas.push(SqliteReplicaOptions::from_section(&mut table)?);
            table.finish()?;
        }
        let mut names: Vec<&str> = sqlite.replicas.iter().filter_map(|replica| replica.name.as_deref()).collect();
        names.sort_unstable();
        if let Some(twice) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(section.refuse("replica", format!("two replicas are named {}", twice[0])));
        }
        let mut urls: Vec<&str> = sqlite.replicas.iter().map(|replica| replica.url.as_str()).collect();
        urls.sort_unstable();
        if let Some(twice) = urls.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(section.refuse("replica", format!("two replicas go to {}", twice[0])));
        }
        match sqlite.replicas.is_empty() {
            true => Err(section.refuse("replicas", "at least one replica is needed".to_owned())),
            false => Ok(sqlite),
        }
    }
}

impl SqliteReplicaOptions {
    fn from_section(section: &mut Section<'_>) -> Result<SqliteReplicaOptions, Error> {
        let mut replica = SqliteReplicaOptions {
            url: section.require("url")?,
            name: section.take("name")?,
            sync_interval: section.take("sync_interval")?,
            retention: section.take("retention")?,
            retention_check_interval: section.take("retention_check_interval")?,
            snapshot_interval: section.take("snapshot_interval")?,
            validation_interval: section.take("validation_interval")?,
            recipients: section.take_list("recipients")?,
            identities: section.take_list("identities")?,
            store: Vec::new(),
        };
        for (key, option) in STORE_KEYS {
            if let Some(value) = section.take::<String>(key)? {
                replica.store.push((option.to_owned(), value));
            }
        }
        Ok(replica)
    }
}

/// The flags of `seawall replicate`.
#[derive(Debug, Clone, Default, PartialEq, Eq, clap::Args)]
pub struct ReplicateFlags {
    /// The database file
    #[arg(value_name = "DATABASE", required_unless_present = "config", conflicts_with = "config")]
    pub database: Option<PathBuf>,
    /// Where it goes: s3://bucket/path, gs://…, az://…, or a directory; several are kept side by side
    #[arg(value_name = "REPLICA", required_unless_present = "config")]
    pub replicas: Vec<String>,
    /// Configuration file with [[sqlite]] sections, instead of a database and its replicas
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Run this command beside the replication, and end when it ends, with its exit code
    #[arg(long, value_name = "COMMAND", conflicts_with = "once")]
    pub exec: Option<String>,
    /// Bring the replicas up to date once, and end
    #[arg(long)]
    pub once: bool,
    /// The folder of the shadow WAL [default: .<database>-seawall beside it]
    #[arg(long, value_name = "DIR", conflicts_with = "config")]
    pub meta_path: Option<PathBuf>,
    /// How often changes are uploaded [default: 1s]
    #[arg(long, value_name = "TIME", conflicts_with = "config")]
    pub sync_interval: Option<Interval>,
    /// How far back any moment can be restored; 0: nothing is ever deleted [default: 24h]
    #[arg(long, value_name = "TIME", conflicts_with = "config")]
    pub retention: Option<Interval>,
    /// How often a database that changes gets a snapshot [default: once a retention]
    #[arg(long, value_name = "TIME", conflicts_with = "config")]
    pub snapshot_interval: Option<Interval>,
    /// How often the replica is restored and compared with the database [default: never]
    #[arg(long, value_name = "TIME", conflicts_with = "config")]
    pub validation_interval: Option<Interval>,
    /// Encrypt for this age recipient (age1…); may be given several times
    #[arg(long, value_name = "RECIPIENT", conflicts_with = "config")]
    pub recipient: Vec<String>,
    /// Show metrics and status over HTTP here
    #[arg(long, value_name = "HOST:PORT")]
    pub listen_http: Option<Address>,
    /// Keys that tokens are checked with, for whoever asks over HTTP: a file, or a directory of files; needed to listen beyond this machine
    #[arg(long, value_name = "FILE")]
    pub auth_keys: Option<PathBuf>,
    /// Certificate chain to speak TLS with over HTTP; needs --tls-key, and is taken up when it changes
    #[arg(long, value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,
    /// Key of that certificate
    #[arg(long, value_name = "FILE")]
    pub tls_key: Option<PathBuf>,
    /// Listen beyond this machine without authentication: whoever reaches the port may read
    #[arg(long)]
    pub insecure_no_auth: bool,
    /// Log lines for people (human) or one JSON object a line (json) [default: human]
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<LogFormat>,
}

/// The outcome of [`ReplicateFlags`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplicateOptions {
    /// The databases.
    pub databases: Vec<SqliteOptions>,
    /// The command to run beside.
    pub exec: Option<String>,
    /// Once, and end.
    pub once: bool,
    /// Where metrics are shown.
    pub listen_http: Option<Address>,
    /// Who may ask there.
    pub auth: AuthOptions,
    /// How log lines look.
    pub log_format: LogFormat,
}

/// The flags of `seawall databases`.
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
pub struct DatabasesFlags {
    /// Configuration file with [[sqlite]] sections
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// As JSON
    #[arg(long)]
    pub json: bool,
}

/// The flags of `seawall import`.
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
pub struct ImportFlags {
    /// Litestream's configuration file
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
}

impl ReplicateFlags {
    /// What to do: of the file, or of the flags.
    pub fn resolve(self, env: Env<'_>) -> Result<ReplicateOptions, Error> {
        let auth = AuthFlags {
            auth_keys: self.auth_keys,
            tls_cert: self.tls_cert,
            tls_key: self.tls_key,
            insecure_no_auth: self.insecure_no_auth,
            ..AuthFlags::default()
        };
        let mut below = AuthFlags::default();
        let databases = match (self.config, self.database) {
            (Some(path), _) => {
                let config = Config::load(&path, env)?;
                below = config.auth;
                config.sqlites
            }
            (None, Some(database)) => {
                let mut options = SqliteOptions::new(database, self.replicas);
                options.meta_path = self.meta_path;
                for replica in &mut options.replicas {
                    replica.sync_interval = self.sync_interval;
                    replica.retention = self.retention;
                    replica.snapshot_interval = self.snapshot_interval;
                    replica.validation_interval = self.validation_interval;
                    replica.recipients.clone_from(&self.recipient);
                }
                vec![options]
            }
            (None, None) => Vec::new(),
        };
        match databases.is_empty() {
            true => Err(Error::Missing { what: "a database", flag: "DATABASE REPLICA", key: "a section [[sqlite]]" }),
            false => Ok(ReplicateOptions {
                databases,
                exec: self.exec,
                once: self.once,
                listen_http: self.listen_http,
                auth: auth.resolve(&below),
                log_format: self.log_format.unwrap_or_default(),
            }),
        }
    }
}

#[cfg(test)]
#[path = "sqlite_test.rs"]
mod tests;
