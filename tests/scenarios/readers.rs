//! Stock readers fed by the safekeepers: real standbys, `pg_receivewal`, a base backup whose WAL comes from the quorum.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pg_harness::{Bin, Folder, Mode, Postgres, Process, scenario, wait_for};
use scenarios::{CLUSTER, SOON, Stage, lsn, lsn_of};
use serde_json::Value;

const WITHIN: Duration = Duration::from_secs(175);

/// How a standby reaches whichever safekeeper answers, the first of them first.
fn anywhere(stage: &Stage) -> String {
    let hosts: Vec<String> = stage.quorum.nodes().iter().map(|node| node.pg().ip().to_string()).collect();
    let ports: Vec<String> = stage.quorum.nodes().iter().map(|node| node.pg().port().to_string()).collect();
    let (hosts, ports) = (hosts.join(","), ports.join(","));
    format!("host={hosts} port={ports} user=seawall connect_timeout=2 options='-c cluster={CLUSTER}'")
}

/// A hot standby on a base backup of the stage's primary.
async fn standby(folder: &Folder, stage: &Stage, conninfo: &str) -> Result<Postgres> {
    stage.postgres.base_backup("standby").await?;
    let standby = Postgres::builder(folder).name("standby").in_place().standby_of(conninfo);
    standby
        .setting("hot_standby_feedback", "on")
        .setting("wal_receiver_status_interval", "1s")
        .setting("wal_receiver_timeout", "4s")
        .setting("wal_retrieve_retry_interval", "500ms")
        .start()
        .await
        .context("start the standby")
}

/// One value of a query.
async fn ask(server: &Postgres, query: &str) -> Result<String> {
    let row = server.client().await?.query_one(query, &[]).await?;
    Ok(row.get::<_, Option<String>>(0).unwrap_or_default())
}

/// Waits until the standby has replayed this position.
async fn replays(standby: &Postgres, goal: u64) -> Result<()> {
    wait_for(&format!("replay of {goal:#X}"), SOON, async || {
        let at = lsn(&ask(standby, "SELECT pg_last_wal_replay_lsn()::text").await?)?;
        ensure!(at >= goal, "it stands at {at:#X}");
        Ok(Some(()))
    })
    .await
}

/// The readers of a safekeeper.
async fn readers(stage: &mut Stage, id: u64) -> Result<Vec<Value>> {
    let status = stage.quorum.node(id)?.status().await?;
    status["clusters"][0]["readers"].as_array().cloned().context("a list of readers")
}

/// Waits until a standby streams from this safekeeper.
async fn standby_at(stage: &mut Stage, id: u64) -> Result<Value> {
    wait_for(&format!("a standby at safekeeper {id}"), SOON, async || {
        Ok(readers(stage, id).await?.into_iter().find(|reader| reader["kind"] == "standby"))
    })
    .await
}

/// Goal: a standby lives on the quorum alone. Method: base backup, `primary_conninfo` at three safekeepers; it catches up under load and
/// answers queries; its safekeeper is killed, the next one frozen (a partition without a word), it restarts itself: each time it goes on
/// with another, and in the end it has what clients were promised.
#[test]
fn a_standby_follows_whichever_safekeeper_lives() {
    scenario("standby", WITHIN, async |folder| {
        let mut stage = Stage::set(&folder).await?;
        let ledger = stage.ledger(2).await?;
        ledger.wait_for_more(20, SOON).await?;
        let standby = standby(&folder, &stage, &anywhere(&stage)).await?;
        replays(&standby, stage.flushed().await?).await?;
        let seen = standby_at(&mut stage, 1).await?;
        ensure!(seen["application_name"] == "walreceiver" && seen["tli"] == 1, "{seen}");

        stage.quorum.node(1)?.kill()?;
        standby_at(&mut stage, 2).await?;
        ledger.wait_for_more(20, SOON).await?;
        replays(&standby, stage.flushed().await?).await?;

        stage.quorum.node(1)?.revive().await?;
        stage.quorum.node(2)?.pause()?;
        standby_at(&mut stage, 1).await?;
        ledger.wait_for_more(20, SOON).await?;
        replays(&standby, stage.flushed().await?).await?;
        stage.quorum.node(2)?.resume()?;

        standby.restart().await?;
        ledger.wait_for_more(20, SOON).await?;
        let acknowledged = ledger.stop().await?;
        replays(&standby, stage.flushed().await?).await?;
        acknowledged.verify(&standby.client().await?).await?;
        // The entry of the session that was frozen is gone as soon as somebody notices.
        wait_for("no standby at 2", SOON, async || {
            Ok(readers(&mut stage, 2).await?.iter().all(|reader| reader["kind"] != "standby").then_some(()))
        })
        .await
    });
}

