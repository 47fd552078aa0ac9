//! Disks that run full or fail under a running quorum: what stops, what goes on, and what the user is told.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pg_harness::{Bin, Folder, SmallDisk, get, scenario, wait_for};
use scenarios::{SOON, Stage};
use serde_json::Value;

const WITHIN: Duration = Duration::from_secs(175);

/// WAL that waits for no quorum.
async fn write_unacknowledged(stage: &Stage, mib: usize) -> Result<()> {
    let text =
        "SELECT pg_logical_emit_message(false, 'scenario', repeat(md5($1::text), 32768)) FROM generate_series(1, $2)";
    stage.client().await?.execute(text, &[&"row", &i32::try_from(mib)?]).await.context("write WAL")?;
    Ok(())
}

async fn cluster(stage: &mut Stage, id: u64) -> Result<Value> {
    let status = stage.quorum.node(id)?.status().await?;
    Ok(status["clusters"][0].clone())
}

/// Goal: a full disk refuses WAL and nothing else, and goes on by itself. Method: two of three safekeepers on small disks. The first is
/// filled up: it says so, commits go on. Then the second too: commits wait, nobody stops. Each gets room again, and without a restart
/// commits return and all have everything.
#[test]
fn a_full_disk_goes_on_by_itself() {
    scenario("full_disk", WITHIN, async |folder| {
        let mut disks = Vec::new();
        for id in [1, 2] {
            let Some(disk) = SmallDisk::over(&folder, &folder.sub(&format!("sk{id}"))?, 320).await? else {
                return Ok(());
            };
            disks.push(disk);
        }
        let seawall = Bin::seawall()?;
        let (first, second) = (disks[0].bin(&seawall), disks[1].bin(&seawall));
        let quorum = |quorum: pg_harness::QuorumBuilder| quorum.bin_of(1, first).bin_of(2, second).arg("--min-free=0");
        let mut stage = Stage::set_with(&folder, quorum, |postgres| postgres).await?;
        let ledger = stage.ledger(2).await?;
        ledger.wait_for_more(20, SOON).await?;

        disks[0].fill()?;
        stage.write_wal(64).await?;
        let said = "no space for WAL, appends are refused until there is";
        stage.quorum.node(1)?.wait_for_log(said, SOON).await?;
        ledger.wait_for_more(50, SOON).await?;

        disks[1].fill()?;
        write_unacknowledged(&stage, 64).await?;
        stage.quorum.node(2)?.wait_for_log(said, SOON).await?;
        stage.nothing_is_acknowledged(&ledger, 2).await?;
        for id in [1, 2] {
            let cluster = cluster(&mut stage, id).await?;
            ensure!(
                cluster["stopped"].is_null() && cluster["state"] == "member",
                "a full disk is no failure: {cluster}"
            );
        }

        disks[1].empty()?;
        ledger.wait_for_more(20, SOON).await?;
        disks[0].empty()?;
        stage.all_have_everything().await?;
        stage.settle(ledger).await
    });
}

/// Three safekeepers that fail where a file of their own says so.
async fn faulty(folder: &Folder) -> Result<(Stage, Vec<PathBuf>)> {
    let variable = "SEAWALL_DISK_FAULTS";
    let seawall = Bin::seawall()?;
    ensure!(
        seawall.contains(variable)?,
        "{} takes no faults: it was not built together with the tests; run `cargo build --workspace --all-targets`",
        seawall.path().display()
    );
    let files: Vec<PathBuf> = (1..=3).map(|id| folder.path().join(format!("faults-{id}"))).collect();
    let bins: Vec<Bin> = files.iter().map(|file| seawall.clone().env(variable, &file.display().to_string())).collect();
    let quorum = |quorum: pg_harness::QuorumBuilder| {
        bins.into_iter().zip(1..).fold(quorum, |quorum, (bin, id)| quorum.bin_of(id, bin))
    };
    Ok((Stage::set_with(folder, quorum, |postgres| postgres).await?, files))
}

/// Fault lines for an operation on segments. One that is still open goes by the name it was made under.
fn on_segments(op: &str) -> String {
    ["00000001000000", "prepare.new", "inline.new"].map(|name| format!("{op} {name} EIO\n")).concat()
}

