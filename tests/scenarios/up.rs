//! `seawall up`: one command, everything runs, everything comes back, nothing acknowledged is lost.

use std::collections::BTreeSet;
use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pg_harness::{Bin, Finished, Folder, Ledger, Signal, Up, get, get_json, scenario, wait_for};
use scenarios::SOON;
use serde_json::Value;

const WITHIN: Duration = Duration::from_secs(170);
/// A clean stop: the primary's shutdown, then the parts.
const STOPS_WITHIN: Duration = Duration::from_secs(90);
/// Parts that lost who started them end by themselves.
const ORPHANS_END_WITHIN: Duration = Duration::from_secs(25);

/// A running `up` that says PROTECTED and has told how to connect.
async fn protected_up(folder: &Folder) -> Result<Up> {
    let mut up = Up::start::<String>(folder, [])?;
    up.says("stop      Ctrl-C", SOON).await?;
    up.protected(SOON).await?;
    Ok(up)
}

async fn status(folder: &Folder, up: &Up, args: &[&str]) -> Result<Finished> {
    let data_dir = up.data_dir().display().to_string();
    let args = ["status", "--data-dir", &data_dir].into_iter().chain(args.iter().copied());
    Bin::seawall()?.run(folder, "status", args, SOON).await
}

/// Ctrl-C: it ends with 0, no process of it lives, and `up.json` is gone.
async fn stop(up: &mut Up) -> Result<()> {
    let parts = up.parts()?;
    up.signal(Signal::INT)?;
    let ended = up.wait(STOPS_WITHIN).await?;
    ensure!(ended.code() == Some(0), "it ended with {ended}: {}", up.log()?.trim());
    let left: Vec<_> = parts.iter().filter(|part| Up::lives(part.pid)).collect();
    ensure!(parts.len() == 5 && left.is_empty(), "of {parts:?} these live on: {left:?}");
    ensure!(up.file().is_err(), "up.json is still there");
    ensure!(up.output()?.lines().last() == Some("stopped"), "it says {:?} at last", up.output()?.lines().last());
    Ok(())
}

fn keys(value: &Value) -> BTreeSet<&str> {
    value.as_object().into_iter().flatten().map(|(key, _)| key.as_str()).collect()
}

/// Goal: one command without arguments protects a database, says how to use it, shows itself everywhere, stops cleanly and goes on
/// from there. Method: start, commit, every page of every part, Ctrl-C, start again.
#[test]
fn one_command_and_again() {
    scenario("up", WITHIN, async |folder| {
        let mut up = protected_up(&folder).await?;
        up.says("PROTECTED: a COMMIT returns when two of the three safekeepers have it on disk", SOON).await?;
        let file = up.file()?;
        let connect = up.says("connect   psql", SOON).await?;
        ensure!(connect.contains(file["primary"].as_str().context("no primary")?), "{connect:?} is not of {file}");
        let fields = ["archive", "http", "postgres_pid", "primary", "proposer_pid", "safekeepers"];
        ensure!(
            keys(&file) == fields.into() && file["archive"].as_str().is_some_and(|path| path.ends_with("/archive")),
            "up.json is {file}"
        );
        let safekeepers = file["safekeepers"].as_array().context("no safekeepers")?;
        for (index, safekeeper) in safekeepers.iter().enumerate() {
            let fields = ["http", "id", "pg", "pid"];
            ensure!(keys(safekeeper) == fields.into() && safekeeper["id"] == index + 1, "a safekeeper is {safekeeper}");
        }
        let parts = up.parts()?;
        ensure!(safekeepers.len() == 3 && parts.iter().all(|part| Up::lives(part.pid)), "{parts:?} do not all live");

        up.client().await?.batch_execute("CREATE TABLE t (a int); INSERT INTO t VALUES (1)").await?;
        let told = status(&folder, &up, &[]).await?.expect_code(0)?;
        ensure!(told.stdout.starts_with("main  PROTECTED\n"), "status says {}", told.stdout);
        let told = status(&folder, &up, &["--json"]).await?.expect_code(0)?;
        let report: Value = serde_json::from_str(&told.stdout)?;
        ensure!(report["protected"] == true && report["clusters"][0]["name"] == "main", "status says {report}");
        for http in up.https()? {
            let (code, metrics) = get(http, "/metrics").await?;
            ensure!(code == 200 && metrics.contains("# TYPE "), "{http} has metrics {code}: {metrics}");
            let (code, page) = get(http, "/").await?;
            ensure!(code == 200 && page.contains("<html"), "{http} has a page {code}: {page}");
            for (path, key) in [("/v1/status", "kind"), ("/v1/clusters/main", "commit_lsn"), ("/v1/ready", "ready")] {
                let (code, value) = get_json(http, path).await?;
                ensure!(code == 200 && !value[key].is_null(), "{http}{path} answered {code}: {value}");
            }
            ensure!(get_json(http, "/v1/clusters/other").await?.0 == 404, "{http} knows a cluster that is not there");
        }
        stop(&mut up).await?;

        up.start()?;
        up.protected(SOON).await?;
        let again = up.file()?;
        for path in ["/primary", "/http", "/safekeepers/0/pg", "/safekeepers/2/http"] {
            ensure!(again.pointer(path) == file.pointer(path), "{path} was {file}, now {again}");
        }
        let client = up.client().await?;
        client.batch_execute("INSERT INTO t VALUES (2)").await?;
        let rows: i64 = client.query_one("SELECT count(*) FROM t", &[]).await?.get(0);
        ensure!(rows == 2, "{rows} rows after the second start");
        stop(&mut up).await
    });
}

