//! Everything committed is in the archive within about a second, whoever dies and whatever the store does, and nothing waits for it.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use pg_harness::{Bin, Fault, FaultProxy, Folder, Garage, S3Access, scenario, wait_for};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use scenarios::{Replica, SOON, Stage, UploaderRounds, archive_views, archived, verify_archive};
use serde_json::Value;

const ROUNDS: u32 = 10;
const SEED: u64 = 6;

/// A stage with small segments whose safekeepers archive to `url`.
async fn stage(folder: &Folder, url: &str, bin: Bin) -> Result<Stage> {
    let archive = format!("--archive={url}");
    Stage::set_with(folder, |quorum| quorum.bin(bin).arg(&archive), |postgres| postgres.segment_size_mb(1)).await
}

/// Goal: whoever archives may die at any moment; another goes on within seconds, and the archive has no gap and no two versions of a
/// byte. Method: ten rounds of kill -9 of the uploader under load, at moments drawn from a seed, one in three while it comes back; then
/// every object is read and compared with the safekeepers' files.
#[test]
fn the_uploader_dies_at_any_moment() {
    scenario("archive_dies", Duration::from_secs(180), async |folder| {
        let mut rounds = UploaderRounds::begin(&folder, SEED).await?;
        for _ in 0..ROUNDS {
            rounds.round().await?;
        }
        let outcome = rounds.end().await?;
        ensure!(outcome.slowest < Duration::from_secs(25), "a take-over took {:?}", outcome.slowest);
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
        let told = archive_views(&stage).await;
        let tells = |view: &Value| view["lag_bytes"].as_u64() > Some(0) && view["failing_seconds"].as_u64() > Some(20);
        ensure!(told.values().any(tells), "the lag is not shown: {told:?}");
        ensure!(stage.flushed().await? > before);

        proxy.all(Fault::None);
        stage.settle(ledger).await?;
        let end = stage.all_have_everything().await?;
        archived(&stage, end, SOON).await?;
        verify_archive(&Replica::in_bucket(garage.access(), "wal")?, &stage, end).await?;
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
