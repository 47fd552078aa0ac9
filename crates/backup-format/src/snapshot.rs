//! [`Snapshot`]: the content of `snapshot.json`, the object whose presence makes a set of chunks a snapshot.
//!
//! JSON with a version, so that it can be read without this program. Field names are the names here; LSNs are `X/Y`, times RFC 3339.
//! A reader refuses a higher version and ignores fields it does not know.

use jiff::Timestamp;
use lsn::{Lsn, SegmentSize, SystemId, Tli};
use serde::{Deserialize, Serialize};

/// The version that is written, and the highest that is read.
pub const SNAPSHOT_VERSION: u32 = 1;
/// Longest description that is read: a snapshot of a million chunks.
pub const MAX_SNAPSHOT_JSON: usize = 128 << 20;
/// The highest number of a chunk: eight digits.
pub const MAX_CHUNK_NUMBER: u32 = 99_999_999;

/// A base backup of a PostgreSQL cluster, held as chunks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Layout of this description and of the chunks.
    pub version: u32,
    /// The cluster it is a copy of.
    #[serde(with = "text")]
    pub system_id: SystemId,
    /// `server_version_num` of the server it was taken from: 150018.
    pub server_version: u32,
    /// Bytes of a WAL segment.
    #[serde(with = "segment_size")]
    pub segment_size: SegmentSize,
    /// Redo of the backup's checkpoint: WAL is needed from the start of its segment.
    pub begin: LsnOnTli,
    /// WAL is needed up to here before the copy is consistent. The TLI differs from the first only if a standby followed a promotion
    /// meanwhile.
    pub end: LsnOnTli,
    /// The WAL needed, oldest first, contiguous from `begin` to `end`.
    pub wal_ranges: Vec<WalRange>,
    /// When it began, by the *server's* clock.
    pub begin_time: Timestamp,
    /// When it ended, by the server's clock, rounded up: a moment at or after this can be restored from this snapshot.
    pub end_time: Timestamp,
    /// Taken from a standby.
    pub from_standby: bool,
    /// What its taker called it.
    pub label: String,
    /// The tablespaces besides the main directory.
    pub tablespaces: Vec<Tablespace>,
    /// Pages whose checksum was wrong on the server, and which its owner accepted; ordinarily none.
    pub damaged_pages: Vec<DamagedPage>,
    /// The chunks, in the order they were made.
    pub chunks: Vec<Chunk>,
    /// The `backup_manifest` object.
    pub manifest: Blob,
    /// Files in it.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// A position, and the TLI it lies on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LsnOnTli {
    /// The position.
    #[serde(with = "text")]
    pub lsn: Lsn,
    /// The TLI.
    #[serde(with = "tli")]
    pub tli: Tli,
}

/// A run of WAL on one TLI.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct WalRange {
    /// The TLI.
    #[serde(with = "tli")]
    pub tli: Tli,
    /// Its first byte.
    #[serde(with = "text")]
    pub begin: Lsn,
    /// The byte after its last.
    #[serde(with = "text")]
    pub end: Lsn,
}

/// A tablespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tablespace {
    /// Its object id, and the name of its link in `pg_tblspc`.
    pub oid: u32,
    /// Where it was on the server. Relative to the data directory: it lies within, and there is no link.
    pub location: String,
}

impl Tablespace {
    /// Whether it lies within the data directory, with no link to make.
    pub fn is_in_place(&self) -> bool {
        !self.location.starts_with('/')
    }
}

/// A page whose checksum was wrong.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct DamagedPage {
    /// The file, relative to the data directory.
    pub path: String,
    /// The block, counted within this file.
    pub block: u32,
}

/// One chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chunk {
    /// Its number, and its object's name. Numbers ascend by one from an arbitrary first one, so that two takers of a snapshot that
    /// begins at the same LSN do not write over each other's.
    pub number: u32,
    /// Plain bytes.
    pub length: u64,
    /// CRC-32C of the plain bytes.
    pub crc32c: u32,
}

/// An object beside the chunks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blob {
    /// Plain bytes.
    pub length: u64,
    /// CRC-32C of the plain bytes.
    pub crc32c: u32,
}

