//! Recovery of every image: what was promised is there, nothing was invented, and a crash during the recovery changes nothing of
//! that.

use super::world::{Expected, START, World, directory};
use crate::common::{layout, megabyte};
use crate::model::Control;
use disk::{Disk, OpenMode, SimDisk};
use lsn::{Lsn, Tli};
use std::collections::HashSet;
use std::sync::Arc;
use wal_storage::{ControlFile, Error, Floor, Layout, Unrecovered, WalStorage};

/// How many images are looked at where there are more.
#[derive(Clone, Copy)]
pub(crate) struct Limits {
    /// Of a crash while the log is written.
    pub(crate) first: usize,
    /// Of a crash while the first one is recovered from, after each of its changes.
    pub(crate) second: usize,
}

/// What was looked at.
#[derive(Default)]
pub(crate) struct Tally {
    pub(crate) points: usize,
    /// Points of which every image was looked at.
    pub(crate) complete: usize,
    pub(crate) images: usize,
    /// Images that a crash during a recovery left, and recoveries from them.
    pub(crate) during_recovery: usize,
    seen: HashSet<(u64, u64)>,
}

struct Opened {
    storage: WalStorage,
    control: Control,
    /// How far the log can reach at most.
    limit: Lsn,
}

/// Opens the log as a start does. An error only where the power goes; `None` if there is no log yet.
fn open(sim: &SimDisk, expected: &Expected) -> Result<Option<Opened>, Error> {
    let disk: Arc<dyn Disk> = Arc::new(sim.clone());
    let Some(body) = ControlFile::load(&*disk, directory())? else {
        assert!(expected.controls.contains(&None), "the control file is gone");
        return Ok(None);
    };
    let control = Control::decode(&body);
    assert!(expected.controls.contains(&Some(control.clone())), "a control file from nowhere: {control:?}");
    let layout = Layout { path: control.path.clone(), ..layout(megabyte()) };
    let unrecovered = Unrecovered::open(Arc::clone(&disk), directory(), layout)?;
    let (mut promised, mut limit) = (expected.promised, expected.wal.end());
    if let Some(to) = control.cutting {
        unrecovered.cut(to).run()?;
        (promised, limit) = (promised.min(to), to);
    }
    let floor = Floor { lsn: control.floor, log_start: START, system_id: None };
    let (storage, recovered) = unrecovered.recover(floor)?;
    let end = recovered.end.lsn();
    assert_eq!(recovered.damage, None, "a crash is not damage");
    assert!(end >= promised, "{end} was found, {promised} was promised");
    assert!(end >= control.floor, "{end} was found, below the floor {}", control.floor);
    assert!(end <= limit, "{end} was found, but the log never went beyond {limit}");
    assert!(!end.is_valid() || expected.boundary(end) == end, "no record ends at {end}");
    Ok(Some(Opened { storage, control, limit }))
}

/// Every byte from the oldest to the end is the one that was written.
fn assert_bytes(sim: &SimDisk, opened: &Opened, expected: &Expected) {
    let (mut at, end) = (opened.storage.oldest(), opened.storage.written().lsn());
    assert!(at <= megabyte().start_of_segment_at(opened.control.floor).max(START), "segments are missing: {at}");
    let reader = opened.storage.reader();
    while at < end {
        let bytes = reader.read(at, 1 << 20).unwrap();
        let next = Lsn(at.0 + bytes.len() as u64);
        assert!(!bytes.is_empty() && bytes[..] == *expected.wal.slice(at, next), "other bytes between {at} and {next}");
        at = next;
    }
    assert_switches(sim, opened, expected);
}

