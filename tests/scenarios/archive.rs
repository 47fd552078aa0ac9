//! Everything committed is in the archive within about a second, whoever dies and whatever the store does, and nothing waits for it.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use pg_harness::{Bin, Fault, FaultProxy, Folder, Garage, S3Access, scenario, wait_for};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use scenarios::{ArchivedWal, Replica, SOON, Stage, lsn_of};
use serde_json::Value;

const SEGMENT: u64 = 1 << 20;
const ROUNDS: u32 = 10;
const SEED: u64 = 6;

/// A stage with small segments whose safekeepers archive to `url`.
async fn stage(folder: &Folder, url: &str, bin: Bin) -> Result<Stage> {
    let archive = format!("--archive={url}");
    Stage::set_with(folder, |quorum| quorum.bin(bin).arg(&archive), |postgres| postgres.segment_size_mb(1)).await
}

/// The archive as each running safekeeper sees it, by id.
async fn views(stage: &Stage) -> BTreeMap<u64, Value> {
    let mut views = BTreeMap::new();
    for node in stage.quorum.nodes() {
        if let Ok(status) = node.status().await {
            views.insert(node.id(), status["clusters"][0]["archive"].clone());
        }
    }
    views
}

/// Waits until some safekeeper has archived everything up to a position; returns its id.
async fn archived(stage: &Stage, goal: u64, within: Duration) -> Result<u64> {
    wait_for(&format!("archive up to {goal:X}"), within, async || {
        let views = views(stage).await;
        let there = |view: &Value| lsn_of(&view["archived_lsn"]).is_ok_and(|archived| archived >= goal);
        match views.iter().find(|(_, view)| there(view)) {
            Some((id, _)) => Ok(Some(*id)),
            None => anyhow::bail!("{views:?}"),
        }
    })
    .await
}

/// The one generation of an archive is contiguous, equal to what a safekeeper keeps, and reaches `end`.
async fn verify(replica: &Replica, stage: &Stage, end: u64) -> Result<ArchivedWal> {
    let mut generations = replica.wal(SEGMENT).await?;
    ensure!(generations.len() == 1, "{:?}", generations.keys());
    let (_, wal) = generations.pop_first().context("no generation")?;
    ensure!(wal.end() >= end, "the archive ends at {:X}, commits at {end:X}", wal.end());
    let dir = log_dir(stage.quorum.nodes()[0].data_dir())?;
    for number in wal.begin / SEGMENT..wal.end().div_ceil(SEGMENT) {
        let begin = (number * SEGMENT).max(wal.begin);
        let until = ((number + 1) * SEGMENT).min(wal.end());
        let name = format!("{:08X}{:08X}{:08X}", 1, number / 4096, number % 4096);
        let segment = fs::read(dir.join(&name)).with_context(|| format!("segment {name} of safekeeper 1"))?;
        let local = &segment[(begin - number * SEGMENT) as usize..(until - number * SEGMENT) as usize];
        let there = &wal.bytes[(begin - wal.begin) as usize..(until - wal.begin) as usize];
        ensure!(local == there, "the archive differs from the quorum in {name}");
    }
    Ok(wal)
}

/// `<data dir>/<tenant>/<timeline>` of the only cluster.
fn log_dir(data_dir: &Path) -> Result<std::path::PathBuf> {
    let mut dir = data_dir.to_owned();
    for _ in 0..2 {
        let is_id = |path: &Path| path.is_dir() && path.file_name().is_some_and(|name| name.len() == 32);
        let below = fs::read_dir(&dir)?.flatten().map(|entry| entry.path()).find(|path| is_id(path));
        dir = below.with_context(|| format!("no log below {}", dir.display()))?;
    }
    Ok(dir)
}

