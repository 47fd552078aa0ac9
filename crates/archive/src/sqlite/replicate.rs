//! The loops of one replica, as one task. Snapshots and validations run beside it, because they take long.

mod chores;

use super::error::{Error, ShadowError};
use super::options::{Limits, Options};
use super::piece::{Cut, Mark, Piece};
use super::status::{Labels, Status};
use super::timer::Timer;
use chores::store_snapshot;
use jiff::Timestamp;
use replica_client::{CommitTimes, Generation, PieceName, Plain, Replica, Written};
use source::{Snapshot as _, Source, Stream as _};
use sqlite_wal::{FRAME_HEADER_LEN, HEADER_LEN, Position};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until};
use tracing::{debug, info, warn};

/// The first wait after a failure; doubled each time, up to [`BACK_OFF_MAX`], and shortened by chance.
const BACK_OFF: Duration = Duration::from_secs(1);
const BACK_OFF_MAX: Duration = Duration::from_secs(60);
/// The first look for what can go comes within so long after the start.
const FIRST_LOOK: Duration = Duration::from_secs(30);
/// How long the last upload is tried when the process is to stop, and how often.
const LAST_TRY: Duration = Duration::from_secs(30);
const LAST_TRY_EVERY: Duration = Duration::from_millis(500);

/// What a replicator is made of.
pub struct Setup<S> {
    /// The database.
    pub source: S,
    /// Where it goes.
    pub replica: Replica,
    /// Intervals and limits.
    pub options: Options,
    /// Shared with all others in the process.
    pub limits: Limits,
    /// The database's path, for metrics and logs.
    pub database: String,
    /// The replica's name, for metrics and logs.
    pub name: String,
    /// Makes the source begin a new generation, when what the replica has cannot be gone on with; told why.
    pub start_over: Arc<dyn Fn(&str) + Send + Sync>,
    /// The file the validator restores to and removes again, with room for the database beside it; only used by one replica.
    pub scratch: PathBuf,
}

/// One replica of one database.
pub struct Replicator<S> {
    setup: Setup<S>,
    labels: Labels,
    status: watch::Sender<Status>,
    /// What the replica has, and the chain there; `None` until the replica was asked.
    at: Option<(Position, Mark)>,
    snapshots: Timer,
    retention: Timer,
    validation: Timer,
    /// A position that a snapshot covers: none is needed until there is more.
    snapshotted: Option<Position>,
    /// The first piece of the generation that was stored since the start.
    first: Option<(Generation, PieceName)>,
    snapshot: Option<JoinHandle<Result<Position, Error>>>,
    rehearsal: Option<JoinHandle<Result<bool, Error>>>,
}

fn some(interval: Duration) -> Option<Duration> {
    (!interval.is_zero()).then_some(interval)
}