/// Goal: a standby never holds a byte that is not committed. Method: two of three safekeepers die; a commit hangs on the primary, its WAL
/// reaches the third; the standby there neither receives nor shows it; a majority returns, and both appear.
#[test]
fn a_standby_never_holds_what_is_not_committed() {
    scenario("uncommitted", WITHIN, async |folder| {
        let mut stage = Stage::set(&folder).await?;
        stage.client().await?.batch_execute("CREATE TABLE t (n int)").await?;
        let standby = standby(&folder, &stage, &anywhere(&stage)).await?;
        replays(&standby, stage.flushed().await?).await?;
        standby_at(&mut stage, 1).await?;
        let commit = stage.all_have_everything().await?;
        stage.quorum.node(2)?.kill()?;
        stage.quorum.node(3)?.kill()?;
        let client = stage.client().await?;
        let hung =
            tokio::spawn(async move { client.batch_execute("INSERT INTO t SELECT generate_series(1, 5000)").await });
        wait_for("a commit that waits", SOON, async || stage.somebody_waits().await).await?;
        let goal = stage.flushed().await?;
        wait_for("its WAL on safekeeper 1", SOON, async || {
            let status = stage.quorum.node(1)?.status().await?;
            Ok((lsn_of(&status["clusters"][0]["flush_lsn"])? >= goal).then_some(()))
        })
        .await?;
        // Everything it may have was sent before the answer to this.
        let sent = standby_at(&mut stage, 1).await?;
        let committed = lsn_of(&stage.quorum.node(1)?.status().await?["clusters"][0]["commit_lsn"])?;
        ensure!(committed < goal, "the commit LSN is {committed:#X} without a majority");
        ensure!(lsn_of(&sent["sent_lsn"])? <= committed, "{sent} was sent, {committed:#X} is committed");
        let received = lsn(&ask(&standby, "SELECT pg_last_wal_receive_lsn()::text").await?)?;
        ensure!(received <= committed && received >= commit, "the standby holds {received:#X}");
        ensure!(ask(&standby, "SELECT count(*)::text FROM t").await? == "0", "the standby shows what is not committed");
        stage.quorum.node(2)?.revive().await?;
        hung.await??;
        replays(&standby, stage.flushed().await?).await?;
        ensure!(ask(&standby, "SELECT count(*)::text FROM t").await? == "5000", "the rows are missing");
        Ok(())
    });
}

/// Dead rows of the table `t` that a VACUUM leaves.
async fn left_by_vacuum(stage: &Stage) -> Result<i64> {
    let client = stage.client().await?;
    client.batch_execute("VACUUM t").await?;
    let dead = "SELECT n_dead_tup FROM pg_stat_user_tables WHERE relname = 't'";
    wait_for("the statistics of a VACUUM", SOON, async || {
        let row = client.query_one(dead, &[]).await?;
        Ok(Some(row.get(0)))
    })
    .await
}

