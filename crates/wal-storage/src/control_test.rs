//! The control file: its bytes, its faults, and that a crash never leaves half of it.

use super::*;
use disk::{Op, SimDisk};
use proptest::prelude::*;

fn directory(disk: &SimDisk) -> PathBuf {
    let path = PathBuf::from("/log");
    disk.create_dir_all(&path).unwrap();
    disk.sync_directory(Path::new("/")).unwrap();
    path
}

fn persist(disk: &SimDisk, body: &[u8]) -> Result<(), Error> {
    PersistJob::new(Arc::new(disk.clone()), Path::new("/log"), body.to_vec()).run()
}

#[test]
fn the_bytes_are_those_of_the_table() {
    let bytes = ControlFile::encode(b"abc").unwrap();
    assert_eq!(bytes[..12], *b"SWCF\x01\0\0\0\x03\0\0\0");
    assert_eq!(bytes[12..16], crc32c::crc32c(b"SWCF\x01\0\0\0\x03\0\0\0abc").to_le_bytes());
    assert_eq!(&bytes[16..], b"abc");
}

#[test]
fn every_fault_is_another_error() {
    let good = ControlFile::encode(b"abc").unwrap();
    let decode = |change: fn(&mut Vec<u8>)| {
        let mut bytes = good.clone();
        change(&mut bytes);
        ControlFile::decode(&bytes).unwrap_err()
    };
    assert_eq!(decode(|b| b[0] = 0), ControlError::Magic([0, 0x57, 0x43, 0x46]));
    assert_eq!(decode(|b| b[4] = 2), ControlError::Version(2));
    assert_eq!(decode(|b| b[8] = 4), ControlError::Length { found: 19, expected: 20 });
    assert_eq!(decode(|b| b.push(0)), ControlError::Length { found: 20, expected: 19 });
    assert_eq!(decode(|b| b.truncate(15)), ControlError::Length { found: 15, expected: 16 });
    assert_eq!(decode(|b| b[10] = 0xFF), ControlError::TooLarge(0x00FF_0003));
    assert!(matches!(decode(|b| b[17] ^= 1), ControlError::Checksum { .. }));
    assert!(matches!(decode(|b| b[13] ^= 1), ControlError::Checksum { .. }));
    assert_eq!(ControlFile::encode(&vec![0; ControlFile::MAX_BODY + 1]), Err(ControlError::TooLarge(1_048_577)));
    assert_eq!(ControlFile::decode(&ControlFile::encode(&[]).unwrap()), Ok(Vec::new()));
}

#[test]
fn the_old_content_or_the_new_after_a_crash_anywhere() {
    let mut outcomes = std::collections::BTreeSet::new();
    for changes in 0..8 {
        for seed in 0..60 {
            let disk = SimDisk::new();
            let path = directory(&disk);
            persist(&disk, &[1; 3000]).unwrap();
            disk.power_cut_after(changes);
            let done = persist(&disk, &[2; 3000]).is_ok();
            disk.crash(seed);
            let content = ControlFile::load(&disk, &path).unwrap().unwrap();
            assert!(content == [1; 3000] || content == [2; 3000]);
            assert!(!done || content == [2; 3000], "what was promised is there");
            outcomes.insert((done, content[0]));
        }
    }
    assert_eq!(outcomes.len(), 3, "crashes before, after, and undecided were all seen");
}

#[test]
fn what_was_loaded_once_stays() {
    // Killed between the rename and the directory's sync: the new content is seen, acted upon, and must not vanish.
    for seed in 0..40 {
        let disk = SimDisk::new();
        let path = directory(&disk);
        persist(&disk, b"old").unwrap();
        disk.fail(Op::SyncDirectory, 0, io::ErrorKind::Other);
        persist(&disk, b"new").unwrap_err();
        disk.kill();
        assert_eq!(ControlFile::load(&disk, &path).unwrap().unwrap(), b"new");
        disk.crash(seed);
        assert_eq!(ControlFile::load(&disk, &path).unwrap().unwrap(), b"new");
    }
}

#[test]
fn a_first_write_cut_short_is_no_control_file() {
    for changes in 0..5 {
        for seed in 0..40 {
            let disk = SimDisk::new();
            let path = directory(&disk);
            assert!(ControlFile::load(&disk, &path).unwrap().is_none());
            disk.power_cut_after(changes);
            let done = persist(&disk, b"first").is_ok();
            disk.crash(seed);
            match ControlFile::load(&disk, &path).unwrap() {
                None => assert!(!done),
                Some(body) => assert_eq!(body, b"first"),
            }
            persist(&disk, b"second").unwrap();
        }
    }
}

#[test]
fn failures_latch_and_a_full_disk_does_not() {
    for (op, nth) in [(Op::Sync, 0), (Op::Write, 0), (Op::Rename, 0), (Op::SyncDirectory, 0)] {
        let disk = SimDisk::new();
        directory(&disk);
        let latch = Latch::new();
        let job =
            |body: &[u8]| PersistJob::new(Arc::new(disk.clone()), Path::new("/log"), body.to_vec()).latched_by(&latch);
        disk.fail(op, nth, io::ErrorKind::Other);
        assert!(matches!(job(b"x").run(), Err(Error::Io { .. })));
        assert!(matches!(job(b"x").run(), Err(Error::Stopped(_))), "{op:?}");
        assert!(latch.reason().unwrap().contains("control.new") || op == Op::SyncDirectory);
    }
    let disk = SimDisk::new();
    directory(&disk);
    persist(&disk, b"old").unwrap();
    disk.set_free_space(Some(10));
    let latch = Latch::new();
    let job = PersistJob::new(Arc::new(disk.clone()), Path::new("/log"), b"new".to_vec()).latched_by(&latch);
    assert!(job.run().unwrap_err().is_out_of_space());
    assert_eq!(
        (latch.reason(), ControlFile::load(&disk, Path::new("/log")).unwrap().unwrap()),
        (None, b"old".to_vec())
    );
}

proptest! {
    #[test]
    fn noise_is_refused_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
        prop_assert!(ControlFile::decode(&bytes).is_err());
    }
}
