//! The storage of one log, from outside: what it does step by step, on the simulated and the real disk; what it makes of
//! crashes, by chance and every one of them; and what it calls damage.

#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "helpers of a test, which may fail by panicking")]

mod common;
mod faults;
mod images;
mod model;
mod recovery;
mod steps;
