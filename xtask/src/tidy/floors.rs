//! The table of crates: who stands on which floor, and so who may depend on whom.
//!
//! A crate depends only on crates of lower floors; tests of a crate may also use its own floor and what stands beside. A new arrow, or
//! a new crate, is a change of this table and reviewed as one.

/// Where a crate stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// In the house.
    Floor(u8),
    /// Beside it, for tests and tools: depends on these crates of ours only (`*`: on any). Only tests depend on it.
    Beside(&'static [&'static str]),
}

/// One crate of the table.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) place: Place,
    /// No clock, no randomness, no runtime: what it does depends on what it is told alone.
    pub(crate) pure: bool,
}

const fn pure(name: &'static str, floor: u8) -> Row {
    Row { name, place: Place::Floor(floor), pure: true }
}

const fn floor(name: &'static str, floor: u8) -> Row {
    Row { name, place: Place::Floor(floor), pure: false }
}

const fn beside(name: &'static str, on: &'static [&'static str]) -> Row {
    Row { name, place: Place::Beside(on), pure: false }
}

/// The house.
pub(crate) const TABLE: &[Row] = &[
    pure("lsn", 0),
    pure("pq-proto", 1),
    pure("wal-format", 1),
    pure("sqlite-wal", 1),
    pure("backup-format", 1),
    pure("config", 1),
    pure("consensus", 1),
    floor("disk", 1),
    pure("source", 1),
    pure("quorum-proto", 2),
    pure("wal-storage", 2),
    pure("walsender", 2),
    pure("walreceiver", 2),
    floor("replica-client", 2),
    floor("auth", 2),
    floor("pg-conn", 2),
    floor("pg-server", 2),
    floor("http-api", 2),
    pure("keeper", 3),
    pure("leader", 3),
    floor("pg-source", 3),
    floor("sqlite-source", 3),
    floor("archive", 3),
    floor("restore", 3),
    floor("node", 4),
    floor("proposer", 4),
    floor("operate", 5),
    floor("safekeeper", 6),
    floor("walproposer", 6),
    floor("seawall", 6),
    beside("sim", &["*"]),
    beside("model", &["consensus", "lsn"]),
    beside("pg-harness", &["pg-server"]),
    beside("scenarios", &["disk", "pg-harness"]),
    beside("fuzz", &["*"]),
    beside("xtask", &[]),
];

/// Outside crates that bring a clock, chance, sockets or a runtime, and so have no place in a pure crate.
pub(crate) const IMPURE_CRATES: &[&str] = &["getrandom", "hyper", "metrics", "rand", "rustix", "socket2", "tokio"];
