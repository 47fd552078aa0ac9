//! Who may delete: the holder of the replica's lease, or whoever was promised to be alone.

use super::error::RetentionError;
use replica_client::{Kind, Lease, PostgresReplica};
use std::time::Duration;

/// How long the lease lasts without being renewed.
const LEASE_LIFE: Duration = Duration::from_secs(60);
/// How long to wait for another's lease to run out.
const LEASE_WAIT: Duration = Duration::from_secs(130);

/// Who else may delete.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sole {
    /// Others may; the replica's lease keeps them out.
    Lease,
    /// Nobody, on somebody's word.
    Promised,
}

/// Leave to delete.
#[derive(Debug)]
pub(super) struct Guard(Option<Lease>);

impl Guard {
    pub(super) async fn take(replica: &PostgresReplica, sole: Sole, holder: &str) -> Result<Guard, RetentionError> {
        if sole == Sole::Promised {
            return Ok(Guard(None));
        }
        match replica.acquire_lease(holder, LEASE_LIFE, LEASE_WAIT).await {
            Ok(lease) => Ok(Guard(Some(lease))),
            Err(error) if error.kind() == Kind::Unsupported => Err(RetentionError::NoLease(error)),
            Err(error) if error.kind() == Kind::Busy => Err(RetentionError::Busy(error)),
            Err(error) => Err(error.into()),
        }
    }

    /// Fails unless the leave still holds.
    pub(super) async fn check(&mut self) -> Result<(), RetentionError> {
        let Some(lease) = &mut self.0 else { return Ok(()) };
        match lease.renew().await {
            Err(error) if error.kind() == Kind::Busy => return Err(RetentionError::LeaseLost),
            result => result?,
        }
        if lease.still_held() { Ok(()) } else { Err(RetentionError::LeaseLost) }
    }

    /// Gives it back; a lease that cannot be given back runs out.
    pub(super) async fn release(self) {
        if let Some(lease) = self.0
            && let Err(error) = lease.release().await
        {
            tracing::warn!(error = &error as &dyn std::error::Error, "the lease is left to run out");
        }
    }
}
