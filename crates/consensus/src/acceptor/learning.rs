//! A safekeeper that is no member follows what the members hold.
//!
//! What it takes up is a member's log as that member told it: its term, the history of that term, and WAL below the member's commit
//! LSN, read under the guard of the term, so that (term, LSN) names every byte. It acknowledges nothing and votes for nobody, so
//! nothing that is committed ever depends on it; it only has little left to learn when a record makes it a member.

use super::{Acceptor, AcceptorCommand, Elected, Phase, Session, SessionId, Standing};
use crate::{Introduction, ProposerElected, Refusal, ServerInfo, TermHistory};
use lsn::{Lsn, Path, SegmentSize, Term};

/// The session of a learner with nobody: what it would answer goes nowhere.
const LEARNING: SessionId = SessionId(u64::MAX);

/// A member's log, as it told it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MembersLog {
    /// Its term, which must be that of its last history entry: it follows the leader of that term.
    pub term: Term,
    /// Its term history.
    pub history: TermHistory,
    /// Its lineage of TLIs, as far as its log reaches: at least to `commit`.
    pub path: Path,
    /// What it knows of the primary; the segment size is needed.
    pub server: ServerInfo,
    /// Its commit LSN: how far the learner follows.
    pub commit: Lsn,
    /// The first byte it still has: where an empty learner begins.
    pub oldest: Lsn,
}

impl Acceptor {
    /// Takes up a member's log, or notes how much further it has come. Only for a disk that the record does not count; anything else,
    /// and a log of a lower term, is ignored. Returns whether it follows that term now: then WAL may be handed to
    /// [`Acceptor::handle_pulled`].
    pub fn handle_learn(&mut self, log: MembersLog) -> Result<bool, Refusal> {
        let counts = !matches!(self.standing(), Standing::Learner | Standing::ForeignDisk);
        if counts || self.is_busy() || log.term < self.state.term {
            return Ok(false);
        }
        if log.history.last_term() != log.term || log.term == Term(0) {
            return Err(Refusal::History(log.term));
        }
        // A member tells its path as far as its own log reaches. WAL above that may lie on a TLI that begins there, so the commit LSN of
        // one that is further along the path counts only once the path is taken up too.
        let covers = |path: &Path| path.entries().starts_with(log.path.entries());
        if self.leader == Some((log.term, LEARNING)) && self.state.path.as_ref().is_some_and(covers) {
            self.leader_commit = self.leader_commit.max(log.commit);
            self.advance_commit();
            return Ok(true);
        }
        let first = log.history.entries().first().map_or(Lsn::INVALID, |entry| entry.begin);
        let own = self.state.history.cut(self.flush);
        let start = log.history.common_point(&own, self.flush).unwrap_or(first);
        let introduction = Introduction::of(log.path.clone());
        let elected = Elected {
            session: LEARNING,
            server: log.server,
            path: log.path,
            tli_history: String::new(),
            message: ProposerElected {
                generation: self.state.membership.generation,
                term: log.term,
                start_streaming_at: start,
                history: log.history,
            },
        };
        self.leader = None;
        self.sessions.insert(LEARNING, Session { server: log.server, introduction });
        if self.state.log_start.is_valid() {
            self.phase = Phase::Settling(elected);
            self.advance_phase();
            return Ok(false);
        }
        // What the members have removed is not learned: an empty log begins where theirs do now.
        let server = self.state.server.completed_by(&log.server);
        let size = SegmentSize::new(server.segment_size.into()).map_err(|_| Refusal::FirstByte(log.oldest))?;
        if !log.oldest.is_valid() || size.offset_of(log.oldest) != 0 || log.oldest < first {
            return Err(Refusal::FirstByte(log.oldest));
        }
        self.state.term = log.term;
        let (to, path) = (log.oldest, elected.path.clone());
        self.phase = Phase::Cutting { elected, to };
        self.commands.push_back(AcceptorCommand::Cut { to, first: true, path, server });
        Ok(false)
    }
}

#[cfg(test)]
#[path = "learning_test.rs"]
mod tests;
