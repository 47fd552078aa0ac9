//! The 32 bytes a WAL begins with.

use crate::checksum::{ByteOrder, Checksum};
use crate::page_size::{PageSize, PageSizeError};

/// Bytes of a WAL's header.
pub const HEADER_LEN: usize = 32;

const MAGIC: u32 = 0x377f_0682;
const VERSION: u32 = 3_007_000;
/// How many of its bytes the header's sum covers.
const SUMMED: usize = 24;

/// Two words that differ between two lives of a WAL; every frame carries those of its life.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Salts(pub [u8; 8]);

impl Salts {
    /// The first word: one more in each life.
    pub fn first(self) -> u32 {
        (u64::from_be_bytes(self.0) >> 32) as u32
    }
}

/// A WAL's header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// How the checksums read their words.
    pub order: ByteOrder,
    /// Size of the pages in the frames.
    pub page_size: PageSize,
    /// One more each time the WAL begins anew.
    pub sequence: u32,
    /// What the frames of this life carry.
    pub salts: Salts,
}

/// Why 32 bytes are no header. For SQLite a WAL with such a header is empty.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum HeaderError {
    /// The first four bytes.
    #[error("the bytes are no SQLite WAL (magic number {0:#010x})")]
    Magic(u32),
    /// The version field.
    #[error("the WAL has format version {0}, only 3007000 is known")]
    Version(u32),
    /// The page size.
    #[error("the WAL's header is damaged: {0}")]
    PageSize(#[from] PageSizeError),
    /// The checksum.
    #[error("the WAL's header is damaged: its checksum does not match")]
    Checksum,
}

impl Header {
    /// Reads and checks a header.
    pub fn parse(bytes: &[u8; HEADER_LEN]) -> Result<Header, HeaderError> {
        let (words, _) = bytes.as_chunks::<4>();
        let word = |index: usize| u32::from_be_bytes(words[index]);
        let order = match word(0) {
            MAGIC => ByteOrder::Little,
            magic if magic == MAGIC + 1 => ByteOrder::Big,
            magic => return Err(HeaderError::Magic(magic)),
        };
        if word(1) != VERSION {
            return Err(HeaderError::Version(word(1)));
        }
        let (eights, _) = bytes.as_chunks::<8>();
        if Checksum::default().over(order, &bytes[..SUMMED]).to_bytes() != eights[3] {
            return Err(HeaderError::Checksum);
        }
        let page_size = PageSize::new(word(2))?;
        Ok(Header { order, page_size, sequence: word(3), salts: Salts(eights[2]) })
    }

    /// The header as SQLite writes it, with its checksum.
    pub fn encode(&self) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        let magic = match self.order {
            ByteOrder::Little => MAGIC,
            ByteOrder::Big => MAGIC + 1,
        };
        bytes[..4].copy_from_slice(&magic.to_be_bytes());
        bytes[4..8].copy_from_slice(&VERSION.to_be_bytes());
        bytes[8..12].copy_from_slice(&self.page_size.bytes().to_be_bytes());
        bytes[12..16].copy_from_slice(&self.sequence.to_be_bytes());
        bytes[16..24].copy_from_slice(&self.salts.0);
        let sum = Checksum::default().over(self.order, &bytes[..SUMMED]);
        bytes[SUMMED..].copy_from_slice(&sum.to_bytes());
        bytes
    }

    /// The sum that the first frame continues.
    pub fn checksum(&self) -> Checksum {
        Checksum::default().over(self.order, &self.encode()[..SUMMED])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(crate) fn any_header() -> impl Strategy<Value = Header> {
        (any::<bool>(), 9u32..=16, any::<u32>(), any::<[u8; 8]>()).prop_map(|(big, power, sequence, salts)| Header {
            order: if big { ByteOrder::Big } else { ByteOrder::Little },
            page_size: PageSize::new(1 << power).unwrap(),
            sequence,
            salts: Salts(salts),
        })
    }

    #[test]
    fn known_headers_in_both_orders() {
        for (order, last, sum) in [
            (ByteOrder::Little, 0x82, [0xdf, 0xce, 0x05, 0x14, 0xa6, 0xae, 0xe2, 0xbe]),
            (ByteOrder::Big, 0x83, [0x17, 0x06, 0xcd, 0xe2, 0xc2, 0xe5, 0xae, 0xaa]),
        ] {
            let page_size = PageSize::new(512).unwrap();
            let header = Header { order, page_size, sequence: 7, salts: Salts([1, 2, 3, 4, 5, 6, 7, 8]) };
            let bytes = header.encode();
            assert_eq!(bytes[3], last);
            assert_eq!(bytes[24..], sum);
            assert_eq!(header.checksum().to_bytes(), sum);
            assert_eq!(header.salts.first(), 0x0102_0304);
            assert_eq!(Header::parse(&bytes), Ok(header));
        }
    }

    #[test]
    fn a_page_of_65536_is_stored_as_the_plain_number() {
        let page_size = PageSize::new(65536).unwrap();
        let header = Header { order: ByteOrder::Big, page_size, sequence: 0, salts: Salts([0; 8]) };
        assert_eq!(header.encode()[8..12], [0, 1, 0, 0]);
        assert_eq!(Header::parse(&header.encode()), Ok(header));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let page_size = PageSize::new(512).unwrap();
        let good = Header { order: ByteOrder::Little, page_size, sequence: 7, salts: Salts([9; 8]) }.encode();
        let bad = |at: usize, byte: u8| {
            let mut bytes = good;
            bytes[at] = byte;
            Header::parse(&bytes)
        };
        assert_eq!(bad(0, 0), Err(HeaderError::Magic(0x007f_0682)));
        assert_eq!(bad(7, 0), Err(HeaderError::Version(0x002d_e200)));
        assert_eq!(bad(31, good[31] ^ 1), Err(HeaderError::Checksum));
        // A sum that fits bytes that do not: somebody wrote it on purpose.
        let mut bytes = good;
        bytes[11] = 3;
        let sum = Checksum::default().over(ByteOrder::Little, &bytes[..24]).to_bytes();
        bytes[24..].copy_from_slice(&sum);
        assert_eq!(Header::parse(&bytes), Err(HeaderError::PageSize(PageSizeError(515))));
    }

    proptest! {
        #[test]
        fn there_and_back(header in any_header()) {
            prop_assert_eq!(Header::parse(&header.encode()), Ok(header));
        }

        #[test]
        fn a_flipped_bit_is_seen(header in any_header(), bit in 0usize..256) {
            let mut bytes = header.encode();
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(Header::parse(&bytes).is_err());
        }

        #[test]
        fn any_bytes_are_survived(bytes: [u8; HEADER_LEN]) {
            let _ = Header::parse(&bytes);
        }
    }
}
