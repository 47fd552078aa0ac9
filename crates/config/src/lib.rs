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

mod error;
mod expand;
mod file;
mod flags;
mod operator;
mod proposer;
mod safekeeper;
mod section;
mod values;

pub use error::{Error, Place, Problem};
pub use file::{ClusterOptions, Config, Env, SqliteOptions};
pub use flags::{AuthFlags, AuthOptions, CommonFlags, CommonOptions};
pub use operator::{InitFlags, InitOptions, StatusFlags, StatusOptions, StatusSource, UpFlags, UpOptions};
pub use proposer::{ProposerFlags, ProposerOptions};
pub use safekeeper::{SafekeeperFlags, SafekeeperOptions};
pub use values::{Address, ByteSize, ClusterName, Conninfo, LogFormat, ValueError};
