//! Page sizes, and where frames stand in a WAL of such pages.

use crate::frame::FRAME_HEADER_LEN;
use crate::header::HEADER_LEN;

/// The size of a database's pages in bytes: a power of two from 512 to 65536.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PageSize(u32);

/// A number that is no page size.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0} is no SQLite page size (a power of two from 512 to 65536)")]
pub struct PageSizeError(pub u64);

impl PageSize {
    /// Takes a number of bytes.
    pub fn new(bytes: u32) -> Result<PageSize, PageSizeError> {
        match bytes.is_power_of_two() && (512..=65536).contains(&bytes) {
            true => Ok(PageSize(bytes)),
            false => Err(PageSizeError(u64::from(bytes))),
        }
    }

    /// Reads the field at offset 16 of a database file, which is 2 bytes and says 1 for 65536.
    pub fn of_database(field: [u8; 2]) -> Result<PageSize, PageSizeError> {
        match u16::from_be_bytes(field) {
            1 => Ok(PageSize(65536)),
            bytes => PageSize::new(u32::from(bytes)),
        }
    }

    /// Bytes of a page.
    pub fn bytes(self) -> u32 {
        self.0
    }

    /// Bytes of a page, as a length.
    pub fn len(self) -> usize {
        self.0 as usize
    }

    /// Never: a page has at least 512 bytes.
    pub fn is_empty(self) -> bool {
        false
    }

    /// Bytes of a frame: its header and a page.
    pub fn frame_len(self) -> usize {
        FRAME_HEADER_LEN + self.len()
    }

    /// Where frame `index` (the first is 0) begins, which is also the length of a WAL of `index` frames; saturates.
    pub fn frame_offset(self, index: u64) -> u64 {
        index.saturating_mul(self.frame_len() as u64).saturating_add(HEADER_LEN as u64)
    }

    /// The length without a last frame that is not whole; 0 if not even the header is there.
    pub fn align(self, len: u64) -> u64 {
        match len.checked_sub(HEADER_LEN as u64) {
            None => 0,
            Some(frames) => len - frames % self.frame_len() as u64,
        }
    }

    /// Whether a frame (or the WAL) can begin or end at this offset: 0, 32, or behind a whole frame.
    pub fn is_aligned(self, offset: u64) -> bool {
        self.align(offset) == offset
    }

    /// How many whole frames a WAL of this length has.
    pub fn frames_in(self, len: u64) -> u64 {
        len.saturating_sub(HEADER_LEN as u64) / self.frame_len() as u64
    }

    /// The page that holds byte 0x40000000, where SQLite's locks lie; it never has data.
    pub fn lock_page(self) -> u32 {
        0x4000_0000 / self.0 + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_powers_of_two_in_the_range() {
        for bytes in [512, 1024, 2048, 4096, 8192, 16384, 32768, 65536] {
            assert_eq!(PageSize::new(bytes).map(PageSize::bytes), Ok(bytes));
        }
        for bytes in [0, 1, 256, 513, 1000, 131072, u32::MAX] {
            assert_eq!(PageSize::new(bytes), Err(PageSizeError(u64::from(bytes))));
        }
        assert_eq!(PageSize::of_database([0, 1]).map(PageSize::bytes), Ok(65536));
        assert_eq!(PageSize::of_database([0x10, 0]).map(PageSize::bytes), Ok(4096));
        assert!(PageSize::of_database([0, 0]).is_err());
    }

    #[test]
    fn positions_beyond_four_gigabytes() {
        let size = PageSize::new(4096).unwrap();
        assert_eq!(size.frame_offset(0), 32);
        assert_eq!(size.frame_offset(1_100_000), 32 + 1_100_000 * 4120);
        assert!(size.frame_offset(1_100_000) > u64::from(u32::MAX));
        assert_eq!(size.align(size.frame_offset(1_100_000) + 4119), size.frame_offset(1_100_000));
        assert_eq!(size.frames_in(size.frame_offset(1_100_000) + 4119), 1_100_000);
        assert_eq!(size.frame_offset(u64::MAX), u64::MAX);
    }

    #[test]
    fn aligning_cuts_a_partial_frame_and_a_partial_header() {
        let size = PageSize::new(512).unwrap();
        assert_eq!([0, 31, 32, 33, 567, 568, 569].map(|len| size.align(len)), [0, 0, 32, 32, 32, 568, 568]);
        assert_eq!([0, 31, 32, 568].map(|len| size.is_aligned(len)), [true, false, true, true]);
    }

    #[test]
    fn the_lock_page() {
        assert_eq!(PageSize::new(4096).unwrap().lock_page(), 262_145);
        assert_eq!(PageSize::new(65536).unwrap().lock_page(), 16_385);
    }
}
