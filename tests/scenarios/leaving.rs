//! A primary and a proposer that are told to go do go, and nothing acknowledged stays behind.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use pg_harness::{Mode, scenario};
use scenarios::{Logs, SOON, Stage, lsn, lsn_of};

const WITHIN: Duration = Duration::from_secs(170);

/// Where a primary that is down wrote its shutdown checkpoint.
async fn shutdown_checkpoint(stage: &Stage) -> Result<u64> {
    let mut command = stage.postgres.program("pg_controldata");
    command.arg(stage.postgres.data_dir());
    let output = tokio::task::spawn_blocking(move || command.output()).await??;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(text.contains("shut down\n"), "the primary did not shut down cleanly: {text}");
    let line = text.lines().find_map(|line| line.strip_prefix("Latest checkpoint location:"));
    lsn(line.context("no checkpoint in pg_controldata")?.trim())
}

/// Goal: a fast shutdown takes everything along. Method: `stop -m fast` under load with a quorum: done within 20 s, the shutdown
/// checkpoint is on a majority; started again, commits go on.
#[test]
fn a_fast_shutdown_with_a_quorum() {
    scenario("fast_stop", WITHIN, async |folder| {
        let mut stage = Stage::set(&folder).await?;
        let ledger = stage.ledger(3).await?;
        for away in [None, Some(2)] {
            ledger.wait_for_more(50, SOON).await?;
            if let Some(id) = away {
                stage.quorum.node(id)?.kill()?;
                ledger.wait_for_more(10, SOON).await?;
            }
            stage.postgres.stop(Mode::Fast, Duration::from_secs(20)).await?;
            let last = shutdown_checkpoint(&stage).await?;
            let mut have = 0;
            for id in [1, 2, 3].into_iter().filter(|id| Some(*id) != away) {
                // Whole records are flushed: one that begins below the flush LSN ends at or below it.
                let status = stage.quorum.node(id)?.status().await?;
                have += u32::from(lsn_of(&status["clusters"][0]["flush_lsn"])? > last);
            }
            ensure!(have >= 2, "{have} safekeepers have the shutdown checkpoint at {last:X}");
            stage.postgres.start().await?;
            ledger.wait_for_more(50, SOON).await?;
            if let Some(id) = away {
                stage.quorum.node(id)?.revive().await?;
            }
        }
        stage.settle(ledger).await?;
        stage.all_have_everything().await?;
        Logs::new().compare(&stage).await?;
        Ok(())
    });
}

/// Goal: a fast shutdown does not hang for ever without a quorum, and nothing is acknowledged by it. Method: two of three killed, commits
/// waiting, `stop -m fast` done within 60 s; everything back: commits go on.
#[test]
fn a_fast_shutdown_without_a_quorum() {
    scenario("lone_stop", WITHIN, async |folder| {
        let mut stage = Stage::set(&folder).await?;
        let ledger = stage.ledger(3).await?;
        ledger.wait_for_more(50, SOON).await?;
        stage.quorum.node(1)?.kill()?;
        stage.quorum.node(3)?.kill()?;
        stage.nothing_is_acknowledged(&ledger, 3).await?;
        let before = ledger.acknowledged();
        stage.postgres.stop(Mode::Fast, Duration::from_secs(60)).await?;
        ensure!(
            ledger.acknowledged() == before,
            "the shutdown acknowledged {} commits",
            ledger.acknowledged() - before
        );
        stage.postgres.start().await?;
        stage.nothing_is_acknowledged(&ledger, 0).await?;
        stage.quorum.node(1)?.revive().await?;
        stage.quorum.node(3)?.revive().await?;
        ledger.wait_for_more(50, SOON).await?;
        stage.settle(ledger).await
    });
}

/// Goal: a proposer leaves at once and is replaced at once. Method: SIGTERM under load ends it with exit code 0 in under 2 s; a restarted
/// one leads, and commits go on.
#[test]
fn a_proposer_that_is_terminated() {
    scenario("terminated", WITHIN, async |folder| {
        let mut stage = Stage::set(&folder).await?;
        let ledger = stage.ledger(3).await?;
        for _ in 0..3 {
            ledger.wait_for_more(50, SOON).await?;
            let began = Instant::now();
            let status = stage.proposer.terminate(Duration::from_secs(2)).await?;
            ensure!(status.code() == Some(0), "it ended with {status} after {:?}", began.elapsed());
            stage.proposer.revive().await?;
        }
        ledger.wait_for_more(50, SOON).await?;
        stage.settle(ledger).await
    });
}

/// Goal: a safekeeper that is told to go has kept everything, and comes back. Method: SIGTERM to each in turn under load.
#[test]
fn a_safekeeper_that_is_terminated() {
    scenario("sk_term", WITHIN, async |folder| {
        let mut stage = Stage::set(&folder).await?;
        let ledger = stage.ledger(3).await?;
        for id in [1, 2, 3] {
            ledger.wait_for_more(30, SOON).await?;
            let status = stage.quorum.node(id)?.terminate(Duration::from_secs(5)).await?;
            ensure!(status.code() == Some(0), "safekeeper {id} ended with {status}");
            ledger.wait_for_more(30, SOON).await?;
            stage.quorum.node(id)?.revive().await?;
            stage.all_have_everything().await?;
        }
        Logs::new().compare(&stage).await?;
        stage.settle(ledger).await
    });
}

/// Goal: losing the connection for checks is not the primary's end: it is made again at once, and costs no term. Method: end it by
/// `pg_terminate_backend`, which says what a shutdown says, while no majority can acknowledge; 25 s later, longer than a shutdown is waited
/// for, the same term leads and commits return.
#[test]
fn a_connection_for_checks_that_is_ended() {
    scenario("ended", WITHIN, async |folder| {
        let mut stage = Stage::set(&folder).await?;
        let ledger = stage.ledger(2).await?;
        ledger.wait_for_more(20, SOON).await?;
        let term = stage.proposer.status().await?["term"].clone();
        for id in [1, 2] {
            stage.quorum.node(id)?.kill()?;
        }
        stage.nothing_is_acknowledged(&ledger, 2).await?;
        let end =
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'seawall checks'";
        let ended: i64 = stage.client().await?.query_one(end, &[]).await?.get(0);
        ensure!(ended == 1, "{ended} connections for checks were ended");
        let soon = Duration::from_secs(5);
        stage.proposer.wait_until("unverified", soon, |status| status["protected"] == false).await?;
        stage.proposer.wait_until("protected again", soon, |status| status["protected"] == true).await?;
        let lost =
            stage.proposer.wait_until("another term", Duration::from_secs(25), |status| status["term"] != term).await;
        ensure!(lost.is_err(), "one lost connection cost a term");
        for id in [1, 2] {
            stage.quorum.node(id)?.revive().await?;
        }
        ledger.wait_for_more(20, SOON).await?;
        ensure!(stage.proposer.status().await?["term"] == term, "one lost connection cost a term");
        stage.settle(ledger).await
    });
}
