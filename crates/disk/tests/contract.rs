//! One suite for every disk: what the simulation promises, the real one does.

#![expect(clippy::unwrap_used, reason = "helpers of a test, which may fail by panicking")]

use disk::{Disk, OpenMode, RealDisk, SimDisk};
use std::io::{ErrorKind, IoSlice};
use std::path::Path;

fn files(disk: &dyn Disk, root: &Path) {
    let path = root.join("file");
    assert_eq!(disk.open(&path, OpenMode::Read).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(disk.open(&path, OpenMode::ReadWrite).unwrap_err().kind(), ErrorKind::NotFound);
    let file = disk.open(&path, OpenMode::CreateNew).unwrap();
    assert_eq!(disk.open(&path, OpenMode::CreateNew).unwrap_err().kind(), ErrorKind::AlreadyExists);
    assert!(file.is_empty().unwrap());
    file.write_at(b"hello", 3).unwrap();
    file.write_vectored_at(&[IoSlice::new(b""), IoSlice::new(b"wo"), IoSlice::new(b""), IoSlice::new(b"rld")], 8)
        .unwrap();
    file.write_vectored_at(&[], 0).unwrap();
    let many: Vec<IoSlice<'_>> = (0..3000).map(|_| IoSlice::new(b"x")).collect();
    file.write_vectored_at(&many, 13).unwrap();
    assert_eq!(file.len().unwrap(), 3013);
    let mut buffer = [9; 16];
    assert_eq!(file.read_at(&mut buffer, 0).unwrap(), 16);
    assert_eq!(&buffer, b"\0\0\0helloworldxxx");
    assert_eq!(file.read_at(&mut buffer, 3010).unwrap(), 3);
    assert_eq!(file.read_at(&mut buffer, 5000).unwrap(), 0);
    file.set_len(4).unwrap();
    file.set_len(8).unwrap();
    let reader = disk.open(&path, OpenMode::Read).unwrap();
    assert_eq!(reader.read_at(&mut buffer, 0).unwrap(), 8);
    assert_eq!(&buffer[..8], b"\0\0\0h\0\0\0\0");
    assert!(reader.write_at(b"x", 0).is_err());
    file.sync_data().unwrap();
    file.sync_all().unwrap();
    disk.sync_directory(root).unwrap();
}

fn names(disk: &dyn Disk, root: &Path) {
    let deep = root.join("a/b");
    assert_eq!(disk.list(&deep).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(disk.sync_directory(&deep).unwrap_err().kind(), ErrorKind::NotFound);
    assert!(disk.open(&deep.join("f"), OpenMode::CreateNew).is_err());
    disk.create_dir_all(&deep).unwrap();
    disk.create_dir_all(&deep).unwrap();
    for name in ["z", "m"] {
        disk.open(&deep.join(name), OpenMode::CreateNew).unwrap().write_at(name.as_bytes(), 0).unwrap();
    }
    let listed = |path: &Path| -> Vec<_> {
        disk.list(path).unwrap().into_iter().map(|e| (e.name.into_string().unwrap(), e.len, e.is_dir)).collect()
    };
    assert_eq!(listed(&deep), [("m".to_owned(), 1, false), ("z".to_owned(), 1, false)]);
    assert_eq!(listed(&root.join("a")), [("b".to_owned(), 0, true)]);
    // A renamed file replaces the other; one that is open stays the same file.
    let open = disk.open(&deep.join("z"), OpenMode::ReadWrite).unwrap();
    disk.rename(&deep.join("z"), &deep.join("m")).unwrap();
    open.write_at(b"y", 0).unwrap();
    let mut byte = [0];
    disk.open(&deep.join("m"), OpenMode::Read).unwrap().read_at(&mut byte, 0).unwrap();
    assert_eq!((&byte, disk.exists(&deep.join("z")).unwrap()), (b"y", false));
    assert_eq!(disk.rename(&deep.join("z"), &deep.join("q")).unwrap_err().kind(), ErrorKind::NotFound);
    disk.remove_file(&deep.join("m")).unwrap();
    // A removed file can still be read by who has it open.
    assert_eq!(open.read_at(&mut byte, 0).unwrap(), 1);
    assert_eq!(disk.remove_file(&deep.join("m")).unwrap_err().kind(), ErrorKind::NotFound);
    disk.open(&deep.join("again"), OpenMode::CreateNew).unwrap();
    disk.remove_dir_all(&root.join("a")).unwrap();
    assert!(!disk.exists(&deep).unwrap());
    assert_eq!(disk.remove_dir_all(&deep).unwrap_err().kind(), ErrorKind::NotFound);
}

fn locks(disk: &dyn Disk, root: &Path) {
    let path = root.join("lock");
    let guard = disk.lock_exclusive(&path).unwrap();
    assert_eq!(disk.lock_exclusive(&path).unwrap_err().kind(), ErrorKind::WouldBlock);
    drop(guard);
    drop(disk.lock_exclusive(&path).unwrap());
    assert!(disk.exists(&path).unwrap());
    assert!(disk.free_space(root).unwrap() > 0);
    assert!(disk.free_space(&root.join("missing")).is_err());
}

fn suite(disk: &dyn Disk, root: &Path) {
    files(disk, root);
    names(disk, root);
    locks(disk, root);
}

#[test]
fn the_real_disk_keeps_the_contract() {
    let root = tempfile::tempdir().unwrap();
    suite(&RealDisk, root.path());
}

#[test]
fn the_simulated_disk_keeps_the_contract() {
    let disk = SimDisk::new();
    let root = Path::new("/root");
    disk.create_dir_all(root).unwrap();
    suite(&disk, root);
}
