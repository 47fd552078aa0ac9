//! A real safekeeper process, told what proposers, readers and strangers tell it: bytes over TCP.
//!
//! The client here is written apart from the product's codecs, from the layouts of the protocol, so that the two check each
//! other. The process is this test binary started again (see `process`): it can be killed, restarted and measured.

#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

mod admission;
mod bad_input;
mod client;
mod commands;
mod data_dir;
mod flood;
mod members;
mod messages;
mod old_wal;
mod process;
mod pull;
mod push;
mod reading;
mod room;
mod serving;
mod session;
mod slots;
mod startup;
