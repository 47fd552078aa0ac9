//! A live SQLite database as a source.
//!
//! A [`Database`] takes control of the WAL of a database that other processes use: it keeps SQLite from beginning the WAL anew before it was
//! copied (`control.rs` says how), copies every committed frame into the *shadow WAL*, checks the checksum chain on the way, and runs
//! the checkpoints itself. A [`Reader`] is a [`source::Source`] over the shadow WAL: its log is a sequence of lives of the WAL, its
//! snapshots are exact states of the database.
//!
//! Invariants:
//! * what a stream gives was committed, is durable in the shadow WAL, and continues the chain;
//! * a position's generation changes whenever a frame may have been missed: within a generation nothing is;
//! * the user's database gets nothing but WAL mode, and at most a transaction that changes nothing.
//!
//! The crate does not know where the bytes go. It blocks only on threads of the runtime's pool.

#![cfg_attr(doctest, doc = include_str!("../README.md"))]

mod control;
mod core;
mod database;
mod error;
mod notice;
mod options;
mod shadow;
mod snapshot;
mod stats;
mod wal_file;

pub use database::{Database, Reader, Snapshot, Stream};
pub use error::Error;
pub use notice::Notices;
pub use options::Options;
