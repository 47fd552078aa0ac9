//! Safekeepers come and go while the database works.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pg_harness::{Folder, scenario, wait_for};
use scenarios::{CLUSTER, Logs, SOON, Stage};
use serde_json::Value;

const WITHIN: Duration = Duration::from_secs(175);
/// A change may wait for a learner.
const CHANGED_WITHIN: Duration = Duration::from_secs(90);

/// The arguments of `seawall members`.
fn arguments(stage: &mut Stage, what: &[&str], new: Option<u64>) -> Result<Vec<String>> {
    let addresses = stage.quorum.addresses();
    let mut args: Vec<String> = ["members"].iter().chain(what).map(|arg| (*arg).to_owned()).collect();
    if let Some(new) = new {
        args.extend(["--new".to_owned(), stage.quorum.node(new)?.pg().to_string()]);
    }
    args.extend(["--cluster", CLUSTER, "--safekeepers", &addresses, "--json"].map(str::to_owned));
    Ok(args)
}

/// Runs `seawall members` and gives its JSON.
async fn members(stage: &mut Stage, folder: &Folder, what: &[&str], new: Option<u64>) -> Result<Value> {
    let args = arguments(stage, what, new)?;
    let log = format!("members-{}", what.join("-").replace("--", ""));
    let finished = stage.quorum.bin().run(folder, &log, args, CHANGED_WITHIN).await?.expect_code(0)?;
    serde_json::from_str(&finished.stdout).with_context(|| format!("{:?} is no JSON", finished.stdout))
}

async fn replace(stage: &mut Stage, folder: &Folder, old: u64, new: u64) -> Result<Value> {
    members(stage, folder, &["replace", "--node", &old.to_string()], Some(new)).await
}

/// The node ids of the record, in order.
fn ids(answer: &Value) -> Vec<u64> {
    let members = answer["members"].as_array().cloned().unwrap_or_default();
    let mut ids: Vec<u64> = members
        .iter()
        .filter(|member| member["state"] != "learner")
        .filter_map(|member| member["node_id"].as_str()?.parse().ok())
        .collect();
    ids.sort_unstable();
    ids
}

/// Goal: all three safekeepers can be replaced under load, and those that went harm nothing when they come back. Method: replace 1, 2, 3
/// by 4, 5, 6 one after the other while a ledger runs; kill the old ones; start the proposer anew with the new addresses; start the old
/// ones again: they have forgotten the cluster and take no part. No acknowledged row is missing, the new logs are equal.
#[test]
fn all_three_are_replaced_under_load() {
    scenario("replaced", WITHIN, async |folder| {
        let mut stage = Stage::set(&folder).await?;
        let ledger = stage.ledger(3).await?;
        ledger.wait_for_more(100, SOON).await?;
        for (old, new) in [(1, 4), (2, 5), (3, 6)] {
            stage.quorum.add(new).await?;
            let answer = replace(&mut stage, &folder, old, new).await?;
            ensure!(answer["changed"] == true && ids(&answer).contains(&new), "{answer}");
            ledger.wait_for_more(100, SOON).await?;
        }
        let mut gone = Vec::new();
        for id in [1, 2, 3] {
            let mut node = stage.quorum.take(id)?;
            node.kill()?;
            gone.push(node);
        }
        let answer = members(&mut stage, &folder, &["list"], None).await?;
        ensure!(ids(&answer) == [4, 5, 6], "{answer}");
        // The proposer still knows the old addresses only; a new one finds the quorum by the new ones.
        ledger.wait_for_more(100, SOON).await?;
        let (old, postgres) = (&mut stage.proposer, stage.postgres.conninfo());
        old.terminate(SOON).await?;
        stage.proposer = stage.quorum.proposer(CLUSTER, &postgres).await?;
        ledger.wait_for_more(100, SOON).await?;
        for node in &mut gone {
            node.revive().await?;
            let clusters = node.status().await?["clusters"].clone();
            ensure!(clusters.as_array().is_some_and(Vec::is_empty), "a removed member still has {clusters}");
        }
        ledger.wait_for_more(50, SOON).await?;
        stage.settle(ledger).await?;
        stage.all_have_everything().await?;
        let mut logs = Logs::new();
        logs.compare(&stage).await?;
        Ok(())
    });
}

