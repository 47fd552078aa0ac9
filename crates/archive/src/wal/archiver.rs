//! [`Archiver`]: carries out what the [`Ledger`](super::Ledger) asks for, while its process is the uploader.

use super::error::WalError;
use super::inspect::inspect;
use super::ledger::{Action, Ledger, LedgerOptions};
use super::lineage::{Track, tracks};
use bytes::Bytes;
use lsn::{Lsn, Path, SegmentNumber, SystemId, Tli};
use replica_client::{Archive, CommitTimes, Era, Generation, Parent, PieceName, Plain, PostgresReplica};
use std::collections::BTreeMap;
use std::future::Future;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::task::JoinSet;
use wal_format::history::History;

/// After a failure the next attempt waits this long, then twice as long each time.
const RETRY_FIRST: Duration = Duration::from_millis(500);
const RETRY_MAX: Duration = Duration::from_secs(15);

/// How WAL is archived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ArchiverOptions {
    /// How long committed WAL may wait for more before it is stored.
    pub interval: Duration,
    /// Objects stored at a time; each takes up to 16 MiB (a merged segment: its size) plain and as much encoded.
    pub parallelism: usize,
    /// How long pieces stay behind the object they were merged into.
    pub delete_after: Duration,
    /// How many bytes below the oldest one here others may still have; whether they are in the replica is looked up, too.
    pub look_back: u64,
}

impl Default for ArchiverOptions {
    /// Every second, two at a time, pieces deleted after an hour, nothing looked up that is not here.
    fn default() -> Self {
        ArchiverOptions {
            interval: Duration::from_secs(1),
            parallelism: 2,
            delete_after: Duration::from_secs(3600),
            look_back: 0,
        }
    }
}

/// The log as it is now.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CommittedWal {
    /// Whether this process is the one that stores it.
    pub uploads: bool,
    /// What it is; `None` until the first WAL of a primary came.
    pub log: Option<CommittedLog>,
}

/// A log of which something is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommittedLog {
    /// Its era.
    pub era: Era,
    /// Its lineage.
    pub path: Path,
    /// First byte that is here; a segment's start.
    pub oldest: Lsn,
    /// Committed and here up to this position, the end of a record.
    pub end: Lsn,
    /// The history files of its TLIs that are public, byte for byte.
    pub histories: BTreeMap<Tli, Bytes>,
}

/// Where the bytes come from.
pub trait WalBytes: Send + Sync + 'static {
    /// All bytes of a run that is committed and here; an error says why they cannot be had.
    fn read(&self, wal: Range<Lsn>) -> impl Future<Output = Result<Bytes, String>> + Send;
}

/// How far archiving is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct WalStatus {
    /// Whether this process stores WAL and knows what the replica holds.
    pub uploading: bool,
    /// All WAL from the oldest byte here up to this position is in the replica; 0/0 while that is not known.
    pub archived: Lsn,
    /// Where the WAL begins that is in the replica without a gap up to there, as far as it was looked up; it may lie below the oldest byte here.
    pub archived_from: Lsn,
    /// Why the last attempt failed, until one succeeds.
    pub problem: Option<String>,
    /// Since when every attempt has failed.
    pub failing_since: Option<Instant>,
    /// WAL that was removed here before it was archived: the replica has no continuous history across it.
    pub lost: Option<Range<Lsn>>,
}

/// Archives one cluster's WAL.
#[derive(Debug)]
pub struct Archiver<W> {
    archive: Archive,
    options: ArchiverOptions,
    wal: Arc<W>,
    feed: watch::Receiver<CommittedWal>,
    status: watch::Sender<WalStatus>,
    /// In a row.
    failures: u32,
    /// When the next attempt is due after one that failed.
    retry_at: Option<Instant>,
}

/// What an uploader works on.
struct Work {
    replica: PostgresReplica,
    ledger: Ledger,
    tasks: JoinSet<(Action, Result<(), WalError>)>,
}

impl<W: WalBytes> Archiver<W> {
    /// One that follows `feed` and says in `status` how far it is.
    pub fn new(
        archive: Archive,
        options: ArchiverOptions,
        wal: Arc<W>,
        feed: watch::Receiver<CommittedWal>,
        status: watch::Sender<WalStatus>,
    ) -> Archiver<W> {
        Archiver { archive, options, wal, feed, status, failures: 0, retry_at: None }
    }

