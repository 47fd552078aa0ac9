//! One writer at a time: a superseded proposer gets nothing acknowledged, whatever it believes.

use std::time::Duration;

use anyhow::{Result, ensure};
use pg_harness::{Proposer, scenario};
use scenarios::{CLUSTER, SOON, Stage};

const WITHIN: Duration = Duration::from_secs(170);

async fn leads(proposer: &Proposer, within: Duration) -> Result<u64> {
    let status = proposer.wait_until("a leading proposer", within, |status| status["state"] == "leading").await?;
    Ok(status["term"].as_u64().unwrap_or_default())
}

/// Goal: a proposer that hangs is replaced, and does no harm when it wakes. Method: SIGSTOP the first; the primary drops its walsender
/// after wal_sender_timeout (10 s), so a second one leads soon after; SIGCONT the first: it lives, does not lead, and the second's term
/// stands. Then the second is killed, and the first, still there, takes over.
#[test]
fn a_proposer_that_hung_is_superseded() {
    scenario("superseded", WITHIN, async |folder| {
        let mut stage = Stage::set(&folder).await?;
        let ledger = stage.ledger(3).await?;
        ledger.wait_for_more(50, SOON).await?;
        let first_term = leads(&stage.proposer, SOON).await?;
        stage.proposer.pause()?;
        let mut second = stage.quorum.proposer(CLUSTER, &stage.postgres.conninfo()).await?;
        let term = leads(&second, Duration::from_secs(15)).await?;
        ensure!(term > first_term, "the second leads in term {term}, the first led in {first_term}");
        ledger.wait_for_more(50, SOON).await?;

        stage.proposer.resume()?;
        stage.proposer.wait_until("a first that knows", SOON, |status| status["state"] != "leading").await?;
        ledger.wait_for_more(200, SOON).await?;
        ensure!(stage.proposer.is_running()?, "the first did not survive being superseded");
        ensure!(leads(&second, SOON).await? == term, "the first deposed the second");
        ensure!(stage.proposer.status().await?["state"] != "leading", "both lead");

        second.kill()?;
        ensure!(leads(&stage.proposer, SOON).await? > term, "the first leads again in an old term");
        ledger.wait_for_more(50, SOON).await?;
        stage.settle(ledger).await
    });
}

/// Goal: two proposers for one primary do not fight. Method: start a second beside a first that works; terms stand, commits go on.
#[test]
fn a_second_proposer_waits() {
    scenario("second", WITHIN, async |folder| {
        let mut stage = Stage::set(&folder).await?;
        let ledger = stage.ledger(3).await?;
        let term = leads(&stage.proposer, SOON).await?;
        let second = stage.quorum.proposer(CLUSTER, &stage.postgres.conninfo()).await?;
        second
            .wait_until("an attempt of the second", SOON, |status| !status["primary"].is_null() || said_why(status))
            .await?;
        ledger.wait_for_more(300, SOON).await?;
        ensure!(leads(&stage.proposer, SOON).await? == term, "the second deposed the first");
        ensure!(second.status().await?["state"] != "leading", "both lead");
        stage.proposer.kill()?;
        ensure!(leads(&second, SOON).await? > term, "the second leads in an old term");
        ledger.wait_for_more(50, SOON).await?;
        stage.settle(ledger).await
    });
}

/// Whether a status has a sentence about what is in the way.
fn said_why(status: &serde_json::Value) -> bool {
    status["reasons"].as_array().is_some_and(|reasons| !reasons.is_empty())
}
