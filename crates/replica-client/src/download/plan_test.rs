//! Plans: which pieces make a file, and which holes are told.

use super::*;
use crate::names::PieceName;
use jiff::Timestamp;

fn piece(name: PieceName) -> Piece {
    Piece { generation: Generation(7), name, stored: 10, created: Timestamp::UNIX_EPOCH }
}

fn size() -> SegmentSize {
    SegmentSize::new(1 << 20).unwrap()
}

fn sqlite(names: &[(u64, u64)], indexes: RangeInclusive<u64>) -> Result<VecDeque<FilePlan>, DownloadError> {
    let pieces: Vec<Piece> = names.iter().map(|(index, start)| piece(PieceName::sqlite(*index, *start))).collect();
    plan(Generation(7), indexes, &pieces, None, |_| 0..0)
}

#[test]
fn every_missing_index_is_named() {
    let missing = |names: &[(u64, u64)], indexes| match sqlite(names, indexes) {
        Err(DownloadError::NotFound { index, .. }) => index,
        other => panic!("{other:?}"),
    };
    assert_eq!(missing(&[], 3..=5), 3);
    assert_eq!(missing(&[(4, 0), (5, 0)], 3..=5), 3);
    assert_eq!(missing(&[(3, 0), (5, 0)], 3..=5), 4);
    assert_eq!(missing(&[(3, 0), (4, 0)], 3..=5), 5);
    assert_eq!(missing(&[(2, 0), (6, 0)], 3..=5), 3);
    assert_eq!(sqlite(&[(2, 0), (3, 0), (4, 0), (5, 0), (6, 0)], 3..=5).unwrap().len(), 3);
    assert_eq!(sqlite(&[(u64::MAX, 0)], u64::MAX..=u64::MAX).unwrap().len(), 1);
}

#[test]
fn a_wal_without_its_beginning_is_missing_it() {
    assert!(matches!(sqlite(&[(3, 32)], 3..=3), Err(DownloadError::Missing { index: 3, offset: 0, .. })));
}

#[test]
fn a_piece_ends_where_the_next_begins() {
    let plans = sqlite(&[(3, 0), (3, 32), (3, 100)], 3..=3).unwrap();
    let ends: Vec<Option<u64>> = plans[0].steps.iter().map(|step| step.end).collect();
    assert_eq!(ends, [Some(32), Some(100), None]);
    assert!(plans[0].steps.iter().all(Step::is_free));
    assert_eq!((plans[0].length, plans[0].stored()), (None, 30));
}

#[test]
fn a_merged_segment_wins_and_overlaps_are_compared() {
    let names = [
        PieceName::of_segment(3, 0..500),
        PieceName::of_segment(3, 400..1 << 20),
        PieceName::of_segment(4, 0..100),
        PieceName::segment(4),
    ];
    let pieces: Vec<Piece> = names.into_iter().map(piece).collect();
    let plans = plan(Generation(7), 3..=4, &pieces, Some(size()), |_| 0..1 << 20).unwrap();
    assert_eq!(plans[0].steps.iter().map(Step::is_free).collect::<Vec<_>>(), [true, false]);
    assert_eq!(plans[0].steps[1].take, 500..1 << 20);
    assert_eq!((plans[1].steps.len(), plans[1].steps[0].piece.name), (1, PieceName::segment(4)));
    // Of the last segment only its beginning is wanted; of the first, only its end.
    let hole = |wanted: Range<u64>| plan(Generation(7), 4..=4, &pieces[2..3], Some(size()), |_| wanted.clone());
    assert!(hole(0..100).is_ok());
    assert!(matches!(hole(50..101), Err(DownloadError::Missing { index: 4, offset: 100, .. })));
    assert!(hole(50..100).unwrap()[0].steps[0].is_free(), "nothing earlier is there to compare with");
}
