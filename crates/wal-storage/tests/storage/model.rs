//! Random logs against a model, with a power cut or a kill at any operation.
//!
//! The driver here does what the protocol above the storage does: it keeps floor and path in the control file, cuts in three
//! steps, perhaps onto a path that goes on to another TLI, and counts as promised what a finished sync, cut or recovery said to be durable. After every crash all that was promised
//! must be there, byte for byte, and nothing a crash can do may look like damage.

use crate::common::{Log, in_memory, layout, megabyte};
use disk::{Disk, OpenMode, SimDisk};
use lsn::{Lsn, Path, PathEntry, Tli};
use std::sync::Arc;
use wal_storage::{ControlFile, Error, Floor, Layout, PersistJob, Unrecovered};

struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

/// What the control file says.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Control {
    pub(crate) floor: Lsn,
    pub(crate) cutting: Option<Lsn>,
    pub(crate) path: Path,
}

impl Control {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let numbers = [self.floor.0.to_le_bytes(), self.cutting.unwrap_or_default().0.to_le_bytes()].concat();
        [numbers, self.path.to_string().into_bytes()].concat()
    }

    pub(crate) fn decode(body: &[u8]) -> Control {
        let word = |at: usize| Lsn(u64::from_le_bytes(body[at..at + 8].try_into().unwrap()));
        let path = std::str::from_utf8(&body[16..]).unwrap().parse().unwrap();
        Control { floor: word(0), cutting: Some(word(8)).filter(|to| to.is_valid()), path }
    }
}

struct World {
    sim: SimDisk,
    log: Log,
    dice: Dice,
    control: Control,
    /// A record end below which every byte was said to be durable.
    promised: Lsn,
    salt: u8,
    /// Beginnings of records that were never finished: no checksum covers them.
    unfinished: Vec<(Lsn, Lsn)>,
    /// Those of them that were not durable yet when a crash came: they may hold anything.
    torn: Vec<(Lsn, Lsn)>,
}

impl World {
    fn new(seed: u64) -> World {
        let start = if seed.is_multiple_of(2) { Lsn(0x10_0000) } else { Lsn(0x3_FFE0_0000) };
        let (sim, log) = in_memory(megabyte(), start);
        let control = Control { floor: start, cutting: None, path: layout(log.size).path };
        log.storage.persist(control.encode()).run().unwrap();
        World {
            sim,
            log,
            dice: Dice(seed),
            control,
            promised: start,
            salt: 0,
            unfinished: Vec::new(),
            torn: Vec::new(),
        }
    }

    /// The last record end at or below a position.
    fn boundary(&self, position: Lsn) -> Lsn {
        let records = self.log.wal.records();
        let count = records.partition_point(|record| record.end <= position);
        count.checked_sub(1).map_or(self.log.wal.start(), |last| records[last].end)
    }

    fn persist(&mut self, control: Control) -> Result<(), Error> {
        self.log.storage.persist(control.encode()).run()?;
        self.control = control;
        Ok(())
    }

    fn promise(&mut self, durable: Lsn) {
        self.promised = self.promised.max(self.boundary(durable));
    }

    fn append(&mut self) -> Result<(), Error> {
        if self.log.storage.written().lsn().0 - self.log.storage.durable().lsn().0 > 6 << 20 {
            return Ok(());
        }
        let target = Lsn(self.log.storage.written().lsn().0 + self.dice.roll(400_000));
        while self.log.wal.end() < target {
            let payload =
                vec![self.salt; self.dice.roll(if self.salt.is_multiple_of(3) { 3_000 } else { 90_000 }) as usize];
            match self.dice.roll(40) {
                0 => self.log.wal.switch(),
                1 => {
                    let begin = self.log.wal.end();
                    let end = self.log.wal.aborted(&[payload, vec![1; 40_000]].concat(), 2);
                    self.unfinished.push((begin, end.align_down(8192)));
                    end
                }
                _ => self.log.wal.record(&payload),
            };
        }
        let chunk = 1 + self.dice.roll(200_000) as usize;
        self.log.append_to(target, chunk)
    }

    fn cut(&mut self, to: Lsn) -> Result<(), Error> {
        let old = self.control.path.clone();
        self.persist(Control { floor: self.control.floor.min(to), cutting: Some(to), path: old.clone() })?;
        self.promised = self.promised.min(to);
        self.log.wal.cut(to);
        let path = self.next_path(&old, to);
        let job = self.log.storage.start_cut_on(to, path.clone())?;
        let durable = self.log.storage.finish_cut(job.run()?);
        assert_eq!(durable.lsn(), to);
        self.unfinished.retain(|(_, end)| *end <= to);
        self.torn.retain(|(_, end)| *end <= to);
        self.salt += 1;
        self.persist(Control { floor: to, cutting: None, path })?;
        self.promise(to);
        Ok(())
    }

