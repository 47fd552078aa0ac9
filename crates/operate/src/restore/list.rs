//! What a replica holds: generations, snapshots, pieces of WAL, and the window that can be restored.
//!
//! For both kinds of replicas, as values for tables and JSON. Listing downloads nothing but descriptions of PostgreSQL snapshots.

use super::open::{self, OpenError, Opened};
use config::ListFlags;
use jiff::Timestamp;
use lsn::Lsn;
use replica_client::{Generation, Parent, PieceEnd, PostgresReplica, Replica};
use restore::postgres::holdings::Holdings;
use restore::postgres::lineage::{Lineage, LineageError};
use restore::postgres::plan::{self, PlanError};
use serde::Serialize;

/// Why there is no list.
#[derive(Debug, thiserror::Error)]
pub enum ListError {
    /// The replica.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// Its store.
    #[error(transparent)]
    Replica(#[from] replica_client::Error),
    /// A snapshot's description.
    #[error(transparent)]
    Plan(Box<PlanError>),
    /// Text that is no generation.
    #[error("{0:?} is no generation: 16 hexadecimal digits are")]
    Generation(String),
}

boxed!(ListError: Plan(PlanError));

impl ListError {
    /// Whether the command was given in a way that cannot work.
    pub fn is_usage(&self) -> bool {
        match self {
            ListError::Open(error) => error.is_usage(),
            ListError::Generation(_) => true,
            _ => false,
        }
    }
}

/// A generation.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct GenerationRow {
    /// Its name.
    pub generation: String,
    /// PostgreSQL: its TLI.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tli: Option<u32>,
    /// PostgreSQL: the generation it left, and where.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    /// Its snapshots.
    pub snapshots: usize,
    /// Its objects of WAL.
    pub pieces: usize,
    /// Bytes of these objects.
    pub stored: u64,
    /// Where it can be restored from: an LSN or an index; `None` without a snapshot.
    pub restorable_from: Option<String>,
    /// The same as a moment.
    pub restorable_from_time: Option<Timestamp>,
    /// Up to where its WAL reaches without a gap.
    pub restorable_to: Option<String>,
    /// When the last of its objects was stored.
    pub updated: Option<Timestamp>,
    /// WAL is missing here, though there is more above.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hole_at: Option<String>,
}

/// A snapshot.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct SnapshotRow {
    /// Where it lies.
    pub generation: String,
    /// PostgreSQL: the LSN it begins at; SQLite: its index.
    pub at: String,
    /// PostgreSQL: from here on it can be restored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usable_from: Option<String>,
    /// Plain bytes; SQLite: of the object.
    pub bytes: u64,
    /// When it was stored.
    pub created: Timestamp,
}

/// A piece of WAL.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct WalRow {
    /// Where it lies.
    pub generation: String,
    /// PostgreSQL: segment number; SQLite: WAL index; hexadecimal.
    pub index: String,
    /// Its first byte there.
    pub start: u64,
    /// The byte after its last, where the name says it.
    pub end: Option<u64>,
    /// Bytes of the object.
    pub stored: u64,
    /// When it was stored.
    pub created: Timestamp,
}

/// The generations, with the window that can be restored.
pub async fn generations(flags: &ListFlags) -> Result<Vec<GenerationRow>, ListError> {
    let wanted = wanted(flags)?;
    match open::open(&flags.replica, &flags.source).await? {
        Opened::Postgres(replica) => postgres_generations(&replica, wanted).await,
        Opened::Sqlite(replica) => sqlite_generations(&replica, wanted).await,
    }
}

/// The snapshots.
pub async fn snapshots(flags: &ListFlags) -> Result<Vec<SnapshotRow>, ListError> {
    let wanted = wanted(flags)?;
    let mut rows = Vec::new();
    match open::open(&flags.replica, &flags.source).await? {
        Opened::Postgres(replica) => {
            for generation in chosen(replica.generations().await?, wanted) {
                for info in replica.snapshots(generation).await? {
                    let lsn = Lsn(info.at);
                    let json = replica.read_snapshot(generation, lsn).await?;
                    let snapshot = backup_format::Snapshot::from_json(&json).map_err(|source| PlanError::Snapshot {
                        generation,
                        lsn,
                        source,
                    })?;
                    rows.push(SnapshotRow {
                        generation: generation.to_string(),
                        at: lsn.to_string(),
                        usable_from: Some(snapshot.end.lsn.to_string()),
                        bytes: snapshot.bytes,
                        created: info.created,
                    });
                }
            }
        }
        Opened::Sqlite(replica) => {
            for generation in chosen(replica.generations().await?, wanted) {
                for info in replica.snapshots(generation).await? {
                    rows.push(SnapshotRow {
                        generation: generation.to_string(),
                        at: format!("{:08x}", info.at),
                        usable_from: None,
                        bytes: info.stored,
                        created: info.created,
                    });
                }
            }
        }
    }
    Ok(rows)
}

