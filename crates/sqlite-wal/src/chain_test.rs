//! The chain: known sums, every way to break it, and going on where it was left.

use super::*;
use crate::{ByteOrder, PageSize, Salts};
use proptest::prelude::*;

fn header(order: ByteOrder) -> Header {
    Header { order, page_size: PageSize::new(512).unwrap(), sequence: 7, salts: Salts([1, 2, 3, 4, 5, 6, 7, 8]) }
}

fn number(number: u32) -> NonZeroU32 {
    NonZeroU32::new(number).unwrap()
}

fn frame(chain: &mut Chain, page_number: u32, commit: u32, page: &[u8]) -> Vec<u8> {
    let head = chain.append(number(page_number), NonZeroU32::new(commit), page).unwrap();
    [head.as_slice(), page].concat()
}

#[test]
fn known_sums_in_both_orders() {
    let counting: Vec<u8> = (0..512).map(|byte| byte as u8).collect();
    for (order, first, second) in [
        (ByteOrder::Little, 0xc1c0_039a_16c3_4bba_u64, 0xa05f_cbe2_c07f_2d1c_u64),
        (ByteOrder::Big, 0xf523_a3b8_6e81_127a, 0x80d0_4623_3580_3007),
    ] {
        let mut chain = Chain::new(header(order));
        let one = frame(&mut chain, 2, 2, &[0; 512]);
        assert_eq!(one[16..24], first.to_be_bytes());
        assert_eq!((chain.committed(), chain.pages()), (568, Some(number(2))));
        let two = frame(&mut chain, 1, 0, &counting);
        assert_eq!(two[16..24], second.to_be_bytes());
        assert_eq!((chain.committed(), chain.offset()), (568, 1104));

        let mut read = Chain::new(header(order));
        let taken = read.next(&one).unwrap();
        assert_eq!((taken.offset, taken.page_number, taken.commit), (32, number(2), Some(number(2))));
        let taken = read.next(&two).unwrap();
        assert_eq!((taken.offset, taken.page_number, taken.commit, taken.page), (568, number(1), None, &counting[..]));
        assert_eq!(read, chain);
    }
}

#[test]
fn what_does_not_continue_is_named_and_changes_nothing() {
    let mut chain = Chain::new(header(ByteOrder::Little));
    let one = frame(&mut chain, 2, 2, &[3; 512]);
    let two = frame(&mut chain, 1, 2, &[4; 512]);
    let mut read = Chain::new(header(ByteOrder::Little));
    let before = read;
    assert_eq!(read.next(&two), Err(ChainError::Checksum { offset: 32 }), "a missing frame");
    assert_eq!(read.next(&one[..535]), Err(ChainError::Length { offset: 32, found: 535, expected: 536 }));
    let mut salts = one.clone();
    salts[8] ^= 1;
    assert_eq!(read.next(&salts), Err(ChainError::Salts { offset: 32 }));
    assert_eq!(read, before);
    read.next(&one).unwrap();
    assert_eq!(read.next(&one), Err(ChainError::Checksum { offset: 568 }), "a frame twice");
    read.next(&two).unwrap();
    // A frame for page 0 whose sum fits.
    let mut forged = FrameHeader { page_number: 0, commit: 0, salts: read.header.salts, checksum: Checksum::default() };
    forged.checksum = read.sum(&forged.encode(), &[0; 512]);
    let forged = [forged.encode().as_slice(), &[0; 512]].concat();
    assert_eq!(read.next(&forged), Err(ChainError::Page { offset: 1104 }));
}

#[test]
fn it_goes_on_where_it_was_left() {
    let mut chain = Chain::new(header(ByteOrder::Big));
    frame(&mut chain, 2, 2, &[3; 512]);
    let resumed = Chain::resume(header(ByteOrder::Big), chain.offset(), chain.checksum()).unwrap();
    let two = frame(&mut chain, 1, 2, &[4; 512]);
    let mut resumed = resumed;
    resumed.next(&two).unwrap();
    assert_eq!(resumed, chain);
    for offset in [0, 31, 33, 569] {
        assert_eq!(Chain::resume(header(ByteOrder::Big), offset, Checksum::default()), None);
    }
    // Far above 4 GiB.
    let far = PageSize::new(512).unwrap().frame_offset(9_000_000_000);
    assert_eq!(Chain::resume(header(ByteOrder::Big), far, Checksum::default()).unwrap().offset(), far);
}

#[test]
fn a_page_of_another_size_is_not_appended() {
    assert_eq!(Chain::new(header(ByteOrder::Big)).append(number(1), None, &[0; 1024]), None);
}

proptest! {
    #[test]
    fn a_flipped_bit_is_seen(pages in prop::collection::vec(any::<u8>(), 1..5), at in any::<prop::sample::Index>(), big: bool) {
        let order = if big { ByteOrder::Big } else { ByteOrder::Little };
        let mut chain = Chain::new(header(order));
        let frames: Vec<Vec<u8>> =
            pages.iter().enumerate().map(|(i, byte)| frame(&mut chain, i as u32 + 1, 0, &[*byte; 512])).collect();
        let mut bytes = frames.concat();
        let bit = at.index(bytes.len() * 8);
        bytes[bit / 8] ^= 1 << (bit % 8);
        let mut read = Chain::new(header(order));
        let broken = bytes.chunks(536).position(|frame| read.next(frame).is_err());
        prop_assert_eq!(broken, Some(bit / 8 / 536));
    }
}
