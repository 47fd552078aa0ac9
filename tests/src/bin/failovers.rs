//! Failovers, as many as wanted, and what they cost.
//!
//! `soak` is the scenario of the same name for hours: a line a round, the folder with all logs stays if one fails. `bench` measures how long
//! clients wait: while a safekeeper dies, while a proposer is started anew, while a standby takes over; and how fast a safekeeper that was
//! away catches up, beside a plain copy of as many bytes to the same disk. Every figure is the median of several, with the worst beside it.

use std::fs;
use std::io::{Read, Write};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use pg_harness::{Folder, wait_for};
use scenarios::{Failovers, SOON, Stage, lsn_of};
use tokio_postgres::Client;

/// How long commits are watched on either side of a blow.
const WATCHED: Duration = Duration::from_secs(3);
/// What a safekeeper misses while it is away.
const AWAY_MIB: usize = 512;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            // There is nowhere else to say that standard error is closed.
            let _ = writeln!(std::io::stderr(), "error: {err:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let (mut rounds, mut seed, mut mode) = (None, rand::random(), None);
    let mut args = std::env::args().skip(1);
    while let Some(word) = args.next() {
        let mut number = || -> Result<u64> {
            let value = args.next().with_context(|| format!("{word} needs a number"))?;
            value.parse().with_context(|| format!("{value:?} is not a number"))
        };
        match word.as_str() {
            "soak" | "bench" | "patroni" => mode = Some(word),
            "--rounds" => rounds = Some(number()?),
            "--seed" => seed = number()?,
            _ => bail!("{word} is unknown; there are soak, bench, patroni, --rounds N and --seed N"),
        }
    }
    let folder = Folder::new("failovers")?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let outcome = match mode.as_deref() {
        Some("soak") => runtime.block_on(soak(&folder, rounds.unwrap_or(30), seed)),
        Some("bench") => runtime.block_on(bench(&folder, rounds.unwrap_or(5), seed)),
        Some("patroni") => runtime.block_on(with_patroni(&folder, rounds.unwrap_or(2))),
        _ => bail!("say soak, bench or patroni"),
    };
    if outcome.is_err() {
        folder.keep();
    }
    outcome
}

async fn soak(folder: &Folder, count: u64, seed: u64) -> Result<()> {
    let mut out = std::io::stdout();
    writeln!(out, "{count} failovers with --seed {seed}")?;
    let mut rounds = Failovers::begin(folder, seed).await?;
    for _ in 0..count {
        writeln!(out, "{}", rounds.round().await?)?;
    }
    let acknowledged = rounds.end().await?;
    ensure!(acknowledged > 20 * count as usize, "only {acknowledged} commits were acknowledged");
    writeln!(out, "{count} failovers, {acknowledged} acknowledged commits, 0 lost")?;
    Ok(())
}

async fn with_patroni(folder: &Folder, rounds: u64) -> Result<()> {
    let mut say = |line: &str| drop(writeln!(std::io::stdout(), "{line}"));
    let acknowledged = scenarios::patroni(folder, rounds, &mut say).await?;
    writeln!(std::io::stdout(), "{rounds} rounds, {acknowledged} acknowledged commits, 0 lost")?;
    Ok(())
}

