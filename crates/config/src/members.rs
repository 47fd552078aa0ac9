//! The options of `seawall members`.

use std::path::PathBuf;

use crate::error::Error;
use crate::file::{Config, Env};
use crate::proposer::choose_safekeepers;
use crate::values::{Address, ClusterName};

/// The flags of `seawall members`.
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
pub struct MembersFlags {
    /// What to do
    #[command(subcommand)]
    pub action: MembersAction,
    /// The cluster's name; not needed where the safekeepers have only one
    #[arg(long, value_name = "NAME", global = true)]
    pub cluster: Option<ClusterName>,
    /// Its safekeepers; those the membership record names are found by themselves
    #[arg(long, value_name = "HOST:PORT,…", value_delimiter = ',', global = true)]
    pub safekeepers: Vec<Address>,
    /// Configuration file; flags win over it
    #[arg(long, value_name = "FILE", global = true)]
    pub config: Option<PathBuf>,
    /// Print the outcome as JSON
    #[arg(long, global = true)]
    pub json: bool,
}

/// What `members` does.
#[derive(Debug, Clone, PartialEq, Eq, clap::Subcommand)]
pub enum MembersAction {
    /// Show who belongs to a cluster, and how far each is
    #[command(after_help = "Example:\n  seawall members list --safekeepers sk1:5454,sk2:5454,sk3:5454")]
    List,
    /// Make a safekeeper a member; it learns the log first
    #[command(after_help = "Example:\n  seawall members add --new sk4:5454 --safekeepers sk1:5454,sk2:5454,sk3:5454")]
    Add {
        /// Where it is
        #[arg(long, value_name = "HOST:PORT")]
        new: Address,
    },
    /// Take a member out
    #[command(after_help = "Example:\n  seawall members remove --node 3 --safekeepers sk1:5454,sk2:5454,sk3:5454")]
    Remove {
        /// Its number
        #[arg(long, value_name = "ID")]
        node: u64,
    },
    /// Put a safekeeper in the place of a member
    #[command(
        after_help = "Example:\n  seawall members replace --node 3 --new sk4:5454 --safekeepers sk1:5454,sk2:5454,sk3:5454"
    )]
    Replace {
        /// The number of the member that goes
        #[arg(long, value_name = "ID")]
        node: u64,
        /// Where the safekeeper is that comes; it may be the same node with a new disk
        #[arg(long, value_name = "HOST:PORT")]
        new: Address,
    },
    /// Show what keeps members from voting; with --accept, give up what damaged disks lost
    #[command(after_help = "Example:\n  seawall members repair --safekeepers sk1:5454,sk2:5454,sk3:5454")]
    Repair {
        /// Let the longest log there is count as it is, although acknowledged commits may be missing from it
        #[arg(long)]
        accept: bool,
    },
}

/// What `members` is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MembersOptions {
    /// What to do.
    pub action: MembersAction,
    /// The cluster, if it was named.
    pub cluster: Option<ClusterName>,
    /// Safekeepers to begin with, at least one.
    pub safekeepers: Vec<Address>,
    /// Print the outcome as JSON.
    pub json: bool,
}

impl MembersFlags {
    /// Reads the file of `--config`, if any, and lays the flags over it.
    pub fn resolve(self, env: Env<'_>) -> Result<MembersOptions, Error> {
        let config = Config::load_if(self.config.as_deref(), env)?;
        let cluster = config.choose(self.cluster.as_ref())?;
        Ok(MembersOptions {
            action: self.action,
            cluster: self.cluster.or_else(|| Some(cluster?.name.clone())),
            safekeepers: choose_safekeepers(self.safekeepers, cluster.map(|cluster| &*cluster.safekeepers))?,
            json: self.json,
        })
    }
}
