//! A primary that does not continue the quorum's log is refused: with a sentence, without deposing anybody, without a byte changed.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pg_harness::{Forwarder, Mode, Postgres, PostgresBuilder, scenario, wait_for};
use scenarios::{CLUSTER, Logs, SOON, Stage};
use serde_json::Value;

const WITHIN: Duration = Duration::from_secs(170);
const REFUSED_WITHIN: Duration = Duration::from_secs(30);

/// A server that pretends to be the primary. Its commits wait for nobody, so that it can write what it likes, until [`is_refused`].
fn imposter(builder: PostgresBuilder, name: &str) -> PostgresBuilder {
    builder.name(name).setting("restart_after_crash", "off").setting("synchronous_standby_names", "")
}

/// What must not change by an attempt that is refused.
async fn votes(stage: &Stage) -> Result<Vec<Value>> {
    let mut votes = Vec::new();
    for node in stage.quorum.nodes() {
        let status = node.status().await?;
        let cluster = &status["clusters"][0];
        votes.push(serde_json::json!([
            cluster["term"],
            cluster["last_log_term"],
            cluster["history"],
            cluster["membership"]
        ]));
    }
    Ok(votes)
}

/// Starts a proposer beside `imposter`: it is refused with `sentence` in status and log, changes nothing, and the imposter's commits
/// wait, while the true primary's go on.
async fn is_refused(stage: &mut Stage, imposter: &Postgres, sentence: &str) -> Result<()> {
    stage.all_have_everything().await?;
    let mut logs = Logs::new();
    let committed = logs.compare(stage).await?;
    let before = votes(stage).await?;
    // From here on its settings are as they should be, and still it is not protected.
    imposter.set("synchronous_standby_names", "seawall").await?;
    let mut proposer = stage.quorum.proposer(CLUSTER, &imposter.conninfo()).await?;
    let status = proposer.wait_until("a refusal", REFUSED_WITHIN, |status| status["state"] == "refused").await?;
    let refusal = status["refusal"].as_str().context("a refusal without a sentence")?;
    ensure!(refusal.contains(sentence), "refused, but with another sentence: {refusal}");
    ensure!(status["protected"] == false, "a refused proposer protects nobody");
    proposer.wait_for_log(sentence, SOON).await?;

    let client = imposter.client().await?;
    let commit = client.batch_execute("CREATE TABLE pretence (a int)");
    let commit = tokio::time::timeout(Duration::from_secs(3), commit).await;
    ensure!(commit.is_err(), "a refused primary's commit returned");

    let row = stage.client().await?.batch_execute("INSERT INTO truth VALUES (1)").await;
    row.context("the true primary's commit")?;
    ensure!(votes(stage).await? == before, "a refused proposer changed {before:?} to {:?}", votes(stage).await?);
    stage.all_have_everything().await?;
    ensure!(logs.compare(stage).await? > committed, "the log did not grow");
    proposer.kill()
}

/// A stage with a table, and a copy of its data directory from earlier, in the folder `copy`.
async fn stage_and_copy(folder: &pg_harness::Folder) -> Result<Stage> {
    let stage = Stage::set(folder).await?;
    stage.client().await?.batch_execute("CREATE TABLE truth (a int); CHECKPOINT").await?;
    stage.postgres.stop(Mode::Fast, SOON).await?;
    stage.postgres.copy_data("copy").await?;
    stage.postgres.start().await?;
    // This one returns when the proposer leads again.
    stage.client().await?.batch_execute("INSERT INTO truth VALUES (0)").await?;
    Ok(stage)
}

/// Goal: a primary restored from an older copy may not continue. Method: a file-system copy, more commits on the original, the copy
/// started as it is.
#[test]
fn a_primary_behind_the_quorum() {
    scenario("behind", WITHIN, async |folder| {
        let mut stage = stage_and_copy(&folder).await?;
        stage.write_wal(8).await?;
        let copy = imposter(Postgres::builder(&folder), "copy").in_place().start().await?;
        is_refused(&mut stage, &copy, "below").await
    });
}

/// Goal: lengths prove nothing. Method: a copy that wrote its own rows, more of them than the original, on the same TLI.
#[test]
fn a_copy_that_diverged_and_is_longer() {
    scenario("longer", WITHIN, async |folder| {
        let mut stage = stage_and_copy(&folder).await?;
        let copy = imposter(Postgres::builder(&folder), "copy").in_place().start().await?;
        let client = copy.client().await?;
        client.batch_execute("INSERT INTO truth SELECT generate_series(1, 200000)").await?;
        is_refused(&mut stage, &copy, "differs").await
    });
}

/// Goal: the same the other way round. Method: a copy that wrote its own rows, fewer than the original.
#[test]
fn a_copy_that_diverged_and_is_shorter() {
    scenario("shorter", WITHIN, async |folder| {
        let mut stage = stage_and_copy(&folder).await?;
        let copy = imposter(Postgres::builder(&folder), "copy").in_place().start().await?;
        copy.client().await?.batch_execute("INSERT INTO truth VALUES (-1)").await?;
        stage.write_wal(20).await?;
        is_refused(&mut stage, &copy, "below").await
    });
}

