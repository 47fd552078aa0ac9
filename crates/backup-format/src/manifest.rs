//! `backup_manifest`: every file of a base backup with its size and checksum, and the WAL the backup needs.
//!
//! JSON as the server's `basebackup`/`backup_manifest.c` writes it, version 1 (13 to 16) and 2 (17 and later). The last line holds the
//! SHA-256 of all before it and is checked before anything is believed. CRC-32C values are printed least significant byte first.

use crate::hex;
use crate::path::{DataPath, PathError};
use crate::snapshot::WalRange;
use lsn::{Lsn, SystemId, Tli};
use serde::Deserialize;
use sha2::{Digest, Sha224, Sha256, Sha384, Sha512};
use std::fmt;

/// Longest manifest that is read: some six million files.
pub const MAX_MANIFEST: usize = 1 << 30;

/// A parsed manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// 1 or 2.
    pub version: u32,
    /// The cluster; written from version 2 on.
    pub system_id: Option<SystemId>,
    /// The files, in the order they were sent.
    pub files: Vec<ManifestFile>,
    /// The WAL needed, oldest first: one range per TLI.
    pub wal_ranges: Vec<WalRange>,
}

/// One file of a manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestFile {
    /// Where it lies.
    pub path: DataPath,
    /// Bytes.
    pub size: u64,
    /// Modification time as the server prints it: `2024-05-01 10:00:00 GMT`.
    pub last_modified: String,
    /// Over its bytes.
    pub checksum: Checksum,
}

/// How the files of a backup are checksummed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ChecksumAlgorithm {
    /// Not at all.
    None,
    /// CRC-32C, the server's default.
    #[default]
    Crc32c,
    /// SHA-224.
    Sha224,
    /// SHA-256.
    Sha256,
    /// SHA-384.
    Sha384,
    /// SHA-512.
    Sha512,
}

/// A file's checksum.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Checksum {
    /// There is none.
    None,
    /// CRC-32C.
    Crc32c(u32),
    /// SHA-224.
    Sha224([u8; 28]),
    /// SHA-256.
    Sha256([u8; 32]),
    /// SHA-384.
    Sha384([u8; 48]),
    /// SHA-512.
    Sha512([u8; 64]),
}

