//! The fence of a cluster on one safekeeper, and the clock it ends by.
//!
//! How long a fence stands is counted by each safekeeper's monotonic clock, from when it took the fence or was started with
//! it: expiry is policy, and too late is better than too early.

use crate::keeper::Keeper;
use consensus::{Fence, FenceLine, Refusal};
use lsn::Term;
use std::time::{Duration, Instant};

impl Keeper {
    /// Sets a fence; the ticket says when it is durable, see [`Keeper::is_persisted`].
    ///
    /// # Errors
    /// Another term is current here, or this safekeeper may not vote.
    pub fn set_fence(&mut self, now: Instant, fence: Fence) -> Result<u64, Refusal> {
        let line = fence.line.clone();
        let ticket = self.acceptor.set_fence(fence)?;
        self.fence_until = until(&line, now);
        self.version += 1;
        self.drive(now);
        Ok(ticket)
    }

    /// Takes the fence of this epoch, or of an earlier one, away; `None` if there is none.
    pub fn lift_fence(&mut self, now: Instant, epoch: Term) -> Option<u64> {
        let ticket = self.acceptor.lift_fence(epoch)?;
        self.fence_until = None;
        self.version += 1;
        self.drive(now);
        Some(ticket)
    }

    /// Whether the control file holds what was asked for with this ticket.
    pub fn is_persisted(&self, ticket: u64) -> bool {
        self.acceptor.persisted_ticket() >= ticket
    }

    /// Why nothing is promised any more, if so.
    pub fn stopped(&self) -> Option<&str> {
        self.stopped.as_deref()
    }

    /// The fence that stands, with the time it has left.
    pub fn fence(&self, now: Instant) -> Option<FenceLine> {
        let line = self.acceptor.state().fence.as_ref()?.line.clone();
        let left = self.fence_until.map(|(_, at)| at.saturating_duration_since(now).as_millis());
        let left = left.map(|millis| u64::try_from(millis).unwrap_or(u64::MAX).max(1));
        Some(FenceLine { expires_ms: left, ..line })
    }

    /// A fence found at start-up stands for its whole time again.
    pub(crate) fn resume_fence(&mut self) {
        let (started, _) = self.options.clock;
        self.fence_until = self.acceptor.state().fence.as_ref().and_then(|fence| until(&fence.line, started));
    }

    pub(crate) fn fence_timeout(&self) -> Option<Instant> {
        self.fence_until.map(|(_, at)| at)
    }

    pub(crate) fn check_fence(&mut self, now: Instant) {
        if let Some((epoch, _)) = self.fence_until.filter(|(_, at)| now >= *at) {
            self.fence_until = None;
            self.version += 1;
            // Nobody waits for it to be durable: after a crash before that it stands once more.
            let _ = self.acceptor.lift_fence(epoch);
        }
    }
}

fn until(line: &FenceLine, from: Instant) -> Option<(Term, Instant)> {
    let at = from.checked_add(Duration::from_millis(line.expires_ms?))?;
    Some((line.epoch, at))
}
