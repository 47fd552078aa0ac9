//! `seawall generations`, `snapshots` and `wal`: what a replica holds.

use super::{failed, print};
use operate::process::{self, Exit};
use operate::restore::list::{self, GenerationRow, ListError, SnapshotRow, WalRow};
use operate::restore::progress::size;
use operate::restore::table;
use serde::Serialize;
use serde_json::json;
use std::future::Future;

pub(crate) const GENERATIONS_EXAMPLES: &str = "Example:\n  seawall generations s3://backups/wal";
pub(crate) const SNAPSHOTS_EXAMPLES: &str = "Example:\n  seawall snapshots s3://backups/wal --json";
pub(crate) const WAL_EXAMPLES: &str = "Example:\n  seawall wal /mnt/archive --generation 0000000000000001";

pub(crate) fn generations(flags: &config::ListFlags) -> Exit {
    let head = ["generation", "left", "snapshots", "WAL objects", "size", "restorable from", "since", "to", "updated"];
    show(flags, list::generations(flags), &head, |row: &GenerationRow| {
        let to = match &row.hole_at {
            Some(hole) => format!("{} (WAL is missing at {hole})", row.restorable_to.clone().unwrap_or_default()),
            None => or_dash(row.restorable_to.as_ref()),
        };
        vec![
            row.generation.clone(),
            or_dash(row.parent.as_ref()),
            row.snapshots.to_string(),
            row.pieces.to_string(),
            size(row.stored),
            or_dash(row.restorable_from.as_ref()),
            or_dash(row.restorable_from_time.as_ref()),
            to,
            or_dash(row.updated.as_ref()),
        ]
    })
}

pub(crate) fn snapshots(flags: &config::ListFlags) -> Exit {
    let head = ["generation", "at", "usable from", "size", "created"];
    show(flags, list::snapshots(flags), &head, |row: &SnapshotRow| {
        let usable = or_dash(row.usable_from.as_ref());
        vec![row.generation.clone(), row.at.clone(), usable, size(row.bytes), row.created.to_string()]
    })
}

pub(crate) fn wal(flags: &config::ListFlags) -> Exit {
    let head = ["generation", "index", "start", "end", "size", "created"];
    show(flags, list::wal(flags), &head, |row: &WalRow| {
        let (start, end) = (row.start.to_string(), or_dash(row.end.as_ref()));
        vec![row.generation.clone(), row.index.clone(), start, end, size(row.stored), row.created.to_string()]
    })
}

fn or_dash(value: Option<&impl ToString>) -> String {
    value.map_or_else(|| "-".to_owned(), ToString::to_string)
}

fn show<R: Serialize>(
    flags: &config::ListFlags,
    rows: impl Future<Output = Result<Vec<R>, ListError>>,
    head: &[&str],
    cells: impl Fn(&R) -> Vec<String>,
) -> Exit {
    process::log_to_stderr(config::LogFormat::Human);
    let runtime = match process::runtime() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&error, Exit::Failed),
    };
    let rows = match runtime.block_on(rows) {
        Ok(rows) => rows,
        Err(error) => return failed(&error, if error.is_usage() { Exit::Usage } else { Exit::Failed }),
    };
    match flags.json {
        true => print(&json!(rows).to_string()),
        false => print(&table(head, rows.iter().map(cells))),
    }
    Exit::Done
}
