//! [`patroni`]: Debian's Patroni and etcd around the recipe of `docs/operations.md`: two members, a proposer beside each.
//!
//! The primary's machine dies, the other member is promoted through `pre_promote`, the dead one comes back by Patroni's own
//! `pg_rewind`, and a switchover brings it back to its role. After each step every acknowledged row must be there and commits must wait for
//! the quorum. Nothing of this depends on anything that Patroni would not do by itself.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use pg_harness::{Bin, Folder, Ledger, Process, Proposer, Quorum, wait_for};
use serde_json::Value;

use crate::stage::{CLUSTER, SOON};

/// Patroni notices a dead leader after its `ttl`.
const PROMOTED_WITHIN: Duration = Duration::from_secs(120);
const TTL: u32 = 20;
/// The user Debian's PostgreSQL runs as; the server refuses root.
const USER: &str = "postgres";

/// One member: Patroni, the server it keeps, and the proposer beside it.
struct Member {
    name: &'static str,
    port: u16,
    patroni: Process,
    proposer: Proposer,
    folder: PathBuf,
}

impl Member {
    fn conninfo(&self) -> String {
        conninfo(self.port)
    }

    fn postmaster(&self) -> Option<i32> {
        let text = fs::read_to_string(self.folder.join("data/postmaster.pid")).ok()?;
        text.lines().next()?.trim().parse().ok()
    }
}

impl Drop for Member {
    /// A server whose Patroni was killed stays.
    fn drop(&mut self) {
        if let Some(postmaster) = self.postmaster() {
            // It may be gone, which is as good.
            let _ = std::process::Command::new("kill").args(["-QUIT", &postmaster.to_string()]).status();
        }
    }
}

fn conninfo(port: u16) -> String {
    format!("host=127.0.0.1 port={port} user=postgres dbname=postgres")
}

fn free_port() -> Result<u16> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// Runs the rounds; `say` is told a line a step.
pub async fn patroni(folder: &Folder, rounds: u64, say: &mut dyn FnMut(&str)) -> Result<usize> {
    let etcd = Etcd::start(folder).await?;
    let mut quorum = Quorum::builder(folder).start().await?;
    quorum.init(CLUSTER, None).await?;
    let first = member(folder, &mut quorum, &etcd, "a").await?;
    wait_for("the first member as the leader", PROMOTED_WITHIN, async || leads(&first).await).await?;
    let second = member(folder, &mut quorum, &etcd, "b").await?;
    wait_for("the second member as a replica", PROMOTED_WITHIN, async || {
        let client = client(&second).await?;
        let row = client.query_one("SELECT pg_is_in_recovery()", &[]).await?;
        Ok(row.get::<_, bool>(0).then_some(()))
    })
    .await?;
    Ledger::create(&client(&first).await?).await?;
    let ledger = Ledger::start(&first.conninfo(), 3)?;
    let (mut primary, mut standby) = (first, second);
    for round in 1..=rounds {
        ledger.wait_for_more(50, SOON).await?;
        dies(&mut primary).await?;
        let began = Instant::now();
        ledger.point_at(&standby.conninfo());
        ledger.wait_for_more(20, PROMOTED_WITHIN).await.context("commits on the promoted member")?;
        say(&format!(
            "round {round}: {} died, {} took over after {:.1} s",
            primary.name,
            standby.name,
            began.elapsed().as_secs_f64()
        ));
        ledger.so_far().verify(&client(&standby).await?).await?;

        primary.patroni.start()?;
        primary.proposer.revive().await?;
        std::mem::swap(&mut primary, &mut standby);
        follows(&primary, &standby).await.context("the dead member as a replica")?;
        let began = Instant::now();
        switch_over(folder, &primary, &standby, round).await?;
        ledger.point_at(&standby.conninfo());
        ledger.wait_for_more(20, PROMOTED_WITHIN).await.context("commits after the switchover")?;
        say(&format!("round {round}: switchover to {} in {:.1} s", standby.name, began.elapsed().as_secs_f64()));
        std::mem::swap(&mut primary, &mut standby);
        follows(&primary, &standby).await.context("the member that was switched over")?;
        wait_for("a replica without our slot", SOON, async || {
            let slots = "SELECT count(*) FROM pg_replication_slots WHERE slot_name = 'seawall'";
            let left: i64 = client(&standby).await?.query_one(slots, &[]).await?.get(0);
            Ok((left == 0).then_some(()))
        })
        .await?;
        let protected = |status: &Value| status["protected"] == true;
        primary.proposer.wait_until("a protected primary", SOON, protected).await?;
    }
    let acknowledged = ledger.stop().await?;
    acknowledged.verify(&client(&primary).await?).await?;
    for member in [&mut primary, &mut standby] {
        // Patroni stops its server.
        member.patroni.terminate(SOON).await?;
    }
    Ok(acknowledged.len())
}

async fn client(member: &Member) -> Result<tokio_postgres::Client> {
    let (client, connection) = tokio_postgres::connect(&member.conninfo(), tokio_postgres::NoTls).await?;
    tokio::spawn(async move { drop(connection.await) });
    Ok(client)
}

async fn leads(member: &Member) -> Result<Option<()>> {
    let status = member.proposer.status().await?;
    Ok((status["protected"] == true).then_some(()))
}

