//! What happens while a read is under way, put between its opening the file and its reading it.

use super::*;
use disk::{DirEntry, File, LockGuard, SimDisk};
use lsn::{SegmentNumber, SegmentSize};

/// A disk on which something happens when a file is opened.
struct Interrupted<F>(SimDisk, F);

impl<F> std::fmt::Debug for Interrupted<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl<F: Fn() + Send + Sync> Disk for Interrupted<F> {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        self.1();
        self.0.open(path, mode)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.rename(from, to)
    }
    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.0.remove_file(path)
    }
    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        self.0.remove_dir_all(path)
    }
    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        self.0.create_dir_all(path)
    }
    fn list(&self, directory: &Path) -> io::Result<Vec<DirEntry>> {
        self.0.list(directory)
    }
    fn exists(&self, path: &Path) -> io::Result<bool> {
        self.0.exists(path)
    }
    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        self.0.sync_directory(path)
    }
    fn free_space(&self, path: &Path) -> io::Result<u64> {
        self.0.free_space(path)
    }
    fn lock_exclusive(&self, path: &Path) -> io::Result<LockGuard> {
        self.0.lock_exclusive(path)
    }
}

fn read_while(happens: fn(&Bounds)) -> Result<Bytes, Error> {
    let size = SegmentSize::new(1 << 20).unwrap();
    let layout = Arc::new(Layout::new(size, "1:0/0:0".parse().unwrap()));
    let sim = SimDisk::new();
    let path = layout.path_of(Path::new("/"), layout.file_at(Lsn(0x10_0000)));
    sim.open(&path, OpenMode::CreateNew).unwrap().write_at(&[7; 1000], 0).unwrap();
    let bounds = Arc::new(Bounds::new(layout));
    bounds.set_oldest(Lsn(0x10_0000));
    bounds.set_written(Lsn(0x10_0100));
    let shared = Arc::clone(&bounds);
    let disk = Arc::new(Interrupted(sim, move || happens(&shared)));
    WalReader { disk, directory: "/".into(), bounds }.read(Lsn(0x10_0000), 5000)
}

#[test]
fn a_read_that_nothing_interrupts_ends_where_the_log_ends() {
    assert_eq!(read_while(|_| {}).unwrap(), [7; 256][..]);
}

#[test]
fn bytes_read_during_a_cut_are_not_given_out() {
    let cut_and_grown = |bounds: &Bounds| {
        bounds.set_written(Lsn(0x10_0080));
        bounds.count_cut();
        bounds.set_written(Lsn(0x10_0200));
    };
    assert!(read_while(cut_and_grown).unwrap().is_empty());
}

#[test]
fn bytes_read_from_a_segment_that_is_removed_meanwhile_are_not_given_out() {
    let removed = |bounds: &Bounds| bounds.set_oldest(Lsn(0x20_0000));
    assert!(matches!(read_while(removed), Err(Error::NotHere { segment: SegmentNumber(1) })));
}
