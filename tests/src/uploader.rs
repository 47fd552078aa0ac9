//! [`UploaderRounds`]: whoever archives is killed again and again, and the archive has neither a gap nor two versions of a byte.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use pg_harness::{Folder, Ledger, PostgresBuilder, wait_for};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::Value;

use crate::logs::lsn_of;
use crate::replica::{ArchivedWal, Replica};
use crate::stage::{SOON, Stage};

/// Bytes of a segment of the stage: small, so that a round crosses some.
pub const SEGMENT: u64 = 1 << 20;
const CLIENTS: i32 = 4;
/// For somebody else to have archived what was committed when the uploader died.
const TAKEN_OVER_WITHIN: Duration = Duration::from_secs(30);

/// The archive as each running safekeeper sees it, by id.
pub async fn archive_views(stage: &Stage) -> BTreeMap<u64, Value> {
    let mut views = BTreeMap::new();
    for node in stage.quorum.nodes() {
        if let Ok(status) = node.status().await {
            views.insert(node.id(), status["clusters"][0]["archive"].clone());
        }
    }
    views
}

/// Waits until some safekeeper has archived everything up to a position; returns its id.
pub async fn archived(stage: &Stage, goal: u64, within: Duration) -> Result<u64> {
    wait_for(&format!("archive up to {goal:X}"), within, async || {
        let views = archive_views(stage).await;
        let there = |view: &Value| lsn_of(&view["archived_lsn"]).is_ok_and(|archived| archived >= goal);
        match views.iter().find(|(_, view)| there(view)) {
            Some((id, _)) => Ok(Some(*id)),
            None => anyhow::bail!("{views:?}"),
        }
    })
    .await
}

/// Fails unless the one generation of an archive is contiguous, equal to what safekeeper 1 still keeps in segments of [`SEGMENT`] bytes,
/// and reaches `end`.
pub async fn verify_archive(replica: &Replica, stage: &Stage, end: u64) -> Result<ArchivedWal> {
    let mut generations = replica.wal(SEGMENT).await?;
    ensure!(generations.len() == 1, "{:?}", generations.keys());
    let (_, wal) = generations.pop_first().context("no generation")?;
    ensure!(wal.end() >= end, "the archive ends at {:X}, commits at {end:X}", wal.end());
    let dir = log_dir(stage.quorum.nodes()[0].data_dir())?;
    let mut compared = 0;
    for number in wal.begin / SEGMENT..wal.end().div_ceil(SEGMENT) {
        let begin = (number * SEGMENT).max(wal.begin);
        let until = ((number + 1) * SEGMENT).min(wal.end());
        let name = format!("{:08X}{:08X}{:08X}", 1, number / 4096, number % 4096);
        let segment = match fs::read(dir.join(&name)) {
            // Local WAL goes once it is archived and nobody needs it.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && compared == 0 => continue,
            read => read.with_context(|| format!("segment {name} of safekeeper 1"))?,
        };
        compared += 1;
        let local = &segment[(begin - number * SEGMENT) as usize..(until - number * SEGMENT) as usize];
        let there = &wal.bytes[(begin - wal.begin) as usize..(until - wal.begin) as usize];
        ensure!(local == there, "the archive differs from the quorum in {name}");
    }
    ensure!(compared > 0, "safekeeper 1 keeps nothing to compare with");
    Ok(wal)
}

/// `<data dir>/<tenant>/<timeline>` of the only cluster.
fn log_dir(data_dir: &Path) -> Result<PathBuf> {
    let mut dir = data_dir.to_owned();
    for _ in 0..2 {
        let is_id = |path: &Path| path.is_dir() && path.file_name().is_some_and(|name| name.len() == 32);
        let below = fs::read_dir(&dir)?.flatten().map(|entry| entry.path()).find(|path| is_id(path));
        dir = below.with_context(|| format!("no log below {}", dir.display()))?;
    }
    Ok(dir)
}

/// A stage that archives into a directory, under load, and the moments of its crashes.
#[derive(Debug)]
pub struct UploaderRounds {
    // Stopped before the stage is taken down.
    ledger: Ledger,
    stage: Stage,
    archive: PathBuf,
    chance: StdRng,
    uploader: u64,
    round: u32,
    kills: u32,
    slowest: Duration,
}

