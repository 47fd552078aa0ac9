//! What only shows between two threads, put together by hand.

use super::*;
use crate::{Floor, Unrecovered};
use disk::{OpenMode, SimDisk};
use lsn::SegmentSize;

#[test]
fn a_segment_whose_name_is_not_durable_yet_gets_it_from_the_next_sync() {
    let disk: Arc<dyn Disk> = Arc::new(SimDisk::new());
    let directory = PathBuf::from("/log");
    let size = SegmentSize::new(1 << 20).unwrap();
    let layout = Layout::new(size, "1:0/0:0".parse().unwrap());
    let unrecovered = Unrecovered::open(Arc::clone(&disk), &directory, layout).unwrap();
    let floor = Floor { lsn: Lsn(0), log_start: Lsn(0), system_id: None };
    let (mut storage, _) = unrecovered.recover(floor).unwrap();
    storage.start_at(Lsn(0x10_0000)).unwrap();
    storage.append(Lsn(0x10_0000), Bytes::from(vec![1; 0xF_FFF0])).unwrap();
    let done = storage.start_sync().unwrap().run().unwrap();
    storage.finish_sync(done);
    // The preparing thread has renamed the file and is about to sync the directory.
    let job = storage.prepare_job().unwrap();
    let path = storage.layout.path_of(&directory, storage.layout.file_at(Lsn(0x20_0000)));
    disk.open(&path, OpenMode::CreateNew).unwrap().set_len(size.bytes()).unwrap();
    *locked(&job.claim) = Claim::Prepared;
    storage.append(Lsn(0x1F_FFF0), Bytes::from(vec![2; 100])).unwrap();
    assert_eq!(storage.start_sync().unwrap().directory, Some(directory));
}
