//! A base backup is whole or is nothing; what is damaged is said; what is promised stays.

use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, ensure};
use pg_harness::{Bin, Finished, Folder, Mode, Postgres, Quorum, scenario, wait_for};
use scenarios::{SOON, Stage};
use serde_json::Value;

const WITHIN: Duration = Duration::from_secs(170);
/// Moments at which a backup is killed.
const KILLS: u64 = 5;

fn open_to_all(path: &Path) -> Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(0o777))?;
    for entry in fs::read_dir(path)?.flatten().filter(|entry| entry.path().is_dir()) {
        open_to_all(&entry.path())?;
    }
    Ok(())
}

/// A server with a tablespace, and a folder for its archive.
struct Rig {
    folder: Folder,
    archive: PathBuf,
    postgres: Postgres,
}

impl Rig {
    async fn new(folder: &Folder) -> Result<Rig> {
        let archive = folder.sub("archive")?;
        let space = folder.sub("space")?;
        // The server's user makes a folder of its own in it, and takes it.
        open_to_all(&space)?;
        let postgres = Postgres::builder(folder).segment_size_mb(1).start().await?;
        let own = space.join("own");
        let made = postgres.program("mkdir").arg(&own).output();
        // Not one of PostgreSQL's programs where those lie apart from the system's.
        if made.is_err() || !own.is_dir() {
            fs::create_dir(&own)?;
            std::os::unix::fs::chown(&own, Some(owner(postgres.data_dir())?.0), Some(owner(postgres.data_dir())?.1))?;
        }
        let client = postgres.client().await?;
        client.batch_execute(&format!("CREATE TABLESPACE space LOCATION '{}'", own.display())).await?;
        client
            .batch_execute(
                "CREATE TABLE plain AS SELECT i, repeat(md5(i::text), 8) AS t FROM generate_series(1, 60000) i;
                 CREATE TABLE spaced TABLESPACE space AS SELECT i FROM generate_series(1, 5000) i;
                 CHECKPOINT",
            )
            .await?;
        Ok(Rig { folder: folder.clone(), archive, postgres })
    }

    fn url(&self) -> String {
        self.archive.to_string_lossy().into_owned()
    }

    async fn seawall(&self, name: &str, args: &[&str]) -> Result<Finished> {
        Bin::seawall()?.run(&self.folder, name, args.iter().copied(), SOON).await
    }

    async fn backup(&self, name: &str, more: &[&str]) -> Result<Finished> {
        let (conninfo, url) = (self.postgres.conninfo(), self.url());
        let args =
            [&["backup", "--primary", &conninfo, "--replica", &url, "--include-wal", "--json"][..], more].concat();
        self.seawall(name, &args).await
    }

    async fn snapshots(&self, name: &str) -> Result<Vec<Value>> {
        let finished = self.seawall(name, &["snapshots", &self.url(), "--json"]).await?;
        // An archive in which nothing was ever begun is none.
        if finished.code != Some(0) {
            return Ok(Vec::new());
        }
        let rows: Value = serde_json::from_str(&finished.stdout)?;
        Ok(rows.as_array().cloned().unwrap_or_default())
    }
}

fn owner(path: &Path) -> Result<(u32, u32)> {
    use std::os::unix::fs::MetadataExt;
    let metadata = fs::metadata(path)?;
    Ok((metadata.uid(), metadata.gid()))
}

async fn sums(postgres: &Postgres) -> Result<Vec<i64>> {
    let client = postgres.client().await?;
    let row =
        client.query_one("SELECT (SELECT sum(i) FROM plain)::bigint, (SELECT sum(i) FROM spaced)::bigint", &[]).await?;
    Ok(vec![row.get(0), row.get(1)])
}

/// Goal: an interrupted backup leaves nothing that counts, and does not hinder the next. Method: kill -9 at several moments of a throttled
/// backup, then look; at last one that is left alone, restored with its tablespace moved, and compared.
#[test]
fn killed_at_any_moment_it_never_was() {
    scenario("backup_killed", WITHIN, async |folder| {
        let rig = Rig::new(&folder).await?;
        let (conninfo, url) = (rig.postgres.conninfo(), rig.url());
        for round in 0..KILLS {
            let args = ["backup", "--primary", &conninfo, "--replica", &url, "--include-wal", "--max-rate", "8192"];
            let mut backup = Bin::seawall()?.spawn(&folder, &format!("killed-{round}"), args)?;
            // Spread over the whole of it: connecting, copying, storing.
            tokio::time::sleep(Duration::from_millis(100 + 900 * round)).await;
            ensure!(backup.is_running()?, "round {round}: it ended before it was killed: {}", backup.log()?);
            backup.kill()?;
            let snapshots = rig.snapshots(&format!("look-{round}")).await?;
            ensure!(snapshots.is_empty(), "round {round}: {snapshots:?}");
        }
        let taken = rig.backup("whole", &[]).await?.expect_code(0)?;
        let taken: Value = serde_json::from_str(&taken.stdout)?;
        ensure!(taken["files"].as_u64() > Some(500) && taken["chunks"].as_u64() > Some(1), "{taken}");
        let snapshots = rig.snapshots("look-whole").await?;
        ensure!(snapshots.len() == 1, "{snapshots:?}");

        let client = rig.postgres.client().await?;
        let oid: u32 = client.query_one("SELECT oid FROM pg_tablespace WHERE spcname = 'space'", &[]).await?.get(0);
        let moved = format!("{oid}={}", folder.path().join("moved").display());
        let output = folder.path().join("restored").to_string_lossy().into_owned();
        let restore = ["restore", &url, "--output", &output, "--tablespace-mapping", &moved];
        rig.seawall("restore", &restore).await?.expect_code(0)?;
        let restored = Postgres::builder(&folder).name("restored").in_place().start().await?;
        ensure!(sums(&restored).await? == sums(&rig.postgres).await?);
        Ok(())
    });
}

