//! A segment from pieces: which pieces to take, how far they reach, and putting them together.
//!
//! Pieces may overlap, repeat each other, and come from two uploaders that knew nothing of one another. Any choice of them
//! gives the same bytes, or the replica is damaged: where two pieces that are read have the same byte, [`Assembly`] compares.
//! Pure: spans and bytes in, decisions out.

use std::ops::Range;

/// A piece to take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Use {
    /// Which of the given spans.
    pub piece: usize,
    /// All the bytes it has.
    pub span: Range<u64>,
    /// Those of the wanted ones no earlier piece of the cover brings.
    pub take: Range<u64>,
}

/// Bytes that no piece has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no piece holds bytes {} to {}", .missing.start, .missing.end)]
pub struct Gap {
    /// The first run of them.
    pub missing: Range<u64>,
}

/// The fewest pieces that together have all `wanted` bytes, ascending; of equal ones the first given. An empty wish needs
/// none. Spans that are empty or reversed are ignored.
pub fn cover(spans: &[Range<u64>], wanted: Range<u64>) -> Result<Vec<Use>, Gap> {
    let mut by_start: Vec<usize> = (0..spans.len()).filter(|at| spans[*at].start < spans[*at].end).collect();
    by_start.sort_by_key(|at| spans[*at].start);
    let mut next = by_start.into_iter().peekable();
    let mut uses = Vec::new();
    let mut position = wanted.start;
    let mut best: Option<usize> = None;
    while position < wanted.end {
        // Of all that begin at or before the position, the one that reaches furthest.
        while let Some(at) = next.next_if(|at| spans[*at].start <= position) {
            let further = |best: usize| (spans[at].end, best) > (spans[best].end, at);
            best = Some(best.filter(|best| !further(*best)).unwrap_or(at));
        }
        match best.filter(|best| spans[*best].end > position) {
            Some(piece) => {
                let end = spans[piece].end.min(wanted.end);
                uses.push(Use { piece, span: spans[piece].clone(), take: position..end });
                position = end;
            }
            None => {
                let end = next.peek().map_or(wanted.end, |at| spans[*at].start.min(wanted.end));
                return Err(Gap { missing: position..end });
            }
        }
    }
    Ok(uses)
}

/// The end of the unbroken run of bytes that begins at `from`; `from` itself if no piece has that byte.
pub fn reach(spans: &[Range<u64>], from: u64) -> u64 {
    match cover(spans, from..u64::MAX) {
        Ok(uses) => uses.last().map_or(from, |last| last.take.end),
        Err(gap) => gap.missing.start,
    }
}

/// Pieces that do not fit together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AssemblyError {
    /// Two pieces have different bytes at one place.
    #[error("two pieces disagree at byte {at}")]
    Disagree {
        /// The first such byte.
        at: u64,
    },
    /// A piece goes beyond the segment.
    #[error("a piece ends at byte {end} of a segment of {length}")]
    Outside {
        /// Where it ends.
        end: u64,
        /// The segment's length.
        length: u64,
    },
    /// A wanted byte was never added.
    #[error("bytes {} to {} are missing", .0.missing.start, .0.missing.end)]
    Missing(#[from] Gap),
}

/// Bytes of one segment being put together; memory grows with what is added, at most the segment's length.
#[derive(Debug, Clone)]
pub struct Assembly {
    length: u64,
    bytes: Vec<u8>,
    have: Vec<Range<u64>>,
}

impl Assembly {
    /// Of a segment of this many bytes, at most [`MAX_PIECE`](crate::MAX_PIECE).
    pub fn new(length: u64) -> Assembly {
        Assembly { length: length.min(crate::MAX_PIECE), bytes: Vec::new(), have: Vec::new() }
    }

    /// Adds decoded bytes at their place. What is there already must be equal; else nothing is added.
    pub fn add(&mut self, start: u64, bytes: &[u8]) -> Result<(), AssemblyError> {
        let end = start.saturating_add(bytes.len() as u64);
        if end > self.length {
            return Err(AssemblyError::Outside { end, length: self.length });
        }
        for have in &self.have {
            let (from, to) = (have.start.max(start), have.end.min(end));
            if from >= to {
                continue;
            }
            let ours = &bytes[(from - start) as usize..(to - start) as usize];
            let there = &self.bytes[from as usize..to as usize];
            if let Some(at) = ours.iter().zip(there).position(|(a, b)| a != b) {
                return Err(AssemblyError::Disagree { at: from + at as u64 });
            }
        }
        if self.bytes.len() < end as usize {
            self.bytes.resize(end as usize, 0);
        }
        self.bytes[start as usize..end as usize].copy_from_slice(bytes);
        self.merge(start..end);
        Ok(())
    }

    /// The wanted bytes, if all were added.
    pub fn finish(mut self, wanted: Range<u64>) -> Result<Vec<u8>, AssemblyError> {
        cover(&self.have, wanted.clone())?;
        self.bytes.truncate(wanted.end as usize);
        self.bytes.drain(..(wanted.start as usize).min(self.bytes.len()));
        Ok(self.bytes)
    }

    fn merge(&mut self, mut span: Range<u64>) {
        if span.is_empty() {
            return;
        }
        self.have.retain(|have| {
            let apart = have.end < span.start || span.end < have.start;
            if !apart {
                span = span.start.min(have.start)..span.end.max(have.end);
            }
            apart
        });
        self.have.push(span);
    }
}

#[cfg(test)]
#[path = "cover_test.rs"]
mod tests;
