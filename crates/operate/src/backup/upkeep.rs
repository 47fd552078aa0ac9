//! Retention and validation on a schedule, beside a proposer.
//!
//! A validation is due an interval after the last success that is noted in the replica, whoever ran it, once there is a snapshot. Retention
//! runs at a start and several times a day: it marks first and deletes a day later, so it need not be punctual, and it takes a lease. Each has
//! a thread and a runtime of its own: neither commits nor snapshots wait for them. A failure is logged, counted and tried again.

use super::retain::retain;
use super::schedule::Trouble;
use crate::restore::list::generations;
use crate::restore::open;
use crate::restore::validate::{last_success, validate};
use config::{Address, ClusterName, ListFlags, QuorumFlags, ReplicaFlags, RetainFlags, UpkeepOptions, ValidateFlags};
use jiff::Timestamp;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// How often retention runs.
const RETAIN_EVERY: Duration = Duration::from_secs(6 * 3600);
/// How soon after a start, or while there is nothing yet to work on, it is looked again.
const LOOK_AGAIN: Duration = Duration::from_secs(10);
/// After a failure, the next try comes so soon at first, and twice as late each time.
const RETRY_FIRST: Duration = Duration::from_secs(60);
const RETRY_MAX: Duration = Duration::from_secs(3600);

/// Begins what was asked for; it ends with the process.
pub fn start(options: &UpkeepOptions, safekeepers: &[Address], cluster: Option<&ClusterName>) -> io::Result<()> {
    if let Some(window) = options.retain {
        let flags = RetainFlags {
            replica: options.url.clone(),
            source: ReplicaFlags::default(),
            window,
            dry_run: false,
            sole_uploader: options.sole_uploader,
            json: false,
        };
        let runtime = crate::process::runtime()?;
        let work = move || runtime.block_on(for_ever("retention", async || retain_once(&flags).await));
        std::thread::Builder::new().name("retention".to_owned()).spawn(work)?;
    }
    if let Some(interval) = options.validate_interval {
        let flags = ValidateFlags {
            replica: options.url.clone(),
            source: ReplicaFlags::default(),
            quorum: QuorumFlags { safekeepers: safekeepers.to_vec(), cluster: cluster.cloned() },
            generation: None,
            scratch: None,
            parallelism: 2,
            user: "postgres".to_owned(),
            no_start: false,
            pg_bin: None,
            json: false,
        };
        let program = fetching_program()?;
        let runtime = crate::process::runtime()?;
        let work = move || {
            runtime.block_on(for_ever("validation", async || validate_when_due(&flags, interval, &program).await));
        };
        std::thread::Builder::new().name("validation".to_owned()).spawn(work)?;
    }
    Ok(())
}

/// `seawall`, which the scratch server calls for its WAL: this program, or the one beside it.
fn fetching_program() -> io::Result<PathBuf> {
    let own = std::env::current_exe()?;
    let seawall = own.with_file_name("seawall");
    if seawall.is_file() {
        return Ok(seawall);
    }
    let text = format!("validation needs the program seawall beside {}", own.display());
    Err(io::Error::new(io::ErrorKind::NotFound, text))
}

/// Runs something again and again; it says how long to wait.
async fn for_ever(what: &'static str, work: impl AsyncFn() -> Result<Duration, Trouble>) {
    let mut retry = RETRY_FIRST;
    loop {
        let pause = match work().await {
            Ok(pause) => {
                retry = RETRY_FIRST;
                pause
            }
            Err(error) => {
                metrics::counter!("seawall_archive_upkeep_failures_total", "what" => what).increment(1);
                tracing::error!(error = &error as &dyn std::error::Error, "{what} failed");
                let pause = retry;
                retry = (retry * 2).min(RETRY_MAX);
                pause
            }
        };
        tokio::time::sleep(pause).await;
    }
}

async fn retain_once(flags: &RetainFlags) -> Result<Duration, Trouble> {
    // An archive that nobody has begun yet has nothing to let go of.
    if is_new(&flags.replica, &flags.source).await? {
        return Ok(LOOK_AGAIN);
    }
    let outcome = retain(flags).await.map_err(|error| Trouble(Box::new(error)))?;
    metrics::gauge!("seawall_retention_last_success_timestamp_seconds").set(Timestamp::now().as_second() as f64);
    tell_window(&flags.replica, &flags.source).await;
    tracing::info!(since = %outcome.window_begin, deleted = outcome.objects, "retention has run");
    Ok(RETAIN_EVERY)
}

async fn validate_when_due(
    flags: &ValidateFlags,
    interval: Duration,
    program: &std::path::Path,
) -> Result<Duration, Trouble> {
    if is_new(&flags.replica, &flags.source).await? {
        return Ok(LOOK_AGAIN);
    }
    let replica = open::postgres(&flags.replica, &flags.source).await.map_err(|error| Trouble(Box::new(error)))?;
    if let Some(last) = last_success(&replica).await.map_err(|error| Trouble(Box::new(error)))? {
        validated(last);
        let age = Duration::try_from(Timestamp::now().duration_since(last)).unwrap_or_default();
        if age < interval {
            return Ok(interval - age);
        }
    }
    let report = validate(flags, program).await.map_err(|error| Trouble(Box::new(error)))?;
    validated(report.at);
    tell_window(&flags.replica, &flags.source).await;
    metrics::gauge!("seawall_validation_seconds").set(report.seconds as f64);
    tracing::info!(
        end = report.wal_end,
        records = report.wal_records,
        seconds = report.seconds,
        "the archive was restored and is sound"
    );
    Ok(interval)
}

fn validated(at: Timestamp) {
    metrics::gauge!("seawall_validation_last_success_timestamp_seconds").set(at.as_second() as f64);
}

/// Since when the archive can be restored, by what is there now.
async fn tell_window(url: &str, source: &ReplicaFlags) {
    let flags = ListFlags { replica: url.to_owned(), source: source.clone(), generation: None, json: false };
    let Ok(rows) = generations(&flags).await else { return };
    if let Some(from) = rows.iter().filter_map(|row| row.restorable_from_time).min() {
        metrics::gauge!("seawall_restorable_from_timestamp_seconds").set(from.as_second() as f64);
    }
}

/// Whether there is no snapshot yet.
async fn is_new(url: &str, source: &ReplicaFlags) -> Result<bool, Trouble> {
    let replica = match open::postgres(url, source).await {
        Ok(replica) => replica,
        Err(error) if error.is_nothing() => return Ok(true),
        Err(error) => return Err(Trouble(Box::new(error))),
    };
    let trouble = |error: replica_client::Error| Trouble(Box::new(error));
    for generation in replica.generations().await.map_err(trouble)? {
        if !replica.snapshots(generation).await.map_err(trouble)?.is_empty() {
            return Ok(false);
        }
    }
    Ok(true)
}
