//! How often and how patiently an operation is tried again.
//!
//! Every operation of a [`Store`](crate::Store) is safe to repeat: reads change nothing, deletions of what is gone succeed,
//! puts carry the whole object, and a create-only put whose first answer was lost is told from a foreign object by comparing
//! what is there.

use std::time::Duration;

use rand::Rng;

/// Attempts and pauses. A pause is a random time between half and all of a span that doubles from `first` to `max`, so that
/// many clients that failed together do not come back together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// How often an operation is tried, the first time included; at least 1.
    pub attempts: u32,
    /// The longest first pause.
    pub first: Duration,
    /// The longest pause.
    pub max: Duration,
}

impl Default for RetryPolicy {
    /// 5 attempts, pauses of 0.1 s, 0.2 s, 0.4 s, 0.8 s: an outage longer than some seconds is the caller's to wait for.
    fn default() -> Self {
        RetryPolicy { attempts: 5, first: Duration::from_millis(100), max: Duration::from_secs(5) }
    }
}

impl RetryPolicy {
    /// Never a second attempt.
    pub fn none() -> Self {
        RetryPolicy { attempts: 1, first: Duration::ZERO, max: Duration::ZERO }
    }

    /// How long to wait after failure number `failed` (from 1), or `None` when that was the last attempt.
    pub(crate) fn pause(&self, failed: u32) -> Option<Duration> {
        if failed >= self.attempts.max(1) {
            return None;
        }
        let span = self.first.saturating_mul(1u32.checked_shl(failed.saturating_sub(1)).unwrap_or(u32::MAX));
        Some(span.min(self.max).mul_f64(rand::rng().random_range(0.5..=1.0)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_the_limit_and_end() {
        let policy = RetryPolicy { attempts: 40, first: Duration::from_millis(100), max: Duration::from_secs(1) };
        for failed in 1..40 {
            let pause = policy.pause(failed).unwrap();
            let span = Duration::from_millis(100 * (1u64 << (failed - 1).min(20))).min(policy.max);
            assert!(pause <= span && pause >= span / 2, "{failed}: {pause:?}");
        }
        assert_eq!(policy.pause(40), None);
        assert_eq!(RetryPolicy::none().pause(1), None);
    }
}
