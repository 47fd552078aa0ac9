//! PostgreSQL WAL as bytes: page headers, record framing, a scanner that finds record ends, and history files.
//!
//! [`Scanner`] follows a stream of WAL and says where records end and whether their checksums hold, without ever putting
//! a record together. [`page`] and [`record`] read single headers, [`history`] reads and prints `%08X.history` files, and
//! [`build`] makes valid WAL for tests. Segment file names stand in `lsn::SegmentSize`.
//!
//! Everything here is pure: the crate knows no files, no sockets, no time, and not what a record means beyond the few
//! that change how WAL is framed. All multi-byte fields are little-endian, as x86-64 and arm64 servers write them.

pub mod build;
mod fault;
pub mod history;
pub mod page;
pub mod prefix;
pub mod record;
mod scanner;

pub use fault::{PageFault, RecordFault, ScanError};
pub use page::{PageHeader, magic_for_version_num, major_for_magic};
pub use record::RecordHeader;
pub use scanner::{RecordSeen, ScanOptions, Scanner};

/// Reads `N` bytes at `offset`; zeros where `bytes` is too short, which callers exclude by checking the length first.
fn array<const N: usize>(bytes: &[u8], offset: usize) -> [u8; N] {
    bytes.get(offset..).and_then(|rest| rest.first_chunk::<N>()).copied().unwrap_or([0; N])
}
