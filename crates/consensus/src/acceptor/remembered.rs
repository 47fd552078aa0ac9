//! What an acceptor learns about its own past from others: that its disk once held more than it does now.

use super::{Acceptor, Standing};
use lsn::{Lsn, Term};

impl Acceptor {
    /// Whether all of [`Acceptor::state`] is durable and no Elected message is being processed: what it says then was promised.
    pub fn is_settled(&self) -> bool {
        !self.is_busy() && self.tickets.issued == self.tickets.done
    }

    /// This disk once promised `term` and held WAL up to `below`, and does not any more. There is no vote until what was lost has
    /// been learned, and no part in any term below the promised one. A vote that is still on its way to the disk is not given.
    pub fn handle_forgotten(&mut self, term: Term, below: Lsn) {
        if term > self.state.term {
            self.state.term = term;
            self.leader = None;
        }
        self.votes.retain(|vote| !vote.granted);
        // An empty log may have forgotten a term alone; any valid position says so.
        self.state.damaged_below = self.state.damaged_below.max(below).max(Lsn(1));
        self.request_persist();
        self.heal();
        self.release_votes();
    }

    /// An operator takes a damaged log as it is, up to `end`, which must be its end: what lay above is given up, and it votes again.
    /// Returns the ticket whose [`Acceptor::handle_persisted`] makes it stand for good, or `None` if the log is not damaged, ends
    /// elsewhere or is being cut.
    ///
    /// It enters a term of its own, so that nobody who remembers more of the old one finds it damaged again.
    pub fn handle_accepted(&mut self, end: Lsn) -> Option<u64> {
        if self.standing() != Standing::Damaged || self.flush != end || self.is_busy() {
            return None;
        }
        self.state.term = self.state.term.next();
        self.leader = None;
        self.state.damaged_below = Lsn::INVALID;
        // The one case in which a commit LSN falls: what it covered is gone.
        self.state.commit = self.state.commit.min(self.flush);
        self.persisted_commit = self.persisted_commit.min(self.flush);
        self.tickets.commit_under_way = self.tickets.commit_under_way.min(self.flush);
        let ticket = self.request_persist();
        self.validate();
        Some(ticket)
    }
}

#[cfg(test)]
#[path = "remembered_test.rs"]
mod tests;
