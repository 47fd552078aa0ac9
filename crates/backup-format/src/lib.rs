//! What a PostgreSQL base backup is made of, and how a snapshot of the archive holds it.
//!
//! Two families. What the server writes: [`Manifest`], [`BackupLabel`], [`TablespaceMap`], [`ControlFile`], and the checksum of a
//! [`page`]. What we write: [`Snapshot`], the description that makes a set of objects a snapshot, and [`chunk`], the bytes of one
//! such object.
//!
//! Bytes in, values out: nothing here reads a file, a clock or a socket. Every parser takes hostile input and answers with a sentence;
//! lengths are checked before memory is reserved.

#![cfg_attr(doctest, doc = include_str!("../README.md"))]

pub mod chunk;
mod control;
mod hex;
mod hold;
mod label;
mod manifest;
pub mod page;
mod path;
mod snapshot;

pub use chunk::{ChunkError, Kind, Part, combine_crc32c};
pub use control::{CONTROL_FILE_SIZE, ControlError, ControlFile, DbState};
pub use hold::{HOLD_LIFE, Hold, HoldError};
pub use label::{BackupLabel, LabelError, TablespaceMap};
pub use manifest::{Checksum, ChecksumAlgorithm, Hasher, MAX_MANIFEST, Manifest, ManifestError, ManifestFile};
pub use path::{DataPath, PathError};
pub use snapshot::{
    Blob, Chunk, DamagedPage, LsnOnTli, MAX_CHUNK_NUMBER, MAX_SNAPSHOT_JSON, SNAPSHOT_VERSION, Snapshot, SnapshotError,
    Tablespace, WalRange,
};
