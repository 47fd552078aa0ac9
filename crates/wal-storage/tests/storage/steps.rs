//! Step by step: what each call does and refuses, on both disks.

use crate::common::{Log, cut, in_memory, layout, megabyte};
use bytes::Bytes;
use disk::{Op, RealDisk};
use lsn::{Lsn, SegmentNumber, SegmentSize};
use std::sync::Arc;
use wal_storage::Error;

/// The life of a log on any disk.
fn life(mut log: Log) {
    let (size, start) = (log.size, log.wal.start());
    log.wal.fill_to(Lsn(start.0 + size.bytes() * 2 + size.bytes() / 2), 9_000);
    log.append_all(300_000).unwrap();
    assert_eq!(log.storage.durable().lsn(), start);
    assert_eq!(log.sync().unwrap().lsn(), log.wal.end());
    assert!(log.storage.start_sync().is_none(), "nothing new");
    log.assert_bytes();
    assert!(log.prepare().unwrap());
    assert!(!log.prepare().unwrap(), "it is there");
    let next = size.start_of(size.segment_of(log.wal.end()).next());
    assert_eq!(log.disk.open(&log.path(next), disk::OpenMode::Read).unwrap().len().unwrap(), size.bytes());

    // A cut in the first segment takes the others and the prepared one away.
    let to = log.wal.records()[40].end;
    assert_eq!(cut(&mut log.storage, to).unwrap().lsn(), to);
    log.wal.cut(to);
    assert_eq!(log.names(), [layout(size).file_name(start)]);
    log.assert_bytes();
    log.wal.record(&[7; 100]);
    log.wal.fill_to(Lsn(start.0 + size.bytes() * 3 + 5), 20_000);
    log.append_all(usize::MAX >> 1).unwrap();
    log.sync().unwrap();
    log.assert_bytes();

    // Old segments go, two of them to be written again.
    let floor = log.wal.end();
    log.remove_below(floor).unwrap();
    assert_eq!(log.storage.oldest(), size.start_of_segment_at(floor));
    assert!(
        matches!(log.storage.reader().read(start, 1), Err(Error::NotHere { segment }) if segment == size.segment_of(start))
    );
    assert!(log.names().contains(&"spare.0".to_owned()) && log.names().contains(&"spare.1".to_owned()));
    assert_eq!(log.names().len(), 3);
    assert!(log.prepare().unwrap());
    assert_eq!(log.names().len(), 3, "a spare became the next segment");
    log.assert_bytes();
    let end = log.wal.records().iter().rev().find(|record| record.end <= floor).unwrap().end;
    let recovered = log.recover(end);
    assert_eq!((recovered.end.lsn(), recovered.damage), (floor, None));
    assert_eq!(recovered.magic, Some(0xD110));
    log.wal.fill_to(Lsn(floor.0 + size.bytes() * 2), 5_000);
    log.append_all(1 << 20).unwrap();
    log.sync().unwrap();
    log.assert_bytes();
    let recovered = log.recover(floor);
    assert_eq!((recovered.end.lsn(), recovered.damage), (log.wal.end(), None));
    assert_eq!(recovered.last_record_start, log.wal.records().last().map(|record| record.start));
}

#[test]
fn a_life_on_the_simulated_disk() {
    life(in_memory(megabyte(), Lsn(0x10_0000)).1);
    life(in_memory(megabyte(), Lsn(0x7_FFF0_0000)).1);
    life(in_memory(SegmentSize::new(4 << 20).unwrap(), Lsn(0x9_0400_0000)).1);
}

#[test]
fn a_life_on_the_real_disk() {
    for (size, start) in [(megabyte(), Lsn(0x10_0000)), (SegmentSize::new(64 << 20).unwrap(), Lsn(0x1_0000_0000))] {
        let place = tempfile::tempdir().unwrap();
        life(Log::create(Arc::new(RealDisk), place.path().join("tenant/timeline"), size, start));
    }
}

#[test]
fn a_sync_costs_one_fdatasync_and_no_directory_when_the_segment_was_prepared() {
    let (sim, mut log) = in_memory(megabyte(), Lsn(0x10_0000));
    log.wal.fill_to(Lsn(0x18_0000), 3_000);
    log.append_all(10_000).unwrap();
    let changes = |sim: &disk::SimDisk| {
        let ops = sim.take_journal().into_iter().map(|record| record.op);
        ops.filter(|op| matches!(op, Op::Sync | Op::SyncDirectory)).collect::<Vec<_>>()
    };
    changes(&sim);
    log.sync().unwrap();
    assert_eq!(changes(&sim), [Op::Sync, Op::SyncDirectory], "made in passing: its name is synced with the bytes");
    log.prepare().unwrap();
    assert_eq!(
        changes(&sim),
        [Op::Sync, Op::Sync, Op::SyncDirectory],
        "zeros a megabyte at a time, the file, its name"
    );
    log.wal.fill_to(Lsn(0x28_0000), 3_000);
    log.append_all(10_000).unwrap();
    log.sync().unwrap();
    assert_eq!(changes(&sim), [Op::Sync, Op::Sync], "two files were written, no name is new");
    log.wal.record(&[1; 10]);
    log.append_all(10_000).unwrap();
    log.sync().unwrap();
    assert_eq!(changes(&sim), [Op::Sync]);
}

#[test]
fn several_slices_are_one_write_per_segment() {
    let (sim, mut log) = in_memory(megabyte(), Lsn(0x10_0000));
    log.wal.record(&[1; 50]);
    log.append_all(1000).unwrap();
    log.prepare().unwrap();
    let at = log.storage.written().lsn();
    log.wal.fill_to(Lsn(0x20_1000), 2_000);
    let slices: Vec<Bytes> = log.wal.slice(at, log.wal.end()).chunks(5_000).map(Bytes::copy_from_slice).collect();
    sim.take_journal();
    assert_eq!(log.storage.append_all(at, &slices).unwrap().lsn(), log.wal.end());
    assert_eq!(sim.take_journal().iter().filter(|record| record.op == Op::Write).count(), 2);
    log.assert_bytes();
}

