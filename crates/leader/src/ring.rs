//! [`WalRing`]: the WAL this connection received, recent bytes only, as the slices they were received in.
//!
//! Invariants: slices follow each other without a gap; none is empty; `begin <= end`. Bytes are never copied.

use bytes::Bytes;
use lsn::Lsn;
use std::collections::VecDeque;

/// A contiguous run of received WAL.
#[derive(Debug)]
pub(crate) struct WalRing {
    start: Lsn,
    begin: Lsn,
    end: Lsn,
    slices: VecDeque<(Lsn, Bytes)>,
}

impl WalRing {
    /// Nothing received yet; the first byte will be that at `start`.
    pub(crate) fn new(start: Lsn) -> WalRing {
        WalRing { start, begin: start, end: start, slices: VecDeque::new() }
    }

    /// Where the stream began.
    pub(crate) fn start(&self) -> Lsn {
        self.start
    }

    /// First byte still here.
    pub(crate) fn begin(&self) -> Lsn {
        self.begin
    }

    /// First byte not received yet.
    pub(crate) fn end(&self) -> Lsn {
        self.end
    }

    /// Takes the next bytes. False, and nothing changed, if they do not follow.
    #[must_use]
    pub(crate) fn push(&mut self, begin: Lsn, bytes: Bytes) -> bool {
        let Some(end) = begin.checked_add(bytes.len() as u64) else { return false };
        if begin != self.end {
            return false;
        }
        if !bytes.is_empty() {
            self.slices.push_back((begin, bytes));
            self.end = end;
        }
        true
    }

    /// Lets go of the oldest slices until at most `keep` bytes are left, but of nothing at or above `limit`.
    pub(crate) fn trim(&mut self, keep: u64, limit: Lsn) {
        while self.end.bytes_since(self.begin) > keep {
            let Some((begin, slice)) = self.slices.front() else { break };
            let end = begin.saturating_add(slice.len() as u64);
            if end > limit {
                break;
            }
            self.begin = end;
            self.slices.pop_front();
        }
    }

    /// The bytes of the slice that holds `from`, from there on; empty at the end and outside.
    pub(crate) fn at(&self, from: Lsn) -> &[u8] {
        self.slice_at(from).map_or(&[], |(offset, slice)| slice.get(offset..).unwrap_or(&[]))
    }

    /// Collects up to `most` bytes from `from` on into `out`; returns how many.
    pub(crate) fn collect(&self, from: Lsn, most: usize, out: &mut Vec<Bytes>) -> usize {
        let Some(mut index) = self.index_of(from) else { return 0 };
        let mut taken = 0;
        while let Some((begin, slice)) = self.slices.get(index) {
            let offset = from.saturating_add(taken as u64).bytes_since(*begin) as usize;
            let length = (slice.len() - offset).min(most - taken);
            if length == 0 {
                break;
            }
            out.push(slice.slice(offset..offset + length));
            taken += length;
            index += 1;
        }
        taken
    }

    fn index_of(&self, from: Lsn) -> Option<usize> {
        if from < self.begin || from >= self.end {
            return None;
        }
        // New bytes are asked for far more often than old ones.
        if let Some((begin, _)) = self.slices.back()
            && *begin <= from
        {
            return Some(self.slices.len() - 1);
        }
        self.slices.partition_point(|(begin, _)| *begin <= from).checked_sub(1)
    }

    fn slice_at(&self, from: Lsn) -> Option<(usize, &Bytes)> {
        let (begin, slice) = self.slices.get(self.index_of(from)?)?;
        Some((from.bytes_since(*begin) as usize, slice))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn bytes_must_follow() {
        let mut ring = WalRing::new(Lsn(100));
        assert!(!ring.push(Lsn(99), Bytes::from_static(b"ab")));
        assert!(ring.push(Lsn(100), Bytes::from_static(b"ab")));
        assert!(!ring.push(Lsn(101), Bytes::from_static(b"c")));
        assert!(ring.push(Lsn(102), Bytes::new()));
        assert_eq!((ring.begin(), ring.end()), (Lsn(100), Lsn(102)));
        assert!(!WalRing::new(Lsn::MAX).push(Lsn::MAX, Bytes::from_static(b"ab")));
    }

    proptest! {
        #[test]
        fn what_went_in_comes_out(
            lengths in proptest::collection::vec(1usize..40, 1..20),
            from in 0u64..500, most in 1usize..200, keep in 0u64..300, limit in 0u64..900,
        ) {
            let start = Lsn(1000);
            let mut ring = WalRing::new(start);
            let mut all = Vec::new();
            for length in lengths {
                let bytes: Vec<u8> = (0..length).map(|i| (all.len() + i) as u8).collect();
                prop_assert!(ring.push(Lsn(1000 + all.len() as u64), Bytes::from(bytes.clone())));
                all.extend(bytes);
            }
            ring.trim(keep, Lsn(1000 + limit));
            prop_assert!(ring.begin().0 <= (1000 + limit).max(1000));
            let from = Lsn(1000 + from);
            let mut out = Vec::new();
            let taken = ring.collect(from, most, &mut out);
            let got: Vec<u8> = out.concat();
            prop_assert_eq!(got.len(), taken);
            if from < ring.begin() || from >= ring.end() {
                prop_assert_eq!(taken, 0);
                prop_assert!(ring.at(from).is_empty());
            } else {
                let offset = (from.0 - 1000) as usize;
                let expected = &all[offset..(offset + most).min(all.len())];
                prop_assert_eq!(&got[..], expected);
                prop_assert!(!ring.at(from).is_empty());
                prop_assert_eq!(ring.at(from)[0], all[offset]);
            }
        }
    }
}
