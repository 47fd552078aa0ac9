//! A commit returns when a majority of the safekeepers has it on disk, and not before.

use std::time::{Duration, Instant};

use anyhow::ensure;
use pg_harness::{Forwarder, scenario};
use scenarios::{CLUSTER, Logs, SOON, Stage};

const WITHIN: Duration = Duration::from_secs(170);

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
            stage.all_have_everything().await?;
        }
        stage.settle(ledger).await
    });
}

/// Goal: without a majority no commit is acknowledged, and with one again those that wait return. Method: kill two of three, see the
/// clients wait and the count stand, start one of the two.
#[test]
fn commits_wait_for_a_majority_that_was_killed() {
    scenario("majority", WITHIN, async |folder| {
        let mut stage = Stage::set(&folder).await?;
        let ledger = stage.ledger(2).await?;
        ledger.wait_for_more(20, SOON).await?;
        stage.quorum.node(1)?.kill()?;
        stage.quorum.node(2)?.kill()?;
        stage.nothing_is_acknowledged(&ledger, 2).await?;
        stage.quorum.node(1)?.revive().await?;
        ledger.wait_for_more(20, SOON).await?;
        stage.settle(ledger).await
    });
}

/// Goal: the same when the majority hangs and its connections stay. Method: SIGSTOP two of three, each time another one returns.
#[test]
fn commits_wait_for_a_majority_that_hangs() {
    scenario("hanging", WITHIN, async |folder| {
        let mut stage = Stage::set(&folder).await?;
        let ledger = stage.ledger(2).await?;
        for (returns, stays) in [(1, 2), (3, 1)] {
            ledger.wait_for_more(20, SOON).await?;
            stage.quorum.node(returns)?.pause()?;
            stage.quorum.node(stays)?.pause()?;
            stage.nothing_is_acknowledged(&ledger, 2).await?;
            stage.quorum.node(returns)?.resume()?;
            ledger.wait_for_more(20, SOON).await?;
            stage.quorum.node(stays)?.resume()?;
            stage.all_have_everything().await?;
        }
        stage.settle(ledger).await
    });
}

/// Goal: a safekeeper that hangs, without being gone, holds nobody up. Method: SIGSTOP one under load, count commits over a time longer
/// than the session time-out, SIGCONT, see it catch up.
#[test]
fn a_safekeeper_that_hangs_slows_nobody() {
    scenario("one_hangs", WITHIN, async |folder| {
        let mut stage = Stage::set(&folder).await?;
        let ledger = stage.ledger(4).await?;
        ledger.wait_for_more(50, SOON).await?;
        for id in [2, 3] {
            stage.quorum.node(id)?.pause()?;
            let began = Instant::now();
            // 12 s: the proposer gives the session up after 10, and nobody may notice that either.
            while began.elapsed() < Duration::from_secs(12) {
                // No commit takes a second because of it, not even one in two hundred.
                ledger.wait_for_more(200, Duration::from_secs(15)).await?;
            }
            stage.quorum.node(id)?.resume()?;
            stage.all_have_everything().await?;
        }
        ensure!(
            stage.proposer.status().await?["protected"] == true,
            "a safekeeper that hung is no reason to be unprotected"
        );
        stage.settle(ledger).await
    });
}

/// Goal: a proposer that is cut off from a majority acknowledges nothing, though every process lives; a flapping network loses nothing.
/// Method: the proposer reaches each safekeeper through a forwarder; two lead nowhere for a while; then each is cut again and again.
#[test]
fn commits_wait_while_the_network_is_split() {
    scenario("split", WITHIN, async |folder| {
        let mut stage = Stage::set(&folder).await?;
        stage.proposer.kill()?;
        let (mut paths, mut addresses) = (Vec::new(), Vec::new());
        for node in stage.quorum.nodes() {
            let path = Forwarder::to(node.pg().port()).await?;
            addresses.push(format!("127.0.0.1:{}", path.port()));
            paths.push((path, node.pg().port()));
        }
        let conninfo = stage.postgres.conninfo();
        stage.proposer = stage.quorum.proposer_via(CLUSTER, &conninfo, &addresses.join(",")).await?;
        let ledger = stage.ledger(3).await?;
        ledger.wait_for_more(50, SOON).await?;

        for (path, _) in &paths[..2] {
            // Port 1 is nobody's.
            path.retarget(1);
            path.cut();
        }
        stage.nothing_is_acknowledged(&ledger, 3).await?;
        for (path, port) in &paths[..2] {
            path.retarget(*port);
        }
        ledger.wait_for_more(50, SOON).await?;

        for round in 0..12 {
            paths[round % 3].0.cut();
            ledger.wait_for_more(15, SOON).await?;
        }
        stage.all_have_everything().await?;
        Logs::new().compare(&stage).await?;
        stage.settle(ledger).await
    });
}
