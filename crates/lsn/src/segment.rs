//! [`SegmentSize`] and [`SegmentNumber`]: how the WAL is cut into files.
//!
//! Names follow PostgreSQL: 8 hex digits of TLI, 8 of the 4 GiB block, 8 of the segment within that block.

use crate::{Lsn, Tli};
use std::fmt;
use std::str::FromStr;

/// Bytes of one WAL page (`XLOG_BLCKSZ` of a stock build).
pub const WAL_PAGE_SIZE: u64 = 8192;

/// Bytes in one WAL segment file: a power of two from 1 MiB to 1 GiB, fixed when the cluster was created.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SegmentSize(u32);

/// A number that cannot be a segment size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0} is not a WAL segment size: PostgreSQL knows powers of two from 1 MB to 1 GB")]
pub struct SegmentSizeError(String);

impl SegmentSize {
    /// 16 MiB, what initdb takes unless told otherwise.
    pub const DEFAULT: SegmentSize = SegmentSize(16 << 20);

    /// Checks a number of bytes.
    pub fn new(bytes: u64) -> Result<Self, SegmentSizeError> {
        match u32::try_from(bytes) {
            Ok(size) if size.is_power_of_two() && (1 << 20..=1 << 30).contains(&size) => Ok(SegmentSize(size)),
            _ => Err(SegmentSizeError(bytes.to_string())),
        }
    }

    /// Bytes in one segment.
    pub fn bytes(self) -> u64 {
        u64::from(self.0)
    }

    /// Bytes in one segment, as the wire and long page headers carry it.
    pub fn as_u32(self) -> u32 {
        self.0
    }

    /// The segment that holds the byte at `position`.
    pub fn segment_of(self, position: Lsn) -> SegmentNumber {
        SegmentNumber(position.0 / self.bytes())
    }

    /// How far into its segment `position` lies, in bytes.
    pub fn offset_of(self, position: Lsn) -> u64 {
        position.0 % self.bytes()
    }

    /// First byte of a segment, held at the top of the range.
    pub fn start_of(self, segment: SegmentNumber) -> Lsn {
        Lsn(segment.0.saturating_mul(self.bytes()))
    }

    /// First byte of the segment that holds `position`.
    pub fn start_of_segment_at(self, position: Lsn) -> Lsn {
        position.align_down(self.bytes())
    }

    /// The 24-digit file name of a segment on a TLI.
    pub fn file_name(self, tli: Tli, segment: SegmentNumber) -> String {
        let per_block = 0x1_0000_0000 / self.bytes();
        format!("{:08X}{:08X}{:08X}", tli.0, segment.0 / per_block, segment.0 % per_block)
    }

    /// Reads a segment file name back; `None` if it is not one (wrong length, lower-case digits, impossible number).
    pub fn parse_file_name(self, name: &str) -> Option<(Tli, SegmentNumber)> {
        let upper_hex = |b: u8| b.is_ascii_digit() || (b'A'..=b'F').contains(&b);
        if name.len() != 24 || !name.bytes().all(upper_hex) {
            return None;
        }
        let part = |range: std::ops::Range<usize>| u32::from_str_radix(name.get(range)?, 16).ok();
        let (tli, block, within) = (part(0..8)?, part(8..16)?, part(16..24)?);
        let per_block = 0x1_0000_0000 / self.bytes();
        (tli != 0 && u64::from(within) < per_block)
            .then(|| (Tli(tli), SegmentNumber(u64::from(block) * per_block + u64::from(within))))
    }
}

impl Default for SegmentSize {
    fn default() -> Self {
        Self::DEFAULT
    }
}

impl fmt::Display for SegmentSize {
    /// As `SHOW wal_segment_size` prints it: `16MB`, `1GB`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 1 << 30 { write!(f, "1GB") } else { write!(f, "{}MB", self.0 >> 20) }
    }
}

impl FromStr for SegmentSize {
    type Err = SegmentSizeError;

    /// Reads what `SHOW wal_segment_size` prints (`16MB`, `1GB`) or a plain number of bytes.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (digits, unit) = if let Some(digits) = text.strip_suffix("MB") {
            (digits, 1 << 20)
        } else if let Some(digits) = text.strip_suffix("GB") {
            (digits, 1 << 30)
        } else {
            (text, 1)
        };
        let error = || SegmentSizeError(text.chars().take(40).collect());
        let bytes = digits.parse::<u64>().ok().and_then(|n| n.checked_mul(unit)).ok_or_else(error)?;
        SegmentSize::new(bytes)
    }
}

/// The number of a segment: its first byte's LSN divided by the segment size.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SegmentNumber(pub u64);

impl SegmentNumber {
    /// The segment after this one, held at the top of the range.
    pub fn next(self) -> SegmentNumber {
        SegmentNumber(self.0.saturating_add(1))
    }

    /// The segment before this one; `None` for the first.
    pub fn previous(self) -> Option<SegmentNumber> {
        self.0.checked_sub(1).map(SegmentNumber)
    }
}

impl fmt::Display for SegmentNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_follow_postgresql() {
        let size = SegmentSize::DEFAULT;
        let segment = size.segment_of(Lsn(0x1_0300_0028));
        assert_eq!(size.file_name(Tli(1), segment), "000000010000000100000003");
        assert_eq!(size.parse_file_name("000000010000000100000003"), Some((Tli(1), segment)));
        let gigabyte = SegmentSize::new(1 << 30).unwrap();
        assert_eq!(gigabyte.file_name(Tli(2), SegmentNumber(7)), "000000020000000100000003");
    }

    #[test]
    fn refuses_other_names() {
        let size = SegmentSize::DEFAULT;
        for name in [
            "",
            "00000001000000010000000",
            "0000000100000001000000030",
            "00000001000000010000000a",
            "000000010000000100000100",
            "000000000000000100000003",
            "00000001.history",
            "000000010000000100000003.partial",
        ] {
            assert_eq!(size.parse_file_name(name), None, "{name}");
        }
    }

    #[test]
    fn sizes_are_powers_of_two_in_range() {
        for bytes in [0, 1, 1 << 19, (1 << 20) + 1, 3 << 20, 1 << 31, 1 << 32, u64::MAX] {
            assert!(SegmentSize::new(bytes).is_err(), "{bytes}");
        }
        assert_eq!("16MB".parse::<SegmentSize>().unwrap(), SegmentSize::DEFAULT);
        assert_eq!("1GB".parse::<SegmentSize>().unwrap().bytes(), 1 << 30);
        assert!("99999999999999999999GB".parse::<SegmentSize>().is_err());
    }

    proptest! {
        #[test]
        fn name_round_trip(tli in 1u32.., position: u64, power in 20u32..=30) {
            let size = SegmentSize::new(1 << power).unwrap();
            let segment = size.segment_of(Lsn(position));
            prop_assert_eq!(size.parse_file_name(&size.file_name(Tli(tli), segment)), Some((Tli(tli), segment)));
            prop_assert_eq!(size.start_of(segment), size.start_of_segment_at(Lsn(position)));
            prop_assert_eq!(size.to_string().parse::<SegmentSize>().unwrap(), size);
        }
    }
}
