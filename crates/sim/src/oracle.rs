//! [`Oracle`]: what was promised, and whether it is kept. It sees everything from outside: what leaders count as committed and tell
//! their primaries, what safekeepers say on the wire, what readers get, and what is on the disks after each start.
//!
//! It holds one log: the bytes below the highest commit LSN that any leader ever counted. Everything else is held against it:
//! - a commit LSN names bytes of that log, whoever counted it; none of it changes or is lost (S6, S9, S10);
//! - a term has one leader, and whoever is elected begins at or above all that was committed before (S1, S10);
//! - nobody commits above where a later term began, nor below where the own one did (S10, S11);
//! - an answer to a primary is at most the own-term commit LSN, goes forward, and never moves the slot back (S29);
//! - what a safekeeper said before a crash it still holds after it: its term, and in the term its log lies in its flush LSN (S2, S4, S13, S14);
//! - its commit LSN never goes back while it runs, and below it its bytes are the log's (S7, S12);
//! - a reader gets bytes of that log only, and only committed ones (S20).
//!
//! What may go missing is said by whoever made the fault: a disk that rotted, or was emptied, is not held to what it said.

use lsn::{Lsn, Term};
use std::collections::BTreeMap;

/// What a safekeeper said, by one disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Said {
    /// The highest term it answered with.
    pub(crate) term: Term,
    /// The term its log lies in, as its acknowledgements said.
    pub(crate) log_term: Term,
    /// Its flush LSN in that term.
    pub(crate) flush: Lsn,
}

/// One won term.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Won {
    /// The proposer, and which of its attempts.
    pub(crate) who: (usize, u64),
    /// For which server.
    pub(crate) server: usize,
    pub(crate) start: Lsn,
}

/// See the file's head.
#[derive(Debug)]
pub(crate) struct Oracle {
    first: Lsn,
    log: Vec<u8>,
    terms: BTreeMap<Term, Won>,
    /// Up to where each term committed.
    commits: BTreeMap<Term, Lsn>,
    /// The highest position any primary was told.
    told: Lsn,
    violation: Option<String>,
}

impl Oracle {
    pub(crate) fn new(first: Lsn) -> Oracle {
        Oracle {
            first,
            log: Vec::new(),
            terms: BTreeMap::new(),
            commits: BTreeMap::new(),
            told: Lsn::INVALID,
            violation: None,
        }
    }

    /// The first thing found wrong.
    pub(crate) fn violation(&self) -> Option<&str> {
        self.violation.as_deref()
    }

    pub(crate) fn fail(&mut self, what: String) {
        self.violation.get_or_insert(what);
    }

    /// End of what was ever committed.
    pub(crate) fn committed(&self) -> Lsn {
        Lsn(self.first.0 + self.log.len() as u64)
    }

    /// The highest position any primary was told.
    pub(crate) fn told(&self) -> Lsn {
        self.told
    }

    /// The last term won, and by whom.
    pub(crate) fn last_won(&self) -> Option<(Term, Won)> {
        self.terms.last_key_value().map(|(term, won)| (*term, *won))
    }

    /// Committed bytes between two positions, as far as there are any.
    fn slice(&self, from: Lsn, to: Lsn) -> &[u8] {
        let place = |at: Lsn| (at.bytes_since(self.first) as usize).min(self.log.len());
        self.log.get(place(from)..place(to)).unwrap_or_default()
    }

    /// Whether these bytes, from a position on, are committed ones as far as something is committed there.
    pub(crate) fn agrees(&self, from: Lsn, bytes: &[u8]) -> Result<(), Lsn> {
        let end = from.saturating_add(bytes.len() as u64);
        let (begin, end) = (from.max(self.first), end.min(self.committed()));
        if begin >= end {
            return Ok(());
        }
        let theirs = bytes.get(begin.bytes_since(from) as usize..end.bytes_since(from) as usize).unwrap_or_default();
        let ours = self.slice(begin, end);
        if theirs == ours {
            return Ok(());
        }
        let equal = theirs.iter().zip(ours).take_while(|(a, b)| a == b).count();
        Err(begin.saturating_add(equal as u64))
    }

