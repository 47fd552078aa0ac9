//! Which objects make a segment, and how far they reach.

use super::*;
use jiff::Timestamp;
use proptest::prelude::*;
use replica_client::PieceEnd;

const MIB: u64 = 1 << 20;

fn size() -> SegmentSize {
    SegmentSize::new(MIB).unwrap()
}

fn lineage(text: &str) -> Lineage {
    Lineage::of_path(&text.parse().unwrap())
}

fn piece(generation: Generation, index: u64, start: u64, end: PieceEnd) -> Piece {
    Piece { generation, name: PieceName { index, start, end }, stored: 10, created: Timestamp::UNIX_EPOCH }
}

fn holdings(pieces: &[(usize, u64, u64, u64)], lineage: &Lineage) -> Holdings {
    let mut holdings = Holdings::default();
    for (step, index, start, end) in pieces {
        let end = if (*start, *end) == (0, MIB) { PieceEnd::Segment } else { PieceEnd::At(*end) };
        holdings.add(piece(lineage.steps()[*step].generation, *index, *start, end));
    }
    holdings
}

fn reach(pieces: &[(usize, u64, u64, u64)], path: &str) -> (u64, Option<u64>) {
    let lineage = lineage(path);
    let reach = holdings(pieces, &lineage).reach(&lineage, size(), Lsn(MIB));
    (reach.end.0, reach.resumes.map(|lsn| lsn.0))
}

#[test]
fn pieces_and_segments_are_one_run() {
    let one = "1:0/0:0";
    assert_eq!(reach(&[], one), (MIB, None));
    assert_eq!(reach(&[(0, 1, 0, MIB), (0, 2, 0, 100), (0, 2, 100, 300)], one), (2 * MIB + 300, None));
    assert_eq!(reach(&[(0, 1, 0, 500), (0, 1, 400, MIB)], one), (2 * MIB, None));
}

#[test]
fn what_is_missing_in_between_is_noticed() {
    let one = "1:0/0:0";
    assert_eq!(reach(&[(0, 1, 0, 100), (0, 1, 200, 300)], one), (MIB + 100, Some(MIB + 200)));
    assert_eq!(reach(&[(0, 1, 0, MIB), (0, 3, 0, MIB)], one), (2 * MIB, Some(3 * MIB)));
    assert_eq!(reach(&[(0, 2, 0, 100)], one), (MIB, Some(2 * MIB)));
}

#[test]
fn a_tli_takes_the_beginning_of_its_first_segment_where_it_finds_it() {
    // TLI 2 begins at offset 0x800 of segment 2.
    let path = "1:0/0:0;2:0/200800:A";
    let parent = [(0, 1, 0, MIB), (0, 2, 0, 0x1000), (0, 3, 0, MIB)];
    // Nothing of the new TLI: the old one counts up to the switch point, whatever it has above.
    assert_eq!(reach(&parent, path), (0x20_0800, None));
    let with = |own: &[(usize, u64, u64, u64)]| reach(&[&parent[..], own].concat(), path);
    assert_eq!(with(&[(1, 2, 0x800, 0x900)]), (0x20_0900, None));
    // Above the switch point the old generation's bytes do not stand in for the new one's.
    assert_eq!(with(&[(1, 2, 0x900, MIB)]), (0x20_0800, Some(0x20_0900)));
    assert_eq!(with(&[(1, 2, 0, MIB), (1, 3, 0, 7)]), (0x30_0007, None));
    let lineage = lineage(path);
    let held = holdings(&[(0, 2, 0, 0x1000), (1, 2, 0x800, 0x900)], &lineage);
    let sources = held.sources(&lineage, size(), lineage.tip(), SegmentNumber(2));
    let spans: Vec<_> = sources.iter().map(|source| (source.generation.tli().0, source.span.clone())).collect();
    assert_eq!(spans, [(2, 0x800..0x900), (1, 0..0x800)]);
    // The file of the old TLI has nothing of the new one.
    let old = held.sources(&lineage, size(), lineage.steps()[0], SegmentNumber(2));
    let spans: Vec<_> = old.iter().map(|source| (source.whole.start, source.whole.end)).collect();
    assert_eq!(spans, [(0, 0x1000)]);
}

#[test]
fn several_switches_in_one_segment() {
    let path = "1:0/0:0;2:0/100100:A;3:0/100200:B";
    let pieces = [(0, 1, 0, 0x180), (1, 1, 0x100, 0x280), (2, 1, 0x200, 0x300)];
    assert_eq!(reach(&pieces, path), (MIB + 0x300, None));
    assert_eq!(reach(&pieces[..2], path), (MIB + 0x200, None));
    assert_eq!(reach(&[pieces[0], pieces[2]], path), (MIB + 0x100, Some(MIB + 0x200)));
}

proptest! {
    /// Byte by byte: a byte is reached if every byte from the start on lies in a piece of the generation that the lineage says it is on
    /// (or in a later one of the same file, which repeats it).
    #[test]
    fn reach_is_what_bytes_say(
        begin in (MIB..4 * MIB).prop_map(|begin| begin & !0xFFFF),
        pieces in prop::collection::vec((0usize..2, 1u64..4, 0u64..16, 1u64..16), 0..12),
    ) {
        let lineage = Lineage::of_path(&lsn::Path::new(vec![
            lsn::PathEntry { tli: lsn::Tli(1), begin: Lsn(0), mark: 0 },
            lsn::PathEntry { tli: lsn::Tli(2), begin: Lsn(begin), mark: 7 },
        ]).unwrap());
        let pieces: Vec<_> = pieces.into_iter().map(|(step, index, start, len)| (step, index, start << 16, ((start + len) << 16).min(MIB))).collect();
        let held = holdings(&pieces, &lineage);
        let has = |at: u64| pieces.iter().any(|(step, index, start, end)| {
            let byte = index * MIB + start..index * MIB + end;
            let file = lineage.step_of_segment(size(), size().segment_of(Lsn(at)), Lsn::MAX).unwrap();
            let usable = if *step == 1 { file.tli().0 == 2 } else { at < begin };
            byte.contains(&at) && usable
        });
        let mut expected = MIB;
        while has(expected) {
            expected += 1 << 16;
        }
        let reach = held.reach(&lineage, size(), Lsn(MIB));
        prop_assert_eq!(reach.end, Lsn(expected));
        let resumes = (expected..4 * MIB).step_by(1 << 16).find(|at| has(*at));
        prop_assert_eq!(reach.resumes, resumes.map(Lsn));
    }
}
