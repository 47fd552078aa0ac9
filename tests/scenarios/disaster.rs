//! What the archive alone gives back: everything but the last interval after every disk was lost, encrypted or not, over a promotion,
//! from S3, with every PostgreSQL.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use age::secrecy::ExposeSecret;
use anyhow::{Context, Result, bail, ensure};
use pg_harness::{Bin, Finished, Folder, Garage, Mode, Moto, Postgres, S3Access, scenario, wait_for};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use scenarios::{SOON, Stage, archive_views, archived};
use serde_json::Value;
use tokio_postgres::Client;

use crate::failover::{has_everything, leads, promote, standby, sync, taking_over};
use crate::pg_versions::installed;

const WITHIN: Duration = Duration::from_secs(180);
/// How often the archive is written.
const INTERVAL: Duration = Duration::from_secs(3);
/// What one upload may take on a machine that has other things to do.
const UPLOAD: Duration = Duration::from_secs(3);
const RESTARTS: u32 = 10;
const SEED: u64 = 31;

/// Who restores: the program, with the keys of a store if it is one that wants keys.
struct Restorer {
    folder: Folder,
    seawall: Bin,
    env: Vec<(String, String)>,
    url: String,
    /// PostgreSQL's programs, if not those that are found.
    bin_dir: Option<PathBuf>,
}

impl Restorer {
    fn new(folder: &Folder, url: &str, env: Vec<(String, String)>) -> Result<Restorer> {
        let seawall = Bin::seawall()?.envs(env.clone());
        Ok(Restorer { folder: folder.clone(), seawall, env, url: url.to_owned(), bin_dir: None })
    }

    fn in_directory(folder: &Folder, archive: &Path) -> Result<Restorer> {
        Restorer::new(folder, &archive.to_string_lossy(), Vec::new())
    }

    fn in_bucket(folder: &Folder, access: &S3Access) -> Result<Restorer> {
        Restorer::new(folder, &access.url("wal"), access.env())
    }

    async fn run(&self, name: &str, args: &[&str]) -> Result<Finished> {
        self.seawall.run(&self.folder, name, args.iter().copied(), SOON).await
    }

    async fn backup(&self, primary: &Postgres, more: &[&str]) -> Result<()> {
        // A backup before the safekeepers have begun their era would begin one of its own.
        wait_for("the quorum's era in the archive", SOON, async || {
            Ok((self.run("era", &["generations", &self.url]).await?.code == Some(0)).then_some(()))
        })
        .await?;
        let conninfo = primary.conninfo();
        let args = [&["backup", "--primary", &conninfo, "--replica", &self.url][..], more].concat();
        self.run("backup", &args).await?.expect_code(0)?;
        Ok(())
    }

    fn output(&self, name: &str) -> String {
        self.folder.path().join(name).to_string_lossy().into_owned()
    }

    /// What the restore said, and the server that recovered from it.
    async fn restore(&self, name: &str, more: &[&str]) -> Result<(Value, Postgres)> {
        let output = self.output(name);
        let args = [&["restore", &self.url, "--output", &output, "--json"][..], more].concat();
        let said = self.run(name, &args).await?.expect_code(0)?;
        let server = Postgres::builder(&self.folder).name(name).in_place().envs(self.env.clone());
        let server = self.bin_dir.iter().fold(server, |server, dir| server.bin_dir(dir)).start().await?;
        wait_for("end of recovery", SOON, async || {
            let row = server.client().await?.query_one("SELECT pg_is_in_recovery()", &[]).await?;
            Ok((!row.get::<_, bool>(0)).then_some(()))
        })
        .await?;
        Ok((serde_json::from_str(&said.stdout)?, server))
    }
}

/// PostgreSQL's user must read what we have written.
fn open_to_all(path: &Path) -> Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(if path.is_dir() { 0o777 } else { 0o666 }))?;
    if path.is_dir() {
        for entry in fs::read_dir(path)? {
            open_to_all(&entry?.path())?;
        }
    }
    Ok(())
}

/// When each of the rows 1, 2, … was acknowledged.
type Acknowledgements = Arc<Mutex<Vec<Instant>>>;

