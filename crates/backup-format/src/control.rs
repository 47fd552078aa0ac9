//! [`ControlFile`]: what `global/pg_control` of PostgreSQL 13 to 18 says.
//!
//! The layout is `ControlFileData` of the server's `catalog/pg_control.h` as a 64-bit little-endian host lays it out; it has two
//! shapes here: versions 1300 (13 to 16) and 1700 (17), and version 1800 (18), a flag longer before the checksum. The CRC-32C at its end
//! is checked before anything is believed.

use lsn::{Lsn, SegmentSize, SystemId, Tli};
use std::fmt;

/// The file's size on disk; only the first 300 bytes or so mean something.
pub const CONTROL_FILE_SIZE: usize = 8192;

/// The state a data directory was left in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DbState {
    /// Being initialised.
    StartingUp,
    /// Cleanly shut down.
    ShutDown,
    /// Cleanly shut down as a standby.
    ShutDownInRecovery,
    /// Was shutting down.
    ShuttingDown,
    /// Was recovering from a crash.
    InCrashRecovery,
    /// Was recovering from an archive or streaming.
    InArchiveRecovery,
    /// Was running, or is.
    InProduction,
}

impl fmt::Display for DbState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DbState::StartingUp => "starting up",
            DbState::ShutDown => "shut down",
            DbState::ShutDownInRecovery => "shut down in recovery",
            DbState::ShuttingDown => "shutting down",
            DbState::InCrashRecovery => "in crash recovery",
            DbState::InArchiveRecovery => "in archive recovery",
            DbState::InProduction => "in production",
        })
    }
}

/// The part of `pg_control` that backup and restore need.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControlFile {
    /// The cluster.
    pub system_id: SystemId,
    /// Version of the file's layout: 1300, 1700 or 1800.
    pub control_version: u32,
    /// Version of the catalogs; names the major version, and stands in tablespace directory names.
    pub catalog_version: u32,
    /// How the directory was left.
    pub state: DbState,
    /// The last checkpoint record.
    pub checkpoint: Lsn,
    /// Where recovery from that checkpoint begins.
    pub redo: Lsn,
    /// The TLI of that checkpoint.
    pub tli: Tli,
    /// WAL must be replayed up to here before the directory is consistent; 0/0 outside archive recovery.
    pub min_recovery: Lsn,
    /// The TLI of [`ControlFile::min_recovery`]; 0 outside archive recovery.
    pub min_recovery_tli: Tli,
    /// Where the backup being recovered began; 0/0 if none is.
    pub backup_start: Lsn,
    /// Where the backup being recovered ended, if its control file tells (taken from a standby); else 0/0.
    pub backup_end: Lsn,
    /// Recovery still waits for the record that ends the backup.
    pub backup_end_required: bool,
    /// Bytes of a page.
    pub page_size: u32,
    /// Bytes of a WAL page.
    pub wal_page_size: u32,
    /// Bytes of a WAL segment.
    pub segment_size: SegmentSize,
    /// Pages carry checksums.
    pub page_checksums: bool,
    /// `max_connections` of the server that wrote it; a standby or recovery needs at least as much, here and below.
    pub max_connections: u32,
    /// `max_worker_processes`.
    pub max_worker_processes: u32,
    /// `max_wal_senders`.
    pub max_wal_senders: u32,
    /// `max_prepared_transactions`.
    pub max_prepared_xacts: u32,
    /// `max_locks_per_transaction`.
    pub max_locks_per_xact: u32,
}

/// Bytes that are not a `pg_control` we understand.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ControlError {
    /// Shorter than its content.
    #[error("pg_control has {0} bytes, fewer than its content takes")]
    TooShort(usize),
    /// Of a version before 13 or after 18, or of another byte order.
    #[error("pg_control is of layout version {0}; PostgreSQL 13 to 18 write 1300, 1700 and 1800")]
    Version(u32),
    /// Damaged.
    #[error("pg_control is damaged: its checksum is {calculated:08x} and not {stored:08x}")]
    Damaged {
        /// What it says.
        stored: u32,
        /// What its bytes give.
        calculated: u32,
    },
    /// Intact, and impossible.
    #[error("pg_control says {0}")]
    Impossible(&'static str),
}

