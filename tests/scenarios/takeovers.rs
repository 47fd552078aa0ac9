//! Who may take over is decided by where the safekeepers' logs end: a tail nobody was promised, one that only the new primary has,
//! one that a majority has.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pg_harness::{Folder, Postgres, Proposer, scenario, wait_for};
use scenarios::{CLUSTER, SOON, Stage, lsn, lsn_of};
use serde_json::Value;

const WITHIN: Duration = Duration::from_secs(170);

/// A commit that hangs, all of its WAL on one safekeeper alone: the other two are killed. Returns the end of the WAL.
async fn lone_tail(stage: &mut Stage, on: u64) -> Result<u64> {
    // In order, so that they have written down what they know to be committed: a standby may lack WAL from before its base backup, and is
    // admitted without it only where that is committed.
    for node in (1..=3).filter(|node| *node != on) {
        stage.quorum.node(node)?.terminate(SOON).await?;
    }
    let client = stage.client().await?;
    // It ends with its server.
    tokio::spawn(async move { drop(client.batch_execute("INSERT INTO truth VALUES (-1)").await) });
    wait_for("a commit that waits", SOON, async || stage.somebody_waits().await).await?;
    let end = stage.flushed().await?;
    wait_for("its WAL on one safekeeper", SOON, async || {
        let status = stage.quorum.node(on)?.status().await?;
        Ok((lsn_of(&status["clusters"][0]["flush_lsn"])? >= end).then_some(()))
    })
    .await?;
    Ok(end)
}

async fn primary_and_proposer_die(stage: &mut Stage) -> Result<()> {
    stage.postgres.kill().await?;
    stage.proposer.kill()
}

async fn beside(stage: &mut Stage, primary: &Postgres, flags: &[&str]) -> Result<Proposer> {
    let addresses = stage.quorum.addresses();
    stage.quorum.proposer_with(CLUSTER, &primary.conninfo(), &addresses, flags).await
}

async fn leads(proposer: &Proposer) -> Result<()> {
    proposer.wait_until("a leading proposer", SOON, |status| status["state"] == "leading").await?;
    Ok(())
}

async fn refused(proposer: &Proposer, sentence: &str) -> Result<()> {
    let status = proposer.wait_until("a refusal", SOON, |status| status["state"] == "refused").await?;
    let refusal = status["refusal"].as_str().unwrap_or_default();
    ensure!(refusal.contains(sentence), "refused with another sentence: {refusal}");
    Ok(())
}

/// Of a running safekeeper: term, history and where its log ends.
async fn log(stage: &mut Stage, node: u64) -> Result<[Value; 3]> {
    let status = stage.quorum.node(node)?.status().await?;
    Ok(["term", "history", "flush_lsn"].map(|key| status["clusters"][0][key].clone()))
}

async fn rows(server: &Postgres) -> Result<i64> {
    Ok(server.client().await?.query_one("SELECT count(*) FROM truth WHERE a = -1", &[]).await?.get(0))
}

/// Everything a safekeeper has must be committed and on TLI 2.
async fn follows(stage: &mut Stage, primary: &Postgres, node: u64) -> Result<()> {
    let query = "SELECT pg_current_wal_flush_lsn()::text";
    let goal = lsn(primary.client().await?.query_one(query, &[]).await?.get(0))?;
    wait_for(&format!("safekeeper {node} with everything"), SOON, async || {
        let cluster = stage.quorum.node(node)?.status().await?["clusters"][0].clone();
        let path = cluster["path"].as_str().unwrap_or_default().to_owned();
        ensure!(path.contains(";2:") && lsn_of(&cluster["commit_lsn"])? >= goal, "{path} {}", cluster["commit_lsn"]);
        Ok(Some(()))
    })
    .await
}

/// Goal: a tail that one safekeeper has and nobody was promised hinders a promoted standby only while it might have been promised.
/// Method: a commit hangs with its WAL on safekeeper 1 alone; the standby, fed by the quorum, lacks it. With 1 and 2 up it may be on 3
/// too: refused, nothing is raised or cut, also not by a second try. With 3 the majority below counts: admitted, the tail is cut, and
/// the old primary, which has it, is refused.
#[test]
fn a_tail_that_nobody_was_promised() {
    scenario("lone-tail", WITHIN, async |folder| {
        let mut stage = Stage::set(&folder).await?;
        let standby = stage.standby(&folder, "standby").await?;
        stage.client().await?.batch_execute("CREATE TABLE truth (a int); INSERT INTO truth VALUES (1)").await?;
        stage.all_have_everything().await?;
        stage.follows(&standby).await?;
        lone_tail(&mut stage, 1).await?;
        primary_and_proposer_die(&mut stage).await?;
        stage.quorum.node(2)?.revive().await?;
        standby.promote().await?;
        let before = [log(&mut stage, 1).await?, log(&mut stage, 2).await?];
        for _ in 0..2 {
            let early = beside(&mut stage, &standby, &["--takeover"]).await?;
            refused(&early, "left the quorum's log").await?;
        }
        let after = [log(&mut stage, 1).await?, log(&mut stage, 2).await?];
        ensure!(before == after, "a refused proposer changed {before:?} to {after:?}");
        stage.quorum.node(3)?.revive().await?;
        let proposer = beside(&mut stage, &standby, &["--takeover"]).await?;
        leads(&proposer).await?;
        standby.client().await?.batch_execute("INSERT INTO truth VALUES (2)").await?;
        follows(&mut stage, &standby, 1).await?;
        ensure!(rows(&standby).await? == 0, "a row that was never in the standby's WAL is there");
        // What was cut is really gone: with the log of 1 alone beside one other, commits go on and a new leader is elected.
        stage.quorum.node(3)?.kill()?;
        drop(proposer);
        let proposer = beside(&mut stage, &standby, &[]).await?;
        leads(&proposer).await?;
        standby.client().await?.batch_execute("INSERT INTO truth VALUES (3)").await?;
        stage.postgres.start().await?;
        ensure!(rows(&stage.postgres).await? == 1, "without pre-start a crashed primary shows what it has");
        stage.proposer.revive().await?;
        refused(&stage.proposer, "left the quorum's log").await?;
        ensure!(proposer.status().await?["state"] == "leading", "the old primary deposed the new one");
        Ok(())
    });
}

