//! What recovery keeps, what it makes durable, and what it calls damage.

use crate::common::{Log, in_memory, megabyte};
use disk::{OpenMode, SimDisk};
use lsn::{Lsn, Path, SystemId, Tli};
use std::sync::Arc;
use wal_format::build::WalBuilder;
use wal_storage::{Damage, Floor, Layout, Unrecovered};

fn filled(to: u64) -> (SimDisk, Log) {
    let (sim, mut log) = in_memory(megabyte(), Lsn(0x10_0000));
    log.wal.fill_to(Lsn(to), 9_000);
    log.append_all(100_000).unwrap();
    log.sync().unwrap();
    (sim, log)
}

fn overwrite(log: &Log, at: Lsn, bytes: &[u8]) {
    let file = log.disk.open(&log.path(at), OpenMode::ReadWrite).unwrap();
    file.write_at(bytes, log.size.offset_of(at)).unwrap();
    file.sync_all().unwrap();
}

#[test]
fn rot_below_the_floor_is_damage_and_above_it_a_torn_tail() {
    let (sim, mut log) = filled(0x18_0000);
    let records = log.wal.records().to_vec();
    let (floor, victim) = (records[30].end, records[20]);
    sim.rot(&log.path(victim.start), log.size.offset_of(victim.start) + 100).unwrap();
    let recovered = log.recover(floor);
    assert!(
        matches!(recovered.damage, Some(Damage::BelowFloor { found, floor: f, .. }) if found == records[19].end && f == floor)
    );
    assert_eq!(recovered.end.lsn(), records[19].end);
    assert_eq!(recovered.last_record_start, Some(records[19].start));
    // The same place above the floor ends the log there.
    let recovered = log.recover(records[10].end);
    assert_eq!((recovered.end.lsn(), recovered.damage), (records[19].end, None));
    // Directly at the floor.
    let recovered = log.recover(records[19].end);
    assert_eq!((recovered.end.lsn(), recovered.damage), (records[19].end, None));
    assert!(log.recover(victim.end).damage.is_some());
}

#[test]
fn a_floor_where_no_record_ends_is_damage() {
    let (_, mut log) = filled(0x18_0000);
    let recovered = log.recover(Lsn(log.wal.records()[9].end.0 + 8));
    assert!(matches!(recovered.damage, Some(Damage::BelowFloor { ref why, .. }) if why.contains("no record ends")));
    assert_eq!(recovered.end.lsn(), log.wal.records()[9].end);
}

#[test]
fn a_missing_file_below_the_floor_is_damage() {
    let (_, mut log) = filled(0x28_0000);
    let end = log.wal.end();
    log.disk.remove_file(&log.path(end)).unwrap();
    let recovered = log.recover(end);
    assert!(matches!(recovered.damage, Some(Damage::BelowFloor { found: Lsn(0x20_0000), .. })));
}

#[test]
fn a_missing_file_at_a_floor_on_its_start_is_the_end() {
    let (_, mut log) = in_memory(megabyte(), Lsn(0x10_0000));
    log.wal.record(&[1; 10]);
    let floor = log.wal.switch();
    log.append_all(100_000).unwrap();
    log.sync().unwrap();
    let recovered = log.recover(floor);
    assert_eq!((recovered.end.lsn(), recovered.damage), (Lsn(0x20_0000), None));
    assert_eq!(log.storage.oldest(), Lsn(0x10_0000));
    log.wal.record(&[2; 10]);
    log.append_all(100_000).unwrap();
    log.sync().unwrap();
    assert_eq!(log.recover(floor).end.lsn(), log.wal.end());
}

#[test]
fn a_continuation_cannot_follow_a_floor_on_a_segment_start() {
    let (_, mut log) = in_memory(megabyte(), Lsn(0x10_0000));
    log.wal.record(&[1; 10]);
    let floor = log.wal.switch();
    log.append_all(100_000).unwrap();
    let mut other = WalBuilder::new(megabyte(), floor).with_continuation(50);
    other.record(&[3; 30]);
    log.storage.append(floor, bytes::Bytes::copy_from_slice(other.bytes())).unwrap();
    log.sync().unwrap();
    assert_eq!(log.recover(floor).end.lsn(), floor);
}

#[test]
fn a_log_may_begin_inside_a_record() {
    let (_, mut log) = in_memory(megabyte(), Lsn(0x10_0000));
    log.wal = WalBuilder::new(megabyte(), Lsn(0x10_0000)).with_continuation(20_000);
    let begin = log.wal.end();
    log.append_all(100_000).unwrap();
    log.sync().unwrap();
    assert_eq!(log.recover(Lsn(0x10_0000)).end.lsn(), Lsn(0x10_0000), "nothing was verified yet");
    let recovered = log.recover(begin);
    assert_eq!((recovered.end.lsn(), recovered.damage), (begin, None), "the control file vouches for it");
    log.wal.record(&[1; 5000]);
    log.append_all(100_000).unwrap();
    log.sync().unwrap();
    assert_eq!(log.recover(Lsn(0x10_0000)).end.lsn(), log.wal.end());
}

