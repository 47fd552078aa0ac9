//! The driver of keepers: everything a safekeeper process does that is not a decision.
//!
//! One commit thread runs the sockets, the keepers and page-cache writes (and short syncs where the disk is fast); a disk thread
//! runs syncs and cuts, a control thread writes control files, a background thread makes segments ready and removes old ones;
//! HTTP has a thread of its own. Decisions are made in
//! `keeper`; this crate carries them out. One module per duty, and no struct that knows them all:
//!
//! | module | duty |
//! |---|---|
//! | `data_dir` | the data directory: lock, identity, which clusters are in it |
//! | `jobs` | threads for blocking work and the way back of its completions |
//! | `pace` | whether a sync runs on the disk thread or in place |
//! | `cluster` | one keeper, its storage, and what its commands mean |
//! | `registry` | the clusters of this node, by name and by ids |
//! | `wire` | one connection: reading frames, a bounded way out |
//! | `session` | start-up and the command loop of a connection |
//! | `queries` | commands that answer with rows |
//! | `push` | START_WAL_PUSH |
//! | `reading` | START_REPLICATION |
//! | `pull` | fetching WAL from another safekeeper |
//! | `view` | status and metrics |
//! | `run` | putting it together |

mod cluster;
mod data_dir;
mod jobs;
mod options;
mod pace;
mod pull;
mod push;
mod queries;
mod reading;
mod registry;
mod run;
mod session;
mod view;
mod wire;

pub use data_dir::DataDirError;
pub use options::NodeOptions;
pub use run::{Error, Ready, run};
