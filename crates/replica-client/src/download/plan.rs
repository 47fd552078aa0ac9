//! Which pieces make which file: pure decisions on one listing.

use std::collections::VecDeque;
use std::ops::{Range, RangeInclusive};

use lsn::SegmentSize;

use super::error::DownloadError;
use crate::cover::cover;
use crate::names::{Generation, Piece};

/// One object to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) piece: Piece,
    /// Where its first byte belongs in the file.
    pub(super) start: u64,
    /// The bytes of the file it brings. What it has before them an earlier step brings too, and the two must agree.
    pub(super) take: Range<u64>,
    /// Where its bytes must end, if that is known.
    pub(super) end: Option<u64>,
}

impl Step {
    /// Whether it can be read in any order: nothing of it is compared.
    pub(super) fn is_free(&self) -> bool {
        self.take.start == self.start
    }
}

/// One file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FilePlan {
    pub(super) index: u64,
    /// Ascending.
    pub(super) steps: Vec<Step>,
    /// The file's length, if it does not follow from the pieces.
    pub(super) length: Option<u64>,
}

impl FilePlan {
    pub(super) fn stored(&self) -> u64 {
        self.steps.iter().map(|step| step.piece.stored).sum()
    }
}

/// Plans files for `indexes` from pieces in ascending order. `within` says for an index which of its bytes are wanted, where
/// keys tell what a piece holds.
pub(super) fn plan(
    generation: Generation,
    indexes: RangeInclusive<u64>,
    pieces: &[Piece],
    segment_size: Option<SegmentSize>,
    within: impl Fn(u64) -> Range<u64>,
) -> Result<VecDeque<FilePlan>, DownloadError> {
    let mut plans = VecDeque::new();
    let mut expected = *indexes.start();
    for pieces in pieces.chunk_by(|a, b| a.name.index == b.name.index) {
        let index = pieces[0].name.index;
        if !indexes.contains(&index) {
            continue;
        }
        if index != expected {
            return Err(DownloadError::NotFound { generation, index: expected });
        }
        plans.push_back(match segment_size {
            Some(size) => of_spans(generation, index, pieces, size, within(index))?,
            None => of_starts(generation, index, pieces)?,
        });
        match index.checked_add(1) {
            Some(next) => expected = next,
            None => return Ok(plans),
        }
    }
    if expected <= *indexes.end() {
        return Err(DownloadError::NotFound { generation, index: expected });
    }
    Ok(plans)
}

/// Keys that say which bytes a piece has: the fewest pieces that have the wanted ones.
fn of_spans(
    generation: Generation,
    index: u64,
    pieces: &[Piece],
    size: SegmentSize,
    wanted: Range<u64>,
) -> Result<FilePlan, DownloadError> {
    let spans: Vec<Range<u64>> = pieces.iter().map(|piece| piece.name.span(size).unwrap_or_default()).collect();
    let uses =
        cover(&spans, wanted).map_err(|gap| DownloadError::Missing { generation, index, offset: gap.missing.start })?;
    let step = |used: crate::cover::Use| Step {
        piece: pieces[used.piece],
        start: used.span.start,
        // Where the wish begins inside the first piece, nothing earlier is there to compare with.
        take: used.take,
        end: Some(used.span.end),
    };
    let mut steps: Vec<Step> = uses.into_iter().map(step).collect();
    if let Some(first) = steps.first_mut() {
        first.take.start = first.start;
    }
    Ok(FilePlan { index, steps, length: Some(size.bytes()) })
}

/// Keys that say where a piece begins: each must end where the next begins.
fn of_starts(generation: Generation, index: u64, pieces: &[Piece]) -> Result<FilePlan, DownloadError> {
    if pieces[0].name.start != 0 {
        return Err(DownloadError::Missing { generation, index, offset: 0 });
    }
    let ends = pieces.iter().skip(1).map(|next| Some(next.name.start)).chain([None]);
    let step = |(piece, end): (&Piece, Option<u64>)| {
        let start = piece.name.start;
        Step { piece: *piece, start, take: start..end.unwrap_or(u64::MAX), end }
    };
    Ok(FilePlan { index, steps: pieces.iter().zip(ends).map(step).collect(), length: None })
}

#[cfg(test)]
#[path = "plan_test.rs"]
mod tests;
