//! A SQLite file under replication is given back, whatever happens to its writers and its replicator.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pg_harness::{Bin, Folder, scenario};
use rusqlite::Connection;
use scenarios::sqlite::measure::{self, Replicating};
use scenarios::sqlite::{Ledger, Rounds, Settings, reader};

const WITHIN: Duration = Duration::from_secs(175);

fn seawall() -> Result<PathBuf> {
    Ok(Bin::seawall()?.path().to_path_buf())
}

fn settings(seed: u64) -> Result<Settings> {
    let writer = PathBuf::from(env!("CARGO_BIN_EXE_sqlite"));
    Ok(Settings { seawall: seawall()?, writer, seed, writers: 3, page_size: 4096, encrypted: false })
}

fn rounds(folder: &Folder, settings: Settings, count: u64) -> Result<()> {
    let mut rounds = Rounds::begin(folder, settings)?;
    for _ in 0..count {
        if let Err(error) = rounds.round() {
            return Err(error.context(rounds.said()));
        }
    }
    rounds.end().map(drop)
}

/// Goal: nothing that was confirmed is lost, and what is restored is a state that was committed. Method: writers in processes of their own
/// with random transactions, VACUUM, checkpoints of every kind and long readers; writers and replicator killed at random; after each
/// round the replica is restored by a reader that shares no code with the product.
#[test]
fn rounds_of_blows() {
    scenario("sqlite_rounds", WITHIN, async |folder| rounds(&folder, settings(1)?, 15));
}

/// The same, encrypted and with small pages.
#[test]
fn rounds_of_blows_encrypted() {
    scenario("sqlite_sealed", WITHIN, async |folder| {
        // One writer: encryption is slow in a program that was built without optimisation.
        rounds(&folder, Settings { encrypted: true, page_size: 512, writers: 1, ..settings(2)? }, 15)
    });
}

fn run(words: &[&str]) -> Result<(i32, String)> {
    let output = Command::new(seawall()?).args(words).output()?;
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    Ok((output.status.code().context("killed")?, said))
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

/// Goal: `--once` and `--exec` bring everything into the replica and say honestly whether they did.
#[test]
fn once_and_beside_a_command() {
    scenario("sqlite_once", WITHIN, async |folder| {
        let (database, replica) = (folder.path().join("a.db"), folder.path().join("replica"));
        let (path, to) = (text(&database), text(&replica));
        ensure!(run(&["replicate", &path, &to, "--once"])?.0 == 1, "there is no database yet");
        Ledger::create(&database, 4096)?;
        for round in 0..2 {
            let connection = Connection::open(&database)?;
            connection.execute("UPDATE state SET number = ?1", [round])?;
            let (code, said) = run(&["replicate", &path, &to, "--once"])?;
            ensure!(code == 0, "{code}: {said}");
            let output = folder.path().join(format!("{round}.db"));
            reader::restore(&replica, None, &output)?;
            ensure!(Ledger::check(&output)?.number == round);
        }
        // The command's own last words are replicated, and its code is ours.
        let script = format!(
            "python3 -c \"import sqlite3; c = sqlite3.connect('{path}'); c.execute('UPDATE state SET number = 77'); c.commit()\"; exit 5"
        );
        let (code, said) = run(&["replicate", &path, &to, "--exec", &format!("sh -c {}", quoted(&script))])?;
        ensure!(code == 5, "{code}: {said}");
        let output = folder.path().join("exec.db");
        reader::restore(&replica, None, &output)?;
        ensure!(Ledger::check(&output)?.number == 77, "{:?}", Ledger::check(&output)?);
        // A place that cannot be written to: not done, and said.
        let blocked = folder.path().join("file");
        std::fs::write(&blocked, b"x")?;
        let (code, said) = run(&["replicate", &path, &format!("{}/below", text(&blocked)), "--once"])?;
        ensure!(code != 0 && said.contains("error"), "{code}: {said}");
        let (code, said) = run(&["replicate", "host=db1 user=x", &to, "--once"])?;
        ensure!(code == 2 && said.contains("walproposer"), "{code}: {said}");
        Ok(())
    });
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

/// Goal: of a directory every database is replicated, those that appear later too; one that vanishes keeps its replica.
#[test]
fn a_directory_of_databases() {
    scenario("sqlite_dir", WITHIN, async |folder| {
        let (tenants, replica) = (folder.sub("tenants")?, folder.path().join("replica"));
        let config = folder.path().join("seawall.toml");
        std::fs::write(
            &config,
            format!("[[sqlite]]\ndir = {:?}\nreplicas = [{:?}]\n", text(&tenants), text(&replica)),
        )?;
        let one = measure::database(&tenants.join("one.db"), 0)?;
        let running = Replicating::start(&seawall()?, &["--config", &text(&config)], &folder.path().join("log"))?;
        running.in_sync(1, Duration::from_secs(30))?;
        let two = measure::database(&tenants.join("two.db"), 0)?;
        two.execute("INSERT INTO t (data) VALUES (x'01')", [])?;
        running.in_sync(2, Duration::from_secs(30))?;
        // The new one did not cost the old one its locks: it goes on, and both can be restored.
        one.execute("INSERT INTO t (data) VALUES (x'02')", [])?;
        let (code, said) = run(&["databases", "--config", &text(&config), "--json"])?;
        ensure!(code == 0 && said.contains("one.db") && said.contains("replica/two.db"), "{said}");
        for (name, connection) in [("one.db", one), ("two.db", two)] {
            let deadline = std::time::Instant::now() + Duration::from_secs(30);
            let output = folder.path().join(name);
            loop {
                reader::restore(&replica.join(name), None, &output)?;
                let count: i64 =
                    Connection::open(&output)?.query_row("SELECT count(*) FROM t", [], |row| row.get(0))?;
                if count == 1 {
                    break;
                }
                ensure!(std::time::Instant::now() < deadline, "{name}: {count} rows");
                std::thread::sleep(Duration::from_millis(100));
            }
            drop(connection);
        }
        std::fs::remove_file(tenants.join("two.db"))?;
        running.in_sync(1, Duration::from_secs(30))?;
        reader::restore(&replica.join("two.db"), None, &folder.path().join("again.db"))?;
        Ok(())
    });
}

/// Goal: an idle database costs no request and no processor time.
#[test]
fn idle_costs_nothing() {
    scenario("sqlite_idle", WITHIN, async |folder| {
        let (database, replica) = (folder.path().join("a.db"), folder.path().join("replica"));
        let connection = measure::database(&database, 1 << 20)?;
        let (from, to) = (text(&database), text(&replica));
        let words = [from.as_str(), to.as_str()];
        let running = Replicating::start(&seawall()?, &words, &folder.path().join("log"))?;
        running.in_sync(1, Duration::from_secs(30))?;
        connection.execute("INSERT INTO t (data) VALUES (x'01')", [])?;
        std::thread::sleep(Duration::from_secs(3));
        running.in_sync(1, Duration::from_secs(30))?;
        let requests = "seawall_replica_operations_total";
        let (ticks, asked) = (running.ticks()?, running.counter(requests));
        ensure!(asked > 0.0, "no request is counted at all");
        std::thread::sleep(Duration::from_secs(10));
        ensure!(running.counter(requests) == asked, "requests while nothing was written");
        let ticks = running.ticks()? - ticks;
        ensure!(ticks <= 5, "{ticks} hundredths of a second of processor time in 10 s");
        Ok(())
    });
}