/// Goal: a change may break off anywhere. Method: replace one member again and again; each time kill the command after another while,
/// every other time the proposer as well; run the command again, which must finish what was begun. No acknowledged row is missing.
#[test]
fn the_driver_may_die_at_each_step() {
    scenario("members-killed", WITHIN, async |folder| {
        let mut stage = Stage::set(&folder).await?;
        stage.quorum.add(4).await?;
        let ledger = stage.ledger(2).await?;
        let (mut inside, mut outside) = (3, 4);
        for (round, millis) in [30, 150, 400, 800, 1300, 2000].into_iter().enumerate() {
            ledger.wait_for_more(50, SOON).await?;
            let args = arguments(&mut stage, &["replace", "--node", &inside.to_string()], Some(outside))?;
            let mut command = stage.quorum.bin().spawn(&folder, &format!("killed-{round}"), args)?;
            // Where it is by then is left to chance; what must follow is not.
            tokio::time::sleep(Duration::from_millis(millis)).await;
            command.kill()?;
            if round % 2 == 1 {
                stage.proposer.kill()?;
                stage.proposer.revive().await?;
            }
            let answer = replace(&mut stage, &folder, inside, outside).await?;
            ensure!(ids(&answer).contains(&outside) && !ids(&answer).contains(&inside), "{answer}");
            (inside, outside) = (outside, inside);
        }
        ledger.wait_for_more(50, SOON).await?;
        stage.settle(ledger).await?;
        drop(stage.quorum.take(outside)?);
        stage.all_have_everything().await?;
        let mut logs = Logs::new();
        logs.compare(&stage).await?;
        Ok(())
    });
}

/// Goal: a new member that dies half-way costs nothing. Method: give it much to learn, kill it while it learns, and see commits go on and
/// the record unchanged; start it again: the command finishes, and with one old member down the new one is needed and enough.
#[test]
fn a_new_member_may_die_half_way() {
    scenario("learner-killed", WITHIN, async |folder| {
        let mut stage = Stage::set(&folder).await?;
        let ledger = stage.ledger(1).await?;
        stage.write_wal(300).await?;
        stage.quorum.add(4).await?;
        let args = arguments(&mut stage, &["replace", "--node", "3"], Some(4))?;
        let mut command = stage.quorum.bin().spawn(&folder, "half-way", args)?;
        wait_for("a learner that has begun", SOON, async || {
            let status = stage.quorum.node(4)?.status().await?;
            Ok((status["clusters"][0]["catching_up"] == true).then_some(()))
        })
        .await?;
        stage.quorum.node(4)?.kill()?;
        ledger.wait_for_more(100, SOON).await?;
        let answer = members(&mut stage, &folder, &["list"], None).await?;
        ensure!(ids(&answer) == [1, 2, 3], "{answer}");
        stage.quorum.node(4)?.revive().await?;
        ensure!(command.wait(CHANGED_WITHIN).await?.success(), "the command gave up: {}", command.log()?);
        drop(stage.quorum.take(3)?);
        stage.quorum.node(2)?.kill()?;
        ledger.wait_for_more(100, SOON).await?;
        stage.quorum.node(2)?.revive().await?;
        stage.settle(ledger).await?;
        stage.all_have_everything().await?;
        let mut logs = Logs::new();
        logs.compare(&stage).await?;
        Ok(())
    });
}

