//! [`run`]: one run of retention over a replica.
//!
//! Order matters where a run may die: snapshots go before WAL, so that none is left without the WAL it needs; a snapshot's description
//! goes before its chunks; the tombstone goes last.

use super::error::RetentionError;
use super::guard::{Guard, Sole};
use super::holds::read_holds;
use super::inventory::read_inventory;
use super::plan::{Plan, Policy, plan};
use super::tombstone::Tombstone;
use jiff::Timestamp;
use replica_client::{Control, PostgresReplica};
use std::collections::BTreeSet;
use std::time::Duration;

/// Pieces deleted at once; between batches holds and lease are looked at again.
const BATCH: usize = 1000;
/// The object by which the store tells its time.
const CLOCK: &str = "clock.json";
/// How far this host's clock may be away from the store's.
const MAX_CLOCK_DIFFERENCE: i64 = 3600;

/// How to run.
#[derive(Clone, Debug)]
pub struct RetainOptions {
    /// Any moment of the last `window` stays restorable.
    pub window: Duration,
    /// Say what would be done, and do nothing.
    pub dry_run: bool,
    /// Who else may delete.
    pub sole: Sole,
    /// Who runs it, told apart from everybody else: host, process, something random.
    pub holder: String,
}

/// What was done, or would be.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Outcome {
    /// Found superfluous now: deleted in a day at the earliest.
    pub superfluous: Plan,
    /// Deleted now, or (dry run) due to be.
    pub deleted: Plan,
    /// Objects that this were.
    pub objects: u64,
    /// The earliest moment that stays restorable for sure.
    pub window_begin: Timestamp,
}

/// Runs retention once.
///
/// # Errors
/// [`RetentionError::is_refusal`] tells a refusal to protect data from a failure. Either way what stays is restorable.
pub async fn run(replica: &PostgresReplica, options: &RetainOptions) -> Result<Outcome, RetentionError> {
    if options.window < Duration::from_secs(60) {
        return Err(RetentionError::NoWindow);
    }
    if options.dry_run {
        return look(replica, options, Timestamp::now()).await.map(|(outcome, _)| outcome);
    }
    let mut guard = Guard::take(replica, options.sole, &options.holder).await?;
    let outcome = work(replica, options, &mut guard).await;
    guard.release().await;
    outcome
}

/// The present, if this host and the store agree on it: the earlier of the two.
async fn agreed_time(replica: &PostgresReplica) -> Result<Timestamp, RetentionError> {
    replica.control_put(Control::Tombstone, CLOCK, b"{}\n".as_slice().into()).await?;
    let listed = replica.control_list(Control::Tombstone).await?;
    let now = Timestamp::now();
    let stores = listed.iter().find(|info| info.name == CLOCK).map_or(now, |info| info.created);
    let seconds = now.as_second() - stores.as_second();
    if seconds.abs() > MAX_CLOCK_DIFFERENCE { Err(RetentionError::Clock { seconds }) } else { Ok(now.min(stores)) }
}

async fn work(
    replica: &PostgresReplica,
    options: &RetainOptions,
    guard: &mut Guard,
) -> Result<Outcome, RetentionError> {
    let now = agreed_time(replica).await?;
    let (mut outcome, due) = look(replica, options, now).await?;
    let mut deleting = Deleting { replica, guard, seen: due.holds, now, objects: 0 };
    let finished = deleting.delete(&outcome.deleted).await?;
    outcome.objects = deleting.objects;
    if !finished {
        outcome
            .superfluous
            .notes
            .push("a restore or backup began meanwhile; what is left goes with the next run".to_owned());
        return Ok(outcome);
    }
    let fresh = minus(&outcome.superfluous, &due.standing);
    if !fresh.is_empty() {
        let tombstone = Tombstone::of(&fresh, now);
        let name = format!("{}.json", now.as_second());
        replica.control_put(Control::Tombstone, &name, tombstone.to_json().into()).await?;
    }
    replica.control_delete(Control::Tombstone, &due.tombstones).await?;
    replica.control_delete(Control::Hold, &due.expired_holds).await?;
    Ok(outcome)
}

/// What a look at the replica brings besides the plan.
#[derive(Default)]
struct Due {
    /// Tombstones whose time has come.
    tombstones: Vec<String>,
    /// Named by tombstones that still stand.
    standing: Vec<Tombstone>,
    expired_holds: Vec<String>,
    /// Those in force.
    holds: BTreeSet<String>,
}

