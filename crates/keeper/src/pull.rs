//! [`Pull`]: when to fetch WAL from another member.
//!
//! A leader relays what its ring holds. To a safekeeper that lies further back it sends only empty appends, whose begin is
//! beyond this log's end; then the gap up to the leader's commit LSN, or to the start of its term if nothing is committed in it yet,
//! is pulled from a member that has processed the leader's Elected message. That its bytes are ours follows from (term, LSN) naming
//! a byte. Without the term's start two safekeepers of three could wait for each other: the one that lags for a commit LSN, the
//! leader for the one that lags.

use lsn::{Lsn, Term};
use quorum_proto::LogStatusRow;
use std::time::{Duration, Instant};

/// How long after a failed pull the next one may begin.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Whether what a member tells of itself lets WAL above `from` be pulled from it under the leader's `term`: it must have processed
/// that leader's Elected message.
///
/// # Errors
/// Why not, in a sentence without its address.
pub fn check_donor(row: &LogStatusRow, term: Term, from: Lsn) -> Result<(), String> {
    if row.term != term || row.last_log_term != term {
        return Err(format!("it does not follow the leader of term {term}"));
    }
    if row.flush <= from {
        return Err(format!("it has nothing above {from}"));
    }
    Ok(())
}

/// The state of catching up.
#[derive(Debug, Default)]
pub(crate) struct Pull {
    gap: Option<Term>,
    under_way: Option<(Term, Lsn)>,
    not_before: Option<Instant>,
    /// How many were begun.
    rounds: usize,
    problem: Option<String>,
}

impl Pull {
    /// The leader of `term` speaks of WAL beyond our end.
    pub(crate) fn see_gap(&mut self, term: Term) {
        self.gap = Some(term);
    }

    /// The leader's appends fit again, or it is gone.
    pub(crate) fn clear_gap(&mut self) {
        self.gap = None;
    }

    /// Whether a pull should begin now.
    pub(crate) fn wants_start(&self, now: Instant, written: Lsn, to: Lsn) -> Option<Term> {
        let idle = self.under_way.is_none() && self.not_before.is_none_or(|at| now >= at);
        self.gap.filter(|_| idle && to > written)
    }

    /// A pull up to `to` begins.
    pub(crate) fn started(&mut self, term: Term, to: Lsn) {
        self.under_way = Some((term, to));
        self.rounds += 1;
    }

    /// How many pulls were begun: each asks another member first, because the bytes of the one before may not verify.
    pub(crate) fn rounds(&self) -> usize {
        self.rounds
    }

    /// How far the pull of this term goes.
    pub(crate) fn limit(&self, term: Term) -> Option<Lsn> {
        self.under_way.filter(|(of, _)| *of == term).map(|(_, to)| to)
    }

    /// The pull under way ended.
    pub(crate) fn ended(&mut self, now: Instant, result: Result<(), String>) {
        self.under_way = None;
        self.not_before = result.is_err().then(|| now + RETRY_AFTER);
        self.problem = result.err();
    }

    /// Why the last pull failed.
    pub(crate) fn problem(&self) -> Option<&str> {
        self.problem.as_deref()
    }

    pub(crate) fn is_under_way(&self) -> bool {
        self.under_way.is_some()
    }
}
