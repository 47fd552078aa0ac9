//! PostgreSQL v3 messages in both directions, the replication sub-protocol and the command grammar; bytes only.
//!
//! A module per direction and phase: [`startup`] (the first packet of a connection), [`frontend`] (client to server),
//! [`backend`] (server to client), [`replication`] (what travels inside CopyData while WAL is streamed) and [`command`]
//! (the text of the commands of a replication connection). [`frame`] cuts the byte stream into messages.
//!
//! Encoders append to a `BytesMut`. Decoders take from a `BytesMut` and answer an error, "need more", or one message whose
//! bodies are slices of the input: nothing is copied but short texts. A declared length is checked against a limit before
//! anything is kept, and no input makes a decoder panic.
//!
//! Text is UTF-8: both sides announce `client_encoding=UTF8`. Nothing here knows sockets, a runtime or time.

// The README's example is a test too.
#![cfg_attr(doctest, doc = include_str!("../README.md"))]

pub mod backend;
pub mod command;
mod cursor;
pub mod frame;
pub mod frontend;
pub mod replication;
mod sqlstate;
pub mod startup;

pub use cursor::BodyError;
pub use frame::{Frame, FrameError, Limits};
pub use sqlstate::SqlState;
