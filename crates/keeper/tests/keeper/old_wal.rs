//! Which WAL a keeper lets go of, with and without an archive.

use crate::rig::{Rig, SEGMENT, START, wal};
use consensus::SessionId;
use keeper::{KeptFor, ReaderId, ReaderOptions, SlotKind};
use lsn::{Lsn, Tli};
use pq_proto::command::StartReplication;
use quorum_proto::Archived;
use std::time::Duration;
use wal_format::build::WalBuilder;

const MIB: u64 = SEGMENT as u64;

/// A led keeper with everything up to `START` + `mib` committed; its limit is 4 MiB, and 4 more for slots.
struct Log {
    rig: Rig,
    session: SessionId,
    wal: WalBuilder,
}

impl Log {
    fn new(min_wal: Option<u64>) -> Log {
        let mut rig = Rig::new();
        if let Some(min_wal) = min_wal {
            rig.keeper.use_archive(min_wal);
        }
        let session = rig.lead_from_nothing(1);
        Log { rig, session, wal: wal() }
    }

    /// Writes up to so many MiB above the start, and commits up to `commit`; then time passes.
    fn write(&mut self, mib: u64, commit: Option<u64>) {
        self.append(mib, commit);
        self.pass_time();
    }

    fn append(&mut self, mib: u64, commit: Option<u64>) {
        let mut at = self.wal.end();
        let end = self.wal.fill_to(Lsn(START.0 + mib * MIB), 5000);
        while at < end {
            let to = end.min(Lsn(at.0 + (100 << 10)));
            self.rig.append(self.session, 1, at, self.wal.slice(at, to), START);
            self.rig.settle();
            at = to;
        }
        let commit = commit.map_or(end, |mib| Lsn(START.0 + mib * MIB));
        self.rig.append(self.session, 1, end, &[], commit);
        self.rig.settle();
    }

    /// Time for the floor to be written down, and for what may go to go.
    fn pass_time(&mut self) {
        for _ in 0..3 {
            self.rig.now += Duration::from_secs(1);
            self.rig.keeper.handle_timeout(self.rig.now);
            self.rig.settle();
        }
    }

    fn archived(&mut self, from: u64, to: u64) {
        let held = Archived { from: Lsn(START.0 + from * MIB), to: Lsn(START.0 + to * MIB) };
        self.rig.keeper.handle_archived(self.rig.now, held);
        self.rig.settle();
    }

    /// MiB above the start.
    fn oldest(&self) -> u64 {
        (self.rig.keeper.view(self.rig.now).oldest.0 - START.0) / MIB
    }

    fn kept_for(&self) -> Option<KeptFor> {
        self.rig.keeper.view(self.rig.now).kept_for
    }

    /// Starts to read so many MiB above the start.
    fn read(&mut self, reader: u64, mib: u64, slot: Option<&str>) -> Result<(), String> {
        let slot = slot.map(str::to_owned);
        let command = StartReplication { slot, ..StartReplication::new(Lsn(START.0 + mib * MIB), Tli(1)) };
        let (peer, application_name) = ("test".to_owned(), "reader".to_owned());
        let options = ReaderOptions { command, peer, application_name, timeout: None, call_back: None };
        let result = self.rig.keeper.connect_reader(self.rig.now, ReaderId(reader), options);
        result.map_err(|report| report.message)
    }
}

#[test]
fn the_limit_decides_without_an_archive() {
    let mut log = Log::new(None);
    log.write(4, None);
    assert_eq!((log.oldest(), log.kept_for()), (0, Some(KeptFor::Limit)));
    log.archived(0, 4);
    log.write(9, None);
    assert_eq!(log.oldest(), 5, "what an archive is said to hold is nothing to a keeper that cannot read it");
}

#[test]
fn archived_wal_goes_but_the_newest_stays() {
    let mut log = Log::new(Some(MIB));
    log.write(4, None);
    assert_eq!((log.oldest(), log.kept_for()), (0, Some(KeptFor::Archive)), "nobody said it is archived");
    log.archived(0, 2);
    assert_eq!((log.oldest(), log.kept_for()), (2, Some(KeptFor::Archive)));
    log.archived(0, 4);
    assert_eq!((log.oldest(), log.kept_for()), (3, Some(KeptFor::Recent)));
    // It goes on by itself as WAL comes.
    log.archived(0, 100);
    log.write(6, None);
    assert_eq!(log.oldest(), 5);
}

#[test]
fn what_is_not_committed_stays_whatever_is_said() {
    let mut log = Log::new(Some(0));
    log.write(4, Some(2));
    log.archived(0, 100);
    assert_eq!(log.oldest(), 2);
}