#[test]
fn what_does_not_fit_is_refused_and_changes_nothing() {
    let (_, mut log) = in_memory(megabyte(), Lsn(0x10_0000));
    let bytes = Bytes::from_static(&[1; 10]);
    let storage = &mut log.storage;
    assert!(matches!(storage.append(Lsn(0x10_0008), bytes.clone()), Err(Error::NotContiguous { .. })));
    assert!(matches!(storage.start_at(Lsn(0x20_0000)), Err(Error::AlreadyStarted(Lsn(0x10_0000)))));
    assert!(matches!(storage.start_cut(Lsn(0x10_0008)), Err(Error::CutOutside { .. })));
    storage.append(Lsn(0x10_0000), bytes.clone()).unwrap();
    let job = storage.start_cut(Lsn(0x10_0008)).unwrap();
    assert!(matches!(storage.append(Lsn(0x10_0008), bytes.clone()), Err(Error::Cutting(_))));
    assert!(matches!(storage.start_cut(Lsn(0x10_0000)), Err(Error::Cutting(_))));
    assert!(storage.start_sync().is_none() && storage.prepare_job().is_none());
    assert_eq!(storage.read_recent(Lsn(0x10_0000), 100).unwrap().concat(), [1; 8]);
    assert_eq!(storage.finish_cut(job.run().unwrap()).lsn(), Lsn(0x10_0008));
    assert_eq!(storage.append(Lsn(0x10_0008), bytes).unwrap().lsn(), Lsn(0x10_0012));

    let empty = log.recover(Lsn(0));
    assert_eq!((empty.end.lsn(), log.storage.written().lsn(), log.storage.oldest()), (Lsn(0), Lsn(0), Lsn(0)));
    assert!(matches!(log.storage.append(Lsn(0), Bytes::from_static(b"x")), Err(Error::NotStarted)));
    assert!(matches!(log.storage.start_cut(Lsn(0)), Err(Error::NotStarted)));
    assert!(matches!(log.storage.start_at(Lsn(0x10_0008)), Err(Error::NotSegmentStart(_))));
    assert!(matches!(log.storage.start_at(Lsn(0)), Err(Error::NotSegmentStart(_))));
    let last = Lsn(u64::MAX - 0xF_FFFF);
    log.storage.start_at(last).unwrap();
    assert!(matches!(log.storage.append(last, Bytes::from_static(b"x")), Err(Error::Range(_))));
}

#[test]
fn readers_see_what_is_written_and_never_cross_a_segment() {
    let (_, mut log) = in_memory(megabyte(), Lsn(0x10_0000));
    log.wal.fill_to(Lsn(0x28_0000), 9_000);
    log.append_all(70_000).unwrap();
    let reader = log.storage.reader();
    assert_eq!(reader.read(Lsn(0x1F_FFF0), 100).unwrap().len(), 16);
    assert!(reader.read(log.wal.end(), 100).unwrap().is_empty());
    assert!(reader.read(Lsn(u64::MAX), 100).unwrap().is_empty());
    assert_eq!(reader.read(Lsn(log.wal.end().0 - 5), 100).unwrap().len(), 5);
    assert!(matches!(reader.read(Lsn(0), 100), Err(Error::NotHere { segment: SegmentNumber(0) })));
    let job = log.storage.start_cut(log.wal.records()[3].end).unwrap();
    assert!(reader.clone().read(Lsn(0x20_0000), 100).unwrap().is_empty(), "cut, though the file is still there");
    log.storage.finish_cut(job.run().unwrap());
}

#[test]
fn a_removed_segment_is_gone_for_readers_before_it_is_gone() {
    let (_, mut log) = in_memory(megabyte(), Lsn(0x10_0000));
    log.wal.fill_to(Lsn(0x58_0000), 9_000);
    log.append_all(70_000).unwrap();
    let (reader, end) = (log.storage.reader(), log.wal.end());
    assert!(log.storage.remove_below(end).is_none(), "nothing is durable yet");
    log.sync().unwrap();
    assert!(log.storage.remove_below(Lsn(0x1F_FFFF)).is_none(), "the segment that holds the position stays");
    let job = log.storage.remove_below(Lsn(0x40_0000)).unwrap();
    assert!(matches!(reader.read(Lsn(0x3F_0000), 10), Err(Error::NotHere { .. })));
    assert!(!reader.read(Lsn(0x40_0000), 10).unwrap().is_empty());
    log.storage.finish_remove(job.run().unwrap());
    assert_eq!(log.names().iter().filter(|name| name.starts_with("spare.")).count(), 2);
    log.remove_below(Lsn::MAX).unwrap();
    assert_eq!(log.names().len(), 3, "two spares and the segment that holds the end");
}

#[test]
fn removals_that_overlap_keep_no_more_spares() {
    let (_, mut log) = in_memory(megabyte(), Lsn(0x10_0000));
    log.wal.fill_to(Lsn(0x78_0000), 9_000);
    log.append_all(70_000).unwrap();
    log.sync().unwrap();
    let jobs = [0x30_0000, 0x50_0000, 0x70_0000].map(|below| log.storage.remove_below(Lsn(below)).unwrap());
    for job in jobs {
        log.storage.finish_remove(job.run().unwrap());
    }
    assert_eq!(log.names().iter().filter(|name| name.starts_with("spare.")).count(), 2);
}