async fn look(
    replica: &PostgresReplica,
    options: &RetainOptions,
    now: Timestamp,
) -> Result<(Outcome, Due), RetentionError> {
    // Tombstones and holds first: what appears after a look is not deleted by it.
    let mut due = Due::default();
    let mut ripe = Vec::new();
    for info in replica.control_list(Control::Tombstone).await? {
        if info.name == CLOCK {
            continue;
        }
        let Some(bytes) = replica.control_get(Control::Tombstone, &info.name).await? else { continue };
        match Tombstone::from_json(&bytes) {
            Some(tombstone) if tombstone.is_due(now) => {
                due.tombstones.push(info.name);
                ripe.push(tombstone);
            }
            Some(tombstone) => due.standing.push(tombstone),
            None => due.tombstones.push(info.name),
        }
    }
    let holds = read_holds(replica, now).await?;
    due.expired_holds = holds.expired;
    due.holds = holds.names;
    let inventory = read_inventory(replica).await?;
    let policy = Policy { window: options.window, now };
    let superfluous = plan(&inventory, policy, &holds.live);
    let mut deleted = Plan::default();
    for tombstone in &ripe {
        merge(&mut deleted, tombstone.cut(&superfluous));
    }
    let outcome = Outcome { superfluous, deleted, objects: 0, window_begin: policy.window_begin() };
    Ok((outcome, due))
}

fn merge(into: &mut Plan, plan: Plan) {
    into.snapshots.extend(plan.snapshots);
    into.unfinished.extend(plan.unfinished);
    into.generations.extend(plan.generations);
    for (generation, pieces) in plan.pieces {
        let all = into.pieces.entry(generation).or_default();
        all.extend(pieces);
        all.sort_unstable();
        all.dedup();
    }
}

/// What of a plan no tombstone names yet.
fn minus(plan: &Plan, tombstones: &[Tombstone]) -> Plan {
    let mut rest = plan.clone();
    for tombstone in tombstones {
        let named = tombstone.cut(&rest);
        rest.snapshots.retain(|snapshot| !named.snapshots.contains(snapshot));
        rest.unfinished.retain(|snapshot| !named.unfinished.contains(snapshot));
        rest.generations.retain(|generation| !named.generations.contains(generation));
        for (generation, pieces) in &mut rest.pieces {
            let named = named.pieces.get(generation).map(Vec::as_slice).unwrap_or_default();
            pieces.retain(|piece| named.binary_search(piece).is_err());
        }
        rest.pieces.retain(|_, pieces| !pieces.is_empty());
    }
    rest
}

/// Deletes what a plan names, as long as nobody began to use the replica.
struct Deleting<'a> {
    replica: &'a PostgresReplica,
    guard: &'a mut Guard,
    /// The holds the plan respects.
    seen: BTreeSet<String>,
    now: Timestamp,
    objects: u64,
}

impl Deleting<'_> {
    /// `false` if it stopped because there is a hold that the plan does not know.
    async fn delete(&mut self, plan: &Plan) -> Result<bool, RetentionError> {
        for (generation, begin) in plan.snapshots.iter().chain(&plan.unfinished) {
            if !self.may_go_on().await? {
                return Ok(false);
            }
            self.objects += self.replica.delete_snapshot(*generation, begin.0).await?;
            tracing::info!(%generation, %begin, "deleted a snapshot older than the window");
        }
        for (generation, pieces) in &plan.pieces {
            for batch in pieces.chunks(BATCH) {
                if !self.may_go_on().await? {
                    return Ok(false);
                }
                self.objects += self.replica.delete_pieces(*generation, batch).await?;
            }
            tracing::info!(%generation, pieces = pieces.len(), "deleted WAL older than the window");
        }
        for generation in &plan.generations {
            if !self.may_go_on().await? {
                return Ok(false);
            }
            self.objects += self.replica.delete_generation(*generation).await?;
            tracing::info!(%generation, "deleted a generation older than the window");
        }
        Ok(true)
    }

    async fn may_go_on(&mut self) -> Result<bool, RetentionError> {
        self.guard.check().await?;
        Ok(read_holds(self.replica, self.now).await?.names.is_subset(&self.seen))
    }
}

#[cfg(test)]
#[path = "run_test.rs"]
mod tests;
