//! The rules, one by one and under any order of events.

use super::*;
use crate::wal::lineage::tracks;
use jiff::Timestamp;
use lsn::{Path, Tli};
use proptest::prelude::*;

const SEGMENT: u64 = 1 << 20;
const HOUR: Duration = Duration::from_secs(3600);
const SECOND: Duration = Duration::from_secs(1);

fn options(parallelism: usize) -> LedgerOptions {
    let segment_size = SegmentSize::new(SEGMENT).unwrap();
    LedgerOptions { segment_size, interval: SECOND, parallelism, delete_after: HOUR }
}

fn set(ledger: &mut Ledger, path: &Path, end: u64, oldest: u64) {
    let tracks = tracks(path, Lsn(end), ledger.options.segment_size);
    ledger.set_log(tracks, Lsn(oldest));
}

fn root() -> Path {
    Path::root(Tli(1))
}

const GENERATION: Generation = Generation(1);

/// A ledger whose generation is announced.
fn ledger(now: Instant) -> Ledger {
    let mut ledger = Ledger::new(options(2));
    set(&mut ledger, &root(), SEGMENT + 8, SEGMENT);
    let action = ledger.poll(now).unwrap();
    assert!(matches!(&action, Action::Announce(track) if track.generation == GENERATION));
    ledger.done(&action, now);
    ledger
}

