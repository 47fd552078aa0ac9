//! A safekeeper whose disk was emptied is another one: it has forgotten what it promised and must not be counted.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, ensure};
use pg_harness::{Safekeeper, scenario, wait_for};
use scenarios::{Logs, SOON, Stage, lsn_of};

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

/// Goal: what a crash left behind the last synced byte is no WAL. Method: kill each safekeeper in turn, write noise where the next record
/// would go, start it again: its flush LSN is what it was, commits go on, bytes are equal.
#[test]
fn noise_after_the_end_is_not_wal() {
    scenario("noise", WITHIN, async |folder| {
        let mut stage = Stage::set(&folder).await?;
        let ledger = stage.ledger(2).await?;
        ledger.wait_for_more(50, SOON).await?;
        stage.settle(ledger).await?;
        for id in [1, 2, 3] {
            stage.all_have_everything().await?;
            let before = stage.quorum.node(id)?.status().await?;
            let node = stage.quorum.node(id)?;
            node.kill()?;
            let end = lsn_of(&before["clusters"][0]["flush_lsn"])?;
            let noise: Vec<u8> = (0..4000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
            Logs::damage(node, &before, end, &noise)?;
            node.revive().await?;
            let after = lsn_of(&node.status().await?["clusters"][0]["flush_lsn"])?;
            ensure!(after >= end, "safekeeper {id} lost WAL: it ended at {end:X}, now at {after:X}");
            stage.client().await?.batch_execute("INSERT INTO ledger SELECT -1, count(*) FROM ledger").await?;
        }
        stage.all_have_everything().await?;
        let mut logs = Logs::new();
        logs.compare(&stage).await?;
        logs.dump(&stage, &folder).await
    });
}

/// Goal: a log that lost what it once had synced does not vote for less. Method: kill one, destroy its newest records, stop one of the
/// others, so that it alone could make the majority, and start it again: commits wait, and no leader is elected by it; the third one
/// returns: the damaged one learns, commits go on, bytes are equal.
#[test]
fn a_damaged_log_does_not_vote() {
    scenario("damaged", WITHIN, async |folder| {
        let mut stage = Stage::set(&folder).await?;
        let ledger = stage.ledger(2).await?;
        ledger.wait_for_more(200, SOON).await?;
        stage.settle(ledger).await?;
        let end = stage.all_have_everything().await?;
        // A clean stop writes down how far the log reaches.
        let before = stage.quorum.node(3)?.status().await?;
        stage.quorum.node(3)?.terminate(SOON).await?;
        let begin = (end - 3000).max(end / (16 << 20) * (16 << 20) + 8192);
        Logs::damage(stage.quorum.node(3)?, &before, begin, &vec![0; usize::try_from(end - begin)?])?;
        stage.quorum.node(2)?.kill()?;
        stage.quorum.node(3)?.revive().await?;
        stage.proposer.kill()?;
        stage.proposer.revive().await?;
        stage.proposer.wait_until("a proposer that waits", SOON, |status| status["state"] == "waiting").await?;
        let damaged = stage.quorum.node(3)?.status().await?;
        ensure!(damaged["clusters"][0]["state"] == "damaged", "it does not know that it is damaged: {damaged}");
        let again =
            stage.proposer.wait_until("a leader", Duration::from_secs(5), |status| status["state"] == "leading").await;
        ensure!(again.is_err(), "a damaged log elected a leader");

        stage.quorum.node(2)?.revive().await?;
        stage.client().await?.batch_execute("INSERT INTO ledger VALUES (-1, 1)").await?;
        wait_for("a damaged log that learned", SOON, async || {
            let status = stage.quorum.node(3)?.status().await?;
            Ok((status["clusters"][0]["state"] == "member").then_some(()))
        })
        .await?;
        stage.all_have_everything().await?;
        let mut logs = Logs::new();
        logs.compare(&stage).await?;
        logs.dump(&stage, &folder).await
    });
}
