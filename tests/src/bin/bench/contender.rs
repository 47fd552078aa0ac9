//! Who is measured: a primary and what its commits wait for.

use std::time::Duration;

use anyhow::{Context, Result};
use pg_harness::{Bin, Folder, Postgres, PostgresBuilder, Process, wait_for};
use scenarios::{SOON, Stage};
use tokio_postgres::Client;

const FILL_WITHIN: Duration = Duration::from_secs(300);
/// How many receivers there are; two of them must have the WAL.
const RECEIVERS: [&str; 3] = ["r1", "r2", "r3"];

/// The name of the contender the others are compared with.
pub(crate) const ANY_2: &str = "ANY 2 of 3 pg_receivewal";
/// The one this is about.
pub(crate) const SEAWALL: &str = "Seawall";
/// The one that waits for nobody.
pub(crate) const ALONE: &str = "no replication";

/// A primary and its company, running.
pub(crate) enum Contender {
    /// A primary that waits for nobody.
    Alone(Postgres),
    /// A primary that waits for two of three `pg_receivewal --synchronous`.
    Receivers {
        /// The receivers; they end before the primary.
        receivers: Vec<Process>,
        /// The primary.
        postgres: Postgres,
    },
    /// A primary that waits for Seawall.
    Seawall(Box<Stage>),
}

/// A process and what it is.
pub(crate) type Named = (&'static str, u32);

fn settings(postgres: PostgresBuilder) -> PostgresBuilder {
    postgres.setting("shared_buffers", "256MB").setting("max_wal_size", "4GB").setting("restart_after_crash", "off")
}

impl Contender {
    /// All three, ready.
    pub(crate) async fn all(folder: &Folder) -> Result<Vec<Contender>> {
        let alone = settings(Postgres::builder(folder).name("alone")).start().await?;
        let postgres = settings(Postgres::builder(folder).name("any2")).start().await?;
        let mut receivers = Vec::new();
        for name in RECEIVERS {
            receivers.push(receiver(folder, &postgres, name).await?);
        }
        postgres.set("synchronous_standby_names", "ANY 2 (r1, r2, r3)").await?;
        let stage = Stage::set_with(folder, |quorum| quorum, |postgres| settings(postgres.name("seawall-pg"))).await?;
        Ok(vec![
            Contender::Alone(alone),
            Contender::Receivers { receivers, postgres },
            Contender::Seawall(Box::new(stage)),
        ])
    }

    pub(crate) fn name(&self) -> &'static str {
        match self {
            Contender::Alone(_) => ALONE,
            Contender::Receivers { .. } => ANY_2,
            Contender::Seawall(_) => SEAWALL,
        }
    }

    fn postgres(&self) -> &Postgres {
        match self {
            Contender::Alone(postgres) | Contender::Receivers { postgres, .. } => postgres,
            Contender::Seawall(stage) => &stage.postgres,
        }
    }

    async fn client(&self) -> Result<Client> {
        self.postgres().client().await
    }

    pub(crate) fn port(&self) -> u16 {
        self.postgres().port()
    }

    /// One of PostgreSQL's programs.
    pub(crate) fn program(&self, name: &str) -> Bin {
        self.postgres().bin(name)
    }

    pub(crate) async fn server_version(&self) -> Result<String> {
        Ok(self.client().await?.query_one("SHOW server_version", &[]).await?.get(0))
    }

    /// Makes pgbench's tables.
    pub(crate) async fn fill(&self, folder: &Folder, scale: u32) -> Result<()> {
        let (port, scale) = (self.port().to_string(), scale.to_string());
        let args = ["-h", "127.0.0.1", "-p", &port, "-U", "postgres", "-i", "-q", "-s", &scale, "postgres"];
        let log = format!("fill-{port}");
        self.program("pgbench").run(folder, &log, args, FILL_WITHIN).await?.expect_code(0)?;
        Ok(())
    }

    /// Dirty pages of what was before are written now, not during a measurement.
    pub(crate) async fn calm(&self) -> Result<()> {
        let client = self.client().await?;
        Ok(client.batch_execute("DROP TABLE IF EXISTS bulk; CHECKPOINT").await?)
    }

    /// Writes so many rows in one transaction and commits them.
    pub(crate) async fn bulk(&self, rows: u64) -> Result<()> {
        let client = self.client().await?;
        let insert = "INSERT INTO bulk SELECT g, repeat(md5(g::text), 8) FROM generate_series(1, ";
        client.batch_execute("CREATE TABLE bulk (id bigint, filler text)").await?;
        Ok(client.batch_execute(&format!("{insert}{rows}) g")).await?)
    }

    /// Bytes of WAL ever written.
    pub(crate) async fn wal_position(&self) -> Result<u64> {
        let query = "SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::bigint";
        let position: i64 = self.client().await?.query_one(query, &[]).await?.get(0);
        u64::try_from(position).context("a WAL position below zero")
    }

    /// The processes whose work is this contender's way of keeping WAL safe.
    pub(crate) async fn processes(&self) -> Result<Vec<Named>> {
        let query = "SELECT pid FROM pg_stat_replication ORDER BY pid";
        let mut named = Vec::new();
        for row in self.client().await?.query(query, &[]).await? {
            named.push(("walsender", u32::try_from(row.get::<_, i32>(0))?));
        }
        let running = |process: &Process| process.pid().context("a part has ended");
        match self {
            Contender::Alone(_) => {}
            Contender::Receivers { receivers, .. } => {
                for receiver in receivers {
                    named.push(("pg_receivewal", running(receiver)?));
                }
            }
            Contender::Seawall(stage) => {
                named.push(("proposer", running(&stage.proposer)?));
                for node in stage.quorum.nodes() {
                    named.push(("safekeeper", running(node)?));
                }
            }
        }
        Ok(named)
    }
}

/// A `pg_receivewal --synchronous` with a slot of its own, streaming.
async fn receiver(folder: &Folder, postgres: &Postgres, name: &str) -> Result<Process> {
    let program = postgres.bin("pg_receivewal");
    let dir = folder.sub(name)?.display().to_string();
    let conninfo = format!("host=127.0.0.1 port={} user=postgres application_name={name}", postgres.port());
    let common = ["-D", &dir, "-d", &conninfo, "--slot", name];
    let create = common.into_iter().chain(["--create-slot"]);
    program.run(folder, &format!("{name}-slot"), create, SOON).await?.expect_code(0)?;
    let process = program.spawn(folder, name, common.into_iter().chain(["--synchronous"]))?;
    wait_for("a streaming receiver", SOON, async || {
        let query = "SELECT 1 FROM pg_stat_replication WHERE application_name = $1 AND state = 'streaming'";
        Ok(postgres.client().await?.query_opt(query, &[&name]).await?.map(|_| ()))
    })
    .await?;
    Ok(process)
}