/// Bytes that are not a manifest we believe.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// Longer than 1 GiB.
    #[error("the backup manifest has {0} bytes, more than the 1073741824 that are read")]
    TooLong(usize),
    /// Not the JSON it should be.
    #[error("the backup manifest cannot be read")]
    Json(#[from] serde_json::Error),
    /// A version we do not know.
    #[error("the backup manifest is of version {0}; 1 and 2 are known")]
    Version(u32),
    /// No last line with a checksum.
    #[error("the backup manifest ends without its checksum: it is not complete")]
    NoChecksum,
    /// Changed after it was written.
    #[error("the backup manifest is damaged: its checksum is not that of its bytes")]
    Damaged,
    /// A file's name.
    #[error("file {0} of the backup manifest has an unusable name")]
    Path(usize, #[source] PathError),
    /// An entry that makes no sense.
    #[error("file {index} of the backup manifest is wrong: {reason}")]
    File {
        /// Which, from 0.
        index: usize,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A WAL range that makes no sense.
    #[error("WAL range {0} of the backup manifest is wrong")]
    WalRange(usize),
}

#[derive(Deserialize)]
struct Raw {
    #[serde(rename = "PostgreSQL-Backup-Manifest-Version")]
    version: u32,
    #[serde(rename = "System-Identifier")]
    system_id: Option<u64>,
    #[serde(rename = "Files")]
    files: Vec<RawFile>,
    #[serde(rename = "WAL-Ranges")]
    wal_ranges: Vec<RawRange>,
}

#[derive(Deserialize)]
struct RawFile {
    #[serde(rename = "Path")]
    path: Option<String>,
    #[serde(rename = "Encoded-Path")]
    encoded_path: Option<String>,
    #[serde(rename = "Size")]
    size: u64,
    #[serde(rename = "Last-Modified", default)]
    last_modified: String,
    #[serde(rename = "Checksum-Algorithm")]
    algorithm: Option<String>,
    #[serde(rename = "Checksum")]
    checksum: Option<String>,
}

#[derive(Deserialize)]
struct RawRange {
    #[serde(rename = "Timeline")]
    tli: u32,
    #[serde(rename = "Start-LSN")]
    begin: String,
    #[serde(rename = "End-LSN")]
    end: String,
}

impl Manifest {
    /// Reads a manifest and checks its own checksum.
    pub fn parse(bytes: &[u8]) -> Result<Manifest, ManifestError> {
        if bytes.len() > MAX_MANIFEST {
            return Err(ManifestError::TooLong(bytes.len()));
        }
        verify_own_checksum(bytes)?;
        let raw: Raw = serde_json::from_slice(bytes)?;
        if !(1..=2).contains(&raw.version) {
            return Err(ManifestError::Version(raw.version));
        }
        let files =
            raw.files.into_iter().enumerate().map(|(index, file)| parse_file(index, file)).collect::<Result<_, _>>()?;
        let wal_ranges = raw.wal_ranges.iter().enumerate().map(|(index, range)| {
            let position = |text: &str| text.parse::<Lsn>().map_err(|_| ManifestError::WalRange(index));
            let range = WalRange { tli: Tli(range.tli), begin: position(&range.begin)?, end: position(&range.end)? };
            (range.begin <= range.end && range.tli != Tli(0)).then_some(range).ok_or(ManifestError::WalRange(index))
        });
        let mut wal_ranges: Vec<WalRange> = wal_ranges.collect::<Result<_, _>>()?;
        // The server lists the newest TLI first.
        wal_ranges.sort_by_key(|range| (range.tli, range.begin));
        Ok(Manifest { version: raw.version, system_id: raw.system_id.map(SystemId), files, wal_ranges })
    }
}

/// The last line holds the SHA-256 of everything before that line.
fn verify_own_checksum(bytes: &[u8]) -> Result<(), ManifestError> {
    let body = bytes.strip_suffix(b"\n").ok_or(ManifestError::NoChecksum)?;
    let last_line = body.iter().rposition(|&byte| byte == b'\n').ok_or(ManifestError::NoChecksum)? + 1;
    let stored = std::str::from_utf8(&body[last_line..])
        .ok()
        .and_then(|line| line.strip_prefix("\"Manifest-Checksum\": \"")?.strip_suffix("\"}"))
        .and_then(hex::decode_array::<32>)
        .ok_or(ManifestError::NoChecksum)?;
    let calculated: [u8; 32] = Sha256::digest(&bytes[..last_line]).into();
    if stored == calculated { Ok(()) } else { Err(ManifestError::Damaged) }
}

fn parse_file(index: usize, raw: RawFile) -> Result<ManifestFile, ManifestError> {
    let wrong = |reason| ManifestError::File { index, reason };
    let path = match (raw.path, raw.encoded_path) {
        (Some(path), None) => path.into_bytes(),
        (None, Some(encoded)) => hex::decode(&encoded).ok_or_else(|| wrong("its name is not hexadecimal"))?,
        _ => return Err(wrong("it has no name, or two")),
    };
    let checksum = match (raw.algorithm, raw.checksum) {
        (None, None) => Checksum::None,
        (Some(algorithm), Some(checksum)) => parse_checksum(&algorithm, &checksum)
            .ok_or_else(|| wrong("its checksum is not what its algorithm gives"))?,
        _ => return Err(wrong("it has half a checksum")),
    };
    let path = DataPath::parse(path).map_err(|source| ManifestError::Path(index, source))?;
    Ok(ManifestFile { path, size: raw.size, last_modified: raw.last_modified, checksum })
}

fn parse_checksum(algorithm: &str, text: &str) -> Option<Checksum> {
    Some(match algorithm {
        "CRC32C" => Checksum::Crc32c(u32::from_le_bytes(hex::decode_array(text)?)),
        "SHA224" => Checksum::Sha224(hex::decode_array(text)?),
        "SHA256" => Checksum::Sha256(hex::decode_array(text)?),
        "SHA384" => Checksum::Sha384(hex::decode_array(text)?),
        "SHA512" => Checksum::Sha512(hex::decode_array(text)?),
        _ => return None,
    })
}

impl ChecksumAlgorithm {
    /// Its name in BASE_BACKUP's `MANIFEST_CHECKSUMS` and in a manifest.
    pub fn name(self) -> &'static str {
        match self {
            ChecksumAlgorithm::None => "NONE",
            ChecksumAlgorithm::Crc32c => "CRC32C",
            ChecksumAlgorithm::Sha224 => "SHA224",
            ChecksumAlgorithm::Sha256 => "SHA256",
            ChecksumAlgorithm::Sha384 => "SHA384",
            ChecksumAlgorithm::Sha512 => "SHA512",
        }
    }
}

impl Checksum {
    /// How it was calculated.
    pub fn algorithm(&self) -> ChecksumAlgorithm {
        match self {
            Checksum::None => ChecksumAlgorithm::None,
            Checksum::Crc32c(_) => ChecksumAlgorithm::Crc32c,
            Checksum::Sha224(_) => ChecksumAlgorithm::Sha224,
            Checksum::Sha256(_) => ChecksumAlgorithm::Sha256,
            Checksum::Sha384(_) => ChecksumAlgorithm::Sha384,
            Checksum::Sha512(_) => ChecksumAlgorithm::Sha512,
        }
    }
}

impl fmt::Debug for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = |bytes: &[u8]| {
            write!(f, "{}:", self.algorithm().name())?;
            bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
        };
        match self {
            Checksum::None => bytes(&[]),
            Checksum::Crc32c(crc) => bytes(&crc.to_le_bytes()),
            Checksum::Sha224(digest) => bytes(digest),
            Checksum::Sha256(digest) => bytes(digest),
            Checksum::Sha384(digest) => bytes(digest),
            Checksum::Sha512(digest) => bytes(digest),
        }
    }
}