/// Commits row after row until the server is gone.
async fn commit_rows(client: Client, noted: Acknowledgements) {
    for n in 1_i64.. {
        if client.execute("INSERT INTO rows VALUES ($1)", &[&n]).await.is_err() {
            return;
        }
        noted.lock().unwrap_or_else(PoisonError::into_inner).push(Instant::now());
    }
}

/// Goal: with every local disk lost, the archive alone gives back all but what was acknowledged in the last sync interval, and says where it
/// ends; who asks for the quorum is refused. Method: an archive in a real S3 server, a writer that notes when each row was acknowledged;
/// primary, proposer and safekeepers are killed at a random moment and their directories removed.
#[test]
fn all_local_disks_are_lost() {
    scenario("disaster", WITHIN, async |folder| {
        let garage = Garage::start(&folder).await?;
        let restorer = Restorer::in_bucket(&folder, garage.access())?;
        let flags = [format!("--archive={}", restorer.url), format!("--archive-sync-interval={}s", INTERVAL.as_secs())];
        let mut stage = Stage::set_with(
            &folder,
            |quorum| quorum.bin(restorer.seawall.clone()).arg(&flags[0]).arg(&flags[1]),
            |postgres| postgres.segment_size_mb(1),
        )
        .await?;
        let client = stage.client().await?;
        client
            .batch_execute("CREATE TABLE rows (n bigint PRIMARY KEY, at timestamptz DEFAULT clock_timestamp())")
            .await?;
        restorer.backup(&stage.postgres, &[]).await?;
        let noted = Acknowledgements::default();
        let writer = tokio::spawn(commit_rows(client, Arc::clone(&noted)));
        let wait = StdRng::seed_from_u64(SEED).random_range(7_000..12_000);
        tokio::time::sleep(Duration::from_millis(wait)).await;

        let lost = Instant::now();
        for id in 1..=3 {
            stage.quorum.node(id)?.kill()?;
        }
        stage.proposer.kill()?;
        stage.postgres.kill().await?;
        writer.await?;
        let safekeepers = stage.quorum.addresses();
        let mut disks: Vec<PathBuf> = stage.quorum.nodes().iter().map(|node| node.data_dir().clone()).collect();
        disks.push(stage.postgres.data_dir().to_path_buf());
        drop(stage);
        for disk in disks {
            fs::remove_dir_all(&disk).with_context(|| format!("remove {}", disk.display()))?;
        }

        let output = restorer.output("refused");
        let asked = ["restore", &restorer.url, "--output", &output, "--safekeepers", &safekeepers];
        let refused = restorer.run("refused", &asked).await?.expect_code(3)?;
        ensure!(refused.stderr.contains("--archive-only"), "it says {}", refused.stderr);
        let (said, restored) = restorer.restore("restored", &["--archive-only"]).await?;
        let noted = noted.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let client = restored.client().await?;
        let row = client.query_one("SELECT count(*), max(n), max(at)::text FROM rows", &[]).await?;
        let (count, last): (i64, Option<i64>) = (row.get(0), row.get(1));
        ensure!(last == Some(count) && count > 20, "rows up to {last:?} are restored, {count} of them");
        // The first row that was acknowledged and is not there.
        let missing = noted.get(count as usize).map(|at| lost.saturating_duration_since(*at));
        println!("{} rows acknowledged, {count} restored, the first missing one {missing:?} old", noted.len());
        ensure!(
            missing.unwrap_or_default() <= INTERVAL + UPLOAD,
            "an acknowledged row was lost that was {missing:?} old"
        );
        let told = said["plan"]["notes"].to_string();
        let end = told.split("the last transaction in it ended at ").nth(1).and_then(|rest| rest.split(';').next());
        let end = end.with_context(|| format!("it does not say where it ends: {told}"))?;
        let query = format!("SELECT '{end}'::timestamptz - max(at) BETWEEN '0 s' AND '1 s' FROM rows");
        let right: bool = client.query_one(&query, &[]).await?.get(0);
        ensure!(right, "it says {end}, and the last row is of {}", row.get::<_, String>(2));
        Ok(())
    });
}

