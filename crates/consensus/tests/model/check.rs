//! What must be true whatever happens.

use crate::disk::{FIRST, index};
use crate::mutant::Mutant;
use crate::node::Node;
use crate::primary::Primary;
use crate::world::World;
use consensus::{Leadership, Standing, TermHistory};
use lsn::{Lsn, Term};

/// End of the log that counts: below a cut under way.
fn end_of(node: &Node) -> Option<Lsn> {
    let flush = node.acceptor.as_ref()?.flush();
    Some(node.disk.cutting.map_or(flush, |to| flush.min(to)))
}

/// For every term both histories know, the bytes up to the lower end of what it wrote are the same in both.
fn same_terms_same_bytes(a: (&TermHistory, &[u8]), b: (&TermHistory, &[u8])) -> Result<(), String> {
    let end = |(history, log): (&TermHistory, &[u8]), at: usize| {
        let log_end = Lsn(FIRST + log.len() as u64);
        history.entries().get(at + 1).map_or(log_end, |next| next.begin.min(log_end))
    };
    for (at, ours) in a.0.entries().iter().enumerate() {
        let Some(there) = b.0.entries().iter().position(|theirs| theirs.term == ours.term) else { continue };
        let begin = b.0.entries()[there].begin;
        if begin != ours.begin {
            return Err(format!("term {} begins at {} and at {begin}", ours.term, ours.begin));
        }
        let shared = index(end(a, at).min(end(b, there)).0);
        if a.1[..shared] != b.1[..shared] {
            return Err(format!("logs differ below {shared}, both of term {}", ours.term));
        }
    }
    Ok(())
}

impl World {
    /// Holds after every step.
    pub(crate) fn check(&mut self) {
        let mut logs = Vec::new();
        for node in &mut self.nodes {
            let Some(acceptor) = &node.acceptor else { continue };
            let name = node.identity.node;
            let (state, commit) = (acceptor.state(), acceptor.commit());
            assert!(state.term >= node.last_seen.0 && commit >= node.last_seen.1, "{name}: term or commit LSN fell");
            node.last_seen = (state.term, commit);
            assert!(acceptor.flush().0 <= node.disk.synced, "{name}: flush {} is not durable", acceptor.flush());
            let sound = acceptor.standing() == Standing::Member;
            assert!(commit <= acceptor.flush() || !sound, "{name}: commit {commit} above flush {}", acceptor.flush());
            let commit = index(commit.min(acceptor.flush()).0);
            let committed = self.committed.get(..commit).unwrap_or_else(|| panic!("{name}: commit was never declared"));
            assert!(node.disk.log(node.disk.written).starts_with(committed), "{name}: its committed bytes are others");
            let flush = acceptor.flush();
            if let Some(path) = node.path().filter(|_| node.disk.cutting.is_none()) {
                let log = node.disk.log(flush.0);
                let of = |server: &Primary| server.path.cut(flush) == path && server.log.starts_with(log);
                assert!(self.primaries.iter().any(of), "{name}: no server on {path} has its bytes up to {flush}");
            }
            let early = self.mutant == Mutant::SwitchShownEarly;
            let shown = if early { node.path() } else { acceptor.public_path() };
            for entry in shown.iter().flat_map(|path| path.entries()) {
                let final_one = self.committed_path.entries().contains(entry);
                assert!(final_one, "{name}: shows TLI {} of {}, which is not committed", entry.tli, entry.begin);
            }
        }
        for node in &self.nodes {
            if let (Some(end), Some(acceptor)) = (end_of(node), &node.acceptor) {
                logs.push((acceptor.state().history.cut(end), node.disk.log(end.0), node.identity.node));
            }
        }
        for (at, (history, log, name)) in logs.iter().enumerate() {
            for (other_history, other_log, other) in &logs[..at] {
                if let Err(error) = same_terms_same_bytes((history, log), (other_history, other_log)) {
                    panic!("{name} and {other}: {error}");
                }
            }
        }
        self.check_counted();
    }

    /// A leader counts only what a whole safekeeper that still follows its term has.
    fn check_counted(&self) {
        for leadership in self.proposers.iter().filter_map(|proposer| proposer.leadership()) {
            for node in &self.nodes {
                let Some(acceptor) = &node.acceptor else { continue };
                let counted = leadership.flush_of(node.identity.node).unwrap_or(Lsn::INVALID);
                let follows = acceptor.state().term == leadership.term() && acceptor.standing() == Standing::Member;
                assert!(
                    !follows || counted.0 <= node.disk.synced,
                    "{}: term {} counts it up to {counted}, it has {}",
                    node.identity.node,
                    leadership.term(),
                    Lsn(node.disk.synced)
                );
            }
        }
    }

    /// A campaign is won.
    pub(crate) fn win(&mut self, id: usize, leadership: &Leadership) {
        let (term, start) = (leadership.term(), leadership.start());
        self.note(|| format!("P{id} wins term {term} from {start}"));
        let earlier = self.winners.insert(term, id);
        assert_eq!(earlier, None, "term {term} has two winners");
        for (&other, &commit) in self.commits.range(..term) {
            assert!(start >= commit, "term {term} starts at {start}, below {commit} committed in term {other}");
        }
    }

    /// A leader calls something committed.
    pub(crate) fn declare(&mut self, id: usize, term: Term, start: Lsn, commit: Lsn) {
        self.note(|| format!("P{id} commits {commit} in term {term}"));
        assert!(commit >= start, "commit {commit} in term {term}, which starts at {start}");
        let server = &self.primaries[self.proposers[id].primary];
        let bytes =
            server.log.get(..index(commit.0)).unwrap_or_else(|| panic!("commit {commit} beyond the primary's log"));
        assert_eq!(crate::disk::whole_records(bytes), bytes.len(), "commit {commit} in the middle of a record");
        let shared = bytes.len().min(self.committed.len());
        assert_eq!(bytes[..shared], self.committed[..shared], "committed bytes changed");
        let path = server.path.cut(commit);
        assert!(
            path.agree(&self.committed_path) >= Lsn(FIRST + shared as u64),
            "the lineage of committed bytes changed"
        );
        if bytes.len() > shared {
            self.committed = bytes.to_vec();
            self.committed_path = path;
        }
        let held = self.membership.has_majority(|number| self.nodes[number.0 as usize - 1].holds(bytes));
        assert!(held, "commit {commit} of term {term} is not durable on a majority");
        self.commits.insert(term, commit);
    }
}