/// Goal: what a query on a standby needs, the primary keeps, and no longer than that. Method: a snapshot on the standby, rows deleted on
/// the primary: VACUUM leaves them, and the slot has an xmin; the standby is stopped: the xmin goes, VACUUM removes them.
#[test]
fn feedback_of_a_standby_stops_vacuum_on_the_primary() {
    scenario("feedback", WITHIN, async |folder| {
        let mut stage = Stage::set(&folder).await?;
        let client = stage.client().await?;
        client
            .batch_execute("CREATE TABLE t WITH (autovacuum_enabled = off) AS SELECT generate_series(1, 1000) n")
            .await?;
        let standby = standby(&folder, &stage, &anywhere(&stage)).await?;
        replays(&standby, stage.flushed().await?).await?;
        let query = standby.client().await?;
        query.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM t").await?;
        let xmin = "SELECT xmin::text FROM pg_replication_slots WHERE slot_name = 'seawall'";
        let held = wait_for("an xmin at the slot", SOON, async || {
            Ok(Some(ask(&stage.postgres, xmin).await?).filter(|xmin| !xmin.is_empty()))
        });
        let held = held.await?;
        ensure!(standby_at(&mut stage, 1).await?["xmin"].is_u64(), "the registry does not know it");
        client.batch_execute("DELETE FROM t").await?;
        ensure!(left_by_vacuum(&stage).await? == 1000, "VACUUM removed what the standby's snapshot {held} needs");
        ensure!(
            query.query_one("SELECT count(*) FROM t", &[]).await?.get::<_, i64>(0) == 1000,
            "the snapshot lost rows"
        );
        drop(query);
        standby.stop(Mode::Fast, SOON).await?;
        wait_for("an xmin that is withdrawn", SOON, async || {
            Ok(ask(&stage.postgres, xmin).await?.is_empty().then_some(()))
        })
        .await?;
        ensure!(left_by_vacuum(&stage).await? == 0, "VACUUM leaves rows nobody needs");
        Ok(())
    });
}

/// `pg_receivewal` into a folder, as a process or to its end.
struct Receive<'a> {
    program: Bin,
    folder: &'a Folder,
    dir: PathBuf,
    name: String,
    conninfo: String,
}

impl Receive<'_> {
    fn args(&self, extra: &[&str]) -> Vec<String> {
        let dir = self.dir.display().to_string();
        let args = ["-D", &dir, "-d", &self.conninfo, "--no-password", "-s", "1"];
        args.iter().chain(extra).map(|arg| (*arg).to_owned()).collect()
    }

    /// Until this position.
    async fn until(&self, end: u64, extra: &[&str]) -> Result<()> {
        let end = format!("{:X}/{:X}", end >> 32, end & 0xffff_ffff);
        let name = format!("{}-{}", self.name, end.replace('/', "-"));
        let args = self.args(&[extra, &["--no-loop", "--endpos", &end]].concat());
        let done = self.program.run(self.folder, &name, args, SOON).await?;
        done.expect_code(0).with_context(|| format!("pg_receivewal {name}")).map(|_| ())
    }

    fn spawn(&self, extra: &[&str]) -> Result<Process> {
        self.program.spawn(self.folder, &format!("{}-runs", self.name), self.args(extra))
    }
}

/// What an operator's Ctrl-C does: it says CopyDone and waits for ours.
async fn interrupt(receiver: &mut Process) -> Result<()> {
    receiver.signal(pg_harness::Signal::INT)?;
    let ended = receiver.wait(SOON).await?;
    ensure!(ended.success(), "pg_receivewal ended with {ended} when it was interrupted: {}", receiver.log()?);
    Ok(())
}

/// Fails unless the folder's segments are the primary's, byte for byte, up to `end`, without a hole. Returns the first position.
fn same_as_primary(dir: &Path, stage: &Stage, segment: u64, end: u64) -> Result<u64> {
    let mut names: Vec<String> = Vec::new();
    for entry in fs::read_dir(dir)? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    let numbers: Vec<u64> = names
        .iter()
        .map(|name| {
            Ok(u64::from_str_radix(&name[8..16], 16)? * ((1 << 32) / segment) + u64::from_str_radix(&name[16..24], 16)?)
        })
        .collect::<Result<_>>()?;
    ensure!(numbers.windows(2).all(|pair| pair[0] + 1 == pair[1]), "holes in {names:?}");
    ensure!(numbers.last().is_some_and(|last| (last + 1) * segment >= end), "{names:?} end before {end:#X}");
    for (name, number) in names.iter().zip(&numbers) {
        let ours = fs::read(dir.join(name)).with_context(|| name.clone())?;
        let theirs =
            fs::read(stage.postgres.data_dir().join("pg_wal").join(&name[..24])).with_context(|| name.clone())?;
        let length = usize::try_from(segment.min(end.saturating_sub(number * segment)))?;
        ensure!(ours.len() >= length && ours[..length] == theirs[..length], "{name} differs from the primary's");
        ensure!(name.len() == 24 || *number == end / segment, "{name} is not whole");
    }
    Ok(numbers.first().copied().unwrap_or_default() * segment)
}

