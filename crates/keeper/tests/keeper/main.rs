//! A whole keeper with real storage on a simulated disk.

#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

mod old_wal;
mod push;
mod readers;
mod reading_tlis;
mod rig;
mod switches;
