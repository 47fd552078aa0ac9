//! Real PostgreSQL and our processes as values, for scenarios.
//!
//! A test gets a [`Folder`] from [`scenario`] and makes its values in it: [`Postgres`] is a real server, [`Bin`] one of our built
//! programs, [`Process`] a running one, [`Quorum`] a set of safekeepers, [`Up`] a whole `seawall up`, [`Ledger`] clients that note
//! what was acknowledged. Values end their processes when dropped, and only processes they started. The folder stays, with every
//! log, when the test fails.
//!
//! Nothing sleeps for luck: [`wait_for`] polls a condition against a deadline. The crate holds no product code and links none but
//! `pg-server`; it knows our programs by their command line, their HTTP status and the ready line on their standard output.

mod bin;
mod folder;
mod forwarder;
mod http;
mod ledger;
mod postgres;
mod process;
mod quorum;
mod up;
mod wait;

pub use bin::{Bin, Finished};
pub use folder::{Folder, scenario};
pub use forwarder::Forwarder;
pub use http::{get, get_json};
pub use ledger::{Acknowledged, Ledger};
pub use pg_server::{Mode, Signal};
pub use postgres::{Postgres, PostgresBuilder};
pub use process::{Process, Ready};
pub use quorum::{Proposer, Quorum, QuorumBuilder, Safekeeper};
pub use up::{Up, UpPart};
pub use wait::wait_for;
