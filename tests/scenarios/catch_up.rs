//! A safekeeper that was away gets what it missed, and the primary does not keep its WAL for it.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use pg_harness::{Folder, scenario, wait_for};
use scenarios::{Logs, SOON, Stage};

const WITHIN: Duration = Duration::from_secs(175);
const MIB: u64 = 1 << 20;

/// Bytes of the segments the primary keeps.
fn pg_wal_bytes(stage: &Stage) -> Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(stage.postgres.data_dir().join("pg_wal"))? {
        // One may be removed while the folder is read.
        bytes += entry?.metadata().map_or(0, |metadata| if metadata.is_file() { metadata.len() } else { 0 });
    }
    Ok(bytes)
}

async fn set(folder: &Folder) -> Result<Stage> {
    let small = |postgres: pg_harness::PostgresBuilder| {
        postgres.setting("max_wal_size", "64MB").setting("min_wal_size", "32MB").setting("wal_keep_size", "0")
    };
    Stage::set_with(folder, |quorum| quorum, small).await
}

/// Goal: a laggard costs the primary nothing and comes back by itself. Method: kill one, write 240 MiB, measure `pg_wal`; start it again
/// under load: it pulls from another safekeeper, and the bytes are equal.
#[test]
fn a_large_gap_is_pulled_from_a_peer() {
    scenario("large_gap", WITHIN, async |folder| {
        let mut stage = set(&folder).await?;
        let ledger = stage.ledger(1).await?;
        ledger.wait_for_more(10, SOON).await?;
        stage.quorum.node(3)?.kill()?;
        let from = stage.flushed().await?;
        stage.write_wal(240).await?;
        let gap = stage.flushed().await? - from;
        ensure!(gap > 200 * MIB, "only {gap} bytes of WAL were written");
        // Two, because a checkpoint keeps what the one before it needs.
        stage.client().await?.batch_execute("CHECKPOINT; CHECKPOINT").await?;
        let kept = pg_wal_bytes(&stage)?;
        ensure!(kept < 130 * MIB, "the primary keeps {} MiB of WAL for a safekeeper that is away", kept / MIB);

        stage.quorum.node(3)?.revive().await?;
        stage.all_have_everything().await?;
        let log = stage.quorum.node(3)?.log()?;
        ensure!(log.contains("catching up from a peer"), "it did not learn from a peer");
        ledger.wait_for_more(10, SOON).await?;
        stage.settle(ledger).await?;
        stage.all_have_everything().await?;
        let mut logs = Logs::new();
        logs.compare(&stage).await?;
        logs.dump(&stage, &folder).await
    });
}

/// Bytes of everything in a folder.
fn bytes_below(dir: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        bytes += if metadata.is_dir() { bytes_below(&entry.path())? } else { metadata.len() };
    }
    Ok(bytes)
}

/// Goal: a safekeeper keeps no more WAL than it may, and one that was away for longer than that holds nobody up. Method: 64 MiB allowed,
/// one killed, 240 MiB written; the folders stay small; a new proposer leads with what is kept; the one that returns cannot have what it
/// missed and says so, and commits go on.
#[test]
fn what_is_kept_is_bounded() {
    scenario("bounded", WITHIN, async |folder| {
        let small = |postgres: pg_harness::PostgresBuilder| postgres.setting("max_wal_size", "64MB");
        let mut stage = Stage::set_with(&folder, |quorum| quorum.arg("--max-wal=64MiB"), small).await?;
        let ledger = stage.ledger(1).await?;
        ledger.wait_for_more(10, SOON).await?;
        stage.quorum.node(3)?.kill()?;
        stage.write_wal(240).await?;
        stage.all_have_everything().await?;
        // Committed WAL goes segment by segment, so one more is there at times, and spare ones besides.
        wait_for("small folders", SOON, async || {
            let kept = [1, 2].map(|id| bytes_below(&folder.path().join(format!("sk{id}"))));
            let [first, second] = kept;
            Ok((first? <= 160 * MIB && second? <= 160 * MIB).then_some(()))
        })
        .await?;
        stage.proposer.kill()?;
        stage.proposer.revive().await?;
        ledger.wait_for_more(10, SOON).await?;
        stage.quorum.node(3)?.revive().await?;
        wait_for("a problem that is told", SOON, async || {
            let status = stage.quorum.node(3)?.status().await?;
            Ok(status["clusters"][0]["catch_up_problem"].is_string().then_some(()))
        })
        .await?;
        ledger.wait_for_more(50, SOON).await?;
        stage.settle(ledger).await
    });
}

/// Goal: a small gap needs no detour. Method: kill one, write 8 MiB, start it again: relayed from the proposer, no peer asked.
#[test]
fn a_small_gap_is_relayed() {
    scenario("small_gap", WITHIN, async |folder| {
        let mut stage = set(&folder).await?;
        stage.write_wal(4).await?;
        for id in [1, 3] {
            stage.quorum.node(id)?.kill()?;
            stage.write_wal(8).await?;
            stage.quorum.node(id)?.revive().await?;
            stage.all_have_everything().await?;
            let log = stage.quorum.node(id)?.log()?;
            ensure!(!log.contains("catching up from a peer"), "8 MiB were fetched from a peer");
        }
        Logs::new().compare(&stage).await?;
        Ok(())
    });
}
