//! Whole clusters on one thread, under one seed, on a virtual clock: safekeepers (`keeper` and `wal-storage` over a simulated disk)
//! and proposers (`leader`) as they ship, primaries that obey PostgreSQL's rules, a network and disks that fail, and an oracle that
//! holds every promise against what happens.
//!
//! A run has a time of faults and then a time without: everything heals, and the cluster must commit again, with everybody whole.
//! The same seed gives the same run, to the last line of its trace.
//!
//! What is not here: sockets and threads (`node`, `proposer`), PostgreSQL itself, and the archive; scenarios have those.

mod chance;
mod chaos;
mod coverage;
mod jobs;
mod net;
mod oracle;
mod peers;
mod plan;
mod proposer;
mod reading;
mod run;
mod safekeeper;
mod server;
mod serving;
mod trace;
mod world;

pub use coverage::Coverage;
pub use plan::Sabotage;
pub use run::{Failure, Outcome, run};
