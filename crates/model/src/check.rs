//! What must hold in every world, whatever led to it.

use crate::config::Config;
use crate::disk::{index, position, whole_records};
use crate::node::{Loss, Node};
use crate::property::{Property::*, Set};
use crate::world::World;
use consensus::{Standing, TermHistory};
use lsn::Lsn;

/// Bytes of a log that count: below a cut under way, and durable.
fn counting(node: &Node) -> usize {
    let flush = index(node.acceptor.flush()).min(node.disk.log.len());
    node.disk.cutting.as_ref().map_or(flush, |(to, _)| flush.min(index(*to)))
}

/// Where the term at place `at` of a history ends in a log of so many bytes.
fn end_of_term(history: &TermHistory, at: usize, length: usize) -> usize {
    history.entries().get(at + 1).map_or(length, |next| index(next.begin).min(length))
}

/// Holds two logs against each other: S5 and S6.
fn compare(a: (&TermHistory, &[u8]), b: (&TermHistory, &[u8]), broken: &mut Set) {
    for (at, ours) in a.0.entries().iter().enumerate() {
        let Some(there) = b.0.entries().iter().position(|theirs| theirs.term == ours.term) else { continue };
        broken.require(b.0.entries()[there].begin == ours.begin, S5);
        let shared = end_of_term(a.0, at, a.1.len()).min(end_of_term(b.0, there, b.1.len()));
        broken.require(a.1[..shared] == b.1[..shared], S6);
    }
}

/// All of it.
pub(crate) fn check(config: &Config, world: &World) -> Set {
    let mut broken = world.broken;
    let committed = &world.past.committed;
    let mut logs = Vec::new();
    for node in &world.nodes {
        let acceptor = &node.acceptor;
        let state = acceptor.state();
        let flush = acceptor.flush();
        let sound = acceptor.standing() == Standing::Member && node.loss == Loss::Nothing;
        broken.require(!sound || acceptor.commit() <= flush, S8);
        broken.require(flush <= node.disk.durable_end() || node.disk.cutting.is_some(), S13);
        broken.require(state.commit >= node.disk.control.commit || node.loss != Loss::Nothing, S7);
        let entries = state.history.entries();
        let pairs = entries.iter().zip(entries.iter().skip(1));
        broken.require(pairs.into_iter().all(|(a, b)| a.term < b.term && a.begin <= b.begin), S25);
        let bytes = &node.disk.log[..counting(node)];
        broken.require(whole_records(&node.disk.log[..index(flush).min(node.disk.log.len())]) == index(flush), S8);
        let commit = index(acceptor.commit()).min(bytes.len());
        broken.require(commit <= committed.len(), S9);
        broken.require(bytes[..commit] == committed[..commit.min(committed.len())], S9);
        if config.servers > 0
            && node.disk.cutting.is_none()
            && let Some(path) = node.path()
        {
            let of = |server: &crate::world::Server| server.path.cut(flush) == path && server.log.starts_with(bytes);
            broken.require(world.servers.iter().any(of), S27);
            let shown = acceptor.public_path();
            let shown = shown.iter().flat_map(|path| path.entries());
            let settled = world.past.committed_path.entries();
            broken.require(shown.into_iter().all(|entry| settled.contains(entry)), S28);
        }
        logs.push((state.history.cut(position(bytes.len())), bytes));
    }
    for (at, (history, log)) in logs.iter().enumerate() {
        for (other_history, other_log) in &logs[..at] {
            compare((history, log), (other_history, other_log), &mut broken);
        }
    }
    for leadership in world.proposers.iter().filter_map(|proposer| proposer.leadership()) {
        for node in &world.nodes {
            // Once Elected is processed; before, a leader may count what a disk has lost meanwhile.
            let follows = node.acceptor.leader_term() == Some(leadership.term());
            let counted = leadership.flush_of(node.number()).unwrap_or(Lsn::INVALID);
            broken.require(!follows || counted <= node.disk.durable_end(), S13);
        }
    }
    if config.members.is_some() {
        let records: Vec<_> = world.nodes.iter().map(|node| &node.acceptor.state().membership).collect();
        let made = world.past.records.iter().collect::<Vec<_>>();
        let all: Vec<_> = records.iter().chain(made.iter()).collect();
        let twice = |a: &consensus::Membership| all.iter().any(|b| b.generation == a.generation && **b != a);
        broken.require(!all.iter().any(|record| twice(record)), S33);
    }
    broken
}
