//! Changes of membership, with real acceptors.

use super::harness::*;
use super::parts::Node;
use crate::*;
use consensus::{AcceptorState, Identity, Member, Membership, ServerInfo};
use lsn::{DiskId, Lsn, NodeId};
use quorum_proto::Wish;
use std::time::Duration;

fn member(node: u64) -> Member {
    Member { node: NodeId(node), disk: DiskId([node as u8; 16]), host: format!("sk{node}"), port: 5454 }
}

impl World {
    /// Safekeeper `node` joins as a learner that has nothing to learn.
    fn join(&mut self, node: u64) {
        let identity = Identity { node: NodeId(node), disk: DiskId([node as u8; 16]) };
        let record = self.record(0);
        let state = AcceptorState::new(cluster(), "orders".to_owned(), record, ServerInfo::default());
        self.nodes.push(Node::new(identity, state));
        self.blind.push(false);
    }

    fn record(&self, index: usize) -> Membership {
        self.nodes[index].acceptor.as_ref().unwrap().state().membership.clone()
    }

    /// Somebody wishes these members; said to whoever leads on the first safekeeper.
    fn wish(&mut self, nodes: &[u64]) {
        let base = self.record(0);
        let wanted = Membership::new(base.generation, base.term, nodes.iter().map(|&n| member(n)).collect(), None);
        let acceptor = self.nodes[0].acceptor.as_mut().unwrap();
        acceptor.send_feedback(Wish::new(wanted.unwrap()).unwrap().to_feedback());
        self.nodes[0].carry_out();
    }

    fn nodes_of(&self, index: usize) -> Vec<u64> {
        self.record(index).members.iter().map(|member| member.node.0).collect()
    }

    fn wait_for_members(&mut self, wanted: &[u64]) {
        let done = |world: &World| {
            let leads = world.leader.state() == State::Leading && world.leader.commit().is_some();
            let plain = world.record(0).new_members.is_none();
            leads && plain && world.nodes_of(0) == wanted
        };
        for _ in 0..200 {
            if done(self) {
                return;
            }
            self.pass(Duration::from_millis(100));
        }
        panic!("{:?}: {}", self.leader.status(), self.record(0));
    }
}

fn led() -> World {
    let mut world = World::new().leading();
    world.write(5000);
    world.pass(Duration::from_secs(2));
    world
}

#[test]
fn a_member_is_replaced_and_commits_go_on() {
    let mut world = led();
    world.join(4);
    world.wish(&[1, 2, 4]);
    world.wait_for_members(&[1, 2, 4]);
    assert_eq!(world.nodes_of(3), [1, 2, 4], "the new one knows");
    assert_eq!(world.nodes_of(2), [1, 2, 4], "the old one knows that it is none any more");
    let before = world.promised;
    world.write(5000);
    world.pass(Duration::from_secs(1));
    assert!(world.promised > before);
    // Two of the new three are enough, and the old third is of no use.
    world.crash(1);
    let before = world.promised;
    world.write(5000);
    world.pass(Duration::from_secs(5));
    assert!(world.promised > before, "1 and 4 are a majority");
    world.crash(3);
    let before = world.promised;
    world.write(5000);
    world.pass(Duration::from_secs(5));
    assert_eq!(world.promised, before, "1 and 3 are none");
}

/// So many things happen; time passes where nothing else does.
fn steps(world: &mut World, count: usize) {
    for step in 0..count {
        if !world.step(step) {
            world.pass(Duration::from_millis(1));
        }
    }
}

#[test]
fn a_change_that_broke_off_is_finished_by_the_next_leader() {
    let mut world = led();
    world.join(4);
    world.wish(&[1, 2, 4]);
    for _ in 0..2000 {
        steps(&mut world, 1);
        if world.record(0).new_members.is_some() {
            break;
        }
    }
    assert!(world.record(0).new_members.is_some(), "a joint record is on the way");
    world.restart_leader();
    world.wait_for_members(&[1, 2, 4]);
}

#[test]
fn the_leader_may_die_at_any_step() {
    let mut changed = 0;
    for at in 0..60 {
        let mut world = led();
        world.join(4);
        world.wish(&[1, 2, 4]);
        steps(&mut world, at);
        world.restart_leader();
        world.write(500);
        world.pass(Duration::from_secs(5));
        let record = world.record(0);
        assert_eq!(world.leader.state(), State::Leading, "after {at} steps: {record}");
        assert!(record.new_members.is_none(), "after {at} steps: {record}");
        changed += usize::from(record.generation > 1);
        world.wish(&[1, 2, 4]);
        world.wait_for_members(&[1, 2, 4]);
        let before = world.promised;
        world.write(500);
        world.pass(Duration::from_secs(1));
        assert!(world.promised > before, "after {at} steps");
    }
    assert!(changed > 5 && changed < 60, "{changed} of 60 were past the point of no return");
}

#[test]
fn whoever_lags_behind_is_brought_the_record() {
    let mut world = led();
    world.join(4);
    world.crash(2);
    world.wish(&[1, 2, 4]);
    world.wait_for_members(&[1, 2, 4]);
    assert_eq!(world.nodes_of(3), [1, 2, 4]);
    world.nodes[2].start();
    assert_eq!(world.nodes_of(2), [1, 2, 3], "it slept");
    world.restart_leader();
    world.pass(Duration::from_secs(3));
    assert_eq!(world.nodes_of(2), [1, 2, 4], "and harms nothing when it wakes");
    assert_eq!(world.leader.state(), State::Leading);
}

#[test]
fn nothing_is_changed_for_a_learner_that_cannot_be_asked_or_a_set_that_was_changed() {
    let mut world = led();
    world.join(4);
    world.blind[3] = true;
    world.wish(&[1, 2, 4]);
    world.pass(Duration::from_secs(5));
    assert_eq!(world.record(0).generation, 1);
    world.blind[3] = false;
    world.wish(&[1, 2, 4]);
    world.wait_for_members(&[1, 2, 4]);
    let generation = world.record(0).generation;
    world.wish(&[1, 2, 4]);
    world.pass(Duration::from_secs(5));
    assert_eq!(world.record(0).generation, generation, "they are the members already");
    assert!(world.promised > Lsn::INVALID);
}

/// Whoever lacks the record may have the log that the look is refused for.
#[test]
fn a_record_is_passed_on_although_the_look_is_refused() {
    let mut world = led();
    let record = Membership::new(2, lsn::Term(1), (1..=3).map(member).collect(), None).unwrap();
    for node in &mut world.nodes[..2] {
        node.acceptor.as_mut().unwrap().handle_record(record.clone()).unwrap();
        node.carry_out();
    }
    world.primary.slot = None;
    world.restart_leader();
    world.pass(Duration::from_secs(1));
    assert_eq!(world.leader.state(), State::Refused, "{:?}", world.leader.status());
    assert_eq!(world.record(2), record);
}