fn stored(action: Option<Action>) -> (PieceName, Range<u64>) {
    match action {
        Some(Action::Store { name, wal, .. }) => (name, wal.start.0..wal.end.0),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_end_is_stored_once_an_interval_and_nothing_while_nothing_commits() {
    let begin = Instant::now();
    let mut ledger = ledger(begin);
    assert_eq!(ledger.poll(begin), None, "company may come");
    assert_eq!(ledger.next_due(begin), Some(begin + SECOND / 4));
    set(&mut ledger, &root(), SEGMENT + 16, SEGMENT);
    let first = begin + SECOND / 4;
    let action = ledger.poll(first);
    assert_eq!(stored(action.clone()), (PieceName::of_segment(1, 0..16), SEGMENT..SEGMENT + 16));
    assert_eq!((ledger.poll(first), ledger.next_due(first)), (None, None));
    ledger.done(&action.unwrap(), first);
    assert_eq!(ledger.archived(), Lsn(SEGMENT + 16));
    assert_eq!((ledger.poll(first + HOUR), ledger.next_due(first)), (None, None), "idle");

    set(&mut ledger, &root(), SEGMENT + 24, SEGMENT);
    assert_eq!(ledger.next_due(first), Some(first + SECOND));
    assert_eq!(ledger.poll(first + SECOND - SECOND / 10), None);
    let action = ledger.poll(first + SECOND);
    assert_eq!(stored(action.clone()).1, SEGMENT + 16..SEGMENT + 24);
    ledger.failed(&action.unwrap());
    assert_eq!(ledger.archived(), Lsn(SEGMENT + 16));
    assert_eq!(stored(ledger.poll(first + SECOND * 2)).1, SEGMENT + 16..SEGMENT + 24, "again");
}

#[test]
fn full_segments_go_at_once_and_whole() {
    let now = Instant::now();
    let mut ledger = ledger(now);
    set(&mut ledger, &root(), 3 * SEGMENT + 8, SEGMENT);
    let (one, two) = (ledger.poll(now), ledger.poll(now));
    assert_eq!(stored(one.clone()), (PieceName::segment(1), SEGMENT..2 * SEGMENT));
    assert_eq!(stored(two.clone()), (PieceName::segment(2), 2 * SEGMENT..3 * SEGMENT));
    assert_eq!(ledger.poll(now), None, "two are under way");
    ledger.done(&two.unwrap(), now);
    assert_eq!(ledger.archived(), Lsn(SEGMENT), "the first is not there yet");
    ledger.done(&one.unwrap(), now);
    assert_eq!(ledger.archived(), Lsn(3 * SEGMENT));
    assert_eq!(ledger.poll(now), None, "the end waits for company");
    assert!(stored(ledger.poll(now + SECOND)).1.end == 3 * SEGMENT + 8);
}

#[test]
fn pieces_go_an_hour_after_their_segment_was_merged() {
    let now = Instant::now();
    let mut ledger = ledger(now);
    assert!(ledger.next_due(now).is_some());
    let piece = ledger.poll(now + SECOND).unwrap();
    ledger.done(&piece, now);
    set(&mut ledger, &root(), 2 * SEGMENT, SEGMENT);
    let rest = ledger.poll(now + SECOND).unwrap();
    assert_eq!(stored(Some(rest.clone())).0, PieceName::of_segment(1, 8..SEGMENT));
    assert_eq!(ledger.poll(now + SECOND), None, "not all of it is there");
    ledger.done(&rest, now);
    let merge = ledger.poll(now).unwrap();
    assert!(
        matches!(&merge, Action::Merge { segment: SegmentNumber(1), wal, .. } if *wal == (Lsn(SEGMENT)..Lsn(2 * SEGMENT)))
    );
    assert_eq!(ledger.poll(now + HOUR * 9), None, "it is under way");
    ledger.failed(&merge);
    assert_eq!(ledger.poll(now + HOUR * 9), Some(merge.clone()), "without it nothing is deleted");
    ledger.done(&merge, now);
    assert_eq!(ledger.poll(now + HOUR - SECOND), None);
    assert_eq!(ledger.next_due(now), Some(now + HOUR));
    let delete = ledger.poll(now + HOUR).unwrap();
    let names = vec![PieceName::of_segment(1, 0..8), PieceName::of_segment(1, 8..SEGMENT)];
    assert_eq!(delete, Action::Delete { generation: GENERATION, segment: SegmentNumber(1), pieces: names });
    ledger.done(&delete, now);
    assert_eq!((ledger.poll(now + HOUR * 2), ledger.next_due(now)), (None, None));
}

#[test]
fn a_listing_is_where_it_goes_on() {
    let now = Instant::now();
    let mut ledger = Ledger::new(options(2));
    let piece = |name| Piece { generation: GENERATION, name, stored: 1, created: Timestamp::UNIX_EPOCH };
    ledger.learn(&[
        piece(PieceName::segment(1)),
        piece(PieceName::of_segment(1, 0..8)),
        piece(PieceName::of_segment(2, 0..16)),
        piece(PieceName::of_segment(2, 32..64)),
        // Names nobody gave in good faith.
        piece(PieceName::of_segment(u64::MAX, 0..16)),
        piece(PieceName::of_segment(3, 0..SEGMENT + 1)),
    ]);
    set(&mut ledger, &root(), 2 * SEGMENT + 80, SEGMENT);
    let announce = ledger.poll(now).unwrap();
    ledger.done(&announce, now);
    assert_eq!(ledger.archived(), Lsn(2 * SEGMENT + 16));
    assert_eq!(stored(ledger.poll(now)).1, 2 * SEGMENT + 16..2 * SEGMENT + 32, "the hole, at once");
    assert!(matches!(ledger.poll(now), Some(Action::Merge { segment: SegmentNumber(1), .. })), "is read back first");
}

#[test]
fn a_new_tli_is_stored_from_its_segments_start() {
    let now = Instant::now();
    let path: Path = format!("1:0/0:0;2:0/{:X}:8A0C44F1", SEGMENT + 512).parse().unwrap();
    let mut ledger = Ledger::new(options(9));
    set(&mut ledger, &path, SEGMENT + 600, SEGMENT);
    let mut seen = Vec::new();
    while let Some(action) = ledger.poll(now) {
        seen.push(action);
    }
    let second = Generation::of_tli(0x8A0C44F1, Tli(2));
    assert!(matches!(&seen[1], Action::Announce(track) if track.generation == second));
    assert_eq!(stored(seen.get(2).cloned()).1, SEGMENT..SEGMENT + 512, "the parent's end is no growing end");
    assert_eq!(seen.len(), 3);
    let end = ledger.poll(now + SECOND);
    assert!(matches!(&end, Some(Action::Store { generation, .. }) if *generation == second), "{end:?}");
    assert_eq!(stored(end).1, SEGMENT..SEGMENT + 600);
}

#[test]
fn where_the_archived_wal_begins_goes_through_tlis_to_the_first_gap() {
    let path: Path = "1:0/0:0;2:0/380010:8A0C44F1".parse().unwrap();
    let second = Generation::of_tli(0x8A0C44F1, Tli(2));
    let mut ledger = Ledger::new(options(2));
    // Only the newest segment is here.
    set(&mut ledger, &path, 5 * SEGMENT + 100, 5 * SEGMENT);
    let piece = |generation, name| Piece { generation, name, stored: 1, created: Timestamp::UNIX_EPOCH };
    assert_eq!(ledger.archived_from(), ledger.archived(), "nothing is known");
    ledger.learn(&[
        piece(GENERATION, PieceName::segment(1)),
        piece(GENERATION, PieceName::segment(2)),
        piece(second, PieceName::of_segment(3, 0..0x90000)),
        piece(second, PieceName::of_segment(3, 0x90000..SEGMENT)),
        piece(second, PieceName::segment(4)),
        piece(second, PieceName::of_segment(5, 0..100)),
    ]);
    assert_eq!((ledger.archived_from(), ledger.archived()), (Lsn(SEGMENT), Lsn(5 * SEGMENT + 100)));
    let mut holed = Ledger::new(options(2));
    set(&mut holed, &path, 5 * SEGMENT + 100, 5 * SEGMENT);
    holed.learn(&[
        piece(GENERATION, PieceName::segment(2)),
        piece(second, PieceName::of_segment(3, 0x90000..SEGMENT)),
        piece(second, PieceName::segment(4)),
        piece(second, PieceName::of_segment(5, 0..100)),
    ]);
    assert_eq!((holed.archived_from(), holed.archived()), (Lsn(3 * SEGMENT + 0x90000), Lsn(5 * SEGMENT + 100)));
}

#[derive(Debug, Clone)]
enum Event {
    Commit(u64),
    Finish(usize),
    Fail(usize),
    Wait(u64),
    TakeOver,
    Remove,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => (1..SEGMENT / 2).prop_map(|bytes| Event::Commit(bytes / 8 * 8)),
        1 => (SEGMENT..SEGMENT * 4).prop_map(|bytes| Event::Commit(bytes / 8 * 8)),
        6 => (0..4usize).prop_map(Event::Finish),
        2 => (0..4usize).prop_map(Event::Fail),
        4 => (0..3000u64).prop_map(Event::Wait),
        1 => Just(Event::TakeOver),
        1 => Just(Event::Remove),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Objects never hold uncommitted bytes nor cross a segment; nothing is deleted that no merged object holds; `archived` never
    /// claims what is not there; and once everything works again, all of it is there.
    #[test]
    fn the_replica_is_contiguous_whatever_happens(events in proptest::collection::vec(event(), 1..80)) {
        let mut now = Instant::now();
        let (mut end, mut oldest) = (SEGMENT + 8, SEGMENT);
        let mut objects: BTreeSet<PieceName> = BTreeSet::new();
        let mut ledger = Ledger::new(options(3));
        let mut under_way: Vec<Action> = Vec::new();
        let carry_out = |objects: &mut BTreeSet<PieceName>, action: &Action, end: u64| match action {
            Action::Announce(_) => {}
            Action::Store { name, wal, .. } => {
                assert!(wal.end.0 <= end && wal.start < wal.end);
                let span = name.span(options(1).segment_size).unwrap();
                assert_eq!(name.index * SEGMENT + span.start..name.index * SEGMENT + span.end, wal.start.0..wal.end.0);
                objects.insert(*name);
            }
            Action::Merge { segment, wal, .. } => {
                assert!(wal.end.0 <= end);
                objects.insert(PieceName::segment(segment.0));
            }
            Action::Delete { segment, pieces, .. } => {
                assert!(objects.contains(&PieceName::segment(segment.0)), "pieces deleted without a merged segment");
                pieces.iter().for_each(|name| assert!(objects.remove(name)));
            }
        };
        let reach = |objects: &BTreeSet<PieceName>, from: u64| {
            let spans: Vec<Range<u64>> = objects.iter().map(|name| {
                let span = name.span(options(1).segment_size).unwrap();
                name.index * SEGMENT + span.start..name.index * SEGMENT + span.end
            }).collect();
            replica_client::cover::reach(&spans, from)
        };
        for event in events {
            match event {
                Event::Commit(bytes) => end += bytes,
                Event::Wait(millis) => now += Duration::from_millis(millis),
                Event::Finish(which) if which < under_way.len() => {
                    let action = under_way.remove(which);
                    carry_out(&mut objects, &action, end);
                    ledger.done(&action, now);
                }
                Event::Fail(which) if which < under_way.len() => {
                    // It may have happened all the same.
                    let action = under_way.remove(which);
                    if which % 2 == 0 {
                        carry_out(&mut objects, &action, end);
                    }
                    ledger.failed(&action);
                }
                Event::Finish(_) | Event::Fail(_) => {}
                Event::TakeOver => {
                    // The old one's uploads may still arrive.
                    under_way.drain(..).for_each(|action| if !matches!(action, Action::Delete { .. }) {
                        carry_out(&mut objects, &action, end);
                    });
                    ledger = Ledger::new(options(3));
                    let piece = |name: &PieceName| Piece { generation: GENERATION, name: *name, stored: 1, created: Timestamp::UNIX_EPOCH };
                    ledger.learn(&objects.iter().map(piece).collect::<Vec<_>>());
                }
                Event::Remove => oldest = oldest.max(ledger.archived().0.min(end) / SEGMENT * SEGMENT),
            }
            set(&mut ledger, &root(), end, oldest);
            under_way.extend(std::iter::from_fn(|| ledger.poll(now)));
            prop_assert!(under_way.len() <= 3);
            prop_assert!(ledger.archived().0 <= reach(&objects, oldest).max(oldest), "claims what is not there");
        }
        for _ in 0..1000 {
            for action in under_way.drain(..) {
                carry_out(&mut objects, &action, end);
                ledger.done(&action, now);
            }
            under_way.extend(std::iter::from_fn(|| ledger.poll(now)));
            now += SECOND;
        }
        prop_assert_eq!(ledger.archived(), Lsn(end));
        prop_assert_eq!(reach(&objects, SEGMENT), end);
    }
}