/// Goal: every part is replaceable, one at a time and several together. Method: kill -9 of each under load; it is started again, commits
/// go on, no acknowledged row is missing; the output tells it.
#[test]
fn parts_that_are_killed() {
    scenario("up_parts", WITHIN, async |folder| {
        let mut up = protected_up(&folder).await?;
        Ledger::create(&up.client().await?).await?;
        let ledger = Ledger::start(&up.conninfo()?, 3)?;
        ledger.wait_for_more(30, SOON).await?;
        let all = ["safekeeper 1", "safekeeper 2", "safekeeper 3", "proposer", "postgres"];
        let together = [vec!["safekeeper 1", "safekeeper 3"], vec!["proposer", "postgres"], all.to_vec()];
        for victims in all.iter().map(|name| vec![*name]).chain(together) {
            let mut before = Vec::new();
            for name in &victims {
                before.push((*name, up.kill_part(name)?));
            }
            for (name, pid) in before {
                up.started_again(name, pid, SOON).await?;
            }
            ledger.wait_for_more(30, SOON).await.with_context(|| format!("after {victims:?}"))?;
            up.protected(SOON).await.with_context(|| format!("after {victims:?}"))?;
        }
        for said in ["safekeeper 2 was started again", "the proposer was started again", "PostgreSQL was started again"]
        {
            up.says(said, SOON).await?;
        }
        let acknowledged = ledger.stop().await?;
        acknowledged.verify(&up.client().await?).await?;
        status(&folder, &up, &[]).await?.expect_code(0)?;
        stop(&mut up).await
    });
}

/// Goal: a killed `up` leaves nothing that acknowledges commits, and the next one takes over. Method: kill -9 under load; its parts end,
/// PostgreSQL stays and acknowledges nothing; the next start stops it, says so and is PROTECTED with everything acknowledged.
#[test]
fn up_itself_is_killed() {
    scenario("up_killed", WITHIN, async |folder| {
        let mut up = protected_up(&folder).await?;
        Ledger::create(&up.client().await?).await?;
        let ledger = Ledger::start(&up.conninfo()?, 3)?;
        ledger.wait_for_more(30, SOON).await?;
        let (parts, postgres) = (up.parts()?, up.part("postgres")?);
        up.kill()?;
        wait_for("end of the parts", ORPHANS_END_WITHIN, async || {
            let alive = |part: &&pg_harness::UpPart| part.pid != postgres && Up::lives(part.pid);
            let left: Vec<_> = parts.iter().filter(alive).collect();
            ensure!(left.is_empty(), "{left:?} live on");
            Ok(Some(()))
        })
        .await?;
        ensure!(Up::lives(postgres), "PostgreSQL ended with up");
        let before = ledger.acknowledged();
        let more = ledger.wait_for_more(1, Duration::from_secs(2)).await;
        ensure!(more.is_err(), "{} commits were acknowledged by nobody", ledger.acknowledged() - before);
        status(&folder, &up, &[]).await?.expect_code(1)?;

        up.start()?;
        let stopped = up.says("which an earlier run left behind", SOON).await?;
        ensure!(stopped.contains(&postgres.to_string()), "{stopped:?} is not of {postgres}");
        up.protected(SOON).await?;
        ensure!(!Up::lives(postgres), "the survivor lives on");
        ledger.wait_for_more(30, SOON).await?;
        ledger.stop().await?.verify(&up.client().await?).await?;
        stop(&mut up).await
    });
}

/// Goal: a port somebody took in between is named once, and waited for. Method: between two runs PostgreSQL's port and a safekeeper's
/// are taken, and freed while the second start tries.
#[test]
fn ports_that_are_taken() {
    scenario("up_ports", WITHIN, async |folder| {
        let mut up = protected_up(&folder).await?;
        let safekeeper: SocketAddr = up.file()?["safekeepers"][0]["pg"].as_str().context("no address")?.parse()?;
        let kept: Value = serde_json::from_str(&fs::read_to_string(up.data_dir().join("kept.json"))?)?;
        let postgres = kept["postgres_port"].as_u64().and_then(|port| u16::try_from(port).ok()).context("no port")?;
        stop(&mut up).await?;

        let thief = TcpListener::bind(safekeeper)?;
        up.start()?;
        up.says("safekeeper 1 does not run: exit status: 1: error: cannot listen on", SOON).await?;
        let second = TcpListener::bind(("127.0.0.1", postgres))?;
        drop(thief);
        let words = "PostgreSQL does not run: could not bind IPv4 address";
        up.says(words, SOON).await?;
        // A few more tries.
        wait_for("another try", SOON, async || {
            let log = fs::read_to_string(up.data_dir().join("logs/postgres.log"))?;
            Ok((log.matches("could not create any TCP/IP sockets").count() >= 3).then_some(()))
        })
        .await?;
        drop(second);
        up.protected(SOON).await?;
        let said = up.output()?.matches(words).count();
        ensure!(said == 1, "it said {said} times that the port is taken");
        stop(&mut up).await
    });
}

