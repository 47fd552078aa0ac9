//! Snapshots on a schedule, beside a proposer.
//!
//! The next one is due an interval after the newest in the archive, whoever took it: a restart takes none too many, and two proposers
//! with one archive do not take two. A thread and a runtime of their own: what a backup costs in time must not be taken from commits.

use super::place::Place;
use super::{Step, take};
use config::{BackupFlags, Interval, SnapshotOptions};
use jiff::Timestamp;
use std::fmt;
use std::io;
use std::time::{Duration, Instant};

/// After a failure, the next try comes so soon at first, and twice as late each time.
const RETRY_FIRST: Duration = Duration::from_secs(30);
const RETRY_MAX: Duration = Duration::from_secs(3600);

/// Why the archive could not be looked at.
#[derive(Debug)]
pub struct Trouble(pub(super) Box<dyn std::error::Error + Send + Sync>);

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for Trouble {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source()
    }
}

/// Begins to take snapshots of `primary`; they end with the process.
pub fn start(primary: config::Conninfo, options: SnapshotOptions) -> io::Result<()> {
    let runtime = crate::process::runtime()?;
    let work = move || runtime.block_on(keep_taking(flags(primary, &options), options.interval));
    std::thread::Builder::new().name("snapshots".to_owned()).spawn(work).map(drop)
}

fn flags(primary: config::Conninfo, options: &SnapshotOptions) -> BackupFlags {
    BackupFlags {
        primary,
        replica: options.url.clone(),
        era: None,
        generation: None,
        recipient: options.recipients.clone(),
        label: "seawall".to_owned(),
        max_rate: None,
        // Nobody waits for it, and the primary has other work.
        spread_checkpoint: true,
        include_wal: false,
        no_slot: false,
        wal_timeout: Interval(Duration::from_secs(3600)),
        accept_damaged_pages: false,
        parallelism: 1,
        json: false,
    }
}

async fn keep_taking(flags: BackupFlags, interval: Duration) {
    let mut retry = RETRY_FIRST;
    loop {
        let pause = match due_in(&flags, interval).await {
            Ok(pause) if pause.is_zero() => one(&flags, interval).await,
            Ok(pause) => Some(pause),
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "cannot see when the next snapshot is due");
                None
            }
        };
        match pause {
            Some(pause) => {
                retry = RETRY_FIRST;
                tokio::time::sleep(pause).await;
            }
            None => {
                tokio::time::sleep(retry).await;
                retry = (retry * 2).min(RETRY_MAX);
            }
        }
    }
}

/// Takes one; `None` if it failed.
async fn one(flags: &BackupFlags, interval: Duration) -> Option<Duration> {
    let started = Instant::now();
    let say = |step| {
        if let Step::AwaitsWal { needed, reached } = step {
            tracing::debug!(%needed, %reached, "the snapshot waits for its WAL");
        }
    };
    match take(flags, false, say).await {
        Ok(taken) => {
            let snapshot = &taken.snapshot;
            tracing::info!(at = %snapshot.begin.lsn, bytes = snapshot.bytes, seconds = started.elapsed().as_secs(), "took a snapshot");
            metrics::gauge!("seawall_backup_last_success_timestamp_seconds").set(Timestamp::now().as_second() as f64);
            metrics::gauge!("seawall_backup_bytes").set(snapshot.bytes as f64);
            metrics::histogram!("seawall_backup_seconds").record(started.elapsed().as_secs_f64());
            Some(interval)
        }
        Err(error) => {
            metrics::counter!("seawall_backup_failures_total").increment(1);
            tracing::error!(error = &error as &dyn std::error::Error, "the snapshot failed");
            None
        }
    }
}

/// How long until the next one is due, by the newest of the cluster whose archive this is. An archive that holds nothing is due at once.
async fn due_in(flags: &BackupFlags, interval: Duration) -> Result<Duration, Trouble> {
    let newest = Place::parse(flags)?.newest_snapshot().await?;
    let Some(newest) = newest else { return Ok(Duration::ZERO) };
    let age = Duration::try_from(Timestamp::now().duration_since(newest)).unwrap_or_default();
    Ok(interval.saturating_sub(age))
}
