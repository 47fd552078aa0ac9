//! Tokens and TLS between real parts and for real clients.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pg_harness::{Bin, Finished, Folder, Postgres, Quorum, get, get_json, scenario, wait_for};
use scenarios::{CLUSTER, SOON};

const WITHIN: Duration = Duration::from_secs(175);

/// Keys, tokens and certificates in the scenario's folder.
struct Secrets<'a> {
    folder: &'a Folder,
    dir: PathBuf,
}

impl Secrets<'_> {
    async fn new(folder: &Folder) -> Result<Secrets<'_>> {
        let secrets = Secrets { folder, dir: folder.sub("secrets")? };
        fs::create_dir(secrets.path("keys"))?;
        let (private, public) = (secrets.text("private.pem"), secrets.text("keys/ops.pem"));
        secrets.openssl(&["genpkey", "-algorithm", "ed25519", "-out", &private]).await?;
        secrets.openssl(&["pkey", "-in", &private, "-pubout", "-out", &public]).await?;
        secrets.certificate("tls").await?;
        Ok(secrets)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    async fn openssl(&self, args: &[&str]) -> Result<()> {
        let done = Bin::at("/usr/bin/openssl").run(self.folder, "openssl", args.iter().copied(), SOON).await?;
        done.expect_code(0).map(|_| ())
    }

    /// A certificate for this machine, `<name>.crt`, and the one that vouches for it, `<name>-ca.crt`.
    async fn certificate(&self, name: &str) -> Result<()> {
        let file = |suffix: &str| self.text(&format!("{name}{suffix}"));
        let (ca, ca_key, key, request) = (file("-ca.crt"), file("-ca.key"), file(".key"), file(".csr"));
        let make = "-nodes -newkey ec -pkeyopt ec_paramgen_curve:prime256v1".split(' ');
        let args = ["req", "-new", "-x509", "-days", "2", "-subj", "/CN=test", "-keyout", &ca_key, "-out", &ca];
        self.openssl(&args.into_iter().chain(make.clone()).collect::<Vec<_>>()).await?;
        let args = ["req", "-new", "-subj", "/CN=localhost", "-keyout", &key, "-out", &request];
        self.openssl(&args.into_iter().chain(make).collect::<Vec<_>>()).await?;
        let extensions = "subjectAltName=DNS:localhost,IP:127.0.0.1\nbasicConstraints=CA:FALSE\n";
        fs::write(self.path(&format!("{name}.ext")), extensions)?;
        let (certificate, extensions) = (file(".crt"), file(".ext"));
        let args = ["x509", "-req", "-days", "2", "-in", &request, "-CA", &ca, "-CAkey", &ca_key, "-CAcreateserial"];
        self.openssl(&[&args[..], &["-extfile", &extensions, "-out", &certificate]].concat()).await
    }

    /// Makes a token with `seawall token`; it stands in a file of this name.
    async fn token(&self, name: &str, args: &[&str]) -> Result<String> {
        let key = self.text("private.pem");
        let all = [&["token", "--key", &key][..], args].concat();
        let token = Bin::seawall()?.run(self.folder, &format!("token-{name}"), all, SOON).await?.expect_code(0)?.stdout;
        fs::remove_file(self.folder.path().join(format!("token-{name}.out")))?;
        fs::write(self.path(name), &token)?;
        Ok(token.trim().to_owned())
    }
}

/// A program with these variables in its environment, and not on its command line.
async fn run_with(
    folder: &Folder,
    name: &str,
    variables: &[(&str, &str)],
    program: &Path,
    args: &[&str],
) -> Result<Finished> {
    let variables = variables.iter().map(|(key, value)| format!("{key}={value}"));
    let program = program.display().to_string();
    let all = variables.chain([program]).chain(args.iter().map(|arg| (*arg).to_owned()));
    Bin::at("/usr/bin/env").run(folder, name, all, SOON).await
}

/// Whether any file directly in the folder, or any process's command line, holds this text.
fn leaks(folder: &Folder, secret: &str) -> Result<Vec<String>> {
    let mut found = Vec::new();
    let mut look = |path: PathBuf| {
        if fs::read(&path).is_ok_and(|bytes| bytes.windows(secret.len()).any(|window| window == secret.as_bytes())) {
            found.push(path.display().to_string());
        }
    };
    for entry in fs::read_dir(folder.path())? {
        let path = entry?.path();
        if path.is_file() {
            look(path);
        }
    }
    for entry in fs::read_dir("/proc")? {
        look(entry?.path().join("cmdline"));
    }
    Ok(found)
}