/// The pieces of WAL.
pub async fn wal(flags: &ListFlags) -> Result<Vec<WalRow>, ListError> {
    let wanted = wanted(flags)?;
    let (replica, size) = match open::open(&flags.replica, &flags.source).await? {
        Opened::Postgres(replica) => ((**replica).clone(), Some(replica.era().segment_size)),
        Opened::Sqlite(replica) => (replica, None),
    };
    let mut rows = Vec::new();
    for generation in chosen(replica.generations().await?, wanted) {
        for piece in replica.pieces(generation, 0..=u64::MAX).await? {
            let end = match piece.name.end {
                PieceEnd::At(end) => Some(end),
                PieceEnd::Segment => size.map(|size| size.bytes()),
                PieceEnd::Unknown => None,
            };
            rows.push(WalRow {
                generation: generation.to_string(),
                index: format!("{:08x}", piece.name.index),
                start: piece.name.start,
                end,
                stored: piece.stored,
                created: piece.created,
            });
        }
    }
    Ok(rows)
}

fn wanted(flags: &ListFlags) -> Result<Option<Generation>, ListError> {
    flags.generation.as_ref().map(|text| text.parse().map_err(|_| ListError::Generation(text.clone()))).transpose()
}

fn chosen(mut generations: Vec<Generation>, wanted: Option<Generation>) -> Vec<Generation> {
    generations.retain(|generation| wanted.is_none_or(|wanted| wanted == *generation));
    generations
}

async fn postgres_generations(
    replica: &PostgresReplica,
    wanted: Option<Generation>,
) -> Result<Vec<GenerationRow>, ListError> {
    let tree = replica.lineages().await?;
    let mut rows = Vec::new();
    for (generation, parent) in &tree {
        if wanted.is_some_and(|wanted| wanted != *generation) {
            continue;
        }
        let pieces = replica.pieces(*generation, 0..=u64::MAX).await?;
        let snapshots = replica.snapshots(*generation).await?.len();
        let mut row = GenerationRow {
            generation: generation.to_string(),
            tli: Some(generation.tli().0),
            parent: match parent {
                Some(Parent::Of { generation, switch }) => Some(format!("{generation} at {switch}")),
                _ => None,
            },
            snapshots,
            pieces: pieces.len(),
            stored: pieces.iter().map(|piece| piece.stored).sum(),
            restorable_from: None,
            restorable_from_time: None,
            restorable_to: None,
            updated: pieces.iter().map(|piece| piece.created).max(),
            hole_at: None,
        };
        // A generation whose way to the root is broken can be listed all the same.
        match Lineage::choose(&tree, Some(*generation)) {
            Ok(lineage) => window(replica, &lineage, &mut row).await?,
            Err(LineageError::Empty) => {}
            Err(error) => tracing::warn!(%generation, %error, "this generation cannot be restored"),
        }
        rows.push(row);
    }
    Ok(rows)
}

/// From the oldest snapshot's end to where the WAL breaks off.
async fn window(replica: &PostgresReplica, lineage: &Lineage, row: &mut GenerationRow) -> Result<(), ListError> {
    let size = replica.era().segment_size;
    let snapshots = plan::snapshots(replica, lineage).await?;
    let Some(oldest) = snapshots.first() else { return Ok(()) };
    let first = size.segment_of(oldest.snapshot.begin.lsn);
    let held = Holdings::list(replica, lineage, first).await?;
    let reach = held.reach(lineage, size, oldest.snapshot.wal_begin());
    if reach.end >= oldest.snapshot.end.lsn {
        row.restorable_from = Some(oldest.snapshot.end.lsn.to_string());
        row.restorable_from_time = Some(oldest.snapshot.end_time);
        row.restorable_to = Some(reach.end.to_string());
    }
    row.hole_at = reach.resumes.map(|_| reach.end.to_string());
    Ok(())
}

async fn sqlite_generations(replica: &Replica, wanted: Option<Generation>) -> Result<Vec<GenerationRow>, ListError> {
    let mut rows = Vec::new();
    for generation in chosen(replica.generations().await?, wanted) {
        let snapshots = replica.snapshots(generation).await?;
        let pieces = replica.pieces(generation, 0..=u64::MAX).await?;
        let created = snapshots.iter().map(|info| info.created).chain(pieces.iter().map(|piece| piece.created));
        let last = pieces.last().map(|piece| piece.name.index).or(snapshots.last().map(|info| info.at));
        rows.push(GenerationRow {
            generation: generation.to_string(),
            tli: None,
            parent: None,
            snapshots: snapshots.len(),
            pieces: pieces.len(),
            stored: pieces.iter().map(|piece| piece.stored).sum(),
            restorable_from: snapshots.first().map(|info| format!("{:08x}", info.at)),
            restorable_from_time: snapshots.first().map(|info| info.created),
            restorable_to: snapshots.first().and(last).map(|index| format!("{index:08x}")),
            updated: created.max(),
            hole_at: None,
        });
    }
    Ok(rows)
}