/// Waits until the standby streams from the primary's member on its TLI and has what that has.
async fn follows(primary: &Member, standby: &Member) -> Result<()> {
    let query = "SELECT pg_current_wal_flush_lsn()::text";
    let goal: String = client(primary).await?.query_one(query, &[]).await?.get(0);
    wait_for(&format!("a replica at {goal}"), PROMOTED_WITHIN, async || {
        let query = "SELECT pg_is_in_recovery() AND pg_last_wal_replay_lsn() >= $1::text::pg_lsn";
        let row = client(standby).await?.query_one(query, &[&goal]).await?;
        Ok(row.get::<_, Option<bool>>(0).unwrap_or_default().then_some(()))
    })
    .await
}

/// The machine dies: Patroni, the server and the proposer.
async fn dies(member: &mut Member) -> Result<()> {
    let postmaster = member.postmaster().context("no postmaster")?;
    member.patroni.kill()?;
    member.proposer.kill()?;
    // Its children notice within moments.
    let status = std::process::Command::new("kill").args(["-9", &postmaster.to_string()]).status()?;
    ensure!(status.success(), "kill -9 of the postmaster failed");
    Ok(())
}

async fn switch_over(folder: &Folder, from: &Member, to: &Member, round: u64) -> Result<()> {
    let config = from.folder.join("patroni.yml").display().to_string();
    let args = ["-c", &config, "switchover", "demo", "--leader", from.name, "--candidate", to.name, "--force"];
    let log = format!("switchover-{round}");
    Bin::at("/usr/bin/patronictl").run(folder, &log, args, PROMOTED_WITHIN).await?.expect_code(0)?;
    Ok(())
}

/// A coordination service of its own.
struct Etcd {
    address: String,
    _process: Process,
}

impl Etcd {
    async fn start(folder: &Folder) -> Result<Etcd> {
        let (clients, peers) = (free_port()?, free_port()?);
        let (clients, peers) = (format!("http://127.0.0.1:{clients}"), format!("http://127.0.0.1:{peers}"));
        let (dir, whole) = (folder.sub("etcd")?.display().to_string(), format!("default={peers}"));
        let args = ["--data-dir", &dir, "--listen-client-urls", &clients, "--advertise-client-urls", &clients];
        let rest = ["--listen-peer-urls", &peers, "--initial-advertise-peer-urls", &peers, "--initial-cluster", &whole];
        let process = Bin::at("/usr/bin/etcd").spawn(folder, "etcd", args.into_iter().chain(rest))?;
        let address = clients.trim_start_matches("http://").to_owned();
        wait_for("etcd", SOON, async || Ok(Some(tokio::net::TcpStream::connect(&address).await?))).await?;
        Ok(Etcd { address, _process: process })
    }
}

async fn member(folder: &Folder, quorum: &mut Quorum, etcd: &Etcd, name: &'static str) -> Result<Member> {
    let (port, rest) = (free_port()?, free_port()?);
    let home = folder.sub(name)?;
    let shown = home.display();
    let (program, addresses) = (quorum.bin().path().display().to_string(), quorum.addresses());
    let bins = pg_harness::postgres_bin_dir()?;
    let text = format!(
        "scope: demo
name: {name}
restapi: {{listen: '127.0.0.1:{rest}', connect_address: '127.0.0.1:{rest}'}}
etcd3: {{host: '{etcd}'}}
bootstrap:
  dcs:
    ttl: {TTL}
    loop_wait: 5
    retry_timeout: 5
    synchronous_mode: false
    ignore_slots: [{{name: seawall, type: physical}}]
    postgresql:
      use_pg_rewind: true
      parameters: {{synchronous_standby_names: seawall, restart_after_crash: 'off', wal_log_hints: 'on', wal_keep_size: 256MB}}
  initdb: [{{auth: trust}}]
postgresql:
  listen: 127.0.0.1:{port}
  connect_address: 127.0.0.1:{port}
  data_dir: {shown}/data
  bin_dir: {bins}
  pgpass: {shown}/pgpass
  pre_promote: {program} pre-promote --standby 'host=127.0.0.1 port={port} user=postgres' --safekeepers {addresses} --cluster {CLUSTER} --token-file {shown}/token
  authentication: {{superuser: {{username: postgres}}, replication: {{username: postgres}}}}
  pg_hba: ['host all all 127.0.0.1/32 trust', 'host replication all 127.0.0.1/32 trust', 'local all all trust']
  parameters: {{unix_socket_directories: '{shown}'}}
",
        etcd = etcd.address,
        bins = bins.display(),
    );
    let config = home.join("patroni.yml");
    fs::write(&config, text)?;
    let own = std::process::Command::new("chown").args(["-R", USER]).arg(&home).status()?;
    ensure!(own.success(), "chown of {shown} failed");
    let (config, user) = (config.display().to_string(), ["--reuid", USER, "--regid", USER, "--clear-groups"]);
    let args = user.into_iter().chain(["/usr/bin/patroni", &config]);
    let patroni = Bin::at("setpriv").env("HOME", &shown.to_string()).spawn(folder, &format!("patroni-{name}"), args)?;
    let token = home.join("token").display().to_string();
    let flags = ["--fence-token-file", token.as_str()];
    let proposer = quorum.proposer_with(CLUSTER, &conninfo(port), &addresses, &flags).await?;
    Ok(Member { name, port, patroni, proposer, folder: home })
}
