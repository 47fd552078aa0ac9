//! [`Lsn`]: a byte position in the WAL.

use std::fmt;
use std::str::FromStr;

/// A byte position in the write-ahead log, counted from the beginning of the cluster's life. 0 means "no position".
///
/// Prints and parses PostgreSQL's text form: two hexadecimal halves without leading zeros, `16/B374D848`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Lsn(pub u64);

impl Lsn {
    /// No position: what PostgreSQL prints as `0/0`.
    pub const INVALID: Lsn = Lsn(0);
    /// The highest position that can be written down.
    pub const MAX: Lsn = Lsn(u64::MAX);

    /// Whether this is a real position (anything but `0/0`).
    pub fn is_valid(self) -> bool {
        self.0 != 0
    }

    /// The position `bytes` further on; `None` past the end of the 64-bit range.
    pub fn checked_add(self, bytes: u64) -> Option<Lsn> {
        self.0.checked_add(bytes).map(Lsn)
    }

    /// The position `bytes` further on, held at [`Lsn::MAX`].
    pub fn saturating_add(self, bytes: u64) -> Lsn {
        Lsn(self.0.saturating_add(bytes))
    }

    /// How many bytes lie between `earlier` and this position; 0 if `earlier` is not earlier.
    pub fn bytes_since(self, earlier: Lsn) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// This position rounded up to a multiple of `alignment`, a power of two; held at the highest such multiple.
    pub fn align_up(self, alignment: u64) -> Lsn {
        debug_assert!(alignment.is_power_of_two());
        let mask = alignment - 1;
        Lsn(self.0.saturating_add(mask) & !mask)
    }

    /// This position rounded down to a multiple of `alignment`, a power of two.
    pub fn align_down(self, alignment: u64) -> Lsn {
        debug_assert!(alignment.is_power_of_two());
        Lsn(self.0 & !(alignment - 1))
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

impl fmt::Debug for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Text that is not an LSN.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an LSN: expected two hexadecimal numbers like 16/B374D848")]
pub struct ParseLsnError(String);

impl FromStr for Lsn {
    type Err = ParseLsnError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let half = |digits: &str| {
            let plausible = (1..=8).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_hexdigit());
            plausible.then(|| u64::from_str_radix(digits, 16).ok()).flatten()
        };
        text.split_once('/')
            .and_then(|(high, low)| Some(Lsn((half(high)? << 32) | half(low)?)))
            .ok_or_else(|| ParseLsnError(text.chars().take(40).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn prints_like_postgresql() {
        assert_eq!(Lsn(0x16_B374_D848).to_string(), "16/B374D848");
        assert_eq!(Lsn(0).to_string(), "0/0");
        assert_eq!(Lsn(0x1_0000_0000).to_string(), "1/0");
    }

    #[test]
    fn refuses_what_postgresql_would_not_print() {
        for text in ["", "/", "1", "1/", "/1", "1/2/3", "G/0", "123456789/0", "0/123456789", "+1/0", " 1/0", "-1/0"] {
            assert!(text.parse::<Lsn>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn rounding_never_overflows() {
        assert_eq!(Lsn(9).align_up(8), Lsn(16));
        assert_eq!(Lsn(16).align_up(8), Lsn(16));
        assert_eq!(Lsn(u64::MAX).align_up(8), Lsn(u64::MAX - 7));
        assert_eq!(Lsn(23).align_down(8), Lsn(16));
    }

    proptest! {
        #[test]
        fn text_round_trip(value: u64) {
            prop_assert_eq!(Lsn(value).to_string().parse::<Lsn>().unwrap(), Lsn(value));
        }

        #[test]
        fn parsing_never_panics(text in ".{0,40}") {
            let _ = text.parse::<Lsn>();
        }
    }
}
