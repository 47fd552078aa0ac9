//! A database comes back to any moment, exactly; a damaged archive is named and never delivered; nothing half-made starts.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pg_harness::{Bin, Finished, Folder, Mode, Postgres, scenario, wait_for};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use scenarios::{SOON, Stage};
use serde_json::Value;
use tokio_postgres::Client;

const WITHIN: Duration = Duration::from_secs(180);
const SEED: u64 = 3;
/// Moments that are restored, by LSN and by time in turn.
const MOMENTS: usize = 10;

/// A moment between two commits: everything up to row `n` was committed, and nothing later.
struct Moment {
    n: i64,
    lsn: String,
    time: String,
    /// The transaction that wrote row `n`.
    xid: String,
}

/// A server that archives by `wal-push`, and its archive.
struct Rig {
    folder: Folder,
    archive: PathBuf,
    postgres: Postgres,
}

impl Rig {
    async fn new(folder: &Folder) -> Result<Rig> {
        let archive = folder.sub("archive")?;
        open_to_all(&archive)?;
        let seawall = Bin::seawall()?;
        let command = format!("'{}' wal-push --replica '{}' %p %f", seawall.path().display(), archive.display());
        let postgres = Postgres::builder(folder)
            .segment_size_mb(1)
            .setting("archive_mode", "on")
            .setting("archive_command", &command)
            // A clone that kept this would hang on its first commit.
            .setting("max_wal_size", "32MB")
            .start()
            .await?;
        let rig = Rig { folder: folder.clone(), archive, postgres };
        rig.archived().await?;
        Ok(rig)
    }

    async fn seawall(&self, name: &str, args: &[&str]) -> Result<Finished> {
        Bin::seawall()?.run(&self.folder, name, args.iter().copied(), SOON).await
    }

    fn url(&self) -> String {
        self.archive.to_string_lossy().into_owned()
    }

    /// Everything written so far is in the archive when this returns.
    async fn archived(&self) -> Result<()> {
        let client = self.postgres.client().await?;
        // A segment without a record is not switched.
        client.batch_execute("SELECT pg_logical_emit_message(true, 'scenario', 'x')").await?;
        let row = client.query_one("SELECT pg_walfile_name(pg_switch_wal())", &[]).await?;
        let last: String = row.get(0);
        wait_for(&format!("{last} in the archive"), SOON, async || {
            let row = client
                .query_one("SELECT coalesce(last_archived_wal, '') >= $1 FROM pg_stat_archiver", &[&last])
                .await?;
            Ok(row.get::<_, bool>(0).then_some(()))
        })
        .await
    }

    async fn backup(&self) -> Result<()> {
        let conninfo = self.postgres.conninfo();
        let url = self.url();
        let args = ["backup", "--primary", &conninfo, "--replica", &url];
        // The WAL it needs ends in a segment that is switched by the backup itself, and archived.
        self.seawall("backup", &args).await?.expect_code(0)?;
        // Made by us, to be read and written by PostgreSQL's user too.
        open_to_all(&self.archive)?;
        // The moment at which a snapshot was complete is rounded up: earlier ones cannot be restored from it.
        let listed = self.seawall("since", &["generations", &url, "--json"]).await?.expect_code(0)?;
        let listed: Value = serde_json::from_str(&listed.stdout)?;
        let since = listed[0]["restorable_from_time"].as_str().context("no moment can be restored")?.to_owned();
        let client = self.postgres.client().await?;
        wait_for("a moment after the snapshot", SOON, async || {
            let later = client.query_one(&format!("SELECT clock_timestamp() > '{since}'"), &[]).await?;
            Ok(later.get::<_, bool>(0).then_some(()))
        })
        .await
    }

