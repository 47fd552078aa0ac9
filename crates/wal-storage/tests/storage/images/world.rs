//! A log that is written step by step, and what may be found of it after a crash at any of the steps.

use crate::common::{layout, megabyte};
use crate::model::Control;
use bytes::Bytes;
use disk::{Disk, SimDisk};
use lsn::{Lsn, Path, PathEntry, Tli};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path as FilePath;
use std::sync::Arc;
use wal_format::build::WalBuilder;
use wal_storage::{Durable, Error, PersistJob, Unrecovered, WalStorage};

pub(crate) const START: Lsn = Lsn(0x10_0000);

pub(crate) fn directory() -> &'static FilePath {
    FilePath::new("/data/tenant/timeline")
}

/// What a crash must leave and may leave.
#[derive(Clone)]
pub(crate) struct Expected {
    /// The WAL as it was handed to the storage, durable or not.
    pub(crate) wal: WalBuilder,
    /// What the control file may say; `None`: there may be none.
    pub(crate) controls: Vec<Option<Control>>,
    /// A record end below which every byte was said to be durable.
    pub(crate) promised: Lsn,
}

impl Expected {
    /// The last record end at or below a position.
    pub(crate) fn boundary(&self, position: Lsn) -> Lsn {
        let records = self.wal.records();
        let count = records.partition_point(|record| record.end <= position);
        count.checked_sub(1).map_or(START, |last| records[last].end)
    }

    /// Equal expectations have the same number.
    pub(crate) fn digest(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        (self.promised.0, self.wal.end().0, self.wal.records().last().map(|record| record.crc)).hash(&mut hasher);
        for control in &self.controls {
            control.as_ref().map(Control::encode).hash(&mut hasher);
        }
        hasher.finish()
    }
}

/// Where the TLI begins that a log goes on to after a cut.
#[derive(Clone, Copy)]
pub(crate) enum Ahead {
    /// Behind one record with a payload of so many bytes.
    Near(usize),
    /// The same in the next segment.
    NextSegment(usize),
}

/// A log being written. Every method that touches the disk fails when the power goes.
pub(crate) struct World {
    pub(crate) sim: SimDisk,
    disk: Arc<dyn Disk>,
    storage: Option<WalStorage>,
    pub(crate) expected: Expected,
    path: Path,
    salt: u8,
}

impl World {
    /// A disk with nothing on it but the data directory, with power for `changes` changes.
    pub(crate) fn new(changes: u64) -> World {
        let sim = SimDisk::new();
        sim.create_dir_all(FilePath::new("/data")).unwrap();
        sim.sync_directory(FilePath::new("/")).unwrap();
        sim.power_cut_after(changes);
        let expected =
            Expected { wal: WalBuilder::new(megabyte(), START), controls: vec![None], promised: Lsn::INVALID };
        let path = layout(megabyte()).path;
        World { disk: Arc::new(sim.clone()), sim, storage: None, expected, path, salt: 0 }
    }

    /// Goes on with a log that was recovered.
    pub(crate) fn resumed(sim: &SimDisk, storage: WalStorage, control: Control, expected: Expected) -> World {
        let path = control.path;
        World { disk: Arc::new(sim.clone()), sim: sim.clone(), storage: Some(storage), expected, path, salt: 200 }
    }

    pub(crate) fn storage(&mut self) -> &mut WalStorage {
        self.storage.as_mut().unwrap()
    }

    /// As a safekeeper makes a log: the directory, the control file, and at the first election the start.
    pub(crate) fn create(&mut self) -> Result<(), Error> {
        wal_storage::create_directory(&*self.disk, directory())?;
        let first = Control { floor: Lsn::INVALID, cutting: None, path: self.path.clone() };
        self.expected.controls.push(Some(first.clone()));
        PersistJob::new(Arc::clone(&self.disk), directory(), first.encode()).run()?;
        self.expected.controls = vec![Some(first)];
        let unrecovered = Unrecovered::open(Arc::clone(&self.disk), directory(), layout(megabyte()))?;
        let floor = wal_storage::Floor { lsn: Lsn::INVALID, log_start: START, system_id: None };
        self.storage = Some(unrecovered.recover(floor)?.0);
        self.persist(Lsn::INVALID, Some(START))?;
        self.storage().start_at(START)?;
        let job = self.storage().start_cut(START)?;
        let done = job.run()?;
        self.storage().finish_cut(done);
        self.persist(START, None)
    }

