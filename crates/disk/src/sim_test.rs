//! What the simulated disk may leave after a power cut, and what it must leave.

use super::*;
use proptest::prelude::*;
use std::collections::BTreeSet;

fn disk() -> SimDisk {
    let disk = SimDisk::new();
    disk.create_dir_all(Path::new("/d")).unwrap();
    disk.sync_directory(Path::new("/")).unwrap();
    disk
}

fn content(disk: &SimDisk, path: &str) -> Option<Vec<u8>> {
    let file = disk.open(Path::new(path), OpenMode::Read).ok()?;
    let mut bytes = vec![0; file.len().unwrap() as usize];
    file.read_at(&mut bytes, 0).unwrap();
    Some(bytes)
}

/// Every outcome that 200 seeds show.
fn outcomes<T: Ord>(prepare: impl Fn(&SimDisk), look: impl Fn(&SimDisk) -> T) -> BTreeSet<T> {
    let outcome = |seed| {
        let disk = disk();
        prepare(&disk);
        disk.crash(seed);
        look(&disk)
    };
    (0..200).map(outcome).collect()
}

#[test]
fn synced_bytes_and_names_stay() {
    let prepare = |disk: &SimDisk| {
        let file = disk.open(Path::new("/d/a"), OpenMode::CreateNew).unwrap();
        file.write_at(&[1; 1000], 0).unwrap();
        file.sync_data().unwrap();
        disk.sync_directory(Path::new("/d")).unwrap();
    };
    assert_eq!(outcomes(prepare, |disk| content(disk, "/d/a")), BTreeSet::from([Some(vec![1; 1000])]));
}

#[test]
fn an_unsynced_name_may_be_lost_although_its_bytes_are_synced() {
    let prepare = |disk: &SimDisk| {
        let file = disk.open(Path::new("/d/a"), OpenMode::CreateNew).unwrap();
        file.write_at(&[1; 10], 0).unwrap();
        file.sync_all().unwrap();
    };
    assert_eq!(outcomes(prepare, |disk| content(disk, "/d/a")), BTreeSet::from([None, Some(vec![1; 10])]));
}

#[test]
fn unsynced_sectors_come_in_every_combination() {
    let prepare = |disk: &SimDisk| {
        let file = disk.open(Path::new("/d/a"), OpenMode::CreateNew).unwrap();
        file.write_at(&[0; 1024], 0).unwrap();
        file.sync_data().unwrap();
        disk.sync_directory(Path::new("/d")).unwrap();
        file.write_at(&[1; 1024], 0).unwrap();
    };
    let firsts =
        outcomes(prepare, |disk| content(disk, "/d/a").map(|bytes| (bytes[0], bytes[511], bytes[512], bytes[1023])));
    let all = [(0, 0, 0, 0), (1, 1, 0, 0), (0, 0, 1, 1), (1, 1, 1, 1)].map(Some);
    assert_eq!(firsts, BTreeSet::from(all));
}

#[test]
fn a_rename_is_there_or_not_but_never_half() {
    let prepare = |disk: &SimDisk| {
        for (name, byte) in [("/d/old", 1), ("/d/new", 2)] {
            let file = disk.open(Path::new(name), OpenMode::CreateNew).unwrap();
            file.write_at(&[byte], 0).unwrap();
            file.sync_data().unwrap();
        }
        disk.sync_directory(Path::new("/d")).unwrap();
        disk.rename(Path::new("/d/new"), Path::new("/d/old")).unwrap();
    };
    let seen = outcomes(prepare, |disk| (content(disk, "/d/old"), content(disk, "/d/new")));
    assert_eq!(seen, BTreeSet::from([(Some(vec![1]), Some(vec![2])), (Some(vec![2]), None)]));
}