/// A file's checksum while its bytes go by.
#[derive(Debug, Clone)]
pub struct Hasher(State);

#[derive(Debug, Clone)]
enum State {
    None,
    Crc32c(u32),
    Sha224(Sha224),
    Sha256(Sha256),
    Sha384(Sha384),
    Sha512(Sha512),
}

impl Hasher {
    /// Over no bytes yet.
    pub fn new(algorithm: ChecksumAlgorithm) -> Hasher {
        Hasher(match algorithm {
            ChecksumAlgorithm::None => State::None,
            ChecksumAlgorithm::Crc32c => State::Crc32c(0),
            ChecksumAlgorithm::Sha224 => State::Sha224(Sha224::new()),
            ChecksumAlgorithm::Sha256 => State::Sha256(Sha256::new()),
            ChecksumAlgorithm::Sha384 => State::Sha384(Sha384::new()),
            ChecksumAlgorithm::Sha512 => State::Sha512(Sha512::new()),
        })
    }

    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        match &mut self.0 {
            State::None => {}
            State::Crc32c(crc) => *crc = crc32c::crc32c_append(*crc, bytes),
            State::Sha224(sha) => sha.update(bytes),
            State::Sha256(sha) => sha.update(bytes),
            State::Sha384(sha) => sha.update(bytes),
            State::Sha512(sha) => sha.update(bytes),
        }
    }

    /// The checksum of all bytes taken.
    pub fn finish(self) -> Checksum {
        match self.0 {
            State::None => Checksum::None,
            State::Crc32c(crc) => Checksum::Crc32c(crc),
            State::Sha224(sha) => Checksum::Sha224(sha.finalize().into()),
            State::Sha256(sha) => Checksum::Sha256(sha.finalize().into()),
            State::Sha384(sha) => Checksum::Sha384(sha.finalize().into()),
            State::Sha512(sha) => Checksum::Sha512(sha.finalize().into()),
        }
    }
}

#[cfg(test)]
#[path = "manifest_test.rs"]
mod tests;