/// Goal: with keys and certificates everything works for who has a token, nothing for who has none, and no secret is shown. Method: three
/// safekeepers with TLS and keys, `seawall init`, a proposer and peers with tokens, a protected primary whose commits return; a real
/// `psql` and `pg_receivewal` with good, foreign, missing and expired tokens; a certificate that is replaced is taken up; logs and
/// command lines are searched for the tokens.
#[test]
fn parts_and_clients_prove_who_they_are() {
    scenario("auth", WITHIN, async |folder| {
        let secrets = Secrets::new(&folder).await?;
        let part = secrets.token("part", &["--scope", "write", "--subject", "parts"]).await?;
        let admin = secrets.token("admin", &["--scope", "admin", "--days", "1"]).await?;
        let reader = secrets.token("reader", &["--scope", "read", "--cluster", CLUSTER]).await?;
        let foreign = secrets.token("foreign", &["--scope", "read", "--cluster", "another"]).await?;
        let expired = secrets.token("expired", &["--scope", "read", "--days", "0"]).await?;
        let flag = |name: &str, file: &str| format!("--{name}={}", secrets.text(file));
        let (keys, cert, key) = (flag("auth-keys", "keys"), flag("tls-cert", "tls.crt"), flag("tls-key", "tls.key"));
        let (ca, token) = (flag("tls-ca", "tls-ca.crt"), flag("auth-token-file", "part"));

        let postgres = Postgres::builder(&folder).setting("restart_after_crash", "off").start().await?;
        let quorum =
            [&keys, &cert, &key, &ca, &token].into_iter().fold(Quorum::builder(&folder), |quorum, arg| quorum.arg(arg));
        let mut quorum = quorum.start().await?;
        let refused = quorum.try_init(CLUSTER, None).await?;
        ensure!(
            refused.code == Some(1) && refused.stderr.contains("asks for a password"),
            "init without a token: {}",
            refused.stderr
        );
        let addresses = quorum.addresses();
        let ca_file = secrets.text("tls-ca.crt");
        let operator = [("SEAWALL_TOKEN", admin.as_str()), ("SEAWALL_TLS_CA", &ca_file)];
        let init = ["init", "--cluster", CLUSTER, "--safekeepers", &addresses];
        run_with(&folder, "init", &operator, quorum.bin().path(), &init).await?.expect_code(0)?;

        let primary = postgres.conninfo();
        let args = [
            "walproposer",
            "--primary",
            &primary,
            "--safekeepers",
            &addresses,
            "--listen-http",
            "127.0.0.1:0",
            &ca,
            &token,
        ];
        let mut proposer = quorum.bin().spawn(&folder, "proposer", args)?;
        let http = proposer.ready(SOON).await?.http.context("a proposer's HTTP")?;
        wait_for("a ready proposer", SOON, async || Ok((get_json(http, "/v1/ready").await?.0 == 200).then_some(())))
            .await?;
        postgres.set("synchronous_standby_names", "seawall").await?;
        let client = postgres.client().await?;
        client.batch_execute("CREATE TABLE t AS SELECT generate_series(1, 1000)").await?;

        let node = &quorum.nodes()[0];
        let status = ["status", "--http", &node.http().to_string()].map(str::to_owned);
        let status: Vec<&str> = status.iter().map(String::as_str).collect();
        let anonymous = quorum.bin().run(&folder, "status-1", status.clone(), SOON).await?;
        ensure!(
            anonymous.code != Some(0) && anonymous.stdout.contains("token") || anonymous.stderr.contains("token"),
            "{anonymous:?}"
        );
        let seen = run_with(&folder, "status-2", &operator, quorum.bin().path(), &status).await?;
        ensure!(seen.stdout.contains(CLUSTER), "{seen:?}");
        let metrics = get(node.http(), "/metrics").await?;
        ensure!(metrics.0 == 401, "metrics without a token: {}", metrics.0);

        // Real clients: libpq decides what TLS is worth.
        let psql = postgres.bin("psql");
        let ask = async |name: &str, password: &str, rest: &str| {
            let port = node.pg().port();
            let conninfo = format!("host=localhost hostaddr=127.0.0.1 port={port} user=x replication=1 {rest}");
            let args = ["-X", "-A", "-t", "-c", "IDENTIFY_SYSTEM", &conninfo];
            run_with(&folder, name, &[("PGPASSWORD", password)], psql.path(), &args).await
        };
        let verified = format!("sslmode=verify-full sslrootcert={ca_file}");
        let good = ask("psql-good", &reader, &verified).await?.expect_code(0)?;
        ensure!(good.stdout.contains("|1|"), "{}", good.stdout);
        for (name, password, says) in [
            ("psql-foreign", foreign.as_str(), "does not have cluster"),
            ("psql-expired", &expired, "has expired"),
            ("psql-wrong", "letmein", "is not a JWT"),
        ] {
            let refused = ask(name, password, &verified).await?;
            ensure!(refused.code != Some(0) && refused.stderr.contains(says), "{name}: {refused:?}");
        }
        let receive = folder.sub("received")?;
        let dir = receive.display().to_string();
        let conninfo = format!("host=localhost hostaddr=127.0.0.1 port={} user=x {verified}", node.pg().port());
        let end: String = client.query_one("SELECT pg_current_wal_flush_lsn()::text", &[]).await?.get(0);
        let args = ["-D", &dir, "-d", &conninfo, "--no-loop", "--endpos", &end];
        let program = postgres.bin("pg_receivewal");
        wait_for("WAL behind TLS", SOON, async || {
            let done = run_with(&folder, "receive", &[("PGPASSWORD", &reader)], program.path(), &args).await?;
            done.expect_code(0).map(Some)
        })
        .await?;

        // A new certificate under the old names: connections that are made from now on see it.
        secrets.certificate("next").await?;
        for kind in ["key", "crt"] {
            fs::copy(secrets.path(&format!("next.{kind}")), secrets.path(&format!("tls.{kind}")))?;
        }
        let next = format!("sslmode=verify-full sslrootcert={}", secrets.text("next-ca.crt"));
        wait_for("the new certificate", SOON, async || {
            ask("psql-next", &reader, &next).await?.expect_code(0).map(Some)
        })
        .await?;
        client.batch_execute("INSERT INTO t VALUES (0)").await?;

        for token in [&part, &admin, &reader, &foreign, &expired] {
            let signature = token.rsplit('.').next().context("a signature")?;
            let found = leaks(&folder, signature)?;
            ensure!(found.is_empty(), "a token is shown in {found:?}");
        }
        Ok(())
    });
}
