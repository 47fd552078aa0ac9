//! What is done now and then, and next when.

use std::time::Duration;
use tokio::time::Instant;

/// A timer that is not set.
pub(super) const NEVER: Duration = Duration::from_secs(365 * 24 * 3600);

/// When something is due.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timer {
    /// How often; `None`: never by itself.
    pub(super) every: Option<Duration>,
    /// The next time.
    pub(super) due: Instant,
}

impl Timer {
    pub(super) fn new(every: Option<Duration>) -> Timer {
        Timer { every, due: Instant::now() + every.unwrap_or(NEVER) }
    }

    pub(super) fn after(&mut self, wait: Duration) {
        self.due = Instant::now() + wait;
    }

    pub(super) fn again(&mut self) {
        self.after(self.every.unwrap_or(NEVER));
    }

    pub(super) fn is_due(&self) -> bool {
        Instant::now() >= self.due
    }
}
