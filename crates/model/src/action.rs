//! [`Action`]: what may happen next, and in which worlds.

use crate::config::Config;
use crate::disk::index;
use crate::mutant::Mutant;
use crate::node::{Loss, Node};
use crate::proposer::{Proposer, Role};
use crate::world::World;
use consensus::{Fault, SessionId, Standing};
use lsn::Term;

/// One step of the world. Numbers are places in its lists. A `crash` is that of the safekeeper concerned, after so many of its disk's
/// completions, in the middle of what it was asked to do.
#[derive(Clone, PartialEq, Eq, Debug)]
#[expect(missing_docs, reason = "the numbers are what the variants say")]
pub enum Action {
    /// A proposer begins anew: it asks for this term, on this server, by this record. Where nothing travels it asks the safekeepers of
    /// `voters`, a bit for each, and either wins or ends.
    Start {
        proposer: usize,
        term: u64,
        server: usize,
        record: usize,
        completes: bool,
        voters: u8,
    },
    /// It opens a session and asks for a vote; if it leads already, for the state of the log.
    Ask {
        proposer: usize,
        node: usize,
        crash: Option<u8>,
    },
    /// It tells who was elected, and probes.
    Elect {
        proposer: usize,
        node: usize,
        crash: Option<u8>,
    },
    /// It sends a byte. A crash after 255 completions is one right before.
    Append {
        proposer: usize,
        node: usize,
        crash: Option<u8>,
    },
    /// It sends its commit LSN alone.
    Beat {
        proposer: usize,
        node: usize,
    },
    /// A server writes a byte.
    Write {
        server: usize,
    },
    /// A server is promoted, or copied, with so many bytes of another one's log.
    Fork {
        server: usize,
        bytes: usize,
        promoted: bool,
    },
    /// A safekeeper crashes with nothing under way that has not been said, and starts again.
    Crash {
        node: usize,
    },
    /// It writes its commit LSN and floor down.
    Checkpoint {
        node: usize,
    },
    /// Its directory is replaced by an empty one.
    Empty {
        node: usize,
    },
    /// Its directory is replaced by what it was at first, and its peers tell it what it promised since.
    Rewind {
        node: usize,
    },
    /// Its disk loses all but so many durable bytes.
    Forget {
        node: usize,
        keep: usize,
    },
    /// Its disk ends a write of the control file, a cut, or a sync.
    Finish {
        node: usize,
        what: Completion,
    },
    /// What is on its way on a session arrives at the safekeeper, or at the proposer.
    ToNode {
        node: usize,
        session: SessionId,
    },
    ToProposer {
        node: usize,
        session: SessionId,
    },
    /// A session breaks. What was on its way to the proposer is lost; what was on its way to the safekeeper may still arrive if only
    /// the proposer has noticed.
    Break {
        node: usize,
        session: SessionId,
        half: bool,
    },
    /// A leader makes a record.
    Change {
        proposer: usize,
        abandon: bool,
    },
    /// A record is brought to a safekeeper.
    Record {
        record: usize,
        node: usize,
        crash: Option<u8>,
    },
    /// A leader that only completes sets its fence.
    Fence {
        proposer: usize,
        node: usize,
        crash: Option<u8>,
    },
    /// A leader's connection ends at another server.
    Move {
        proposer: usize,
        server: usize,
    },
}

/// What a disk may end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Completion {
    Persist,
    Cut,
    Sync,
}

/// Most completions of a disk within one step.
const COMPLETIONS: u8 = 4;

/// Everything that may happen in this world. Some of it turns out to change nothing.
pub(crate) fn actions(config: &Config, mutant: Mutant, world: &World, out: &mut Vec<Action>) {
    // A crash before the first completion is one that comes before the step, unless something is said too early.
    let early = config.crashes && !config.disks && mutant != Mutant::None;
    let crashes: &[Option<u8>] = if early { &[None, Some(0)] } else { &[None] };
    for (at, proposer) in world.proposers.iter().enumerate() {
        starts(config, mutant, world, at, out);
        let Some((term, record)) = proposer.counting() else { continue };
        for (node, keeper) in world.nodes.iter().enumerate() {
            if record.member(keeper.number()).is_none() {
                continue;
            }
            for action in talks(config, world, (at, proposer), (node, keeper), term) {
                let deep = matches!(action, Action::Elect { .. }) && config.crashes && !config.disks;
                crashes.iter().for_each(|crash| out.push(with_crash(&action, *crash)));
                if config.brief && config.crashes && matches!(action, Action::Append { .. }) {
                    out.push(Action::Append { proposer: at, node, crash: Some(u8::MAX) });
                }
                if deep {
                    (1..COMPLETIONS).for_each(|crash| out.push(with_crash(&action, Some(crash))));
                }
            }
        }
        changes(config, mutant, world, (at, proposer), out);
        if mutant == Mutant::TermKept && proposer.leadership().is_some() {
            let others = (0..world.servers.len()).filter(|server| *server != proposer.server);
            out.extend(others.map(|server| Action::Move { proposer: at, server }));
        }
    }
    for (node, keeper) in world.nodes.iter().enumerate() {
        troubles(config, world, node, keeper, out);
        travels(config, node, keeper, out);
        let held = keeper.acceptor.state().membership.generation;
        for (record, made) in world.past.records.iter().enumerate() {
            if made.generation > held || (mutant == Mutant::Rule(Fault::OlderRecord) && made.generation < held) {
                crashes.iter().for_each(|crash| out.push(Action::Record { record, node, crash: *crash }));
            }
        }
    }
    for (server, primary) in world.servers.iter().enumerate() {
        if primary.log.len() < config.log {
            out.push(Action::Write { server });
        }
        if world.servers.len() < config.servers {
            for bytes in 0..=primary.log.len() {
                if bytes < config.log {
                    out.push(Action::Fork { server, bytes, promoted: true });
                }
                if config.clones {
                    out.push(Action::Fork { server, bytes, promoted: false });
                }
            }
        }
    }
}

