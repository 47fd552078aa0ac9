//! Slots alone: names, positions, the record, and what is held.

use super::*;
use proptest::prelude::*;

const SIZE: u64 = 1 << 20;

fn within(commit: u64, oldest: u64) -> Kept {
    Kept { commit: Lsn(commit), oldest: Lsn(oldest), segment_size: SegmentSize::new(SIZE).unwrap() }
}

fn slots(names: &[(&str, SlotKind, Option<u64>)]) -> Slots {
    let mut slots = Slots::default();
    for (name, kind, restart) in names {
        let slot = Slot { kind: *kind, restart: restart.map(Lsn), durable: None, active: None, is_lost: false };
        slots.slots.insert((*name).to_owned(), slot);
        slots.changes += u64::from(*kind == SlotKind::Persistent);
    }
    slots
}

fn persist(slots: &mut Slots) -> Option<Vec<u8>> {
    let (_, bytes) = slots.poll_persist()?;
    assert!(slots.poll_persist().is_none(), "one write at a time");
    slots.end_persist(true);
    Some(bytes)
}

#[test]
fn names_are_those_of_postgresql() {
    for name in ["a", "standby_1", &"x".repeat(63)] {
        assert_eq!(check_name(name), Ok(()), "{name}");
    }
    for name in ["", "A", "a-b", "a b", "ä", &"x".repeat(64), "a\0"] {
        assert!(check_name(name).is_err(), "{name}");
    }
}

#[test]
fn wal_is_held_by_what_is_written_down() {
    let mut slots = slots(&[("a", SlotKind::Persistent, Some(10 * SIZE))]);
    let now = Instant::now();
    persist(&mut slots).unwrap();
    slots.acquire("a", ReaderId(1)).unwrap();
    slots.advance(now, ReaderId(1), Lsn(10 * SIZE + 5), within(20 * SIZE, SIZE));
    assert_eq!((slots.next_timeout(), slots.holds()), (None, Some(Lsn(10 * SIZE))), "same segment: no write");
    slots.advance(now, ReaderId(1), Lsn(12 * SIZE), within(20 * SIZE, SIZE));
    assert_eq!(slots.next_timeout(), Some(now + PERSIST_EVERY));
    slots.handle_timeout(now + PERSIST_EVERY / 2);
    assert!(slots.poll_persist().is_none());
    slots.handle_timeout(now + PERSIST_EVERY);
    let (_, bytes) = slots.poll_persist().unwrap();
    assert_eq!(slots.holds(), Some(Lsn(10 * SIZE)), "the write is not done");
    // What moves during the write is not part of it.
    slots.advance(now, ReaderId(1), Lsn(13 * SIZE), within(20 * SIZE, SIZE));
    slots.end_persist(true);
    assert_eq!(slots.holds(), Some(Lsn(12 * SIZE)));
    assert_eq!(decode(&bytes).unwrap()["a"].restart, Some(Lsn(12 * SIZE)));
}

#[test]
fn a_reader_is_believed_only_within_what_is_committed_and_here() {
    let mut slots = slots(&[("a", SlotKind::Temporary(1), None)]);
    slots.acquire("a", ReaderId(1)).unwrap();
    assert_eq!(slots.holds(), None);
    for (claimed, believed) in [(u64::MAX, 20), (5, 5), (0, 5), (1, 2), (20, 20)] {
        slots.advance(Instant::now(), ReaderId(1), Lsn(claimed), within(20, 2));
        assert_eq!(slots.holds(), Some(Lsn(believed)), "{claimed}");
    }
    assert_eq!(slots.next_timeout(), None, "a temporary slot is not written down");
}

#[test]
fn one_reader_at_a_time_and_not_for_ever() {
    let mut slots = slots(&[("a", SlotKind::Persistent, None)]);
    assert_eq!(slots.acquire("b", ReaderId(1)).unwrap_err().code, pq_proto::SqlState::UNDEFINED_OBJECT);
    slots.acquire("a", ReaderId(1)).unwrap();
    assert_eq!(slots.acquire("a", ReaderId(2)).unwrap_err().code, pq_proto::SqlState::OBJECT_IN_USE);
    slots.release(ReaderId(2));
    assert!(slots.acquire("a", ReaderId(2)).is_err());
    slots.release(ReaderId(1));
    slots.acquire("a", ReaderId(2)).unwrap();
}

#[test]
fn a_slot_beyond_its_allowance_is_lost_until_its_reader_reports_again() {
    let mut slots = slots(&[("a", SlotKind::Persistent, Some(SIZE)), ("b", SlotKind::Persistent, Some(9 * SIZE))]);
    persist(&mut slots).unwrap();
    slots.lose_below(Lsn(SIZE));
    assert!(slots.poll_persist().is_none());
    slots.lose_below(Lsn(2 * SIZE));
    let bytes = persist(&mut slots).unwrap();
    assert!(decode(&bytes).unwrap()["a"].is_lost);
    assert_eq!(slots.holds(), Some(Lsn(9 * SIZE)));
    slots.acquire("a", ReaderId(1)).unwrap();
    slots.advance(Instant::now(), ReaderId(1), Lsn(3 * SIZE), within(9 * SIZE, 2 * SIZE));
    assert!(slots.views().iter().all(|view| !view.is_lost));
    assert_eq!(slots.holds(), Some(Lsn(3 * SIZE)));
}

#[test]
fn what_could_not_be_written_down_was_not_created() {
    let mut slots = slots(&[("a", SlotKind::Persistent, None)]);
    persist(&mut slots).unwrap();
    let other = slots.slots["a"].clone();
    slots.slots.insert("b".to_owned(), Slot { durable: None, ..other });
    slots.changes += 1;
    slots.poll_persist().unwrap();
    slots.end_persist(false);
    assert_eq!(slots.slots.keys().collect::<Vec<_>>(), ["a"]);
    assert!(slots.poll_persist().is_none(), "a failure is not repeated for ever");
}

#[test]
fn other_versions_and_damaged_records_are_refused() {
    let bytes = persist(&mut slots(&[("a", SlotKind::Persistent, Some(SIZE))])).unwrap();
    for length in 0..bytes.len() {
        assert!(decode(&bytes[..length]).is_err(), "{length}");
    }
    assert_eq!(decode(&[&bytes[..], &[0]].concat()), Err(SlotsError::Field("end")));
    let mut newer = bytes.clone();
    newer[0] = 2;
    assert_eq!(decode(&newer), Err(SlotsError::Version(2)));
    let mut many = bytes;
    many[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
    assert_eq!(decode(&many), Err(SlotsError::Field("count")));
}

proptest! {
    #[test]
    fn the_record_comes_back(named in prop::collection::btree_map("[a-z0-9_]{1,63}", (any::<u64>(), any::<bool>()), 0..20)) {
        let slot = |(name, (restart, is_lost)): (&String, &(u64, bool))| {
            let restart = Some(Lsn(*restart)).filter(|lsn| lsn.is_valid());
            let slot = Slot { kind: SlotKind::Persistent, restart, durable: Some(restart), active: None, is_lost: *is_lost };
            (name.clone(), slot)
        };
        let slots: BTreeMap<String, Slot> = named.iter().map(slot).collect();
        prop_assert_eq!(decode(&encode(slots.iter())).unwrap(), slots);
    }

    #[test]
    fn any_bytes_are_judged(bytes: Vec<u8>) {
        let _ = decode(&bytes);
    }
}
