//! One cluster on one proposer as one state machine: attach, look, compare, campaign, relay, answer.
//!
//! [`Leader`] is the whole crate. It knows no socket, no clock, no chance and no runtime: what happened goes in through
//! `handle_*` (each takes the time it happened), what has to be done comes out of [`Leader::poll_command`], messages for the
//! safekeepers out of [`Leader::poll_transmit`], and [`Leader::poll_timeout`] says when [`Leader::handle_timeout`] is due.
//!
//! The rules it keeps, and that everything else serves:
//! - **One term is one connection to one primary on one TLI.** Whatever ends or changes that connection ends the term; there is
//!   no path by which a term outlives it.
//! - **Nothing is raised or changed by looking.** Terms rise only after a majority was looked at, the primary was found to
//!   contain its log byte by byte, and the slot's stream is ours.
//! - **An answer to the primary is never above the own-term commit LSN, nor above what this connection received, and never
//!   goes back.**

#![cfg_attr(doctest, doc = include_str!("../README.md"))]

mod command;
mod compare;
mod facts;
mod leader;
mod lineage;
mod look;
mod refusal;
mod ring;
mod session;
mod status;

pub use command::{Command, Transmit};
pub use facts::{Ancestor, LookAnswer, Peer, PrimaryFacts, PrimaryFailure, Slot, StreamFailure};
pub use leader::{Leader, Options};
pub use refusal::Refusal;
pub use status::{PeerState, PeerStatus, State, Status};

#[cfg(test)]
mod test;
