//! When the quorum itself breaks: commits are let through without it and made to wait for it again; an era ends and the next begins.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pg_harness::{Folder, scenario, wait_for};
use scenarios::{CLUSTER, Logs, SOON, Stage, lsn_of};
use serde_json::Value;

const WITHIN: Duration = Duration::from_secs(170);

/// Runs `seawall COMMAND --cluster … --safekeepers … --primary … MORE --json`.
async fn seawall(stage: &Stage, folder: &Folder, command: &str, more: &[&str], code: i32) -> Result<Value> {
    let (addresses, conninfo) = (stage.quorum.addresses(), stage.postgres.conninfo());
    let args = [command, "--safekeepers", &addresses, "--cluster", CLUSTER, "--primary", &conninfo, "--json"];
    let log = format!("{command}{}", more.join("").replace("--", "-"));
    let args = args.into_iter().chain(more.iter().copied());
    let done = stage.quorum.bin().run(folder, &log, args, SOON).await?.expect_code(code)?;
    serde_json::from_str(if code == 0 { &done.stdout } else { "null" }).context("no JSON")
}

/// Goal: whoever would rather lose protection than wait can, and comes back without a gap. Method: two safekeepers die, commits hang;
/// `seawall release` lets them return, and status says UNPROTECTED; `--end` refuses to make them wait while the quorum lacks what was
/// let through; the two return, and it succeeds: protected, the logs are equal, and without a majority commits hang as before.
#[test]
fn commits_are_let_through_and_wait_again() {
    scenario("release", WITHIN, async |folder| {
        let mut stage = Stage::set(&folder).await?;
        let ledger = stage.ledger(2).await?;
        ledger.wait_for_more(20, SOON).await?;
        for id in [2, 3] {
            stage.quorum.node(id)?.kill()?;
        }
        stage.nothing_is_acknowledged(&ledger, 2).await?;
        let released = seawall(&stage, &folder, "release", &[], 0).await?;
        ensure!(released["synchronous_standby_names"] == "seawall", "{released}");
        ledger.wait_for_more(50, SOON).await.context("commits that were let through")?;
        let unprotected = |status: &Value| status["protected"] == false;
        stage.proposer.wait_until("UNPROTECTED", SOON, unprotected).await?;
        seawall(&stage, &folder, "release", &["--end", "--within", "2"], 1).await?;
        ledger.wait_for_more(20, SOON).await.context("commits after a way back that was not taken")?;
        for id in [2, 3] {
            stage.quorum.node(id)?.revive().await?;
        }
        let back = seawall(&stage, &folder, "release", &["--end"], 0).await?;
        ensure!(back["synchronous_standby_names"] == "seawall", "{back}");
        stage.proposer.wait_until("protected again", SOON, |status| status["protected"] == true).await?;
        ledger.wait_for_more(20, SOON).await?;
        for id in [1, 2] {
            stage.quorum.node(id)?.kill()?;
        }
        stage.nothing_is_acknowledged(&ledger, 2).await?;
        for id in [1, 2] {
            stage.quorum.node(id)?.revive().await?;
        }
        ledger.wait_for_more(20, SOON).await?;
        stage.settle(ledger).await?;
        stage.all_have_everything().await?;
        Logs::new().compare(&stage).await?;
        Ok(())
    });
}

/// The names of the clusters a safekeeper has, with where their logs end.
async fn clusters(stage: &mut Stage, id: u64) -> Result<Vec<(String, u64)>> {
    let status = stage.quorum.node(id)?.status().await?;
    let rows = status["clusters"].as_array().cloned().unwrap_or_default();
    let row = |row: &Value| {
        Ok((row["name"].as_str().unwrap_or_default().to_owned(), lsn_of(&row["commit_lsn"]).unwrap_or(0)))
    };
    let mut rows: Vec<(String, u64)> = rows.iter().map(row).collect::<Result<_>>()?;
    rows.sort();
    Ok(rows)
}

async fn new_proposer(stage: &mut Stage) -> Result<()> {
    stage.proposer.kill()?;
    stage.proposer = stage.quorum.proposer(CLUSTER, &stage.postgres.conninfo()).await?;
    stage.proposer.wait_until("a leader of the new era", SOON, |status| status["state"] == "leading").await?;
    Ok(())
}

/// Goal: an era ends for good, stays readable, and the next goes on under the name; also where a majority was lost. Method: `rebase`
/// under load: the proposer of the old era is refused, a new one leads, the old WAL can still be read, also after a restart. Then two of
/// three disks are emptied: without `--abandon` it is refused and nothing changes, with it a third era begins; no row is missing.
#[test]
fn an_era_ends_and_the_next_begins() {
    scenario("rebase", WITHIN, async |folder| {
        let mut stage = Stage::set(&folder).await?;
        let ledger = stage.ledger(2).await?;
        ledger.wait_for_more(50, SOON).await?;
        let era = seawall(&stage, &folder, "rebase", &[], 0).await?;
        ensure!(era["ended"] == "main-era1" && era["cluster"] == CLUSTER, "{era}");
        let fenced = |status: &Value| status["refusal"].as_str().is_some_and(|refusal| refusal.contains("fence"));
        stage.proposer.wait_until("a refused proposer of the old era", SOON, fenced).await?;
        stage.nothing_is_acknowledged(&ledger, 2).await?;
        new_proposer(&mut stage).await?;
        ledger.wait_for_more(50, SOON).await?;
        stage.quorum.node(1)?.kill()?;
        stage.quorum.node(1)?.revive().await?;
        let kept = clusters(&mut stage, 1).await?;
        ensure!(kept.len() == 2 && kept[0].0 == "main" && kept[1].0 == "main-era1" && kept[1].1 > 0, "{kept:?}");
        // It stops behind this byte, not at it.
        let last = kept[1].1 - 1;
        let end = format!("{:X}/{:X}", last >> 32, last & 0xffff_ffff);
        let (dir, conninfo) = (folder.sub("old-wal")?, stage.quorum.node(1)?.conninfo("main-era1"));
        let target = dir.display().to_string();
        let args = ["-D", &target, "-d", &conninfo, "--no-password", "--no-loop", "--endpos", &end];
        let receive = stage.postgres.bin("pg_receivewal");
        receive.run(&folder, "receive-old", args, SOON).await?.expect_code(0).context("the old era's WAL")?;

        for id in [2, 3] {
            stage.quorum.node(id)?.kill()?;
            stage.quorum.node(id)?.wipe()?;
            stage.quorum.node(id)?.revive().await?;
        }
        stage.nothing_is_acknowledged(&ledger, 2).await?;
        let before = clusters(&mut stage, 1).await?;
        seawall(&stage, &folder, "rebase", &["--within", "3"], 1).await?;
        ensure!(clusters(&mut stage, 1).await? == before, "a rebase that was not done changed something");
        let era = seawall(&stage, &folder, "rebase", &["--abandon"], 0).await?;
        ensure!(era["ended"] == "main-era2", "{era}");
        new_proposer(&mut stage).await?;
        ledger.wait_for_more(50, SOON).await?;
        wait_for("the new era on a disk that was emptied", SOON, async || {
            let kept = clusters(&mut stage, 2).await?;
            Ok(kept.iter().any(|(name, commit)| name == CLUSTER && *commit > 0).then_some(()))
        })
        .await?;
        stage.settle(ledger).await
    });
}
