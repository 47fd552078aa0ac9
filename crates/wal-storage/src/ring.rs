//! The recent WAL in memory: slices as they arrived, not copied.
//!
//! Invariants: the slices are contiguous and end where the log ends; together they have at most the given number of bytes
//! (a slice may keep a larger buffer alive, which is the business of whoever received it).

use bytes::Bytes;
use lsn::Lsn;
use std::collections::VecDeque;

#[derive(Debug)]
pub(crate) struct Ring {
    capacity: usize,
    held: usize,
    slices: VecDeque<(Lsn, Bytes)>,
}

impl Ring {
    pub(crate) fn new(capacity: usize) -> Ring {
        Ring { capacity, held: 0, slices: VecDeque::new() }
    }

    /// Takes bytes that continue the last ones.
    pub(crate) fn push(&mut self, begin: Lsn, mut bytes: Bytes) {
        let mut begin = begin;
        if bytes.len() > self.capacity {
            let skipped = bytes.len() - self.capacity;
            bytes = bytes.slice(skipped..);
            begin = begin.saturating_add(skipped as u64);
        }
        if bytes.is_empty() {
            return;
        }
        self.held += bytes.len();
        self.slices.push_back((begin, bytes));
        while self.held > self.capacity {
            let Some((_, oldest)) = self.slices.pop_front() else { break };
            self.held -= oldest.len();
        }
    }

    /// Up to `max` bytes from `from` on; `None` if the byte at `from` is not held.
    pub(crate) fn read(&self, from: Lsn, max: usize) -> Option<Vec<Bytes>> {
        let index = self.slices.partition_point(|(begin, _)| *begin <= from).checked_sub(1)?;
        let mut found = Vec::new();
        let mut left = max;
        for (begin, bytes) in self.slices.range(index..) {
            let skip = usize::try_from(from.bytes_since(*begin)).ok()?;
            if skip >= bytes.len() {
                return None;
            }
            let part = bytes.slice(skip..bytes.len().min(skip.saturating_add(left)));
            left -= part.len();
            if !part.is_empty() {
                found.push(part);
            }
            if left == 0 {
                break;
            }
        }
        Some(found)
    }

    /// Forgets everything at or above `to`.
    pub(crate) fn cut(&mut self, to: Lsn) {
        while let Some((begin, bytes)) = self.slices.pop_back() {
            let keep = to.bytes_since(begin);
            if keep >= bytes.len() as u64 {
                self.slices.push_back((begin, bytes));
                break;
            }
            self.held -= bytes.len();
            if keep > 0 {
                let kept = bytes.slice(..keep as usize);
                self.held += kept.len();
                self.slices.push_back((begin, kept));
                break;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn joined(slices: Vec<Bytes>) -> Vec<u8> {
        slices.concat()
    }

    #[test]
    fn holds_what_it_promises() {
        let mut ring = Ring::new(10);
        assert_eq!(ring.read(Lsn(100), 5), None);
        ring.push(Lsn(100), Bytes::from_static(b"abcd"));
        ring.push(Lsn(104), Bytes::from_static(b"efgh"));
        assert_eq!(joined(ring.read(Lsn(102), 4).unwrap()), b"cdef");
        assert_eq!(ring.read(Lsn(108), 4), None);
        assert_eq!(ring.read(Lsn(99), 4), None);
        ring.push(Lsn(108), Bytes::from_static(b"ijkl"));
        assert_eq!(ring.read(Lsn(103), 4), None, "pushed out");
        ring.cut(Lsn(106));
        assert_eq!(joined(ring.read(Lsn(104), 99).unwrap()), b"ef");
        ring.push(Lsn(106), Bytes::from_static(b"0123456789ABCDEF"));
        assert_eq!(joined(ring.read(Lsn(112), 99).unwrap()), b"6789ABCDEF");
        ring.cut(Lsn(50));
        assert_eq!((ring.held, ring.slices.len()), (0, 0));
    }

    proptest! {
        #[test]
        fn agrees_with_a_flat_log(
            steps in proptest::collection::vec((0usize..40, 0u64..60, any::<bool>()), 0..40),
            from in 0u64..300,
            max in 0usize..100,
        ) {
            let (mut ring, mut log) = (Ring::new(64), Vec::new());
            for (number, (len, back, cut)) in steps.into_iter().enumerate() {
                if cut {
                    log.truncate(log.len().saturating_sub(back as usize));
                    ring.cut(Lsn(log.len() as u64));
                } else {
                    ring.push(Lsn(log.len() as u64), vec![number as u8; len].into());
                    log.extend(vec![number as u8; len]);
                }
                prop_assert!(ring.held <= 64);
                prop_assert_eq!(ring.held, ring.slices.iter().map(|(_, b)| b.len()).sum::<usize>());
            }
            if let Some(found) = ring.read(Lsn(from), max) {
                let expected = &log[from as usize..log.len().min(from as usize + max)];
                prop_assert_eq!(joined(found), expected);
            }
        }
    }
}
