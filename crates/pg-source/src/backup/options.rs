//! [`BackupOptions`]: what to take a backup of, and how hard to press the server.

use super::error::BackupError;
use backup_format::ChecksumAlgorithm;
use pg_conn::ConnInfo;
use std::ops::RangeInclusive;

/// KiB per second the server takes for `MAX_RATE`.
const RATES: RangeInclusive<u32> = 32..=1_048_576;
/// Longest label; the server's limit.
const MAX_LABEL: usize = 1023;

/// How to take a backup.
#[derive(Clone, Debug)]
pub struct BackupOptions {
    /// The server, a primary or a standby; of several hosts the first that will do.
    pub conninfo: ConnInfo,
    /// Stands in `backup_label`; printable, at most 1023 bytes.
    pub label: String,
    /// Begin with a checkpoint as fast as the disks allow, instead of spread over minutes.
    pub fast_checkpoint: bool,
    /// At most so many KiB per second, 32 to 1048576; `None`: as fast as it goes.
    pub max_rate: Option<u32>,
    /// Also copy the WAL the backup needs, so that it restores without an archive.
    pub include_wal: bool,
    /// Keep that WAL on the server by a temporary slot until [`super::Finished::pin`] is dropped.
    pub pin_wal: bool,
    /// How the manifest's files are checksummed.
    pub manifest_checksums: ChecksumAlgorithm,
}

impl BackupOptions {
    /// The usual way: a fast checkpoint, no limit, the WAL pinned.
    pub fn new(conninfo: ConnInfo) -> BackupOptions {
        BackupOptions {
            conninfo,
            label: "seawall".to_owned(),
            fast_checkpoint: true,
            max_rate: None,
            include_wal: false,
            pin_wal: true,
            manifest_checksums: ChecksumAlgorithm::Crc32c,
        }
    }

    /// The same, found usable.
    pub(super) fn checked(&self) -> Result<BackupOptions, BackupError> {
        if self.label.len() > MAX_LABEL || self.label.chars().any(char::is_control) {
            return Err(BackupError::Label);
        }
        match self.max_rate {
            Some(rate) if !RATES.contains(&rate) => Err(BackupError::Rate(rate)),
            _ => Ok(self.clone()),
        }
    }
}