/// Goal: `pg_receivewal` takes from a safekeeper what it takes from a primary. Method: 1 MB segments, the primary keeps its WAL; without
/// a slot, from an empty folder, stopped and started on the half-filled one; with a slot it created; with `--synchronous`; each folder
/// equals the primary's files up to where it ended.
#[test]
fn pg_receivewal_takes_the_primarys_bytes() {
    scenario("receivewal", WITHIN, async |folder| {
        const SEGMENT: u64 = 1 << 20;
        let keep =
            |postgres: pg_harness::PostgresBuilder| postgres.segment_size_mb(1).fresh().setting("wal_keep_size", "1GB");
        let mut stage = Stage::set_with(&folder, |quorum| quorum, keep).await?;
        let receive = |stage: &mut Stage, id: u64, name: &str| -> Result<Receive<'_>> {
            let conninfo = stage.quorum.node(id)?.conninfo(CLUSTER);
            let program = stage.postgres.bin("pg_receivewal");
            Ok(Receive { program, folder: &folder, dir: folder.sub(name)?, name: name.to_owned(), conninfo })
        };
        let plain = receive(&mut stage, 1, "plain")?;
        let slot = receive(&mut stage, 2, "slot")?;
        let synchronous = receive(&mut stage, 3, "synchronous")?;
        slot.program
            .run(&folder, "create-slot", slot.args(&["--slot", "archive", "--create-slot"]), SOON)
            .await?
            .expect_code(0)?;
        stage.write_wal(8).await?;
        let first = stage.all_have_everything().await?;
        let mut follows = synchronous.spawn(&["--synchronous"])?;
        plain.until(first, &[]).await?;
        slot.until(first, &["--slot", "archive"]).await?;
        for receive in [&plain, &slot] {
            same_as_primary(&receive.dir, &stage, SEGMENT, first)?;
        }
        stage.write_wal(12).await?;
        let second = stage.all_have_everything().await?;
        // The first goes on in its half-filled folder, at another safekeeper; the second where its slot is.
        let elsewhere = Receive { conninfo: stage.quorum.node(3)?.conninfo(CLUSTER), ..plain };
        elsewhere.until(second, &[]).await?;
        let mut through = slot.spawn(&["--slot", "archive", "--synchronous"])?;
        let moved = wait_for("a slot that moved", SOON, async || {
            let slots = stage.quorum.node(2)?.status().await?["clusters"][0]["slots"].clone();
            ensure!(slots[0]["name"] == "archive" && slots[0]["active"] == true, "{slots}");
            let restart = lsn_of(&slots[0]["restart_lsn"])?;
            ensure!(restart >= second, "it stands at {restart:#X}");
            Ok(Some(restart))
        });
        moved.await?;
        interrupt(&mut through).await?;
        for receive in [&elsewhere, &slot] {
            let start = same_as_primary(&receive.dir, &stage, SEGMENT, second)?;
            ensure!(start < first, "it began anew at {start:#X}");
        }
        // What says it flushes at once has told so, to the byte.
        let flushed = wait_for("a synchronous receiver that has everything", SOON, async || {
            let readers = readers(&mut stage, 3).await?;
            let all = readers.iter().find(|reader| reader["kind"] == "receiver" && !reader["flush_lsn"].is_null());
            let flush = lsn_of(&all.context("no receiver")?["flush_lsn"])?;
            Ok((flush >= second).then_some(flush))
        })
        .await?;
        interrupt(&mut follows).await?;
        same_as_primary(&synchronous.dir, &stage, SEGMENT, flushed.min(second))?;
        slot.program
            .run(&folder, "drop-slot", slot.args(&["--slot", "archive", "--drop-slot"]), SOON)
            .await?
            .expect_code(0)?;
        let slots = stage.quorum.node(2)?.status().await?["clusters"][0]["slots"].clone();
        ensure!(slots == serde_json::json!([]), "{slots}");
        Ok(())
    });
}

