//! One run: faults, then none, then everything must be well.

use crate::chaos::member_of;
use crate::coverage::Coverage;
use crate::plan::{Plan, Sabotage};
use crate::proposer::Proposer;
use crate::safekeeper::Node;
use crate::server::{FIRST, Role};
use crate::world::{MS, SECOND, World, note};
use consensus::Membership;
use keeper::Keeper;
use lsn::{Lsn, NodeId, Term};

/// How long a cluster without faults may take until it commits and everybody has everything.
const HEAL_WITHIN: u64 = 300 * SECOND;

/// What a run came to.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// What happened how often.
    pub coverage: Coverage,
    /// Hash over the trace: equal for equal runs.
    pub hash: u64,
    /// Things that happened.
    pub actions: u64,
    /// Virtual seconds.
    pub seconds: u64,
    /// All of the trace, if it was asked for.
    pub trace: Option<String>,
}

/// A promise that was not kept.
#[derive(Clone, Debug, thiserror::Error)]
#[error(
    "seed {seed}: {what}\n{state}\nthe last of what happened:\n{trace}\nseed {seed}: {what}\nagain: cargo xtask sim --seed {seed} --trace"
)]
pub struct Failure {
    /// The run.
    pub seed: u64,
    /// Which.
    pub what: String,
    /// Everybody, at that moment.
    pub state: String,
    /// The last lines of the trace.
    pub trace: String,
}

/// Runs a seed.
///
/// # Errors
/// A promise was not kept, or the cluster did not heal.
pub fn run(seed: u64, sabotage: Option<Sabotage>, keeps_trace: bool) -> Result<Outcome, Box<Failure>> {
    let mut world = World::new(Plan::of(seed, sabotage), keeps_trace);
    let result = whole(&mut world);
    let what = result.err().or(world.oracle.violation().map(str::to_owned));
    match what {
        Some(what) => {
            let (state, trace) = (world.describe(), world.trace.text());
            Err(Box::new(Failure { seed, what, state, trace }))
        }
        None => Ok(Outcome {
            hash: world.trace.hash(),
            actions: world.actions,
            seconds: world.now / SECOND,
            trace: keeps_trace.then(|| world.trace.text()),
            coverage: std::mem::take(&mut world.coverage),
        }),
    }
}

fn whole(world: &mut World) -> Result<(), String> {
    note!(world, "plan: {:?}", world.plan);
    let (members, nodes) = (world.plan.members, world.plan.nodes);
    world.nodes = (0..nodes).map(Node::new).collect();
    let founders = (0..members).map(|n| member_of(n, world.nodes[n].identity.disk)).collect();
    let record = Membership::new(1, Term(0), founders, None).map_err(|error| error.to_string())?;
    for n in 0..nodes {
        if n < members && !world.nodes[n].make(&record) {
            return Err("a cluster cannot be made".to_owned());
        }
        world.start_node(n);
    }
    world.proposers.push(Proposer::new(0, false));
    world.start_proposer(0);
    world.work();
    world.after(SECOND, World::chaos);
    world.run_until(world.plan.faults_for);
    check(world)?;
    heal(world);
    let until = world.now + HEAL_WITHIN;
    let mut goal = Lsn::MAX;
    while world.now < until {
        let next = world.now + SECOND;
        world.run_until(next);
        check(world)?;
        mend(world);
        // Something new must be committed, and then everybody must have it.
        let committed = world.oracle.committed();
        if goal == Lsn::MAX && world.proposers.iter().any(Proposer::is_leading) {
            goal = Lsn(committed.0.max(FIRST.0) + 2000);
        }
        if committed >= goal && lagging(world).is_none() {
            note!(world, "healed");
            return finish(world);
        }
    }
    // The last commit was told to the primary and, before anybody else heard of it, everybody who knew was gone; then the primary
    // removed what no safekeeper knows to be committed. Refused on purpose: nothing is lost, and people have to look.
    if world.proposers.last().is_some_and(|proposer| proposer.refused == Some("wal_removed")) {
        world.coverage.count("not healed: the primary has removed what nobody knows to be committed");
        return finish(world);
    }
    if !has_whole_majority(world) {
        world.coverage.count("not healed: no majority is left that was not beyond all WAL that is kept");
        return finish(world);
    }
    let why = lagging(world).unwrap_or_else(|| format!("nothing is committed above {}", world.oracle.committed()));
    Err(format!("{} s without faults did not heal it: {why}", HEAL_WITHIN / SECOND))
}

fn check(world: &World) -> Result<(), String> {
    world.oracle.violation().map_or(Ok(()), |what| Err(what.to_owned()))
}

/// The faults are over: everything is repaired that an operator would repair.
fn heal(world: &mut World) {
    note!(world, "no more faults");
    world.calm = true;
    world.net.blocked.clear();
    world.net.slow.clear();
    for n in 0..world.nodes.len() {
        let node = &mut world.nodes[n];
        node.disk.set_free_space(None);
        (node.job_micros, node.stalled_until) = (2 * MS, 0);
        let stopped = node.run.as_ref().is_some_and(|run| run.keeper.stopped().is_some());
        // Faults that were to come at some operation are forgotten with the process.
        let power = node.doomed;
        if node.is_up() || stopped {
            world.stop_node(n, power);
        }
        world.start_later(n);
    }
    for p in 0..world.proposers.len() {
        world.stop_proposer(p, false);
    }
    // The server that led last goes on.
    let best = world.oracle.last_won().map_or(0, |(_, won)| won.server);
    let_go_on(world, best);
}

