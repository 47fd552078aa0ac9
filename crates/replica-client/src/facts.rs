//! What can be known of an object's plain bytes without a secret and without a download.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Length and CRC-32C of plain bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plain {
    /// Bytes.
    pub length: u64,
    /// CRC-32C (Castagnoli) of all of them.
    pub crc32c: u32,
}

impl Plain {
    /// Of no bytes.
    pub const EMPTY: Plain = Plain { length: 0, crc32c: 0 };

    /// Of these bytes.
    pub fn of(bytes: &[u8]) -> Plain {
        Plain::EMPTY.then(bytes)
    }

    /// Of what was counted so far and then these bytes.
    pub fn then(self, bytes: &[u8]) -> Plain {
        Plain {
            length: self.length.saturating_add(bytes.len() as u64),
            crc32c: crc32c::crc32c_append(self.crc32c, bytes),
        }
    }
}

impl fmt::Display for Plain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes with CRC-32C {:08x}", self.length, self.crc32c)
    }
}

/// When the first and last transaction in a run of WAL committed, by the WAL itself; unknown where it has none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommitTimes {
    /// The earliest.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub first: Option<Timestamp>,
    /// The latest.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub last: Option<Timestamp>,
}

/// What is told about an object beside it: in its metadata, or in a side object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// Its plain bytes.
    #[serde(flatten)]
    pub plain: Plain,
    /// Commit times, for a piece of WAL.
    #[serde(flatten)]
    pub commits: CommitTimes,
}

impl Facts {
    /// Facts of plain bytes without commit times.
    pub fn of(plain: Plain) -> Facts {
        Facts { plain, commits: CommitTimes::default() }
    }
}
