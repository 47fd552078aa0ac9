//! An acceptor as an exhaustive checker tells it from others: by what it will do next.
//!
//! Two acceptors that differ only in how many control-file writes they have behind them, in the numbers of their sessions, or in who
//! they are, go on in the same way. What is hashed here leaves those numbers out.

use super::{Acceptor, Phase, SessionId};
use lsn::Lsn;
use std::hash::{Hash, Hasher};

impl Acceptor {
    /// Whether a granted vote waits to leave on this session.
    pub fn is_granting(&self, session: SessionId) -> bool {
        self.votes.iter().any(|vote| vote.session == session && vote.granted)
    }

    /// Feeds what outlives a crash into `hasher`, for a world in which sessions are over and disks done whenever it is asked. A cut that
    /// start-up would do again without effect is left out, and so is the floor.
    pub fn hash_durable<H: Hasher>(&self, hasher: &mut H) {
        let state = &self.state;
        (state.term, &state.history, &state.path, state.commit, state.log_start).hash(hasher);
        (state.damaged_below, &state.fence, state.membership.precedence()).hash(hasher);
        (self.persisted_commit, self.written, self.durable, self.flush, self.standing()).hash(hasher);
    }

    /// Feeds everything that decides what this acceptor does next into `hasher`. Sessions go by the names `name` gives them; tickets
    /// count from the last one done. Without `floor` that position stays out: it decides nothing where disks lose nothing.
    pub fn hash_view<H: Hasher>(&self, hasher: &mut H, name: &dyn Fn(SessionId) -> u64, floor: bool) {
        let Acceptor { state, sessions, phase, votes, tickets, commands, .. } = self;
        (state.term, &state.history, &state.path, state.commit, state.log_start).hash(hasher);
        (state.cutting, state.damaged_below, &state.fence, state.membership.precedence()).hash(hasher);
        (self.persisted_commit, self.written, self.durable, self.flush, self.tail_clean).hash(hasher);
        (self.leader_commit, self.truncate, self.standby, self.standing()).hash(hasher);
        if floor {
            state.floor.hash(hasher);
        }
        self.leader.map(|(term, session)| (term, name(session))).hash(hasher);
        let mut named: Vec<_> = sessions.iter().map(|(id, session)| (name(*id), session)).collect();
        named.sort_by_key(|(name, _)| *name);
        named.hash(hasher);
        let ahead = |ticket: u64| ticket.saturating_sub(tickets.done);
        let under_way = if tickets.issued > tickets.done { tickets.commit_under_way } else { Lsn::INVALID };
        (ahead(tickets.issued), tickets.again, under_way).hash(hasher);
        std::mem::discriminant(phase).hash(hasher);
        let elected = match phase {
            Phase::Steady => None,
            Phase::Settling(elected) => Some((elected, None, None)),
            Phase::Announcing { elected, to, ticket } => Some((elected, Some(*to), Some(ahead(*ticket)))),
            Phase::Cutting { elected, to } => Some((elected, Some(*to), None)),
            Phase::Adopting { elected, ticket } => Some((elected, None, Some(ahead(*ticket)))),
        };
        if let Some((elected, to, ticket)) = elected {
            (name(elected.session), elected.server, &elected.path, &elected.tli_history).hash(hasher);
            (&elected.message, to, ticket).hash(hasher);
        }
        votes.len().hash(hasher);
        for vote in votes {
            let waits = vote.after_durable.max(self.durable);
            (name(vote.session), vote.term, vote.granted, ahead(vote.after_ticket), waits).hash(hasher);
        }
        // Whoever drives an acceptor takes its commands out before anything else happens.
        commands.len().hash(hasher);
    }
}
