//! [`Quorum`]: a configuration and what is broken in it, as the checker wants it.

use crate::action::{Action, actions};
use crate::check::check;
use crate::config::Config;
use crate::mutant::Mutant;
use crate::play::Play;
use crate::progress::makes_progress;
use crate::property::{PROPERTIES, Property as Promise, Set};
use crate::world::World;
use stateright::{Checker, HasDiscoveries, Model, Property};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

/// A world with its rules.
#[derive(Clone, Debug)]
pub struct Quorum {
    /// What may happen.
    pub config: Config,
    /// What is broken.
    pub mutant: Mutant,
    /// Properties that are looked at: a broken rule trips several, and nothing goes on from a world in which one fails.
    pub watched: Set,
    /// When to stop looking.
    pub until: Option<Instant>,
}

/// What an exploration came to.
#[derive(Clone, Debug)]
pub struct Report {
    /// Different worlds seen, those that only differ in who is who counted once.
    pub states: usize,
    /// Steps taken between them.
    pub steps: usize,
    /// The longest way from the beginning.
    pub depth: usize,
    /// How long it took.
    pub time: Duration,
    /// Whether everything was seen.
    pub complete: bool,
    /// The property that failed, with the way there.
    pub failure: Option<(&'static str, Vec<String>)>,
}

impl Quorum {
    /// Nothing is broken, everything is watched.
    pub fn new(config: Config) -> Quorum {
        Quorum { config, mutant: Mutant::None, watched: Set::ALL, until: None }
    }

    /// With something broken, and only one property looked at.
    pub fn broken(config: Config, mutant: Mutant, watched: Promise) -> Quorum {
        Quorum { mutant, watched: Set::of(watched), ..Quorum::new(config) }
    }

    /// Explores it: depth first, which needs little memory, or breadth first, which finds short ways.
    pub fn explore(&self, breadth: bool, threads: usize, at_most: Option<Duration>) -> Report {
        let start = Instant::now();
        let until = at_most.map(|at_most| start + at_most);
        let quorum = Quorum { until, ..self.clone() };
        let builder = quorum.checker().threads(threads).finish_when(HasDiscoveries::AnyFailures);
        if breadth {
            summary(builder.spawn_bfs().join(), start, at_most)
        } else {
            summary(builder.spawn_dfs().join(), start, at_most)
        }
    }
}

fn summary(checker: impl Checker<Quorum>, start: Instant, at_most: Option<Duration>) -> Report {
    let time = start.elapsed();
    let failure = checker.discoveries().into_iter().next().map(|(name, path)| {
        let steps = path.into_actions().iter().map(|action| format!("{action:?}")).collect();
        (name, steps)
    });
    let complete = failure.is_none() && at_most.is_none_or(|at_most| time < at_most);
    Report {
        states: checker.unique_state_count(),
        steps: checker.state_count(),
        depth: checker.max_depth(),
        time,
        complete,
        failure,
    }
}

impl Model for Quorum {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        vec![World::new(&self.config, self.mutant)]
    }

    fn actions(&self, world: &World, out: &mut Vec<Action>) {
        if world.broken.is_empty() && self.until.is_none_or(|until| Instant::now() < until) {
            actions(&self.config, self.mutant, world, out);
        }
    }

    fn next_state(&self, world: &World, action: Action) -> Option<World> {
        let mut next = world.clone();
        let mut play = Play { config: &self.config, mutant: self.mutant, world: &mut next };
        match catch_unwind(AssertUnwindSafe(|| play.act(&action))) {
            Ok(true) => next.broken = check(&self.config, &next),
            Ok(false) => return None,
            Err(_) if self.watched.has(Promise::Sound) => next.broken.require(false, Promise::Sound),
            Err(_) => return None,
        }
        next.broken = next.broken.and(self.watched);
        next.settle_views(world);
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Quorum>> {
        macro_rules! always {
            ($($property:ident),*) => {
                vec![$(Property::always(name(Promise::$property), |_: &Quorum, world: &World| {
                    !world.broken.has(Promise::$property)
                })),*]
            };
        }
        let mut all = always![
            S1, S2, S3, S4, S5, S6, S7, S8, S9, S10, S11, S12, S13, S15, S16, S17, S18, S19, S25, S26, S27, S28, S29,
            S30, S31, S33, Sound
        ];
        if self.config.progress && self.watched.has(Promise::Progress) {
            all.push(Property::always(name(Promise::Progress), makes_progress));
        }
        all
    }
}

/// The name of a property.
pub fn name(property: Promise) -> &'static str {
    PROPERTIES.iter().find(|(known, _)| *known == property).map_or("", |(_, name)| name)
}