    /// A term was won.
    pub(crate) fn won(&mut self, term: Term, won: Won) {
        if let Some(other) = self.terms.insert(term, won)
            && other.who != won.who
        {
            self.fail(format!("term {term} was won twice: by {:?} and {:?}", other.who, won.who));
        }
        // One that comes late, behind a later term's, can commit nothing any more.
        let before = self.commits.range(..term).map(|(_, end)| *end).max().unwrap_or(self.first);
        if won.start < before {
            self.fail(format!("term {term} begins at {}, but {before} is committed", won.start));
        }
    }

    /// The leader of a term counts `bytes`, which begin at `from`, as committed: all from the log's beginning, or from where it
    /// was found equal before.
    pub(crate) fn commits(&mut self, term: Term, from: Lsn, bytes: &[u8]) {
        let to = from.saturating_add(bytes.len() as u64);
        let end = self.commits.entry(term).or_default();
        *end = to.max(*end);
        if let Some(won) = self.terms.get(&term).filter(|won| to < won.start) {
            let text = format!("term {term} commits up to {to}, but began at {} only", won.start);
            self.fail(text);
        }
        let later = self.terms.range(Term(term.0 + 1)..).find(|(_, won)| to > won.start);
        if let Some((later, won)) = later {
            let text = format!("term {term} commits up to {to}, but term {later} began at {}", won.start);
            self.fail(text);
        }
        if let Err(at) = self.agrees(from, bytes) {
            self.fail(format!("term {term} commits other bytes at {at} than were committed before"));
            return;
        }
        if from > self.committed() {
            self.fail(format!("term {term} commits from {from} on, but only {} was checked", self.committed()));
            return;
        }
        let known = self.committed().bytes_since(from) as usize;
        self.log.extend_from_slice(bytes.get(known..).unwrap_or_default());
    }

    /// A primary is told this position by the leader of a term.
    pub(crate) fn tells(&mut self, position: Lsn, commit: Option<Lsn>, before: Lsn, restart: Lsn) {
        if commit.is_none_or(|commit| position > commit) {
            self.fail(format!("a primary is told {position}, above the own-term commit LSN {commit:?}"));
        }
        if position <= before || position < restart {
            self.fail(format!("a primary is told {position} after {before}, its slot stands at {restart}"));
        }
        self.told = self.told.max(position);
    }

    /// A safekeeper was started: does it hold what its disk said?
    pub(crate) fn started(&mut self, node: usize, said: Said, term: Term, log_term: Term, end: Lsn) {
        if term < said.term {
            self.fail(format!("safekeeper {node} said term {} and came back with {term}", said.term));
        }
        if log_term < said.log_term {
            let was = said.log_term;
            self.fail(format!("safekeeper {node} acknowledged in term {was} and came back with a log of {log_term}"));
        }
        if log_term == said.log_term && end < said.flush {
            self.fail(format!("safekeeper {node} acknowledged {} and came back with {end}", said.flush));
        }
    }

    /// A safekeeper holds these bytes below its commit LSN.
    pub(crate) fn holds(&mut self, node: usize, from: Lsn, bytes: &[u8]) {
        let end = from.saturating_add(bytes.len() as u64);
        if end > self.committed() {
            self.fail(format!(
                "safekeeper {node} calls {end} committed, but nobody committed above {}",
                self.committed()
            ));
        }
        if let Err(at) = self.agrees(from, bytes) {
            self.fail(format!("safekeeper {node} holds other bytes at {at} than were committed"));
        }
    }

    /// A reader of committed WAL got these bytes.
    pub(crate) fn reads(&mut self, node: usize, from: Lsn, bytes: &[u8]) {
        let end = from.saturating_add(bytes.len() as u64);
        if end > self.committed() {
            self.fail(format!("safekeeper {node} gave a reader {end}, but only {} is committed", self.committed()));
        }
        if let Err(at) = self.agrees(from, bytes) {
            self.fail(format!("safekeeper {node} gave a reader other bytes at {at} than were committed"));
        }
    }
}
