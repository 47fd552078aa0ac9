//! The claim on one beginning: who takes the snapshot of this generation that begins at this LSN.
//!
//! Two backups of one standby begin at the same restartpoint, and so in the same folder. A claim is a hold in the replica, which also
//! keeps retention from deleting the WAL of the backup. It needs no conditional store: of two that claim at once the last one wins,
//! because a claim is looked at again before anything that counts is written, and their chunks have different numbers.

use super::error::SnapshotError;
use backup_format::Hold;
use jiff::Timestamp;
use lsn::Lsn;
use replica_client::{Control, Generation, PostgresReplica};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::{Duration, Instant};

/// How often a claim is renewed; it lasts fifteen times as long.
const RENEW_EVERY: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(super) struct Claim {
    replica: PostgresReplica,
    generation: Generation,
    begin: Lsn,
    holder: String,
    name: String,
    renewed: Instant,
}

impl Claim {
    pub(super) async fn take(
        replica: &PostgresReplica,
        generation: Generation,
        begin: Lsn,
        holder: &str,
    ) -> Result<Claim, SnapshotError> {
        let name = format!("backup-{generation}-{:016x}", begin.0);
        let claim = Claim {
            replica: replica.clone(),
            generation,
            begin,
            holder: holder.to_owned(),
            name,
            renewed: Instant::now(),
        };
        if let Some(other) = claim.read().await?
            && other.holder != claim.holder
            && let Ok(wait) = Duration::try_from(other.expires.duration_since(Timestamp::now()))
        {
            return Err(SnapshotError::Busy { holder: other.holder, begin, wait });
        }
        claim.write().await?;
        Ok(claim)
    }

    /// An unreadable claim is nobody's.
    async fn read(&self) -> Result<Option<Hold>, SnapshotError> {
        let bytes = self.replica.control_get(Control::Hold, &self.name).await?;
        Ok(bytes.and_then(|bytes| Hold::from_json(&bytes).ok()))
    }

    async fn write(&self) -> Result<(), SnapshotError> {
        let hold = Hold::new("backup", &self.holder, self.generation.to_string(), self.begin, Timestamp::now());
        Ok(self.replica.control_put(Control::Hold, &self.name, hold.to_json().into()).await?)
    }

    /// Fails if somebody else took over.
    pub(super) async fn check(&self) -> Result<(), SnapshotError> {
        match self.read().await? {
            Some(hold) if hold.holder == self.holder => Ok(()),
            _ => Err(SnapshotError::Lost(self.begin)),
        }
    }

    /// Renews the claim when it is time; costs nothing in between.
    pub(super) async fn renew(&mut self) -> Result<(), SnapshotError> {
        if self.renewed.elapsed() < RENEW_EVERY {
            return Ok(());
        }
        self.check().await?;
        self.write().await?;
        self.renewed = Instant::now();
        Ok(())
    }

    /// Gives the claim up, if it is still ours.
    pub(super) async fn release(self) -> Result<(), SnapshotError> {
        self.check().await?;
        self.replica.control_delete(Control::Hold, &[self.name]).await?;
        Ok(())
    }

    /// The number of our first chunk. Different holders' numbers lie far apart, except by a chance of one in very many.
    pub(super) fn first_number(&self) -> u32 {
        let mut hasher = DefaultHasher::new();
        (&self.holder, self.begin.0).hash(&mut hasher);
        // Room for ten million chunks above, of the hundred million that eight digits number.
        u32::try_from(hasher.finish() % 90_000_000).unwrap_or(0)
    }
}
