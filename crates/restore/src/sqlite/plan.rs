//! What a restore takes: one snapshot, and the pieces from its life on up to the target.
//!
//! Listings only, nothing is read. The order of a listing, and what lies below the snapshot, do not matter.

use jiff::Timestamp;
use replica_client::{Generation, Piece, Replica, SnapshotInfo};
use serde::Serialize;

use super::{Error, Options, Target};

/// What a restore will fetch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The generation.
    pub generation: Generation,
    /// The snapshot it begins with.
    pub snapshot: SnapshotInfo,
    /// The pieces to apply, in order; all of one life or of lives that follow each other.
    pub pieces: Vec<Piece>,
    /// Of the newest life only so many bytes; `None`: all.
    pub(super) cut: Option<u64>,
    /// How long each life was, as its writer told; of those wanted whole.
    pub(super) lengths: std::collections::BTreeMap<u64, u64>,
    /// Where the target is, for people and `--json`.
    pub end: End,
}

/// The newest that is restored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct End {
    /// Its life.
    pub index: u64,
    /// When it was stored, by the store's clock.
    pub stored_at: Timestamp,
}

impl Plan {
    /// Bytes to fetch, as stored.
    pub fn stored_bytes(&self) -> u64 {
        self.snapshot.stored + self.pieces.iter().map(|piece| piece.stored).sum::<u64>()
    }
}

struct Holding {
    generation: Generation,
    snapshots: Vec<SnapshotInfo>,
    pieces: Vec<Piece>,
}

impl Holding {
    fn first(&self) -> Option<Timestamp> {
        self.snapshots.iter().map(|snapshot| snapshot.created).min()
    }

    fn last(&self) -> Option<Timestamp> {
        let pieces = self.pieces.iter().map(|piece| piece.created);
        self.snapshots.iter().map(|snapshot| snapshot.created).chain(pieces).max()
    }
}

/// Chooses. Three listings for each generation that is considered.
pub async fn plan(replica: &Replica, options: &Options) -> Result<Plan, Error> {
    let generations = match options.generation {
        Some(generation) => vec![generation],
        None => replica.generations().await?,
    };
    let mut holdings = Vec::new();
    for generation in generations {
        let snapshots = replica.snapshots(generation).await?;
        if snapshots.is_empty() {
            continue;
        }
        let pieces = replica.pieces(generation, 0..=u64::MAX).await?;
        holdings.push(Holding { generation, snapshots, pieces });
    }
    let holding = choose(holdings, options)?;
    let lengths = replica.lives(holding.generation).await?;
    within(holding, options.target, lengths)
}

/// The generation: of those that had begun by the target's time the one that began last; without a time the one that ends last.
fn choose(mut holdings: Vec<Holding>, options: &Options) -> Result<Holding, Error> {
    if holdings.is_empty() {
        return Err(Error::NoReplica(match options.generation {
            Some(generation) => format!("the replica has no snapshot of generation {generation}"),
            None => "there is no replica with a snapshot at this place".to_owned(),
        }));
    }
    if let Target::Time(time) = options.target {
        let earliest = holdings.iter().filter_map(Holding::first).min();
        holdings.retain(|holding| holding.first().is_some_and(|first| first <= time));
        let newest = holdings.into_iter().max_by_key(|holding| (holding.first(), holding.last()));
        return newest.ok_or_else(|| {
            let earliest =
                earliest.map_or_else(String::new, |earliest| format!(" (its first snapshot is of {earliest})"));
            Error::NoSuchMoment(format!("the replica does not go back to {time}{earliest}"))
        });
    }
    let newest = holdings.into_iter().max_by_key(|holding| (holding.last(), holding.first()));
    newest.ok_or_else(|| Error::NoReplica("there is no replica with a snapshot at this place".to_owned()))
}

fn within(holding: Holding, target: Target, mut lengths: std::collections::BTreeMap<u64, u64>) -> Result<Plan, Error> {
    let Holding { generation, snapshots, pieces } = holding;
    let none = |what: String| Error::NoSuchMoment(format!("generation {generation} has {what}"));
    let snapshot = match target {
        Target::Latest => snapshots.iter().max_by_key(|snapshot| snapshot.at),
        Target::Time(time) => {
            snapshots.iter().filter(|snapshot| snapshot.created <= time).max_by_key(|snapshot| snapshot.at)
        }
        Target::Index(index) => {
            snapshots.iter().filter(|snapshot| snapshot.at <= index).max_by_key(|snapshot| snapshot.at)
        }
        // A snapshot of the same life may be of a later moment in it; one of an earlier life cannot.
        Target::Position { index, .. } => {
            let before = snapshots.iter().filter(|snapshot| snapshot.at < index).max_by_key(|snapshot| snapshot.at);
            before.or_else(|| snapshots.iter().find(|snapshot| snapshot.at == index))
        }
    };
    let snapshot = *snapshot.ok_or_else(|| none("no snapshot at or before the wanted moment".to_owned()))?;
    let mut pieces: Vec<Piece> = pieces.into_iter().filter(|piece| piece.name.index >= snapshot.at).collect();
    pieces.sort_by_key(|piece| piece.name);
    let mut cut = None;
    match target {
        Target::Latest => {}
        Target::Time(time) => {
            let after = pieces.iter().position(|piece| piece.created > time);
            pieces.truncate(after.unwrap_or(pieces.len()));
        }
        Target::Index(index) => {
            let last = pieces.last().map_or(snapshot.at, |piece| piece.name.index);
            if last < index {
                return Err(none(format!("no WAL {index:08x}; the last is {last:08x}")));
            }
            pieces.retain(|piece| piece.name.index <= index);
        }
        Target::Position { index, offset } => {
            pieces.retain(|piece| (piece.name.index, piece.name.start) < (index, offset));
            let last = pieces.last().map(|piece| piece.name.index);
            if offset > 0 && last != Some(index) || offset == 0 && index > snapshot.at && last != Some(index - 1) {
                return Err(none(format!("no WAL up to {index:08x}:{offset}")));
            }
            cut = (offset > 0).then_some(offset);
        }
    }
    let last = pieces.last();
    if let (Target::Time(_) | Target::Position { .. }, Some(last)) = (target, last) {
        // Of the newest life only a part may be wanted.
        lengths.remove(&last.name.index);
    }
    let end = End {
        index: last.map_or(snapshot.at, |piece| piece.name.index),
        stored_at: last.map_or(snapshot.created, |piece| piece.created.max(snapshot.created)),
    };
    Ok(Plan { generation, snapshot, pieces, cut, lengths, end })
}
