//! A source's replica over time: sync, snapshots, retention, validation.

pub mod retention;
pub mod snapshot;
pub mod sqlite;
pub mod wal;
