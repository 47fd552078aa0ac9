//! `seawall init`: a cluster begins once, on all its safekeepers, or not at all.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pg_harness::{Finished, Folder, Quorum, Safekeeper, Signal, scenario};
use scenarios::{CLUSTER, SOON, Stage};
use serde_json::Value;
use tokio_postgres::{NoTls, SimpleQueryMessage};

const WITHIN: Duration = Duration::from_secs(120);
const RACES: usize = 12;

/// Rows of LOG_STATUS or the error of another command, asked as any client of PostgreSQL would.
async fn ask(node: &Safekeeper, command: &str) -> Result<Vec<tokio_postgres::SimpleQueryRow>> {
    let conninfo = format!("host=127.0.0.1 port={} user=seawall", node.pg().port());
    let (client, connection) = tokio_postgres::connect(&conninfo, NoTls).await?;
    let connection = tokio::spawn(connection);
    let messages = client.simple_query(command).await;
    connection.abort();
    let row = |message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    };
    Ok(messages?.into_iter().filter_map(row).collect())
}

/// What each safekeeper has under a name: ids and record, empty without it.
async fn records(quorum: &Quorum, name: &str) -> Result<Vec<String>> {
    let mut records = Vec::new();
    for node in quorum.nodes() {
        let rows = ask(node, "LOG_STATUS").await?;
        let row = rows.iter().find(|row| row.get("cluster") == Some(name));
        let shown = |row: &tokio_postgres::SimpleQueryRow| {
            ["tenant_id", "timeline_id", "membership"].map(|column| row.get(column).unwrap_or_default()).join(" ")
        };
        records.push(row.map(shown).unwrap_or_default());
    }
    Ok(records)
}

fn member(status: &Value, node: &Safekeeper) -> Result<String> {
    let disk = status["disk_id"].as_str().context("a safekeeper without a disk id")?;
    Ok(format!("{}:{disk}@127.0.0.1:{}", node.id(), node.pg().port()))
}

/// The record of a new cluster of these safekeepers, as a command.
async fn command(name: &str, ids: &str, nodes: &[&Safekeeper]) -> Result<String> {
    let mut members = Vec::new();
    for node in nodes {
        members.push(member(&node.status().await?, node)?);
    }
    let (tenant, timeline) = (ids.repeat(16), ids.repeat(16));
    Ok(format!(
        "INIT_CLUSTER (name '{name}', tenant_id '{tenant}', timeline_id '{timeline}', membership '1/0/{}')",
        members.join(";")
    ))
}

fn is_refused(finished: Finished, words: &str) -> Result<()> {
    let finished = finished.expect_code(3)?;
    ensure!(finished.stderr.starts_with("error: ") && finished.stderr.contains(words), "it says {:?}", finished.stderr);
    Ok(())
}

/// Goal: without every safekeeper nothing begins; twice is as good as once. Method: one killed, one that hangs: refused, nothing made;
/// all there: made, and again: success with the same record.
#[test]
fn all_or_nothing_and_twice_is_once() {
    scenario("init", WITHIN, async |folder| {
        let mut quorum = Quorum::builder(&folder).start().await?;
        quorum.node(3)?.kill()?;
        let refused = quorum.try_init(CLUSTER, None).await?.expect_code(1)?;
        let address = quorum.node(3)?.pg().to_string();
        ensure!(refused.stderr.contains(&address) && refused.stderr.contains("does not answer"), "{refused:?}");
        quorum.node(3)?.revive().await?;
        quorum.node(3)?.pause()?;
        let refused = quorum.try_init(CLUSTER, None).await?.expect_code(1)?;
        ensure!(refused.stderr.contains(&address) && refused.stderr.contains("does not answer"), "{refused:?}");
        quorum.node(3)?.resume()?;
        ensure!(records(&quorum, CLUSTER).await?.concat().is_empty(), "something was made");

        let made = quorum.try_init(CLUSTER, None).await?.expect_code(0)?;
        ensure!(made.stdout.contains("begins on 3 safekeepers"), "it says {:?}", made.stdout);
        let first = records(&quorum, CLUSTER).await?;
        ensure!(!first[0].is_empty() && first.iter().all(|record| *record == first[0]), "the records are {first:?}");
        let again = quorum.try_init(CLUSTER, None).await?.expect_code(0)?;
        ensure!(again.stdout.contains("was there already"), "it says {:?}", again.stdout);
        ensure!(records(&quorum, CLUSTER).await? == first, "the second init changed a record");

        // Other names live beside it.
        quorum.init("orders", None).await?;
        ensure!(records(&quorum, CLUSTER).await? == first, "the init of another name changed a record");
        let addresses = quorum.addresses();
        let unknown = ["init", "--cluster", "No Name", "--safekeepers", &addresses];
        quorum.bin().run(&folder, "name", unknown, SOON).await?.expect_code(2)?;
        let twice = format!("{0},{0}", quorum.nodes()[0].pg());
        let twice = ["init", "--cluster", "twice", "--safekeepers", &twice];
        let twice = quorum.bin().run(&folder, "twice", twice, SOON).await?;
        ensure!(twice.code != Some(0) && !twice.stderr.is_empty(), "one safekeeper named twice: {twice:?}");
        Ok(())
    });
}