/// One server works, with a proposer that may take over; the others would only stand in its way.
fn let_go_on(world: &mut World, best: usize) {
    note!(world, "s{best} goes on");
    for s in 0..world.servers.len() {
        if s != best && world.servers[s].role == Role::Primary {
            world.servers[s].role = Role::Down;
            world.servers[s].run += 1;
            world.servers[s].walsender = None;
            world.primary_gone(s, 20 * MS);
        }
    }
    if world.servers[best].role == Role::Down {
        world.restart_server(best);
    }
    world.proposers.push(Proposer::new(best, true));
    let p = world.proposers.len() - 1;
    world.after(15 * SECOND, move |world| world.start_proposer(p));
}

/// What an operator does about a refusal: takes a safekeeper out whose bytes are not the others', and goes on with an earlier server if
/// the one that led last lacks WAL that only a disk which is gone could have shown to be unacknowledged.
fn mend(world: &mut World) {
    let p = world.proposers.len() - 1;
    match world.proposers[p].refused {
        Some("diverged") => {
            for n in 0..world.nodes.len() {
                if world.nodes[n].excused && world.nodes[n].is_up() {
                    note!(world, "k{n} is taken out");
                    world.coverage.count("a rotten log taken out by hand");
                    world.stop_node(n, false);
                }
            }
        }
        Some("forked") => {
            let server = world.proposers[p].server;
            world.unfit.push(server);
            let Some(next) = (0..world.servers.len()).find(|s| !world.unfit.contains(s)) else { return };
            world.coverage.count("an earlier server went on, because the last lacked WAL");
            world.stop_proposer(p, false);
            let_go_on(world, next);
        }
        _ => {}
    }
}

/// Whether no other member has what comes next here. Without an archive the limit on local WAL decides what is kept: who is beyond it
/// is to be seeded anew.
fn is_beyond(world: &mut World, n: usize, flush: Lsn) -> bool {
    let Some(record) = world.newest_record() else { return false };
    let others = world.nodes.iter().enumerate().filter(|(other, node)| {
        *other != n && !node.excused && record.includes(node.identity.node, node.identity.disk)
    });
    let committed = world.oracle.committed();
    let ahead = others.filter_map(|(_, node)| Some(&node.run.as_ref()?.keeper));
    let ahead = ahead.filter(|keeper| keeper.timeline_status().0.saturating_add(50_000) >= committed);
    ahead.map(Keeper::oldest).filter(|oldest| oldest.is_valid()).min().is_some_and(|oldest| flush < oldest)
}

/// Whether a majority has a disk that kept its promises and is within reach of the others.
fn has_whole_majority(world: &mut World) -> bool {
    let Some(record) = world.newest_record() else { return false };
    let whole: Vec<NodeId> = (0..world.nodes.len())
        .filter(|n| {
            let flush = world.log_status(*n).map_or(Lsn::MAX, |row| row.flush);
            let Node { identity, excused, .. } = world.nodes[*n];
            record.includes(identity.node, identity.disk) && !excused && !is_beyond(world, *n, flush)
        })
        .map(|n| NodeId(n as u64 + 1))
        .collect();
    record.has_majority(|node| whole.contains(&node))
}

/// A member that has not got what it should have, and why it should.
fn lagging(world: &mut World) -> Option<String> {
    let record = world.newest_record()?;
    if record.new_members.is_some() {
        return Some(format!("the record is still a joint one: {record}"));
    }
    let committed = world.oracle.committed();
    for n in 0..world.nodes.len() {
        let identity = world.nodes[n].identity;
        if world.nodes[n].excused || !record.includes(identity.node, identity.disk) {
            continue;
        }
        let Some(row) = world.log_status(n) else { return Some(format!("safekeeper {n} is not there")) };
        if is_beyond(world, n, row.flush) {
            world.coverage.count("a laggard beyond all WAL that is kept");
            continue;
        }
        // What was committed in the last moments may be on its way.
        if row.flush.saturating_add(50_000) < committed || row.commit.saturating_add(50_000) < committed {
            return Some(format!("safekeeper {n} has {} and knows of {} of {committed}", row.flush, row.commit));
        }
    }
    None
}

/// All bytes on all disks are held against what was committed; what was told to a primary is part of that.
fn finish(world: &mut World) -> Result<(), String> {
    if world.oracle.told() > world.oracle.committed() {
        return Err(format!("a primary was told {}, committed is {}", world.oracle.told(), world.oracle.committed()));
    }
    let record = world.newest_record();
    for n in 0..world.nodes.len() {
        let identity = world.nodes[n].identity;
        let counts = record.as_ref().is_some_and(|record| record.includes(identity.node, identity.disk));
        if world.nodes[n].excused || !counts {
            continue;
        }
        let Some(run) = world.nodes[n].run.as_ref() else { continue };
        let (flush, commit) = run.keeper.timeline_status();
        let (Some(storage), mut at) = (&run.storage, run.keeper.oldest()) else { continue };
        let reader = storage.reader();
        while at < flush.min(commit) {
            let bytes = reader.read(at, 1 << 16).map_err(|error| format!("safekeeper {n} cannot read: {error}"))?;
            let bytes = bytes.slice(..bytes.len().min(flush.min(commit).bytes_since(at) as usize));
            world.oracle.holds(n, at, &bytes);
            at = at.saturating_add(bytes.len() as u64);
        }
    }
    check(world)
}
