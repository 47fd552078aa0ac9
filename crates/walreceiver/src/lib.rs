//! One START_REPLICATION session consumed, as a state machine without I/O.
//!
//! The owner sends [`Receiver::command`], then calls, in any order:
//! * `handle_*` with what happened: a message, the end of the connection, a time-out;
//! * `poll_transmit` until it gives nothing, and sends what it gives;
//! * `poll_timeout` for the moment at which `handle_timeout` must be called;
//! * commands: `report`, `report_feedback`, `stop`.
//!
//! Invariants: WAL events are contiguous from the requested position; positions are reported exactly as the owner passed
//! them, 0 before; after [`Event::Ended`] or [`Event::EndOfTli`] nothing more is given out or sent.
//!
//! Unknown here: sockets, clocks, records, what is durable.

// The README's example is a test too.
#![cfg_attr(doctest, doc = include_str!("../README.md"))]

mod receiver;
mod transmit;

pub use receiver::{End, Error, Event, NextTli, Receiver, Timeouts};
pub use transmit::Transmit;
