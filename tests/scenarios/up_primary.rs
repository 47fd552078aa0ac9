//! `seawall up --primary`: a PostgreSQL that already runs is protected, or it is said in a sentence why not.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pg_harness::{Bin, Folder, Mode, Postgres, PostgresBuilder, Signal, Up, get_json, scenario, wait_for};
use scenarios::SOON;

const WITHIN: Duration = Duration::from_secs(170);
const STOPS_WITHIN: Duration = Duration::from_secs(60);
/// The file that makes the server ask for a password over TCP, replication included.
const ASKS_PASSWORDS: &str =
    "local all all trust\nhost all all all scram-sha-256\nhost replication all all scram-sha-256\n";

fn up(folder: &Folder, conninfo: &str, more: &[&str]) -> Result<Up> {
    Up::start(folder, ["--primary", conninfo].into_iter().chain(more.iter().copied()))
}

async fn stop(up: &mut Up) -> Result<()> {
    let parts = up.parts()?;
    up.signal(Signal::INT)?;
    let ended = up.wait(STOPS_WITHIN).await?;
    ensure!(ended.code() == Some(0), "it ended with {ended}: {}", up.log()?.trim());
    let left: Vec<_> = parts.iter().filter(|part| Up::lives(part.pid)).collect();
    ensure!(parts.len() == 4 && left.is_empty(), "of {parts:?} these live on: {left:?}");
    Ok(())
}

async fn status(folder: &Folder, up: &Up, code: i32) -> Result<String> {
    let data_dir = up.data_dir().display().to_string();
    Ok(Bin::seawall()?
        .run(folder, "status", ["status", "--data-dir", &data_dir], SOON)
        .await?
        .expect_code(code)?
        .stdout)
}

/// Whether a commit returns within three seconds.
async fn commits(postgres: &Postgres) -> Result<bool> {
    let client = postgres.client().await?;
    let commit = client.batch_execute("CREATE TABLE IF NOT EXISTS t (a int); INSERT INTO t VALUES (1)");
    match tokio::time::timeout(Duration::from_secs(3), commit).await {
        Ok(outcome) => outcome.map(|()| true).context("a commit"),
        Err(_) => Ok(false),
    }
}

async fn standby_names(postgres: &Postgres) -> Result<String> {
    Ok(postgres.client().await?.query_one("SHOW synchronous_standby_names", &[]).await?.get(0))
}

/// Goal: somebody else's PostgreSQL is left as it is and its operator is told the exact line. Method: it is not even up when `up` starts;
/// then UNPROTECTED with the line and exit code 1; the line set: PROTECTED; `up` gone: commits wait; `up` back: they return.
#[test]
fn a_primary_that_does_not_wait_for_us() {
    scenario("up_own", WITHIN, async |folder| {
        let postgres = Postgres::builder(&folder).start().await?;
        postgres.stop(Mode::Fast, SOON).await?;
        let mut up = up(&folder, &postgres.conninfo(), &[])?;
        up.says("trying again", SOON).await?;
        postgres.start().await?;

        let line = "synchronous_standby_names = 'FIRST 1 (seawall)'";
        let said = up.says("UNPROTECTED: ", SOON).await?;
        ensure!(said.contains(line), "{said:?} does not say what to set");
        wait_for("the line in the status", SOON, async || {
            Ok(status(&folder, &up, 1).await?.contains(line).then_some(()))
        })
        .await?;
        let file = up.file()?;
        let primary = file["primary"].as_str().context("no primary")?;
        let port = format!("port={}", postgres.port());
        ensure!(file["postgres_pid"].is_null() && primary.contains(&port), "up.json is {file}");
        ensure!(commits(&postgres).await? && standby_names(&postgres).await?.is_empty(), "the primary was changed");

        postgres.set("synchronous_standby_names", "FIRST 1 (seawall)").await?;
        up.protected(SOON).await?;
        up.says("PROTECTED: a COMMIT returns", SOON).await?;
        status(&folder, &up, 0).await?;
        ensure!(commits(&postgres).await?, "a commit hangs");
        stop(&mut up).await?;
        let last = up.output()?;
        ensure!(last.contains("its commits wait until seawall up runs again"), "a stop says {last:?}");
        ensure!(!commits(&postgres).await?, "a commit returned without the quorum");
        up.start()?;
        up.protected(SOON).await?;
        ensure!(commits(&postgres).await?, "a commit hangs after the second start");
        Ok(())
    });
}

