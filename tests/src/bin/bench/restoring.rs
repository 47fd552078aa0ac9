//! What a restore costs: one server whose WAL and base backup are in an archive of ours and in a repository of pgBackRest, restored by
//! both in turn with the same number of processes, and recovered to the end.
//!
//! CPU of recovery holds the server's own replay of the WAL, which is the same for both, and whatever fetched the WAL.

use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use pg_harness::{Bin, Folder, Mode, Postgres, wait_for};
use serde_json::{Value, json};

use crate::pgbackrest::{PgBackRest, open_to_all, size_of};
use crate::processes::{Orphans, Sampler, Watched, cpu_of};

/// For a step of a large restore on a slow disk.
const WITHIN: Duration = Duration::from_secs(3600);
/// Bytes of a row of pgbench's accounts with its part of the index, roughly.
const MB_PER_SCALE: u64 = 15;

/// How large, and how.
pub(crate) struct Size {
    pub(crate) data_mb: u64,
    pub(crate) wal_mb: u64,
    pub(crate) processes: u32,
    pub(crate) rounds: u32,
}

/// One restore.
struct Restore {
    seconds: f64,
    cpu: f64,
    recovery_seconds: f64,
    recovery_cpu: f64,
    peak_mb: f64,
}

/// The server that was saved.
struct Saved {
    folder: Folder,
    postgres: Postgres,
    archive: PathBuf,
    backrest: PgBackRest,
    rows: i64,
}

impl Saved {
    async fn make(folder: &Folder, size: &Size) -> Result<Saved> {
        let mut log = std::io::stderr();
        let archive = folder.sub("archive")?;
        open_to_all(&archive)?;
        let backrest = PgBackRest::new(folder, size.processes)?;
        let ours = format!("'{}' wal-push --replica '{}' %p %f", Bin::seawall()?.path().display(), archive.display());
        let postgres = Postgres::builder(folder)
            .setting("shared_buffers", "256MB")
            .setting("max_wal_size", "2GB")
            .setting("archive_mode", "on")
            // Until the stanza is there.
            .setting("archive_command", "false")
            .start()
            .await?;
        backrest.begin(&postgres).await?;
        postgres.set("archive_command", &format!("{ours} && {}", backrest.archive_command())).await?;
        writeln!(log, "filling {} MB", size.data_mb)?;
        let (port, scale) = (postgres.port().to_string(), (size.data_mb / MB_PER_SCALE).max(1).to_string());
        let args = ["-h", "127.0.0.1", "-p", &port, "-U", "postgres", "-i", "-q", "-s", &scale, "postgres"];
        postgres.bin("pgbench").run(folder, "fill", args, WITHIN).await?.expect_code(0)?;
        writeln!(log, "backing up")?;
        backrest.run(&postgres, &["--type=full", "backup"]).await?;
        let (conninfo, url) = (postgres.conninfo(), archive.display().to_string());
        let seawall = Bin::seawall()?;
        seawall
            .run(folder, "backup", ["backup", "--primary", &conninfo, "--replica", &url], WITHIN)
            .await?
            .expect_code(0)?;
        open_all_below(&archive)?;
        writeln!(log, "writing {} MB of WAL", size.wal_mb)?;
        let client = postgres.client().await?;
        let begun = position(&client).await?;
        // Changes all over the tables, with the full pages that follow a checkpoint.
        while position(&client).await? < begun + size.wal_mb * 1_000_000 {
            let update = "UPDATE pgbench_accounts SET abalance = abalance + 1 WHERE aid % 50 = (random() * 50)::int";
            client.batch_execute(update).await?;
        }
        let row = client.query_one("SELECT pg_walfile_name(pg_switch_wal())", &[]).await?;
        let last: String = row.get(0);
        wait_for("all WAL in both archives", WITHIN, async || {
            let query = "SELECT coalesce(last_archived_wal, '') >= $1 FROM pg_stat_archiver";
            Ok(client.query_one(query, &[&last]).await?.get::<_, bool>(0).then_some(()))
        })
        .await?;
        let rows = sum(&postgres).await?;
        Ok(Saved { folder: folder.clone(), postgres, archive, backrest, rows })
    }

