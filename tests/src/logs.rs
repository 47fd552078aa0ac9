//! [`Logs`]: the bytes the safekeepers keep, held against each other, against the primary, and read by `pg_waldump`.

use std::fs::File;
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pg_harness::{Bin, Folder, Safekeeper};
use serde_json::Value;

use crate::stage::Stage;

const CHUNK_BYTES: u64 = 1 << 20;
const WALDUMP_WITHIN: Duration = Duration::from_secs(120);

/// An LSN as text, `X/Y`, as a byte position.
pub fn lsn(text: &str) -> Result<u64> {
    let (high, low) = text.split_once('/').with_context(|| format!("{text:?} is no LSN"))?;
    let half = |digits| u32::from_str_radix(digits, 16).with_context(|| format!("{text:?} is no LSN"));
    Ok(u64::from(half(high)?) << 32 | u64::from(half(low)?))
}

/// An LSN in a status.
pub fn lsn_of(value: &Value) -> Result<u64> {
    lsn(value.as_str().with_context(|| format!("{value} is no LSN"))?)
}

/// The committed bytes of a stage's safekeepers. What was compared once is not read again: below a commit LSN nothing may change.
#[derive(Debug, Default)]
pub struct Logs {
    equal_to: u64,
}

/// What one safekeeper keeps.
#[derive(Debug)]
struct Log {
    id: u64,
    dir: PathBuf,
    oldest: u64,
    commit: u64,
    segment: u64,
}

impl Logs {
    /// Nothing compared yet.
    pub fn new() -> Logs {
        Logs::default()
    }

    /// Fails unless all safekeepers, which must run, hold the same bytes up to the lowest of their commit LSNs, the primary's too as
    /// far as it still has them. Returns that LSN.
    pub async fn compare(&mut self, stage: &Stage) -> Result<u64> {
        let logs = logs(stage).await?;
        let commit = logs.iter().map(|log| log.commit).min().unwrap_or_default();
        let oldest = logs.iter().map(|log| log.oldest).max().unwrap_or_default();
        let from = self.equal_to.max(oldest);
        ensure!(commit >= self.equal_to, "the commit LSN went back from {:X} to {commit:X}", self.equal_to);
        let primary = stage.postgres.data_dir().join("pg_wal");
        tokio::task::spawn_blocking(move || compare(&logs, &primary, from, commit)).await??;
        self.equal_to = commit;
        Ok(commit)
    }

    /// Overwrites bytes of the WAL of a safekeeper that is down, from `at` on, within one segment.
    pub fn damage(node: &mut Safekeeper, status: &Value, at: u64, bytes: &[u8]) -> Result<()> {
        ensure!(!node.is_running()?, "safekeeper {} still runs", node.id());
        let log = log_in(node, status)?;
        let file = std::fs::OpenOptions::new().write(true).open(log.path(&log.dir, at))?;
        file.write_all_at(bytes, at % log.segment).context("damage WAL")
    }

    /// Fails unless `pg_waldump` reads every safekeeper's log, from its first byte to its commit LSN, without complaint.
    pub async fn dump(&self, stage: &Stage, folder: &Folder) -> Result<()> {
        let program = stage.postgres.bin("pg_waldump");
        for log in logs(stage).await? {
            dump(&program, folder, &log).await?;
        }
        Ok(())
    }
}

async fn dump(program: &Bin, folder: &Folder, log: &Log) -> Result<()> {
    let text = |position: u64| format!("{:X}/{:X}", position >> 32, position & 0xffff_ffff);
    let (dir, start, end) = (log.dir.display().to_string(), text(log.oldest), text(log.commit));
    let args = ["-q", "-t", "1", "-p", &dir, "-s", &start, "-e", &end];
    let dumped = program.run(folder, &format!("waldump-{}", log.id), args, WALDUMP_WITHIN).await?;
    let name = format!("pg_waldump of safekeeper {} from {start} to {end}", log.id);
    let dumped = dumped.expect_code(0).context(name.clone())?;
    ensure!(!dumped.stderr.contains("error"), "{name}: {}", dumped.stderr.trim());
    Ok(())
}

