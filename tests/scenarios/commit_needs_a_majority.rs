//! A commit returns when a majority of the safekeepers has it on disk, and not before.

use std::time::Duration;

use anyhow::{Result, ensure};
use pg_harness::{scenario, wait_for};
use scenarios::{SOON, Stage};

const WITHIN: Duration = Duration::from_secs(240);

/// Whether a backend waits for synchronous replication.
async fn somebody_waits(stage: &Stage) -> Result<Option<()>> {
    let query = "SELECT count(*) > 0 FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
    Ok(stage.client().await?.query_one(query, &[]).await?.get::<_, bool>(0).then_some(()))
}

/// Goal: one safekeeper of three may be away. Method: kill one under load, see commits go on; bring it back, kill another.
#[test]
fn commits_go_on_without_a_minority() {
    scenario("minority", WITHIN, async |folder| {
        let mut stage = Stage::set(&folder).await?;
        let ledger = stage.ledger(4).await?;
        ledger.wait_for_more(50, SOON).await?;
        for id in [1, 2, 3] {
            stage.quorum.node(id)?.kill()?;
            ledger.wait_for_more(50, SOON).await?;
            stage.quorum.node(id)?.revive().await?;
            ledger.wait_for_more(50, SOON).await?;
        }
        stage.settle(ledger).await
    });
}

/// Goal: without a majority no commit is acknowledged, and with one again those that wait return. Method: stop two of three, see the
/// clients wait and the count stand, start one of the two.
#[test]
fn commits_wait_for_a_majority() {
    scenario("majority", WITHIN, async |folder| {
        let mut stage = Stage::set(&folder).await?;
        let ledger = stage.ledger(2).await?;
        ledger.wait_for_more(20, SOON).await?;
        stage.quorum.node(1)?.kill()?;
        stage.quorum.node(2)?.kill()?;
        wait_for("a waiting commit", SOON, async || somebody_waits(&stage).await).await?;
        // Two clients and one answer each may have been on the way when the second was killed; no more than that.
        let before = ledger.acknowledged();
        let more = ledger.wait_for_more(3, Duration::from_secs(3)).await;
        ensure!(more.is_err(), "a minority acknowledged {} commits", ledger.acknowledged() - before);
        stage.quorum.node(1)?.revive().await?;
        ledger.wait_for_more(20, SOON).await?;
        stage.settle(ledger).await
    });
}