/// Goal: safekeepers that can only encrypt go on where they were after every restart, and nothing restores without the identity. Method: a
/// store with preconditions; ten kills and starts of the uploader under load; a restore with the identity, one without, and one with another.
#[test]
fn who_only_encrypts_can_go_on() {
    scenario("encrypt_only", WITHIN, async |folder| {
        let moto = Moto::start(&folder).await?;
        let restorer = Restorer::in_bucket(&folder, moto.access())?;
        let identity = age::x25519::Identity::generate();
        let recipient = identity.to_public().to_string();
        let flags = [format!("--archive={}", restorer.url), format!("--archive-recipient={recipient}")];
        let mut stage = Stage::set_with(
            &folder,
            |quorum| quorum.bin(restorer.seawall.clone()).arg(&flags[0]).arg(&flags[1]),
            |postgres| postgres.segment_size_mb(1),
        )
        .await?;
        let ledger = stage.ledger(2).await?;
        restorer.backup(&stage.postgres, &["--recipient", &recipient]).await?;
        for round in 0..RESTARTS {
            let uploader = archived(&stage, stage.flushed().await?, SOON).await?;
            stage.quorum.node(uploader)?.kill()?;
            stage.quorum.node(uploader)?.revive().await?;
            ledger.wait_for_more(5, SOON).await.with_context(|| format!("round {round}"))?;
        }
        let acknowledged = ledger.stop().await?;
        archived(&stage, stage.flushed().await?, SOON).await?;
        let problems: Vec<Value> = archive_views(&stage).await.values().map(|view| view["problem"].clone()).collect();
        ensure!(problems.iter().all(Value::is_null), "{problems:?}");

        let mut files = Vec::new();
        for (name, identity) in [("right", &identity), ("wrong", &age::x25519::Identity::generate())] {
            let path = folder.path().join(name);
            fs::write(&path, identity.to_string().expose_secret())?;
            open_to_all(&path)?;
            files.push(path.to_string_lossy().into_owned());
        }
        for (name, more) in [("without", &[][..]), ("with-another", &["--identity", &files[1]][..])] {
            let output = restorer.output(name);
            let args = [&["restore", &restorer.url, "--output", &output][..], more].concat();
            let refused = restorer.run(name, &args).await?.expect_code(1)?;
            let said = refused.stderr.trim();
            ensure!(said.lines().count() == 1 && said.contains("identit"), "{name}, it says {said}");
            ensure!(!Path::new(&output).join("global/pg_control").exists(), "{name}, a server can be started");
        }
        let (_, restored) = restorer.restore("restored", &["--identity", &files[0]]).await?;
        acknowledged.verify(&restored.client().await?).await
    });
}