/// Goal: what already stands under a name is left alone. Method: one safekeeper has the name with other ids, for itself alone or for all
/// three; another has the ids under another name; fewer safekeepers than the cluster has: exit code 3, nothing changed.
#[test]
fn another_record_is_left_alone() {
    scenario("init_other", WITHIN, async |folder| {
        let mut quorum = Quorum::builder(&folder).start().await?;
        let second = &quorum.nodes()[1];
        ask(second, &command("alone", "0a", &[second]).await?).await?;
        is_refused(quorum.try_init("alone", None).await?, "already exists")?;

        let all: Vec<&Safekeeper> = quorum.nodes().iter().collect();
        ask(all[1], &command("split", "0b", &all).await?).await?;
        ask(all[2], &command("split", "0c", &all).await?).await?;
        let before = records(&quorum, "split").await?;
        is_refused(quorum.try_init("split", None).await?, "different clusters under this name")?;
        ensure!(records(&quorum, "split").await? == before, "a refused init changed a record");

        let all: Vec<&Safekeeper> = quorum.nodes().iter().collect();
        for (name, ids) in [("elsewhere", "0b"), ("split", "0d")] {
            let error = ask(all[1], &command(name, ids, &all).await?).await.err().context("it was taken")?;
            let code = error.downcast_ref::<tokio_postgres::Error>().and_then(|error| error.code().cloned());
            ensure!(code.as_ref().map(|code| code.code()) == Some("42710"), "{name} {ids}: {error:#}");
        }
        ensure!(records(&quorum, "split").await? == before, "a refused record changed another");

        quorum.init("whole", None).await?;
        let two = format!("{},{}", quorum.nodes()[0].pg(), quorum.nodes()[1].pg());
        let fewer = ["init", "--cluster", "whole", "--safekeepers", &two];
        is_refused(quorum.bin().run(&folder, "fewer", fewer, SOON).await?, "name all of them")
    });
}

/// Goal: an init that broke off is finished by the next, from the record it left. Method: one safekeeper has the record; a re-run gives
/// it to the others and the cluster works; one that lost its disk afterwards is not given it again.
#[test]
fn a_half_done_init_is_finished() {
    scenario("init_half", WITHIN, async |folder| {
        let mut stage = Stage::set(&folder).await?;
        for first in 0..3 {
            let name = format!("half-{first}");
            let all: Vec<&Safekeeper> = stage.quorum.nodes().iter().collect();
            ask(all[first], &command(&name, "0e", &all).await?.replace("0e0e", &format!("0e{first:02}"))).await?;
            let left = records(&stage.quorum, &name).await?[first].clone();
            let finished = stage.quorum.try_init(&name, None).await?.expect_code(0)?;
            ensure!(finished.stdout.contains("finished"), "it says {:?}", finished.stdout);
            let records = records(&stage.quorum, &name).await?;
            ensure!(records.iter().all(|record| *record == left), "{left:?} became {records:?}");
        }
        // The cluster of the stage runs; a member without it may have voted.
        stage.client().await?.batch_execute("CREATE TABLE t (a int)").await?;
        let node = stage.quorum.node(2)?;
        node.kill()?;
        node.wipe()?;
        node.revive().await?;
        is_refused(stage.quorum.try_init(CLUSTER, None).await?, "does not have it")?;
        ensure!(records(&stage.quorum, CLUSTER).await?[1].is_empty(), "an emptied safekeeper votes again");
        stage.client().await?.batch_execute("INSERT INTO t VALUES (1)").await?;
        Ok(())
    });
}

async fn race(folder: &Folder, quorum: &Quorum, name: &str, kill: bool) -> Result<Vec<Finished>> {
    let addresses: Vec<String> = quorum.nodes().iter().map(|node| node.pg().to_string()).collect();
    let orders = [[0, 1, 2], [2, 1, 0], [1, 2, 0]].map(|order| order.map(|index| addresses[index].clone()).join(","));
    let mut processes = Vec::new();
    for (index, order) in orders.iter().enumerate() {
        let args = ["init", "--cluster", name, "--safekeepers", order];
        processes.push(quorum.bin().spawn(folder, &format!("{name}-{index}"), args)?);
    }
    if kill {
        // At any moment of its life, as this machine is fast or slow.
        tokio::time::sleep(Duration::from_millis(5 * name.len() as u64)).await;
        drop(processes[0].signal(Signal::KILL));
    }
    let mut finished = Vec::new();
    for mut process in processes {
        let code = process.wait(SOON).await?.code();
        finished.push(Finished { code, stdout: process.output()?, stderr: process.log()? });
    }
    Ok(finished)
}

/// Goal: of inits that race one cluster comes out, never two. Method: three at once, each with the safekeepers in another order, several
/// times, every other time with one of them killed; each ends with success or exit code 3, and a re-run with success.
#[test]
fn racing_inits() {
    scenario("init_race", WITHIN, async |folder| {
        let mut quorum = Quorum::builder(&folder).start().await?;
        for round in 0..RACES {
            let name = format!("race-{}", "x".repeat(round + 1));
            let kill = round % 2 == 1;
            let finished = race(&folder, &quorum, &name, kill).await?;
            for (index, one) in finished.iter().enumerate() {
                let was_killed = kill && index == 0 && one.code.is_none();
                let refused = one.code == Some(3) && one.stderr.contains("already exists");
                ensure!(was_killed || refused || one.code == Some(0), "{name}: one ended with {one:?}");
            }
            let successes = finished.iter().filter(|one| one.code == Some(0)).count();
            ensure!(kill || successes > 0, "{name}: nobody won: {finished:?}");
            quorum.try_init(&name, None).await?.expect_code(0).with_context(|| format!("{name} stays unusable"))?;
            let records = records(&quorum, &name).await?;
            ensure!(
                !records[0].is_empty() && records.iter().all(|record| *record == records[0]),
                "{name}: {records:?} after {finished:?}"
            );
        }
        Ok(())
    });
}
