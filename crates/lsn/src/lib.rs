//! The nouns of a write-ahead log.
//!
//! Positions ([`Lsn`], [`SegmentNumber`]), sizes ([`SegmentSize`]), names ([`Tli`], [`Term`], [`SystemId`], [`ClusterId`],
//! [`NodeId`], [`DiskId`]) and lineages ([`Path`]). Everything here is a small value: it can be parsed, printed, compared
//! and computed with. Nothing here knows bytes of WAL, files, sockets or time.

mod id;
mod path;
mod position;
mod segment;

pub use id::{ClusterId, DiskId, NodeId, ParseIdError, SystemId, Term, Tli};
pub use path::{Path, PathEntry, PathError};
pub use position::{Lsn, ParseLsnError};
pub use segment::{SegmentNumber, SegmentSize, SegmentSizeError, WAL_PAGE_SIZE};
