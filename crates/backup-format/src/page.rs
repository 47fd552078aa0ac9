//! The checksum on a page of a relation file.
//!
//! The algorithm is PostgreSQL's since 9.3 (its `storage/checksum_impl.h`): 32 interleaved FNV-1a-like sums over the page as columns of
//! 32-bit words, with the checksum field as zero, folded together with the block number. Numbers are little-endian: PostgreSQL's
//! native order, and so the order of the hosts we run on.

/// Bytes of a page. Servers built with another size are refused before they are backed up.
pub const PAGE_SIZE: usize = 8192;
/// Offset of the 16-bit checksum in the page's header.
const CHECKSUM_AT: usize = 8;
/// Offset of `pd_upper`; zero on a page that was never initialised.
const UPPER_AT: usize = 14;
const SUMS: usize = 32;
const PRIME: u32 = 16_777_619;
/// Where the 32 sums begin, so that equal columns give different sums.
const OFFSETS: [u32; SUMS] = [
    0x5B1F_36E9,
    0xB852_5960,
    0x02AB_50AA,
    0x1DE6_6D2A,
    0x79FF_467A,
    0x9BB9_F8A3,
    0x217E_7CD2,
    0x83E1_3D2C,
    0xF8D4_474F,
    0xE39E_B970,
    0x42C6_AE16,
    0x9932_16FA,
    0x7B09_3B5D,
    0x98DA_FF3C,
    0xF718_902A,
    0x0B1C_9CDB,
    0xE58F_764B,
    0x1876_36BC,
    0x5D7B_3BB1,
    0xE73D_E7DE,
    0x92BE_C979,
    0xCCA6_C0B2,
    0x304A_0979,
    0x85AA_43D4,
    0x7831_25BB,
    0x6CA8_EAA2,
    0xE407_EAC6,
    0x4B5C_FC3E,
    0x9FBF_8C76,
    0x15CA_20BE,
    0xF2CA_9FD3,
    0x959B_D756,
];

/// What a look at a page's checksum says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PageState {
    /// The checksum is right.
    Valid,
    /// Never initialised: such a page carries no checksum. PostgreSQL takes it for one when `pd_upper` is zero.
    New,
    /// The bytes are not what was written, or another block's.
    Wrong {
        /// What the page says.
        stored: u16,
        /// What its bytes give.
        calculated: u16,
    },
}

/// The checksum of a page that is block `block` of its relation fork (counted over all files of the fork, not within one file).
pub fn checksum(page: &[u8; PAGE_SIZE], block: u32) -> u16 {
    let mut sums = OFFSETS;
    for (row_number, row) in page.chunks_exact(4 * SUMS).enumerate() {
        for (column, (sum, word)) in sums.iter_mut().zip(row.chunks_exact(4)).enumerate() {
            let mut word = u32::from_le_bytes([word[0], word[1], word[2], word[3]]);
            if row_number == 0 && column == CHECKSUM_AT / 4 {
                word &= 0xFFFF_0000;
            }
            mix(sum, word);
        }
    }
    // Two more rounds, so that the last rows reach every bit.
    for _ in 0..2 {
        sums.iter_mut().for_each(|sum| mix(sum, 0));
    }
    let folded = sums.iter().fold(0, |all, sum| all ^ sum) ^ block;
    // 0 means "no checksum" to some, so it is never one.
    u16::try_from(folded % 65_535 + 1).unwrap_or(u16::MAX)
}

fn mix(sum: &mut u32, word: u32) {
    let mixed = *sum ^ word;
    *sum = mixed.wrapping_mul(PRIME) ^ (mixed >> 17);
}

/// Checks a page as block `block` of its fork.
pub fn verify(page: &[u8; PAGE_SIZE], block: u32) -> PageState {
    if page[UPPER_AT] == 0 && page[UPPER_AT + 1] == 0 {
        return PageState::New;
    }
    let stored = u16::from_le_bytes([page[CHECKSUM_AT], page[CHECKSUM_AT + 1]]);
    match checksum(page, block) {
        calculated if calculated == stored => PageState::Valid,
        calculated => PageState::Wrong { stored, calculated },
    }
}

/// The page's LSN: the end of the last record that changed it.
pub fn lsn(page: &[u8; PAGE_SIZE]) -> lsn::Lsn {
    let half = |at: usize| u64::from(u32::from_le_bytes([page[at], page[at + 1], page[at + 2], page[at + 3]]));
    lsn::Lsn((half(0) << 32) | half(4))
}

/// Blocks of one file of a fork: a fork is split every GiB (the size all packaged servers use).
pub const BLOCKS_PER_FILE: u32 = 131_072;

/// The number of the first block of a relation file, by its path: `base/5/1249.2` begins at block 262144. `None` if pages of this file
/// carry no checksums: it is not a relation, or not a file that the server writes through its buffers.
pub fn first_block(path: &crate::DataPath) -> Option<u32> {
    let path = std::str::from_utf8(path.as_bytes()).ok()?;
    let mut parts: Vec<&str> = path.split('/').collect();
    let name = parts.pop()?;
    let database = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let in_a_relation_directory = match parts.as_slice() {
        ["global"] => true,
        ["base", oid] => database(oid),
        ["pg_tblspc", oid, version, owner] => database(oid) && version.starts_with("PG_") && database(owner),
        _ => false,
    };
    if !in_a_relation_directory {
        return None;
    }
    let (stem, segment) = match name.split_once('.') {
        Some((stem, segment)) => (stem, segment.parse::<u32>().ok().filter(|segment| *segment > 0)?),
        None => (name, 0),
    };
    let relation = match stem.split_once('_') {
        Some((relation, "fsm" | "vm" | "init")) => relation,
        Some(_) => return None,
        None => stem,
    };
    database(relation).then(|| segment.checked_mul(BLOCKS_PER_FILE)).flatten()
}

#[cfg(test)]
#[path = "page_test.rs"]
mod tests;