/// Goal: `--configure` makes the primary wait for us and a clean stop takes that back, also one that follows a kill. Method: twice, once
/// with kill -9 in between; in the end commits return alone.
#[test]
fn a_primary_that_is_configured() {
    scenario("up_conf", WITHIN, async |folder| {
        let postgres = Postgres::builder(&folder).start().await?;
        let mut up = up(&folder, &postgres.conninfo(), &["--configure"])?;
        up.says("set synchronous_standby_names = 'FIRST 1 (seawall)' on the primary", SOON).await?;
        up.protected(SOON).await?;
        ensure!(commits(&postgres).await?, "a commit hangs");
        up.kill()?;
        ensure!(!commits(&postgres).await?, "a commit returned without the quorum");
        up.start()?;
        up.protected(SOON).await?;
        ensure!(commits(&postgres).await?, "a commit hangs after a kill");
        stop(&mut up).await?;
        ensure!(up.output()?.contains("took back synchronous_standby_names"), "it says {}", up.output()?);
        wait_for("the setting taken back", SOON, async || Ok(standby_names(&postgres).await?.is_empty().then_some(())))
            .await?;
        ensure!(commits(&postgres).await?, "a commit hangs after a clean stop");
        let auto = fs::read_to_string(postgres.data_dir().join("postgresql.auto.conf"))?;
        ensure!(!auto.contains("synchronous_standby_names"), "left behind: {auto}");
        Ok(())
    });
}

/// `up` beside this server ends with exit code 1 and a sentence with all of `words`, before anything was begun.
async fn is_refused(folder: &Folder, conninfo: &str, words: &[&str]) -> Result<()> {
    let mut up = up(folder, conninfo, &[])?;
    let ended = up.wait(SOON).await?;
    let said = up.log()?;
    ensure!(ended.code() == Some(1), "it ended with {ended}: {said}");
    let sentence = said.lines().find(|line| line.starts_with("error: ")).context("it ended without a sentence")?;
    ensure!(words.iter().all(|word| sentence.contains(word)), "the sentence is {sentence:?}");
    ensure!(!up.data_dir().join("safekeeper-1/control").exists(), "a safekeeper was made");
    Ok(())
}

fn server(folder: &Folder, name: &str) -> PostgresBuilder {
    Postgres::builder(folder).name(name)
}

/// Goal: what cannot work is told at once. Method: a conninfo that is none, a folder without PostgreSQL, `--configure` alone.
#[test]
fn flags_that_cannot_work() {
    scenario("up_flags", WITHIN, async |folder| {
        let bin = Bin::seawall()?;
        let data_dir = folder.path().join("data").display().to_string();
        let nowhere = folder.path().join("nowhere").display().to_string();
        let faults = [
            (vec!["--primary", "nonsense"], 2, "--primary: "),
            (vec!["--configure"], 2, "--primary"),
            (vec!["--pg-bin", &nowhere], 1, "holds no usable PostgreSQL"),
            (vec!["--data-dir", "/proc/nowhere"], 1, "cannot make /proc/nowhere"),
        ];
        for (args, code, words) in faults {
            let place = if args[0] == "--data-dir" { vec![] } else { vec!["--data-dir", &data_dir] };
            let args = ["up"].into_iter().chain(args).chain(place);
            let said = bin.run(&folder, "up", args, SOON).await?.expect_code(code)?;
            let says_so = said.stderr.contains(words) && !said.stderr.contains("installing");
            ensure!(says_so && said.stdout.is_empty(), "it says {said:?}");
        }
        Ok(())
    });
}

/// Goal: a server that cannot be protected is refused with what is wrong and what to do. Method: one server per fault.
#[test]
fn primaries_that_cannot_be_protected() {
    scenario("up_refuses", WITHIN, async |folder| {
        let minimal = server(&folder, "minimal").setting("wal_level", "minimal").setting("max_wal_senders", "0");
        let minimal = minimal.start().await?;
        is_refused(&folder, &minimal.conninfo(), &["wal_level is minimal", "set wal_level = replica"]).await?;

        let slotless = server(&folder, "slotless").setting("max_replication_slots", "0").start().await?;
        is_refused(&folder, &slotless.conninfo(), &["no free replication slot", "max_replication_slots"]).await?;

        let taken = server(&folder, "taken").setting("max_replication_slots", "1").start().await?;
        let client = taken.client().await?;
        client.batch_execute("SELECT pg_create_physical_replication_slot('other')").await?;
        is_refused(&folder, &taken.conninfo(), &["no free replication slot", "max_replication_slots"]).await?;

        client.batch_execute("CREATE ROLE plain LOGIN").await?;
        let conninfo = format!("host=127.0.0.1 port={} user=plain dbname=postgres", taken.port());
        is_refused(&folder, &conninfo, &["may not replicate", "ALTER ROLE"]).await?;

        client.batch_execute("SELECT pg_drop_replication_slot('other')").await?;
        taken.base_backup("standby").await?;
        let standby = server(&folder, "standby").in_place().standby_of(&taken.conninfo()).start().await?;
        let mut up = up(&folder, &standby.conninfo(), &[])?;
        up.says("is a standby, not a primary", SOON).await?;
        Ok(())
    });
}