    /// Commits rows one after another, with pgbench beside, and notes `count` moments.
    async fn write(&self, count: usize, chance: &mut StdRng) -> Result<Vec<Moment>> {
        let client = self.postgres.client().await?;
        client
            .batch_execute(
                "CREATE TABLE IF NOT EXISTS moments (n bigint PRIMARY KEY, at timestamptz DEFAULT clock_timestamp())",
            )
            .await?;
        let mut bench = self.postgres.program("pgbench");
        let port = self.postgres.port().to_string();
        bench.args(["-h", "127.0.0.1", "-p", &port, "-U", "postgres", "-n", "-c", "2", "-T", "600", "postgres"]);
        let mut bench = bench.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn()?;
        let mut moments = Vec::new();
        let begun: i64 = client.query_one("SELECT coalesce(max(n), 0) FROM moments", &[]).await?.get(0);
        let mut n = begun;
        for _ in 0..count {
            let mut xid = String::new();
            for _ in 0..chance.random_range(3..25) {
                n += 1;
                let insert = "INSERT INTO moments VALUES ($1) RETURNING xmin::text";
                xid = client.query_one(insert, &[&n]).await?.get(0);
            }
            let moment = "SELECT pg_current_wal_insert_lsn()::text, to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')";
            let row = client.query_one(moment, &[]).await?;
            moments.push(Moment { n, lsn: row.get(0), time: row.get(1), xid });
            // Some moments lie in other segments.
            if chance.random_bool(0.3) {
                client.batch_execute("SELECT pg_switch_wal()").await?;
            }
        }
        bench.kill()?;
        bench.wait()?;
        n += 1;
        client.execute("INSERT INTO moments VALUES ($1)", &[&n]).await?;
        Ok(moments)
    }

    /// Restores with these arguments and starts the result.
    async fn restore(&self, name: &str, args: &[&str]) -> Result<Postgres> {
        let output = self.folder.path().join(name).to_string_lossy().into_owned();
        let url = self.url();
        let all = [&["restore", &url, "--output", &output][..], args].concat();
        self.seawall(&format!("restore-{name}"), &all).await?.expect_code(0)?;
        let restored = Postgres::builder(&self.folder).name(name).in_place().start().await?;
        recovered(&restored).await?;
        Ok(restored)
    }

    /// All objects of the archive, sorted.
    fn objects(&self) -> Result<Vec<PathBuf>> {
        let mut found = Vec::new();
        let mut folders = vec![self.archive.clone()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder)? {
                let path = entry?.path();
                if path.is_dir() { folders.push(path) } else { found.push(path) }
            }
        }
        found.sort();
        Ok(found)
    }
}

/// Waits until a restored server takes writes.
async fn recovered(postgres: &Postgres) -> Result<()> {
    wait_for("end of recovery", SOON, async || {
        let client = postgres.client().await?;
        let row = client.query_one("SELECT pg_is_in_recovery()", &[]).await?;
        Ok((!row.get::<_, bool>(0)).then_some(()))
    })
    .await
}

/// Fails unless exactly the rows 1 to `n` are there, and pgbench's books balance.
async fn exactly(postgres: &Postgres, n: i64) -> Result<()> {
    let client: Client = postgres.client().await?;
    let rows = client.query("SELECT n FROM moments ORDER BY n", &[]).await?;
    let found: Vec<i64> = rows.iter().map(|row| row.get(0)).collect();
    let expected: Vec<i64> = (1..=n).collect();
    let (first, last) = (found.first(), found.last());
    ensure!(found == expected, "rows {first:?} to {last:?} ({} in all) instead of 1 to {n}", found.len());
    let books = "SELECT (SELECT sum(abalance) FROM pgbench_accounts) = (SELECT sum(bbalance) FROM pgbench_branches) \
                 AND (SELECT sum(bbalance) FROM pgbench_branches) = (SELECT sum(tbalance) FROM pgbench_tellers) \
                 AND (SELECT sum(tbalance) FROM pgbench_tellers) = (SELECT coalesce(sum(delta), 0) FROM pgbench_history)";
    ensure!(client.query_one(books, &[]).await?.get::<_, bool>(0), "pgbench's books do not balance");
    // A clone that waited for somebody, or archived, would do harm or hang.
    for (setting, value) in [("synchronous_standby_names", ""), ("archive_mode", "off"), ("primary_conninfo", "")] {
        let found: String = client.query_one(&format!("SHOW {setting}"), &[]).await?.get(0);
        ensure!(found == value, "{setting} is {found:?}");
    }
    let commit = client.execute("INSERT INTO moments VALUES (-1)", &[]);
    tokio::time::timeout(Duration::from_secs(20), commit).await.context("a commit hangs")??;
    Ok(())
}

