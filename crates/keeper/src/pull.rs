//! [`Pull`]: when to fetch WAL from another member.
//!
//! A leader relays what its ring holds. To a safekeeper that lies further back it sends only empty appends, whose begin is
//! beyond this log's end; then the gap up to the leader's commit LSN is pulled from a member that has processed the leader's
//! Elected message. That its bytes are ours follows from (term, LSN) naming a byte.

use lsn::{Lsn, Term};
use std::time::{Duration, Instant};

/// How long after a failed pull the next one may begin.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// The state of catching up.
#[derive(Debug, Default)]
pub(crate) struct Pull {
    gap: Option<Term>,
    under_way: Option<(Term, Lsn)>,
    not_before: Option<Instant>,
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
    pub(crate) fn wants_start(&self, now: Instant, written: Lsn, leader_commit: Lsn) -> Option<Term> {
        let idle = self.under_way.is_none() && self.not_before.is_none_or(|at| now >= at);
        self.gap.filter(|_| idle && leader_commit > written)
    }

    /// A pull up to `to` begins.
    pub(crate) fn started(&mut self, term: Term, to: Lsn) {
        self.under_way = Some((term, to));
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