    /// Runs until the feed ends. What is under way then is left: it was stored, or will be by the next uploader.
    pub async fn run(mut self) {
        let mut work: Option<Work> = None;
        loop {
            let now = self.feed.borrow_and_update().clone();
            let Some(log) = now.log.filter(|_| now.uploads) else {
                if work.take().is_some() {
                    tracing::info!("another safekeeper archives the WAL now");
                }
                self.status.send_replace(WalStatus::default());
                if self.feed.changed().await.is_err() {
                    return;
                }
                continue;
            };
            let current = match work.take().filter(|work| *work.replica.era() == log.era) {
                Some(work) => work,
                None => match self.begin(&log).await {
                    Ok(work) => work,
                    Err(error) => {
                        self.fail(&error, Lsn::INVALID);
                        if !self.rest().await {
                            return;
                        }
                        continue;
                    }
                },
            };
            match self.step(current, &log).await {
                Some(next) => work = Some(next),
                None => return,
            }
        }
    }

    /// Becomes the uploader: one listing a generation says where to go on.
    async fn begin(&mut self, log: &CommittedLog) -> Result<Work, WalError> {
        let replica = self.archive.claim(&log.era).await?;
        let segment_size = log.era.segment_size;
        let mut ledger = Ledger::new(LedgerOptions {
            segment_size,
            interval: self.options.interval,
            parallelism: self.options.parallelism.max(1),
            delete_after: self.options.delete_after,
        });
        let from = Lsn(log.oldest.0.saturating_sub(self.options.look_back));
        let first = segment_size.segment_of(from).0;
        for track in tracks(&log.path, log.end, segment_size).iter().filter(|track| track.wal.end > from) {
            ledger.learn(&replica.pieces(track.generation, first..=u64::MAX).await?);
        }
        ledger.set_log(tracks(&log.path, log.end, segment_size), log.oldest);
        tracing::info!(archived = %ledger.archived(), end = %log.end, "this safekeeper archives the WAL now");
        Ok(Work { replica, ledger, tasks: JoinSet::new() })
    }

    /// Waits until the next attempt is due, or this process is not the uploader any more; false when the feed has ended.
    async fn rest(&mut self) -> bool {
        let retry_at = self.retry_at;
        tokio::select! {
            () = until(retry_at) => true,
            ended = self.feed.wait_for(|feed| !feed.uploads) => ended.is_ok(),
        }
    }

    /// Starts what is to be done and waits for something to happen; `None` when the feed has ended.
    async fn step(&mut self, mut work: Work, log: &CommittedLog) -> Option<Work> {
        self.look_for_loss(&work.ledger, log.oldest);
        work.ledger.set_log(tracks(&log.path, log.end, log.era.segment_size), log.oldest);
        let resting = self.retry_at.filter(|at| Instant::now() < *at);
        if resting.is_none() {
            // After a failure one attempt says whether the others are worth it.
            while self.failures == 0 || work.tasks.is_empty() {
                match work.ledger.poll(Instant::now()) {
                    Some(action) => self.start(&mut work, action, log),
                    None => {
                        if work.tasks.is_empty() {
                            // What failed need not be done any more.
                            self.succeed();
                        }
                        break;
                    }
                }
            }
        }
        self.tell(&work.ledger);
        let due = match resting {
            Some(at) => Some(at),
            // What is due and cannot begin waits for a task to end.
            None if work.ledger.is_full() || self.failures > 0 => None,
            None => work.ledger.next_due(Instant::now()),
        };
        tokio::select! {
            Some(ended) = work.tasks.join_next() => self.finish(&mut work, ended),
            ended = self.feed.changed() => if ended.is_err() { return None },
            () = until(due) => {}
        }
        Some(work)
    }

    fn start(&self, work: &mut Work, action: Action, log: &CommittedLog) {
        let (replica, wal) = (work.replica.clone(), Arc::clone(&self.wal));
        let history = match &action {
            Action::Announce(track) => log.histories.get(&track.tli).cloned(),
            _ => None,
        };
        work.tasks.spawn(async move {
            let result = carry_out(&replica, &*wal, &action, history).await;
            (action, result)
        });
    }

    fn finish(&mut self, work: &mut Work, ended: Result<(Action, Result<(), WalError>), tokio::task::JoinError>) {
        // A task that ended otherwise is one we gave up, with all the others.
        let Ok((action, result)) = ended else { return };
        match result {
            Ok(()) => {
                if let Action::Store { wal, .. } = &action {
                    metrics::counter!("seawall_archive_wal_bytes_total").increment(wal.end.bytes_since(wal.start));
                }
                work.ledger.done(&action, Instant::now());
                self.succeed();
            }
            Err(error) => {
                work.ledger.failed(&action);
                self.fail(&error, work.ledger.archived());
            }
        }
    }

    fn succeed(&mut self) {
        (self.failures, self.retry_at) = (0, None);
    }

