//! A safekeeper's directory that was replaced by an older copy of itself: the disk id is right, the log looks whole, and what it
//! acknowledged since is gone. Only its peers know.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, ensure};
use pg_harness::{scenario, wait_for};
use scenarios::{Logs, SOON, Stage, lsn_of};

const WITHIN: Duration = Duration::from_secs(170);

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let (entry, to) = (entry?, to);
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), &target)?;
        }
    }
    Ok(())
}

/// Waits until a safekeeper has heard from 1 what that has acknowledged by now.
async fn heard_of_1(stage: &mut Stage, by: u64) -> Result<()> {
    let goal = lsn_of(&stage.quorum.node(1)?.status().await?["clusters"][0]["flush_lsn"])?;
    wait_for("a peer that has heard of it", SOON, async || {
        let status = stage.quorum.node(by)?.status().await?;
        let peers = status["clusters"][0]["peers"].as_array().cloned().unwrap_or_default();
        let heard = peers.iter().find(|peer| peer["node_id"] == 1).map(|peer| lsn_of(&peer["flush_lsn"]));
        Ok(heard.transpose()?.is_some_and(|flush| flush >= goal).then_some(()))
    })
    .await
}

/// Goal: an older copy does not vote. Method: copy safekeeper 1 while it is stopped; commit more on 1 and 2 alone, 3 being down; put the
/// copy back and start 3: with 2 asked once and then killed, 1 and 3 are two of three, and would elect a leader that lacks what was
/// acknowledged. 1 must call itself damaged, and the proposer must wait. 2 returns: 1 learns, no row is missing, bytes are equal.
#[test]
fn an_older_copy_of_a_safekeeper_does_not_vote() {
    scenario("older-copy", WITHIN, async |folder| {
        let mut stage = Stage::set(&folder).await?;
        let ledger = stage.ledger(2).await?;
        ledger.wait_for_more(50, SOON).await?;
        stage.quorum.node(1)?.terminate(SOON).await?;
        let data_dir = stage.quorum.node(1)?.data_dir().clone();
        let older: PathBuf = data_dir.with_extension("older");
        copy(&data_dir, &older)?;
        stage.quorum.node(1)?.revive().await?;
        ledger.wait_for_more(50, SOON).await?;
        stage.all_have_everything().await?;

        stage.quorum.node(3)?.kill()?;
        ledger.wait_for_more(100, SOON).await?;
        heard_of_1(&mut stage, 2).await?;
        stage.proposer.kill()?;
        stage.quorum.node(1)?.kill()?;
        fs::remove_dir_all(&data_dir)?;
        fs::rename(&older, &data_dir)?;

        stage.quorum.node(3)?.revive().await?;
        stage.quorum.node(1)?.revive().await?;
        wait_for("a safekeeper that knows it forgot", SOON, async || {
            let status = stage.quorum.node(1)?.status().await?;
            Ok((status["clusters"][0]["state"] == "damaged").then_some(()))
        })
        .await?;
        stage.quorum.node(2)?.kill()?;
        stage.proposer.revive().await?;
        stage.proposer.wait_until("a proposer that waits", SOON, |status| status["state"] == "waiting").await?;
        let leads =
            stage.proposer.wait_until("a leader", Duration::from_secs(6), |status| status["state"] == "leading").await;
        ensure!(leads.is_err(), "an older copy elected a leader");

        stage.quorum.node(2)?.revive().await?;
        ledger.wait_for_more(50, SOON).await?;
        wait_for("an older copy that has learned", SOON, async || {
            let status = stage.quorum.node(1)?.status().await?;
            Ok((status["clusters"][0]["state"] == "member").then_some(()))
        })
        .await?;
        stage.settle(ledger).await?;
        stage.all_have_everything().await?;
        let mut logs = Logs::new();
        logs.compare(&stage).await?;
        Ok(())
    });
}

/// Goal: what peers remember survives them. Method: the same, but every safekeeper is down before the copy is put back, so that nothing
/// is left in memory.
#[test]
fn peers_remember_across_their_own_restart() {
    scenario("remembered", WITHIN, async |folder| {
        let mut stage = Stage::set(&folder).await?;
        let ledger = stage.ledger(2).await?;
        ledger.wait_for_more(50, SOON).await?;
        stage.quorum.node(1)?.terminate(SOON).await?;
        let data_dir = stage.quorum.node(1)?.data_dir().clone();
        let older = data_dir.with_extension("older");
        copy(&data_dir, &older)?;
        stage.quorum.node(1)?.revive().await?;
        stage.settle(ledger).await?;
        stage.all_have_everything().await?;
        stage.proposer.kill()?;
        // Heard by everybody; a clean stop writes it down.
        for by in [2, 3] {
            heard_of_1(&mut stage, by).await?;
        }
        for id in [1, 2, 3] {
            stage.quorum.node(id)?.terminate(SOON).await?;
        }
        fs::remove_dir_all(&data_dir)?;
        fs::rename(&older, &data_dir)?;
        for id in [2, 3, 1] {
            stage.quorum.node(id)?.revive().await?;
        }
        wait_for("a safekeeper that knows it forgot", SOON, async || {
            let status = stage.quorum.node(1)?.status().await?;
            Ok((status["clusters"][0]["state"] == "damaged").then_some(()))
        })
        .await?;
        stage.proposer.revive().await?;
        stage.client().await?.batch_execute("INSERT INTO ledger VALUES (-1, 1)").await?;
        stage.all_have_everything().await?;
        wait_for("an older copy that has learned", SOON, async || {
            let status = stage.quorum.node(1)?.status().await?;
            Ok((status["clusters"][0]["state"] == "member").then_some(()))
        })
        .await
    });
}