async fn bench(folder: &Folder, rounds: u64, seed: u64) -> Result<()> {
    let mut out = std::io::stdout();
    writeln!(out, "| what | median | worst | beside it |\n|---|---|---|---|")?;
    let mut stage = Stage::set(folder).await?;
    stage.client().await?.batch_execute("CREATE TABLE bench (n bigint)").await?;

    let (mut calm, mut stalls) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        let commits = Commits::watch(stage.client().await?);
        tokio::time::sleep(WATCHED).await;
        calm.push(commits.slowest());
        let id = round % 3 + 1;
        stage.quorum.node(id)?.kill()?;
        tokio::time::sleep(WATCHED).await;
        stalls.push(commits.stop().await?);
        stage.quorum.node(id)?.revive().await?;
        stage.all_have_everything().await?;
    }
    let beside = format!("slowest commit of the {} s before: {}", WATCHED.as_secs(), millis(median(&mut calm)));
    line("slowest commit while a safekeeper is killed", &mut stalls, &beside)?;

    let mut starts = Vec::new();
    for _ in 0..rounds {
        stage.proposer.kill()?;
        let client = stage.client().await?;
        let commit = tokio::spawn(async move { client.batch_execute("INSERT INTO bench VALUES (0)").await });
        wait_for("a commit that waits", SOON, async || stage.somebody_waits().await).await?;
        let began = Instant::now();
        stage.proposer.start()?;
        commit.await??;
        starts.push(began.elapsed());
        stage.proposer.kill()?;
        stage.proposer.revive().await?;
        stage.proposer.wait_ready(SOON).await?;
    }
    line("from a proposer's start to the first commit", &mut starts, "the process starts, too")?;

    let (mut rates, mut copies) = (Vec::new(), Vec::new());
    for _ in 0..rounds.min(3) {
        stage.quorum.node(3)?.kill()?;
        let before = stage.flushed().await?;
        stage.write_wal(AWAY_MIB).await?;
        let goal = stage.flushed().await?;
        let bytes = goal - before;
        let source = stage.quorum.node(1)?.data_dir().clone();
        copies.push(bytes as f64 / copy(folder, &source, bytes)?.as_secs_f64());
        let began = Instant::now();
        stage.quorum.node(3)?.revive().await?;
        wait_for("a safekeeper that has everything", SOON * 3, async || {
            let status = stage.quorum.node(3)?.status().await?;
            Ok((lsn_of(&status["clusters"][0]["flush_lsn"])? >= goal).then_some(()))
        })
        .await?;
        rates.push(bytes as f64 / began.elapsed().as_secs_f64());
    }
    let (rate, copied) = (middle(&mut rates), middle(&mut copies));
    let worst = rates.iter().copied().fold(f64::INFINITY, f64::min);
    writeln!(
        out,
        "| catch-up of a safekeeper that missed {AWAY_MIB} MiB | {:.0} MiB/s | {:.0} MiB/s | copy and fsync of as many bytes: {:.0} MiB/s, \
         ratio {:.2} |",
        mib(rate),
        mib(worst),
        mib(copied),
        rate / copied
    )?;
    drop(stage);

    let other = Folder::new("failovers")?;
    let mut failovers = Failovers::begin(&other, seed).await?;
    let (mut whole, mut fit, mut first) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds {
        let times = failovers.round().await?.times;
        whole.push(times.whole);
        fit.push(times.pre_promote);
        first.push(times.first_commit);
    }
    failovers.end().await?;
    line("`seawall pre-promote`", &mut fit, "fence, sync, replay, comparison")?;
    line("from the new proposer's start to the first commit", &mut first, "everything both sides have is compared")?;
    line("a whole failover, from the blow to the first commit", &mut whole, "detection not counted")
}

/// One client that commits row after row, and how long each took.
struct Commits {
    slowest: Arc<Mutex<Duration>>,
    stop: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<Result<()>>,
}

impl Commits {
    fn watch(client: Client) -> Commits {
        let (slowest, stop) = (Arc::new(Mutex::new(Duration::ZERO)), Arc::new(AtomicBool::new(false)));
        let (noted, told) = (Arc::clone(&slowest), Arc::clone(&stop));
        let task = tokio::spawn(async move {
            while !told.load(Ordering::Relaxed) {
                let began = Instant::now();
                client.batch_execute("INSERT INTO bench VALUES (1)").await?;
                let mut slowest = noted.lock().unwrap_or_else(PoisonError::into_inner);
                *slowest = began.elapsed().max(*slowest);
            }
            Ok(())
        });
        Commits { slowest, stop, task }
    }

    /// The slowest since the last question.
    fn slowest(&self) -> Duration {
        std::mem::take(&mut self.slowest.lock().unwrap_or_else(PoisonError::into_inner))
    }

    async fn stop(self) -> Result<Duration> {
        self.stop.store(true, Ordering::Relaxed);
        let slowest = Arc::clone(&self.slowest);
        self.task.await??;
        let slowest = *slowest.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(slowest)
    }
}

/// Copies as many bytes of the segments below a folder into one file, and syncs it.
fn copy(folder: &Folder, source: &std::path::Path, bytes: u64) -> Result<Duration> {
    let mut segments = Vec::new();
    let mut folders = vec![source.to_path_buf()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(next)? {
            let entry = entry?;
            match entry.file_type()?.is_dir() {
                true => folders.push(entry.path()),
                false if entry.file_name().len() == 24 => segments.push(entry.path()),
                false => {}
            }
        }
    }
    segments.sort();
    let path = folder.path().join("copy");
    let began = Instant::now();
    let (mut target, mut left) = (fs::File::create(&path)?, bytes);
    for segment in segments.iter().rev() {
        left -= std::io::copy(&mut fs::File::open(segment)?.take(left), &mut target)?;
    }
    ensure!(std::process::Command::new("sync").arg(&path).status()?.success(), "sync of the copy failed");
    let took = began.elapsed();
    ensure!(left == 0, "only {} of {bytes} bytes of WAL are there", bytes - left);
    fs::remove_file(&path)?;
    Ok(took)
}

fn line(what: &str, times: &mut [Duration], beside: &str) -> Result<()> {
    let worst = times.iter().copied().max().unwrap_or_default();
    writeln!(std::io::stdout(), "| {what} | {} | {} | {beside} |", millis(median(times)), millis(worst))?;
    Ok(())
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

fn middle(rates: &mut [f64]) -> f64 {
    rates.sort_unstable_by(f64::total_cmp);
    rates.get(rates.len() / 2).copied().unwrap_or_default()
}

fn millis(time: Duration) -> String {
    format!("{:.0} ms", time.as_secs_f64() * 1000.0)
}

fn mib(bytes: f64) -> f64 {
    bytes / f64::from(1 << 20)
}
