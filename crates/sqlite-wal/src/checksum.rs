//! The sum that chains a WAL together.
//!
//! Two 32-bit words. For every 8 bytes, read as two words `a` and `b` in the WAL's byte order: `s0 += a + s1`, then `s1 += b + s0`,
//! wrapping. Stored always big-endian.

/// How the words that are summed are read; the machine that began the WAL chose it, its magic number names it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ByteOrder {
    /// Magic number 0x377f0682.
    Little,
    /// Magic number 0x377f0683.
    Big,
}

/// The state of the sum, and what is stored of it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Checksum {
    /// The first word.
    pub s0: u32,
    /// The second word.
    pub s1: u32,
}

impl Checksum {
    /// The sum continued over `bytes`; of a length that is no multiple of 8 the rest is not summed (nothing in a WAL has one).
    #[must_use]
    pub fn over(self, order: ByteOrder, bytes: &[u8]) -> Checksum {
        debug_assert!(bytes.len().is_multiple_of(8), "{} bytes", bytes.len());
        let read = match order {
            ByteOrder::Little => u32::from_le_bytes,
            ByteOrder::Big => u32::from_be_bytes,
        };
        let (words, _) = bytes.as_chunks::<4>();
        let (pairs, _) = words.as_chunks::<2>();
        let Checksum { mut s0, mut s1 } = self;
        for [a, b] in pairs {
            s0 = s0.wrapping_add(read(*a)).wrapping_add(s1);
            s1 = s1.wrapping_add(read(*b)).wrapping_add(s0);
        }
        Checksum { s0, s1 }
    }

    /// As it is stored.
    pub fn to_bytes(self) -> [u8; 8] {
        ((u64::from(self.s0) << 32) | u64::from(self.s1)).to_be_bytes()
    }

    /// From how it is stored.
    pub fn from_bytes(bytes: [u8; 8]) -> Checksum {
        let both = u64::from_be_bytes(bytes);
        Checksum { s0: (both >> 32) as u32, s1: both as u32 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn of_a_known_header() {
        let bytes = [
            0x37, 0x7f, 0x06, 0x82, 0x00, 0x2d, 0xe2, 0x18, 0x00, 0x00, 0x10, 0x00, 0x00, 0x00, 0x00, 0x00, 0x52, 0x38,
            0x2e, 0xac, 0x85, 0x7b, 0x1a, 0x4e,
        ];
        let sum = Checksum::default().over(ByteOrder::Little, &bytes);
        assert_eq!(sum, Checksum { s0: 0x8115_3b65, s1: 0x8717_8e8f });
        assert_eq!(sum.to_bytes(), [0x81, 0x15, 0x3b, 0x65, 0x87, 0x17, 0x8e, 0x8f]);
    }

    proptest! {
        #[test]
        fn it_may_be_taken_in_parts(bytes in prop::collection::vec(any::<u8>(), 0..512), cut in 0usize..64, big: bool) {
            let bytes = &bytes[..bytes.len() / 8 * 8];
            let cut = (cut * 8).min(bytes.len());
            let order = if big { ByteOrder::Big } else { ByteOrder::Little };
            let whole = Checksum::default().over(order, bytes);
            let parts = Checksum::default().over(order, &bytes[..cut]).over(order, &bytes[cut..]);
            prop_assert_eq!(whole, parts);
            prop_assert_eq!(Checksum::from_bytes(whole.to_bytes()), whole);
        }
    }
}
