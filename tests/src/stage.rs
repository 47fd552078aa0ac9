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

/// Writes this many MiB of WAL, in commits of 4 MiB.
pub(crate) async fn write_wal(client: &Client, mib: usize) -> Result<()> {
    let text =
        "SELECT pg_logical_emit_message(true, 'scenario', repeat(md5($1::text), 32768)) FROM generate_series(1, 4)";
    for _ in 0..mib.div_ceil(4) {
        client.execute(text, &[&"row"]).await.context("write WAL")?;
    }
    Ok(())
}
