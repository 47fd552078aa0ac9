//! Processing an Elected message: settle, announce, cut, adopt.
//!
//! Every step but the first ends with something durable, and a crash after any of them is repaired at start-up: an announced
//! cut is done again, and until the new history is adopted the old one, cut to the end, describes what is there.

use super::{Acceptor, AcceptorCommand, Elected, Phase};
use crate::faults::Fault;
use crate::{Cutting, Refusal};
use lsn::Lsn;

/// Records begin at multiples of this.
const RECORD_ALIGNMENT: u64 = 8;

impl Acceptor {
    /// Moves the processing of an Elected message on as far as completions allow.
    pub(super) fn advance_phase(&mut self) {
        match std::mem::replace(&mut self.phase, Phase::Steady) {
            Phase::Settling(elected) if self.durable == self.written && self.tickets.issued == self.tickets.done => {
                self.begin_cut(elected);
            }
            Phase::Announcing { elected, to, ticket } if self.tickets.done >= ticket => {
                let first = !self.state.log_start.is_valid();
                let (path, server) = (elected.path.clone(), self.state.server.completed_by(&elected.server));
                self.phase = Phase::Cutting { elected, to };
                self.commands.push_back(AcceptorCommand::Cut { to, first, path, server });
            }
            Phase::Adopting { elected, ticket } if self.tickets.done >= ticket => self.lead(elected),
            waiting => self.phase = waiting,
        }
    }

    /// The end of this log is known: find where it parts from the leader's, and announce the cut.
    fn begin_cut(&mut self, elected: Elected) {
        let message = &elected.message;
        let to = match self.start_point(&elected) {
            Ok(to) => to,
            Err(refusal) => {
                self.commands.push_back(AcceptorCommand::Refuse { session: elected.session, refusal });
                return;
            }
        };
        self.state.term = self.state.term.max(message.term);
        // Where the bytes lie depends on the path, so a new one goes through a cut even if there is nothing to cut.
        if to == self.written && self.tail_clean && self.state.path.as_ref() == Some(&elected.path) {
            self.adopt(elected);
            return;
        }
        self.state.cutting = Some(Cutting { to });
        if self.broken.is(Fault::HistoryBeforeCut) {
            self.state.history = message.history.clone();
            self.state.path = Some(elected.path.clone());
            self.state.cutting = None;
        }
        self.state.floor = self.state.floor.min(to);
        let ticket = self.request_persist();
        self.phase = Phase::Announcing { elected, to, ticket };
    }

    /// Where the leader's log goes on here, after every check that can refuse it.
    fn start_point(&self, elected: &Elected) -> Result<Lsn, Refusal> {
        let message = &elected.message;
        let first = message.history.entries().first().map_or(Lsn::INVALID, |entry| entry.begin);
        let own = self.state.history.cut(self.flush);
        let mut ours = message.history.common_point(&own, self.flush).unwrap_or(first);
        let theirs = message.start_streaming_at;
        if ours != theirs {
            return Err(Refusal::StartPoint { ours, theirs });
        }
        // Damage may have left less than what is known to be committed; that is missing, not cut.
        if ours < self.state.commit.min(self.flush) {
            return Err(Refusal::BelowCommit { start: ours, commit: self.state.commit });
        }
        if self.broken.is(Fault::CutBelowCommit) && self.state.commit > first {
            ours = ours.min(Lsn(self.state.commit.0 - 1));
        }
        if !self.state.log_start.is_valid() {
            let segment_size = u64::from(self.state.server.completed_by(&elected.server).segment_size);
            // Logs of foreign proposers, which know no membership record, begin where their server does.
            let grid = if self.state.membership.is_set() { segment_size } else { RECORD_ALIGNMENT };
            let aligned = segment_size != 0 && first.is_valid() && first.0.is_multiple_of(grid);
            return if aligned { Ok(first) } else { Err(Refusal::FirstByte(first)) };
        }
        if first != self.state.log_start {
            return Err(Refusal::LogStart { ours: self.state.log_start, theirs: first });
        }
        match &self.state.path {
            Some(path) if elected.path.agree(&path.cut(ours)) < ours => {
                Err(Refusal::Path { ours: path.clone(), theirs: elected.path.clone() })
            }
            _ => Ok(ours),
        }
    }

    /// Step (c): history and path in one write, after which appends are taken.
    pub(super) fn adopt(&mut self, elected: Elected) {
        let message = &elected.message;
        let path = elected.path.clone();
        let server = self.state.server.completed_by(&elected.server);
        let log_start = message.history.entries().first().map_or(self.written, |entry| entry.begin);
        let unchanged = self.state.history == message.history
            && self.state.path.as_ref() == Some(&path)
            && self.state.tli_history == elected.tli_history
            && self.state.cutting.is_none()
            && self.state.server == server;
        self.state.history = message.history.clone();
        self.state.path = Some(path);
        self.state.tli_history = elected.tli_history.clone();
        self.state.server = server;
        self.state.log_start = log_start;
        self.state.cutting = None;
        if unchanged && self.tickets.issued == self.tickets.done {
            self.lead(elected);
            return;
        }
        let ticket = self.request_persist();
        self.phase = Phase::Adopting { elected, ticket };
    }

    /// The Elected message is processed: its session may append.
    fn lead(&mut self, elected: Elected) {
        self.phase = Phase::Steady;
        if elected.message.term == self.state.term && self.sessions.contains_key(&elected.session) {
            self.leader = Some((elected.message.term, elected.session));
            self.leader_commit = Lsn::INVALID;
        }
        self.validate();
    }
}