    /// The path after a cut: the one from before, or one that goes on to new TLIs at or behind the cut. Their numbers may
    /// have been used before, by TLIs that are cut away.
    fn next_path(&mut self, old: &Path, to: Lsn) -> Path {
        let mut entries = old.cut(to).entries().to_vec();
        self.log.wal.set_tli(old.cut(to).last().tli);
        while self.dice.roll(3) == 0 {
            for _ in 0..self.dice.roll(3) {
                let length = self.dice.roll(300_000) as usize;
                self.log.wal.record(&vec![self.salt; length]);
            }
            let tli = Tli(entries[entries.len() - 1].tli.0 + 1);
            entries.push(PathEntry { tli, begin: self.log.wal.end(), mark: u32::from(self.salt) });
            self.log.wal.set_tli(tli);
        }
        Path::new(entries).unwrap()
    }

    /// The first segment of every TLI is whole, and its parent's file holds nothing above the switch point.
    fn assert_switches(&self) {
        let (size, end) = (self.log.size, self.log.storage.written().lsn());
        for pair in self.control.path.entries().windows(2) {
            let (parent, child) = (pair[0].tli, pair[1]);
            let (start, offset) = (size.start_of_segment_at(child.begin), size.offset_of(child.begin));
            let own = self.control.path.tli_at(child.begin) == child.tli
                && self.control.path.tli_at(Lsn(child.begin.0 - 1)) == parent;
            if !own || offset == 0 || child.begin >= end || start < self.log.storage.oldest() {
                continue;
            }
            let raw = |tli: Tli| {
                let mut bytes = vec![0; size.bytes() as usize];
                let name = size.file_name(tli, size.segment_of(start));
                let file = self.log.disk.open(&self.log.directory.join(name), OpenMode::Read).ok()?;
                file.read_at(&mut bytes, 0).unwrap();
                Some(bytes)
            };
            let below = self.log.wal.slice(start.max(self.log.wal.start()), child.begin);
            let whole = raw(child.tli).expect("the child's file is there");
            let torn = self.torn.iter().any(|(from, to)| *from < child.begin && start < *to);
            assert!(
                torn || whole[..offset as usize] == *below,
                "TLI {} does not begin with its parent's bytes",
                child.tli
            );
            // A removal cut short may have taken the parent's file.
            assert!(raw(parent).is_none_or(|bytes| bytes[offset as usize..].iter().all(|byte| *byte == 0)));
        }
    }

    fn step(&mut self) -> Result<(), Error> {
        match self.dice.roll(20) {
            0..=6 => self.append()?,
            7..=9 => {
                let durable = self.log.sync()?;
                self.promise(durable.lsn());
            }
            10 | 11 => {
                // The log grows while the sync is in flight.
                let job = self.log.storage.start_sync();
                self.append()?;
                if let Some(job) = job {
                    let durable = self.log.storage.finish_sync(job.run()?);
                    self.promise(durable.lsn());
                }
            }
            12 => {
                self.log.prepare()?;
            }
            13 => {
                // The log grows, perhaps into the segment that is being prepared; the job ends before or after that is told.
                let job = self.log.storage.prepare_job();
                if self.dice.roll(2) == 0 {
                    for _ in 0..4 {
                        self.append()?;
                    }
                    if let Some(job) = job {
                        self.log.storage.finish_prepare(job.run()?)?;
                    }
                } else {
                    let done = job.map(|job| job.run()).transpose()?;
                    for _ in 0..4 {
                        self.append()?;
                    }
                    done.map_or(Ok(()), |done| self.log.storage.finish_prepare(done))?;
                }
            }
            14 | 15 => {
                let floor = self.boundary(self.log.storage.durable().lsn());
                let path = self.control.path.clone();
                self.persist(Control { floor, cutting: None, path })?;
            }
            16 | 17 => {
                let (low, high) = (self.log.storage.oldest(), self.log.storage.written().lsn());
                let somewhere = Lsn(low.0 + self.dice.roll(high.0 - low.0 + 1));
                let to = self.boundary(somewhere);
                if to >= low {
                    // A sync or a preparation may be under way.
                    let sync = if self.dice.roll(2) == 0 { self.log.storage.start_sync() } else { None };
                    let prepare = if self.dice.roll(2) == 0 { self.log.storage.prepare_job() } else { None };
                    let synced = sync.map(|job| job.run()).transpose()?;
                    let early = self.dice.roll(2) == 0;
                    let (prepare, prepared) = match prepare {
                        Some(job) if early => (None, Some(job.run()?)),
                        other => (other, None),
                    };
                    self.cut(to)?;
                    if let Some(done) = synced {
                        assert!(self.log.storage.finish_sync(done).lsn() <= to);
                    }
                    let prepared = prepare.map_or(Ok(prepared), |job| job.run().map(Some))?;
                    prepared.map_or(Ok(()), |done| self.log.storage.finish_prepare(done))?;
                }
            }
            _ => {
                let below = self.control.floor;
                self.log.remove_below(below)?;
            }
        }
        Ok(())
    }

