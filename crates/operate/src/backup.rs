//! Base backups into an archive, once or on a schedule, and what may go from it.
//!
//! [`take`] joins `pg-source`, which reads and verifies a backup, to `archive`, which stores it. The WAL that the backup needs stays on
//! the server until the archive has it; only then the snapshot exists. [`retain`] runs retention. [`schedule`] takes backups beside a
//! proposer, on a thread of their own, so that no commit waits for a compressor.

pub mod place;
pub mod retain;
pub mod schedule;
pub mod upkeep;
mod wal;

use crate::restore::progress::Counter;
use archive::snapshot::{SnapshotError, SnapshotOptions, SnapshotTaker};
use backup_format::{DamagedPage, Snapshot};
use config::BackupFlags;
use jiff::Timestamp;
use pg_conn::{ConnInfo, ConnInfoError};
use pg_source::backup::{BackupError, BackupFacts, BackupOptions, BaseBackup, Damage, Finished, Item};
use place::PlaceError;
use replica_client::Generation;
use serde_json::{Value, json};
use std::time::{Duration, Instant, SystemTime};
use wal::IncludedWal;

/// Why there is no new snapshot.
#[derive(Debug, thiserror::Error)]
pub enum TakeError {
    /// The server, or what it sent.
    #[error("no backup could be taken: {0}")]
    Backup(#[source] BackupError),
    /// The conninfo.
    #[error(transparent)]
    ConnInfo(#[from] ConnInfoError),
    /// Where it belongs.
    #[error(transparent)]
    Place(#[from] PlaceError),
    /// Storing it.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// The server's data is damaged.
    #[error(
        "the server has pages with wrong checksums ({}), so this backup is not kept; repair them, or keep it with --accept-damaged-pages",
        shown(.0)
    )]
    Damaged(Damage),
    /// The archive.
    #[error(transparent)]
    Replica(#[from] replica_client::Error),
    /// The server's WAL goes into an archive that nobody else fills, or not at all.
    #[error(
        "this archive is filled by a quorum, which alone knows what is committed; take the backup without --include-wal"
    )]
    QuorumsWal,
    /// A promotion during the backup.
    #[error("the server went on to TLI {0} during the backup; take it again")]
    TliChanged(lsn::Tli),
    /// A time outside of what can be written.
    #[error("the server's clock shows an impossible time")]
    Clock,
}

impl TakeError {
    /// Whether it refused to protect data, rather than failed.
    pub fn is_refusal(&self) -> bool {
        matches!(self, TakeError::Damaged(_) | TakeError::QuorumsWal)
    }
}

impl From<BackupError> for TakeError {
    fn from(error: BackupError) -> TakeError {
        TakeError::Backup(error)
    }
}

fn shown(damage: &Damage) -> String {
    let named: Vec<String> =
        damage.pages.iter().take(5).map(|page| format!("block {} of {}", page.block, page.path)).collect();
    match damage.pages.len() {
        0 => damage.message.clone(),
        count if count > 5 => format!("{}, and {} more", named.join(", "), count - 5),
        _ => named.join(", "),
    }
}

/// How far a backup has come.
#[derive(Clone, Debug)]
pub enum Step {
    /// It began.
    Begun {
        /// What it is of.
        facts: Box<BackupFacts>,
        /// Bytes read, from here on.
        counter: Counter,
    },
    /// Everything is stored; the archive holds the WAL it needs up to here so far.
    AwaitsWal {
        /// Where the WAL must reach.
        needed: lsn::Lsn,
        /// Where it reaches.
        reached: lsn::Lsn,
    },
}

/// A snapshot that exists.
#[derive(Clone, Debug)]
pub struct Taken {
    /// In which generation.
    pub generation: Generation,
    /// What it is.
    pub snapshot: Snapshot,
    /// How long it took.
    pub elapsed: Duration,
}

