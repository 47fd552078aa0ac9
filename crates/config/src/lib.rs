//! Configuration: `seawall.toml`, the flags, and what comes of both.
//!
//! Each part has two types. Its *flags* (`SafekeeperFlags`…) are what may be said, each value optional: they are `clap` arguments and,
//! read by the same parsers, the keys of a section of the file. `resolve` lays the flags over the file, fills in the defaults,
//! checks, and gives the part's *options* (`SafekeeperOptions`…), in which nothing is optional that the part needs. Parts see only
//! their options, never the file.
//!
//! Invariants: an unknown key is an error, so is a key given twice; every error in the file names file, line and key; the environment
//! comes in as a closure and is read only for `${NAME}`. The crate does not know what the parts do with their options: it connects to
//! nothing and looks at no file but the one named.

mod archive;
mod backup;
mod error;
mod expand;
mod failover;
mod file;
mod flags;
mod members;
mod operator;
mod proposer;
mod restore;
mod safekeeper;
mod section;
mod sqlite;
mod token;
mod upkeep;
mod values;

pub use archive::{ArchiveFlags, ArchiveOptions};
pub use backup::{BackupFlags, RetainFlags, SnapshotFlags, SnapshotOptions};
pub use error::{Error, Place, Problem};
pub use failover::{
    AdoptFlags, FailoverFlags, FailoverOptions, FenceFlags, PrePromoteFlags, PreStartFlags, RebaseFlags, ReleaseFlags,
};
pub use file::{ClusterOptions, Config, Env};
pub use flags::{AuthFlags, AuthOptions, CommonFlags, CommonOptions};
pub use members::{MembersAction, MembersFlags, MembersOptions};
pub use operator::{InitFlags, InitOptions, StatusFlags, StatusOptions, StatusSource, UpFlags, UpOptions};
pub use proposer::{ProposerFlags, ProposerOptions};
pub use restore::{ListFlags, QuorumFlags, ReplicaFlags, RestoreFlags, ValidateFlags, WalFetchFlags, WalPushFlags};
pub use safekeeper::{SafekeeperFlags, SafekeeperOptions};
pub use sqlite::{
    DatabasesFlags, ImportFlags, Interval, ReplicateFlags, ReplicateOptions, SqliteOptions, SqliteReplicaOptions,
    SqliteSource,
};
pub use token::TokenFlags;
pub use upkeep::{UpkeepFlags, UpkeepOptions};
pub use values::{Address, ByteSize, ClusterName, Conninfo, LogFormat, ValueError};