/// Goal: one data directory, one `up`; a broken off start leaves nothing in the way; an emptied safekeeper does not vote and does not
/// stop the others. Method: a second `up`; Ctrl-C at several moments of a start; a safekeeper's folder removed between two runs.
#[test]
fn a_data_directory_belongs_to_one() {
    scenario("up_dir", WITHIN, async |folder| {
        let mut up = Up::start::<String>(&folder, [])?;
        up.says("making a throw-away PostgreSQL", SOON).await?;
        up.terminate(STOPS_WITHIN).await?;
        up.start()?;
        wait_for("a safekeeper's log", SOON, async || {
            Ok(up.data_dir().join("logs/safekeeper-3.log").exists().then_some(()))
        })
        .await?;
        up.terminate(STOPS_WITHIN).await?;
        up.start()?;
        up.protected(SOON).await?;
        up.client().await?.batch_execute("CREATE TABLE t (a int)").await?;

        let data_dir = up.data_dir().display().to_string();
        let second =
            Bin::seawall()?.run(&folder, "second", ["up", "--data-dir", &data_dir], SOON).await?.expect_code(1)?;
        let sentence = "error: another seawall up is running in ";
        ensure!(second.stderr.contains(sentence) && second.stdout.is_empty(), "the second says {second:?}");
        up.client().await?.batch_execute("INSERT INTO t VALUES (1)").await?;
        stop(&mut up).await?;

        fs::remove_dir_all(up.data_dir().join("safekeeper-2"))?;
        up.start()?;
        up.says("safekeeper 2 does not have it", SOON).await?;
        up.protected(SOON).await?;
        up.client().await?.batch_execute("INSERT INTO t VALUES (2)").await?;
        stop(&mut up).await
    });
}

/// The conninfo of the line that tells how to follow the WAL.
async fn follow(up: &mut Up) -> Result<String> {
    let line = up.says("follow    pg_receivewal -d", SOON).await?;
    Ok(line.split('"').nth(1).with_context(|| format!("no conninfo in {line:?}"))?.to_owned())
}

/// The file of this name below `dir`.
fn find(dir: &Path, name: &str) -> Result<Option<PathBuf>> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            if let Some(found) = find(&entry.path(), name)? {
                return Ok(Some(found));
            }
        } else if entry.file_name() == name {
            return Ok(Some(entry.path()));
        }
    }
    Ok(None)
}

/// Goal: stock `pg_receivewal` follows the WAL as the output says it can. Method: its files are byte for byte the safekeepers' and the
/// primary's, across a switch, a kill of the safekeeper it reads from, and another switch.
#[test]
fn pg_receivewal_follows() {
    scenario("up_follow", WITHIN, async |folder| {
        let mut up = protected_up(&folder).await?;
        let client = up.client().await?;
        client.batch_execute("CREATE TABLE t (a int)").await?;
        let (target, conninfo) = (folder.sub("received")?, follow(&mut up).await?);
        let args = ["-D".to_owned(), target.display().to_string(), "-d".to_owned(), conninfo];
        let mut receivewal = Up::postgres_program("pg_receivewal")?.spawn(&folder, "receivewal", args)?;
        for segment in ["000000010000000000000001", "000000010000000000000002"] {
            client.batch_execute("INSERT INTO t SELECT generate_series(1, 20000)").await?;
            client.batch_execute("SELECT pg_switch_wal()").await?;
            client.batch_execute("INSERT INTO t VALUES (0)").await?;
            let received = wait_for(segment, SOON, async || {
                ensure!(receivewal.is_running()?, "pg_receivewal ended");
                Ok(Some(fs::read(target.join(segment))?))
            })
            .await?;
            for keeper in ["safekeeper-1", "safekeeper-2", "safekeeper-3", "postgres/pg_wal"] {
                let dir = up.data_dir().join(keeper);
                wait_for("equal segments", SOON, async || {
                    let file = find(&dir, segment)?.with_context(|| format!("{keeper} has no {segment}"))?;
                    ensure!(fs::read(&file)? == received, "{} is not what was received", file.display());
                    Ok(Some(()))
                })
                .await?;
            }
            let pid = up.kill_part("safekeeper 1")?;
            up.started_again("safekeeper 1", pid, SOON).await?;
        }
        receivewal.kill()?;
        stop(&mut up).await
    });
}