fn open_to_all(path: &Path) -> Result<()> {
    let mode = if path.is_dir() { 0o777 } else { 0o666 };
    fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    if path.is_dir() {
        for entry in fs::read_dir(path)? {
            open_to_all(&entry?.path())?;
        }
    }
    Ok(())
}

async fn prepared(folder: &Folder) -> Result<Rig> {
    let rig = Rig::new(folder).await?;
    let mut bench = rig.postgres.program("pgbench");
    let port = rig.postgres.port().to_string();
    bench.args(["-h", "127.0.0.1", "-p", &port, "-U", "postgres", "-i", "-q", "-s", "1", "postgres"]);
    let made = tokio::task::spawn_blocking(move || bench.output()).await??;
    ensure!(made.status.success(), "pgbench -i: {}", String::from_utf8_lossy(&made.stderr));
    Ok(rig)
}

/// Goal: any moment can be had back, exactly. Method: rows are committed one after another with pgbench beside, random moments are noted
/// by LSN and by time; each is restored and compared row by row, and so are a transaction, a restore point and the end.
#[test]
fn any_moment_exactly() {
    scenario("restore_any", WITHIN, async |folder| {
        let mut chance = StdRng::seed_from_u64(SEED);
        let rig = prepared(&folder).await?;
        let early = rig.write(1, &mut chance).await?;
        rig.backup().await?;
        let moments = rig.write(MOMENTS, &mut chance).await?;
        let client = rig.postgres.client().await?;
        client.execute("SELECT pg_create_restore_point('before the change')", &[]).await?;
        let last: i64 = client.query_one("SELECT max(n) FROM moments", &[]).await?.get(0);
        client.execute("INSERT INTO moments VALUES ($1)", &[&(last + 1)]).await?;
        rig.archived().await?;

        // Before the first snapshot was complete there is nothing to restore from, and the earliest moment is said.
        let output = folder.path().join("early").to_string_lossy().into_owned();
        let refused = rig
            .seawall("early", &["restore", &rig.url(), "-o", &output, "--to-lsn", &early[0].lsn])
            .await?
            .expect_code(1)?;
        ensure!(refused.stderr.contains("the earliest moment is"), "it says {}", refused.stderr);
        ensure!(!Path::new(&output).exists(), "a refused restore made a directory");

        for (at, moment) in moments.iter().enumerate() {
            let args = if at % 2 == 0 { ["--to-lsn", &moment.lsn] } else { ["--to-time", &moment.time] };
            let restored = rig.restore(&format!("moment{at}"), &args).await.with_context(|| format!("{args:?}"))?;
            exactly(&restored, moment.n).await.with_context(|| format!("{args:?}"))?;
            restored.stop(Mode::Immediate, SOON).await?;
        }
        // Transactions of others may have committed between this one and its moment, the rows of our one writer have not.
        let by_xid = rig.restore("by-xid", &["--to-xid", &moments[MOMENTS / 2].xid]).await?;
        exactly(&by_xid, moments[MOMENTS / 2].n).await?;
        by_xid.stop(Mode::Immediate, SOON).await?;
        let named = rig.restore("named", &["--to-name", "before the change"]).await?;
        exactly(&named, last).await?;
        named.stop(Mode::Immediate, SOON).await?;
        let latest = rig.restore("latest", &[]).await?;
        exactly(&latest, last + 1).await?;
        latest.stop(Mode::Immediate, SOON).await?;
        let later = rig.restore("later", &["--to-time", "2999-01-01T00:00:00Z"]).await?;
        exactly(&later, last + 1).await?;
        Ok(())
    });
}