/// Waits until a safekeeper has stopped for good, and checks that everybody who looks is told why.
async fn stops(stage: &mut Stage, id: u64, why: &str) -> Result<()> {
    let node = stage.quorum.node(id)?;
    wait_for(&format!("a stopped safekeeper {id}"), SOON, async || {
        let status = node.status().await?;
        let stopped = status["clusters"][0]["stopped"].as_str().unwrap_or_default().to_owned();
        Ok(stopped.contains(why).then_some(()))
    })
    .await?;
    let (code, body) = get(node.http(), "/v1/ready").await?;
    ensure!(code == 503 && body.contains("stopped") && body.contains(why), "/v1/ready: {code} {body}");
    let (_, metrics) = get(node.http(), "/metrics").await?;
    let tells = |name: &str| metrics.lines().any(|line| line.starts_with(name) && line.ends_with(" 1"));
    ensure!(
        tells("safekeeper_stopped") && tells("safekeeper_disk_failures_total"),
        "the metrics do not tell: {metrics}"
    );
    node.wait_for_log("stopped on this safekeeper until a restart", SOON).await?;
    ensure!(node.is_running()?, "the process ended");
    Ok(())
}

/// Goal: a failed sync is never tried again, costs one safekeeper, and no commit. Method: fdatasync of the WAL fails with EIO on one of
/// three: it stops the cluster there and says why, commits go on. The disk is mended: it stays stopped, because the pages may be gone.
/// A restart brings it back with all it had promised.
#[test]
fn a_failed_sync_stops_one_safekeeper_until_a_restart() {
    scenario("failed_sync", WITHIN, async |folder| {
        let (mut stage, faults) = faulty(&folder).await?;
        let ledger = stage.ledger(2).await?;
        ledger.wait_for_more(20, SOON).await?;
        fs::write(&faults[0], on_segments("sync"))?;
        stops(&mut stage, 1, "syncing").await?;
        ledger.wait_for_more(50, SOON).await?;
        fs::remove_file(&faults[0])?;
        let (before, goal) = (cluster(&mut stage, 1).await?, stage.flushed().await?);
        ledger.wait_for_more(50, SOON).await?;
        let after = cluster(&mut stage, 1).await?;
        ensure!(before["flush_lsn"] == after["flush_lsn"], "it went on after a failed sync: {before} {after}");
        ensure!(scenarios::lsn_of(&after["flush_lsn"])? < goal, "it acknowledged what it could not sync: {after}");
        stage.quorum.node(1)?.kill()?;
        stage.quorum.node(1)?.revive().await?;
        stage.all_have_everything().await?;
        ensure!(cluster(&mut stage, 1).await?["state"] == "member", "a failed sync is no damage");
        stage.settle(ledger).await
    });
}

/// Goal: where the disks of a majority fail nothing is acknowledged, and nothing acknowledged is lost. Method: on one safekeeper writes of
/// WAL fail, on another the directory sync behind a new control file; commits wait. Both are restarted on mended disks.
#[test]
fn failing_disks_of_a_majority_lose_nothing() {
    scenario("failing_disks", WITHIN, async |folder| {
        let (mut stage, faults) = faulty(&folder).await?;
        let ledger = stage.ledger(3).await?;
        ledger.wait_for_more(50, SOON).await?;
        fs::write(&faults[1], on_segments("write"))?;
        stops(&mut stage, 2, "writing").await?;
        ledger.wait_for_more(20, SOON).await?;
        // The control file follows within a second while commits go on.
        fs::write(&faults[2], "sync-directory /sk3/ EIO\n")?;
        stops(&mut stage, 3, "syncing").await?;
        stage.nothing_is_acknowledged(&ledger, 3).await?;
        for id in [2, 3] {
            fs::remove_file(&faults[id - 1])?;
            stage.quorum.node(id as u64)?.kill()?;
            stage.quorum.node(id as u64)?.revive().await?;
        }
        ledger.wait_for_more(50, SOON).await?;
        stage.all_have_everything().await?;
        stage.settle(ledger).await
    });
}

/// Goal: a disk that cannot be read is told at start-up, and the others go on. Method: kill one safekeeper, let reads of its WAL fail, start
/// it: it is up and says what is broken; mended and restarted it is a member again.
#[test]
fn a_disk_that_cannot_be_read_is_told_at_start_up() {
    scenario("unreadable", WITHIN, async |folder| {
        let (mut stage, faults) = faulty(&folder).await?;
        let ledger = stage.ledger(2).await?;
        ledger.wait_for_more(20, SOON).await?;
        stage.quorum.node(3)?.kill()?;
        fs::write(&faults[2], "read 00000001000000 EIO\n")?;
        let node = stage.quorum.node(3)?;
        node.revive().await?;
        wait_for("an answer that it cannot be opened", SOON, async || {
            let (code, body) = get(node.http(), "/v1/ready").await?;
            ensure!(code == 503 && body.contains("reading"), "/v1/ready: {code} {body}");
            Ok(Some(()))
        })
        .await?;
        ledger.wait_for_more(50, SOON).await?;
        fs::remove_file(&faults[2])?;
        stage.quorum.node(3)?.kill()?;
        stage.quorum.node(3)?.revive().await?;
        stage.all_have_everything().await?;
        stage.settle(ledger).await
    });
}