/// Goal: damage on the server is said, and a backup that holds it does not pass for a good one. Method: one byte of a table is flipped
/// under a server with page checksums.
#[test]
fn a_flipped_page_is_reported() {
    scenario("backup_damaged", WITHIN, async |folder| {
        let rig = Rig::new(&folder).await?;
        let client = rig.postgres.client().await?;
        let file: String = client.query_one("SELECT pg_relation_filepath('plain')", &[]).await?.get(0);
        drop(client);
        rig.postgres.stop(Mode::Fast, SOON).await?;
        let output =
            rig.postgres.program("pg_checksums").arg("--enable").arg("-D").arg(rig.postgres.data_dir()).output()?;
        ensure!(output.status.success(), "pg_checksums: {}", String::from_utf8_lossy(&output.stderr));
        let handle = fs::OpenOptions::new().read(true).write(true).open(rig.postgres.data_dir().join(&file))?;
        let (at, mut byte) = (7 * 8192 + 4000, [0]);
        handle.read_exact_at(&mut byte, at)?;
        handle.write_all_at(&[byte[0] ^ 1], at)?;
        rig.postgres.start().await?;
        let refused = rig.backup("refused", &[]).await?.expect_code(3)?;
        let named = format!("block 7 of {file}");
        ensure!(refused.stderr.contains(&named), "{}", refused.stderr);
        ensure!(rig.snapshots("look-refused").await?.is_empty());
        let accepted = rig.backup("accepted", &["--accept-damaged-pages"]).await?.expect_code(0)?;
        let accepted: Value = serde_json::from_str(&accepted.stdout)?;
        ensure!(accepted["damaged_pages"][0]["path"] == Value::String(file.clone()), "{accepted}");
        ensure!(rig.snapshots("look-accepted").await?.len() == 1);
        Ok(())
    });
}

/// Goal: with a quorum, snapshots, validations and retention come by themselves, on a schedule, and count only with the WAL they need; retention keeps what is
/// promised. Method: safekeepers and proposer with one archive; look until snapshots are there; restore the newest from the archive alone.
#[test]
fn snapshots_on_a_schedule() {
    scenario("backup_schedule", WITHIN, async |folder| {
        let archive = folder.sub("archive")?.to_string_lossy().into_owned();
        let flag = format!("--archive={archive}");
        let postgres = Stage::primary(&folder).segment_size_mb(1).start().await?;
        let client = postgres.client().await?;
        client.batch_execute("CREATE TABLE kept AS SELECT i FROM generate_series(1, 10000) i").await?;
        let mut quorum = Quorum::builder(&folder).arg(&flag).start().await?;
        let conninfo = postgres.conninfo();
        quorum.init("orders", Some(&conninfo)).await?;
        let addresses = quorum.addresses();
        let upkeep = ["--retain", "7d", "--sole-uploader", "--validate-interval", "1d"];
        let more = [&[flag.as_str(), "--snapshot-interval", "5s"], &upkeep[..]].concat();
        let proposer = quorum.proposer_with("orders", &conninfo, &addresses, &more).await?;
        proposer.wait_ready(SOON).await?;
        postgres.set("synchronous_standby_names", "FIRST 1 (seawall)").await?;
        client.batch_execute("INSERT INTO kept VALUES (0)").await?;
        let look = async |name: &str| {
            let finished = Bin::seawall()?.run(&folder, name, ["snapshots", &archive, "--json"], SOON).await?;
            Ok::<Value, anyhow::Error>(serde_json::from_str(&finished.stdout).unwrap_or_default())
        };
        wait_for("two snapshots on a schedule", Duration::from_secs(90), async || {
            let rows = look("look").await?;
            Ok((rows.as_array().map_or(0, Vec::len) >= 2).then_some(()))
        })
        .await?;
        // It validates by itself as soon as there is a snapshot, and says when; retention has run, too.
        let http = proposer.http();
        wait_for("a validation and a retention on a schedule", Duration::from_secs(90), async || {
            let (_, metrics) = pg_harness::get(http, "/metrics").await?;
            let told = |name: &str| metrics.lines().any(|line| line.starts_with(name));
            let names =
                ["seawall_validation_last_success", "seawall_retention_last_success", "seawall_restorable_from"];
            for name in names {
                ensure!(told(name), "no {name}; {}", proposer.log()?);
            }
            Ok(Some(()))
        })
        .await?;
        let retain = ["retain", &archive, "--window", "7d", "--dry-run", "--json"];
        let retain = Bin::seawall()?.run(&folder, "retain", retain, SOON).await?.expect_code(0)?;
        let plan: Value = serde_json::from_str(&retain.stdout)?;
        ensure!(plan["superfluous"]["snapshots"].as_array().is_some_and(Vec::is_empty), "{plan}");
        let output = folder.path().join("restored").to_string_lossy().into_owned();
        let restore = ["restore", &archive, "--output", &output, "--archive-only"];
        Bin::seawall()?.run(&folder, "restore", restore, SOON).await?.expect_code(0)?;
        let restored = Postgres::builder(&folder).name("restored").in_place().start().await?;
        let count: i64 = restored.client().await?.query_one("SELECT count(*) FROM kept", &[]).await?.get(0);
        ensure!(count == 10_001, "{count} rows");
        Ok(())
    });
}
