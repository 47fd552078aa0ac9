//! The stream: the same frames however the bytes are cut, and every wrong end.

use super::*;
use crate::{ByteOrder, PageSize, Salts};
use proptest::prelude::*;

fn number(number: u32) -> NonZeroU32 {
    NonZeroU32::new(number).unwrap()
}

/// A WAL of pages filled with these bytes; those with `true` end a transaction.
fn wal(order: ByteOrder, page_size: u32, frames: &[(u8, bool)]) -> Vec<u8> {
    let page_size = PageSize::new(page_size).unwrap();
    let header = Header { order, page_size, sequence: 1, salts: Salts([7; 8]) };
    let (mut chain, mut bytes) = (Chain::new(header), header.encode().to_vec());
    for (byte, commit) in frames {
        let page = vec![*byte; page_size.len()];
        bytes.extend(chain.append(number(u32::from(*byte) + 1), commit.then_some(number(9)), &page).unwrap());
        bytes.extend(page);
    }
    bytes
}

type Seen = Vec<(u64, u32, bool, u8)>;

fn read(bytes: &[u8], pieces: usize) -> Result<(Seen, End), StreamError> {
    let (mut stream, mut seen) = (Stream::new(), Vec::new());
    for mut piece in bytes.chunks(pieces) {
        while let Some(frame) = stream.next(&mut piece)? {
            seen.push((frame.offset, frame.page_number.get(), frame.commit.is_some(), frame.page[0]));
        }
        assert!(piece.is_empty());
    }
    Ok((seen, stream.finish()?))
}

#[test]
fn wrong_ends_are_named() {
    let bytes = wal(ByteOrder::Little, 512, &[(1, true), (2, false), (3, true)]);
    assert_eq!(read(&bytes[..0], 10), Err(StreamError::Torn { len: 0 }));
    assert_eq!(read(&bytes[..31], 10), Err(StreamError::Torn { len: 31 }));
    assert_eq!(read(&bytes[..32], 10).map(|(_, end)| (end.len, end.pages)), Ok((32, None)));
    assert_eq!(read(&bytes[..569], 10), Err(StreamError::Torn { len: 569 }));
    assert_eq!(read(&bytes[..1104], 10), Err(StreamError::Uncommitted { len: 1104, committed: 568 }));
    assert_eq!(read(&bytes, 10).map(|(_, end)| (end.len, end.pages)), Ok((1640, Some(number(9)))));
    let swapped = [&bytes[..32], &bytes[568..1104], &bytes[32..568], &bytes[1104..]].concat();
    assert_eq!(read(&swapped, 10), Err(StreamError::Chain(ChainError::Checksum { offset: 32 })));
    assert_eq!(read(&bytes[1..], 10), Err(StreamError::Header(HeaderError::Magic(0x7f06_8200))));
}

proptest! {
    #[test]
    fn however_it_is_cut(
        frames in prop::collection::vec((0u8..200, any::<bool>()), 0..8), pieces in 1usize..3000, big: bool, power in 9u32..12,
    ) {
        let mut frames = frames;
        if let Some(last) = frames.last_mut() {
            last.1 = true;
        }
        let bytes = wal(if big { ByteOrder::Big } else { ByteOrder::Little }, 1 << power, &frames);
        let (seen, end) = read(&bytes, pieces).unwrap();
        prop_assert_eq!(end.len, bytes.len() as u64);
        let len = (1u64 << power) + 24;
        let expected: Seen = frames
            .iter()
            .enumerate()
            .map(|(i, (byte, commit))| (32 + i as u64 * len, u32::from(*byte) + 1, *commit, *byte))
            .collect();
        prop_assert_eq!(seen, expected);
    }

    #[test]
    fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..4000), pieces in 1usize..500, real: bool) {
        let mut all = wal(ByteOrder::Big, 512, &[(1, true)]);
        all.truncate(if real { 568 } else { 0 });
        all.extend(bytes);
        let _ = read(&all, pieces);
    }
}
