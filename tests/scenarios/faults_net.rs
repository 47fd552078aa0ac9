//! Networks that lose a route without a word, deliver late, or reset connections.

use std::time::Duration;

use anyhow::{Result, ensure};
use pg_harness::{Forwarder, Way, scenario};
use scenarios::{CLUSTER, Logs, SOON, Stage};

const WITHIN: Duration = Duration::from_secs(175);

/// Puts a forwarder before each safekeeper, for the proposer alone: the safekeepers reach each other, and readers reach them.
async fn through_forwarders(stage: &mut Stage) -> Result<Vec<Forwarder>> {
    stage.proposer.kill()?;
    let mut paths = Vec::new();
    for node in stage.quorum.nodes() {
        paths.push(Forwarder::to(node.pg().port()).await?);
    }
    let addresses: Vec<String> = paths.iter().map(|path| format!("127.0.0.1:{}", path.port())).collect();
    let conninfo = stage.postgres.conninfo();
    stage.proposer = stage.quorum.proposer_via(CLUSTER, &conninfo, &addresses.join(",")).await?;
    Ok(paths)
}

/// Goal: a network that works one way only acknowledges nothing it should not, and what arrives minutes late from sessions long given up
/// does no harm. Method: what goes to two of three safekeepers is held, longer than the session time-out; then what comes back from two;
/// each time it is released, with all that was held.
#[test]
fn one_way_partitions() {
    scenario("one_way", WITHIN, async |folder| {
        let mut stage = Stage::set(&folder).await?;
        let paths = through_forwarders(&mut stage).await?;
        let ledger = stage.ledger(3).await?;
        for (way, held) in [(Way::ToTarget, [0, 1]), (Way::ToClient, [1, 2])] {
            ledger.wait_for_more(50, SOON).await?;
            for path in held {
                paths[path].hold(way);
            }
            stage.nothing_is_acknowledged(&ledger, 3).await?;
            // Until the sessions are given up: new ones are made into the void.
            stage
                .proposer
                .wait_until("sessions that were given up", SOON, |status| {
                    let streaming = |peer: &&serde_json::Value| peer["state"] == "streaming";
                    status["safekeepers"].as_array().is_some_and(|peers| peers.iter().filter(streaming).count() < 2)
                })
                .await?;
            for path in held {
                paths[path].release();
            }
            ledger.wait_for_more(50, SOON).await?;
            stage.all_have_everything().await?;
        }
        Logs::new().compare(&stage).await?;
        stage.settle(ledger).await
    });
}

/// Goal: one safekeeper behind a route that works one way only is as good as away, and nobody waits for it. Method: as above, with one.
#[test]
fn a_minority_behind_half_a_route_slows_nobody() {
    scenario("half_route", WITHIN, async |folder| {
        let mut stage = Stage::set(&folder).await?;
        let paths = through_forwarders(&mut stage).await?;
        let ledger = stage.ledger(3).await?;
        ledger.wait_for_more(50, SOON).await?;
        for (path, way) in [(0, Way::ToClient), (1, Way::ToTarget)] {
            paths[path].hold(way);
            for _ in 0..3 {
                ledger.wait_for_more(100, Duration::from_secs(20)).await?;
            }
            paths[path].release();
            stage.all_have_everything().await?;
        }
        stage.settle(ledger).await
    });
}

/// Goal: connections that are reset under load lose nothing and cost no election by themselves where a majority stays. Method: reset one
/// path after another, then all at once, again and again.
#[test]
fn connections_that_are_reset() {
    scenario("resets", WITHIN, async |folder| {
        let mut stage = Stage::set(&folder).await?;
        let paths = through_forwarders(&mut stage).await?;
        let ledger = stage.ledger(3).await?;
        ledger.wait_for_more(50, SOON).await?;
        for round in 0..9 {
            paths[round % 3].reset();
            ledger.wait_for_more(15, SOON).await?;
        }
        for _ in 0..4 {
            paths.iter().for_each(Forwarder::reset);
            ledger.wait_for_more(15, SOON).await?;
        }
        stage.all_have_everything().await?;
        Logs::new().compare(&stage).await?;
        stage.settle(ledger).await
    });
}

/// Goal: readers do not stay with a safekeeper that the leader cannot reach. Method: `pg_receivewal` at the third; its route to the leader is
/// held both ways while others commit. After half a minute its session is ended with a sentence, and a new one is refused with it; once
/// the route is back the same client is served again and has the same bytes.
#[test]
fn readers_leave_a_safekeeper_that_hears_no_leader() {
    scenario("unheard", WITHIN, async |folder| {
        let mut stage = Stage::set(&folder).await?;
        let paths = through_forwarders(&mut stage).await?;
        let ledger = stage.ledger(1).await?;
        ledger.wait_for_more(20, SOON).await?;
        let received = folder.sub("received")?;
        let conninfo = stage.quorum.node(3)?.conninfo(CLUSTER);
        let program = stage.postgres.bin("pg_receivewal");
        let args = ["-D", &received.display().to_string(), "-d", &conninfo, "--no-loop", "-v"].map(str::to_owned);
        let mut reader = program.spawn(&folder, "receivewal", args.clone())?;
        stage
            .quorum
            .wait_until("a reader", SOON, |statuses| {
                statuses[2]["clusters"][0]["readers"].as_array().is_some_and(|readers| !readers.is_empty())
            })
            .await?;
        paths[2].hold(Way::ToTarget);
        paths[2].hold(Way::ToClient);
        let ended = reader.wait(Duration::from_secs(90)).await?;
        let said = reader.log()?;
        ensure!(!ended.success() && said.contains("has heard no leader for 30 s and is behind"), "{ended}: {said}");
        let refused = program.run(&folder, "refused", args.clone(), SOON).await?;
        ensure!(refused.stderr.contains("read from another"), "{}", refused.stderr);
        ledger.wait_for_more(20, SOON).await?;
        paths[2].release();
        stage.all_have_everything().await?;
        let mut reader = program.spawn(&folder, "receivewal-again", args)?;
        stage
            .quorum
            .wait_until("a reader again", SOON, |statuses| {
                statuses[2]["clusters"][0]["readers"].as_array().is_some_and(|readers| !readers.is_empty())
            })
            .await?;
        ensure!(reader.is_running()?, "it was sent away again: {}", reader.log()?);
        reader.kill()?;
        stage.settle(ledger).await
    });
}