    fn fail(&mut self, error: &WalError, archived: Lsn) {
        self.failures = self.failures.saturating_add(1);
        self.retry_at = Some(Instant::now() + self.retry_after());
        metrics::counter!("seawall_archive_errors_total").increment(1);
        let text = with_causes(error);
        if self.failures == 1 {
            tracing::warn!("WAL is not archived for the moment, commits go on: {text}");
        }
        self.status.send_modify(|status| {
            (status.uploading, status.archived) = (true, archived);
            status.problem = Some(text);
            status.failing_since.get_or_insert_with(Instant::now);
        });
    }

    fn tell(&self, ledger: &Ledger) {
        let works = self.failures == 0;
        self.status.send_if_modified(|status| {
            let before = status.clone();
            (status.uploading, status.archived) = (true, ledger.archived());
            status.archived_from = ledger.archived_from();
            if works {
                (status.problem, status.failing_since) = (None, None);
            }
            *status != before
        });
    }

    /// The oldest byte here is above what was archived: nobody here can close the gap any more.
    fn look_for_loss(&self, ledger: &Ledger, oldest: Lsn) {
        let archived = ledger.archived();
        if archived.is_valid() && archived < oldest {
            tracing::error!("WAL from {archived} to {oldest} was removed before it was archived; take a new backup");
            self.status.send_modify(|status| status.lost = Some(archived..oldest));
        }
    }

    /// Doubles, and differs from one process to the next.
    fn retry_after(&self) -> Duration {
        let doubled = RETRY_FIRST.saturating_mul(1 << self.failures.saturating_sub(1).min(10)).min(RETRY_MAX);
        doubled.mul_f64(rand::random_range(0.5..1.0))
    }
}

/// Waits for a moment; for ever without one.
async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

async fn carry_out<W: WalBytes>(
    replica: &PostgresReplica,
    wal: &W,
    action: &Action,
    history: Option<Bytes>,
) -> Result<(), WalError> {
    match action {
        Action::Announce(track) => announce(replica, track, history).await,
        Action::Store { generation, name, wal: run } => {
            let (bytes, commits) = read(replica, wal, run.clone()).await?;
            replica.put_piece(*generation, *name, bytes, commits).await?;
            Ok(())
        }
        Action::Merge { generation, segment, wal: run } => {
            merge(replica, wal, *generation, *segment, run.clone()).await
        }
        Action::Delete { generation, pieces, .. } => {
            replica.delete_pieces(*generation, pieces).await?;
            Ok(())
        }
    }
}

/// The history comes first: a generation with a parent link can be followed.
async fn announce(replica: &PostgresReplica, track: &Track, history: Option<Bytes>) -> Result<(), WalError> {
    match history {
        Some(history) => drop(replica.put_history(track.generation, history).await?),
        None if track.parent == Parent::Root => {}
        None => tracing::warn!(file = %History::file_name(track.tli), "a TLI is archived without its history file"),
    }
    replica.put_parent(track.generation, track.parent).await?;
    Ok(())
}

/// Bytes that are what they should be.
async fn read<W: WalBytes>(
    replica: &PostgresReplica,
    wal: &W,
    run: Range<Lsn>,
) -> Result<(Bytes, CommitTimes), WalError> {
    let at = run.start;
    let local = |reason: String| WalError::Local { at, reason };
    let length = run.end.bytes_since(at);
    let bytes = wal.read(run).await.map_err(local)?;
    if bytes.len() as u64 != length {
        return Err(local(format!("{} bytes instead of {length}", bytes.len())));
    }
    let (size, system_id): (_, SystemId) = (replica.era().segment_size, replica.era().system_id);
    let looked = tokio::task::spawn_blocking(move || {
        let found = inspect(at, &bytes, size, system_id);
        (bytes, found)
    });
    let (bytes, found) = looked.await.map_err(|error| local(error.to_string()))?;
    Ok((bytes, found?.commits))
}

async fn merge<W: WalBytes>(
    replica: &PostgresReplica,
    wal: &W,
    generation: Generation,
    segment: SegmentNumber,
    run: Range<Lsn>,
) -> Result<(), WalError> {
    let at = run.start;
    let (bytes, commits) = read(replica, wal, run).await?;
    let (name, plain) = (PieceName::segment(segment.0), Plain::of(&bytes));
    replica.put_piece(generation, name, bytes, commits).await?;
    let there = match replica.codec().can_decrypt() {
        true => Some(Plain::of(&replica.read_piece(generation, name).await?)),
        // A host that can only encrypt cannot read back; what was stored beside the object is compared.
        false => replica.piece_facts(generation, name).await?.map(|facts| facts.plain),
    };
    if there == Some(plain) { Ok(()) } else { Err(WalError::ReadBack { at }) }
}

fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(source) = cause {
        text = format!("{text}: {source}");
        cause = source.source();
    }
    text
}

#[cfg(test)]
#[path = "archiver_test.rs"]
mod tests;