impl<S> Replicator<S>
where
    S: Source<Position = Position>,
    S::Snapshot: Send + 'static,
{
    /// A replicator that has not begun.
    pub fn new(setup: Setup<S>) -> Replicator<S> {
        let options = &setup.options;
        let validation = some(options.validation_interval);
        let mut retention =
            Timer::new(some(options.retention).map(|_| options.retention_check_interval.min(options.retention)));
        // Soon after the start, so that one that is often restarted deletes too; not all databases at once.
        if let Some(every) = retention.every {
            retention.after(every.min(FIRST_LOOK).mul_f64(0.5 + rand::random::<f64>() / 2.0));
        }
        Replicator {
            labels: Labels { database: setup.database.clone(), replica: setup.name.clone() },
            status: watch::Sender::new(Status::default()),
            at: None,
            snapshots: Timer::new(options.snapshot_every()),
            retention,
            validation: Timer::new(validation),
            snapshotted: None,
            first: None,
            snapshot: None,
            rehearsal: None,
            setup,
        }
    }

    /// How it stands, as it changes.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.subscribe()
    }

    /// Keeps the replica until `stop` says true, then uploads what is left, trying for 30 s. An error: not everything is uploaded.
    pub async fn run(mut self, mut stop: watch::Receiver<bool>) -> Result<(), Error> {
        let mut back_off = BACK_OFF;
        while !*stop.borrow_and_update() {
            let begun = Instant::now();
            match self.step(&mut stop).await {
                Ok(()) => {
                    back_off = BACK_OFF;
                    let rest = (begun + self.setup.options.sync_interval).saturating_duration_since(Instant::now());
                    pause(&mut stop, rest).await;
                }
                // The database is not there, or not now: nothing of the replica's.
                Err(Error::Source(text, _)) => {
                    debug!(database = self.labels.database, replica = self.labels.replica, "{text}");
                    pause(&mut stop, self.setup.options.sync_interval.max(Duration::from_millis(100))).await;
                }
                Err(error) => {
                    self.failed(&error);
                    pause(&mut stop, back_off.mul_f64(0.5 + rand::random::<f64>() / 2.0)).await;
                    back_off = (back_off * 2).min(BACK_OFF_MAX);
                }
            }
        }
        for task in [
            self.snapshot.take().map(|task| task.abort_handle()),
            self.rehearsal.take().map(|task| task.abort_handle()),
        ] {
            task.inspect(|task| task.abort());
        }
        self.finish().await
    }

    /// Everything the source has now is in the replica afterwards. For `--once` and the end of [`Replicator::run`].
    pub async fn finish(&mut self) -> Result<(), Error> {
        let deadline = Instant::now() + LAST_TRY;
        loop {
            match self.sync().await {
                Ok(()) => return Ok(()),
                Err(error) if Instant::now() >= deadline => return Err(error),
                Err(error) => {
                    self.failed(&error);
                    sleep(LAST_TRY_EVERY).await;
                }
            }
        }
    }

    fn failed(&self, error: &Error) {
        let mut text = error.to_string();
        let mut cause = std::error::Error::source(error);
        while let Some(source) = cause {
            let more = source.to_string();
            if !text.contains(&more) {
                text = format!("{text}: {more}");
            }
            cause = source.source();
        }
        self.labels.count("seawall_sqlite_replica_errors_total", "error");
        let news = self.status.borrow().error.as_ref() != Some(&text);
        if news {
            warn!(database = self.labels.database, replica = self.labels.replica, "{text}");
        }
        self.status.send_modify(|status| {
            status.in_sync = false;
            status.error = Some(text);
        });
    }

    /// Uploads what there is, does what is due, and waits until there is something to do.
    async fn step(&mut self, stop: &mut watch::Receiver<bool>) -> Result<(), Error> {
        self.sync().await?;
        self.collect().await?;
        self.begin_snapshot_if_due().await?;
        self.begin_validation_if_due().await?;
        if self.retention.is_due() {
            self.retain().await?;
        }
        let Some((at, _)) = self.at else { return Ok(()) };
        let mut stream = self.setup.source.stream(at).await.map_err(Error::source)?;
        let timers = [self.snapshots.due, self.retention.due, self.validation.due];
        let due = timers.into_iter().min().unwrap_or_else(Instant::now);
        let busy = self.snapshot.is_some() || self.rehearsal.is_some();
        // What runs beside is looked after once a second.
        let due = if busy { due.min(Instant::now() + Duration::from_secs(1)) } else { due };
        tokio::select! {
            // More to upload, or a new generation, or an error that the next sync meets as well.
            _ = stream.next_chunk() => {
                self.status.send_if_modified(|status| std::mem::replace(&mut status.in_sync, false));
            }
            () = sleep_until(due) => {}
            _ = stop.changed() => {}
        }
        Ok(())
    }

    /// Uploads until the replica has what the source has.
    async fn sync(&mut self) -> Result<(), Error> {
        let outcome = self.try_sync().await;
        if let Err(error) = &outcome {
            // Whatever was believed about the replica is asked anew.
            if !matches!(error, Error::Source(..)) {
                self.at = None;
            }
            let over = match error {
                Error::Ahead { .. } | Error::Shadow { .. } => true,
                Error::Replica(error) => error.kind() == replica_client::Kind::Different,
                _ => false,
            };
            if over {
                (self.setup.start_over)(&error.to_string());
            }
        }
        outcome
    }

    async fn try_sync(&mut self) -> Result<(), Error> {
        // While more is written all the time this ends too: with what there was at its beginning.
        let asked = Timestamp::now();
        let end = self.setup.source.position().await.map_err(Error::source)?;
        let (mut at, mark) = match self.at {
            Some((at, mark)) if at.generation == end.generation => (at, mark),
            _ => self.locate(end).await?,
        };
        self.at = Some((at, mark));
        if at.generation == end.generation && at > self.setup.source.position().await.map_err(Error::source)? {
            return Err(Error::Ahead { there: at, here: end });
        }
        if at < end && !self.upload(at, mark, end).await? {
            info!(
                database = self.labels.database,
                replica = self.labels.replica,
                "the shadow WAL has nothing from {at} any more; a snapshot closes the gap"
            );
            self.at = Some(self.first_snapshot().await?);
            self.upload_rest(end).await?;
        }
        at = self.at.map_or(at, |(at, _)| at);
        if at.generation != end.generation || at < end {
            // A new generation has begun meanwhile; the next sync is about that one.
            return Ok(());
        }
        let in_sync = self.setup.source.position().await.is_ok_and(|now| now == at);
        self.status.send_modify(|status| {
            *status = Status { confirmed: Some(at), confirmed_at: Some(asked), in_sync, error: None, ..status.clone() };
        });
        Ok(())
    }

    /// Uploads from where the replica ends.
    async fn upload_rest(&mut self, end: Position) -> Result<(), Error> {
        match self.at {
            Some((at, mark)) if at.generation == end.generation && at < end => {
                self.upload(at, mark, end).await.map(drop)
            }
            _ => Ok(()),
        }
    }

    /// Where uploading goes on: asks the replica, and takes its first snapshot of the generation if it has none.
    async fn locate(&mut self, end: Position) -> Result<(Position, Mark), Error> {
        let generation = Generation(end.generation);
        let Some(resume) = self.setup.replica.resume(generation).await? else {
            return self.first_snapshot().await;
        };
        let there = Position {
            generation: end.generation,
            index: u32::try_from(resume.index).unwrap_or(u32::MAX),
            offset: resume.offset,
        };
        if there > end {
            return Err(Error::Ahead { there, here: end });
        }
        // The snapshot timer goes on where it was before a restart.
        if let (Some(every), Some(newest)) =
            (self.snapshots.every, self.setup.replica.snapshots(generation).await?.last())
        {
            let age = Timestamp::now().duration_since(newest.created).unsigned_abs();
            self.snapshots.after(every.saturating_sub(age));
        }
        match self.mark_at(there, resume.last).await? {
            Some(mark) => Ok((there, mark)),
            None => {
                info!(
                    database = self.labels.database,
                    replica = self.labels.replica,
                    "the replica is behind what the shadow WAL has; a snapshot closes the gap"
                );
                self.first_snapshot().await
            }
        }
    }

    /// The chain at a position, from the shadow WAL; `None` if that has nothing there any more. Compares the last piece with it.
    async fn mark_at(&mut self, at: Position, last: Option<(PieceName, Plain)>) -> Result<Option<Mark>, Error> {
        if at.offset == 0 {
            return Ok(Some(Mark::Begin));
        }
        let Some(header) = self.peek(at.life(), HEADER_LEN).await else { return Ok(None) };
        let mark = match at.offset.checked_sub(HEADER_LEN as u64) {
            None => return Err(self.foreign(at)),
            Some(0) => Mark::resume(&header, &[0; FRAME_HEADER_LEN], at.offset),
            Some(_) => {
                let parsed = header.first_chunk().map(sqlite_wal::Header::parse);
                let Some(Ok(parsed)) = parsed else { return Err(self.damaged(at, ShadowError::Short)) };
                let Some(start) = at.offset.checked_sub(parsed.page_size.frame_len() as u64) else {
                    return Err(self.foreign(at));
                };
                let Some(frame) = self.peek(Position { offset: start, ..at }, FRAME_HEADER_LEN).await else {
                    return Ok(None);
                };
                Mark::resume(&header, &frame, at.offset)
            }
        };
        if let Some((name, plain)) = last
            && name.index == u64::from(at.index)
        {
            let begin = Position { offset: name.start, ..at };
            match self.peek(begin, usize::try_from(plain.length).unwrap_or(usize::MAX)).await {
                Some(ours) if Plain::of(&ours) == plain => {}
                _ => return Err(self.foreign(at)),
            }
        }
        mark.map(Some).map_err(|error| self.damaged(at, error))
    }

    /// Reads at most `len` bytes of the source's log; `None` if it has them no more.
    async fn peek(&mut self, from: Position, len: usize) -> Option<Vec<u8>> {
        let mut stream = self.setup.source.stream(from).await.ok()?;
        let mut bytes = Vec::new();
        while bytes.len() < len {
            match stream.next_chunk().await.ok()? {
                Some(chunk) if chunk.begin.index == from.index => bytes.extend_from_slice(&chunk.bytes),
                _ => break,
            }
        }
        bytes.truncate(len);
        Some(bytes)
    }

    fn foreign(&self, at: Position) -> Error {
        Error::Ahead { there: at, here: Position { offset: 0, ..at } }
    }

    fn damaged(&self, at: Position, source: ShadowError) -> Error {
        Error::Shadow { at, source }
    }

    /// Uploads from `at` to `end` or a little further, in pieces. Says no if the source has nothing there any more.
    async fn upload(&mut self, at: Position, mark: Mark, end: Position) -> Result<bool, Error> {
        let Ok(mut stream) = self.setup.source.stream(at).await else { return Ok(false) };
        let (mut index, mut piece) = (at.index, Piece::new(mark));
        while (Position { index, offset: piece.end(), ..at }) < end {
            let chunk = match stream.next_chunk().await {
                Ok(Some(chunk)) => chunk,
                // The generation has ended.
                Ok(None) => return Ok(true),
                // Its files are gone: with the generation, or because this replica is too far behind.
                Err(error) => {
                    let now = self.setup.source.position().await.map_err(Error::source)?;
                    return if now.generation == at.generation { Err(Error::source(error)) } else { Ok(true) };
                }
            };
            if chunk.begin.index != index {
                self.put_all(at.generation, index, &mut piece).await?;
                (index, piece) = (chunk.begin.index, Piece::new(Mark::Begin));
            }
            let begin = Position { index, offset: chunk.begin.offset, ..at };
            piece.push(&chunk.bytes).map_err(|source| Error::Shadow { at: begin, source })?;
            while piece.len() >= self.setup.options.piece_bytes
                && let Some(cut) = piece.cut(true)
            {
                self.put(at.generation, index, cut).await?;
            }
        }
        // Up to a commit, which is at or behind the end; what was read of the next transaction is read again.
        match piece.cut(false) {
            Some(cut) => self.put(at.generation, index, cut).await?,
            None => self.put_all(at.generation, index, &mut piece).await?,
        }
        Ok(true)
    }

    async fn put_all(&mut self, generation: u64, index: u32, piece: &mut Piece) -> Result<(), Error> {
        while let Some(cut) = piece.cut(true) {
            self.put(generation, index, cut).await?;
        }
        Ok(())
    }

    /// Stores a piece where the replica ends.
    async fn put(&mut self, generation: u64, index: u32, cut: Cut) -> Result<(), Error> {
        let _turn = self.setup.limits.uploads.clone().acquire_owned().await.map_err(|_| Error::Stopped)?;
        // The position is the mark's less the bytes: pieces follow one another without a gap.
        let end = match cut.mark {
            Mark::Frame(chain) => chain.offset(),
            Mark::Begin => 0,
        };
        let mut bytes = cut.bytes;
        while !bytes.is_empty() {
            let start = end.saturating_sub(bytes.len() as u64);
            let name = PieceName::sqlite(u64::from(index), start);
            let replica = &self.setup.replica;
            if self.first.is_none_or(|(of, _)| of != Generation(generation)) {
                self.first = Some((Generation(generation), name));
            }
            let written =
                replica.put_piece(Generation(generation), name, bytes.clone(), CommitTimes::default()).await?;
            let stored = usize::try_from(written.facts().plain.length).unwrap_or(usize::MAX).min(bytes.len());
            // Of a piece cut short by a crash only the rest is missing.
            let rest = match written {
                Written::Prefix(_) => bytes.slice(stored..),
                _ => bytes.slice(bytes.len()..),
            };
            let at = Position { generation, index, offset: end - rest.len() as u64 };
            self.labels.uploaded((bytes.len() - rest.len()) as u64, at);
            bytes = rest;
        }
        let at = Position { generation, index, offset: end };
        self.at = Some((at, cut.mark));
        self.status.send_modify(|status| status.confirmed = Some(at));
        Ok(())
    }

    /// The first snapshot of a generation in this replica, or the one behind a gap. Uploading begins at its life.
    async fn first_snapshot(&mut self) -> Result<(Position, Mark), Error> {
        let _turn = self.setup.limits.snapshots.clone().acquire_owned().await.map_err(|_| Error::Stopped)?;
        let snapshot = self.setup.source.snapshot().await.map_err(Error::source)?;
        let begin = snapshot.begin();
        let reached = self.setup.source.position().await.map_err(Error::source)?;
        if reached.index == begin.index && reached.offset > self.setup.options.piece_bytes {
            // One piece cannot bring all that the snapshot has, so they come first. (It happens only where a reader keeps the WAL from
            // beginning anew.)
            self.upload(begin, Mark::Begin, reached).await?;
        }
        let position = store_snapshot(self.setup.replica.clone(), snapshot, self.labels.clone()).await?;
        self.snapshotted = Some(position);
        self.snapshots.again();
        self.look_soon();
        match self.at {
            Some((at, mark)) if at.generation == begin.generation && at.index >= begin.index => Ok((at, mark)),
            _ => Ok((begin, Mark::Begin)),
        }
    }
}

/// Waits, or until the stop.
async fn pause(stop: &mut watch::Receiver<bool>, wait: Duration) {
    tokio::select! {
        () = sleep(wait) => {}
        _ = stop.changed() => {}
    }
}

#[cfg(test)]
#[path = "replicate_test.rs"]
mod tests;