#[test]
fn own_pages_far_behind_the_break_are_damage() {
    let (sim, mut log) = filled(0x10_0000 + (12 << 20));
    let floor = log.wal.records()[2].end;
    let near = log.wal.records().iter().find(|record| record.start.0 > log.wal.end().0 - (7 << 20)).unwrap().start;
    sim.rot(&log.path(near), log.size.offset_of(near) + 60).unwrap();
    assert_eq!(log.recover(floor).damage, None, "a crash can leave that much unsynced");
    let far = log.wal.records()[60].start;
    sim.rot(&log.path(far), log.size.offset_of(far) + 60).unwrap();
    let recovered = log.recover(floor);
    assert!(matches!(recovered.damage, Some(Damage::WrittenBehind { page, .. }) if page.0 > far.0 + (8 << 20)));
    assert_eq!(recovered.end.lsn(), log.wal.records()[59].end);
}

#[test]
fn the_stale_wal_of_a_recycled_segment_is_neither_log_nor_damage() {
    let (_, mut log) = in_memory(megabyte(), Lsn(0x10_0000));
    for round in 1..=14u64 {
        log.wal.fill_to(Lsn(0x10_0000 + (round << 20) - 0x4_0000), 9_000);
        log.append_all(100_000).unwrap();
        log.sync().unwrap();
        log.remove_below(log.wal.end()).unwrap();
        log.prepare().unwrap();
        let floor = log.wal.records().iter().rev().nth(3).unwrap().end;
        let recovered = log.recover(floor);
        assert_eq!((recovered.end.lsn(), recovered.damage), (log.wal.end(), None));
        log.assert_bytes();
    }
    assert!(log.names().len() <= 4);
}

#[test]
fn what_only_the_page_cache_had_is_on_the_disk_after_recovery() {
    for seed in 0..20 {
        let (sim, mut log) = in_memory(megabyte(), Lsn(0x10_0000));
        let floor = log.wal.record(&[1; 500]);
        log.append_all(100_000).unwrap();
        log.sync().unwrap();
        log.wal.fill_to(Lsn(0x28_0000), 9_000);
        log.append_all(100_000).unwrap();
        sim.kill();
        let end = log.recover(floor).end;
        assert_eq!(end.lsn(), log.wal.end());
        sim.crash(seed);
        let again = log.recover(floor);
        assert_eq!((again.end, again.damage), (end, None));
        log.assert_bytes();
    }
}

#[test]
fn pages_of_a_failed_sync_are_written_again() {
    // The kernel dropped them but still shows them: reading proves nothing, and a plain sync would do nothing.
    for seed in 0..20 {
        let (sim, mut log) = in_memory(megabyte(), Lsn(0x10_0000));
        let floor = log.wal.record(&[1; 500]);
        log.append_all(100_000).unwrap();
        log.sync().unwrap();
        log.wal.record(&[2; 50_000]);
        log.append_all(100_000).unwrap();
        sim.fail(disk::Op::Sync, 0, std::io::ErrorKind::Other);
        log.sync().unwrap_err();
        sim.kill();
        assert_eq!(log.recover(floor).end.lsn(), log.wal.end());
        sim.crash(seed);
        assert_eq!(log.recover(floor).end.lsn(), log.wal.end());
    }
}

#[test]
fn a_segment_that_a_crash_left_short_is_filled_up() {
    let (_, mut log) = filled(0x18_0000);
    let end = log.wal.end();
    let file = log.disk.open(&log.path(end), OpenMode::ReadWrite).unwrap();
    file.set_len(log.size.offset_of(end)).unwrap();
    assert_eq!(log.recover(log.wal.records()[5].end).end.lsn(), end);
    log.wal.record(&[5; 10]);
    log.append_all(1000).unwrap();
    assert_eq!(file.len().unwrap(), log.size.bytes());
    file.set_len(1000).unwrap();
    assert!(log.recover(end).damage.is_some());
}

#[test]
fn another_clusters_wal_is_not_this_logs() {
    let (_, log) = filled(0x18_0000);
    let unrecovered =
        Unrecovered::open(Arc::clone(&log.disk), &log.directory, crate::common::layout(log.size)).unwrap();
    let floor = Floor { lsn: log.wal.start(), log_start: log.wal.start(), system_id: Some(SystemId(1)) };
    let (_, recovered) = unrecovered.recover(floor).unwrap();
    assert_eq!(recovered.end.lsn(), log.wal.start());
}

