//! Pieces: cut at commits, checked, and gone on with.

use super::*;
use proptest::prelude::*;
use sqlite_wal::{ByteOrder, PageSize, Salts};
use std::num::NonZeroU32;

fn life(commits: &[bool]) -> Vec<u8> {
    let page_size = PageSize::new(512).unwrap();
    let header = Header { order: ByteOrder::Little, page_size, sequence: 1, salts: Salts([5; 8]) };
    let (mut chain, mut bytes) = (Chain::new(header), header.encode().to_vec());
    for (number, commit) in commits.iter().enumerate() {
        let page = [number as u8; 512];
        let commit = commit.then(|| NonZeroU32::new(9).unwrap());
        bytes.extend(chain.append(NonZeroU32::MIN, commit, &page).unwrap());
        bytes.extend(page);
    }
    bytes
}

#[test]
fn a_piece_ends_with_a_transaction() {
    let bytes = life(&[true, false, false, true, false]);
    let mut piece = Piece::new(Mark::Begin);
    for part in bytes.chunks(100) {
        piece.push(part).unwrap();
    }
    let cut = piece.cut(false).unwrap();
    assert_eq!(cut.bytes, bytes[..32 + 4 * 536]);
    assert!(piece.cut(false).is_none());
    let rest = piece.cut(true).unwrap();
    assert_eq!(rest.bytes, bytes[32 + 4 * 536..]);
    assert!(piece.cut(true).is_none());
}

#[test]
fn damage_does_not_leave() {
    let mut bytes = life(&[true, true, true]);
    bytes[700] ^= 1;
    let error = Piece::new(Mark::Begin).push(&bytes).unwrap_err();
    assert_eq!(error.to_string(), ShadowError::Chain(sqlite_wal::ChainError::Checksum { offset: 568 }).to_string());
    assert_eq!(
        Piece::new(Mark::Begin).push(&[0; 32]).unwrap_err(),
        ShadowError::Header(sqlite_wal::HeaderError::Magic(0))
    );
}

proptest! {
    #[test]
    fn pieces_make_the_life_again(
        commits in prop::collection::vec(any::<bool>(), 1..20), part in 1usize..2000, limit in 1u64..5000, leave in 0usize..20,
    ) {
        let bytes = life(&commits);
        let (mut piece, mut pieces) = (Piece::new(Mark::Begin), Vec::new());
        for chunk in bytes.chunks(part) {
            piece.push(chunk).unwrap();
            while piece.len() >= limit && let Some(cut) = piece.cut(true) {
                // After a restart the chain comes from the bytes: here at some piece's end.
                if pieces.len() == leave && let Mark::Frame(chain) = cut.mark && piece.len() == 0 {
                    let end = chain.offset() as usize;
                    piece = Piece::new(Mark::resume(&bytes, &bytes[end.saturating_sub(536)..], chain.offset()).unwrap());
                }
                pieces.push(cut.bytes);
            }
        }
        while let Some(cut) = piece.cut(true) {
            pieces.push(cut.bytes);
        }
        prop_assert_eq!(pieces.concat(), bytes);
    }
}