/// Goal: damage is named by `validate`, and a damaged archive is never delivered. Method: a sound archive is proved valid; then objects of
/// every kind get a flipped byte, are cut, removed and swapped, and each time `validate` fails and names the object.
#[test]
fn damage_is_named() {
    scenario("restore_damage", WITHIN, async |folder| {
        let mut chance = StdRng::seed_from_u64(SEED);
        let rig = prepared(&folder).await?;
        rig.archived().await?;
        rig.backup().await?;
        rig.write(4, &mut chance).await?;
        rig.archived().await?;
        let url = rig.url();
        let valid = rig.seawall("valid", &["validate", &url, "--json"]).await?.expect_code(0)?;
        let report: Value = serde_json::from_str(&valid.stdout)?;
        ensure!(report["valid"] == true && report["report"]["checked_by"].is_string(), "it says {report}");
        ensure!(report["report"]["wal_records"].as_u64().unwrap_or(0) > 200, "too little was walked: {report}");

        let objects = rig.objects()?;
        let snapshot = |path: &&PathBuf| path.to_string_lossy().contains("/snapshots/");
        let begin = objects.iter().find(snapshot).context("no snapshot")?.clone();
        let needed = |path: &&PathBuf| {
            // WAL older than the snapshot is not read by a validation.
            let name = path.to_string_lossy();
            let folder = begin.components().rev().find_map(|part| {
                u64::from_str_radix(&part.as_os_str().to_string_lossy(), 16).ok().filter(|lsn| *lsn > 1 << 20)
            });
            let first = format!("{:016x}.seg.lz4", folder.unwrap_or(0) >> 20);
            !name.ends_with(".seg.lz4")
                || path.file_name().is_some_and(|file| file.to_string_lossy().as_ref() >= first.as_str())
        };
        let kinds = ["era.json", "snapshot.json", "backup_manifest.lz4", "chunks/", ".seg.lz4"];
        let mut tried = 0;
        for kind in kinds {
            let of_kind: Vec<&PathBuf> =
                objects.iter().filter(|path| path.to_string_lossy().contains(kind)).filter(needed).collect();
            let object = of_kind[of_kind.len() / 2];
            let whole = fs::read(object)?;
            let mut damages: Vec<(&str, Vec<u8>)> = Vec::new();
            for _ in 0..2 {
                let mut flipped = whole.clone();
                let at = chance.random_range(0..whole.len());
                flipped[at] ^= 0x41;
                damages.push(("flipped", flipped));
            }
            damages.push(("cut", whole[..whole.len() - 3].to_vec()));
            if of_kind.len() > 1 {
                damages.push(("swapped", fs::read(of_kind[0])?));
            }
            for (how, bytes) in damages {
                fs::write(object, &bytes)?;
                let told = rig.seawall("damaged", &["validate", &url, "--no-start"]).await?;
                ensure!(told.code == Some(1), "{} {how}: {told:?}", object.display());
                ensure!(names(&told.stderr, object), "{} {how}, and it says {}", object.display(), told.stderr);
                tried += 1;
            }
            fs::remove_file(object)?;
            let told = rig.seawall("gone", &["validate", &url, "--no-start"]).await?;
            ensure!(told.code == Some(1), "{} removed: {told:?}", object.display());
            fs::write(object, &whole)?;
        }
        ensure!(tried >= 15, "only {tried} damages were tried");
        rig.seawall("whole", &["validate", &url, "--no-start"]).await?.expect_code(0)?;
        let told = rig.seawall("generations", &["generations", &url]).await?.expect_code(0)?;
        ensure!(
            told.stdout.contains("0000000000000001") && told.stdout.contains("restorable from"),
            "it says {}",
            told.stdout
        );
        Ok(())
    });
}

/// Whether an error names the object: its file, the segment it holds, or the number of the chunk.
fn names(error: &str, object: &Path) -> bool {
    let file = object.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let stem = file.split('.').next().unwrap_or_default().to_owned();
    error.contains(&file) || error.contains(&stem)
}