#[test]
fn removals_and_lengths_may_be_undone() {
    let prepare = |disk: &SimDisk| {
        let file = disk.open(Path::new("/d/a"), OpenMode::CreateNew).unwrap();
        file.write_at(&[1; 3], 0).unwrap();
        file.sync_data().unwrap();
        disk.sync_directory(Path::new("/d")).unwrap();
        file.set_len(1).unwrap();
        disk.remove_file(Path::new("/d/a")).unwrap();
    };
    let seen = outcomes(prepare, |disk| content(disk, "/d/a"));
    assert_eq!(seen, BTreeSet::from([None, Some(vec![1]), Some(vec![1, 1, 1])]));
}

#[test]
fn a_kill_keeps_the_page_cache_but_not_the_handles() {
    let disk = disk();
    let file = disk.open(Path::new("/d/a"), OpenMode::CreateNew).unwrap();
    let guard = disk.lock_exclusive(Path::new("/d/lock")).unwrap();
    assert_eq!(disk.lock_exclusive(Path::new("/d/lock")).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    file.write_at(&[1], 0).unwrap();
    disk.kill();
    assert!(file.write_at(&[2], 0).is_err());
    assert_eq!(content(&disk, "/d/a"), Some(vec![1]));
    let _second = disk.lock_exclusive(Path::new("/d/lock")).unwrap();
    drop(guard);
    assert!(disk.lock_exclusive(Path::new("/d/lock")).is_err(), "a dead process's guard frees nothing");
}

#[test]
fn a_failed_sync_forgets_and_the_next_one_lies() {
    let seen = outcomes(
        |disk| {
            let file = disk.open(Path::new("/d/a"), OpenMode::CreateNew).unwrap();
            file.set_len(1).unwrap();
            file.sync_all().unwrap();
            disk.sync_directory(Path::new("/d")).unwrap();
            file.write_at(&[1], 0).unwrap();
            disk.fail(Op::Sync, 0, io::ErrorKind::Other);
            assert!(file.sync_data().is_err());
            assert!(file.sync_data().is_ok());
            assert_eq!(content(disk, "/d/a"), Some(vec![1]));
        },
        |disk| content(disk, "/d/a"),
    );
    assert_eq!(seen, BTreeSet::from([Some(vec![0])]));
}

#[test]
fn faults_come_when_they_are_due() {
    let disk = disk();
    let file = disk.open(Path::new("/d/a"), OpenMode::CreateNew).unwrap();
    disk.fail(Op::Write, 1, io::ErrorKind::InvalidData);
    file.write_at(&[1], 0).unwrap();
    assert_eq!(file.write_at(&[2], 0).unwrap_err().kind(), io::ErrorKind::InvalidData);
    file.write_at(&[3], 0).unwrap();
    disk.fail(Op::Read, 0, io::ErrorKind::Other);
    assert!(file.read_at(&mut [0], 0).is_err());
    disk.set_free_space(Some(5));
    assert_eq!(disk.free_space(Path::new("/d")).unwrap(), 5);
    assert_eq!(file.write_at(&[4; 10], 1).unwrap_err().kind(), io::ErrorKind::StorageFull);
    assert_eq!(disk.free_space(Path::new("/d")).unwrap(), 0, "what fitted was written");
    file.write_at(&[5; 6], 0).unwrap();
    disk.set_free_space(None);
    file.write_at(&[4; 10], 1).unwrap();
    disk.rot(Path::new("/d/a"), 0).unwrap();
    assert_eq!(content(&disk, "/d/a").unwrap()[0], 5 ^ 0x10);
    assert!(disk.rot(Path::new("/d/a"), 100).is_err());
}

#[test]
fn the_power_goes_after_so_many_changes() {
    let disk = disk();
    disk.power_cut_after(2);
    let file = disk.open(Path::new("/d/a"), OpenMode::CreateNew).unwrap();
    file.write_at(&[1], 0).unwrap();
    assert!(file.sync_data().is_err());
    assert!(disk.list(Path::new("/d")).is_err());
    disk.crash(1);
    assert!(disk.list(Path::new("/d")).is_ok());
    let ops: Vec<_> = disk.take_journal().into_iter().map(|record| record.op).collect();
    assert_eq!(ops, [Op::Create, Op::SyncDirectory, Op::Create, Op::Write, Op::List]);
}

#[test]
fn all_images_are_all_that_seeds_can_give() {
    let disk = disk();
    let write = |name: &str, byte: u8, len: usize| {
        let file = disk.open(Path::new(name), OpenMode::CreateNew).unwrap();
        file.write_at(&vec![byte; len], 0).unwrap();
        file
    };
    let synced = write("/d/a", 1, 1024);
    synced.sync_data().unwrap();
    disk.sync_directory(Path::new("/d")).unwrap();
    synced.write_at(&[2; 300], 400).unwrap();
    synced.write_at(&[3; 300], 400).unwrap();
    write("/d/b", 4, 700);
    disk.rename(Path::new("/d/b"), Path::new("/d/a")).unwrap();
    let images = disk.crash_images(1000);
    assert!(images.is_complete());
    let all: BTreeSet<_> = images.map(|image| (content(&image, "/d/a"), content(&image, "/d/b"))).collect();
    let seeded = |seed| {
        let disk = disk.fork();
        disk.crash(seed);
        (content(&disk, "/d/a"), content(&disk, "/d/b"))
    };
    let seeded: BTreeSet<_> = (0..1000).map(seeded).collect();
    assert!(seeded.is_subset(&all) && seeded.len() > all.len() / 2, "{} of {}", seeded.len(), all.len());
    // The rename lost and the creation too: 3 * 3 images of the old file.
    let old = |a: &Option<Vec<u8>>| a.as_ref().is_some_and(|a| a.len() == 1024);
    assert_eq!(all.iter().filter(|(a, b)| b.is_none() && old(a)).count(), 9);
    assert_eq!(content(&disk, "/d/a"), Some(vec![4; 700]), "the disk itself goes on");
    // Fewer than there are: the extremes are among them.
    let few = disk.crash_images(16);
    assert!(!few.is_complete());
    let few: BTreeSet<_> = few.map(|image| image.digest()).collect();
    for limit in [16, 40] {
        assert!(disk.crash_images(limit).count() <= limit);
    }
    let everything = disk.crash_images(1000).last().unwrap();
    assert!(few.contains(&everything.digest()) && everything.digest() == disk.digest());
    assert!(few.contains(&disk.crash_images(1000).next().unwrap().digest()));
}

proptest! {
    #[test]
    fn bytes_in_pages_are_bytes(steps in proptest::collection::vec((0usize..20_000, 0usize..9000, 0u8..3, any::<bool>()), 0..12)) {
        let (mut pages, mut plain) = (crate::sim_bytes::Bytes::default(), Vec::new());
        for (offset, len, byte, cut) in steps {
            if cut {
                pages.resize(offset);
                plain.resize(offset, 0);
            } else {
                pages.write(offset, &vec![byte; len]);
                plain.resize(plain.len().max(offset + len), 0);
                plain[offset..offset + len].fill(byte);
            }
            let mut read = vec![9; plain.len() + 5];
            prop_assert_eq!(pages.read(0, &mut read), plain.len());
            prop_assert_eq!(&read[..plain.len()], &plain[..]);
            prop_assert_eq!(pages.len(), plain.len());
        }
    }

    #[test]
    fn a_crash_is_the_same_for_the_same_seed(writes in proptest::collection::vec((0u64..5000, 1usize..2000, 0u8..9, any::<bool>()), 0..12), seed: u64) {
        let build = || {
            let disk = disk();
            let file = disk.open(Path::new("/d/a"), OpenMode::CreateNew).unwrap();
            disk.sync_directory(Path::new("/d")).unwrap();
            for (offset, len, byte, sync) in &writes {
                file.write_at(&vec![*byte; *len], *offset).unwrap();
                if *sync {
                    file.sync_data().unwrap();
                }
            }
            disk.crash(seed);
            content(&disk, "/d/a")
        };
        prop_assert_eq!(build(), build());
    }
}