    /// Opens the log as a start would.
    fn restart(&mut self) -> Result<(), Error> {
        let disk: Arc<dyn Disk> = Arc::new(self.sim.clone());
        let body = ControlFile::load(&*disk, &self.log.directory)?.expect("the control file was durable");
        let control = Control::decode(&body);
        let layout = Layout { path: control.path.clone(), ..layout(self.log.size) };
        let unrecovered = Unrecovered::open(Arc::clone(&disk), &self.log.directory, layout)?;
        let mut limit = self.log.wal.end();
        if let Some(to) = control.cutting {
            unrecovered.cut(to).run()?;
            limit = to;
            self.promised = self.promised.min(to);
        }
        let floor = Floor { lsn: control.floor, log_start: self.log.wal.start(), system_id: None };
        let (storage, recovered) = unrecovered.recover(floor)?;
        let end = recovered.end.lsn();
        assert_eq!(recovered.damage, None, "a crash is not damage");
        assert!(end >= self.promised, "{end} is less than the promised {}", self.promised);
        assert!(end <= limit && self.boundary(end) == end, "{end} is no end of a record up to {limit}");
        assert!(storage.oldest() <= self.log.size.start_of_segment_at(control.floor));
        self.log.storage = storage;
        let cutting = control.cutting.is_some();
        self.control = control;
        // Not while we look; afterwards it may go again.
        self.sim.power_cut_after(u64::MAX >> 1);
        self.torn.extend(self.unfinished.iter().filter(|(_, end)| *end > self.promised));
        self.log.assert_bytes_except(&self.torn);
        self.assert_switches();
        self.sim.power_cut_after(self.dice.roll(100));
        self.promised = end;
        if cutting || self.dice.roll(2) == 0 {
            self.cut(end)?;
        }
        // Without a cut the same WAL comes again, as from the same leader: other WAL needs one, or it would mix with what
        // the crash left behind the end.
        self.salt += 1;
        Ok(())
    }
}

fn run(seed: u64) {
    let mut world = World::new(seed);
    for _ in 0..5 {
        world.sim.power_cut_after(world.dice.roll(160));
        for _ in 0..30 {
            if world.step().is_err() {
                break;
            }
        }
        loop {
            if world.dice.roll(4) == 0 {
                world.sim.kill();
            } else {
                world.sim.crash(world.dice.roll(1 << 30));
            }
            if world.dice.roll(3) == 0 {
                world.sim.power_cut_after(world.dice.roll(12));
            }
            if world.restart().is_ok() {
                break;
            }
        }
    }
}

#[test]
fn whatever_was_promised_survives_every_crash() {
    for seed in 0..120 {
        if let Err(panic) = std::panic::catch_unwind(|| run(seed)) {
            eprintln!("seed {seed}");
            std::panic::resume_unwind(panic);
        }
    }
}

#[test]
fn the_first_control_file_survives_with_its_directory() {
    for seed in 0..50 {
        let sim = SimDisk::new();
        let disk: Arc<dyn Disk> = Arc::new(sim.clone());
        let directory = std::path::Path::new("/data/tenant/timeline");
        disk.create_dir_all(std::path::Path::new("/data")).unwrap();
        disk.sync_directory(std::path::Path::new("/")).unwrap();
        wal_storage::create_directory(&*disk, directory).unwrap();
        PersistJob::new(Arc::clone(&disk), directory, b"member".to_vec()).run().unwrap();
        sim.crash(seed);
        assert_eq!(ControlFile::load(&*disk, directory).unwrap().unwrap(), b"member");
    }
}
