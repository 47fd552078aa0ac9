//! What a PostgreSQL replica holds, as far as retention needs to know it.

use super::error::RetentionError;
use backup_format::Snapshot;
use jiff::Timestamp;
use lsn::{Lsn, SegmentSize};
use replica_client::{Generation, Parent, PieceName, PostgresReplica};
use std::collections::BTreeMap;

/// Everything in a replica.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Inventory {
    /// Bytes of a WAL segment.
    pub segment_size: SegmentSize,
    /// Every generation.
    pub branches: BTreeMap<Generation, Branch>,
}

/// One generation: the WAL of one TLI, and the snapshots that begin on it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Branch {
    /// Where it left which other one; `None` for a root, and for one whose link is not written.
    pub parent: Option<(Generation, Lsn)>,
    /// Its link to a parent, or to none, was found. What is not known to be a root is never deleted as one.
    pub is_linked: bool,
    /// By their beginnings, ascending.
    pub snapshots: Vec<KeptSnapshot>,
    /// Beginnings of snapshots that were never finished.
    pub unfinished: Vec<Lsn>,
    /// Stored runs of WAL with the time each was stored, in order.
    pub pieces: Vec<(PieceName, Timestamp)>,
}

/// What retention needs to know of a snapshot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KeptSnapshot {
    /// Where its WAL begins.
    pub begin: Lsn,
    /// From here on it is consistent.
    pub end: Lsn,
    /// From this moment on it can be restored.
    pub end_time: Timestamp,
    /// It can be relied on: no page of it was damaged.
    pub is_sound: bool,
}

/// Looks at everything. Costs the listings of each generation and one small download per snapshot.
pub async fn read_inventory(replica: &PostgresReplica) -> Result<Inventory, RetentionError> {
    let mut branches = BTreeMap::new();
    for (generation, parent) in replica.lineages().await? {
        let mut snapshots = Vec::new();
        for info in replica.snapshots(generation).await? {
            let bytes = replica.read_snapshot(generation, Lsn(info.at)).await?;
            // One that cannot be read stops everything: a plan without it might delete what it needs.
            let snapshot = Snapshot::from_json(&bytes).map_err(|source| RetentionError::Snapshot {
                generation,
                begin: Lsn(info.at),
                source,
            })?;
            if snapshot.begin.lsn.0 != info.at {
                return Err(RetentionError::Misplaced { generation, begin: Lsn(info.at) });
            }
            snapshots.push(KeptSnapshot {
                begin: snapshot.begin.lsn,
                end: snapshot.end.lsn,
                end_time: snapshot.end_time,
                is_sound: snapshot.damaged_pages.is_empty(),
            });
        }
        let pieces = replica.pieces(generation, 0..=u64::MAX).await?;
        branches.insert(
            generation,
            Branch {
                is_linked: parent.is_some(),
                parent: match parent {
                    Some(Parent::Of { generation, switch }) => Some((generation, switch)),
                    Some(Parent::Root) | None => None,
                },
                snapshots,
                unfinished: replica.unfinished_snapshots(generation).await?,
                pieces: pieces.into_iter().map(|piece| (piece.name, piece.created)).collect(),
            },
        );
    }
    Ok(Inventory { segment_size: replica.era().segment_size, branches })
}

impl Inventory {
    /// The newest moment anything here speaks of; `None` if nothing is here.
    pub fn newest(&self) -> Option<Timestamp> {
        self.branches.values().filter_map(Branch::newest).max()
    }
}

impl Branch {
    /// When the last of it was written: the time of its newest piece or snapshot.
    pub fn newest(&self) -> Option<Timestamp> {
        let pieces = self.pieces.iter().map(|(_, stored)| *stored);
        pieces.chain(self.snapshots.iter().map(|snapshot| snapshot.end_time)).max()
    }
}
