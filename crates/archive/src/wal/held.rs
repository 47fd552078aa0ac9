//! [`Held`]: which bytes of one generation the replica holds. A few runs of positions, merged where they touch.

use lsn::Lsn;
use std::collections::BTreeMap;
use std::ops::Range;

/// Positions held, as runs that neither touch nor overlap.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Held {
    /// From begin to end.
    runs: BTreeMap<u64, u64>,
}

impl Held {
    /// Nothing.
    pub const EMPTY: Held = Held { runs: BTreeMap::new() };

    /// Adds a run; an empty one is nothing.
    pub fn add(&mut self, run: Range<Lsn>) {
        let (mut begin, mut end) = (run.start.0, run.end.0);
        if begin >= end {
            return;
        }
        // The runs that touch it end with it.
        while let Some((&other, &other_end)) = self.runs.range(..=end).next_back()
            && other_end >= begin
        {
            self.runs.remove(&other);
            (begin, end) = (begin.min(other), end.max(other_end));
        }
        self.runs.insert(begin, end);
    }

    /// The first run inside `within` that is not held; `None` if all of it is.
    pub fn first_gap(&self, within: Range<Lsn>) -> Option<Range<Lsn>> {
        let mut begin = within.start.0;
        if let Some((_, &end)) = self.runs.range(..=begin).next_back() {
            begin = begin.max(end);
        }
        if begin >= within.end.0 {
            return None;
        }
        let end = self.runs.range(begin..).next().map_or(within.end.0, |(&next, _)| next.min(within.end.0));
        Some(Lsn(begin)..Lsn(end))
    }

    /// Where the run begins that holds everything just below `end`; `end` itself if nothing there is held.
    pub fn run_start(&self, end: Lsn) -> Lsn {
        match self.runs.range(..end.0).next_back() {
            Some((&begin, &run_end)) if run_end >= end.0 => Lsn(begin),
            _ => end,
        }
    }

    /// Whether all of a run is held.
    pub fn holds(&self, run: Range<Lsn>) -> bool {
        self.first_gap(run).is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn agrees_with_a_set_of_bytes(
            runs in proptest::collection::vec((0u64..60, 0u64..20), 0..12),
            from in 0u64..70,
            len in 0u64..30,
        ) {
            let (mut held, mut bytes) = (Held::default(), [false; 100]);
            for (begin, len) in runs {
                held.add(Lsn(begin)..Lsn(begin + len));
                bytes[begin as usize..(begin + len) as usize].fill(true);
            }
            let gap = (from..from + len).find(|at| !bytes[*at as usize]).map(|begin| {
                let end = (begin..from + len).find(|at| bytes[*at as usize]).unwrap_or(from + len);
                Lsn(begin)..Lsn(end)
            });
            prop_assert_eq!(held.first_gap(Lsn(from)..Lsn(from + len)), gap.clone());
            prop_assert_eq!(held.holds(Lsn(from)..Lsn(from + len)), gap.is_none());
            let run = (0..from).rev().take_while(|at| bytes[*at as usize]).last().unwrap_or(from);
            prop_assert_eq!(held.run_start(Lsn(from)), Lsn(run));
            let runs: Vec<_> = held.runs.iter().collect();
            prop_assert!(runs.windows(2).all(|pair| pair[0].1 < pair[1].0), "{:?}", runs);
        }
    }
}