/// The first segment of a TLI is whole, and its parent's file holds nothing above the switch point.
fn assert_switches(sim: &SimDisk, opened: &Opened, expected: &Expected) {
    let (size, end) = (megabyte(), opened.storage.written().lsn());
    for pair in opened.control.path.entries().windows(2) {
        let (parent, child) = (pair[0].tli, pair[1]);
        let (start, offset) = (size.start_of_segment_at(child.begin), size.offset_of(child.begin) as usize);
        if offset == 0 || child.begin >= end || start < opened.storage.oldest() {
            continue;
        }
        let raw = |tli: Tli| {
            let name = directory().join(size.file_name(tli, size.segment_of(start)));
            let mut bytes = vec![0; size.bytes() as usize];
            sim.open(&name, OpenMode::Read).ok()?.read_at(&mut bytes, 0).unwrap();
            Some(bytes)
        };
        let whole = raw(child.tli).expect("the child's file is there");
        assert!(whole[..offset] == *expected.wal.slice(start, child.begin), "TLI {} is not whole", child.tli);
        let zeros = vec![0; size.bytes() as usize];
        assert!(raw(parent).is_none_or(|bytes| bytes[offset..] == zeros[offset..]), "the parent goes on");
    }
}

/// Recovers, and looks at everything; then at what a power cut right after it leaves.
fn recover(sim: &SimDisk, expected: &Expected, limits: Limits, deep: bool, tally: &mut Tally) -> u64 {
    let begun = sim.changes();
    let opened = open(sim, expected).unwrap();
    let changes = sim.changes() - begun;
    let Some(opened) = opened else { return changes };
    assert_bytes(sim, &opened, expected);
    if !deep {
        return changes;
    }
    // What was found is told to others: it must stay.
    let mut told = expected.clone();
    told.promised = opened.storage.durable().lsn();
    told.controls = vec![Some(opened.control.clone())];
    for image in sim.crash_images(limits.second) {
        tally.during_recovery += 1;
        recover(&image, &told, limits, false, tally);
    }
    // And the log goes on with other WAL under another leader, which must not mix with what was behind the end.
    if opened.limit > START || opened.storage.written().lsn() > START {
        go_on(sim, opened, told, limits, tally);
    }
    changes
}

fn go_on(sim: &SimDisk, opened: Opened, expected: Expected, limits: Limits, tally: &mut Tally) {
    let end = opened.storage.written().lsn();
    if !end.is_valid() {
        return;
    }
    let mut world = World::resumed(sim, opened.storage, opened.control, expected);
    world.cut(end, None).unwrap();
    world.append(&[40]).unwrap();
    world.sync().unwrap();
    world.append(&[900]).unwrap();
    for image in sim.crash_images(limits.second) {
        tally.during_recovery += 1;
        recover(&image, &world.expected, limits, false, tally);
    }
}

impl Tally {
    /// Looks at one disk that a crash left, if it is not known yet.
    fn look(&mut self, sim: &SimDisk, expected: &Expected, limits: Limits) {
        if !self.seen.insert((sim.digest(), expected.digest())) {
            return;
        }
        self.images += 1;
        let changes = recover(&sim.fork(), expected, limits, true, self);
        for at in 0..changes {
            let cut_short = sim.fork();
            cut_short.power_cut_after(at);
            assert!(open(&cut_short, expected).is_err(), "the recovery takes other ways the second time");
            for image in cut_short.crash_images(limits.second) {
                if self.seen.insert((image.digest(), expected.digest())) {
                    self.during_recovery += 1;
                    recover(&image, expected, limits, false, self);
                }
            }
        }
    }

    /// Runs a script again and again, one change further each time, and looks at all that a power cut or a kill leaves there.
    pub(crate) fn explore(&mut self, limits: Limits, script: impl Fn(&mut World) -> Result<(), Error>) {
        for changes in 0.. {
            let mut world = World::new(changes);
            let done = script(&mut world).is_ok();
            let images = world.sim.crash_images(limits.first);
            self.points += 1;
            self.complete += usize::from(images.is_complete());
            for image in images {
                self.look(&image, &world.expected, limits);
            }
            // A killed process leaves what the page cache has, durable or not. What can be read is the same after every sync.
            let killed = world.sim.fork();
            self.images += 1;
            recover(&killed, &world.expected, limits, true, self);
            if done {
                break;
            }
        }
    }
}
