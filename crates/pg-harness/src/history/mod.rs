//! [`History`]: clients whose transactions leave a history that can be checked for more than missing rows.
//!
//! Every transaction is SERIALIZABLE, appends unique numbers to one or more lists and reads others. What each one did and saw, and in which
//! order transactions began and ended, is noted; [`History::check`] reads the lists and demands that one order of all transactions
//! explains everything, and agrees with real time (see `check`). Every transaction writes, so that every acknowledged one waited for
//! whoever COMMIT waits for; a transaction that only reads may see the past on a server that was superseded, and is not promised more.
//!
//! A COMMIT that returned with a warning, an error or not at all leaves the fate of its transaction open: both are right, but only as a whole.

mod check;
#[cfg(test)]
mod check_test;
mod graph;
mod record;
mod work;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::sync::watch;
use tokio_postgres::Client;

use crate::wait::wait_for;
use record::Record;

/// Clients at work. Stopped when dropped.
#[derive(Debug)]
pub struct History {
    record: Arc<Record>,
    conninfo: watch::Sender<Option<String>>,
    thread: Option<JoinHandle<()>>,
}

/// What a check has looked at; its text is one clause.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checked {
    /// Transactions whose COMMIT was acknowledged.
    pub acknowledged: usize,
    /// Transactions that committed although nobody was told.
    pub silent: usize,
    /// Appended numbers found.
    pub appends: usize,
    /// Lists that were read by transactions.
    pub reads: usize,
}

impl History {
    /// Makes the table `history`. Needs a COMMIT of its own.
    pub async fn create(client: &Client) -> Result<()> {
        let table = "CREATE TABLE history (key bigint PRIMARY KEY, items bigint[] NOT NULL)";
        client.batch_execute(table).await.context("make the table of the history")
    }

    /// Starts `clients` clients against the server of `conninfo`, which need not run yet.
    pub fn start(conninfo: &str, clients: u64) -> Result<History> {
        let record = Arc::new(Record::default());
        let (sender, receiver) = watch::channel(Some(conninfo.to_owned()));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let noted = Arc::clone(&record);
        let work = move || {
            runtime.block_on(async {
                let mut tasks = tokio::task::JoinSet::new();
                for client in 0..clients {
                    tasks.spawn(work::transactions(client, receiver.clone(), Arc::clone(&noted)));
                }
                while tasks.join_next().await.is_some() {}
            });
        };
        let thread = std::thread::Builder::new().name("history".to_owned()).spawn(work)?;
        Ok(History { record, conninfo: sender, thread: Some(thread) })
    }

    /// From now on the clients talk to this server: a failover. Transactions under way are given up, their fate open.
    pub fn point_at(&self, conninfo: &str) {
        self.conninfo.send_replace(Some(conninfo.to_owned()));
    }

    /// How many transactions are acknowledged so far.
    pub fn acknowledged(&self) -> usize {
        self.record.acknowledged()
    }

    /// Waits until `more` transactions more than now are acknowledged.
    pub async fn wait_for_more(&self, more: usize, within: Duration) -> Result<()> {
        let goal = self.acknowledged() + more;
        let what = format!("{more} more acknowledged transactions");
        wait_for(&what, within, async || Ok((self.acknowledged() >= goal).then_some(()))).await
    }

    /// Reads the lists and checks everything that happened up to now; the clients go on.
    ///
    /// # Errors
    /// What is wrong, with the transactions concerned; or the lists cannot be read.
    pub async fn check(&self, client: &Client) -> Result<Checked> {
        // Whoever is acknowledged from here on need not be in what is read.
        let now = self.record.now();
        let rows = client.query("SELECT key, items FROM history", &[]).await.context("read the history")?;
        let lists: BTreeMap<i64, Vec<i64>> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
        Ok(check::check(&self.record.all(), &lists, now)?)
    }

    /// Stops the clients, giving up transactions under way.
    pub async fn stop(&mut self) -> Result<()> {
        self.conninfo.send_replace(None);
        if let Some(thread) = self.thread.take() {
            let joined = tokio::task::spawn_blocking(move || thread.join()).await?;
            ensure!(joined.is_ok(), "the thread of the history panicked");
        }
        Ok(())
    }
}

impl Drop for History {
    fn drop(&mut self) {
        self.conninfo.send_replace(None);
        if let Some(thread) = self.thread.take() {
            // A panic in it was already printed.
            let _ = thread.join();
        }
    }
}

impl fmt::Display for Checked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Checked { acknowledged, silent, appends, reads } = self;
        write!(
            f,
            "{acknowledged} acknowledged and {silent} silent transactions with {appends} appends and {reads} reads in one order"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::postgres::Postgres;

    const SOON: Duration = Duration::from_secs(60);

    #[test]
    fn a_real_server_keeps_its_history_over_crashes_and_tampering_is_told() {
        crate::scenario("history", SOON, async |folder| {
            let postgres = Postgres::builder(&folder).start().await?;
            let client = postgres.client().await?;
            History::create(&client).await?;
            let mut history = History::start(&postgres.conninfo(), 4)?;
            history.wait_for_more(100, SOON).await?;
            history.check(&client).await?;
            postgres.kill().await?;
            postgres.start().await?;
            history.wait_for_more(100, SOON).await?;
            history.stop().await?;
            let client = postgres.client().await?;
            let checked = history.check(&client).await?;
            assert!(checked.acknowledged >= 200 && checked.reads > 0, "{checked:?}");
            let swap = "UPDATE history SET items = items[2:2] || items[1:1] || items[3:] WHERE key = 0";
            client.batch_execute(swap).await?;
            assert!(history.check(&client).await.is_err(), "two swapped appends went unseen");
            client.batch_execute("UPDATE history SET items = items[2:] WHERE key = 1").await?;
            assert!(history.check(&client).await.is_err(), "a lost append went unseen");
            Ok(())
        });
    }
}
