//! The format of a SQLite WAL: header, frames, checksum chain, commit boundaries.
//!
//! The source of the format is <https://www.sqlite.org/fileformat2.html#the_write_ahead_log>. A WAL is a 32-byte [`Header`] followed by
//! frames, each a 24-byte [`FrameHeader`] and a page. Every frame carries the sum of everything before it, so that one changed byte
//! anywhere breaks the chain from there on. [`Chain`] follows it frame by frame, [`Stream`] over bytes as they come, in memory for one
//! frame.
//!
//! SQLite ends a WAL silently at the first frame that is not valid. That is right for a file whose tail is stale, and wrong for a
//! copy that is meant to be whole: here a frame that does not continue the chain is always an error, and the caller who reads a live
//! WAL knows that such an error is the end of it.
//!
//! Positions and lengths are bytes in 64 bits. The crate knows neither SQLite nor files.

#![cfg_attr(doctest, doc = include_str!("../README.md"))]

mod chain;
mod checksum;
mod frame;
mod header;
mod page_size;
mod position;
mod stream;

pub use chain::{Chain, ChainError};
pub use checksum::{ByteOrder, Checksum};
pub use frame::{FRAME_HEADER_LEN, Frame, FrameHeader};
pub use header::{HEADER_LEN, Header, HeaderError, Salts};
pub use page_size::{PageSize, PageSizeError};
pub use position::Position;
pub use stream::{End, Stream, StreamError};