    async fn restore(&self, ours: bool, round: u32, size: &Size) -> Result<Restore> {
        let name = format!("{}-{round}", if ours { "ours" } else { "theirs" });
        let output = self.folder.path().join(&name);
        let (processes, url) = (size.processes.to_string(), self.archive.display().to_string());
        let here = self.folder.path().display().to_string();
        let sampler = Sampler::start(Watched::Commands(here, if ours { "restore" } else { "pgbackrest" }))?;
        // What a child used is known once it was waited for, as ours and theirs are here.
        let (before, began) = (own_children()?, Instant::now());
        if ours {
            let text = output.display().to_string();
            let args = ["restore", &url, "--output", &text, "--parallelism", &processes];
            Bin::seawall()?.run(&self.folder, &name, args, WITHIN).await?.expect_code(0)?;
        } else {
            std::fs::create_dir(&output)?;
            let mut chown = std::process::Command::new("chown");
            chown.arg("--reference").arg(self.postgres.data_dir()).arg(&output);
            ensure!(chown.status()?.success(), "chown");
            let path = format!("--pg1-path={}", output.display());
            self.backrest.run(&self.postgres, &[&path, "--archive-mode=off", "restore"]).await?;
        }
        let (seconds, cpu) = (began.elapsed().as_secs_f64(), own_children()? - before);
        let sampled = sampler.stop()?;
        let (orphans, began) = (Orphans::watch(if ours { "seawall" } else { "pgbackrest" }), Instant::now());
        let builder = Postgres::builder(&self.folder).name(&name).in_place();
        let restored = builder.setting("shared_buffers", "256MB").setting("max_wal_size", "2GB").start().await?;
        wait_for("the end of recovery", WITHIN, async || {
            let row = restored.client().await?.query_one("SELECT pg_is_in_recovery()", &[]).await?;
            Ok((!row.get::<_, bool>(0)).then_some(()))
        })
        .await?;
        let recovery_seconds = began.elapsed().as_secs_f64();
        let recovery_cpu = cpu_of(restored.pid().context("the restored server has ended")?)? + orphans.take();
        ensure!(sum(&restored).await? == self.rows, "{name} has other rows");
        restored.stop(Mode::Immediate, WITHIN).await?;
        drop(restored);
        std::fs::remove_dir_all(&output)?;
        Ok(Restore { seconds, cpu, recovery_seconds, recovery_cpu, peak_mb: sampled.peak as f64 / 1e6 })
    }
}

/// CPU seconds of our children that have ended and were waited for.
fn own_children() -> Result<f64> {
    let pid = std::process::id();
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, fields) = text.rsplit_once(')').context("no process name in stat")?;
    let ticks: u64 = fields.split_whitespace().skip(13).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    Ok(ticks as f64 / 100.0)
}

async fn position(client: &tokio_postgres::Client) -> Result<u64> {
    scenarios::lsn(client.query_one("SELECT pg_current_wal_lsn()::text", &[]).await?.get(0))
}

async fn sum(postgres: &Postgres) -> Result<i64> {
    let row = postgres.client().await?.query_one("SELECT sum(abalance)::bigint FROM pgbench_accounts", &[]).await?;
    Ok(row.get(0))
}

/// The server's user must read what a backup of ours has written.
fn open_all_below(path: &std::path::Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(if path.is_dir() { 0o777 } else { 0o666 }))?;
    if path.is_dir() {
        for entry in std::fs::read_dir(path)? {
            open_all_below(&entry?.path())?;
        }
    }
    Ok(())
}

fn median(restores: &[Restore], of: impl Fn(&Restore) -> f64) -> f64 {
    let mut values: Vec<f64> = restores.iter().map(of).collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Restores in turn. The table, and everything as JSON.
pub(crate) async fn run(folder: &Folder, size: &Size) -> Result<(String, Value)> {
    let mut log = std::io::stderr();
    let saved = Saved::make(folder, size).await?;
    let data = size_of(saved.postgres.data_dir())?;
    saved.postgres.stop(Mode::Fast, WITHIN).await?;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for round in 0..size.rounds {
        // Another one begins each time.
        for first in [round % 2 == 0, round % 2 != 0] {
            let restore = saved.restore(first, round, size).await?;
            writeln!(log, "{}: {:.1} s", if first { "Seawall" } else { "pgBackRest" }, restore.seconds)?;
            if first { ours.push(restore) } else { theirs.push(restore) }
        }
    }
    let mut table = "| restored by | files: s | CPU s | recovery: s | CPU s | all: s | peak RSS MB |\n|---|---|---|---|---|---|---|\n".to_owned();
    let mut rows = Vec::new();
    for (name, restores) in [("Seawall", &ours), ("pgBackRest lz4", &theirs)] {
        let [seconds, cpu, recovery, recovery_cpu, all, peak] = [
            median(restores, |restore| restore.seconds),
            median(restores, |restore| restore.cpu),
            median(restores, |restore| restore.recovery_seconds),
            median(restores, |restore| restore.recovery_cpu),
            median(restores, |restore| restore.seconds + restore.recovery_seconds),
            median(restores, |restore| restore.peak_mb),
        ];
        table.push_str(&format!(
            "| {name} | {seconds:.1} | {cpu:.1} | {recovery:.1} | {recovery_cpu:.1} | {all:.1} | {peak:.0} |\n"
        ));
        rows.push(json!({
            "name": name, "seconds": seconds, "cpu_seconds": cpu, "recovery_seconds": recovery,
            "recovery_cpu_seconds": recovery_cpu, "all_seconds": all, "peak_mb": peak, "rounds": restores.len(),
        }));
    }
    let (wal, processes) = (size.wal_mb, size.processes);
    let head = format!("Data directory {:.0} MB, WAL {wal} MB, {processes} processes each.\n\n", data as f64 / 1e6);
    Ok((
        head + &table,
        json!({ "data_mb": data as f64 / 1e6, "wal_mb": wal, "processes": processes, "restores": rows }),
    ))
}
