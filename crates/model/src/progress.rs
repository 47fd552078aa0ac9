//! Liveness, as far as an exhaustive checker of states can see it: from every world, with any one safekeeper gone for good and
//! everybody else left in peace, a proposer gets a new byte committed by everybody who is left.
//!
//! That is stronger than that something good happens some day: it names who does it, and in how many steps.

use crate::action::Action;
use crate::config::Config;
use crate::play::Play;
use crate::proposer::Role;
use crate::quorum::Quorum;
use crate::world::World;
use consensus::Standing;

/// Rounds within which a leader must have everything committed everywhere.
const ROUNDS: usize = 12;

/// Whether every majority that is left alone commits.
pub(crate) fn makes_progress(quorum: &Quorum, world: &World) -> bool {
    if !world.broken.is_empty() {
        return true;
    }
    let absent = (0..world.nodes.len()).map(Some).chain([None]);
    absent.into_iter().all(|absent| {
        let lost = |at: usize| world.nodes[at].acceptor.standing() != Standing::Member;
        // Who is not whole is not up in the sense of the promise.
        let others = (0..world.nodes.len()).filter(|at| Some(*at) != absent && !lost(*at));
        let up: Vec<usize> = others.collect();
        2 * up.len() <= world.nodes.len() || recovers(quorum, world, &up)
    })
}

/// Whether these, left alone, commit.
fn recovers(quorum: &Quorum, world: &World, up: &[usize]) -> bool {
    let config =
        Config { log: quorum.config.log + 2, disks: false, messages: false, brief: false, ..quorum.config.clone() };
    let servers = 0..world.servers.len().max(1);
    servers.into_iter().any(|server| {
        let mut calm = world.clone();
        let mut play = Play { config: &config, mutant: quorum.mutant, world: &mut calm };
        leads(&mut play, server, up)
    })
}

fn leads(play: &mut Play<'_>, server: usize, up: &[usize]) -> bool {
    for proposer in 0..play.world.proposers.len() {
        play.retire(proposer);
    }
    for at in up {
        let number = *at;
        play.act(&Action::Crash { node: number });
    }
    let record = play.world.past.records.len() - 1;
    let term = play.next_term().0;
    let (proposer, crash) = (0, None);
    let voters = up.iter().fold(0, |voters, at| voters | 1 << at);
    play.act(&Action::Start { proposer, term, server, record, completes: false, voters });
    if !matches!(play.world.proposers[0].role, Role::Leading(_)) {
        return false;
    }
    for &node in up {
        play.act(&Action::Elect { proposer, node, crash });
    }
    let before = play.world.past.committed.len();
    if let Some(of) = play.world.servers.get(server) {
        let missing = play.config.log.saturating_sub(of.log.len());
        for _ in 0..missing {
            play.act(&Action::Write { server });
        }
    }
    for _ in 0..ROUNDS {
        for &node in up {
            let of = &play.world.proposers[0];
            let behind = of.links[node].sent.is_some_and(|sent| sent < play.config.log);
            if behind {
                play.act(&Action::Append { proposer, node, crash });
            } else {
                play.act(&Action::Beat { proposer, node });
            }
        }
        let end = crate::disk::position(play.config.log);
        let all = up.iter().all(|at| play.world.nodes[*at].acceptor.commit() == end);
        if all && play.world.past.committed.len() == play.config.log && play.config.log > before {
            return true;
        }
    }
    false
}
