//! What generations, pieces and snapshots are called, whatever the layout.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use jiff::Timestamp;
use lsn::{SegmentSize, Tli};
use rand::Rng;
use serde::{Deserialize, Serialize};

/// An unbroken lineage in a replica; 16 lower-case hex digits. SQLite: random. PostgreSQL: the mark of a TLI's beginning (CRC
/// field of the first record on it, 0 for the root) in the high half, the TLI in the low one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Generation(pub u64);

impl Generation {
    /// A new one for a SQLite database.
    pub fn random() -> Generation {
        Generation(rand::rng().random())
    }

    /// Of a TLI that begins with this mark.
    pub fn of_tli(mark: u32, tli: Tli) -> Generation {
        Generation(u64::from(mark) << 32 | u64::from(tli.0))
    }

    /// The mark, of a PostgreSQL generation.
    pub fn mark(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// The TLI, of a PostgreSQL generation.
    pub fn tli(self) -> Tli {
        Tli(self.0 as u32)
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Generation({self})")
    }
}

/// Text that is not a generation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a generation (16 lower-case hex digits)")]
pub struct ParseGenerationError(String);

impl FromStr for Generation {
    type Err = ParseGenerationError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        hex(text, 16..=16).map(Generation).ok_or_else(|| ParseGenerationError(text.to_owned()))
    }
}

impl From<Generation> for String {
    fn from(generation: Generation) -> Self {
        generation.to_string()
    }
}

impl TryFrom<String> for Generation {
    type Error = ParseGenerationError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

/// Reads lower-case hex digits, as many as allowed and nothing else.
pub(crate) fn hex(text: &str, digits: std::ops::RangeInclusive<usize>) -> Option<u64> {
    let lower_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    if !digits.contains(&text.len()) || !text.bytes().all(lower_hex) {
        return None;
    }
    u64::from_str_radix(text, 16).ok()
}

/// Where a piece of WAL ends, as far as its key says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PieceEnd {
    /// PostgreSQL: before this byte of the segment.
    At(u64),
    /// PostgreSQL: the whole segment, merged.
    Segment,
    /// SQLite: not in the key.
    Unknown,
}

/// What one uploaded run of WAL bytes is called within its generation.
///
/// SQLite: `index` counts the lives of the WAL (32 bits), `start` is the byte offset in that life. PostgreSQL: `index` is the
/// segment number, `start` the byte offset in the segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PieceName {
    /// Which WAL life or segment.
    pub index: u64,
    /// First byte in it.
    pub start: u64,
    /// Where it ends.
    pub end: PieceEnd,
}

impl PieceName {
    /// A piece of a SQLite WAL.
    pub fn sqlite(index: u64, offset: u64) -> PieceName {
        PieceName { index, start: offset, end: PieceEnd::Unknown }
    }

    /// A piece of a PostgreSQL segment: bytes `span` of it.
    pub fn of_segment(segment: u64, span: Range<u64>) -> PieceName {
        PieceName { index: segment, start: span.start, end: PieceEnd::At(span.end) }
    }

    /// A whole PostgreSQL segment.
    pub fn segment(segment: u64) -> PieceName {
        PieceName { index: segment, start: 0, end: PieceEnd::Segment }
    }

    /// The bytes it has of its segment; `None` for SQLite, whose keys do not say.
    pub fn span(&self, segment_size: SegmentSize) -> Option<Range<u64>> {
        match self.end {
            PieceEnd::At(end) => Some(self.start..end),
            PieceEnd::Segment => Some(0..segment_size.bytes()),
            PieceEnd::Unknown => None,
        }
    }
}

/// A piece as a listing shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// Its generation.
    pub generation: Generation,
    /// Its name there.
    pub name: PieceName,
    /// Bytes as stored.
    pub stored: u64,
    /// When it was stored, by the store's clock.
    pub created: Timestamp,
}

/// A snapshot as a listing shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SnapshotInfo {
    /// Its generation.
    pub generation: Generation,
    /// SQLite: the index of the WAL life it was taken in. PostgreSQL: the LSN at which the backup begins.
    pub at: u64,
    /// SQLite: bytes as stored. PostgreSQL: those of all its parts.
    pub stored: u64,
    /// When it was finished, by the store's clock.
    pub created: Timestamp,
}
