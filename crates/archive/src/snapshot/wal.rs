//! Whether a replica holds the WAL that a snapshot needs.

use backup_format::WalRange;
use lsn::{Lsn, SegmentSize};
use replica_client::{Error, Generation, Parent, PostgresReplica, cover};
use std::ops::Range;

/// How far the WAL of `ranges` is in the replica without a gap, from the start of the segment where the first begins: their end if it is
/// all there. `generation` is that of the first range; a later one lies in the generation of its TLI that came out of the one before.
///
/// Costs one listing per range, and one more if there are several.
pub async fn wal_end(
    replica: &PostgresReplica,
    generation: Generation,
    ranges: &[WalRange],
    segment_size: SegmentSize,
) -> Result<Lsn, Error> {
    let mut generation = generation;
    let mut reached = Lsn::INVALID;
    for (number, range) in ranges.iter().enumerate() {
        if number > 0 {
            let lineages = replica.lineages().await?;
            let follows = |parent: &Option<Parent>| matches!(parent, Some(Parent::Of { generation: of, switch }) if *of == generation && *switch == range.begin);
            match lineages.iter().find(|(child, parent)| child.tli() == range.tli && follows(parent)) {
                Some((child, _)) => generation = *child,
                None => return Ok(range.begin),
            }
        }
        // A restore reads whole segments; the first one of a TLI holds its parent's bytes too.
        let begin = segment_size.start_of_segment_at(range.begin);
        let last = segment_size.segment_of(Lsn(range.end.0.saturating_sub(1)));
        let pieces = replica.pieces(generation, segment_size.segment_of(begin).0..=last.0).await?;
        let spans: Vec<Range<u64>> = pieces
            .iter()
            .filter_map(|piece| {
                let span = piece.name.span(segment_size)?;
                let start = segment_size.start_of(lsn::SegmentNumber(piece.name.index)).0;
                Some(start.checked_add(span.start)?..start.checked_add(span.end)?)
            })
            .collect();
        reached = Lsn(cover::reach(&spans, begin.0)).min(range.end);
        if reached < range.end {
            return Ok(reached);
        }
    }
    Ok(reached)
}
