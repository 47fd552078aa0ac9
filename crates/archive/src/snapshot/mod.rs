//! Base backups into a replica: chunks compressed and sent in parallel, and last the object by which the snapshot exists.
//!
//! [`SnapshotTaker`] takes directories, files and bytes in order; whoever reads a server feeds it. Memory is bounded by the chunks under
//! way, whatever the cluster's size. [`Sealed`] is a snapshot whose parts are all stored; it waits until the WAL it needs is in the
//! replica, and only then exists: a snapshot without its WAL restores nothing, and an interrupted one leaves parts that nobody counts.
//!
//! Invariants: every part's plain length and checksum are compared with what was packed; `snapshot.json` is the last object and is
//! written only by the holder of the claim on this beginning, after a listing showed every part.

mod claim;
mod error;
mod taker;
mod wal;

pub use error::SnapshotError;
pub use taker::{Sealed, SnapshotOptions, SnapshotTaker};
pub use wal::wal_end;

#[cfg(test)]
mod snapshot_test;
