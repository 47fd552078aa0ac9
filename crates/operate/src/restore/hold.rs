//! The hold of a running restore: what it reads must not be deleted meanwhile.
//!
//! Put before the first download, renewed every minute, taken away at the end. A store that may only be read takes no hold; the restore
//! goes on without one, because retention deletes nothing within a day of deciding to.

use backup_format::Hold;
use bytes::Bytes;
use jiff::Timestamp;
use lsn::Lsn;
use replica_client::{Control, Generation, PostgresReplica};
use std::time::Duration;
use tokio::task::JoinHandle;

const RENEW_EVERY: Duration = Duration::from_secs(60);

/// A hold that is renewed until it is released; one that is dropped runs out by itself.
#[derive(Debug)]
pub(super) struct Held {
    replica: PostgresReplica,
    name: String,
    renewing: JoinHandle<()>,
}

impl Held {
    /// Holds a snapshot and all WAL from it on. `Err`: why there is no hold.
    pub(super) async fn put(
        replica: &PostgresReplica,
        purpose: &'static str,
        generation: Generation,
        from: Lsn,
    ) -> Result<Held, replica_client::Error> {
        let holder = format!("{}:{:016x}", std::process::id(), rand::random::<u64>());
        let name = format!("{purpose}-{}", holder.replace(':', "-"));
        put(replica, &name, purpose, &holder, generation, from).await?;
        let (renewed, own_name) = (replica.clone(), name.clone());
        let renewing = tokio::spawn(async move {
            loop {
                tokio::time::sleep(RENEW_EVERY).await;
                if let Err(error) = put(&renewed, &own_name, purpose, &holder, generation, from).await {
                    tracing::warn!(%error, "the hold on the snapshot could not be renewed");
                }
            }
        });
        Ok(Held { replica: replica.clone(), name, renewing })
    }

    /// Takes it away.
    pub(super) async fn release(self) {
        self.renewing.abort();
        if let Err(error) = self.replica.control_delete(Control::Hold, std::slice::from_ref(&self.name)).await {
            tracing::warn!(%error, "the hold on the snapshot could not be taken away; it runs out by itself");
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.renewing.abort();
    }
}

async fn put(
    replica: &PostgresReplica,
    name: &str,
    purpose: &str,
    holder: &str,
    generation: Generation,
    from: Lsn,
) -> Result<(), replica_client::Error> {
    let hold = Hold::new(purpose, holder, generation.to_string(), from, Timestamp::now());
    replica.control_put(Control::Hold, name, Bytes::from(hold.to_json())).await
}
