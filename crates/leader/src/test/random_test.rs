//! Random schedules: whatever happens in whatever order, an answer is backed by a majority, and what was answered stays.

use super::harness::*;
use crate::*;
use proptest::prelude::*;
use std::time::Duration;

#[derive(Clone, Copy, Debug)]
enum Action {
    Step(usize),
    Write(u64),
    Pass(u64),
    Crash(usize),
    Start(usize),
    Freeze(usize),
    Thaw(usize),
    Lazy(usize, bool),
    Sync(usize),
    LosePrimary,
    RestartLeader,
    Blind(usize, bool),
    Pull(usize, usize),
}

fn action() -> impl Strategy<Value = Action> {
    let node = 0usize..3;
    prop_oneof![
        40 => (0usize..11).prop_map(Action::Step),
        6 => (1u64..20_000).prop_map(Action::Write),
        6 => (1u64..3000).prop_map(Action::Pass),
        1 => node.clone().prop_map(Action::Crash),
        3 => node.clone().prop_map(Action::Start),
        1 => node.clone().prop_map(Action::Freeze),
        2 => node.clone().prop_map(Action::Thaw),
        1 => (node.clone(), any::<bool>()).prop_map(|(node, lazy)| Action::Lazy(node, lazy)),
        3 => node.clone().prop_map(Action::Sync),
        1 => Just(Action::LosePrimary),
        1 => Just(Action::RestartLeader),
        1 => (node.clone(), any::<bool>()).prop_map(|(node, blind)| Action::Blind(node, blind)),
        1 => (node.clone(), node).prop_map(|(to, from)| Action::Pull(to, from)),
    ]
}

fn act(world: &mut World, action: Action) {
    match action {
        Action::Step(which) => {
            for count in 0..5 {
                world.step(which + count);
            }
        }
        Action::Write(bytes) => world.write(bytes),
        Action::Pass(millis) => {
            world.now += Duration::from_millis(millis);
            world.leader.handle_timeout(world.now);
        }
        Action::Crash(node) => world.crash(node),
        Action::Start(node) => {
            if world.nodes[node].acceptor.is_none() {
                world.nodes[node].start();
            }
        }
        Action::Freeze(node) => world.nodes[node].frozen = true,
        Action::Thaw(node) => world.nodes[node].frozen = false,
        Action::Lazy(node, lazy) => world.nodes[node].lazy = lazy,
        Action::Sync(node) => world.nodes[node].sync(),
        Action::LosePrimary => world.lose_primary(),
        Action::RestartLeader => world.restart_leader(),
        Action::Blind(node, blind) => world.blind[node] = blind,
        Action::Pull(to, from) => {
            world.pull(to, from);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    #[test]
    fn no_answer_without_a_majority_and_none_is_lost(
        actions in proptest::collection::vec(action(), 1..250), ring in 10_000u64..100_000, piece in 1u64..9000,
    ) {
        let mut world = World::with_ring(ring);
        world.piece = piece;
        for action in actions {
            act(&mut world, action);
        }
        let promised = world.promised;
        // Heal: everything must come back, and all of it must be there.
        for node in &mut world.nodes {
            (node.frozen, node.lazy) = (false, false);
            if node.acceptor.is_none() {
                node.start();
            }
            node.sync();
        }
        world.blind = vec![false; 3];
        for _ in 0..60 {
            world.pass(Duration::from_secs(2));
            if world.nodes.iter().all(|node| node.flush() == world.primary.end) && world.leader.state() == State::Leading {
                break;
            }
            for to in 0..3 {
                for from in 0..3 {
                    world.pull(to, from);
                }
            }
            world.pass(Duration::from_secs(2));
        }
        world.write(64);
        world.pass(Duration::from_secs(12));
        prop_assert_eq!(world.leader.state(), State::Leading, "{:?}", world.leader.status());
        prop_assert_eq!(world.primary.flushed, world.primary.end);
        prop_assert!(world.primary.flushed >= promised);
        for node in &world.nodes {
            prop_assert_eq!(node.flush().0, world.primary.end.0 / 8 * 8, "{:?}", world.leader.status());
            let bytes = world.primary.bytes(node.base, node.flush());
            prop_assert!(node.wal[..bytes.len()] == bytes[..]);
        }
    }
}
