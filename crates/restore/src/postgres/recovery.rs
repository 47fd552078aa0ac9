//! What a restored directory is told about its recovery: the orders `wal-fetch` reads, and the settings PostgreSQL reads.
//!
//! Everything recovery needs lies in one folder of the data directory, `seawall_restore`, which the server removes when recovery has
//! ended. `recovery.json` names the archive, the lineage and the end: so `wal-fetch` hands out the WAL of the plan and no other, even
//! where the archive has grown or holds two TLIs of one number. It holds no secret: keys of the store come from the environment,
//! identities from the files it names.

use super::lineage::Lineage;
use super::plan::{Plan, Stop};
use lsn::{Lsn, SystemId};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// The folder of the data directory.
pub const FOLDER: &str = "seawall_restore";
/// The orders, in that folder.
pub const ORDERS: &str = "recovery.json";
/// Segments that came from a quorum and not from the archive, in that folder.
pub const LOCAL_WAL: &str = "wal";
/// Segments fetched ahead of being asked for, in that folder.
pub const PREFETCH: &str = "prefetch";

const VERSION: u32 = 1;
const MAX_ORDERS: usize = 16 << 20;

/// What `wal-fetch` must know.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Orders {
    /// Of this description; 1.
    pub version: u32,
    /// The URL of the archive.
    pub replica: String,
    /// The cluster.
    #[serde(with = "super::text")]
    pub system_id: SystemId,
    /// The era.
    pub era: String,
    /// The way.
    pub lineage: Lineage,
    /// Nothing at or above this is handed out.
    #[serde(with = "super::text")]
    pub end: Lsn,
    /// Files with identities that decrypt, absolute.
    pub identities: Vec<PathBuf>,
}

/// Orders that cannot be followed.
#[derive(Debug, thiserror::Error)]
pub enum OrdersError {
    /// Too long, or not what it should be.
    #[error("the recovery orders cannot be read: {0}; run the restore again")]
    Unreadable(String),
    /// Made by something newer.
    #[error("the recovery orders are of version {0}, this program reads 1; use the newer one that wrote them")]
    Version(u32),
}

impl Orders {
    /// Orders for a plan.
    pub fn new(plan: &Plan, replica: String, era: String, identities: Vec<PathBuf>) -> Orders {
        let system_id = plan.chosen.snapshot.system_id;
        Orders { version: VERSION, replica, system_id, era, lineage: plan.lineage.clone(), end: plan.end, identities }
    }

    /// Reads them back.
    pub fn from_json(bytes: &[u8]) -> Result<Orders, OrdersError> {
        if bytes.len() > MAX_ORDERS {
            return Err(OrdersError::Unreadable("the file is longer than any".to_owned()));
        }
        let orders: Orders =
            serde_json::from_slice(bytes).map_err(|error| OrdersError::Unreadable(error.to_string()))?;
        if orders.version == VERSION { Ok(orders) } else { Err(OrdersError::Version(orders.version)) }
    }

    /// The file's bytes.
    pub fn to_json(&self) -> Vec<u8> {
        // Text, numbers and lists: nothing that serialisation could refuse.
        serde_json::to_vec_pretty(self).unwrap_or_default()
    }
}

/// What the server does at the end of recovery.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Action {
    /// Takes writes, on a new TLI.
    #[default]
    Promote,
    /// Waits, open for reading, until somebody says `pg_wal_replay_resume()` or shuts it down.
    Pause,
    /// Shuts down; the next start goes on from there.
    Shutdown,
}

impl Action {
    fn name(self) -> &'static str {
        match self {
            Action::Promote => "promote",
            Action::Pause => "pause",
            Action::Shutdown => "shutdown",
        }
    }
}

/// The recovery settings for a plan. `program` is the path of `seawall`.
pub fn settings(plan: &Plan, stop: Stop, program: &Path, action: Action) -> Vec<(String, String)> {
    let snapshot = &plan.chosen.snapshot;
    let tip = plan.lineage.tip().tli();
    // A server that is told the number of its own TLI demands a history file for it, which the first has not.
    let tli = if tip == snapshot.end.tli { "current".to_owned() } else { tip.to_string() };
    let mut settings = vec![
        ("restore_command", restore_command(program)),
        ("recovery_end_command", format!("rm -rf {FOLDER}")),
        ("recovery_target_timeline", tli),
        ("recovery_target_action", action.name().to_owned()),
        ("recovery_target_inclusive", "on".to_owned()),
    ];
    settings.push(match stop {
        // Inclusive: the server stops behind the first record that starts at or above it, which is this one.
        Stop::Record { start, .. } => ("recovery_target_lsn", start.to_string()),
        Stop::Time(time) => ("recovery_target_time", time.strftime("%Y-%m-%d %H:%M:%S.%6f+00").to_string()),
    });
    settings.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// The command as PostgreSQL runs it, in the data directory, through a shell.
fn restore_command(program: &Path) -> String {
    let program = program.to_string_lossy().replace('\'', "'\\''").replace('%', "%%");
    format!("'{program}' wal-fetch --recovery {FOLDER}/{ORDERS} %f %p")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_paths_reach_the_program_as_they_are() {
        assert_eq!(
            restore_command(Path::new("/opt/it's 100%/seawall")),
            "'/opt/it'\\''s 100%%/seawall' wal-fetch --recovery seawall_restore/recovery.json %f %p"
        );
    }

    #[test]
    fn orders_are_read_back_and_newer_ones_refused() {
        let lineage = Lineage::of_path(&"1:0/0:0;2:0/180000:A".parse().unwrap());
        let orders = Orders {
            version: 1,
            replica: "s3://bucket/wal".to_owned(),
            system_id: SystemId(u64::MAX),
            era: "solo-1".to_owned(),
            lineage,
            end: Lsn(0x20_0000),
            identities: vec![PathBuf::from("/k")],
        };
        assert_eq!(Orders::from_json(&orders.to_json()).unwrap(), orders);
        let newer = Orders { version: 2, ..orders };
        assert!(matches!(Orders::from_json(&newer.to_json()), Err(OrdersError::Version(2))));
        for bad in ["", "{}", "[]", "{\"version\":1}"] {
            assert!(matches!(Orders::from_json(bad.as_bytes()), Err(OrdersError::Unreadable(_))), "{bad}");
        }
    }
}
