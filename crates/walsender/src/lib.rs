//! One START_REPLICATION session served, as a state machine without I/O; and the answers to the other commands.
//!
//! The owner calls, in any order:
//! * `handle_*` with what happened: a message, WAL that was read, a time-out;
//! * `set_limit`, `end_of_tli`, `terminate` when its own world changes;
//! * `poll` until it gives nothing, and does what it gives;
//! * `poll_timeout` for the moment at which `handle_timeout` must be called.
//!
//! Invariants: no byte at or beyond the limit of the moment is given out, nor any WAL after `terminate` or the end; at most
//! one read is outstanding; a chunk ends at a page boundary or at the limit, and never crosses the end of a segment.
//!
//! Unknown here: sockets, storage, clocks, terms, what is committed.

// The README's example is a test too.
#![cfg_attr(doctest, doc = include_str!("../README.md"))]

pub mod answers;
mod sender;

pub use sender::{ClientError, ClientEvent, End, Finish, NextTli, Output, ReadError, Sender, SenderOptions};