/// Goal: a promotion is in the archive, with the history file byte for byte, and either side of it can be restored. Method: a standby takes
/// over under load; then the newest TLI, the one that was left, and a place before the switch are restored from the archive alone.
#[test]
fn a_promotion_can_be_restored() {
    scenario("restore_tli", WITHIN, async |folder| {
        let archive = folder.sub("archive")?;
        let restorer = Restorer::in_directory(&folder, &archive)?;
        let flag = format!("--archive={}", restorer.url);
        let small = |postgres: pg_harness::PostgresBuilder| postgres.segment_size_mb(1);
        let mut stage = Stage::set_with(&folder, |quorum| quorum.arg(&flag), small).await?;
        let second = standby(&folder, &stage, "second").await?;
        let ledger = stage.ledger(3).await?;
        restorer.backup(&stage.postgres, &[]).await?;
        ledger.wait_for_more(100, SOON).await?;
        let before = ledger.so_far();
        let row = stage.client().await?.query_one("SELECT pg_current_wal_insert_lsn()::text", &[]).await?;
        let place: String = row.get(0);
        ledger.wait_for_more(100, SOON).await?;
        stage.postgres.kill().await?;
        stage.proposer.kill()?;
        let first = ledger.so_far();
        sync(&folder, &stage, "sync").await?;
        has_everything(&stage, &second).await?;
        promote(&second).await?;
        let proposer = taking_over(&mut stage, &second).await?;
        leads(&proposer).await?;
        ledger.point_at(&second.conninfo());
        ledger.wait_for_more(100, SOON).await?;
        let acknowledged = ledger.stop().await?;
        let end = {
            let row = second.client().await?.query_one("SELECT pg_current_wal_flush_lsn()::text", &[]).await?;
            scenarios::lsn(row.get(0))?
        };
        archived(&stage, end, SOON).await?;

        let listed = restorer.run("generations", &["generations", &restorer.url, "--json"]).await?.expect_code(0)?;
        let listed: Value = serde_json::from_str(&listed.stdout)?;
        let generations: Vec<&str> =
            listed.as_array().context("no list")?.iter().filter_map(|row| row["generation"].as_str()).collect();
        let of_tli = |tli: &str| generations.iter().find(|name| name.ends_with(tli)).copied();
        let (Some(old), Some(new)) = (of_tli("00000001"), of_tli("00000002")) else { bail!("{listed}") };
        let stored = find(&archive, &format!("{new}/00000002.history"))?;
        let servers = second.data_dir().join("pg_wal/00000002.history");
        ensure!(fs::read(&stored)? == fs::read(&servers)?, "{} differs from the server's", stored.display());

        open_to_all(&archive)?;
        let (_, newest) = restorer.restore("newest", &["--archive-only"]).await?;
        acknowledged.verify(&newest.client().await?).await?;
        newest.stop(Mode::Immediate, SOON).await?;
        let (_, left) = restorer.restore("left", &["--generation", old, "--archive-only"]).await?;
        first.verify(&left.client().await?).await?;
        ensure!(
            acknowledged.verify(&left.client().await?).await.is_err(),
            "the TLI that was left has rows of the next"
        );
        left.stop(Mode::Immediate, SOON).await?;
        let (said, at_place) = restorer.restore("place", &["--to-lsn", &place]).await?;
        ensure!(said["plan"]["lineage"].as_array().is_some_and(|steps| steps.len() == 1), "{said}");
        before.verify(&at_place.client().await?).await
    });
}

/// The file below a folder whose path ends like this.
fn find(folder: &Path, end: &str) -> Result<PathBuf> {
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.ends_with(end) {
                return Ok(path);
            }
        }
    }
    bail!("{end} is nowhere below {}", folder.display())
}

/// Goal: every version's database comes back. Method: with each PostgreSQL that is here, a quorum with an archive, a backup, commits and a
/// restore point; a restore to that, and one to the end.
#[test]
fn every_installed_version_comes_back() {
    for bin_dir in installed() {
        println!("{}", bin_dir.display());
        scenario("restore_version", WITHIN, async |folder| comes_back(&folder, &bin_dir).await);
    }
}

async fn comes_back(folder: &Folder, bin_dir: &Path) -> Result<()> {
    let archive = folder.sub("archive")?;
    let restorer = Restorer { bin_dir: Some(bin_dir.to_path_buf()), ..Restorer::in_directory(folder, &archive)? };
    let flag = format!("--archive={}", restorer.url);
    let primary = Stage::primary(folder).bin_dir(bin_dir).segment_size_mb(1).start().await?;
    let stage = Stage::around(folder, primary, |quorum| quorum.arg(&flag)).await?;
    restorer.backup(&stage.postgres, &[]).await?;
    let ledger = stage.ledger(2).await?;
    ledger.wait_for_more(50, SOON).await?;
    let before = ledger.so_far();
    stage.client().await?.execute("SELECT pg_create_restore_point('between')", &[]).await?;
    ledger.wait_for_more(50, SOON).await?;
    let acknowledged = ledger.stop().await?;
    archived(&stage, stage.flushed().await?, SOON).await?;
    drop(stage);
    open_to_all(&archive)?;
    let (_, named) = restorer.restore("named", &["--to-name", "between"]).await?;
    before.verify(&named.client().await?).await?;
    ensure!(
        acknowledged.verify(&named.client().await?).await.is_err(),
        "rows of later than the restore point are there"
    );
    named.stop(Mode::Immediate, SOON).await?;
    let (_, latest) = restorer.restore("latest", &[]).await?;
    acknowledged.verify(&latest.client().await?).await
}
