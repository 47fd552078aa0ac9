//! A safekeeper that was away gets what it missed, and the primary does not keep its WAL for it.

use std::fs;
use std::time::Duration;

use anyhow::{Result, ensure};
use pg_harness::{Folder, scenario};
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
