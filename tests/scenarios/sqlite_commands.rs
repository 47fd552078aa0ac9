//! The commands around SQLite replicas, on replicas in Litestream's layout that no code of the product has made.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use age::secrecy::ExposeSecret;
use anyhow::{Context, Result, ensure};
use pg_harness::{Bin, scenario};
use rusqlite::Connection;
use scenarios::sqlite::fixture::Fixture;
use scenarios::sqlite::measure::{self, Replicating};
use scenarios::sqlite::reader;
use serde_json::Value;

const WITHIN: Duration = Duration::from_secs(175);
const OLD: &str = "00000000000000aa";
const NEW: &str = "00000000000000bb";

fn seawall() -> Result<PathBuf> {
    Ok(Bin::seawall()?.path().to_path_buf())
}

fn run(words: &[&str]) -> Result<(i32, String)> {
    let output = Command::new(seawall()?).args(words).output()?;
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    Ok((output.status.code().context("killed")?, said))
}

fn json(words: &[&str]) -> Result<Value> {
    let output = Command::new(seawall()?).args(words).arg("--json").output()?;
    ensure!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(serde_json::from_slice(&output.stdout)?)
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

fn rows(path: &Path) -> Result<i64> {
    let connection = Connection::open(path)?;
    let check: String = connection.query_row("PRAGMA integrity_check", [], |row| row.get(0))?;
    ensure!(check == "ok", "{check}");
    Ok(connection.query_row("SELECT count(*) FROM t", [], |row| row.get(0))?)
}

fn rfc3339(time: SystemTime) -> Result<String> {
    let output = Command::new("date")
        .args(["-u", "+%Y-%m-%dT%H:%M:%SZ", "-d"])
        .arg(format!("@{}", time.duration_since(SystemTime::UNIX_EPOCH)?.as_secs()))
        .output()?;
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

/// Goal: what Litestream 0.3 wrote is listed and restored, plain and encrypted, of both byte orders, at any moment, and by the commands its
/// users know. Method: replicas made by the test crate's own code from a real SQLite's files.
#[test]
fn a_replica_in_the_reference_layout() {
    scenario("sqlite_layout", WITHIN, async |folder| {
        let identity = age::x25519::Identity::generate();
        let keys = folder.path().join("identity");
        std::fs::write(&keys, identity.to_string().expose_secret())?;
        for (number, encrypted, page_size, big_endian) in
            [(0, false, 4096, false), (1, true, 512, false), (2, false, 65536, true), (3, true, 1024, true)]
        {
            let root = folder.path().join(format!("replica-{number}"));
            let mut fixture = Fixture::new(&root, encrypted.then(|| identity.to_public()));
            fixture.generation(OLD, 4096, false, 1, &folder.path().join("scratch"))?;
            let steps = fixture.generation(NEW, page_size, big_endian, 4, &folder.path().join("scratch"))?;
            let (replica, identity_file) = (text(&root), text(&keys));
            let restore = |name: &str, more: &[&str]| -> Result<(i32, String, PathBuf)> {
                let output = folder.path().join(format!("{number}-{name}.db"));
                let path = text(&output);
                let base = ["restore", &replica, "-o", &path, "--identity", &identity_file];
                let (code, said) = run(&[&base, more].concat())?;
                Ok((code, said, output))
            };
            let restored = |name: &str, more: &[&str], expected: i64| -> Result<()> {
                let (code, said, output) = restore(name, more)?;
                ensure!(code == 0, "{name}: {said}");
                ensure!(rows(&output)? == expected, "{name}: {} rows, not {expected}", rows(&output)?);
                Ok(())
            };
            restored("latest", &["--integrity-check", "full", "--parallelism", "3"], 12)?;
            // Every moment of the first; the others differ in their bytes only.
            for index in (0..4).filter(|index| number == 0 || *index == 2) {
                restored(&format!("index-{index}"), &["--index", &format!("{index:x}")], 3 * (index + 1))?;
            }
            for step in [1, 6, 11].map(|step| &steps[step]).into_iter().filter(|_| number == 0) {
                restored(&format!("time-{}", step.rows), &["--to-time", &rfc3339(step.stored)?], step.rows)?;
            }
            // The independent reader agrees, on the fixture and so on itself.
            let output = folder.path().join(format!("{number}-reader.db"));
            reader::restore(&root, encrypted.then_some(&identity), &output)?;
            ensure!(rows(&output)? == 12);
            if encrypted {
                let output = text(&folder.path().join("never.db"));
                let (code, said) = run(&["restore", &replica, "-o", &output])?;
                ensure!(code == 1 && said.contains("identit"), "{code}: {said}");
            }
            if number > 0 {
                continue;
            }
            restored("generation", &["--generation", OLD], 3)?;
            // Later than the end is the end.
            restored("future", &["--to-time", "2999-01-01T00:00:00Z"], 12)?;
            let (code, said, _) = restore("past", &["--to-time", "2001-01-01T00:00:00Z"])?;
            ensure!(code == 1 && said.contains("does not go back"), "{code}: {said}");
            let listed = json(&["generations", &replica])?;
            ensure!(listed[0]["generation"] == OLD && listed[1]["snapshots"] == 2, "{listed}");
            let listed = json(&["snapshots", &replica, "--generation", NEW])?;
            ensure!(listed.as_array().map(Vec::len) == Some(2) && listed[1]["at"] == "00000002", "{listed}");
            let listed = json(&["wal", &replica, "--generation", NEW])?;
            ensure!(listed.as_array().map(Vec::len) == Some(12) && listed[4]["start"] == steps[4].offset, "{listed}");

            // A piece beyond 4 GiB has more than eight digits. It is seen, and that those before it are missing is not passed over.
            fixture.piece(NEW, 3, 0x1_2345_6789, b"unreadable")?;
            let listed = json(&["wal", &replica, "--generation", NEW])?;
            ensure!(listed[12]["start"] == 0x1_2345_6789_u64, "{listed}");
            let (code, said, output) = restore("hole", &[])?;
            ensure!(code == 1 && said.contains("00000003") && !output.exists(), "{code}: {said}");
            std::fs::remove_file(root.join(format!("generations/{NEW}/wal/00000003_123456789.wal.lz4")))?;
        }
        Ok(())
    });
}

/// Goal: `restore` in a script: nothing where nothing is wanted, nothing replaced, a plan before the deed.
#[test]
fn restoring_in_a_script() {
    scenario("sqlite_script", WITHIN, async |folder| {
        let (root, output) = (folder.path().join("replica"), folder.path().join("app.db"));
        let (replica, path) = (text(&root), text(&output));
        let (code, said) = run(&["restore", &replica, "-o", &path, "--if-replica-exists"])?;
        ensure!(code == 0 && said.contains("nothing done") && !output.exists(), "{code}: {said}");
        let (code, said) = run(&["restore", &replica, "-o", &path])?;
        ensure!(code == 1, "{code}: {said}");
        Fixture::new(&root, None).generation(NEW, 4096, false, 2, &folder.path().join("scratch"))?;
        let plan = json(&["restore", &replica, "-o", &path, "--dry-run"])?;
        ensure!(plan.to_string().contains(NEW) && !output.exists(), "{plan}");
        for _ in 0..2 {
            let (code, said) = run(&["restore", &replica, "-o", &path, "--if-db-not-exists"])?;
            ensure!(code == 0 && rows(&output)? == 6, "{code}: {said}");
        }
        let (code, said) = run(&["restore", &replica, "-o", &path])?;
        ensure!(code == 3 && said.contains("nothing was touched"), "{code}: {said}");
        let (code, said) = run(&["restore", &replica, "-o", &path, "--to-lsn", "0/1", "--if-db-not-exists"])?;
        ensure!(code == 0, "there already: {said}");
        let other = text(&folder.path().join("other.db"));
        let (code, said) = run(&["restore", &replica, "-o", &other, "--to-lsn", "0/1"])?;
        ensure!(code == 2, "{code}: {said}");
        // Nothing is left behind by what failed.
        let left: Vec<_> =
            std::fs::read_dir(folder.path())?.map(|entry| entry.map(|entry| entry.file_name())).collect();
        ensure!(!format!("{left:?}").contains("restore-"), "{left:?}");
        Ok(())
    });
}

fn kill(child: &Child, signal: &str) -> Result<()> {
    ensure!(Command::new("kill").args([signal, &child.id().to_string()]).status()?.success(), "kill {signal}");
    Ok(())
}

/// Waits until the log has this text.
fn said(log: &Path, text: &str) -> Result<()> {
    let begun = Instant::now();
    loop {
        let found = std::fs::read_to_string(log).unwrap_or_default();
        if found.contains(text) {
            return Ok(());
        }
        ensure!(begun.elapsed() < Duration::from_secs(60), "{text:?} is not said within 60 s: {found}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Goal: the last upload may take long, and a second signal ends it, honestly. Method: a store that takes connections and never answers.
#[test]
fn a_second_signal_ends_the_last_upload() {
    scenario("sqlite_signals", WITHIN, async |folder| {
        let silent = std::net::TcpListener::bind("127.0.0.1:0")?;
        let url = format!("http://127.0.0.1:{}/bucket/app", silent.local_addr()?.port());
        std::thread::spawn(move || {
            // Kept, so that none of them is closed.
            let _open: Vec<_> = silent.incoming().take(100).collect();
        });
        let (database, log) = (folder.path().join("a.db"), folder.path().join("log"));
        let connection = measure::database(&database, 0)?;
        for flags in [&[][..], &["--once"]] {
            std::fs::write(&log, "")?;
            let mut command = Command::new(seawall()?);
            command.args(["replicate", &text(&database), &url]).args(flags);
            command.env("AWS_ACCESS_KEY_ID", "x").env("AWS_SECRET_ACCESS_KEY", "y").env("AWS_REGION", "us-east-1");
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(std::fs::File::create(&log)?);
            let mut child = command.spawn()?;
            said(&log, "replicating")?;
            connection.execute("INSERT INTO t (data) VALUES (x'01')", [])?;
            if flags.is_empty() {
                kill(&child, "-TERM")?;
                said(&log, "stopping")?;
            }
            std::thread::sleep(Duration::from_millis(300));
            ensure!(child.try_wait()?.is_none(), "it does not wait for the upload: {}", std::fs::read_to_string(&log)?);
            kill(&child, "-INT")?;
            let begun = Instant::now();
            let status = loop {
                match child.try_wait()? {
                    Some(status) => break status,
                    None if begun.elapsed() > Duration::from_secs(20) => {
                        child.kill()?;
                        anyhow::bail!("it does not stop: {}", std::fs::read_to_string(&log)?);
                    }
                    None => std::thread::sleep(Duration::from_millis(20)),
                }
            };
            ensure!(status.code() == Some(1), "{flags:?}: {status}");
            said(&log, "error:")?;
        }
        Ok(())
    });
}

/// Goal: everything an operator has to watch is measured, and nobody but who may reads it.
#[test]
fn metrics_and_who_may_read_them() {
    scenario("sqlite_metrics", WITHIN, async |folder| {
        let (database, replica) = (folder.path().join("a.db"), folder.path().join("replica"));
        let (from, to) = (text(&database), text(&replica));
        let (code, said) = run(&["replicate", &from, &to, "--listen-http", "0.0.0.0:0"])?;
        ensure!(code == 2 && said.contains("--auth-keys"), "{code}: {said}");
        let connection = measure::database(&database, 0)?;
        let config = folder.path().join("seawall.toml");
        std::fs::write(
            &config,
            format!(
                "[[sqlite]]\npath = {from:?}\nmin_checkpoint_pages = 5\n[[sqlite.replica]]\nurl = {to:?}\nvalidation_interval = \"1s\"\n"
            ),
        )?;
        let running = Replicating::start(&seawall()?, &["--config", &text(&config)], &folder.path().join("log"))?;
        let wanted = [
            "db_bytes",
            "wal_file_bytes",
            "shadow_bytes",
            "position_index",
            "position_offset",
            "wal_bytes_total",
            "syncs_total",
            "sync_seconds",
            "generations_total",
            "checkpoints_total",
            "checkpoint_seconds",
            "disk_full",
            "replica_index",
            "replica_offset",
            "replica_wal_bytes_total",
            "replica_snapshots_total",
            "replica_validations_total",
            "replica_seconds_behind",
            "replica_seconds_since_confirmed_upload",
        ];
        let begun = Instant::now();
        loop {
            connection.execute("INSERT INTO t (data) VALUES (randomblob(30000))", [])?;
            let page = running.metrics();
            let missing: Vec<&str> = wanted
                .into_iter()
                .filter(|name| !page.lines().any(|line| line.starts_with(&format!("seawall_sqlite_{name}"))))
                .collect();
            let operations = ["put", "list"].map(|operation| {
                page.contains("seawall_replica_operations_total")
                    && page.contains(&format!("operation=\"{operation}\""))
            });
            let mode = page.contains("mode=\"passive\",outcome=\"whole\"");
            if missing.is_empty() && operations == [true; 2] && mode {
                break;
            }
            ensure!(begun.elapsed() < Duration::from_secs(60), "missing: {missing:?} {operations:?} {mode}\n{page}");
            std::thread::sleep(Duration::from_millis(200));
        }
        drop(running);
        // With keys a token is asked for, on this machine too.
        let (private, public) = (text(&folder.path().join("private.pem")), text(&folder.path().join("public.pem")));
        for args in [
            &["genpkey", "-algorithm", "ed25519", "-out", &private][..],
            &["pkey", "-in", &private, "-pubout", "-out", &public],
        ] {
            ensure!(Command::new("openssl").args(args).stderr(Stdio::null()).status()?.success(), "openssl {args:?}");
        }
        let words = [from.as_str(), &to, "--auth-keys", &public];
        let mut closed = Replicating::start(&seawall()?, &words, &folder.path().join("log"))?;
        ensure!(closed.metrics().is_empty() || !closed.metrics().contains("seawall_sqlite"), "read without a token");
        let (code, token) = run(&["token", "--key", &private, "--scope", "read"])?;
        ensure!(code == 0, "{token}");
        closed.show(token.trim());
        closed.in_sync(1, Duration::from_secs(60))?;
        ensure!(closed.metrics().contains("seawall_sqlite"), "{}", closed.metrics());
        Ok(())
    });
}
