//! `seawall retain`: what of an archive may go.

use crate::restore::open::{self, OpenError};
use archive::retention::{Doomed, Outcome, Plan, RetainOptions, RetentionError, Sole};
use config::RetainFlags;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Why nothing more was deleted.
#[derive(Debug, thiserror::Error)]
pub enum RetainError {
    /// The archive cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// Retention refused, or failed.
    #[error(transparent)]
    Retention(#[from] RetentionError),
}

/// Runs retention once, as the flags say.
pub async fn retain(flags: &RetainFlags) -> Result<Outcome, RetainError> {
    let replica = open::postgres(&flags.replica, &flags.source).await?;
    let sole = if flags.sole_uploader { Sole::Promised } else { Sole::Lease };
    let options = RetainOptions { window: flags.window.0, dry_run: flags.dry_run, sole, holder: super::holder() };
    Ok(archive::retention::run(&replica, &options).await?)
}

/// For `--json`.
pub fn to_json(outcome: &Outcome) -> Value {
    json!({
        "window_begin": outcome.window_begin.to_string(),
        "superfluous": plan_json(&outcome.superfluous),
        "deleted": plan_json(&outcome.deleted),
        "objects_deleted": outcome.objects,
        "notes": outcome.superfluous.notes,
    })
}

fn plan_json(plan: &Plan) -> Value {
    let snapshots: Vec<Value> = plan
        .doomed()
        .filter_map(|doomed| match doomed {
            Doomed::Snapshot(generation, begin) => {
                Some(json!({"generation": generation.to_string(), "at": begin.to_string()}))
            }
            _ => None,
        })
        .collect();
    let pieces: BTreeMap<String, usize> =
        plan.pieces.iter().map(|(generation, pieces)| (generation.to_string(), pieces.len())).collect();
    let generations: Vec<String> = plan.generations.iter().map(ToString::to_string).collect();
    json!({"snapshots": snapshots, "wal_objects": pieces, "generations": generations})
}

/// A plan in one line for people.
pub fn line(plan: &Plan) -> String {
    let pieces: usize = plan.pieces.values().map(Vec::len).sum();
    let snapshots = plan.snapshots.len() + plan.unfinished.len();
    format!("{snapshots} snapshots, {pieces} objects of WAL, {} whole generations", plan.generations.len())
}