/// After a power cut the control file before may be found, whose floor lies lower; without its segment the log would be damaged.
#[test]
fn nothing_goes_that_an_older_control_file_needs() {
    let mut log = Log::new(Some(0));
    log.write(3, None);
    log.append(6, None);
    // The floor is being written down, and it is not known whether it was.
    log.rig.now += Duration::from_secs(1);
    log.rig.keeper.handle_timeout(log.rig.now);
    log.rig.carry_out();
    let held = Archived { from: START, to: Lsn(START.0 + 6 * MIB) };
    log.rig.keeper.handle_archived(log.rig.now, held);
    log.rig.carry_out();
    assert_eq!(log.oldest(), 3);
    log.rig.settle();
    assert_eq!(log.oldest(), 6);
}

#[test]
fn a_hole_in_the_archive_is_not_archived() {
    let mut log = Log::new(Some(0));
    log.write(3, None);
    log.archived(1, 3);
    assert_eq!((log.oldest(), log.kept_for()), (0, Some(KeptFor::Archive)), "its first MiB is nowhere else");
    // Beyond the limit it goes all the same, and is then known to be lost; what is left up to 3 is archived.
    log.write(6, None);
    assert_eq!(log.oldest(), 3);
    assert!(log.read(1, 1, None).is_ok(), "the refusal comes within the stream, as PostgreSQL has it");
    log.rig.settle();
    assert_eq!(log.rig.gone, [ReaderId(1)]);
}

#[test]
fn the_archive_being_away_ends_at_the_limit() {
    let mut log = Log::new(Some(MIB));
    log.write(2, None);
    log.archived(0, 2);
    assert_eq!(log.oldest(), 1);
    for (mib, oldest) in [(4, 2), (5, 2), (6, 2), (9, 5)] {
        log.write(mib, None);
        assert_eq!(log.oldest(), oldest, "at {mib}");
    }
}

#[test]
fn a_reader_keeps_what_it_has_not_had_until_it_lies_below() {
    let mut log = Log::new(Some(0));
    log.write(3, None);
    log.read(1, 1, None).unwrap();
    // What it asks for is not read yet.
    while log.rig.keeper.poll_command().is_some() {}
    log.archived(0, 3);
    assert_eq!((log.oldest(), log.kept_for()), (1, Some(KeptFor::Reader)));
    log.rig.keeper.disconnect_reader(log.rig.now, ReaderId(1));
    log.archived(0, 4);
    assert_eq!(log.oldest(), 3);
    // One that reads from the archive already keeps nothing here.
    log.read(2, 0, None).unwrap();
    log.archived(0, 5);
    log.write(5, None);
    assert!(log.oldest() > 3, "{}", log.oldest());
}

#[test]
fn a_slot_keeps_wal_within_its_allowance_and_is_not_lost_by_what_is_archived() {
    let mut log = Log::new(Some(0));
    log.write(1, None);
    let ticket = log.rig.keeper.create_slot(log.rig.now, "s", SlotKind::Persistent, true).unwrap();
    log.rig.settle();
    assert!(ticket.is_some());
    log.rig.keeper.handle_slots_persisted(log.rig.now, true);
    let kept = log.oldest();
    log.archived(0, 100);
    for mib in 2..8 {
        log.write(mib, None);
    }
    assert_eq!((log.oldest(), log.kept_for()), (kept.max(1), Some(KeptFor::Reader)));
    // 4 MiB of limit and 4 of allowance; then it goes, but only from this disk.
    log.write(14, None);
    assert!(log.oldest() >= 6, "{}", log.oldest());
    assert!(log.rig.keeper.view(log.rig.now).slots.iter().all(|slot| !slot.is_lost && slot.restart.is_some()));
    // Its reader finds that the archive has not got it either.
    log.read(1, 1, Some("s")).unwrap();
    log.rig.keeper.handle_read(log.rig.now, ReaderId(1), Lsn(START.0 + MIB), Ok(None));
    assert!(log.rig.keeper.view(log.rig.now).slots.iter().all(|slot| slot.is_lost));
}

#[test]
fn the_first_reachable_byte_is_the_archives_where_it_joins() {
    let mut log = Log::new(Some(0));
    log.write(4, None);
    let at = |log: &Log| (log.rig.keeper.reachable().0 as i64 - START.0 as i64) / MIB as i64;
    assert_eq!(at(&log), 0);
    log.archived(0, 4);
    assert_eq!((log.oldest(), at(&log)), (4, 0));
    // WAL from before this safekeeper's time.
    let held = Archived { from: Lsn(START.0 - 2 * MIB), to: Lsn(START.0 + 4 * MIB) };
    log.rig.keeper.handle_archived(log.rig.now, held);
    assert_eq!(at(&log), -2);
    // Who has just begun to upload knows less, which takes nothing back.
    log.archived(1, 3);
    assert_eq!(at(&log), -2);
}

#[test]
fn an_archive_that_ends_below_what_is_here_does_not_join() {
    let mut log = Log::new(Some(MIB));
    log.write(9, None);
    assert_eq!(log.oldest(), 5);
    log.archived(0, 3);
    assert_eq!(log.rig.keeper.reachable(), Lsn(START.0 + 5 * MIB));
    assert_eq!(log.kept_for(), Some(KeptFor::Archive));
}
