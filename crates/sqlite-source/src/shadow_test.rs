//! The shadow WAL on a disk that crashes: what was made durable is found again, whole, and nothing else is.

use super::*;
use disk::SimDisk;
use sqlite_wal::{ByteOrder, PageSize, Salts};
use std::num::NonZeroU32;

const PAGE: [u8; 512] = [3; 512];

fn header(number: u8) -> Header {
    Header { order: ByteOrder::Little, page_size: PageSize::new(512).unwrap(), sequence: 1, salts: Salts([number; 8]) }
}

fn dir() -> &'static Path {
    Path::new("/db/.app.db-seawall")
}

fn open(disk: &SimDisk) -> Shadow {
    Shadow::open(Arc::new(disk.clone()), dir(), Path::new("/db/app.db")).unwrap()
}

fn append(shadow: &Shadow, log: &mut Log, commit: bool) {
    let file = shadow.open_life(log.generation, log.index, OpenMode::ReadWrite).unwrap();
    let at = log.chain.offset();
    let head = log.chain.append(NonZeroU32::MIN, commit.then_some(NonZeroU32::MIN), &PAGE).unwrap();
    file.write_at(&[head.as_slice(), &PAGE].concat(), at).unwrap();
    file.sync_data().unwrap();
}

#[test]
fn it_is_found_again_up_to_the_last_commit() {
    let disk = SimDisk::new();
    let shadow = open(&disk);
    assert_eq!(shadow.resume().unwrap(), None);
    let mut log = shadow.begin_life(7, 0, header(1)).unwrap();
    append(&shadow, &mut log, true);
    shadow.publish(7).unwrap();
    let committed = log;
    append(&shadow, &mut log, false);
    // Behind the unfinished transaction something that is no frame.
    let file = shadow.open_life(7, 0, OpenMode::ReadWrite).unwrap();
    file.write_at(&[9; 600], log.chain.offset()).unwrap();
    drop((shadow, file));
    let shadow = open(&disk);
    let found = shadow.resume().unwrap().unwrap();
    assert_eq!((found.generation, found.index), (7, 0));
    assert_eq!(found.chain.offset(), committed.chain.offset());
    assert_eq!(found.chain.checksum(), committed.chain.checksum());
    shadow.end_life(&found).unwrap();
    let file = shadow.open_life(7, 0, OpenMode::Read).unwrap();
    assert_eq!(file.len().unwrap(), committed.chain.offset());
    // The next life, and the first removed.
    let next = shadow.begin_life(7, 1, header(2)).unwrap();
    assert_eq!(shadow.resume().unwrap().unwrap(), next);
    assert_eq!(shadow.remove_below(7, 1).unwrap(), 1);
    assert_eq!(shadow.remove_below(7, 1).unwrap(), 0);
    shadow.forget().unwrap();
    assert_eq!(shadow.resume().unwrap(), None);
    shadow.forget().unwrap();
}

#[test]
fn a_new_generation_takes_the_place_of_the_old_one_and_only_whole() {
    let disk = SimDisk::new();
    let shadow = open(&disk);
    shadow.begin_life(7, 0, header(1)).unwrap();
    shadow.publish(7).unwrap();
    let log = shadow.begin_life(8, 0, header(2)).unwrap();
    assert_eq!(shadow.resume().unwrap().unwrap().generation, 7, "not published");
    shadow.publish(8).unwrap();
    assert_eq!(shadow.resume().unwrap().unwrap(), log);
    assert!(!disk.exists(&dir().join("generations/0000000000000007")).unwrap());
    assert!(matches!(Shadow::open(Arc::new(disk.clone()), dir(), Path::new("/db/app.db")), Err(Error::Locked { .. })));
}

#[test]
fn only_names_that_are_ours_count() {
    assert_eq!(parse_generation(b"00000000000000ff\n"), Some(255));
    for bad in [&b"00000000000000ff"[..], b"00000000000000FF\n", b"0ff\n", b"", b"\xff\n", b"+0000000000000ff\n"] {
        assert_eq!(parse_generation(bad), None, "{bad:?}");
    }
    assert_eq!(parse_life("0000000a.wal"), Some(10));
    for bad in ["a.wal", "0000000a", "0000000a.wal.tmp", "0000000g.wal"] {
        assert_eq!(parse_life(bad), None, "{bad}");
    }
}