/// Takes one snapshot. `may_begin_era`: an archive without this cluster begins with an era of the backup's own: at once where the flags
/// say that nobody else archives this server's WAL (`--include-wal`, `--era`), else when no archiver has begun one for a while: a
/// quorum's archiver is seconds behind the first commit, and an era beside its own would never get any WAL.
pub async fn take(flags: &BackupFlags, may_begin_era: bool, mut say: impl FnMut(Step)) -> Result<Taken, TakeError> {
    let started = Instant::now();
    let place = place::Place::parse(flags)?;
    let conninfo: ConnInfo = flags.primary.as_str().parse()?;
    let conninfo = conninfo.with_env(|name| std::env::var(name).ok())?;
    let options = BackupOptions {
        label: flags.label.clone(),
        fast_checkpoint: !flags.spread_checkpoint,
        max_rate: flags.max_rate,
        include_wal: flags.include_wal,
        pin_wal: !flags.no_slot,
        ..BackupOptions::new(conninfo)
    };
    let mut backup = BaseBackup::start(&options).await?;
    let facts = backup.facts().clone();
    let patience =
        if flags.include_wal || flags.era.is_some() { Duration::ZERO } else { place::ARCHIVER_MAY_BEGIN_FOR };
    let replica = place.replica(&facts, may_begin_era.then_some(patience)).await?;
    if flags.include_wal && !replica.era().name.as_str().starts_with("solo-") {
        return Err(TakeError::QuorumsWal);
    }
    let generation = place.generation(&replica, &facts).await?;
    let chunks = SnapshotOptions { parallelism: flags.parallelism.into(), ..SnapshotOptions::new(holder()) };
    let mut taker = SnapshotTaker::begin(&replica, generation, facts.begin.lsn, &chunks).await?;
    let counter = Counter::default();
    say(Step::Begun { facts: Box::new(facts.clone()), counter: counter.clone() });
    let mut included = IncludedWal::new(&replica, generation, facts.segment_size);
    let copied = match copy(&mut backup, &mut taker, &mut included, &counter).await {
        Ok(copied) => backup.finish().await.map_err(TakeError::from).map(|finished| (finished, copied)),
        Err(error) => Err(error),
    };
    let copied = match copied {
        Ok((finished, copied)) => accept(finished, flags.accept_damaged_pages).map(|finished| (finished, copied)),
        Err(error) => Err(error),
    };
    let (finished, copied) = match copied {
        Ok(copied) => copied,
        Err(error) => {
            // What is left of it counts as nothing, and is swept later.
            if let Err(left) = taker.abandon().await {
                tracing::warn!(
                    error = &left as &dyn std::error::Error,
                    "parts of the failed backup are left in the archive"
                );
            }
            return Err(error);
        }
    };
    let mut sealed = taker.seal(finished.manifest.clone()).await?;
    included.finish(finished.end.lsn).await?;
    let (ranges, size) = (&finished.wal_ranges, facts.segment_size);
    let needed = finished.end.lsn;
    let waited =
        sealed.await_wal(ranges, size, flags.wal_timeout.0, |reached| say(Step::AwaitsWal { needed, reached })).await;
    if let Err(error) = waited {
        if let Err(left) = sealed.abandon().await {
            tracing::warn!(
                error = &left as &dyn std::error::Error,
                "parts of the failed backup are left in the archive"
            );
        }
        return Err(error.into());
    }
    let snapshot = sealed.publish(describe(&facts, &finished, copied, flags)?).await?;
    if let Some(pin) = finished.pin {
        pin.release().await;
    }
    Ok(Taken { generation, snapshot, elapsed: started.elapsed() })
}

/// What went into the chunks.
#[derive(Clone, Copy, Default)]
struct Copied {
    files: u64,
    bytes: u64,
}

async fn copy(
    backup: &mut BaseBackup,
    taker: &mut SnapshotTaker,
    included: &mut IncludedWal<'_>,
    counter: &Counter,
) -> Result<Copied, TakeError> {
    let mut copied = Copied::default();
    let mut is_wal = false;
    while let Some(item) = backup.next_item().await? {
        match item {
            Item::Directory { path, mode } => taker.directory(path, mode).await?,
            Item::File { path, mode, size } => {
                is_wal = included.file(&path).await?;
                if is_wal {
                    continue;
                }
                copied.files += 1;
                copied.bytes += size;
                taker.file(path, mode, size).await?;
            }
            Item::Data(bytes) if is_wal => {
                counter.add(bytes.len() as u64);
                included.data(&bytes);
            }
            Item::Data(bytes) => {
                counter.add(bytes.len() as u64);
                taker.data(bytes).await?;
            }
        }
    }
    Ok(copied)
}

fn accept(finished: Finished, damaged: bool) -> Result<Finished, TakeError> {
    match &finished.damage {
        Some(damage) if !damaged => Err(TakeError::Damaged(damage.clone())),
        _ => Ok(finished),
    }
}

fn describe(
    facts: &BackupFacts,
    finished: &Finished,
    copied: Copied,
    flags: &BackupFlags,
) -> Result<Snapshot, TakeError> {
    let time = |time: SystemTime| Timestamp::try_from(time).map_err(|_| TakeError::Clock);
    let damaged_pages = finished.damage.as_ref().map(|damage| match damage.pages.is_empty() {
        false => damage.pages.clone(),
        // The server found what we did not; that there is something must not be lost.
        true => vec![DamagedPage { path: damage.message.clone(), block: 0 }],
    });
    Ok(Snapshot {
        version: backup_format::SNAPSHOT_VERSION,
        system_id: facts.system_id,
        server_version: facts.version_num,
        segment_size: facts.segment_size,
        begin: facts.begin,
        end: finished.end,
        wal_ranges: finished.wal_ranges.clone(),
        begin_time: time(finished.begin_time)?,
        end_time: time(finished.end_time)?,
        from_standby: finished.from_standby,
        label: flags.label.clone(),
        tablespaces: facts.tablespaces.clone(),
        damaged_pages: damaged_pages.unwrap_or_default(),
        chunks: Vec::new(),
        manifest: backup_format::Blob { length: 0, crc32c: 0 },
        files: copied.files,
        bytes: copied.bytes,
    })
}

/// Who we are to others that use the archive.
fn holder() -> String {
    format!("process {}:{:016x}", std::process::id(), rand::random::<u64>())
}

impl Taken {
    /// For `--json`.
    pub fn to_json(&self) -> Value {
        let snapshot = &self.snapshot;
        json!({
            "generation": self.generation.to_string(),
            "snapshot": snapshot.begin.lsn.to_string(),
            "tli": snapshot.begin.tli.0,
            "end": snapshot.end.lsn.to_string(),
            "end_time": snapshot.end_time.to_string(),
            "from_standby": snapshot.from_standby,
            "files": snapshot.files,
            "bytes": snapshot.bytes,
            "chunks": snapshot.chunks.len(),
            "damaged_pages": snapshot.damaged_pages.iter().map(|page| json!({"path": page.path, "block": page.block})).collect::<Vec<_>>(),
            "seconds": self.elapsed.as_secs_f64(),
        })
    }
}
