//! A log under test: its disk, its WAL as it should be, and the shortest way through each job.

use bytes::Bytes;
use disk::{Disk, SimDisk};
use lsn::{Lsn, Path, SegmentSize};
use std::path::PathBuf;
use std::sync::Arc;
use wal_format::build::WalBuilder;
use wal_storage::{Durable, Error, Floor, Layout, Recovered, Unrecovered, WalReader, WalStorage};

pub(crate) fn megabyte() -> SegmentSize {
    SegmentSize::new(1 << 20).unwrap()
}

pub(crate) fn layout(size: SegmentSize) -> Layout {
    Layout::new(size, "1:0/0:0".parse::<Path>().unwrap())
}

/// A log and the WAL that belongs in it.
pub(crate) struct Log {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) directory: PathBuf,
    pub(crate) size: SegmentSize,
    pub(crate) wal: WalBuilder,
    pub(crate) storage: WalStorage,
}

/// An empty log in memory that begins at `start`.
pub(crate) fn in_memory(size: SegmentSize, start: Lsn) -> (SimDisk, Log) {
    let disk = SimDisk::new();
    let log = Log::create(Arc::new(disk.clone()), "/data/tenant/timeline".into(), size, start);
    (disk, log)
}

impl Log {
    pub(crate) fn create(disk: Arc<dyn Disk>, directory: PathBuf, size: SegmentSize, start: Lsn) -> Log {
        let (mut storage, _) = recover_at(&disk, &directory, size, Lsn(0), start).unwrap();
        storage.start_at(start).unwrap();
        cut(&mut storage, start).unwrap();
        Log { disk, directory, size, wal: WalBuilder::new(size, start), storage }
    }

    /// Appends all that the WAL has and the storage has not, in slices of `chunk` bytes.
    pub(crate) fn append_all(&mut self, chunk: usize) -> Result<(), Error> {
        let end = self.wal.end();
        self.append_to(end, chunk)
    }

    pub(crate) fn append_to(&mut self, to: Lsn, chunk: usize) -> Result<(), Error> {
        while self.storage.written().lsn() < to {
            let at = self.storage.written().lsn();
            let end = to.min(Lsn(at.0 + chunk as u64));
            self.storage.append(at, Bytes::copy_from_slice(self.wal.slice(at, end)))?;
        }
        Ok(())
    }

    pub(crate) fn sync(&mut self) -> Result<Durable, Error> {
        match self.storage.start_sync() {
            Some(job) => Ok(self.storage.finish_sync(job.run()?)),
            None => Ok(self.storage.durable()),
        }
    }

    pub(crate) fn prepare(&mut self) -> Result<bool, Error> {
        match self.storage.prepare_job() {
            Some(job) => self.storage.finish_prepare(job.run()?).map(|()| true),
            None => Ok(false),
        }
    }

    pub(crate) fn remove_below(&mut self, lsn: Lsn) -> Result<(), Error> {
        if let Some(job) = self.storage.remove_below(lsn) {
            self.storage.finish_remove(job.run()?);
        }
        Ok(())
    }

    /// Opens the log anew.
    pub(crate) fn recover(&mut self, floor: Lsn) -> Recovered {
        let start = self.wal.start();
        let (storage, recovered) = recover_at(&self.disk, &self.directory, self.size, floor, start).unwrap();
        self.storage = storage;
        recovered
    }

    pub(crate) fn path(&self, position: Lsn) -> PathBuf {
        self.directory.join(layout(self.size).file_name(position))
    }

    /// The names in the log's directory.
    pub(crate) fn names(&self) -> Vec<String> {
        self.disk.list(&self.directory).unwrap().into_iter().map(|entry| entry.name.into_string().unwrap()).collect()
    }

    /// Whether every byte from the oldest to the end is the WAL's.
    pub(crate) fn assert_bytes(&self) {
        self.assert_bytes_except(&[]);
    }

    /// The same, but for the bytes between these positions.
    pub(crate) fn assert_bytes_except(&self, tolerated: &[(Lsn, Lsn)]) {
        let (mut at, end) = (self.storage.oldest(), self.storage.written().lsn());
        let reader = self.storage.reader();
        while at < end {
            let bytes = reader.read(at, 100_000).unwrap();
            assert!(!bytes.is_empty());
            let next = Lsn(at.0 + bytes.len() as u64);
            let (mut found, mut expected) = (bytes.to_vec(), self.wal.slice(at, next).to_vec());
            for (from, to) in tolerated {
                let (from, to) = ((*from).clamp(at, next).0 - at.0, (*to).clamp(at, next).0 - at.0);
                found[from as usize..to as usize].fill(0);
                expected[from as usize..to as usize].fill(0);
            }
            assert!(found == expected, "other bytes between {at} and {next}");
            at = next;
        }
        assert_ring(&self.storage, &reader);
    }
}

fn assert_ring(storage: &WalStorage, reader: &WalReader) {
    let end = storage.written().lsn();
    for back in [1u64, 1000, 50_000] {
        let from = Lsn(end.0.saturating_sub(back)).max(storage.oldest());
        if let Some(recent) = storage.read_recent(from, 700) {
            let recent = recent.concat();
            let file = reader.read(from, 700).unwrap();
            assert!(recent[..file.len()] == file[..] && from.0 + recent.len() as u64 <= end.0);
        }
    }
}

pub(crate) fn recover_at(
    disk: &Arc<dyn Disk>,
    directory: &std::path::Path,
    size: SegmentSize,
    floor: Lsn,
    log_start: Lsn,
) -> Result<(WalStorage, Recovered), Error> {
    let unrecovered = Unrecovered::open(Arc::clone(disk), directory, layout(size))?;
    unrecovered.recover(Floor { lsn: floor, log_start, system_id: Some(WalBuilder::SYSTEM_ID) })
}

pub(crate) fn cut(storage: &mut WalStorage, to: Lsn) -> Result<Durable, Error> {
    let job = storage.start_cut(to)?;
    Ok(storage.finish_cut(job.run()?))
}