/// Goal: whoever archives may die at any moment; another goes on within seconds, and the archive has no gap and no two versions of a
/// byte. Method: ten rounds of kill -9 of the uploader under load, at moments drawn from a seed, one in three while it comes back; then
/// every object is read and compared with the safekeepers' files.
#[test]
fn the_uploader_dies_at_any_moment() {
    scenario("archive_dies", Duration::from_secs(180), async |folder| {
        let dir = folder.sub("archive")?;
        let mut stage = stage(&folder, &dir.display().to_string(), Bin::seawall()?).await?;
        let ledger = stage.ledger(4).await?;
        let mut chance = StdRng::seed_from_u64(SEED);
        let mut slowest = Duration::ZERO;
        let mut uploader = archived(&stage, stage.flushed().await?, SOON).await?;
        for round in 0..ROUNDS {
            tokio::time::sleep(Duration::from_millis(chance.random_range(0..1200))).await;
            stage.quorum.node(uploader)?.kill()?;
            ledger.wait_for_more(1, SOON).await?;
            let (goal, began) = (stage.flushed().await?, Instant::now());
            if round % 3 == 2 {
                stage.quorum.node(uploader)?.revive().await?;
                tokio::time::sleep(Duration::from_millis(chance.random_range(0..500))).await;
                stage.quorum.node(uploader)?.kill()?;
            }
            let next = archived(&stage, goal, Duration::from_secs(30)).await?;
            ensure!(next != uploader, "safekeeper {next} is dead");
            slowest = slowest.max(began.elapsed());
            stage.quorum.node(uploader)?.revive().await?;
            uploader = next;
        }
        stage.settle(ledger).await?;
        let end = stage.all_have_everything().await?;
        archived(&stage, end, SOON).await?;
        let wal = verify(&Replica::in_directory(&dir)?, &stage, end).await?;
        ensure!(wal.bytes.len() as u64 > 2 * SEGMENT, "too little was written to prove anything");
        ensure!(slowest < Duration::from_secs(25), "a take-over took {slowest:?}");
        Ok(())
    });
}

/// Goal: a store that fails, or is away for a minute, costs no commit; the lag is shown, and caught up with afterwards; and while nothing
/// commits the store is not asked. Method: a real S3 server behind a proxy that answers 429 and 503, cuts requests and answers in both
/// directions, then refuses everything, under load; at last every object is read and compared.
#[test]
fn the_store_fails_and_is_away() {
    scenario("archive_away", Duration::from_secs(180), async |folder| {
        let garage = Garage::start(&folder).await?;
        let proxy = FaultProxy::to(garage.access().addr).await?;
        let access: S3Access = garage.access().through(proxy.addr());
        let bin = Bin::seawall()?.envs(access.env());
        let mut stage = stage(&folder, &access.url("wal"), bin).await?;
        let ledger = stage.ledger(4).await?;
        archived(&stage, stage.flushed().await?, SOON).await?;

        let mut chance = StdRng::seed_from_u64(SEED);
        proxy.plan(move |_| match chance.random_range(0..20) {
            0 => Fault::Status(429),
            1 => Fault::Status(503),
            2 => Fault::Refuse,
            3 => Fault::CutRequest(chance.random_range(0..5000)),
            4 => Fault::LoseAnswer,
            5 => Fault::CutAnswer(chance.random_range(0..5000)),
            _ => Fault::None,
        });
        let bad = Instant::now();
        while bad.elapsed() < Duration::from_secs(20) {
            ledger.wait_for_more(20, SOON).await?;
        }
        archived(&stage, stage.flushed().await?, SOON).await?;

        proxy.away();
        let away = Instant::now();
        let before = stage.flushed().await?;
        while away.elapsed() < Duration::from_secs(60) {
            ledger.wait_for_more(20, Duration::from_secs(10)).await.context("commits must not wait for the archive")?;
        }
        let told = views(&stage).await;
        let tells = |view: &Value| view["lag_bytes"].as_u64() > Some(0) && view["failing_seconds"].as_u64() > Some(20);
        ensure!(told.values().any(tells), "the lag is not shown: {told:?}");
        ensure!(stage.flushed().await? > before);

        proxy.all(Fault::None);
        stage.settle(ledger).await?;
        let end = stage.all_have_everything().await?;
        archived(&stage, end, SOON).await?;
        verify(&Replica::in_bucket(garage.access(), "wal")?, &stage, end).await?;
        no_requests_while_idle(&stage, &proxy).await
    });
}

/// Some seconds in which nothing commits, and nothing is asked.
async fn no_requests_while_idle(stage: &Stage, proxy: &FaultProxy) -> Result<()> {
    wait_for("an idle cluster that asks nothing", SOON, async || {
        let end = stage.flushed().await?;
        archived(stage, end, SOON).await?;
        let asked = proxy.request_count();
        tokio::time::sleep(Duration::from_secs(5)).await;
        // The server writes a line of its own now and then.
        if stage.flushed().await? != end {
            return Ok(None);
        }
        ensure!(proxy.request_count() == asked, "{:?}", proxy.requests().last());
        Ok(Some(()))
    })
    .await
}