async fn logs(stage: &Stage) -> Result<Vec<Log>> {
    let mut logs = Vec::new();
    for node in stage.quorum.nodes() {
        logs.push(log_of(node).await.with_context(|| format!("log of safekeeper {}", node.id()))?);
    }
    Ok(logs)
}

async fn log_of(node: &Safekeeper) -> Result<Log> {
    log_in(node, &node.status().await?)
}

fn log_in(node: &Safekeeper, status: &Value) -> Result<Log> {
    let cluster = &status["clusters"][0];
    ensure!(cluster["stopped"].is_null(), "the cluster stopped: {}", cluster["stopped"]);
    let id = |key: &str| cluster[key].as_str().with_context(|| format!("no {key} in {status}"));
    let dir = node.data_dir().join(id("tenant_id")?).join(id("timeline_id")?);
    let segment = cluster["wal_segment_size"].as_u64().filter(|size| *size > 0).context("no segment size")?;
    let (oldest, commit) = (lsn_of(&cluster["oldest_lsn"])?, lsn_of(&cluster["commit_lsn"])?);
    Ok(Log { id: node.id(), dir, oldest, commit, segment })
}

fn compare(logs: &[Log], primary: &Path, from: u64, to: u64) -> Result<()> {
    let Some((first, others)) = logs.split_first() else { return Ok(()) };
    let mut at = from;
    while at < to {
        let end = (at / first.segment + 1) * first.segment;
        let end = end.min(to).min(at + CHUNK_BYTES);
        let bytes = first.read(&first.dir, at, end)?.with_context(|| format!("no WAL at {at:X}"))?;
        for other in others {
            let same = other.read(&other.dir, at, end)?.with_context(|| format!("no WAL at {at:X}"))?;
            ensure!(same == bytes, "safekeepers {} and {} differ between {at:X} and {end:X}", first.id, other.id);
        }
        // The primary may have removed the segment, also while it is read.
        if let Some(same) = first.read(primary, at, end)? {
            ensure!(same == bytes, "the safekeepers and the primary differ between {at:X} and {end:X}");
        }
        at = end;
    }
    Ok(())
}

impl Log {
    /// The segment of a position, on TLI 1.
    fn path(&self, dir: &Path, at: u64) -> PathBuf {
        let (number, per_log) = (at / self.segment, (1 << 32) / self.segment);
        dir.join(format!("{:08X}{:08X}{:08X}", 1, number / per_log, number % per_log))
    }

    /// Bytes of one segment in a folder; `None` if it is not there.
    fn read(&self, dir: &Path, from: u64, to: u64) -> Result<Option<Vec<u8>>> {
        let path = self.path(dir, from);
        let mut file = match File::open(&path) {
            Ok(file) => file,
            Err(err) if err.kind() == ErrorKind::NotFound => return Ok(None),
            Err(err) => return Err(err).with_context(|| format!("open {}", path.display())),
        };
        let mut bytes = vec![0; usize::try_from(to - from)?];
        file.seek(SeekFrom::Start(from % self.segment))?;
        file.read_exact(&mut bytes).with_context(|| format!("read {} at {from:X}", path.display()))?;
        Ok(Some(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_read_and_segments_found() {
        assert_eq!(lsn("2/A0000010").unwrap(), 0x2_A000_0010);
        assert!(lsn("2").is_err() && lsn("x/1").is_err() && lsn_of(&Value::Null).is_err());
        let dir = Folder::new("logs").unwrap();
        let log = Log { id: 1, dir: dir.path().to_path_buf(), oldest: 0, commit: 0, segment: 1 << 20 };
        let mut segment = vec![0; 1 << 20];
        segment[5] = 7;
        std::fs::write(dir.path().join("000000010000000200000A01"), segment).unwrap();
        let at = 0x2_A010_0005;
        assert_eq!(log.read(dir.path(), at, at + 2).unwrap(), Some(vec![7, 0]));
        assert_eq!(log.read(dir.path(), 5, 6).unwrap(), None);
    }
}
