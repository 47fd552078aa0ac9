//! The commands of a replication connection: PostgreSQL's, the walproposer protocol's and ours, parsed and printed.
//!
//! Keywords are upper-case only, as in PostgreSQL's `repl_scanner.l`; unquoted names are folded to lower case; options are
//! a parenthesised list of `key 'value'`. What option values mean is not known here, except where a field says so. Parsing
//! what [`Command`] prints gives the same command back.

mod lexer;
mod options;
mod parser;
mod print;

pub use options::Options;
pub use parser::{ParseError, parse};

use lsn::{Lsn, Term, Tli};

/// One command.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Command {
    /// `IDENTIFY_SYSTEM`.
    IdentifySystem,
    /// `SHOW name`.
    Show {
        /// The setting.
        name: String,
    },
    /// `START_REPLICATION …`, physical.
    StartReplication(StartReplication),
    /// `TIMELINE_HISTORY n`.
    TimelineHistory {
        /// Whose history.
        tli: Tli,
    },
    /// `READ_REPLICATION_SLOT name`.
    ReadReplicationSlot {
        /// The slot.
        slot: String,
    },
    /// `CREATE_REPLICATION_SLOT name [TEMPORARY] PHYSICAL [RESERVE_WAL]`, or options in parentheses (15+).
    CreateReplicationSlot {
        /// The slot.
        slot: String,
        /// Whether it ends with the session.
        temporary: bool,
        /// Whether it keeps WAL from the start.
        reserve_wal: bool,
    },
    /// `DROP_REPLICATION_SLOT name [WAIT]`.
    DropReplicationSlot {
        /// The slot.
        slot: String,
        /// Whether to wait until nobody uses it.
        wait: bool,
    },
    /// `START_WAL_PUSH [(key 'value', …)]`: a proposer's session.
    StartWalPush(Options),
    /// `TIMELINE_STATUS`.
    TimelineStatus,
    /// `LOG_STATUS [(since 'N')]`.
    LogStatus {
        /// Only rows changed after this change number.
        since: Option<u64>,
    },
    /// `INIT_CLUSTER (key 'value', …)`.
    InitCluster(Options),
    /// `MEMBERS (key 'value', …)`: who belongs to a cluster.
    Members(Options),
    /// `FENCE (key 'value', …)`: sets or lifts a cluster's fence.
    Fence(Options),
    /// `set …` in any case; answered and ignored.
    Set,
    /// A command that is not known here.
    Unknown {
        /// Its first word, at most 63 characters; empty for an empty command.
        word: String,
    },
}

/// `START_REPLICATION [SLOT name] [PHYSICAL] X/X [TIMELINE n] [(key 'value', …)]`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StartReplication {
    /// The slot to use.
    pub slot: Option<String>,
    /// First byte wanted.
    pub start: Lsn,
    /// On which TLI; without it the server's current one, and no word at its end about the next.
    pub tli: Option<Tli>,
    /// Option `term`: read uncommitted WAL too, as long as this is the server's term.
    pub term: Option<Term>,
    /// Every other option.
    pub options: Options,
}

impl StartReplication {
    /// From a position on a TLI, without slot, term and options.
    pub fn new(start: Lsn, tli: Tli) -> StartReplication {
        StartReplication { slot: None, start, tli: Some(tli), term: None, options: Options::default() }
    }
}

#[cfg(test)]
#[path = "command_test.rs"]
mod tests;
