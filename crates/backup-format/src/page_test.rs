//! The page checksum's properties; that it is PostgreSQL's is tested against a real server by `pg-source`.

use super::*;
use crate::DataPath;

fn path(text: &str) -> DataPath {
    DataPath::parse(text).unwrap()
}

#[test]
fn blocks_are_counted_over_the_files_of_a_fork() {
    assert_eq!(first_block(&path("base/5/1249")), Some(0));
    assert_eq!(first_block(&path("base/5/1249.2")), Some(262_144));
    assert_eq!(first_block(&path("base/5/1249_fsm")), Some(0));
    assert_eq!(first_block(&path("global/1260_vm.1")), Some(131_072));
    assert_eq!(first_block(&path("pg_tblspc/16384/PG_15_202209061/5/16385.1")), Some(131_072));
    for other in [
        "global/pg_control",
        "global/pg_filenode.map",
        "base/5/PG_VERSION",
        "base/5/pg_filenode.map",
        "base/5/pg_internal.init",
        "base/5/1249.0",
        "base/5/1249.x",
        "base/5/1249.99999999",
        "base/5/1249_temp",
        "base/5/t3_16384",
        "base/x/1249",
        "pg_xact/0000",
        "1249",
        "base/5/6/1249",
        "pg_tblspc/16384/x/5/16385",
    ] {
        assert_eq!(first_block(&path(other)), None, "{other}");
    }
}

#[test]
fn new_pages_carry_none() {
    assert_eq!(verify(&[0; PAGE_SIZE], 7), PageState::New);
}

#[test]
fn every_bit_and_the_block_number_count() {
    let mut page = [0u8; PAGE_SIZE];
    for (at, byte) in page.iter_mut().enumerate() {
        *byte = (at * 31 % 251) as u8;
    }
    let sum = checksum(&page, 3);
    page[CHECKSUM_AT..CHECKSUM_AT + 2].copy_from_slice(&sum.to_le_bytes());
    assert_eq!(verify(&page, 3), PageState::Valid, "the field itself does not count");
    assert!(matches!(verify(&page, 4), PageState::Wrong { stored, .. } if stored == sum));
    let mut missed = 0;
    for bit in 0..PAGE_SIZE * 8 {
        if bit / 8 == CHECKSUM_AT || bit / 8 == CHECKSUM_AT + 1 {
            continue;
        }
        page[bit / 8] ^= 1 << (bit % 8);
        missed += usize::from(checksum(&page, 3) == sum);
        page[bit / 8] ^= 1 << (bit % 8);
    }
    // A 16-bit sum may miss one change in 65535.
    assert!(missed <= 8, "{missed} of 65520 single flipped bits were missed");
}

#[test]
fn the_lsn_is_two_halves() {
    let mut page = [0u8; PAGE_SIZE];
    page[..8].copy_from_slice(&[0x16, 0, 0, 0, 0x48, 0xD8, 0x74, 0xB3]);
    assert_eq!(lsn(&page).to_string(), "16/B374D848");
}