/// Goal: passwords work and stay where they are. Method: SCRAM; a wrong one is refused; the right one protects, and stands neither in a
/// command line nor in a file of ours.
#[test]
fn passwords() {
    scenario("up_scram", WITHIN, async |folder| {
        let postgres = Postgres::builder(&folder).start().await?;
        let client = postgres.client().await?;
        client
            .batch_execute("SET password_encryption = 'scram-sha-256'; ALTER ROLE postgres PASSWORD 'geheim-42'")
            .await?;
        postgres.put_file("pg_hba.conf", ASKS_PASSWORDS)?;
        client.batch_execute("SELECT pg_reload_conf()").await?;
        wait_for("a server that asks", SOON, async || Ok(postgres.client().await.err())).await?;

        is_refused(&folder, &format!("{} password=falsch", postgres.conninfo()), &["does not let us in", "password"])
            .await?;
        is_refused(&folder, &postgres.conninfo(), &["does not let us in", "password"]).await?;

        let mut up = up(&folder, &format!("{} password=geheim-42", postgres.conninfo()), &["--configure"])?;
        up.protected(SOON).await?;
        for part in up.parts()? {
            let line = fs::read(format!("/proc/{}/cmdline", part.pid))?;
            ensure!(!String::from_utf8_lossy(&line).contains("geheim"), "{} shows the password", part.name);
        }
        let shown = [up.output()?, up.log()?, up.file()?.to_string(), status(&folder, &up, 0).await?].concat();
        ensure!(!shown.contains("geheim"), "the password is shown: {shown}");
        for entry in fs::read_dir(up.data_dir().join("logs"))? {
            let log = fs::read_to_string(entry?.path())?;
            ensure!(!log.contains("geheim"), "the password is in a log");
        }
        stop(&mut up).await
    });
}

/// Goal: TLS to the primary. Method: a self-signed certificate and `sslmode=require`: protected, and the server says that our streams
/// are encrypted; `verify-full` refuses it.
#[test]
fn tls_to_the_primary() {
    scenario("up_tls", WITHIN, async |folder| {
        let postgres = Postgres::builder(&folder).start().await?;
        let (key, cert) = (folder.path().join("key.pem"), folder.path().join("cert.pem"));
        let root = cert.display().to_string();
        let args =
            ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"];
        let files = ["-subj", "/CN=elsewhere", "-keyout", &key.display().to_string(), "-out", &root].map(str::to_owned);
        let args = args.map(str::to_owned).into_iter().chain(files);
        Bin::at("openssl").run(&folder, "openssl", args, SOON).await?.expect_code(0)?;
        postgres.put_file("server.key", &fs::read_to_string(key)?)?;
        postgres.put_file("server.crt", &fs::read_to_string(cert)?)?;
        postgres.put_file("pg_hba.conf", "local all all trust\nhostssl all all all trust\nhostssl replication all all trust\nhost all all 127.0.0.1/32 trust\n")?;
        postgres.set("ssl", "on").await?;

        let verified = format!("{} sslmode=verify-full sslrootcert={root}", postgres.conninfo());
        let refused = up(&folder, &verified, &[])?;
        let ended = wait_for("a certificate that is not trusted", SOON, async || {
            let said = [refused.output()?, refused.log()?].concat();
            Ok(said.contains("ertificate").then_some(said))
        });
        ended.await?;
        drop(refused);

        let mut up = up(&folder, &format!("{} sslmode=require", postgres.conninfo()), &["--configure"])?;
        up.protected(SOON).await?;
        let ours = "SELECT count(*), count(*) FILTER (WHERE ssl) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) \
                    WHERE application_name LIKE 'seawall%'";
        let row = postgres.client().await?.query_one(ours, &[]).await?;
        let (all, encrypted): (i64, i64) = (row.get(0), row.get(1));
        ensure!(all >= 2 && all == encrypted, "{encrypted} of {all} connections are encrypted");
        ensure!(commits(&postgres).await?, "a commit hangs");
        let proposer = get_json(up.https()?[0], "/v1/status").await?.1;
        ensure!(proposer["state"] == "leading", "the proposer is {proposer}");
        stop(&mut up).await
    });
}
