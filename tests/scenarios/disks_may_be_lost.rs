//! A safekeeper whose disk was emptied is another one: it has forgotten what it promised and must not be counted.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, ensure};
use pg_harness::{Safekeeper, scenario};
use scenarios::{SOON, Stage};

const WITHIN: Duration = Duration::from_secs(170);

/// Takes the disk out of a safekeeper, which restarts with an empty one. Returns where the old one lies.
async fn swap_disk(node: &mut Safekeeper) -> Result<PathBuf> {
    node.kill()?;
    let away = node.data_dir().with_extension("away");
    fs::rename(node.data_dir(), &away)?;
    fs::create_dir(node.data_dir())?;
    node.revive().await?;
    Ok(away)
}

/// Puts the old disk back.
async fn restore_disk(node: &mut Safekeeper, away: PathBuf) -> Result<()> {
    node.kill()?;
    node.wipe()?;
    fs::rename(away, node.data_dir())?;
    node.revive().await
}

/// Goal: an emptied disk does not vote or count, and nothing acknowledged is lost. Method: empty one, commits go on with the two others;
/// stop one of those, commits wait though two processes run; empty that one too and start a new proposer: two empty ones elect nobody,
/// and the intact third is one of three; give one disk back: commits return, no row is missing.
#[test]
fn an_emptied_disk_does_not_count() {
    scenario("emptied", WITHIN, async |folder| {
        let mut stage = Stage::set(&folder).await?;
        let ledger = stage.ledger(2).await?;
        ledger.wait_for_more(50, SOON).await?;
        swap_disk(stage.quorum.node(1)?).await?;
        ledger.wait_for_more(100, SOON).await?;

        stage.quorum.node(2)?.kill()?;
        stage.nothing_is_acknowledged(&ledger, 2).await?;
        let away = swap_disk(stage.quorum.node(2)?).await?;
        stage.proposer.kill()?;
        stage.proposer.revive().await?;
        let status =
            stage.proposer.wait_until("a proposer that waits", SOON, |status| status["state"] == "waiting").await?;
        ensure!(status["protected"] == false, "a proposer without a majority protects nobody");
        stage.nothing_is_acknowledged(&ledger, 0).await?;
        ensure!(stage.proposer.status().await?["state"] == "waiting", "two empty disks elected a leader");

        restore_disk(stage.quorum.node(2)?, away).await?;
        ledger.wait_for_more(50, SOON).await?;
        let empty = stage.quorum.node(1)?.status().await?;
        let counts =
            empty["clusters"].as_array().is_some_and(|all| all.iter().any(|cluster| cluster["state"] == "member"));
        ensure!(!counts, "the emptied disk became a member by itself: {empty}");
        stage.settle(ledger).await
    });
}