/// Goal: a standby that reads nothing but files follows too, to the last acknowledged byte, and outlives a source that is away. Method:
/// `restore_command = 'seawall wal-fetch …'` alone: it follows a segment that grows, zero-padded; everything freezes for longer than the
/// command is patient, which must answer "not now" and not end the standby; then it is promoted exactly where the log ends.
#[test]
fn a_standby_fed_by_files() {
    scenario("files", WITHIN, async |folder| {
        let archive = folder.sub("archive")?;
        let set = |quorum: pg_harness::QuorumBuilder| quorum.arg(&format!("--archive={}", archive.display()));
        let mut stage = Stage::set_with(&folder, set, |postgres| postgres).await?;
        stage.client().await?.batch_execute("CREATE TABLE t (n int)").await?;
        stage.postgres.base_backup("standby").await?;
        let program = stage.quorum.bin().path().display().to_string();
        let (addresses, place) = (stage.quorum.addresses(), archive.display().to_string());
        let command = format!("{program} wal-fetch --replica {place} --safekeepers {addresses} %f %p");
        let builder = Postgres::builder(&folder).name("standby").in_place().standby_of("");
        let builder = builder.setting("restore_command", &command).setting("wal_retrieve_retry_interval", "500ms");
        let standby = builder.start().await?;
        for n in 1..=3 {
            stage.client().await?.batch_execute(&format!("INSERT INTO t VALUES ({n})")).await?;
            wait_for("the row", SOON, async || {
                Ok((ask(&standby, "SELECT count(*)::text FROM t").await? == n.to_string()).then_some(()))
            })
            .await?;
        }
        for id in [1, 2, 3] {
            stage.quorum.node(id)?.pause()?;
        }
        // The command is patient for 30 s.
        let began = std::time::Instant::now();
        wait_for("an attempt that was given up", SOON, async || {
            ensure!(ask(&standby, "SELECT count(*)::text FROM t").await? == "3", "the standby does not answer");
            Ok((began.elapsed() > Duration::from_secs(36)).then_some(()))
        })
        .await?;
        for id in [1, 2, 3] {
            stage.quorum.node(id)?.resume()?;
        }
        stage.client().await?.batch_execute("INSERT INTO t VALUES (4)").await?;
        let end = stage.all_have_everything().await?;
        stage.postgres.kill().await?;
        wait_for("the last acknowledged row", SOON, async || {
            Ok((ask(&standby, "SELECT count(*)::text FROM t").await? == "4").then_some(()))
        })
        .await?;
        replays(&standby, end).await?;
        standby.promote().await?;
        let history = fs::read_to_string(standby.data_dir().join("pg_wal/00000002.history"))?;
        let switch = lsn(history.split_whitespace().nth(1).context("no switch point")?)?;
        let committed = stage.committed().await?;
        ensure!(switch >= end && switch <= committed, "promoted at {switch:X}, not between {end:X} and {committed:X}");
        Ok(())
    });
}

/// Goal: a standby can be built without the primary's network, and the quorum is enough to have everything. Method: a base backup without
/// WAL, the primary is killed, a server starts on the backup with the safekeepers as its source, and is promoted: every
/// acknowledged row is there.
#[test]
fn a_base_backup_is_completed_from_the_safekeepers() {
    scenario("basebackup", WITHIN, async |folder| {
        let mut stage = Stage::set(&folder).await?;
        let ledger = stage.ledger(2).await?;
        ledger.wait_for_more(20, SOON).await?;
        let target = stage.postgres.base_backup("standby").await?;
        // What streamed beside the backup is taken away: all WAL comes from the quorum.
        for entry in fs::read_dir(target.join("pg_wal"))? {
            let entry = entry?;
            if entry.file_type()?.is_file() {
                fs::remove_file(entry.path())?;
            }
        }
        ledger.wait_for_more(50, SOON).await?;
        let acknowledged = ledger.stop().await?;
        // Commits of the last moment are on a majority, which learns that they are committed from the next leader.
        stage.all_have_everything().await?;
        stage.postgres.kill().await?;
        let server = Postgres::builder(&folder).name("standby").in_place().standby_of(&anywhere(&stage));
        let server = server.start().await?;
        wait_for("every acknowledged row", SOON, async || {
            acknowledged.verify(&server.client().await?).await?;
            Ok(Some(()))
        })
        .await?;
        server.set("synchronous_standby_names", "").await?;
        server.promote().await?;
        acknowledged.verify(&server.client().await?).await
    });
}
