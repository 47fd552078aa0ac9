//! A made-up cluster in an archive in memory, restored whole, to places, and after every kind of damage.

#![expect(clippy::unwrap_used, reason = "helpers of a test, which may fail by panicking")]

mod damage;
mod moments;
mod rig;