    fn persist(&mut self, floor: Lsn, cutting: Option<Lsn>) -> Result<(), Error> {
        let control = Control { floor, cutting, path: self.path.clone() };
        self.expected.controls.push(Some(control.clone()));
        let job = self.storage().persist(control.encode());
        job.run()?;
        self.expected.controls = vec![Some(control)];
        Ok(())
    }

    /// Writes the floor, as is done now and then.
    pub(crate) fn floor(&mut self) -> Result<(), Error> {
        let durable = self.storage().durable().lsn();
        let floor = self.expected.boundary(durable);
        self.persist(floor, None)
    }

    /// Records with payloads of so many bytes, handed over in one write.
    pub(crate) fn append(&mut self, payloads: &[usize]) -> Result<(), Error> {
        for length in payloads {
            self.salt += 1;
            self.expected.wal.record(&vec![self.salt; *length]);
        }
        self.hand_over()
    }

    /// Fills the segment up with a switch and goes on in the next.
    pub(crate) fn switch(&mut self, payload: usize) -> Result<(), Error> {
        self.expected.wal.switch();
        self.append(&[payload])
    }

    /// Gives the storage what it has not; once more after a refusal.
    pub(crate) fn hand_over(&mut self) -> Result<(), Error> {
        let (from, to) = (self.storage().written().lsn(), self.expected.wal.end());
        let bytes = Bytes::copy_from_slice(self.expected.wal.slice(from, to));
        self.storage().append(from, bytes).map(|_| ())
    }

    fn promise(&mut self, durable: Durable) {
        let boundary = self.expected.boundary(durable.lsn());
        self.expected.promised = self.expected.promised.max(boundary);
    }

    pub(crate) fn sync(&mut self) -> Result<(), Error> {
        self.sync_while(|_| Ok(()))
    }

    /// A sync in whose flight something else is done.
    pub(crate) fn sync_while(&mut self, other: impl FnOnce(&mut World) -> Result<(), Error>) -> Result<(), Error> {
        let job = self.storage().start_sync();
        other(self)?;
        if let Some(job) = job {
            let done = job.run()?;
            let durable = self.storage().finish_sync(done);
            self.promise(durable);
        }
        Ok(())
    }

    pub(crate) fn prepare(&mut self) -> Result<(), Error> {
        match self.storage().prepare_job() {
            Some(job) => {
                let done = job.run()?;
                self.storage().finish_prepare(done)
            }
            None => Ok(()),
        }
    }

    /// A preparation that comes too late: something else is done first.
    pub(crate) fn prepare_after(&mut self, other: impl FnOnce(&mut World) -> Result<(), Error>) -> Result<(), Error> {
        let job = self.storage().prepare_job();
        other(self)?;
        match job {
            Some(job) => {
                let done = job.run()?;
                self.storage().finish_prepare(done)
            }
            None => Ok(()),
        }
    }

    /// Removes the segments below the floor that was written last.
    pub(crate) fn remove(&mut self) -> Result<(), Error> {
        let floor = self.expected.controls[0].as_ref().unwrap().floor;
        if let Some(job) = self.storage().remove_below(floor) {
            let done = job.run()?;
            self.storage().finish_remove(done);
        }
        Ok(())
    }

    /// The end of the `n`th record.
    pub(crate) fn record_end(&self, n: usize) -> Lsn {
        self.expected.wal.records()[n].end
    }

    /// An election that cuts the log, and lets it go on to a TLI that begins behind the cut.
    pub(crate) fn cut(&mut self, to: Lsn, ahead: Option<Ahead>) -> Result<(), Error> {
        let floor = self.expected.controls[0].as_ref().unwrap().floor.min(to);
        self.persist(floor, Some(to))?;
        self.expected.promised = self.expected.promised.min(to);
        self.expected.wal.cut(to);
        let mut entries = self.path.cut(to).entries().to_vec();
        let tli = entries[entries.len() - 1].tli;
        self.expected.wal.set_tli(tli);
        if let Some(ahead) = ahead {
            let payload = match ahead {
                Ahead::Near(payload) => payload,
                Ahead::NextSegment(payload) => {
                    self.expected.wal.switch();
                    payload
                }
            };
            self.salt += 1;
            let begin = self.expected.wal.record(&vec![self.salt; payload]);
            entries.push(PathEntry { tli: Tli(tli.0 + 1), begin, mark: u32::from(self.salt) });
            self.expected.wal.set_tli(Tli(tli.0 + 1));
        }
        let path = Path::new(entries).unwrap();
        let job = self.storage().start_cut_on(to, path.clone())?;
        let done = job.run()?;
        let durable = self.storage().finish_cut(done);
        self.path = path;
        self.persist(to, None)?;
        self.promise(durable);
        Ok(())
    }
}
