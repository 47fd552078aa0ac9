//! [`Stage`]: a primary whose commits wait for a majority of three safekeepers.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pg_harness::{Folder, History, Ledger, Postgres, PostgresBuilder, Proposer, Quorum, QuorumBuilder, wait_for};
use tokio_postgres::Client;

use crate::logs::lsn;

/// The cluster of a stage.
pub const CLUSTER: &str = "main";

/// How long a step may take on a slow machine that also runs other scenarios.
pub const SOON: Duration = Duration::from_secs(60);

/// A primary whose commits wait for a majority of three safekeepers.
#[derive(Debug)]
pub struct Stage {
    /// The proposer beside the primary. Dropped first, then the quorum, then the primary: nobody waits for somebody who is gone.
    pub proposer: Proposer,
    /// The safekeepers.
    pub quorum: Quorum,
    /// The primary, its `synchronous_standby_names` requiring `seawall`.
    pub postgres: Postgres,
}

impl Stage {
    /// Three safekeepers, a cluster, a primary and a ready proposer.
    pub async fn set(folder: &Folder) -> Result<Stage> {
        Stage::set_with(folder, |quorum| quorum, |postgres| postgres).await
    }

    /// The same with changes to the safekeepers and the primary.
    pub async fn set_with(
        folder: &Folder,
        quorum: impl FnOnce(QuorumBuilder) -> QuorumBuilder,
        postgres: impl FnOnce(PostgresBuilder) -> PostgresBuilder,
    ) -> Result<Stage> {
        let postgres = postgres(Stage::primary(folder)).start().await.context("start the primary")?;
        Stage::around(folder, postgres, quorum).await
    }

    /// The primary of a stage, for changes.
    pub fn primary(folder: &Folder) -> PostgresBuilder {
        // A crash is a restart by whoever supervises the primary, not by the postmaster.
        Postgres::builder(folder).setting("restart_after_crash", "off")
    }

    /// The same around a primary that runs.
    pub async fn around(
        folder: &Folder,
        postgres: Postgres,
        quorum: impl FnOnce(QuorumBuilder) -> QuorumBuilder,
    ) -> Result<Stage> {
        let mut quorum = quorum(Quorum::builder(folder)).start().await.context("start the safekeepers")?;
        quorum.init(CLUSTER, Some(&postgres.conninfo())).await?;
        let proposer = quorum.proposer(CLUSTER, &postgres.conninfo()).await?;
        proposer.wait_ready(SOON).await?;
        // Only now: before, no commit could return, not even one the proposer needs.
        postgres.set("synchronous_standby_names", "seawall").await?;
        Ok(Stage { proposer, quorum, postgres })
    }

    /// A new session on the primary.
    pub async fn client(&self) -> Result<Client> {
        self.postgres.client().await
    }

    /// Makes the ledger's table and starts clients that commit into it.
    pub async fn ledger(&self, clients: i32) -> Result<Ledger> {
        Ledger::create(&self.client().await?).await?;
        Ledger::start(&self.postgres.conninfo(), clients)
    }

    /// Makes the table of a history and starts clients whose transactions leave one.
    pub async fn history(&self, clients: u64) -> Result<History> {
        History::create(&self.client().await?).await?;
        History::start(&self.postgres.conninfo(), clients)
    }

    /// How a standby or `pg_receivewal` reaches whichever safekeeper answers, the first of them first.
    pub fn anywhere(&self) -> String {
        let hosts: Vec<String> = self.quorum.nodes().iter().map(|node| node.pg().ip().to_string()).collect();
        let ports: Vec<String> = self.quorum.nodes().iter().map(|node| node.pg().port().to_string()).collect();
        let (hosts, ports) = (hosts.join(","), ports.join(","));
        format!("host={hosts} port={ports} user=seawall connect_timeout=2 options='-c cluster={CLUSTER}'")
    }

    /// A hot standby on what stands in the folder `name`, fed by whichever safekeeper answers; promoted, its commits wait for us.
    pub async fn standby_in(&self, folder: &Folder, name: &str) -> Result<Postgres> {
        let builder = Stage::primary(folder).name(name).in_place().standby_of(&self.anywhere());
        builder
            .setting("synchronous_standby_names", "seawall")
            .setting("wal_retrieve_retry_interval", "500ms")
            .setting("wal_log_hints", "on")
            .setting("wal_keep_size", "64MB")
            .start()
            .await
            .with_context(|| format!("start the standby {name}"))
    }

    /// The same on a base backup of the primary.
    pub async fn standby(&self, folder: &Folder, name: &str) -> Result<Postgres> {
        self.postgres.base_backup(name).await?;
        self.standby_in(folder, name).await
    }

