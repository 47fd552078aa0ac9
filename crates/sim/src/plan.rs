//! [`Plan`]: what a seed makes of a run before it begins: how large things are and which kinds of faults may happen.
//!
//! A run with every kind of fault at once seldom gets far, so each seed takes a part of them.

use crate::chance::Chance;
use lsn::{Lsn, Tli};
use std::collections::BTreeSet;

/// A kind of fault, or of something an operator does.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Kind {
    KillSafekeeper,
    PowerCut,
    PowerCutMidway,
    PowerCutAll,
    DiskError,
    FailedSync,
    DiskFull,
    Rot,
    EmptyDisk,
    SlowDisk,
    Stall,
    Reset,
    OneWay,
    Isolate,
    SlowLink,
    KillProposer,
    SecondProposer,
    MoveConninfo,
    CrashPrimary,
    LosePrimaryConnection,
    PromoteFromQuorum,
    PromoteDirect,
    Clone,
    Members,
    Readers,
}

pub(crate) const KINDS: [Kind; 25] = [
    Kind::KillSafekeeper,
    Kind::PowerCut,
    Kind::PowerCutMidway,
    Kind::PowerCutAll,
    Kind::DiskError,
    Kind::FailedSync,
    Kind::DiskFull,
    Kind::Rot,
    Kind::EmptyDisk,
    Kind::SlowDisk,
    Kind::Stall,
    Kind::Reset,
    Kind::OneWay,
    Kind::Isolate,
    Kind::SlowLink,
    Kind::KillProposer,
    Kind::SecondProposer,
    Kind::MoveConninfo,
    Kind::CrashPrimary,
    Kind::LosePrimaryConnection,
    Kind::PromoteFromQuorum,
    Kind::PromoteDirect,
    Kind::Clone,
    Kind::Members,
    Kind::Readers,
];

/// Something wrong on purpose, to see that the oracle sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sabotage {
    /// WAL syncs of safekeepers do nothing and say that they did.
    AcknowledgeBeforeSync,
    /// Control files of safekeepers are not written, and said to be.
    VoteBeforePersist,
    /// Safekeepers drop the last of what they know to be committed when they start.
    CutBelowCommit,
}

/// A standby, or somebody who stores WAL.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Standby {
    pub(crate) epoch: u64,
    pub(crate) position: Lsn,
    pub(crate) tli: Option<Tli>,
    /// How often it connects yet.
    pub(crate) patience: u32,
}

/// See the file's head.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) kinds: BTreeSet<Kind>,
    /// Members at first, and safekeepers in all.
    pub(crate) members: usize,
    pub(crate) nodes: usize,
    pub(crate) max_wal: u64,
    /// Short syncs run in place.
    pub(crate) fast_disks: bool,
    /// The one whose disk may lose what it promised.
    pub(crate) fragile: usize,
    /// Microseconds of faults.
    pub(crate) faults_for: u64,
    /// Longest pause between two faults.
    pub(crate) pause: u64,
    /// Most WAL that is written while there are faults.
    pub(crate) wal_bytes: u64,
    pub(crate) sabotage: Option<Sabotage>,
    pub(crate) readers: Vec<Standby>,
}

impl Plan {
    /// The plan of a seed.
    pub(crate) fn of(seed: u64, sabotage: Option<Sabotage>) -> Plan {
        let mut chance = Chance::new(seed ^ 0xA5A5_0F0F_3C3C_9696);
        let share = chance.range(2, 10);
        let mut kinds: BTreeSet<Kind> = KINDS.into_iter().filter(|_| chance.below(10) < share).collect();
        if sabotage.is_some() {
            // Only faults that a promise must outlive, and many of them.
            let without = [Kind::Rot, Kind::EmptyDisk, Kind::Members];
            kinds.retain(|kind| !without.contains(kind));
            kinds.extend([Kind::PowerCut, Kind::PowerCutAll, Kind::KillProposer, Kind::KillSafekeeper]);
        }
        let members = if chance.one_in(6) { 5 } else { 3 };
        Plan {
            seed,
            kinds,
            members,
            nodes: members + 1,
            max_wal: if chance.one_in(2) { 1 << 20 } else { 64 << 20 },
            fast_disks: chance.one_in(3),
            fragile: chance.below(members as u64) as usize,
            faults_for: chance.range(20, 90) * 1_000_000,
            pause: chance.range(100, 4000) * 1000,
            wal_bytes: chance.range(1, 5) << 20,
            sabotage,
            readers: Vec::new(),
        }
    }
}