/// Goal: a restore that was cut short leaves nothing that starts, and running it again succeeds; what is not ours is left alone. Method:
/// restores are killed after random times; each time the directory has no `pg_control`; then one is let through, and its directory is
/// refused from then on.
#[test]
fn interrupted_restores_begin_anew() {
    scenario("restore_cut", WITHIN, async |folder| {
        let mut chance = StdRng::seed_from_u64(SEED);
        let rig = prepared(&folder).await?;
        rig.archived().await?;
        rig.backup().await?;
        let moments = rig.write(2, &mut chance).await?;
        rig.archived().await?;
        let (url, output) = (rig.url(), folder.path().join("again"));
        let text = output.to_string_lossy().into_owned();
        let args = ["restore", &url, "--output", &text, "--to-lsn", &moments[1].lsn];
        let mut cut = 0;
        for _ in 0..12 {
            let mut process = Bin::seawall()?.spawn(&folder, "cut", args)?;
            tokio::time::sleep(Duration::from_millis(chance.random_range(20..900))).await;
            process.kill()?;
            if output.join("global/pg_control").exists() {
                // It was faster than we.
                fs::remove_dir_all(&output)?;
                continue;
            }
            cut += 1;
        }
        ensure!(cut >= 3, "only {cut} restores were cut short");
        let restored = rig.restore("again", &["--to-lsn", &moments[1].lsn]).await?;
        exactly(&restored, moments[1].n).await?;
        // Somebody's database now: running or not, it is refused.
        rig.seawall("running", &args).await?.expect_code(3)?;
        restored.stop(Mode::Fast, SOON).await?;
        let refused = rig.seawall("stopped", &args).await?.expect_code(3)?;
        ensure!(refused.stderr.contains("--overwrite"), "it says {}", refused.stderr);
        let kept = [&args[..], &["--if-db-not-exists"]].concat();
        rig.seawall("kept", &kept).await?.expect_code(0)?;
        restored.start().await?;
        ensure!(
            restored
                .client()
                .await?
                .query_one("SELECT count(*) FROM moments WHERE n = -1", &[])
                .await?
                .get::<_, i64>(0)
                == 1
        );
        Ok(())
    });
}

/// Goal: "latest" has every acknowledged commit, though the archive lags and the primary is gone; and a quorum that cannot be asked is a
/// refusal, never an older state. Method: safekeepers that archive seldom; primary and proposer are killed under load; the restore reads the
/// tail from the quorum, and the ledger is compared. Then two safekeepers die.
#[test]
fn latest_is_the_quorums_end() {
    scenario("restore_tail", WITHIN, async |folder| {
        let archive = folder.sub("archive")?;
        let url = archive.to_string_lossy().into_owned();
        let flag = format!("--archive={url}");
        let mut stage = Stage::set_with(
            &folder,
            |quorum| quorum.arg(&flag).arg("--archive-sync-interval=12s"),
            |postgres| postgres.segment_size_mb(1),
        )
        .await?;
        let seawall =
            async |name: &str, args: &[&str]| Bin::seawall()?.run(&folder, name, args.iter().copied(), SOON).await;
        let conninfo = stage.postgres.conninfo();
        // A backup before the safekeepers have begun their era would begin one of its own.
        wait_for("the quorum's era in the archive", SOON, async || {
            Ok((seawall("generations", &["generations", &url]).await?.code == Some(0)).then_some(()))
        })
        .await?;
        seawall("backup", &["backup", "--primary", &conninfo, "--replica", &url]).await?.expect_code(0)?;
        let ledger = stage.ledger(4).await?;
        ledger.wait_for_more(300, SOON).await?;
        stage.postgres.kill().await?;
        stage.proposer.kill()?;
        let acknowledged = ledger.stop().await?;
        open_to_all(&archive)?;

        let safekeepers = stage.quorum.addresses();
        let output = folder.path().join("tail").to_string_lossy().into_owned();
        let args = ["restore", &url, "--output", &output, "--safekeepers", &safekeepers, "--json"];
        let planned = seawall("plan", &[&args[..], &["--dry-run"]].concat()).await?.expect_code(0)?;
        let plan: Value = serde_json::from_str(&planned.stdout)?;
        ensure!(plan["plan"]["reads_safekeepers"] == true, "the archive does not lag, so nothing is proved: {plan}");
        ensure!(!Path::new(&output).exists(), "a dry run made a directory");
        seawall("tail", &args).await?.expect_code(0)?;
        let restored = Postgres::builder(&folder).name("tail").in_place().start().await?;
        recovered(&restored).await?;
        acknowledged.verify(&restored.client().await?).await?;
        restored.stop(Mode::Immediate, SOON).await?;

        for id in 1..=2 {
            stage.quorum.node(id)?.kill()?;
        }
        let other = folder.path().join("other").to_string_lossy().into_owned();
        let args = ["restore", &url, "--output", &other, "--safekeepers", &safekeepers];
        let refused = seawall("refused", &args).await?.expect_code(3)?;
        ensure!(refused.stderr.contains("--archive-only") && !Path::new(&other).exists(), "it says {}", refused.stderr);
        seawall("content", &[&args[..], &["--archive-only"]].concat()).await?.expect_code(0)?;
        Ok(())
    });
}