    /// The highest commit LSN any safekeeper that answers knows.
    pub async fn committed(&self) -> Result<u64> {
        let mut commit = 0;
        for node in self.quorum.nodes() {
            if let Ok(status) = node.status().await {
                commit = commit.max(crate::lsn_of(&status["clusters"][0]["commit_lsn"])?);
            }
        }
        Ok(commit)
    }

    /// Waits until a standby has replayed everything that is committed by now.
    pub async fn follows(&self, standby: &Postgres) -> Result<()> {
        let goal = self.committed().await?;
        wait_for(&format!("a standby that has replayed {goal:#X}"), SOON, async || {
            let at = replayed(standby).await?;
            ensure!(at >= goal, "it stands at {at:#X}");
            Ok(Some(()))
        })
        .await
    }

    /// Makes a standby fit for promotion; returns the file with the token of the fence.
    pub async fn pre_promote(&self, folder: &Folder, standby: &Postgres, log: &str) -> Result<String> {
        let (addresses, conninfo) = (self.quorum.addresses(), standby.conninfo());
        let token = folder.path().join("fence-token").display().to_string();
        let args = ["pre-promote", "--safekeepers", &addresses, "--cluster", CLUSTER, "--standby", &conninfo];
        let args = args.into_iter().chain(["--token-file", &token]);
        self.quorum.bin().run(folder, log, args, SOON).await?.expect_code(0)?;
        Ok(token)
    }

    /// Stops the clients and fails if the primary lacks a row they were promised, or promised none.
    pub async fn settle(&self, ledger: Ledger) -> Result<()> {
        let acknowledged = ledger.stop().await?;
        ensure!(!acknowledged.is_empty(), "nothing was acknowledged, so nothing was proved");
        acknowledged.verify(&self.client().await?).await
    }

    /// Fails if clients get more than their due while no majority lives. Each of `clients` may still be told of one commit that was
    /// safe before; what it commits next must wait.
    pub async fn nothing_is_acknowledged(&self, ledger: &Ledger, clients: usize) -> Result<()> {
        let before = ledger.acknowledged();
        wait_for("a commit that waits", SOON, async || self.somebody_waits().await).await?;
        let more = ledger.wait_for_more(clients + 1, Duration::from_secs(3)).await;
        ensure!(more.is_err(), "{} commits were acknowledged without a majority", ledger.acknowledged() - before);
        Ok(())
    }

    /// Whether a backend waits for synchronous replication.
    pub async fn somebody_waits(&self) -> Result<Option<()>> {
        let query = "SELECT count(*) > 0 FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
        Ok(self.client().await?.query_one(query, &[]).await?.get::<_, bool>(0).then_some(()))
    }

    /// End of the WAL the primary has flushed.
    pub async fn flushed(&self) -> Result<u64> {
        let row = self.client().await?.query_one("SELECT pg_current_wal_flush_lsn()::text", &[]).await?;
        lsn(row.get(0))
    }

    /// Waits until every safekeeper that runs counts everything the primary has flushed by now as committed. Returns that position.
    pub async fn all_have_everything(&mut self) -> Result<u64> {
        let goal = self.flushed().await?;
        self.quorum
            .wait_until(&format!("commit LSN at {goal:#X} everywhere"), SOON, |statuses| {
                let committed = |status: &serde_json::Value| crate::lsn_of(&status["clusters"][0]["commit_lsn"]);
                statuses.iter().all(|status| committed(status).is_ok_and(|commit| commit >= goal))
            })
            .await?;
        Ok(goal)
    }

    /// Writes this many MiB of WAL on the primary, in commits of 4 MiB.
    pub async fn write_wal(&self, mib: usize) -> Result<()> {
        write_wal(&self.client().await?, mib).await
    }
}

/// How far a standby has replayed.
pub async fn replayed(standby: &Postgres) -> Result<u64> {
    let query = "SELECT coalesce(pg_last_wal_replay_lsn(), '0/0')::text";
    lsn(standby.client().await?.query_one(query, &[]).await?.get(0))
}

/// Writes this many MiB of WAL, in commits of 4 MiB.
pub(crate) async fn write_wal(client: &Client, mib: usize) -> Result<()> {
    let text =
        "SELECT pg_logical_emit_message(true, 'scenario', repeat(md5($1::text), 32768)) FROM generate_series(1, 4)";
    for _ in 0..mib.div_ceil(4) {
        client.execute(text, &[&"row"]).await.context("write WAL")?;
    }
    Ok(())
}
