//! The 24-byte header of a WAL record, its checksum, and the few record kinds that matter below the resource managers.
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 4 | total length, header included |
//! | 4 | 4 | transaction id |
//! | 8 | 8 | start of the previous record |
//! | 16 | 1 | info; the high nibble belongs to the resource manager |
//! | 17 | 1 | resource manager |
//! | 18 | 2 | padding |
//! | 20 | 4 | CRC-32C over the bytes from 24 on, then over bytes 0 to 19 |
//!
//! Source: PostgreSQL's `access/xlogrecord.h`.

use crate::array;
use lsn::Lsn;

/// Bytes of a record header.
pub const RECORD_HEADER: usize = 24;
/// Bytes of the header that the checksum covers.
pub const CHECKED_HEADER: usize = 20;
/// Records start at multiples of this.
pub const ALIGNMENT: u64 = 8;
/// The shortest total length: a header alone.
pub const MIN_TOTAL_LEN: u32 = RECORD_HEADER as u32;
/// The longest total length PostgreSQL writes (1020 MiB).
pub const MAX_TOTAL_LEN: u32 = 1020 << 20;

/// Resource manager of the log itself.
pub const RMGR_XLOG: u8 = 0;
/// Resource manager of transactions: commits and aborts.
pub const RMGR_TRANSACTION: u8 = 1;
/// Resource manager of logical messages, the last built-in one: records that change nothing.
pub const RMGR_LOGICAL_MESSAGE: u8 = 21;

/// The part of `info` that names the kind of an XLOG record.
pub const XLOG_INFO_MASK: u8 = 0xF0;
/// XLOG: checkpoint at shutdown.
pub const XLOG_CHECKPOINT_SHUTDOWN: u8 = 0x00;
/// XLOG: checkpoint while running.
pub const XLOG_CHECKPOINT_ONLINE: u8 = 0x10;
/// XLOG: the rest of the segment is zeros.
pub const XLOG_SWITCH: u8 = 0x40;
/// XLOG: end of a base backup.
pub const XLOG_BACKUP_END: u8 = 0x50;
/// XLOG: named restore point.
pub const XLOG_RESTORE_POINT: u8 = 0x70;
/// XLOG: a new TLI begins.
pub const XLOG_END_OF_RECOVERY: u8 = 0x90;
/// XLOG: names the unfinished record that this one replaces.
pub const XLOG_OVERWRITE_CONTRECORD: u8 = 0xD0;
/// XLOG, from 17 on: where an online checkpoint's redo begins.
pub const XLOG_CHECKPOINT_REDO: u8 = 0xE0;

/// The part of `info` that names the kind of a transaction record.
pub const TRANSACTION_INFO_MASK: u8 = 0x70;
/// Transaction: commit.
pub const TRANSACTION_COMMIT: u8 = 0x00;
/// Transaction: abort.
pub const TRANSACTION_ABORT: u8 = 0x20;
/// Transaction: commit of a prepared transaction.
pub const TRANSACTION_COMMIT_PREPARED: u8 = 0x30;
/// Transaction: abort of a prepared transaction.
pub const TRANSACTION_ABORT_PREPARED: u8 = 0x40;

/// A record header, parsed but not judged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RecordHeader {
    /// Bytes of the record with its header, without padding and page headers.
    pub total_len: u32,
    /// Transaction id; 0 for none.
    pub xid: u32,
    /// Start of the record before this one.
    pub prev: Lsn,
    /// Kind and flags.
    pub info: u8,
    /// Resource manager.
    pub rmgr: u8,
    /// The checksum the record carries.
    pub crc: u32,
}

impl RecordHeader {
    /// Reads a header; any bit pattern parses.
    pub fn parse(bytes: &[u8; RECORD_HEADER]) -> RecordHeader {
        RecordHeader {
            total_len: u32::from_le_bytes(array(bytes, 0)),
            xid: u32::from_le_bytes(array(bytes, 4)),
            prev: Lsn(u64::from_le_bytes(array(bytes, 8))),
            info: array::<1>(bytes, 16)[0],
            rmgr: array::<1>(bytes, 17)[0],
            crc: u32::from_le_bytes(array(bytes, 20)),
        }
    }

    /// The header's bytes, `crc` as it stands.
    pub fn encode(&self) -> [u8; RECORD_HEADER] {
        let mut bytes = [0; RECORD_HEADER];
        bytes[0..4].copy_from_slice(&self.total_len.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.xid.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.prev.0.to_le_bytes());
        bytes[16] = self.info;
        bytes[17] = self.rmgr;
        bytes[20..24].copy_from_slice(&self.crc.to_le_bytes());
        bytes
    }

    /// Whether this is an XLOG record of the given kind.
    pub fn is_xlog(&self, kind: u8) -> bool {
        self.rmgr == RMGR_XLOG && self.info & XLOG_INFO_MASK == kind
    }

    /// Whether the rest of the segment behind this record is zeros.
    pub fn is_switch(&self) -> bool {
        self.is_xlog(XLOG_SWITCH)
    }
}

/// The checksum of a record: CRC-32C over the bytes behind the header, then over the header's first 20.
pub fn checksum(header: &[u8; RECORD_HEADER], body: &[u8]) -> u32 {
    finish_checksum(header, crc32c::crc32c(body))
}

/// The checksum of a record from the CRC-32C of the bytes behind its header, for callers that computed it piece by piece.
pub fn finish_checksum(header: &[u8; RECORD_HEADER], body_crc: u32) -> u32 {
    crc32c::crc32c_append(body_crc, &header[..CHECKED_HEADER])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_crc_is_castagnoli() {
        assert_eq!(crc32c::crc32c(b"123456789"), 0xE306_9283);
    }

    #[test]
    fn kinds() {
        let header = RecordHeader { total_len: 24, xid: 0, prev: Lsn(0), info: 0x41, rmgr: 0, crc: 0 };
        assert!(header.is_switch());
        assert!(!RecordHeader { rmgr: 1, ..header }.is_switch());
        assert!(RecordHeader { info: 0xD0, ..header }.is_xlog(XLOG_OVERWRITE_CONTRECORD));
        assert_eq!(MAX_TOTAL_LEN, 1_069_547_520);
    }

    proptest! {
        #[test]
        fn header_round_trip(mut bytes: [u8; RECORD_HEADER]) {
            bytes[18..20].fill(0);
            prop_assert_eq!(RecordHeader::parse(&bytes).encode(), bytes);
        }
    }
}