/// Bytes that do not describe a snapshot.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// Longer than any description.
    #[error("snapshot.json has {0} bytes, more than the 134217728 that are read")]
    TooLong(usize),
    /// Not the JSON it should be.
    #[error("snapshot.json cannot be read")]
    Json(#[from] serde_json::Error),
    /// Written by something newer.
    #[error("snapshot.json is of version {0}, this program reads up to 1: use the newer one that wrote it")]
    Version(u32),
    /// Contradicts itself.
    #[error("snapshot.json contradicts itself: {0}")]
    Wrong(&'static str),
}

impl Snapshot {
    /// Reads a description and checks that it holds together.
    pub fn from_json(bytes: &[u8]) -> Result<Snapshot, SnapshotError> {
        #[derive(Deserialize)]
        struct Version {
            version: u32,
        }
        if bytes.len() > MAX_SNAPSHOT_JSON {
            return Err(SnapshotError::TooLong(bytes.len()));
        }
        // The version first: a newer description may lack what is required below.
        let Version { version } = serde_json::from_slice(bytes)?;
        if version == 0 || version > SNAPSHOT_VERSION {
            return Err(SnapshotError::Version(version));
        }
        let snapshot: Snapshot = serde_json::from_slice(bytes)?;
        snapshot.check()?;
        Ok(snapshot)
    }

    /// The bytes of `snapshot.json`.
    pub fn to_json(&self) -> Vec<u8> {
        // Strings, numbers and lists of them: nothing that serialisation could refuse.
        let mut json = serde_json::to_vec_pretty(self).unwrap_or_default();
        json.push(b'\n');
        json
    }

    /// Where the WAL it needs begins: the start of a segment, because recovery reads whole ones.
    pub fn wal_begin(&self) -> Lsn {
        self.segment_size.start_of_segment_at(self.begin.lsn)
    }

    /// Whether it holds together; [`Snapshot::from_json`] gives only such.
    ///
    /// # Errors
    /// What contradicts what.
    pub fn check(&self) -> Result<(), SnapshotError> {
        let wrong = |reason| Err(SnapshotError::Wrong(reason));
        if self.begin.lsn >= self.end.lsn || self.begin.lsn == Lsn::INVALID {
            return wrong("it ends before it begins");
        }
        if self.begin.tli == Tli(0) || self.begin.tli > self.end.tli {
            return wrong("its TLIs are not in order");
        }
        let (Some(first), Some(last)) = (self.wal_ranges.first(), self.wal_ranges.last()) else {
            return wrong("it needs no WAL");
        };
        let contiguous = self.wal_ranges.windows(2).all(|two| two[0].end == two[1].begin && two[0].tli < two[1].tli);
        let ordered = self.wal_ranges.iter().all(|range| range.begin <= range.end);
        let ends = (first.begin, first.tli, last.end, last.tli)
            == (self.begin.lsn, self.begin.tli, self.end.lsn, self.end.tli);
        if !contiguous || !ordered || !ends {
            return wrong("its WAL ranges do not lead from its beginning to its end");
        }
        if self.begin_time > self.end_time {
            return wrong("its times are not in order");
        }
        let in_order = self.chunks.windows(2).all(|two| two[0].number.checked_add(1) == Some(two[1].number));
        if self.chunks.is_empty() || !in_order || self.chunks.iter().any(|chunk| chunk.number > MAX_CHUNK_NUMBER) {
            return wrong("its chunks are not numbered one after the other");
        }
        let mut total = 0u64;
        for chunk in &self.chunks {
            total = match total.checked_add(chunk.length) {
                Some(total) => total,
                None => return wrong("its chunks are larger than anything"),
            };
        }
        if total < self.bytes {
            return wrong("its chunks are smaller than its files");
        }
        if self
            .tablespaces
            .iter()
            .any(|space| space.oid == 0 || space.location.is_empty() || space.location.contains('\0'))
        {
            return wrong("a tablespace has no object id or no place");
        }
        Ok(())
    }
}

/// Numbers and positions as text: some exceed what JSON's numbers carry everywhere.
pub(crate) mod text {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};
    use std::fmt::Display;
    use std::str::FromStr;

    pub(crate) fn serialize<T: Display, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(value)
    }

    pub(crate) fn deserialize<'de, T, D>(deserializer: D) -> Result<T, D::Error>
    where
        T: FromStr<Err: Display>,
        D: Deserializer<'de>,
    {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

mod tli {
    use lsn::Tli;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(value: &Tli, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u32(value.0)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Tli, D::Error> {
        u32::deserialize(deserializer).map(Tli)
    }
}

mod segment_size {
    use lsn::SegmentSize;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(value: &SegmentSize, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(value.bytes())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SegmentSize, D::Error> {
        SegmentSize::new(u64::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

#[cfg(test)]
#[path = "snapshot_test.rs"]
mod tests;