/// Goal: a member that slept through its removal elects nobody. Method: kill 2 and 3; replace first 3, then 2, where only one of the old
/// ones can be told; wake both: the record they know makes them a majority, but a proposer that asks them finds the newer one, and
/// alone they have no third. A removed disk is brought back in its own place with `replace`.
#[test]
fn a_member_that_slept_through_its_removal_harms_nothing() {
    scenario("slept", WITHIN, async |folder| {
        let mut stage = Stage::set(&folder).await?;
        let ledger = stage.ledger(2).await?;
        ledger.wait_for_more(50, SOON).await?;
        stage.quorum.node(3)?.kill()?;
        stage.quorum.add(4).await?;
        replace(&mut stage, &folder, 3, 4).await?;
        let slept = stage.quorum.node(3)?;
        slept.revive().await?;
        let row = slept.status().await?["clusters"][0].clone();
        ensure!(row["state"] == "member", "it does not know yet: {row}");
        ledger.wait_for_more(50, SOON).await?;
        // Whoever looks brings it the record.
        stage.proposer.kill()?;
        stage.proposer.revive().await?;
        wait_for("a removed member that knows it", SOON, async || {
            let row = stage.quorum.node(3)?.status().await?["clusters"][0].clone();
            Ok((row["state"] == "learner").then_some(()))
        })
        .await?;
        ledger.wait_for_more(50, SOON).await?;

        // An emptied disk of a node that is a member takes its place under the same number.
        stage.quorum.node(4)?.kill()?;
        stage.quorum.node(4)?.wipe()?;
        stage.quorum.node(4)?.revive().await?;
        let answer = replace(&mut stage, &folder, 4, 4).await?;
        ensure!(ids(&answer) == [1, 2, 4], "{answer}");
        drop(stage.quorum.take(3)?);
        stage.quorum.node(1)?.kill()?;
        ledger.wait_for_more(50, SOON).await?;
        stage.quorum.node(1)?.revive().await?;
        stage.settle(ledger).await?;
        stage.all_have_everything().await?;
        let mut logs = Logs::new();
        logs.compare(&stage).await?;
        Ok(())
    });
}

/// Goal: damage that leaves nobody to elect does not end a cluster. Method: destroy the newest records of 2 and 3: alone, 1 is no
/// majority, and commits wait; `repair` says so and changes nothing; with `--accept` one of the damaged counts as it is: with 1 it elects
/// a leader from the log of 1, the other learns, and no acknowledged row is missing.
#[test]
fn what_is_left_may_be_accepted() {
    scenario("accepted", WITHIN, async |folder| {
        let mut stage = Stage::set(&folder).await?;
        let ledger = stage.ledger(2).await?;
        ledger.wait_for_more(200, SOON).await?;
        stage.settle(ledger).await?;
        let end = stage.all_have_everything().await?;
        stage.proposer.kill()?;
        for id in [2, 3] {
            let before = stage.quorum.node(id)?.status().await?;
            stage.quorum.node(id)?.terminate(SOON).await?;
            let begin = (end - 3000).max(end / (16 << 20) * (16 << 20) + 8192);
            Logs::damage(stage.quorum.node(id)?, &before, begin, &vec![0; usize::try_from(end - begin)?])?;
            stage.quorum.node(id)?.revive().await?;
        }
        stage.proposer.revive().await?;
        stage.proposer.wait_until("a proposer that waits", SOON, |status| status["state"] == "waiting").await?;
        let answer = members(&mut stage, &folder, &["repair"], None).await?;
        ensure!(answer["changed"] == false && answer["advice"].to_string().contains("--accept"), "{answer}");
        let answer = members(&mut stage, &folder, &["repair", "--accept"], None).await?;
        ensure!(answer["changed"] == true, "{answer}");
        stage.proposer.wait_until("a leader", SOON, |status| status["state"] == "leading").await?;
        stage.client().await?.batch_execute("INSERT INTO ledger VALUES (-1, 1)").await?;
        wait_for("members that are whole", SOON, async || {
            let answer = members(&mut stage, &folder, &["list"], None).await?;
            let rows = answer["members"].as_array().cloned().unwrap_or_default();
            Ok(rows.iter().all(|row| row["state"] == "member").then_some(()))
        })
        .await?;
        stage.all_have_everything().await?;
        let mut logs = Logs::new();
        logs.compare(&stage).await?;
        Ok(())
    });
}
