//! What archiving costs under full ingest: the safekeepers' archiver, `seawall wal-push` and pgBackRest (lz4, async push), one after the
//! other, each with a server of its own and the same rows.
//!
//! CPU is that of archiving alone: the archiver's threads of the safekeepers; the archiver process of the server with what it started.
//! Lag is how long a byte of WAL that was flushed waited until whoever archives said that it is archived.

use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use pg_harness::{Bin, Folder, Postgres, PostgresBuilder};
use scenarios::{Stage, archive_views, lsn, lsn_of};
use serde_json::{Value, json};
use tokio_postgres::Client;

use crate::pgbackrest::{PgBackRest, open_to_all, size_of};
use crate::processes::{Orphans, Sampler, Watched, cpu_of};

/// Objects stored at a time by the safekeepers' archiver; the others get as many processes.
const PROCESSES: u32 = 2;
const LOOK: Duration = Duration::from_millis(50);
const ARCHIVED_WITHIN: Duration = Duration::from_secs(600);
/// Rows of one transaction.
const ROWS: u32 = 20_000;

/// Seconds since the beginning, and a position.
type Positions = Vec<(f64, u64)>;

/// Who archives.
enum Contender {
    Seawall { stage: Box<Stage>, archive: PathBuf },
    WalPush { postgres: Postgres, archive: PathBuf },
    PgBackRest { postgres: Postgres, backrest: PgBackRest },
}

/// What one of them did.
pub(crate) struct Outcome {
    name: &'static str,
    wal_mb: f64,
    seconds: f64,
    cpu: f64,
    stored_mb: f64,
    lags: Vec<f64>,
    peak_mb: f64,
}

impl Outcome {
    fn per_gb(&self) -> f64 {
        self.cpu / self.wal_mb * 1000.0
    }

    fn json(&self) -> Value {
        json!({
            "name": self.name, "wal_mb": self.wal_mb, "seconds": self.seconds, "cpu_seconds": self.cpu,
            "cpu_seconds_per_gb": self.per_gb(), "stored_mb": self.stored_mb, "lag_p50": percentile(&self.lags, 50),
            "lag_p99": percentile(&self.lags, 99), "peak_mb": self.peak_mb,
        })
    }
}

fn percentile(sorted: &[f64], percent: usize) -> f64 {
    let last = sorted.len().saturating_sub(1);
    sorted.get(last * percent / 100).copied().unwrap_or(f64::NAN)
}

fn settings(postgres: PostgresBuilder) -> PostgresBuilder {
    postgres.setting("shared_buffers", "256MB").setting("max_wal_size", "1GB").setting("restart_after_crash", "off")
}

fn archiving(postgres: PostgresBuilder, command: &str) -> PostgresBuilder {
    settings(postgres).setting("archive_mode", "on").setting("archive_command", command)
}

impl Contender {
    async fn all(folder: &Folder) -> Result<Vec<Contender>> {
        let backrest = PgBackRest::new(folder, PROCESSES)?;
        let postgres = archiving(Postgres::builder(folder).name("backrest"), &backrest.archive_command());
        let postgres = postgres.fresh().start().await?;
        backrest.begin(&postgres).await?;
        let first = Contender::PgBackRest { postgres, backrest };

        let archive = folder.sub("pushed")?;
        open_to_all(&archive)?;
        let program = Bin::seawall()?.path().display().to_string();
        let command = format!("'{program}' wal-push --replica '{}' --parallelism {PROCESSES} %p %f", archive.display());
        let postgres = archiving(Postgres::builder(folder).name("wal-push"), &command).fresh().start().await?;
        let second = Contender::WalPush { postgres, archive };

        let archive = folder.sub("archive")?;
        let flag = format!("--archive={}", archive.display());
        let named = |postgres: PostgresBuilder| settings(postgres.name("quorum").fresh());
        let stage = Box::new(Stage::set_with(folder, |quorum| quorum.arg(&flag), named).await?);
        Ok(vec![first, second, Contender::Seawall { stage, archive }])
    }

    fn name(&self) -> &'static str {
        match self {
            Contender::Seawall { .. } => "Seawall's safekeepers",
            Contender::WalPush { .. } => "seawall wal-push",
            Contender::PgBackRest { .. } => "pgBackRest lz4, async",
        }
    }

    fn postgres(&self) -> &Postgres {
        match self {
            Contender::Seawall { stage, .. } => &stage.postgres,
            Contender::WalPush { postgres, .. } | Contender::PgBackRest { postgres, .. } => postgres,
        }
    }

    /// How far it says that the WAL is archived.
    async fn archived(&self, client: &Client) -> Result<u64> {
        if let Contender::Seawall { stage, .. } = self {
            let views = archive_views(stage).await;
            return Ok(views.values().filter_map(|view| lsn_of(&view["archived_lsn"]).ok()).max().unwrap_or(0));
        }
        let row = client.query_one("SELECT coalesce(last_archived_wal, '') FROM pg_stat_archiver", &[]).await?;
        let name: String = row.get(0);
        let hex = |range: std::ops::Range<usize>| u64::from_str_radix(name.get(range).unwrap_or("0"), 16).unwrap_or(0);
        // The end of the segment; names of history files and backups do not come here.
        Ok(if name.len() == 24 { (hex(8..16) << 32) + ((hex(16..24) + 1) << 24) } else { 0 })
    }

    fn stored(&self) -> Result<u64> {
        match self {
            Contender::Seawall { archive, .. } | Contender::WalPush { archive, .. } => size_of(archive),
            Contender::PgBackRest { backrest, .. } => backrest.stored(),
        }
    }
}

async fn flushed(client: &Client) -> Result<u64> {
    lsn(client.query_one("SELECT pg_current_wal_flush_lsn()::text", &[]).await?.get(0))
}

