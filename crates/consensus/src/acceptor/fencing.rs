//! Fences, as one acceptor keeps them. Who may set or lift one is decided elsewhere; here a fence belongs to its term.

use super::{Acceptor, SessionId};
use crate::faults::Fault;
use crate::{Fence, Refusal};
use lsn::Term;

impl Acceptor {
    /// Whether a session may be elected, or which fence stands. Greetings are answered all the same: the term in the answer
    /// tells a leader that it is one no more.
    pub(super) fn check_fence(&self, session: SessionId) -> Result<(), Refusal> {
        let (Some(fence), Some(session)) = (&self.state.fence, self.sessions.get(&session)) else { return Ok(()) };
        if session.introduction.passes(fence) || self.broken.is(Fault::FenceIgnored) {
            return Ok(());
        }
        Err(Refusal::Fenced { epoch: fence.line.epoch, lsn: fence.line.lsn })
    }

    /// Sets a fence in the term that is its epoch, in place of any other. Nobody else leads in that term, so nobody has to be
    /// ended. Returns the ticket whose [`Acceptor::handle_persisted`] makes it stand for good.
    pub fn set_fence(&mut self, fence: Fence) -> Result<u64, Refusal> {
        let (ours, theirs) = (self.state.term, fence.line.epoch);
        // Without the term's history this log was not completed by it.
        if ours != theirs || self.state.history.last_term() != theirs || self.is_busy() {
            return Err(Refusal::FenceTerm { ours, theirs });
        }
        if !matches!(self.standing(), super::Standing::Member) {
            return Err(Refusal::NotMember);
        }
        self.state.fence = Some(fence);
        Ok(self.request_persist())
    }

    /// The last ticket that [`Acceptor::handle_persisted`] was called with.
    pub fn persisted_ticket(&self) -> u64 {
        self.tickets.done
    }

    /// Takes the fence of this epoch, or of an earlier one, away; `None` if there is none. Returns the ticket as
    /// [`Acceptor::set_fence`] does.
    pub fn lift_fence(&mut self, epoch: Term) -> Option<u64> {
        self.state.fence.take_if(|fence| fence.line.epoch <= epoch)?;
        Some(self.request_persist())
    }
}