/// Goal: equal last pages prove nothing. Method: original and copy write different rows, switch the segment, and make a checkpoint: both
/// end in a segment whose first bytes are almost the same, behind one whose last bytes are the same zeros; the copy, which ends at or
/// above the original, is refused all the same.
#[test]
fn a_copy_with_equal_last_pages() {
    scenario("pages", WITHIN, async |folder| {
        let mut stage = stage_and_copy(&folder).await?;
        let copy = imposter(Postgres::builder(&folder), "copy").in_place().start().await?;
        let tail = "SELECT pg_switch_wal(); CHECKPOINT";
        let row =
            |server: &str| format!("INSERT INTO truth SELECT a FROM generate_series(1, 100) a WHERE '{server}' > ''");
        stage.client().await?.batch_execute(&row("original")).await?;
        stage.client().await?.batch_execute(tail).await?;
        copy.client().await?.batch_execute(&row("copy")).await?;
        copy.client().await?.batch_execute(tail).await?;
        copy.client().await?.batch_execute("CHECKPOINT").await?;
        is_refused(&mut stage, &copy, "differs").await
    });
}

/// Goal: a base backup started bare is a second primary on one TLI. Method: `pg_basebackup`, which leaves our slot behind, started
/// without `standby.signal`; it must not be given a slot either.
#[test]
fn a_base_backup_started_bare() {
    scenario("bare", WITHIN, async |folder| {
        let mut stage = Stage::set(&folder).await?;
        stage.client().await?.batch_execute("CREATE TABLE truth (a int)").await?;
        stage.postgres.base_backup("copy").await?;
        let copy = imposter(Postgres::builder(&folder), "copy").in_place().start().await?;
        is_refused(&mut stage, &copy, "copy of the primary").await?;
        let slots: i64 = copy.client().await?.query_one("SELECT count(*) FROM pg_replication_slots", &[]).await?.get(0);
        ensure!(slots == 0, "the copy was given a slot");
        Ok(())
    });
}

/// Goal: another database is not followed. Method: a fresh initdb.
#[test]
fn a_different_system() {
    scenario("stranger", WITHIN, async |folder| {
        let mut stage = Stage::set(&folder).await?;
        stage.client().await?.batch_execute("CREATE TABLE truth (a int)").await?;
        let stranger = imposter(Postgres::builder(&folder), "stranger").fresh().start().await?;
        is_refused(&mut stage, &stranger, "system identifier").await
    });
}

/// Goal: a promotion does not take over by itself: a restored clone would look the same. Method: a standby of the primary is promoted,
/// so that it writes on a TLI of its own.
#[test]
fn a_promoted_standby() {
    scenario("promoted", WITHIN, async |folder| {
        let mut stage = Stage::set(&folder).await?;
        stage.client().await?.batch_execute("CREATE TABLE truth (a int)").await?;
        stage.postgres.base_backup("copy").await?;
        let builder = imposter(Postgres::builder(&folder), "copy").in_place();
        let copy = builder.standby_of(&stage.postgres.conninfo()).start().await?;
        copy.promote().await?;
        is_refused(&mut stage, &copy, "TLI").await
    });
}

/// Goal: one term is one connection to one primary, wherever an address leads. Method: the proposer connects through a forwarder; in
/// mid-stream it leads to a copy: refused, neither server's commits return; back at the original: a new term, and they do.
#[test]
fn an_address_that_moves_to_another_server() {
    scenario("moves", WITHIN, async |folder| {
        let mut stage = stage_and_copy(&folder).await?;
        stage.proposer.kill()?;
        let forwarder = Forwarder::to(stage.postgres.port()).await?;
        let conninfo = format!("host=127.0.0.1 port={} user=postgres dbname=postgres", forwarder.port());
        stage.proposer = stage.quorum.proposer(CLUSTER, &conninfo).await?;
        let ledger = stage.ledger(2).await?;
        ledger.wait_for_more(50, SOON).await?;
        let term = stage.proposer.status().await?["term"].as_u64().context("no term")?;

        let copy = imposter(Postgres::builder(&folder), "copy").in_place().start().await?;
        copy.client().await?.batch_execute("INSERT INTO truth SELECT generate_series(1, 200000)").await?;
        copy.set("synchronous_standby_names", "seawall").await?;
        forwarder.retarget(copy.port());
        ledger.wait_for_more(50, SOON).await.context("a stream that stays is one that works")?;
        forwarder.cut();
        stage.proposer.wait_until("a refusal", REFUSED_WITHIN, |status| status["state"] == "refused").await?;
        stage.nothing_is_acknowledged(&ledger, 2).await?;
        let votes: Vec<Value> = votes(&stage).await?;
        ensure!(votes.iter().all(|vote| vote[0] == term), "a refused server raised the term from {term}: {votes:?}");

        forwarder.retarget(stage.postgres.port());
        forwarder.cut();
        // A refusal backs off for up to a minute.
        ledger.wait_for_more(50, Duration::from_secs(90)).await?;
        wait_for("a new term", SOON, async || {
            Ok((stage.proposer.status().await?["term"].as_u64() > Some(term)).then_some(()))
        })
        .await?;
        stage.settle(ledger).await?;
        stage.all_have_everything().await?;
        Logs::new().compare(&stage).await?;
        Ok(())
    });
}
