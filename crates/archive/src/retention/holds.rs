//! The holds in a replica.

use super::error::RetentionError;
use backup_format::Hold;
use jiff::Timestamp;
use replica_client::{Control, PostgresReplica};
use std::collections::BTreeSet;
use std::time::Duration;

/// A hold is believed so much longer than it says, because its holder's clock may be behind ours.
const CLOCKS: Duration = Duration::from_secs(3600);

/// The holds there are.
#[derive(Debug, Default)]
pub(super) struct Holds {
    /// Those in force; `None`: there, and unreadable.
    pub(super) live: Vec<Option<Hold>>,
    /// Their names.
    pub(super) names: BTreeSet<String>,
    /// Names of those that ran out.
    pub(super) expired: Vec<String>,
}

pub(super) async fn read_holds(replica: &PostgresReplica, now: Timestamp) -> Result<Holds, RetentionError> {
    let mut holds = Holds::default();
    for info in replica.control_list(Control::Hold).await? {
        // Released meanwhile: no hold.
        let Some(bytes) = replica.control_get(Control::Hold, &info.name).await? else { continue };
        let hold = Hold::from_json(&bytes).ok();
        // One that cannot be read counts from when it was stored.
        let expires = hold
            .as_ref()
            .map_or_else(|| info.created.checked_add(backup_format::HOLD_LIFE).ok(), |hold| Some(hold.expires));
        match expires.and_then(|expires| expires.checked_add(CLOCKS).ok()) {
            Some(end) if end < now => holds.expired.push(info.name),
            _ => {
                holds.names.insert(info.name);
                holds.live.push(hold);
            }
        }
    }
    Ok(holds)
}
