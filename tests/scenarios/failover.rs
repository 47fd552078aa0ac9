//! Failover: a standby is promoted from what the quorum has, takes over with permission, and the old primary gets nothing
//! acknowledged any more.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pg_harness::{Folder, Ledger, Mode, Postgres, Proposer, scenario, wait_for};
use scenarios::{CLUSTER, Failovers, SOON, Stage, lsn, replayed};

const WITHIN: Duration = Duration::from_secs(170);
const REFUSED_WITHIN: Duration = Duration::from_secs(30);

/// A hot standby called `name` that reads WAL from the safekeepers, whichever answers.
pub(crate) async fn standby(folder: &Folder, stage: &Stage, name: &str) -> Result<Postgres> {
    stage.standby(folder, name).await
}

/// Waits until the standby has replayed everything that is committed.
pub(crate) async fn has_everything(stage: &Stage, standby: &Postgres) -> Result<()> {
    stage.follows(standby).await
}

/// Completes the quorum's log: what a majority may have, acknowledged or not, is committed. Returns where it ends.
pub(crate) async fn sync(folder: &Folder, stage: &Stage, name: &str) -> Result<u64> {
    let addresses = stage.quorum.addresses();
    let args = ["walproposer", "--sync", "--safekeepers", &addresses, "--cluster", CLUSTER];
    let finished = stage.quorum.bin().run(folder, name, args, SOON).await?.expect_code(0)?;
    lsn(finished.stdout.trim())
}

/// A proposer beside the new primary that may take over.
pub(crate) async fn taking_over(stage: &mut Stage, primary: &Postgres) -> Result<Proposer> {
    let addresses = stage.quorum.addresses();
    stage.quorum.proposer_with(CLUSTER, &primary.conninfo(), &addresses, &["--takeover"]).await
}

pub(crate) async fn leads(proposer: &Proposer) -> Result<()> {
    proposer.wait_until("a leading proposer", SOON, |status| status["state"] == "leading").await?;
    Ok(())
}

pub(crate) async fn promote(standby: &Postgres) -> Result<()> {
    standby.promote().await.context("promote")
}

/// The TLI all safekeepers show.
async fn all_show_tli(stage: &mut Stage, tli: u64) -> Result<()> {
    let end = format!(";{tli}:");
    stage
        .quorum
        .wait_until(&format!("TLI {tli} on every safekeeper"), SOON, |statuses| {
            statuses.iter().all(|status| status["clusters"][0]["path"].as_str().is_some_and(|path| path.contains(&end)))
        })
        .await
}

/// Goal: nothing acknowledged is lost when the primary dies under load and a standby fed by the safekeepers takes over, twice; the
/// other standby follows. Method: two standbys, a ledger; kill -9 of the primary, `walproposer --sync`, promotion once everything
/// committed is replayed, a proposer with --takeover; then the same from the second standby.
#[test]
fn a_standby_takes_over_from_a_killed_primary() {
    scenario("failover", WITHIN, async |folder| {
        let mut stage = Stage::set(&folder).await?;
        let first = stage.standby(&folder, "first").await?;
        let second = stage.standby(&folder, "second").await?;
        let ledger = stage.ledger(4).await?;
        ledger.wait_for_more(200, SOON).await?;
        stage.postgres.kill().await?;
        stage.proposer.kill()?;
        let end = sync(&folder, &stage, "sync-1").await?;
        ensure!(stage.committed().await? >= end, "--sync said {end:X}, which is not committed");
        stage.follows(&first).await?;
        promote(&first).await?;
        let proposer = taking_over(&mut stage, &first).await?;
        leads(&proposer).await?;
        ledger.point_at(&first.conninfo());
        ledger.wait_for_more(200, SOON).await?;
        all_show_tli(&mut stage, 2).await?;
        // The other standby follows without a restart.
        let goal = stage.committed().await?;
        wait_for("a standby that follows", SOON, async || Ok((replayed(&second).await? >= goal).then_some(()))).await?;

        first.kill().await?;
        drop(proposer);
        sync(&folder, &stage, "sync-2").await?;
        stage.follows(&second).await?;
        promote(&second).await?;
        let proposer = taking_over(&mut stage, &second).await?;
        leads(&proposer).await?;
        ledger.point_at(&second.conninfo());
        ledger.wait_for_more(200, SOON).await?;
        all_show_tli(&mut stage, 3).await?;
        verify(ledger, &second).await
    });
}

