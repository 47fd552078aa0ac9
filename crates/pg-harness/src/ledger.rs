//! Clients that commit numbered rows and note which were acknowledged.
//!
//! A row `(client, n)` counts as acknowledged only after its COMMIT returned without a warning: PostgreSQL answers a cancelled wait
//! for synchronous replication with success *and* a warning. Everything else (an error, a lost connection, a warning) leaves the
//! row's fate open, and its number is never used again. What is verified is therefore one direction only: no acknowledged row may
//! be missing.
//!
//! The clients run on a thread of their own, so that a test that blocks does not hold them up.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::sync::watch;
use tokio_postgres::Client;

use crate::session::{Warned, on_one_connection, pause};
use crate::wait::wait_for;

/// Clients at work. Stopped when dropped.
#[derive(Debug)]
pub struct Ledger {
    acknowledged: Arc<Mutex<BTreeSet<(i32, i64)>>>,
    conninfo: watch::Sender<Option<String>>,
    thread: Option<JoinHandle<()>>,
}

/// The rows a ledger was promised.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acknowledged(BTreeSet<(i32, i64)>);

impl Ledger {
    /// Makes the table `ledger`. Needs a COMMIT of its own.
    pub async fn create(client: &Client) -> Result<()> {
        client
            .batch_execute("CREATE TABLE ledger (client int, n bigint, PRIMARY KEY (client, n))")
            .await
            .context("make the ledger")
    }

    /// Starts `clients` clients against the server of `conninfo`, which need not run yet.
    pub fn start(conninfo: &str, clients: i32) -> Result<Ledger> {
        let acknowledged = Arc::new(Mutex::new(BTreeSet::new()));
        let (sender, receiver) = watch::channel(Some(conninfo.to_owned()));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let noted = Arc::clone(&acknowledged);
        let work = move || {
            runtime.block_on(async {
                let mut tasks = tokio::task::JoinSet::new();
                for client in 0..clients {
                    tasks.spawn(commit_rows(client, receiver.clone(), Arc::clone(&noted)));
                }
                while tasks.join_next().await.is_some() {}
            });
        };
        let thread = std::thread::Builder::new().name("ledger".to_owned()).spawn(work)?;
        Ok(Ledger { acknowledged, conninfo: sender, thread: Some(thread) })
    }

    /// From now on the clients talk to this server: a failover. Commits under way are given up, their fate open.
    pub fn point_at(&self, conninfo: &str) {
        self.conninfo.send_replace(Some(conninfo.to_owned()));
    }

    /// How many rows are acknowledged so far.
    pub fn acknowledged(&self) -> usize {
        self.acknowledged.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// What is acknowledged so far; the clients go on.
    pub fn so_far(&self) -> Acknowledged {
        Acknowledged(self.acknowledged.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }

    /// Waits until `more` rows more than now are acknowledged.
    pub async fn wait_for_more(&self, more: usize, within: Duration) -> Result<()> {
        let goal = self.acknowledged() + more;
        let what = format!("{more} more acknowledged commits");
        wait_for(&what, within, async || Ok((self.acknowledged() >= goal).then_some(()))).await
    }

    /// Stops the clients, giving up commits under way, and returns what was acknowledged.
    pub async fn stop(mut self) -> Result<Acknowledged> {
        self.conninfo.send_replace(None);
        if let Some(thread) = self.thread.take() {
            let joined = tokio::task::spawn_blocking(move || thread.join()).await?;
            ensure!(joined.is_ok(), "the ledger's thread panicked");
        }
        Ok(self.so_far())
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        self.conninfo.send_replace(None);
        if let Some(thread) = self.thread.take() {
            // A panic in it was already printed.
            let _ = thread.join();
        }
    }
}

impl Acknowledged {
    /// How many rows.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nothing was acknowledged.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Everything in both.
    pub fn union(mut self, other: Acknowledged) -> Acknowledged {
        self.0.extend(other.0);
        self
    }

    /// Fails if an acknowledged row is missing in the table the client sees.
    pub async fn verify(&self, client: &Client) -> Result<()> {
        let rows = client.query("SELECT client, n FROM ledger", &[]).await.context("read the ledger")?;
        let present: BTreeSet<(i32, i64)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
        let missing: Vec<_> = self.0.difference(&present).collect();
        let first: Vec<_> = missing.iter().take(5).collect();
        ensure!(
            missing.is_empty(),
            "{} of {} acknowledged rows are lost, among them {first:?}",
            missing.len(),
            self.0.len()
        );
        Ok(())
    }
}

/// One client: connects, commits until something fails, connects again; ends with `None` for a conninfo.
async fn commit_rows(
    client: i32,
    mut conninfo: watch::Receiver<Option<String>>,
    noted: Arc<Mutex<BTreeSet<(i32, i64)>>>,
) {
    let mut n = 0;
    loop {
        let Some(target) = conninfo.borrow_and_update().clone() else { return };
        let work = async |session: Client, warned: Warned| -> Result<()> {
            loop {
                n += 1;
                session.batch_execute(&format!("INSERT INTO ledger VALUES ({client}, {n})")).await?;
                if !warned.take() {
                    noted.lock().unwrap_or_else(PoisonError::into_inner).insert((client, n));
                }
            }
        };
        tokio::select! {
            _ = on_one_connection(&target, work) => {}
            changed = conninfo.changed() => {
                if changed.is_err() {
                    return;
                }
                continue;
            }
        }
        if !pause(&mut conninfo).await {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::postgres::Postgres;

    const SOON: Duration = Duration::from_secs(60);

    #[test]
    fn commits_survive_a_crash_and_a_lost_row_is_told() {
        crate::scenario("ledger", SOON, async |folder| {
            let postgres = Postgres::builder(&folder).start().await?;
            Ledger::create(&postgres.client().await?).await?;
            let ledger = Ledger::start(&postgres.conninfo(), 3)?;
            ledger.wait_for_more(20, SOON).await?;
            postgres.kill().await?;
            postgres.start().await?;
            ledger.wait_for_more(20, SOON).await?;
            let acknowledged = ledger.stop().await?;
            let client = postgres.client().await?;
            acknowledged.verify(&client).await?;
            client.batch_execute("DELETE FROM ledger WHERE client = 1 AND n = 1").await?;
            let err = acknowledged.verify(&client).await.unwrap_err().to_string();
            assert!(err.contains("(1, 1)"), "{err}");
            Ok(())
        });
    }

    #[test]
    fn a_cancelled_wait_is_no_acknowledgement() {
        crate::scenario("warning", SOON, async |folder| {
            let postgres = Postgres::builder(&folder).start().await?;
            let client = postgres.client().await?;
            Ledger::create(&client).await?;
            postgres.set("synchronous_standby_names", "nobody").await?;
            let ledger = Ledger::start(&postgres.conninfo(), 1)?;
            let cancelled = async || -> Result<bool> {
                let cancel = "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
                Ok(!client.query(cancel, &[]).await?.is_empty())
            };
            wait_for("a cancelled wait", SOON, async || Ok(cancelled().await?.then_some(()))).await?;
            wait_for("the row of the cancelled wait", SOON, async || {
                let rows: i64 = client.query_one("SELECT count(*) FROM ledger", &[]).await?.get(0);
                Ok((rows > 0).then_some(()))
            })
            .await?;
            // The second row waits: the first was answered, with a warning.
            wait_for("the next wait", SOON, async || Ok(cancelled().await?.then_some(()))).await?;
            assert_eq!(ledger.stop().await?.len(), 0);
            Ok(())
        });
    }
}