/// Goal: a standby fed by the primary itself may be ahead of the quorum, and brings its tail along. Method: it hangs at the primary
/// directly, shows a row whose commit hangs (which status warns of), and is promoted with every safekeeper down in turn, the one that
/// has the tail among them: it leads, and the row is committed and on all three.
#[test]
fn a_standby_ahead_of_the_quorum() {
    for down in [1, 2, 3] {
        scenario("ahead", WITHIN, async |folder| ahead(&folder, down).await.with_context(|| format!("{down} down")));
    }
}

async fn ahead(folder: &Folder, down: u64) -> Result<()> {
    let mut stage = Stage::set(folder).await?;
    stage.client().await?.batch_execute("CREATE TABLE truth (a int); INSERT INTO truth VALUES (1)").await?;
    stage.all_have_everything().await?;
    stage.postgres.base_backup("direct").await?;
    let direct = Stage::primary(folder).name("direct").in_place().standby_of(&stage.postgres.conninfo());
    // The backup ended a segment, and so does the log: without the one before nothing could be compared.
    let direct =
        direct.setting("synchronous_standby_names", "seawall").setting("wal_keep_size", "64MB").start().await?;
    let end = lone_tail(&mut stage, 2).await?;
    wait_for("the row on the direct standby", SOON, async || Ok((rows(&direct).await? == 1).then_some(()))).await?;
    if down == 1 {
        let warned = |status: &Value| status["warnings"].to_string().contains("standby-ahead");
        stage.proposer.wait_until("a warning that it shows too much", SOON, warned).await?;
    }
    primary_and_proposer_die(&mut stage).await?;
    for node in [1, 3] {
        stage.quorum.node(node)?.revive().await?;
    }
    stage.quorum.node(down)?.kill()?;
    direct.promote().await?;
    let proposer = beside(&mut stage, &direct, &["--takeover"]).await?;
    leads(&proposer).await?;
    direct.client().await?.batch_execute("INSERT INTO truth VALUES (2)").await?;
    ensure!(rows(&direct).await? == 1, "the tail is gone");
    stage.quorum.node(down)?.revive().await?;
    for node in [1, 2, 3] {
        follows(&mut stage, &direct, node).await?;
    }
    ensure!(stage.committed().await? > end, "the tail is not committed");
    Ok(())
}

/// Goal: a standby is judged by its own bytes, and what is refused leaves no trace. Method: a copy of the primary writes more rows of its
/// own; a standby of the copy has the same numbers and more WAL than the quorum: `pre-promote` finds the difference, exit code 3, puts
/// its settings back, and lifts the fence, so that the primary goes on within seconds. A standby of the primary passes, and its
/// settings file is as it was too, while it runs on with the safekeepers as its source.
#[test]
fn pre_promote_looks_at_the_standby_itself() {
    scenario("itself", WITHIN, async |folder| {
        let stage = Stage::set(&folder).await?;
        stage.client().await?.batch_execute("CREATE TABLE truth (a int); CHECKPOINT").await?;
        stage.postgres.stop(pg_harness::Mode::Fast, SOON).await?;
        stage.postgres.copy_data("copy").await?;
        stage.postgres.start().await?;
        let copy = Postgres::builder(&folder).name("copy").in_place().setting("synchronous_standby_names", "");
        let copy = copy.start().await?;
        copy.base_backup("of-copy").await?;
        stage.write_wal(40).await?;
        let more = "INSERT INTO truth SELECT generate_series(1, 1000000)";
        copy.client().await?.batch_execute(more).await?;
        let of_copy =
            Postgres::builder(&folder).name("of-copy").in_place().standby_of(&copy.conninfo()).start().await?;
        of_copy.client().await?.batch_execute("ALTER SYSTEM SET primary_slot_name = 'mine'").await?;
        let file = async |server: &Postgres| -> Result<String> {
            let query =
                "SELECT coalesce(string_agg(name || '=' || setting, ',' ORDER BY seqno), '') FROM pg_file_settings
                         WHERE sourcefile LIKE '%auto.conf'";
            Ok(server.client().await?.query_one(query, &[]).await?.get(0))
        };
        let before = file(&of_copy).await?;
        let (addresses, conninfo) = (stage.quorum.addresses(), of_copy.conninfo());
        let args = ["pre-promote", "--safekeepers", &addresses, "--cluster", CLUSTER, "--standby", &conninfo];
        let refused = stage.quorum.bin().run(&folder, "of-a-copy", args, SOON).await?.expect_code(3)?;
        ensure!(refused.stderr.contains("differs from the quorum's log"), "{}", refused.stderr);
        ensure!(file(&of_copy).await? == before, "its settings are {}, not {before}", file(&of_copy).await?);
        leads(&stage.proposer).await?;
        stage.client().await?.batch_execute("INSERT INTO truth VALUES (2)").await?;

        let standby = stage.standby(&folder, "standby").await?;
        stage.follows(&standby).await?;
        let before = file(&standby).await?;
        stage.pre_promote(&folder, &standby, "of-the-primary").await?;
        ensure!(file(&standby).await? == before, "its settings are {}, not {before}", file(&standby).await?);
        standby.promote().await?;
        Ok(())
    });
}