async fn verify(ledger: Ledger, primary: &Postgres) -> Result<()> {
    let acknowledged = ledger.stop().await?;
    ensure!(!acknowledged.is_empty(), "nothing was acknowledged, so nothing was proved");
    acknowledged.verify(&primary.client().await?).await
}

/// Goal: failover under load, whatever became of the primary, and every old primary comes back. Method: [`Failovers`]: killed, frozen
/// and woken as a zombie, cut off from its proposer, by turns; `pre-promote`, promotion, a proposer with the token; the zombie gets
/// nothing acknowledged; `pg_rewind` and a base backup by turns; the other standby follows; no acknowledged row is missing.
#[test]
fn rounds_of_failover_under_load() {
    scenario("failovers", WITHIN, async |folder| {
        let mut rounds = Failovers::begin(&folder, 3).await?;
        for _ in 0..5 {
            println!("{}", rounds.round().await?);
        }
        let acknowledged = rounds.end().await?;
        ensure!(acknowledged >= 200, "only {acknowledged} commits were acknowledged");
        Ok(())
    });
}

/// Goal: a primary that is superseded while it lives gets nothing acknowledged, whatever it believes; every safekeeper down in turn
/// hinders nobody. Method: the old proposer hangs while the standby is fenced for and promoted; without permission the new proposer
/// is refused and raises nothing; with the fence's token it leads; then the old one wakes up.
#[test]
fn the_zombie_gets_nothing_acknowledged() {
    scenario("zombie", WITHIN, async |folder| {
        let mut stage = Stage::set(&folder).await?;
        let standby = stage.standby(&folder, "standby").await?;
        let ledger = stage.ledger(3).await?;
        ledger.wait_for_more(100, SOON).await?;
        stage.proposer.pause()?;
        let acknowledged = ledger.stop().await?;
        let token = stage.pre_promote(&folder, &standby, "pre-promote").await?;
        promote(&standby).await?;
        let before = terms(&stage).await?;
        let mut beside = stage.quorum.proposer(CLUSTER, &standby.conninfo()).await?;
        let status = beside.wait_until("a refusal", REFUSED_WITHIN, |status| status["state"] == "refused").await?;
        let refusal = status["refusal"].as_str().unwrap_or_default();
        ensure!(refusal.contains("--takeover"), "refused with another sentence: {refusal}");
        beside.kill()?;
        ensure!(terms(&stage).await? == before, "a refused proposer raised a term");

        stage.quorum.node(1)?.kill()?;
        let addresses = stage.quorum.addresses();
        let flags = ["--fence-token-file", &token];
        let proposer = stage.quorum.proposer_with(CLUSTER, &standby.conninfo(), &addresses, &flags).await?;
        leads(&proposer).await?;
        standby.client().await?.batch_execute("CREATE TABLE after (a int)").await?;
        // Now the zombie: it has a backlog of commits, and a client that goes on.
        stage.proposer.resume()?;
        let client = stage.client().await?;
        let commit = client.batch_execute("CREATE TABLE pretence (a int)");
        let commit = tokio::time::timeout(Duration::from_secs(8), commit).await;
        ensure!(commit.is_err(), "a superseded primary's commit returned");
        let refused = |status: &serde_json::Value| {
            status["refusal"].as_str().is_some_and(|refusal| refusal.contains("left the quorum's log"))
        };
        stage.proposer.wait_until("a refused old proposer", SOON, refused).await?;
        stage.quorum.node(1)?.revive().await?;
        for node in [2, 3] {
            stage.quorum.node(node)?.kill()?;
            standby.client().await?.batch_execute("INSERT INTO after VALUES (1)").await?;
            stage.quorum.node(node)?.revive().await?;
        }
        ensure!(proposer.status().await?["state"] == "leading", "the zombie deposed the leader");
        acknowledged.verify(&standby.client().await?).await
    });
}

/// The term of every safekeeper.
async fn terms(stage: &Stage) -> Result<Vec<serde_json::Value>> {
    let mut terms = Vec::new();
    for node in stage.quorum.nodes() {
        terms.push(node.status().await?["clusters"][0]["term"].clone());
    }
    Ok(terms)
}

/// Where the standby's newest TLI begins.
async fn lsn_of_switch(standby: &Postgres) -> Result<u64> {
    let path = standby.data_dir().join("pg_wal/00000002.history");
    let text = std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    lsn(text.split_whitespace().nth(1).context("a history file without a switch point")?)
}

