//! Taking a membership record.
//!
//! A record with a higher generation replaces the one here, whoever brings it: that a leader of its term made it is what its maker
//! promised, and passing it on makes nothing true that was not. It raises the term to the maker's, as any message of that leader
//! would. The answer says in which term the record is held now: a leader that makes a record counts only answers that still name
//! its own term, because whoever has promised a later one may already have voted by the record before.

use super::Acceptor;
use crate::Membership;
use crate::faults::Fault;

/// Why a record is not taken.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RecordRefusal {
    /// The cluster was made by a foreign proposer's greeting.
    #[error("this cluster has no membership record, and takes none: its proposer decides who counts")]
    NoRecord,
    /// No leader of ours makes such a record.
    #[error("generation {0} does not go with the term of the membership record")]
    Malformed(u32),
    /// A newer one is here, or another one of the same generation.
    #[error("the membership record here has generation {ours}, the one brought {theirs}")]
    Older {
        /// The one here.
        ours: u32,
        /// The one brought.
        theirs: u32,
    },
    /// The log is being cut.
    #[error("an election is being carried out: try again")]
    Busy,
}

impl Acceptor {
    /// Gives the cluster another name: its era has ended, and the next is to have the name. Returns the ticket whose
    /// [`Acceptor::handle_persisted`] makes it stand for good.
    pub fn rename(&mut self, name: String) -> Result<u64, RecordRefusal> {
        if self.is_busy() {
            return Err(RecordRefusal::Busy);
        }
        self.state.name = name;
        Ok(self.request_persist())
    }

    /// Takes a record in place of the one here. Returns the ticket whose [`Acceptor::handle_persisted`] makes it stand for good.
    /// The same record again is success.
    pub fn handle_record(&mut self, record: Membership) -> Result<u64, RecordRefusal> {
        let ours = &self.state.membership;
        if !ours.is_set() {
            return Err(RecordRefusal::NoRecord);
        }
        if !record.is_well_made() {
            return Err(RecordRefusal::Malformed(record.generation));
        }
        if self.is_busy() {
            return Err(RecordRefusal::Busy);
        }
        if *ours == record {
            let waits = self.tickets.issued > self.tickets.done;
            return Ok(if waits { self.request_persist() } else { self.tickets.done });
        }
        if record.generation <= ours.generation && !self.broken.is(Fault::OlderRecord) {
            return Err(RecordRefusal::Older { ours: ours.generation, theirs: record.generation });
        }
        self.state.term = self.state.term.max(record.term);
        // Messages that count by the record before are refused from now on, so its leader leads no longer here.
        self.leader = None;
        self.state.membership = record;
        Ok(self.request_persist())
    }

    /// Whether everything up to a ticket is durable.
    pub fn has_persisted(&self, ticket: u64) -> bool {
        self.tickets.done >= ticket
    }
}

#[cfg(test)]
#[path = "record_test.rs"]
mod tests;