/// New lives of a proposer, in terms that a look at a majority would lead to.
fn starts(config: &Config, mutant: Mutant, world: &World, proposer: usize, out: &mut Vec<Action>) {
    let again = mutant == Mutant::Rule(Fault::VoteTwice);
    for (record, made) in world.past.records.iter().enumerate() {
        let holds = |node: &Node| {
            node.acceptor.state().membership.generation == made.generation
                && node.acceptor.standing() == Standing::Member
        };
        let voters: Vec<&Node> = world.nodes.iter().map(|node| &**node).filter(|node| holds(node)).collect();
        let mut terms: Vec<u64> = voters.iter().map(|node| node.acceptor.state().term.next().0).collect();
        if again {
            terms.extend(voters.iter().map(|node| node.acceptor.state().term.0).filter(|term| *term > 0));
        }
        terms.sort_unstable();
        terms.dedup();
        for term in terms.into_iter().filter(|term| *term <= config.terms) {
            let below = |number| {
                let low = if again { Term(term).next() } else { Term(term) };
                voters.iter().any(|node| node.number() == number && node.acceptor.state().term < low)
            };
            if !made.has_majority(below) {
                continue;
            }
            let asked = |at: usize| {
                mutant != Mutant::None
                    || (holds(&world.nodes[at]) && world.nodes[at].acceptor.state().term < Term(term))
            };
            let servers = 0..world.servers.len().max(1);
            for voters in groups(config, world.nodes.len(), &asked) {
                // Who does not compare does not look either.
                let blind = matches!(mutant, Mutant::DonorByTli | Mutant::Rule(Fault::DonorUncompared));
                for server in servers.clone().filter(|server| blind || world.may_lead(*server, made)) {
                    out.push(Action::Start { proposer, term, server, record, completes: false, voters });
                }
                if config.fences && world.past.fence.is_none() {
                    out.push(Action::Start { proposer, term, server: 0, record, completes: true, voters });
                }
            }
        }
    }
}

/// Which safekeepers a candidate may ask in one step.
fn groups(config: &Config, nodes: usize, asked: &dyn Fn(usize) -> bool) -> Vec<u8> {
    if !config.is_atomic() {
        return vec![0];
    }
    // Without servers every log is contained, so a majority is enough; whoever votes later does so for a leader.
    let most = if config.servers == 0 && config.members.is_none() { nodes / 2 + 1 } else { nodes };
    let fits = |group: &u8| (0..nodes).all(|at| group & (1 << at) == 0 || asked(at));
    let least = if config.terse { nodes as u32 / 2 + 1 } else { 1 };
    (1..1 << nodes).filter(|group: &u8| (least..=most as u32).contains(&group.count_ones())).filter(fits).collect()
}