/// Goal: a standby promoted behind the quorum's log is refused for good, and changes nothing. Method: the standby reads from the
/// primary directly and is cut off from it before more is committed; promoted, with permission; then the primary comes back and goes on.
#[test]
fn a_standby_promoted_too_early_is_refused() {
    scenario("too-early", WITHIN, async |folder| {
        let mut stage = Stage::set(&folder).await?;
        stage.postgres.base_backup("early").await?;
        let early = Stage::primary(&folder).name("early").in_place().standby_of("host=/nowhere").start().await?;
        stage.client().await?.batch_execute("CREATE TABLE truth (a int); INSERT INTO truth VALUES (1)").await?;
        stage.all_have_everything().await?;
        stage.postgres.stop(Mode::Fast, SOON).await?;
        promote(&early).await?;
        early.set("synchronous_standby_names", "seawall").await?;
        let mut proposer = taking_over(&mut stage, &early).await?;
        let status = proposer.wait_until("a refusal", REFUSED_WITHIN, |status| status["state"] == "refused").await?;
        let refusal = status["refusal"].as_str().unwrap_or_default();
        ensure!(refusal.contains("left the quorum's log"), "refused with another sentence: {refusal}");
        proposer.kill()?;
        stage.postgres.start().await?;
        leads(&stage.proposer).await?;
        Ok(stage.client().await?.batch_execute("INSERT INTO truth VALUES (2)").await?)
    });
}

/// Goal: two standbys promoted at the same place have the same TLI number and the same history file, and are told apart all the same.
/// Method: both get all WAL and are promoted after the primary has stopped; the first takes over; the second, with permission, is
/// refused and deposes nobody.
#[test]
fn twins_are_told_apart() {
    scenario("twins", WITHIN, async |folder| {
        let mut stage = Stage::set(&folder).await?;
        let first = stage.standby(&folder, "first").await?;
        let second = stage.standby(&folder, "second").await?;
        stage.client().await?.batch_execute("CREATE TABLE truth (a int); INSERT INTO truth VALUES (1)").await?;
        stage.postgres.stop(Mode::Fast, SOON).await?;
        stage.proposer.kill()?;
        // The last record is acknowledged; that it is committed the safekeepers need not have heard.
        sync(&folder, &stage, "sync").await?;
        stage.follows(&first).await?;
        stage.follows(&second).await?;
        promote(&first).await?;
        promote(&second).await?;
        let switches = (lsn_of_switch(&first).await?, lsn_of_switch(&second).await?);
        ensure!(switches.0 == switches.1, "the twins were promoted at different places: {switches:X?}");
        let proposer = taking_over(&mut stage, &first).await?;
        leads(&proposer).await?;
        first.client().await?.batch_execute("INSERT INTO truth VALUES (2)").await?;
        let twin = taking_over(&mut stage, &second).await?;
        let status = twin.wait_until("a refusal", REFUSED_WITHIN, |status| status["state"] == "refused").await?;
        let refusal = status["refusal"].as_str().unwrap_or_default();
        // It is on the log's own TLI, as far as its history file can tell, and has no slot of ours.
        ensure!(refusal.contains("it looks like a copy of the primary"), "{refusal}");
        // Not even who takes it for the original gets it through, however much it writes.
        let more = "SET synchronous_commit = local; CREATE TABLE pretence AS SELECT generate_series(1, 10000) AS a";
        second.client().await?.batch_execute(more).await?;
        let (addresses, conninfo) = (stage.quorum.addresses(), second.conninfo());
        let args = ["adopt", "--safekeepers", &addresses, "--cluster", CLUSTER, "--primary", &conninfo];
        drop(twin);
        let adopted = stage.quorum.bin().run(&folder, "adopt", args, SOON).await?.expect_code(3)?;
        ensure!(adopted.stderr.contains("differs from the log"), "{}", adopted.stderr);
        ensure!(proposer.status().await?["state"] == "leading", "the twin deposed the leader");
        Ok(first.client().await?.batch_execute("INSERT INTO truth VALUES (3)").await?)
    });
}

/// Goal: a proposer beside a standby waits, and leads soon after its server is promoted. Method: start it before the promotion, with a
/// time of silence after which it may take over.
#[test]
fn a_proposer_beside_a_standby_waits_for_its_promotion() {
    scenario("waiting", WITHIN, async |folder| {
        let mut stage = Stage::set(&folder).await?;
        let standby = stage.standby(&folder, "standby").await?;
        let addresses = stage.quorum.addresses();
        let flags = ["--takeover-after", "3"];
        let waiting = stage.quorum.proposer_with(CLUSTER, &standby.conninfo(), &addresses, &flags).await?;
        let status = waiting.wait_until("a waiting proposer", SOON, |status| status["state"] == "standby").await?;
        ensure!(status["trouble"].as_str().is_some_and(|trouble| trouble.contains("promotion")), "{status}");
        stage.client().await?.batch_execute("CREATE TABLE truth (a int); INSERT INTO truth VALUES (1)").await?;
        // Safekeepers learn a moment after the client what is committed, and nobody completes the log here once the primary is dead.
        stage.all_have_everything().await?;
        stage.postgres.kill().await?;
        stage.follows(&standby).await?;
        promote(&standby).await?;
        leads(&waiting).await?;
        Ok(standby.client().await?.batch_execute("INSERT INTO truth VALUES (2)").await?)
    });
}

