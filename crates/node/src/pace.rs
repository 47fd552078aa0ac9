//! [`Pace`]: where the next sync runs.
//!
//! The disk thread lets receiving, writing and syncing overlap, at the price of two thread switches per sync. Where a sync takes
//! less than such an overlap could win, that price is most of the cost of a commit: then the sync runs in place, on the commit
//! thread, and what arrives meanwhile waits in the socket. That is done only while one cluster has proposers, the syncs of late
//! were fast, and little is to be synced; one stalled sync ends it for a while.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// Syncs in place may hold up the commit thread for so long on average.
const FAST: Duration = Duration::from_millis(2);
/// One sync that takes longer is a disk in trouble.
const STALL: Duration = Duration::from_millis(50);
/// A new duration counts this part of the average.
const WEIGHT: u32 = 8;
/// More than this is a stream, which wants the overlap.
const SMALL_BYTES: u64 = 256 << 10;
/// After a stall the disk thread is used for so long.
const CAUTION: Duration = Duration::from_secs(1);

/// What is known of the disk, and of who uses it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pace {
    /// How many clusters have proposers.
    busy_clusters: Rc<Cell<usize>>,
    average: Rc<Cell<Option<Duration>>>,
    stalled_until: Rc<Cell<Option<Instant>>>,
}

impl Pace {
    /// A cluster got its first proposer.
    pub(crate) fn enter(&self) {
        self.busy_clusters.set(self.busy_clusters.get() + 1);
    }

    /// A cluster lost its last proposer.
    pub(crate) fn leave(&self) {
        self.busy_clusters.set(self.busy_clusters.get().saturating_sub(1));
    }

    /// Whether a sync of `bytes` should run in place.
    pub(crate) fn in_place(&self, now: Instant, bytes: u64) -> bool {
        let fast = self.average.get().is_some_and(|average| average <= FAST);
        let calm = self.stalled_until.get().is_none_or(|until| now >= until);
        self.busy_clusters.get() == 1 && bytes <= SMALL_BYTES && fast && calm
    }

    /// A sync took so long.
    pub(crate) fn note(&self, now: Instant, took: Duration) {
        let average = self.average.get().map_or(took, |average| (average * (WEIGHT - 1) + took) / WEIGHT);
        self.average.set(Some(average));
        if took > STALL {
            self.stalled_until.set(Some(now + CAUTION));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_place_only_while_alone_fast_and_small() {
        let (pace, start) = (Pace::default(), Instant::now());
        pace.enter();
        assert!(!pace.in_place(start, 100), "nothing is known of the disk yet");
        pace.note(start, FAST / 4);
        assert!(pace.in_place(start, 100));
        assert!(!pace.in_place(start, SMALL_BYTES + 1), "a stream");
        pace.enter();
        assert!(!pace.in_place(start, 100), "another cluster must not wait for our sync");
        pace.leave();
        pace.note(start, STALL * 2);
        for _ in 0..100 {
            pace.note(start, FAST / 4);
        }
        assert!(!pace.in_place(start, 100), "it stalled a moment ago");
        assert!(pace.in_place(start + CAUTION, 100));
        for _ in 0..100 {
            pace.note(start, FAST * 2);
        }
        assert!(!pace.in_place(start + CAUTION, 100), "a slow disk");
    }
}
