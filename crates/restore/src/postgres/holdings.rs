//! What an archive holds of a lineage's WAL: which objects make up a segment, and how far the WAL reaches without a gap.
//!
//! A segment's file may be one merged object or many pieces, and the first segment of a TLI may have its first bytes only in the
//! generation it left. [`Holdings`] answers from one listing; nothing is downloaded here.
//!
//! Pure but for [`Holdings::list`]. Invariant: bytes of a generation at or above the point where the lineage left it are never used.

use super::lineage::{Lineage, Step};
use lsn::{Lsn, SegmentNumber, SegmentSize};
use replica_client::{Error, Generation, Piece, PieceName, Replica, cover};
use std::collections::BTreeMap;
use std::ops::Range;

/// One object that holds bytes of a segment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Source {
    /// Where it is.
    pub generation: Generation,
    /// Its name there.
    pub name: PieceName,
    /// The bytes of it, counted from the segment's start.
    pub whole: Range<u64>,
    /// Those of them that belong to the lineage: the end may lie lower.
    pub span: Range<u64>,
    /// Bytes of the object.
    pub stored: u64,
}

/// The pieces of a lineage's generations, by generation and segment.
#[derive(Clone, Debug, Default)]
pub struct Holdings {
    pieces: BTreeMap<(Generation, u64), Vec<Piece>>,
}

/// How far WAL reaches from a position on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reach {
    /// The first byte that is not there.
    pub end: Lsn,
    /// There is WAL of the lineage above the end: what lies between is missing.
    pub resumes: Option<Lsn>,
}

impl Holdings {
    /// Lists the pieces of the lineage's generations from segment `from` on.
    pub async fn list(replica: &Replica, lineage: &Lineage, from: SegmentNumber) -> Result<Holdings, Error> {
        let mut holdings = Holdings::default();
        for step in lineage.steps() {
            for piece in replica.pieces(step.generation, from.0..=u64::MAX).await? {
                holdings.add(piece);
            }
        }
        Ok(holdings)
    }

    /// Lists what can be in the file of one segment on one step.
    pub async fn list_segment(
        replica: &Replica,
        lineage: &Lineage,
        size: SegmentSize,
        step: Step,
        number: SegmentNumber,
    ) -> Result<Holdings, Error> {
        let mut holdings = Holdings::default();
        for step in file_steps(lineage, size, step, number) {
            for piece in replica.pieces(step.generation, number.0..=number.0).await? {
                holdings.add(piece);
            }
        }
        Ok(holdings)
    }

    /// Adds a piece.
    pub fn add(&mut self, piece: Piece) {
        self.pieces.entry((piece.generation, piece.name.index)).or_default().push(piece);
    }

    /// The objects that hold bytes of segment `number` as the file of `step` has them.
    pub fn sources(&self, lineage: &Lineage, size: SegmentSize, step: Step, number: SegmentNumber) -> Vec<Source> {
        let mut sources = Vec::new();
        // Below the newest step's begin the file has the bytes of the step before, and so on.
        let mut limit = size.bytes();
        for step in file_steps(lineage, size, step, number) {
            let pieces = self.pieces.get(&(step.generation, number.0)).into_iter().flatten();
            for piece in pieces {
                let Some(whole) = piece.name.span(size) else { continue };
                let span = whole.start..whole.end.min(limit);
                if span.start < span.end {
                    sources.push(Source {
                        generation: step.generation,
                        name: piece.name,
                        whole,
                        span,
                        stored: piece.stored,
                    });
                }
            }
            limit = limit.min(step.begin.bytes_since(size.start_of(number)));
        }
        sources
    }

    /// How far the WAL reaches from `from`, the start of a segment.
    pub fn reach(&self, lineage: &Lineage, size: SegmentSize, from: Lsn) -> Reach {
        let mut number = size.segment_of(from);
        loop {
            let step = lineage.step_of_segment(size, number, Lsn::MAX).unwrap_or(lineage.tip());
            let sources = self.sources(lineage, size, step, number);
            let spans: Vec<Range<u64>> = sources.iter().map(|source| source.span.clone()).collect();
            let reached = cover::reach(&spans, 0);
            if reached < size.bytes() {
                let end = size.start_of(number).saturating_add(reached);
                let here = spans.iter().map(|span| span.start).filter(|start| *start > reached).min();
                let here = here.map(|start| size.start_of(number).saturating_add(start));
                return Reach { end, resumes: here.or_else(|| self.next_above(lineage, size, number)) };
            }
            number = number.next();
        }
    }

    /// The first byte of the lineage in a segment above `number`.
    fn next_above(&self, lineage: &Lineage, size: SegmentSize, number: SegmentNumber) -> Option<Lsn> {
        let mut above: Vec<u64> = lineage
            .steps()
            .iter()
            .flat_map(|step| self.pieces.range((step.generation, number.0 + 1)..=(step.generation, u64::MAX)))
            .map(|((_, index), _)| *index)
            .collect();
        above.sort_unstable();
        above.dedup();
        above.into_iter().find_map(|index| {
            let number = SegmentNumber(index);
            let step = lineage.step_of_segment(size, number, Lsn::MAX)?;
            let first = self.sources(lineage, size, step, number).into_iter().map(|source| source.span.start).min()?;
            Some(size.start_of(number).saturating_add(first))
        })
    }
}

/// The steps whose bytes the file of `step` holds in segment `number`, newest first.
fn file_steps(lineage: &Lineage, size: SegmentSize, step: Step, number: SegmentNumber) -> impl Iterator<Item = Step> {
    let start = size.start_of(number);
    let mut above = None;
    let older = lineage.steps().iter().rev().skip_while(move |older| older.generation != step.generation).copied();
    older.take_while(move |older| {
        // A step is of use while the one above it begins inside the segment.
        let wanted = above.is_none_or(|begin: Lsn| begin > start);
        above = Some(older.begin);
        wanted
    })
}

#[cfg(test)]
#[path = "holdings_test.rs"]
mod tests;