/// Goal: a cluster manager that starts a crashed primary as a standby and promotes it gets what it had. Method: a commit hangs with its
/// WAL on safekeeper 3 alone; kill -9; started with `standby.signal`, promoted: a new TLI at its local end. Without permission it is
/// refused; with it, it leads, and the row is committed. The slot of the time before is gone.
#[test]
fn a_crashed_primary_that_is_promoted_again() {
    scenario("again", WITHIN, async |folder| {
        let mut stage = Stage::set(&folder).await?;
        stage.client().await?.batch_execute("CREATE TABLE truth (a int); INSERT INTO truth VALUES (1)").await?;
        stage.all_have_everything().await?;
        let end = lone_tail(&mut stage, 3).await?;
        primary_and_proposer_die(&mut stage).await?;
        for node in [1, 2] {
            stage.quorum.node(node)?.revive().await?;
        }
        let again = Stage::primary(&folder).in_place().standby_of("host=/nowhere");
        let again = again.setting("synchronous_standby_names", "seawall").start().await?;
        // A proposer beside a standby takes the slot away that it left there when it was the primary.
        let slots = "SELECT count(*) FROM pg_replication_slots";
        let left: i64 = again.client().await?.query_one(slots, &[]).await?.get(0);
        ensure!(left == 1, "there are {left} slots on the crashed primary");
        let waits = beside(&mut stage, &again, &[]).await?;
        waits.wait_until("a waiting proposer", SOON, |status| status["state"] == "standby").await?;
        wait_for("a standby without our slot", SOON, async || {
            let left: i64 = again.client().await?.query_one(slots, &[]).await?.get(0);
            Ok((left == 0).then_some(()))
        })
        .await?;
        drop(waits);
        again.promote().await?;
        let before = log(&mut stage, 1).await?;
        let beside_it = beside(&mut stage, &again, &[]).await?;
        refused(&beside_it, "--takeover").await?;
        ensure!(log(&mut stage, 1).await? == before, "a refused proposer changed something");
        drop(beside_it);
        let proposer = beside(&mut stage, &again, &["--takeover"]).await?;
        leads(&proposer).await?;
        again.client().await?.batch_execute("INSERT INTO truth VALUES (2)").await?;
        ensure!(rows(&again).await? == 1 && stage.committed().await? > end, "the tail is not committed");
        follows(&mut stage, &again, 3).await
    });
}

/// Goal: `walproposer --sync` beside a living proposer loses nothing and bars nobody, and an election never moves the slot back.
/// Method: five of them under load; each prints an end that is committed; the proposer leads again each time.
#[test]
fn sync_beside_a_living_proposer() {
    scenario("sync-race", WITHIN, async |folder| {
        let stage = Stage::set(&folder).await?;
        let ledger = stage.ledger(3).await?;
        let slot = "SELECT restart_lsn::text FROM pg_replication_slots WHERE slot_name = 'seawall'";
        let mut restart = 0;
        for round in 0..5 {
            ledger.wait_for_more(50, SOON).await?;
            let (addresses, name) = (stage.quorum.addresses(), format!("sync-{round}"));
            let args = ["walproposer", "--sync", "--safekeepers", &addresses, "--cluster", CLUSTER];
            let synced = stage.quorum.bin().run(&folder, &name, args, SOON).await?.expect_code(0)?;
            let end = lsn(synced.stdout.trim())?;
            ensure!(stage.committed().await? >= end, "--sync said {end:X}, which is not committed");
            ledger.wait_for_more(50, SOON).await?;
            let now = lsn(stage.client().await?.query_one(slot, &[]).await?.get(0))?;
            ensure!(now >= restart, "the slot went back from {restart:X} to {now:X}");
            restart = now;
        }
        stage.settle(ledger).await
    });
}
