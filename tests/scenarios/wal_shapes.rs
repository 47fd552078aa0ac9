//! WAL of every segment size and at any height is kept the same way.

use std::time::Duration;

use anyhow::{Result, ensure};
use pg_harness::{Folder, Mode, scenario};
use scenarios::{Logs, SOON, Stage};

const WITHIN: Duration = Duration::from_secs(170);

/// Commits, bulk, restarts of each part; then every byte.
async fn works(stage: &mut Stage, folder: &Folder, mib: usize) -> Result<()> {
    let ledger = stage.ledger(2).await?;
    ledger.wait_for_more(20, SOON).await?;
    stage.write_wal(mib).await?;
    stage.quorum.node(2)?.kill()?;
    stage.write_wal(8).await?;
    stage.quorum.node(2)?.revive().await?;
    stage.postgres.kill().await?;
    stage.postgres.start().await?;
    ledger.wait_for_more(20, SOON).await?;
    stage.proposer.kill()?;
    stage.proposer.revive().await?;
    stage.client().await?.batch_execute("SELECT pg_switch_wal()").await?;
    ledger.wait_for_more(20, SOON).await?;
    for id in [1, 2, 3] {
        stage.quorum.node(id)?.kill()?;
    }
    for id in [1, 2, 3] {
        stage.quorum.node(id)?.revive().await?;
    }
    ledger.wait_for_more(20, SOON).await?;
    stage.settle(ledger).await?;
    stage.all_have_everything().await?;
    let mut logs = Logs::new();
    logs.compare(stage).await?;
    logs.dump(stage, folder).await
}

/// Goal: small segments work. Method: a cluster of 1 MiB segments, many of them written, every part restarted.
#[test]
fn segments_of_one_mebibyte() {
    scenario("one_mib", WITHIN, async |folder| {
        let mut stage = Stage::set_with(&folder, |quorum| quorum, |postgres| postgres.segment_size_mb(1)).await?;
        works(&mut stage, &folder, 24).await
    });
}

/// Goal: nothing counts bytes in 32 bits, and the names of segments carry over. Method: `pg_resetwal` lifts a fresh cluster to just below
/// 8 GiB before it is attached; it writes across.
#[test]
fn positions_above_four_gibibytes() {
    scenario("high", WITHIN, async |folder| {
        let postgres = Stage::primary(&folder).start().await?;
        postgres.stop(Mode::Fast, SOON).await?;
        let mut reset = postgres.program("pg_resetwal");
        reset.args(["-l", "0000000100000001000000FE", "-D"]).arg(postgres.data_dir());
        let output = tokio::task::spawn_blocking(move || reset.output()).await??;
        ensure!(output.status.success(), "pg_resetwal: {}", String::from_utf8_lossy(&output.stderr));
        postgres.start().await?;
        let mut stage = Stage::around(&folder, postgres, |quorum| quorum).await?;
        ensure!(stage.flushed().await? < 2 << 32, "it began above the boundary it should cross");
        works(&mut stage, &folder, 48).await?;
        ensure!(stage.flushed().await? > 2 << 32, "it did not cross the boundary");
        Ok(())
    });
}