/// What one round did; its text is one line.
#[derive(Debug)]
pub struct UploaderRound {
    number: u32,
    killed: u64,
    twice: bool,
    next: u64,
    taken_over: Duration,
}

/// What all rounds came to; its text is one line.
#[derive(Debug)]
pub struct UploaderOutcome {
    /// How many rounds.
    pub rounds: u32,
    /// How often an uploader was killed.
    pub kills: u32,
    /// The longest time until somebody else had archived what was committed at the death of an uploader.
    pub slowest: Duration,
    /// Bytes of WAL that were compared with a safekeeper's files.
    pub compared: u64,
    /// In so many objects.
    pub objects: usize,
}

impl UploaderRounds {
    /// Sets the stage and starts the clients.
    pub async fn begin(folder: &Folder, seed: u64) -> Result<UploaderRounds> {
        let archive = folder.sub("archive")?;
        let flag = format!("--archive={}", archive.display());
        let segments = |postgres: PostgresBuilder| postgres.segment_size_mb((SEGMENT >> 20) as u32);
        let stage = Stage::set_with(folder, |quorum| quorum.arg(&flag), segments).await?;
        let ledger = stage.ledger(CLIENTS).await?;
        let uploader = archived(&stage, stage.flushed().await?, SOON).await?;
        let chance = StdRng::seed_from_u64(seed);
        let slowest = Duration::ZERO;
        Ok(UploaderRounds { ledger, stage, archive, chance, uploader, round: 0, kills: 0, slowest })
    }

    /// Kills the uploader at a random moment, one time in three again while it comes back, and waits until another went on.
    pub async fn round(&mut self) -> Result<UploaderRound> {
        self.round += 1;
        let (killed, twice) = (self.uploader, self.round.is_multiple_of(3));
        // Enough that there is something under way whenever the blow comes.
        self.stage.write_wal(4).await?;
        tokio::time::sleep(Duration::from_millis(self.chance.random_range(0..1200))).await;
        self.stage.quorum.node(killed)?.kill()?;
        self.kills += 1;
        self.ledger.wait_for_more(1, SOON).await?;
        let (goal, began) = (self.stage.flushed().await?, Instant::now());
        if twice {
            self.stage.quorum.node(killed)?.revive().await?;
            tokio::time::sleep(Duration::from_millis(self.chance.random_range(0..500))).await;
            self.stage.quorum.node(killed)?.kill()?;
            self.kills += 1;
        }
        let next = archived(&self.stage, goal, TAKEN_OVER_WITHIN).await?;
        ensure!(next != killed, "safekeeper {next} is dead");
        let taken_over = began.elapsed();
        self.slowest = self.slowest.max(taken_over);
        self.stage.quorum.node(killed)?.revive().await?;
        self.uploader = next;
        Ok(UploaderRound { number: self.round, killed, twice, next, taken_over })
    }

    /// Reads every object and compares it with the safekeepers' files.
    pub async fn end(mut self) -> Result<UploaderOutcome> {
        self.stage.settle(self.ledger).await?;
        let end = self.stage.all_have_everything().await?;
        archived(&self.stage, end, SOON).await?;
        let wal = verify_archive(&Replica::in_directory(&self.archive)?, &self.stage, end).await?;
        ensure!(wal.bytes.len() as u64 > 2 * SEGMENT, "too little was written to prove anything");
        Ok(UploaderOutcome {
            rounds: self.round,
            kills: self.kills,
            slowest: self.slowest,
            compared: wal.bytes.len() as u64,
            objects: wal.objects,
        })
    }
}

impl fmt::Display for UploaderRound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let UploaderRound { number, killed, twice, next, taken_over } = self;
        let again = if *twice { " twice" } else { "" };
        write!(
            f,
            "round {number}: safekeeper {killed} killed{again}, {next} had archived everything after {taken_over:.1?}"
        )
    }
}

impl fmt::Display for UploaderOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let UploaderOutcome { rounds, kills, slowest, compared, objects } = self;
        let mib = compared >> 20;
        write!(
            f,
            "{rounds} rounds, {kills} kills of the uploader: no gap and no two versions in {mib} MiB of WAL in {objects} objects; slowest take-over {slowest:.1?}"
        )
    }
}
