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
//! | `slots` | commands about replication slots, whose answers wait |
//! | `calling` | calling consumers that sleep |
//! | `admission`, `door` | who is let in at the PostgreSQL port, and at the HTTP port |
//! | `tls` | one TLS session |
//! | `members`, `tombstones` | membership records, learners, and the end of a cluster here |
//! | `peers` | asking the other safekeepers; what their disks have promised |
//! | `room` | how much of the disk is left to others |
//! | `pull` | fetching WAL from another safekeeper |
//! | `archive` | committed WAL to the archive, on a thread of its own; who uploads |
//! | `view` | status and metrics |
//! | `run` | putting it together |

mod admission;
mod archive;
mod calling;
mod cluster;
mod data_dir;
mod door;
mod jobs;
mod members;
mod options;
mod pace;
mod peers;
mod pull;
mod push;
mod queries;
mod reader_view;
mod reading;
mod registry;
mod room;
mod run;
mod session;
mod slots;
mod tls;
mod tombstones;
mod view;
mod wire;

pub use archive::{ArchiveError, ArchiveOptions};
pub use data_dir::DataDirError;
pub use options::NodeOptions;
pub use run::{Error, Ready, run};