#[test]
fn leftovers_are_cleared_and_strangers_left_alone() {
    let (_, mut log) = filled(0x18_0000);
    for name in ["prepare.new", "inline.new", "control.new", "00000002.history", "spare.7", "notes"] {
        log.disk.open(&log.directory.join(name), OpenMode::CreateNew).unwrap();
    }
    log.recover(log.wal.end());
    assert_eq!(log.names(), ["000000010000000000000001", "00000002.history", "notes", "spare.7"]);
    // A spare of the wrong length is of no use.
    assert!(log.prepare().unwrap());
    let next = log.disk.open(&log.path(Lsn(0x20_0000)), OpenMode::Read).unwrap();
    assert_eq!(next.len().unwrap(), log.size.bytes());
    log.wal.fill_to(Lsn(0x28_0000), 9_000);
    log.append_all(100_000).unwrap();
    log.assert_bytes();
}

#[test]
fn a_cut_begun_before_the_crash_is_done_again() {
    let (sim, mut log) = filled(0x38_0000);
    let to = log.wal.records()[10].end;
    drop(log.storage.start_cut(to).unwrap());
    sim.kill();
    let unrecovered =
        Unrecovered::open(Arc::clone(&log.disk), &log.directory, crate::common::layout(log.size)).unwrap();
    unrecovered.cut(to).run().unwrap();
    let floor = Floor { lsn: log.wal.start(), log_start: log.wal.start(), system_id: None };
    let (storage, recovered) = unrecovered.recover(floor).unwrap();
    assert_eq!((recovered.end.lsn(), storage.written().lsn(), recovered.damage), (to, to, None));
    assert_eq!(log.names().len(), 1);
}

#[test]
fn a_cut_takes_spares_away() {
    // A spare may hold WAL of the part that is cut away; as the next segment it would look like WAL written there.
    let (_, mut log) = filled(0x38_0000);
    log.remove_below(Lsn(0x20_0000)).unwrap();
    assert!(log.names().contains(&"spare.0".to_owned()));
    crate::common::cut(&mut log.storage, log.wal.end()).unwrap();
    assert!(!log.names().contains(&"spare.0".to_owned()));
    assert!(log.prepare().unwrap(), "made of zeros instead");
}

#[test]
fn a_cut_syncs_what_is_below_it_whatever_became_of_the_sync_in_flight() {
    for seed in 0..10 {
        let (sim, mut log) = in_memory(megabyte(), Lsn(0x10_0000));
        log.wal.fill_to(Lsn(0x28_0000), 9_000);
        log.append_all(100_000).unwrap();
        drop(log.storage.start_sync().unwrap());
        let to = log.wal.records()[150].end;
        let job = log.storage.start_cut(to).unwrap();
        assert!(log.storage.durable().lsn() < to, "not before the cut is done");
        assert_eq!(log.storage.finish_cut(job.run().unwrap()).lsn(), to);
        sim.crash(seed);
        let recovered = log.recover(to);
        assert_eq!((recovered.end.lsn(), recovered.damage), (to, None));
        log.wal.cut(to);
        log.assert_bytes();
    }
}

#[test]
fn nothing_is_durable_above_a_cut_and_nothing_is_prepared_behind_it() {
    let (_, mut log) = filled(0x38_0000);
    let prepare = log.storage.prepare_job().unwrap();
    let to = log.wal.records()[10].end;
    let job = log.storage.start_cut(to).unwrap();
    assert_eq!((log.storage.durable().lsn(), log.storage.written().lsn()), (to, to));
    log.storage.finish_cut(job.run().unwrap());
    log.storage.finish_prepare(prepare.run().unwrap()).unwrap();
    assert_eq!(log.names().len(), 1, "a job from before the cut gives up");
}

