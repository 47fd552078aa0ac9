//! WAL that is archived leaves the safekeepers' disks, and is read back by whoever needs it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pg_harness::{scenario, wait_for};
use scenarios::{Replica, SEGMENT, SOON, Stage, archived, lsn_of};

/// A file of this name somewhere in a folder.
fn find(dir: &Path, name: &str) -> Result<Option<PathBuf>> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            if let Some(found) = find(&path, name)? {
                return Ok(Some(found));
            }
        } else if path.file_name().is_some_and(|file| file == name) {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

/// The first byte each running safekeeper still has, by id.
async fn oldest(stage: &Stage) -> Result<BTreeMap<u64, u64>> {
    let mut oldest = BTreeMap::new();
    for node in stage.quorum.nodes() {
        if let Ok(status) = node.status().await {
            oldest.insert(node.id(), lsn_of(&status["clusters"][0]["oldest_lsn"])?);
        }
    }
    Ok(oldest)
}

/// Goal: WAL leaves the safekeepers' disks once it is archived, and nobody notices: a reader far behind, a safekeeper that was away and a
/// crashed primary get it from the archive. Method: 2 MiB may stay; one safekeeper is killed, 72 MiB are written; the others' disks
/// shrink, the uploader's and the other one's; `pg_receivewal` goes on 12 MiB below the end, compared with the archive byte by
/// byte; the killed one learns everything; the primary is killed and compared with WAL from its last checkpoint on.
#[test]
fn old_wal_is_read_back_from_the_archive() {
    scenario("archive_old_wal", Duration::from_secs(180), async |folder| {
        let dir = folder.sub("archive")?;
        let archive = format!("--archive={}", dir.display());
        let quorum = |quorum: pg_harness::QuorumBuilder| quorum.arg(&archive).arg("--min-wal=2MiB");
        let mut stage = Stage::set_with(&folder, quorum, |postgres| postgres.segment_size_mb(1)).await?;
        stage.quorum.node(3)?.kill()?;
        stage.write_wal(60).await?;
        // The last full segment has not gone yet: from there on it is received.
        let first = stage.flushed().await? / SEGMENT - 1;
        let target = folder.sub("received")?;
        let name = |number: u64| format!("{:08X}{:08X}{:08X}", 1, number / 4096, number % 4096);
        let local = find(stage.quorum.nodes()[0].data_dir(), &name(first))?.context("the last full segment")?;
        fs::copy(local, target.join(name(first)))?;
        stage.write_wal(12).await?;
        let end = stage.flushed().await?;
        wait_for("disks that shrink", SOON, async || {
            let oldest = oldest(&stage).await?;
            ensure!(oldest.len() == 2 && oldest.values().all(|at| at + 4 * SEGMENT > end), "{oldest:X?}, end {end:X}");
            let status = stage.quorum.nodes()[1].status().await?;
            let cluster = &status["clusters"][0];
            ensure!(cluster["kept_because"] == "within --min-wal", "{cluster}");
            ensure!(cluster["kept_bytes"].as_u64() < Some(4 * SEGMENT), "{cluster}");
            Ok(Some(()))
        })
        .await?;

        let conninfo = stage.quorum.node(2)?.conninfo(scenarios::CLUSTER);
        let args = ["-D".to_owned(), target.display().to_string(), "-d".to_owned(), conninfo];
        let mut receivewal = stage.postgres.bin("pg_receivewal").spawn(&folder, "receivewal", args)?;
        wait_for("everything received", SOON, async || {
            ensure!(receivewal.is_running()?, "{}", receivewal.log()?);
            Ok(target.join(name(end / SEGMENT - 1)).exists().then_some(()))
        })
        .await?;
        receivewal.kill()?;
        archived(&stage, end, SOON).await?;
        let wal = Replica::in_directory(&dir)?.wal(SEGMENT).await?.pop_first().context("no generation")?.1;
        for number in first..end / SEGMENT {
            let at = (number * SEGMENT - wal.begin) as usize;
            ensure!(fs::read(target.join(name(number)))? == wal.bytes[at..at + SEGMENT as usize], "{}", name(number));
        }

        stage.quorum.node(3)?.revive().await?;
        stage.all_have_everything().await?;
        // What is compared after a crash begins at the last checkpoint, below what the disks still have.
        stage.client().await?.batch_execute("CHECKPOINT").await?;
        stage.write_wal(8).await?;
        stage.postgres.kill().await?;
        stage.postgres.start().await?;
        let ledger = stage.ledger(2).await?;
        ledger.wait_for_more(50, SOON).await?;
        stage.settle(ledger).await?;
        stage.all_have_everything().await?;
        Ok(())
    });
}