/// Goal: after a crash with hung commits no client ever sees a row that a failover could lose. Method: all safekeepers down, commits
/// hang, kill -9 of the server; while it is down, `seawall pre-start` fails without a quorum and brings everything with one; then all
/// rows the server shows are committed by the quorum, shown by what `--sync` says.
#[test]
fn nothing_unacknowledged_is_shown_after_a_crash() {
    scenario("pre-start", WITHIN, async |folder| {
        let mut stage = Stage::set(&folder).await?;
        stage.client().await?.batch_execute("CREATE TABLE truth (a int)").await?;
        stage.all_have_everything().await?;
        for node in 1..=3 {
            stage.quorum.node(node)?.kill()?;
        }
        let client = stage.client().await?;
        let hung = tokio::spawn(async move { client.batch_execute("INSERT INTO truth VALUES (1)").await });
        wait_for("a commit that waits", SOON, async || stage.somebody_waits().await).await?;
        let flushed = stage.flushed().await?;
        stage.postgres.kill().await?;
        ensure!(hung.await?.is_err(), "a commit returned without a quorum");
        let data_dir = stage.postgres.data_dir().display().to_string();
        let addresses = stage.quorum.addresses();
        let args = |within: &'static str| {
            let quorum = ["pre-start", "--safekeepers", &addresses, "--cluster", CLUSTER];
            quorum.into_iter().chain(["--pgdata", &data_dir, "--within", within])
        };
        stage.quorum.bin().run(&folder, "pre-start-alone", args("2"), SOON).await?.expect_code(1)?;
        for node in 1..=3 {
            stage.quorum.node(node)?.revive().await?;
        }
        stage.quorum.bin().run(&folder, "pre-start", args("30"), SOON).await?.expect_code(0)?;
        let end = stage.committed().await?;
        ensure!(end >= flushed, "the server had flushed {flushed:X}, and only {end:X} is committed before its start");
        stage.postgres.start().await?;
        let rows: i64 = stage.client().await?.query_one("SELECT count(*) FROM truth", &[]).await?.get(0);
        ensure!(rows == 1, "the server shows {rows} rows");
        let running = stage.quorum.bin().run(&folder, "pre-start-running", args("2"), SOON).await?;
        running.expect_code(3)?;
        leads(&stage.proposer).await
    });
}

/// Goal: a fence bars the old primary until it is lifted. Method: fence under a living primary: its commits hang, its proposer says
/// why; lift it: they go on.
#[test]
fn a_fence_bars_the_primary_until_it_is_lifted() {
    scenario("fence", WITHIN, async |folder| {
        let stage = Stage::set(&folder).await?;
        stage.client().await?.batch_execute("CREATE TABLE truth (a int)").await?;
        let addresses = stage.quorum.addresses();
        let fence = |more: &'static [&'static str]| {
            let quorum = ["fence", "--safekeepers", &addresses, "--cluster", CLUSTER];
            quorum.into_iter().chain(more.iter().copied())
        };
        stage.quorum.bin().run(&folder, "fence", fence(&["--json"]), SOON).await?.expect_code(0)?;
        let fenced = |status: &serde_json::Value| {
            status["refusal"].as_str().is_some_and(|refusal| refusal.contains("seawall fence --lift"))
        };
        stage.proposer.wait_until("a fenced proposer", SOON, fenced).await?;
        let client = stage.client().await?;
        let commit = client.batch_execute("INSERT INTO truth VALUES (1)");
        ensure!(
            tokio::time::timeout(Duration::from_secs(3), commit).await.is_err(),
            "a fenced primary's commit returned"
        );
        stage.quorum.bin().run(&folder, "lift", fence(&["--lift"]), SOON).await?.expect_code(0)?;
        stage.proposer.wait_until("a leading proposer", Duration::from_secs(90), |s| s["state"] == "leading").await?;
        Ok(stage.client().await?.batch_execute("INSERT INTO truth VALUES (2)").await?)
    });
}
