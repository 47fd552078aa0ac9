//! Every image that a crash may leave at every step of a log's life.
//!
//! A script is run again and again, and the power goes one change of the disk later each time. There every image is made that the
//! disk may come back with (each sector and each name that was not synced on its own: `disk::SimDisk::crash_images`), and the page
//! cache as a kill leaves it. Each is recovered; the recovery itself is cut off after each of its changes, and again; then the log
//! goes on. Where the images are too many the most different ones are taken; `SEAWALL_CRASH_DEPTH` (1 unless set) multiplies how
//! many.
//!
//! What must hold: everything that was promised is found (S13), nothing below the floor of a control file that may be read is
//! missing (S14), every byte up to the end that is found was written there, and a record ends there.

mod check;
mod world;

use check::{Limits, Tally};
use disk::Op;
use std::io::ErrorKind;
use wal_storage::Error;
use world::{Ahead, World};

fn explore(name: &str, script: impl Fn(&mut World) -> Result<(), Error>) {
    let depth: usize = std::env::var("SEAWALL_CRASH_DEPTH").map_or(1, |depth| depth.parse().unwrap());
    let mut tally = Tally::default();
    tally.explore(Limits { first: 96 * depth, second: 3 * depth }, script);
    eprintln!(
        "{name}: {} images at {} points, all of them at {}; {} more during recoveries and after",
        tally.images, tally.points, tally.complete, tally.during_recovery
    );
    assert!(tally.points > 10 && tally.images > tally.points && tally.complete > tally.points / 2);
}

#[test]
fn of_a_log_that_is_made_and_written() {
    explore("made", |world| {
        world.create()?;
        world.append(&[300])?;
        world.sync()?;
        world.append(&[1200, 10])?;
        world.floor()?;
        world.append(&[700])?;
        world.sync_while(|world| world.append(&[500]))?;
        world.floor()?;
        world.sync()
    });
}

#[test]
fn of_a_segment_that_was_prepared() {
    explore("prepared", |world| {
        world.create()?;
        world.append(&[300])?;
        world.prepare()?;
        world.append(&[900])?;
        world.switch(600)?;
        world.sync()?;
        world.floor()?;
        world.append(&[900])?;
        world.sync()
    });
}

#[test]
fn of_a_segment_that_was_not_prepared_in_time() {
    explore("inline", |world| {
        world.create()?;
        world.append(&[300])?;
        world.sync_while(|world| world.switch(600))?;
        world.append(&[400])?;
        world.sync()?;
        world.prepare_after(|world| world.switch(700))?;
        world.sync()?;
        world.floor()
    });
}

#[test]
fn of_segments_that_are_removed_and_written_again() {
    explore("recycled", |world| {
        world.create()?;
        world.append(&[700, 700])?;
        world.switch(900)?;
        world.sync()?;
        world.floor()?;
        world.remove()?;
        // Into the spare, over its stale WAL, prepared and not.
        world.prepare()?;
        world.append(&[100])?;
        world.switch(600)?;
        world.sync()?;
        world.append(&[1100])?;
        world.floor()?;
        world.remove()?;
        world.switch(800)?;
        world.sync()
    });
}

#[test]
fn of_a_log_that_is_cut() {
    explore("cut", |world| {
        world.create()?;
        world.append(&[700, 700])?;
        world.switch(900)?;
        world.sync()?;
        world.floor()?;
        world.append(&[300])?;
        // Into the first segment, then inside the last.
        world.cut(world.record_end(0), None)?;
        world.append(&[500])?;
        world.sync()?;
        world.append(&[600])?;
        world.cut(world.record_end(1), None)?;
        world.append(&[200])?;
        world.sync()
    });
}

/// The WAL that follows a cut has records where the ones cut away had theirs: left-overs of these would fit.
#[test]
fn of_a_cut_across_segments() {
    explore("cut across segments", |world| {
        world.create()?;
        world.append(&[700, 700])?;
        world.switch(900)?;
        world.append(&[300])?;
        world.sync()?;
        world.cut(world.record_end(0), None)?;
        world.append(&[700])?;
        world.switch(900)?;
        // Nothing of this is synced but by the cut.
        let end = world.expected.wal.records().len() - 1;
        world.cut(world.record_end(end), None)?;
        world.append(&[300])?;
        world.sync()
    });
}

#[test]
fn of_a_cut_while_a_sync_and_a_preparation_are_under_way() {
    explore("cut in flight", |world| {
        world.create()?;
        world.append(&[700, 700])?;
        world.sync()?;
        world.append(&[300])?;
        world.prepare_after(|world| world.sync_while(|world| world.cut(world.record_end(1), None)))?;
        world.append(&[500])?;
        world.switch(600)?;
        world.sync()
    });
}

#[test]
fn of_a_log_that_goes_on_to_another_tli() {
    explore("TLI", |world| {
        world.create()?;
        world.append(&[700, 700])?;
        world.sync()?;
        world.cut(world.record_end(1), Some(Ahead::Near(300)))?;
        world.append(&[400])?;
        world.sync()?;
        world.floor()?;
        world.append(&[900])?;
        // Another promotion wins, with a TLI of the same number.
        world.cut(world.record_end(1), Some(Ahead::Near(50)))?;
        world.append(&[600])?;
        world.sync()
    });
}

#[test]
fn of_a_tli_that_begins_in_a_recycled_segment() {
    explore("TLI in a recycled segment", |world| {
        world.create()?;
        world.append(&[12_000])?;
        world.switch(900)?;
        world.sync()?;
        world.floor()?;
        // It begins in the next segment, for which the first one is taken, with stale WAL beyond the switch point.
        world.cut(world.record_end(2), Some(Ahead::NextSegment(6_000)))?;
        world.remove()?;
        world.prepare()?;
        world.append(&[100])?;
        world.sync()?;
        world.floor()?;
        world.append(&[700])?;
        world.sync()
    });
}

#[test]
fn of_a_sync_that_failed() {
    explore("failed sync", |world| {
        world.create()?;
        world.append(&[700])?;
        world.sync()?;
        world.append(&[900])?;
        world.sim.fail(Op::Sync, 0, ErrorKind::Other);
        // The power may be gone already; else the storage has stopped, and the process ends here.
        world.sync().or_else(|error| if world.storage().latch().reason().is_some() { Ok(()) } else { Err(error) })
    });
}

#[test]
fn of_a_disk_that_was_full() {
    explore("full", |world| {
        world.create()?;
        world.append(&[300])?;
        world.sync()?;
        world.sim.set_free_space(Some(700_000));
        let full = world.switch(600);
        assert!(full.as_ref().is_err_and(|error| error.is_out_of_space() || matches!(error, Error::Io { .. })));
        if !full.is_err_and(|error| error.is_out_of_space()) {
            return Err(Error::NotStarted);
        }
        world.sync()?;
        world.floor()?;
        world.sim.set_free_space(None);
        world.hand_over()?;
        world.sync()
    });
}
