//! The storage of one log, from outside: what it does step by step, on the simulated and the real disk; what it makes of
//! every crash; and what it calls damage.

#![expect(clippy::unwrap_used, reason = "helpers of a test, which may fail by panicking")]

mod common;
mod faults;
mod model;
mod recovery;
mod steps;