impl ControlFile {
    /// Reads the file.
    pub fn parse(bytes: &[u8]) -> Result<ControlFile, ControlError> {
        let version = number(bytes, 8).ok_or(ControlError::TooShort(bytes.len()))?;
        let crc_at = match version {
            1300 | 1700 => 288,
            // A flag before the 32 bytes of nonce, and the alignment it costs.
            1800 => 292,
            other => return Err(ControlError::Version(other)),
        };
        let stored = number(bytes, crc_at).ok_or(ControlError::TooShort(bytes.len()))?;
        let calculated = crc32c::crc32c(&bytes[..crc_at]);
        if stored != calculated {
            return Err(ControlError::Damaged { stored, calculated });
        }
        // From here on the bytes are long enough and what a server wrote.
        let word = |at: usize| number(bytes, at).unwrap_or(0);
        let long = |at: usize| u64::from(word(at)) | u64::from(word(at + 4)) << 32;
        let flag = |at: usize| bytes.get(at).is_some_and(|byte| *byte != 0);
        let state = match word(16) {
            0 => DbState::StartingUp,
            1 => DbState::ShutDown,
            2 => DbState::ShutDownInRecovery,
            3 => DbState::ShuttingDown,
            4 => DbState::InCrashRecovery,
            5 => DbState::InArchiveRecovery,
            6 => DbState::InProduction,
            _ => return Err(ControlError::Impossible("that the server is in a state there is not")),
        };
        let segment_size = SegmentSize::new(u64::from(word(228)))
            .map_err(|_| ControlError::Impossible("that WAL segments have a size they cannot have"))?;
        Ok(ControlFile {
            system_id: SystemId(long(0)),
            control_version: version,
            catalog_version: word(12),
            state,
            checkpoint: Lsn(long(32)),
            redo: Lsn(long(40)),
            tli: Tli(word(48)),
            min_recovery: Lsn(long(136)),
            min_recovery_tli: Tli(word(144)),
            backup_start: Lsn(long(152)),
            backup_end: Lsn(long(160)),
            backup_end_required: flag(168),
            page_size: word(216),
            wal_page_size: word(224),
            segment_size,
            page_checksums: word(252) != 0,
            max_connections: word(180),
            max_worker_processes: word(184),
            max_wal_senders: word(188),
            max_prepared_xacts: word(192),
            max_locks_per_xact: word(196),
        })
    }
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The layout of a file with everything else zero and the checksum right.
    fn made(version: u32, crc_at: usize) -> Vec<u8> {
        let mut bytes = vec![0; CONTROL_FILE_SIZE];
        bytes[..8].copy_from_slice(&7_654_321_000_000_000_001u64.to_le_bytes());
        bytes[8..12].copy_from_slice(&version.to_le_bytes());
        bytes[16] = 6;
        bytes[48] = 2;
        bytes[228..232].copy_from_slice(&(1u32 << 20).to_le_bytes());
        bytes[252] = 1;
        let crc = crc32c::crc32c(&bytes[..crc_at]);
        bytes[crc_at..crc_at + 4].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    #[test]
    fn both_layouts() {
        for (version, crc_at) in [(1300, 288), (1700, 288), (1800, 292)] {
            let file = ControlFile::parse(&made(version, crc_at)).unwrap();
            assert_eq!(file.system_id, SystemId(7_654_321_000_000_000_001));
            assert_eq!((file.state, file.tli, file.page_checksums), (DbState::InProduction, Tli(2), true));
            assert_eq!(file.segment_size.bytes(), 1 << 20);
        }
    }

    #[test]
    fn any_flipped_bit_is_seen() {
        let good = made(1300, 288);
        for bit in 0..292 * 8 {
            let mut bytes = good.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(ControlFile::parse(&bytes).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn too_short_or_of_another_version() {
        let good = made(1300, 288);
        for length in [0, 8, 11, 100, 291] {
            assert_eq!(ControlFile::parse(&good[..length]), Err(ControlError::TooShort(length)));
        }
        assert_eq!(ControlFile::parse(&made(1201, 288)), Err(ControlError::Version(1201)));
    }
}