#[test]
fn the_first_segment_of_a_tli_is_whole_and_its_parents_file_zero_above_the_switch() {
    let (sim, mut log) = filled(0x28_0000);
    let old: Path = "1:0/0:0".parse().unwrap();
    let to = log.wal.records().iter().rev().nth(5).unwrap().end;
    // The new TLI begins a little behind the cut: until there the log goes on in the parent's file.
    log.wal.cut(to);
    log.wal.record(&[9; 700]);
    let switch = log.wal.record(&[9; 90]);
    let new: Path = format!("1:0/0:0;2:{switch}:1").parse().unwrap();
    let size = log.size;
    let layout = |path: &Path| Layout { path: path.clone(), ..crate::common::layout(size) };
    let floor = Floor { lsn: to, log_start: log.wal.start(), system_id: None };
    let [first, second] = ["000000010000000000000001", "000000010000000000000002"];
    let job = log.storage.start_cut_on(to, new.clone()).unwrap();
    log.storage.finish_cut(job.run().unwrap());
    assert_eq!(log.names(), [first, second]);
    // The path was not recorded before a crash: the cut is done again on the old one.
    sim.kill();
    let unrecovered = Unrecovered::open(Arc::clone(&log.disk), &log.directory, layout(&old)).unwrap();
    unrecovered.cut(to).run().unwrap();
    let (mut storage, recovered) = unrecovered.recover(floor).unwrap();
    assert_eq!((recovered.end.lsn(), recovered.damage), (to, None));
    // This time it is.
    let job = storage.start_cut_on(to, new.clone()).unwrap();
    storage.finish_cut(job.run().unwrap());
    log.storage = storage;
    log.append_all(50_000).unwrap();
    log.sync().unwrap();
    assert_eq!(log.names(), [first, second], "nothing of the new TLI is here yet");
    // A recycled file may hold anything there.
    overwrite(&log, Lsn(0x2F_0000), &[7; 512]);
    log.wal.set_tli(Tli(2));
    log.wal.fill_to(Lsn(0x38_0000), 9_000);
    log.append_all(50_000).unwrap();
    log.sync().unwrap();
    let third = "000000020000000000000003";
    assert_eq!(log.names(), [first, second, "000000020000000000000002", third]);
    let raw = |name: &str| {
        let mut bytes = vec![0; size.bytes() as usize];
        log.disk.open(&log.directory.join(name), OpenMode::Read).unwrap().read_at(&mut bytes, 0).unwrap();
        bytes
    };
    let at = size.offset_of(switch) as usize;
    assert!(raw("000000020000000000000002") == log.wal.slice(Lsn(0x20_0000), Lsn(0x30_0000)), "whole");
    assert!(raw(second)[..at] == *log.wal.slice(Lsn(0x20_0000), switch) && raw(second)[at..].iter().all(|b| *b == 0));
    log.assert_bytes();
    // As long as the floor does not lie on the new TLI, a crash may have torn the copy in its file.
    let torn = log.disk.open(&log.directory.join("000000020000000000000002"), OpenMode::ReadWrite).unwrap();
    torn.write_at(&[0; 4096], 0).unwrap();
    torn.sync_all().unwrap();
    sim.crash(3);
    let unrecovered = Unrecovered::open(Arc::clone(&log.disk), &log.directory, layout(&new)).unwrap();
    let (storage, recovered) = unrecovered.recover(floor).unwrap();
    assert_eq!((recovered.end.lsn(), recovered.damage), (log.wal.end(), None));
    log.storage = storage;
    log.assert_bytes();
    assert!(raw("000000020000000000000002") == log.wal.slice(Lsn(0x20_0000), Lsn(0x30_0000)), "whole again");
    // Another lineage wins: the files of the TLI that began behind the cut go, whatever their number.
    let other: Path = format!("1:0/0:0;2:{switch}:2").parse().unwrap();
    let job = log.storage.start_cut_on(switch, other).unwrap();
    log.storage.finish_cut(job.run().unwrap());
    assert_eq!(log.names(), [first, second]);
}

#[test]
fn a_removal_cut_short_leaves_the_whole_file_of_the_later_tli() {
    let (_, mut log) = filled(0x18_0000);
    let switch = log.wal.records()[12].end;
    log.wal.cut(switch);
    let path: Path = format!("1:0/0:0;2:{switch}:1").parse().unwrap();
    let job = log.storage.start_cut_on(switch, path.clone()).unwrap();
    log.storage.finish_cut(job.run().unwrap());
    log.wal.set_tli(Tli(2));
    log.wal.fill_to(Lsn(0x28_0000), 9_000);
    log.append_all(50_000).unwrap();
    log.sync().unwrap();
    log.disk.remove_file(&log.directory.join("000000010000000000000001")).unwrap();
    let layout = Layout { path, ..crate::common::layout(log.size) };
    let unrecovered = Unrecovered::open(Arc::clone(&log.disk), &log.directory, layout).unwrap();
    let end = log.wal.end();
    let (storage, recovered) =
        unrecovered.recover(Floor { lsn: end, log_start: log.wal.start(), system_id: None }).unwrap();
    assert_eq!((recovered.end.lsn(), recovered.damage, storage.oldest()), (end, None, log.wal.start()));
    log.storage = storage;
    log.assert_bytes();
}

#[test]
fn torn_sectors_at_the_end_are_no_damage() {
    let (_, mut log) = filled(0x38_0000);
    let floor = log.wal.records()[10].end;
    let records = log.wal.records().to_vec();
    for index in (12..records.len()).step_by(7).rev() {
        overwrite(&log, Lsn(records[index].start.0 + 512).align_down(512), &[0; 512]);
        let recovered = log.recover(floor);
        assert_eq!(recovered.damage, None);
        assert_eq!(recovered.end.lsn(), records[index - 1].end);
    }
}
