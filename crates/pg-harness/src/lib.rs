//! Real PostgreSQL and our processes as values, for scenarios.
//!
//! A test gets a [`Folder`] from [`scenario`] and makes its values in it: [`Postgres`] is a real server, [`Bin`] one of our built
//! programs, [`Process`] a running one, [`Quorum`] a set of safekeepers, [`Up`] a whole `seawall up`, [`Ledger`] clients that note
//! what was acknowledged, [`History`] clients whose transactions must fit into one order; [`Garage`] and [`Moto`] are S3 servers, [`FaultProxy`] the bad weather before one. Values end their processes when dropped, and only processes they started. The folder stays, with every
//! log, when the test fails.
//!
//! Nothing sleeps for luck: [`wait_for`] polls a condition against a deadline. The crate holds no product code and links none but
//! `pg-server`; it knows our programs by their command line, their HTTP status and the ready line on their standard output.

mod bin;
mod fault_proxy;
mod folder;
mod forwarder;
mod garage;
mod history;
mod http;
mod ledger;
mod moto;
mod object_server;
mod postgres;
mod process;
mod quorum;
mod session;
mod small_disk;
mod up;
mod wait;

pub use bin::{Bin, Finished};
pub use fault_proxy::{Fault, FaultProxy, Request};
pub use folder::{Folder, scenario};
pub use forwarder::{Forwarder, Way};
pub use garage::Garage;
pub use history::{Checked, History};
pub use http::{get, get_json};
pub use ledger::{Acknowledged, Ledger};
pub use moto::Moto;
pub use object_server::S3Access;
pub use pg_server::{Mode, Signal};
pub use postgres::{Postgres, PostgresBuilder, postgres_bin_dir};
pub use process::{Process, Ready};
pub use quorum::{Proposer, Quorum, QuorumBuilder, Safekeeper};
pub use small_disk::SmallDisk;
pub use up::{Up, UpPart};
pub use wait::wait_for;