/// What a proposer may say to a safekeeper.
fn talks(
    config: &Config,
    world: &World,
    (proposer, of): (usize, &Proposer),
    (node, keeper): (usize, &Node),
    term: Term,
) -> Vec<Action> {
    let crash = None;
    let link = &of.links[node];
    let wire = link.session.and_then(|session| keeper.wires.iter().find(|wire| wire.session == session));
    // Only its own proposer's messages keep a session waiting: one is under way at a time.
    if wire.is_some_and(|wire| !wire.to_node.is_empty() || !wire.to_proposer.is_empty()) {
        return Vec::new();
    }
    let superseded = keeper.acceptor.state().term > term && !config.stubborn && !config.messages;
    if superseded || (!config.messages && !keeper.is_free()) {
        return Vec::new();
    }
    let mut out = Vec::new();
    // Where nothing travels a candidate asks when it starts, and a leader when it tells of its election; here it asks and ends.
    let lower = keeper.acceptor.state().term < term;
    if link.session.is_none() && (!config.is_atomic() || (lower && !config.terse)) {
        out.push(Action::Ask { proposer, node, crash });
    }
    let Role::Leading(leadership) = &of.role else { return out };
    // Once the history is adopted, telling again changes nothing.
    let adopted = config.brief && keeper.acceptor.state().history.last_term() == term;
    let untold = link.sent.is_none() && !adopted;
    if untold && (config.is_atomic() || (link.session.is_some() && link.vote.is_some())) {
        out.push(Action::Elect { proposer, node, crash });
    }
    let end = adopted.then(|| index(keeper.acceptor.flush()));
    let Some(sent) = link.sent.or(end) else { return out };
    let log = world.log_of(of);
    let grows = world.servers.is_empty() && !of.completes && log.len() < config.log;
    if sent < log.len() || (sent == log.len() && grows) {
        out.push(Action::Append { proposer, node, crash });
    }
    let told = if config.brief { keeper.acceptor.commit() } else { keeper.acceptor.leader_commit() };
    if config.beats && !config.terse && leadership.commit().is_some_and(|commit| commit > told) {
        out.push(Action::Beat { proposer, node });
    }
    if of.completes && leadership.commit().is_some() && config.fences {
        let set = keeper.acceptor.state().fence.as_ref().is_some_and(|fence| fence.line.epoch == leadership.term());
        if !set {
            out.push(Action::Fence { proposer, node, crash });
        }
    }
    out
}

fn with_crash(action: &Action, after: Option<u8>) -> Action {
    let mut action = action.clone();
    match &mut action {
        Action::Ask { crash, .. }
        | Action::Elect { crash, .. }
        | Action::Append { crash, .. }
        | Action::Record { crash, .. }
        | Action::Fence { crash, .. } => *crash = after,
        _ => {}
    }
    action
}

/// Records a leader may make.
fn changes(config: &Config, mutant: Mutant, world: &World, (at, of): (usize, &Proposer), out: &mut Vec<Action>) {
    let (Some(leadership), Some(_)) = (of.leadership(), config.members) else { return };
    let many = mutant == Mutant::ManyRecords && world.past.records.len() < 4;
    let hasty = mutant == Mutant::ChangeBeforeCommit;
    if (leadership.commit().is_some() || hasty) && (!of.made || many) {
        out.push(Action::Change { proposer: at, abandon: false });
        if many {
            out.push(Action::Change { proposer: at, abandon: true });
        }
    }
}

/// What may go wrong with a safekeeper.
fn troubles(config: &Config, world: &World, node: usize, keeper: &Node, out: &mut Vec<Action>) {
    if config.crashes && !config.brief {
        out.push(Action::Crash { node });
    }
    let acceptor = &keeper.acceptor;
    if config.disks {
        let disk = &keeper.disk;
        let due = [
            (disk.persisting.is_some(), Completion::Persist),
            (disk.cutting.is_some(), Completion::Cut),
            (disk.synced < disk.log.len(), Completion::Sync),
        ];
        out.extend(due.into_iter().filter(|(due, _)| *due).map(|(_, what)| Action::Finish { node, what }));
    }
    let unsaved = acceptor.commit() > keeper.disk.control.commit
        || (config.forgetful > 0 && acceptor.flush() > keeper.disk.control.floor);
    if config.lagging && unsaved && acceptor.is_settled() {
        out.push(Action::Checkpoint { node });
    }
    // One safekeeper's disk may break; a majority keeps its.
    let broken = world.nodes.iter().filter(|other| other.loss != Loss::Nothing).count();
    let may = keeper.loss == Loss::Nothing && broken < (world.nodes.len() - 1) / 2;
    if may && acceptor.is_settled() {
        if world.past.losses.0 < config.emptied {
            out.push(Action::Empty { node });
        }
        if world.past.losses.1 < config.forgetful {
            out.push(Action::Rewind { node });
            let floor = index(keeper.disk.control.floor).min(keeper.disk.synced);
            out.extend((0..floor).map(|keep| Action::Forget { node, keep }));
        }
    }
}

fn travels(config: &Config, node: usize, keeper: &Node, out: &mut Vec<Action>) {
    if !config.messages {
        return;
    }
    for wire in &keeper.wires {
        let session = wire.session;
        if wire.open && !wire.to_node.is_empty() && keeper.is_free() {
            out.push(Action::ToNode { node, session });
        }
        if wire.proposer.is_some() && !wire.to_proposer.is_empty() {
            out.push(Action::ToProposer { node, session });
        }
        let waits = !wire.to_node.is_empty() || !wire.to_proposer.is_empty();
        if waits {
            out.push(Action::Break { node, session, half: false });
        }
        let orphans = keeper.wires.iter().filter(|wire| wire.proposer.is_none()).count();
        if wire.proposer.is_some() && !wire.to_node.is_empty() && orphans == 0 {
            out.push(Action::Break { node, session, half: true });
        }
    }
}
