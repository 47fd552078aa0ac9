//! The file as a whole.
//!
//! ```toml
//! [safekeeper]
//! id = 1
//! data_dir = "/var/lib/seawall"
//! listen_pg = "10.0.0.1:5454"
//! [auth]
//! keys = "/etc/seawall/keys"
//! [[cluster]]
//! name = "orders"
//! primary = "host=db1,db2 user=seawall"
//! safekeepers = ["sk1:5454", "sk2:5454", "sk3:5454"]
//! ```

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use crate::error::Error;
use crate::flags::AuthFlags;
use crate::proposer::{ProposerFlags, first_twice};
use crate::safekeeper::SafekeeperFlags;
use crate::section::{Section, Source};
use crate::sqlite::SqliteOptions;
use crate::values::{Address, ClusterName, Conninfo};

/// Larger than any configuration, small enough to read whole whatever file was named.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// The environment: a variable's value, or `None` if it is not set.
pub type Env<'a> = &'a dyn Fn(&str) -> Option<String>;

/// One `[[cluster]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterOptions {
    /// Its name, unique in the file.
    pub name: ClusterName,
    /// Its primary.
    pub primary: Option<Conninfo>,
    /// Its safekeepers, none twice; may be empty.
    pub safekeepers: Vec<Address>,
    /// The URL of its archive.
    pub archive: Option<String>,
}

/// A configuration file, read and checked. `Config::default()` is an empty one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Config {
    /// `[safekeeper]`.
    pub safekeeper: Option<SafekeeperFlags>,
    /// `[proposer]`.
    pub proposer: Option<ProposerFlags>,
    /// `[auth]`.
    pub auth: AuthFlags,
    /// Every `[[cluster]]`.
    pub clusters: Vec<ClusterOptions>,
    /// Every `[[sqlite]]`.
    pub sqlites: Vec<SqliteOptions>,
}

impl Config {
    /// Reads a file, at most 1 MiB.
    pub fn load(path: &Path, env: Env<'_>) -> Result<Config, Error> {
        let read = || -> io::Result<String> {
            let mut text = String::new();
            File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_string(&mut text)?;
            match text.len() as u64 > FILE_BYTES_MAX {
                true => Err(io::Error::other("it is larger than 1 MiB")),
                false => Ok(text),
            }
        };
        let text = read().map_err(|source| Error::Read { path: path.to_path_buf(), source })?;
        Config::parse(&path.display().to_string(), &text, env)
    }

    pub(crate) fn load_if(path: Option<&Path>, env: Env<'_>) -> Result<Config, Error> {
        path.map_or_else(|| Ok(Config::default()), |path| Config::load(path, env))
    }

    /// Reads a text; `file` is its name in errors.
    pub fn parse(file: &str, text: &str, env: Env<'_>) -> Result<Config, Error> {
        let mut root = Section::root(Source { file, text, env })?;
        let mut config = Config::default();
        if let Some(mut section) = root.take_table("safekeeper")? {
            config.safekeeper = Some(SafekeeperFlags::from_section(&mut section)?);
            section.finish()?;
        }
        if let Some(mut section) = root.take_table("proposer")? {
            config.proposer = Some(ProposerFlags::from_section(&mut section)?);
            section.finish()?;
        }
        if let Some(mut section) = root.take_table("auth")? {
            config.auth = AuthFlags::from_section(&mut section)?;
            section.finish()?;
        }
        for mut section in root.take_tables("cluster")? {
            let cluster = ClusterOptions::from_section(&mut section)?;
            if config.clusters.iter().any(|other| other.name == cluster.name) {
                return Err(section.refuse("name", format!("there is already a cluster named {}", cluster.name)));
            }
            config.clusters.push(cluster);
            section.finish()?;
        }
        for mut section in root.take_tables("sqlite")? {
            let sqlite = SqliteOptions::from_section(&mut section)?;
            if config.sqlites.iter().any(|other| other.source == sqlite.source) {
                return Err(section.refuse("path", "this database is already replicated by another section".to_owned()));
            }
            config.sqlites.push(sqlite);
            section.finish()?;
        }
        root.finish()?;
        Ok(config)
    }

    /// The cluster of this name, or the only one if no name is wanted; `None` if the file has no clusters.
    pub fn choose(&self, name: Option<&ClusterName>) -> Result<Option<&ClusterOptions>, Error> {
        let names = || self.clusters.iter().map(|cluster| cluster.name.to_string()).collect();
        match (name, self.clusters.as_slice()) {
            (_, []) => Ok(None),
            (None, [only]) => Ok(Some(only)),
            (None, _) => Err(Error::Cluster { what: "the file has several clusters".to_owned(), names: names() }),
            (Some(name), clusters) => match clusters.iter().find(|cluster| cluster.name == *name) {
                Some(cluster) => Ok(Some(cluster)),
                None => Err(Error::Cluster { what: format!("the file has no cluster {name}"), names: names() }),
            },
        }
    }
}

impl ClusterOptions {
    fn from_section(section: &mut Section<'_>) -> Result<ClusterOptions, Error> {
        let cluster = ClusterOptions {
            name: section.require("name")?,
            primary: section.take("primary")?,
            safekeepers: section.take_list("safekeepers")?,
            archive: section.take("archive")?,
        };
        match first_twice(&cluster.safekeepers) {
            Some(twice) => Err(section.refuse("safekeepers", format!("{twice} is listed twice"))),
            None => Ok(cluster),
        }
    }
}

#[cfg(test)]
#[path = "file_test.rs"]
mod tests;
