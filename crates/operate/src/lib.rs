//! What operators do.
//!
//! [`failover`] is what is done around a promotion and a restart, [`init`] begins a cluster on its safekeepers, [`restore`] brings databases back
//! and serves the commands a server calls, [`status`] asks the parts how they are and says what to do, [`up`] runs a whole
//! quorum beside a PostgreSQL from one command, and [`process`] runs one part. Everything is a function over options; which flags
//! there are belongs to `config` and the binaries. Text for people is returned or handed to the given function.

#![cfg_attr(doctest, doc = include_str!("../README.md"))]

pub mod backup;
pub mod failover;
pub mod init;
pub mod members;
pub mod process;
pub mod restore;
pub mod sqlite;
pub mod status;
pub mod token;
pub mod up;