/// Writes rows until the WAL has grown by so many bytes.
async fn write(client: &Client, from: u64, bytes: u64) -> Result<()> {
    client.batch_execute("CREATE TABLE rows (id int, account int, at timestamptz, digest text, name text)").await?;
    let insert = format!(
        "INSERT INTO rows SELECT g, g % 1000, clock_timestamp(), md5((g * random())::text), 'customer ' || g % 5000 \
         FROM generate_series(1, {ROWS}) g"
    );
    let mut round = 0;
    while flushed(client).await? < from + bytes {
        client.batch_execute(&insert).await?;
        round += 1;
        // The disk is for the WAL.
        if round % 20 == 0 {
            client.batch_execute("TRUNCATE rows").await?;
        }
    }
    Ok(())
}

async fn measure(folder: &Folder, contender: &Contender, bytes: u64) -> Result<Outcome> {
    let (writer, looker) = (contender.postgres().client().await?, contender.postgres().client().await?);
    writer.batch_execute("SELECT pg_switch_wal(); CHECKPOINT").await?;
    let (from, stored) = (flushed(&looker).await?, contender.stored()?);
    let here = folder.path().display().to_string();
    let watched = match contender {
        Contender::Seawall { stage, .. } => {
            let pids = stage.quorum.nodes().iter().filter_map(|node| node.pid()).collect();
            Watched::Threads(pids, "archive")
        }
        Contender::WalPush { .. } => Watched::Commands(here, "wal-push"),
        Contender::PgBackRest { .. } => Watched::Commands(here, "archive-push"),
    };
    let query = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'archiver'";
    let archiver = match contender {
        Contender::Seawall { .. } => None,
        _ => Some(u32::try_from(looker.query_one(query, &[]).await?.get::<_, i32>(0))?),
    };
    let before = archiver.map(cpu_of).transpose()?.unwrap_or(0.0);
    let (orphans, sampler, began) = (Orphans::watch("pgbackrest"), Sampler::start(watched)?, Instant::now());
    let writing = tokio::spawn(async move {
        let written = write(&writer, from, bytes).await;
        let switched = writer.batch_execute("SELECT pg_switch_wal()").await;
        written.and(switched.map_err(Into::into)).map(|()| began.elapsed())
    });
    // Which position was flushed when, and which was archived when.
    let (mut flushes, mut archives) = (Positions::new(), Positions::new());
    let mut goal = None;
    loop {
        flushes.push((began.elapsed().as_secs_f64(), flushed(&looker).await?));
        let archived = contender.archived(&looker).await?;
        archives.push((began.elapsed().as_secs_f64(), archived));
        if goal.is_none() && writing.is_finished() {
            // The switch was flushed when it returned.
            let end = flushed(&looker).await?;
            goal = Some(match contender {
                Contender::Seawall { .. } => end,
                _ => end >> 24 << 24,
            });
        }
        if goal.is_some_and(|goal| archived >= goal) {
            break;
        }
        ensure!(began.elapsed() < ARCHIVED_WITHIN, "{} archived up to {archived:X} only", contender.name());
        tokio::time::sleep(LOOK).await;
    }
    let took = writing.await??.as_secs_f64();
    let sampled = sampler.stop()?;
    let after = archiver.map(cpu_of).transpose()?.unwrap_or(0.0);
    let cpu = sampled.cpu() + after - before + orphans.take();
    let wal = goal.context("nothing was written")?.saturating_sub(from);
    Ok(Outcome {
        name: contender.name(),
        wal_mb: wal as f64 / 1e6,
        seconds: took,
        cpu,
        stored_mb: (contender.stored()? - stored) as f64 / 1e6,
        lags: lags(&flushes, &archives),
        peak_mb: sampled.peak as f64 / 1e6,
    })
}

/// For each flushed position how long it took until it was archived, ascending.
fn lags(flushes: &[(f64, u64)], archives: &[(f64, u64)]) -> Vec<f64> {
    let until = |(at, position): &(f64, u64)| {
        let reached = archives.iter().find(|(_, archived)| archived >= position)?;
        Some((reached.0 - at).max(0.0))
    };
    let mut lags: Vec<f64> = flushes.iter().filter_map(until).collect();
    lags.sort_by(f64::total_cmp);
    lags
}

/// Measures all of them with so many MB of WAL each. The table, and everything as JSON.
pub(crate) async fn run(folder: &Folder, megabytes: u64) -> Result<(String, Value)> {
    let mut log = std::io::stderr();
    let mut outcomes = Vec::new();
    for contender in Contender::all(folder).await? {
        writeln!(log, "{}: writing {megabytes} MB of WAL", contender.name())?;
        outcomes.push(measure(folder, &contender, megabytes * 1_000_000).await.context(contender.name())?);
    }
    if outcomes.iter().any(|outcome| outcome.cpu <= 0.0) {
        bail!("no CPU time was seen of one of them");
    }
    let mut table =
        "| archived by | MB/s of WAL | CPU s per GB of WAL | stored / WAL | lag p50 s | lag p99 s | peak RSS MB |\n\
                     |---|---|---|---|---|---|---|\n"
            .to_owned();
    for outcome in &outcomes {
        table.push_str(&format!(
            "| {} | {:.0} | {:.2} | {:.2} | {:.2} | {:.2} | {:.0} |\n",
            outcome.name,
            outcome.wal_mb / outcome.seconds,
            outcome.per_gb(),
            outcome.stored_mb / outcome.wal_mb,
            percentile(&outcome.lags, 50),
            percentile(&outcome.lags, 99),
            outcome.peak_mb,
        ));
    }
    Ok((table, outcomes.iter().map(Outcome::json).collect()))
}
