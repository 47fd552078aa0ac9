//! The driver of a leader: the primary, the safekeepers, the clock.
//!
//! One thread runs it all; decisions are made in `leader`, this crate carries them out. What happens anywhere is handed to the
//! leader at once, and what the leader wants done leaves in the same turn of the runtime. One module per duty:
//!
//! | module | duty |
//! |---|---|
//! | `run` | putting it together, and a quick hand-over at the end |
//! | `discover` | which cluster: LOG_STATUS of a majority that agrees |
//! | `driver` | the leader, its commands, its clock |
//! | `primary` | attach, slot, stream, answers |
//! | `checks` | whether the primary's commits wait for us; whether it is still the same server |
//! | `safekeeper` | connecting to a safekeeper, and LOG_STATUS |
//! | `compare` | reading a donor's log |
//! | `once` | a term that is won to get something done: sync, fence, adopt, pre-start |
//! | `files` | the WAL of a server that is down |
//! | `quorum` | the safekeepers as their own source, without a primary |
//! | `push` | one push session |
//! | `report` | log lines on change |
//! | `view` | status and metrics |

#![cfg_attr(doctest, doc = include_str!("../README.md"))]

mod checks;
mod compare;
mod discover;
mod door;
mod driver;
mod error;
mod files;
mod once;
mod options;
mod primary;
mod push;
mod quorum;
mod report;
mod run;
mod safekeeper;
mod view;

pub use error::{Error, ExitKind};
pub use files::{FilesError, WalFiles};
pub use once::{FenceRequest, Led, OnceOptions, adopt, bring, complete, lift_fence};
pub use options::{ProposerOptions, Takeover};
pub use run::{Ready, run};
