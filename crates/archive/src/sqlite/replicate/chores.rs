//! What a replica needs now and then: snapshots, validations, and the deletion of what no restore needs.

use super::super::reader;
use super::super::retention::{self, Holding};
use super::super::status::Labels;
use super::super::timer::NEVER;
use super::super::validate;
use super::{BACK_OFF_MAX, Error, Replicator};
use jiff::Timestamp;
use replica_client::{Generation, PieceName, Replica, SnapshotWritten};
use source::Source;
use sqlite_wal::Position;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::Instant;
use tracing::{debug, info, warn};

impl<S> Replicator<S>
where
    S: Source<Position = Position>,
    S::Snapshot: Send + 'static,
{
    /// A later snapshot: what it shows is uploaded first, then it is stored beside the loop.
    pub(super) async fn begin_snapshot_if_due(&mut self) -> Result<(), Error> {
        if !self.snapshots.is_due() || self.snapshot.is_some() {
            return Ok(());
        }
        self.snapshots.again();
        if self.snapshotted.is_some() && self.snapshotted == self.at.map(|(at, _)| at) {
            // Nothing has been written since the last one. It is looked again when something is.
            return Ok(());
        }
        let Ok(turn) = self.setup.limits.snapshots.clone().try_acquire_owned() else {
            self.snapshots.after(Duration::from_secs(1));
            return Ok(());
        };
        let snapshot = self.setup.source.snapshot().await.map_err(Error::source)?;
        self.sync().await?;
        let (replica, labels) = (self.setup.replica.clone(), self.labels.clone());
        self.snapshot = Some(tokio::spawn(async move {
            let _turn = turn;
            store_snapshot(replica, snapshot, labels).await
        }));
        Ok(())
    }

    pub(super) async fn begin_validation_if_due(&mut self) -> Result<(), Error> {
        if !self.validation.is_due() || self.rehearsal.is_some() {
            return Ok(());
        }
        self.validation.again();
        let scratch = self.setup.scratch.clone();
        let snapshot = self.setup.source.snapshot().await.map_err(Error::source)?;
        let (replica, status) = (self.setup.replica.clone(), self.status.subscribe());
        self.rehearsal = Some(tokio::spawn(validate::validate(snapshot, replica, scratch, status)));
        Ok(())
    }

    /// Takes in what ended beside the loop.
    pub(super) async fn collect(&mut self) -> Result<(), Error> {
        if let Some(task) = self.snapshot.take_if(|task| task.is_finished()) {
            match task.await.unwrap_or(Err(Error::Stopped)) {
                Ok(position) => {
                    self.snapshotted = Some(position);
                    self.look_soon();
                }
                Err(error) => {
                    self.failed(&error);
                    self.snapshots.after(BACK_OFF_MAX);
                }
            }
        }
        if let Some(task) = self.rehearsal.take_if(|task| task.is_finished()) {
            let outcome = task.await.unwrap_or(Err(Error::Stopped));
            let word = match &outcome {
                Ok(true) => "ok",
                Ok(false) => "different",
                // Nothing was found wrong: there was nothing to compare with.
                Err(Error::Overtaken | Error::Source(..)) => "skipped",
                Err(_) => "error",
            };
            self.labels.count("seawall_sqlite_replica_validations_total", word);
            match outcome {
                Ok(right) => {
                    info!(database = self.labels.database, replica = self.labels.replica, "validated: {word}");
                    self.status.send_modify(|status| status.validated = Some((Timestamp::now(), right)));
                }
                Err(error @ (Error::Overtaken | Error::Source(..))) => {
                    debug!(database = self.labels.database, replica = self.labels.replica, "not validated: {error}");
                }
                Err(error) => self.failed(&error),
            }
        }
        Ok(())
    }

    /// A new snapshot makes older ones superfluous some day.
    pub(super) fn look_soon(&mut self) {
        self.retention.due = self.retention.due.min(Instant::now() + self.retention.every.unwrap_or(NEVER));
    }

    /// Says that somebody else writes to the same place, once for each news.
    fn tell_foreign(&self, foreign: &[Generation]) {
        let text = foreign.first().map(|generation| {
            format!(
                "somebody else writes to the same place (generation {generation}); give every database a place of its own"
            )
        });
        self.labels.shared(text.is_some());
        if let Some(text) = text.as_ref().filter(|text| self.status.borrow().shared.as_ref() != Some(text)) {
            warn!(database = self.labels.database, replica = self.labels.replica, "{text}");
        }
        self.status.send_if_modified(|status| std::mem::replace(&mut status.shared, text.clone()) != text);
    }

    /// Deletes what no restore needs.
    pub(super) async fn retain(&mut self) -> Result<(), Error> {
        let (replica, options) = (&self.setup.replica, &self.setup.options);
        self.retention.again();
        let Some((at, _)) = self.at else { return Ok(()) };
        let mut holdings = BTreeMap::new();
        for generation in replica.generations().await? {
            let snapshots = replica.snapshots(generation).await?;
            let pieces = replica.pieces(generation, 0..=u64::MAX).await?;
            holdings.insert(generation, Holding { snapshots, pieces });
        }
        let window = options.retention + options.grace;
        let now = Timestamp::now();
        let current = Generation(at.generation);
        let since = match (self.first, holdings.get(&current)) {
            (Some((of, name)), Some(ours)) if of == current => ours.stored_since(name),
            _ => None,
        };
        let plan = retention::plan(&holdings, now - window, current, since);
        self.tell_foreign(&plan.foreign);
        // With nothing to become old, the store is not asked again until there is.
        let wait = plan.next.map_or(NEVER, |next| (next + window).duration_since(now).unsigned_abs());
        self.retention.after(wait.max(self.retention.every.unwrap_or(NEVER)));
        for generation in &plan.generations {
            replica.delete_generation(*generation).await?;
            info!(database = self.labels.database, replica = self.labels.replica, %generation, "an old generation was deleted");
        }
        for snapshot in &plan.snapshots {
            replica.delete_snapshot(snapshot.generation, snapshot.at).await?;
        }
        let mut pieces: BTreeMap<Generation, Vec<PieceName>> = BTreeMap::new();
        for piece in &plan.pieces {
            pieces.entry(piece.generation).or_default().push(piece.name);
        }
        for (generation, names) in pieces {
            replica.delete_pieces(generation, &names).await?;
        }
        Ok(())
    }
}

/// Stores a snapshot; it exists once this returns, not before. Returns the position it shows.
pub(super) async fn store_snapshot<S: source::Snapshot<Position = Position>>(
    replica: Replica,
    snapshot: S,
    labels: Labels,
) -> Result<Position, Error> {
    let begin = snapshot.begin();
    let (sender, reader) = reader::pipe();
    let put = replica.put_snapshot(Generation(begin.generation), u64::from(begin.index), None, reader);
    let (sent, stored) = tokio::join!(reader::send(snapshot, sender), put);
    // The source's own error is the better one.
    let position = sent.map_err(Error::source)?;
    let outcome = match stored? {
        SnapshotWritten::New(_) => "new",
        SnapshotWritten::Exists => "exists",
    };
    labels.count("seawall_sqlite_replica_snapshots_total", outcome);
    info!(database = labels.database, replica = labels.replica, %position, "snapshot: {outcome}");
    Ok(position)
}
