//! Failing and full disks: the first failure stops the log for good, a full disk only for now.

use crate::common::{cut, in_memory, megabyte};
use bytes::Bytes;
use disk::Op;
use lsn::Lsn;
use std::io::ErrorKind;
use wal_storage::Error;

#[test]
fn after_a_failed_sync_nothing_is_ever_durable_again() {
    let (sim, mut log) = in_memory(megabyte(), Lsn(0x10_0000));
    log.wal.record(&[1; 100]);
    log.append_all(1000).unwrap();
    let durable = log.sync().unwrap();
    log.wal.record(&[2; 100]);
    log.append_all(1000).unwrap();
    sim.fail(Op::Sync, 0, ErrorKind::Other);
    let failure = log.sync().unwrap_err();
    assert!(matches!(failure, Error::Io { doing: "syncing", .. }));
    // The disk would say yes now, without the bytes.
    assert!(log.storage.start_sync().is_none());
    assert_eq!(log.storage.durable(), durable);
    let reason = log.storage.latch().reason().unwrap().to_owned();
    let refused = log.storage.append(log.wal.end(), Bytes::from_static(b"x")).unwrap_err();
    assert!(matches!(&refused, Error::Stopped(why) if **why == *reason), "{refused}");
    assert!(matches!(log.storage.start_cut(Lsn(0x10_0000)), Err(Error::Stopped(_))));
    assert!(matches!(log.storage.persist(vec![1]).run(), Err(Error::Stopped(_))));
    assert!(log.storage.prepare_job().is_none() && log.storage.remove_below(Lsn::MAX).is_none());
    // Opened again after the crash it has what it had promised.
    sim.crash(3);
    let recovered = log.recover(Lsn(0x10_0000));
    assert!(recovered.end >= durable && recovered.damage.is_none());
}

#[test]
fn jobs_made_before_a_failure_are_refused_after_it() {
    let (sim, mut log) = in_memory(megabyte(), Lsn(0x10_0000));
    log.wal.fill_to(Lsn(0x18_0000), 5000);
    log.append_all(100_000).unwrap();
    let (sync, prepare) = (log.storage.start_sync().unwrap(), log.storage.prepare_job().unwrap());
    let persist = log.storage.persist(vec![1]);
    sim.fail(Op::Write, 0, ErrorKind::Other);
    log.wal.record(&[1; 10]);
    assert!(log.append_all(1000).is_err());
    assert!(matches!(sync.run(), Err(Error::Stopped(_))));
    assert!(matches!(prepare.run(), Err(Error::Stopped(_))));
    assert!(matches!(persist.run(), Err(Error::Stopped(_))));
}

#[test]
fn every_failure_of_a_job_latches() {
    for op in [Op::Write, Op::Sync, Op::SyncDirectory, Op::Remove] {
        let (sim, mut log) = in_memory(megabyte(), Lsn(0x10_0000));
        log.wal.fill_to(Lsn(0x28_0000), 5000);
        log.append_all(100_000).unwrap();
        log.sync().unwrap();
        sim.fail(op, 0, ErrorKind::Other);
        assert!(matches!(cut(&mut log.storage, Lsn(0x10_0100)), Err(Error::Io { .. })), "{op:?}");
        assert!(log.storage.latch().reason().is_some(), "{op:?}");
    }
    for op in [Op::Create, Op::Write, Op::Sync, Op::Rename, Op::SyncDirectory] {
        let (sim, mut log) = in_memory(megabyte(), Lsn(0x10_0000));
        log.wal.record(&[1; 10]);
        log.append_all(1000).unwrap();
        sim.fail(op, 0, ErrorKind::Other);
        assert!(log.prepare().is_err(), "{op:?}");
        assert!(matches!(
            log.append_all(1000).and(log.storage.append(log.wal.end(), Bytes::new())),
            Err(Error::Stopped(_))
        ));
    }
    for op in [Op::Rename, Op::SyncDirectory] {
        let (sim, mut log) = in_memory(megabyte(), Lsn(0x10_0000));
        log.wal.fill_to(Lsn(0x28_0000), 5000);
        log.append_all(100_000).unwrap();
        log.sync().unwrap();
        sim.fail(op, 0, ErrorKind::Other);
        assert!(log.remove_below(Lsn(0x20_0000)).is_err() && log.storage.latch().reason().is_some(), "{op:?}");
    }
}

#[test]
fn a_full_disk_refuses_appends_until_there_is_room() {
    let (sim, mut log) = in_memory(megabyte(), Lsn(0x10_0000));
    log.wal.fill_to(Lsn(0x1F_0000), 5000);
    log.append_all(100_000).unwrap();
    log.sync().unwrap();
    sim.set_free_space(Some(700_000));
    assert!(log.prepare().unwrap_err().is_out_of_space());
    assert!(!log.prepare().unwrap(), "not tried again and again");
    let end = log.storage.written();
    log.wal.fill_to(Lsn(0x24_0000), 5000);
    for _ in 0..3 {
        let bytes = Bytes::copy_from_slice(log.wal.slice(end.lsn(), log.wal.end()));
        assert!(log.storage.append(end.lsn(), bytes).unwrap_err().is_out_of_space());
        assert_eq!(log.storage.written(), end);
        assert_eq!(log.storage.read_recent(end.lsn(), 1), None);
        assert_eq!(log.names().len(), 1, "nothing half-made takes the last room");
    }
    // It can still vote, sync and cut meanwhile.
    log.storage.persist(vec![1; 100]).run().unwrap();
    log.sync().unwrap();
    assert_eq!(log.storage.latch().reason(), None);
    sim.set_free_space(None);
    log.append_all(100_000).unwrap();
    log.sync().unwrap();
    log.assert_bytes();
    let recovered = log.recover(end.lsn().align_down(1 << 20));
    assert_eq!((recovered.end.lsn(), recovered.damage), (log.wal.end(), None));
}

#[test]
fn a_removal_makes_room() {
    let (sim, mut log) = in_memory(megabyte(), Lsn(0x10_0000));
    log.wal.fill_to(Lsn(0x2F_0000), 5000);
    log.append_all(100_000).unwrap();
    log.sync().unwrap();
    sim.set_free_space(Some(10_000));
    assert!(log.prepare().unwrap_err().is_out_of_space());
    log.remove_below(Lsn(0x20_0000)).unwrap();
    assert!(log.prepare().unwrap(), "the removed segment is the next one");
    log.wal.fill_to(Lsn(0x3F_0000), 5000);
    log.append_all(100_000).unwrap();
    log.assert_bytes();
}

#[test]
fn a_full_disk_in_the_middle_of_a_segment_loses_nothing() {
    // Copy-on-write file systems run full even where a file has its length.
    let (sim, mut log) = in_memory(megabyte(), Lsn(0x10_0000));
    let first = log.wal.record(&[1; 5000]);
    log.append_all(10_000).unwrap();
    log.wal.record(&[2; 5000]);
    sim.fail(Op::Write, 0, ErrorKind::StorageFull);
    assert!(log.append_all(10_000).unwrap_err().is_out_of_space());
    assert_eq!(log.sync().unwrap().lsn(), first);
    log.append_all(10_000).unwrap();
    assert_eq!(log.sync().unwrap().lsn(), log.wal.end());
    // But a sync that finds out is a lost write.
    log.wal.record(&[3; 5000]);
    log.append_all(10_000).unwrap();
    sim.fail(Op::Sync, 0, ErrorKind::StorageFull);
    assert!(!log.sync().unwrap_err().is_out_of_space());
    assert!(log.storage.latch().reason().is_some());
}
