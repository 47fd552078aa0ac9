//! No acknowledged commit is lost when any part crashes.

use std::time::Duration;

use pg_harness::scenario;
use scenarios::{SOON, Stage};

const WITHIN: Duration = Duration::from_secs(240);

/// Goal: a proposer is replaceable. Method: kill -9 it under load, start it again, commits return.
#[test]
fn the_proposer_crashes() {
    scenario("proposer_crash", WITHIN, async |folder| {
        let mut stage = Stage::set(&folder).await?;
        let ledger = stage.ledger(4).await?;
        ledger.wait_for_more(50, SOON).await?;
        for _ in 0..3 {
            stage.proposer.kill()?;
            stage.proposer.revive().await?;
            ledger.wait_for_more(50, SOON).await?;
        }
        stage.settle(ledger).await
    });
}

/// Goal: what was acknowledged survives the primary's crash. Method: kill -9 all its processes under load, start it again.
#[test]
fn the_primary_crashes() {
    scenario("primary_crash", WITHIN, async |folder| {
        let stage = Stage::set(&folder).await?;
        let ledger = stage.ledger(4).await?;
        for _ in 0..3 {
            ledger.wait_for_more(50, SOON).await?;
            stage.postgres.kill().await?;
            stage.postgres.start().await?;
        }
        ledger.wait_for_more(50, SOON).await?;
        stage.settle(ledger).await
    });
}

/// Goal: everything may crash at once. Method: kill -9 all safekeepers, the proposer and the primary under load, start them all.
#[test]
fn everything_crashes() {
    scenario("all_crash", WITHIN, async |folder| {
        let mut stage = Stage::set(&folder).await?;
        let ledger = stage.ledger(4).await?;
        ledger.wait_for_more(50, SOON).await?;
        for id in [1, 2, 3] {
            stage.quorum.node(id)?.kill()?;
        }
        stage.proposer.kill()?;
        stage.postgres.kill().await?;
        stage.postgres.start().await?;
        for id in [1, 2, 3] {
            stage.quorum.node(id)?.revive().await?;
        }
        stage.proposer.revive().await?;
        ledger.wait_for_more(50, SOON).await?;
        stage.settle(ledger).await
    });
}

/// Goal: a safekeeper that hangs, without being gone, holds nobody up. Method: SIGSTOP one under load, see commits go on, SIGCONT.
#[test]
fn a_safekeeper_hangs() {
    scenario("hang", WITHIN, async |folder| {
        let mut stage = Stage::set(&folder).await?;
        let ledger = stage.ledger(4).await?;
        ledger.wait_for_more(50, SOON).await?;
        for id in [1, 2, 3] {
            stage.quorum.node(id)?.pause()?;
            ledger.wait_for_more(50, SOON).await?;
            stage.quorum.node(id)?.resume()?;
            ledger.wait_for_more(50, SOON).await?;
        }
        stage.settle(ledger).await
    });
}
