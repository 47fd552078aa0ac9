//! [`World`]: safekeepers, proposers, servers, and what has happened so far that later things are held against.
//!
//! Two worlds in which safekeepers of one class, or proposers, have only changed places are the same world: the hash that the checker
//! tells worlds apart by is computed over what each safekeeper is and what each proposer knows of it, in an order that does not depend
//! on their numbers.

use crate::config::Config;
use crate::mutant::Mutant;
use crate::node::{Node, member};
use crate::property::Set;
use crate::proposer::Proposer;
use consensus::{Fault, Fence, Membership};
use lsn::{Lsn, Path, Term, Tli};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

/// A primary: a log on a path. Its log only grows; its path stays.
#[derive(Clone, PartialEq, Hash, Debug)]
pub(crate) struct Server {
    pub(crate) log: Vec<u8>,
    pub(crate) path: Path,
}

/// A term that was won.
#[derive(Clone, PartialEq, Hash, Debug)]
pub(crate) struct Won {
    pub(crate) start: Lsn,
    pub(crate) server: usize,
    pub(crate) path: Path,
}

/// What has happened.
#[derive(Clone, PartialEq, Hash, Debug)]
pub(crate) struct Past {
    /// All bytes that were ever called committed.
    pub(crate) committed: Vec<u8>,
    /// On which path they lie.
    pub(crate) committed_path: Path,
    /// By term, from 1.
    pub(crate) won: Vec<Option<Won>>,
    /// Records there are.
    pub(crate) records: Vec<Membership>,
    /// The fence that was made.
    pub(crate) fence: Option<Fence>,
    /// Disks that were emptied, and that forgot.
    pub(crate) losses: (usize, usize),
}

/// A state of everything.
#[derive(Clone, PartialEq, Debug)]
pub struct World {
    pub(crate) nodes: Vec<Arc<Node>>,
    pub(crate) proposers: Vec<Arc<Proposer>>,
    pub(crate) servers: Arc<Vec<Server>>,
    pub(crate) past: Arc<Past>,
    /// Properties that do not hold.
    pub(crate) broken: Set,
    identity: u64,
}

impl World {
    pub(crate) fn new(config: &Config, mutant: Mutant) -> World {
        let fault: Option<Fault> = mutant.rule();
        let all: Vec<usize> = (0..config.nodes).collect();
        let (old, new) = config.members.unwrap_or((&all, &all));
        let record = Membership::new(1, Term(0), old.iter().map(|node| member(*node)).collect(), None);
        let record = record.unwrap_or_else(|error| panic!("{} has no first record: {error}", config.name));
        let class = |node: &usize| u8::from(old.contains(node)) + 2 * u8::from(new.contains(node));
        let root = Path::root(Tli(1));
        let mut world = World {
            nodes: all.iter().map(|node| Arc::new(Node::new(*node, record.clone(), class(node), fault))).collect(),
            proposers: (0..config.proposers).map(|_| Arc::new(Proposer::idle(config.nodes, root.clone()))).collect(),
            servers: Arc::new(Vec::new()),
            past: Arc::new(Past {
                committed: Vec::new(),
                committed_path: root.clone(),
                won: vec![None; config.terms as usize],
                records: vec![record],
                fence: None,
                losses: (0, 0),
            }),
            broken: Set::default(),
            identity: 0,
        };
        if config.servers > 0 {
            world.servers = Arc::new(vec![Server { log: Vec::new(), path: root }]);
        }
        for at in 0..config.nodes {
            world.node(at).brief = config.brief;
            world.node(at).review();
        }
        world.identify();
        world
    }

    pub(crate) fn node(&mut self, at: usize) -> &mut Node {
        Arc::make_mut(&mut self.nodes[at])
    }

    pub(crate) fn proposer(&mut self, at: usize) -> &mut Proposer {
        Arc::make_mut(&mut self.proposers[at])
    }

    pub(crate) fn past(&mut self) -> &mut Past {
        Arc::make_mut(&mut self.past)
    }

    /// Which safekeeper has this number.
    pub(crate) fn index_of(&self, number: lsn::NodeId) -> usize {
        self.nodes.iter().position(|node| node.number() == number).unwrap_or(usize::MAX)
    }

    /// The log a proposer leads or campaigns with.
    pub(crate) fn log_of(&self, proposer: &Proposer) -> Vec<u8> {
        match self.servers.get(proposer.server) {
            Some(server) if !proposer.completes => server.log.clone(),
            _ => proposer.log.clone(),
        }
    }

    /// Computes anew what changed since `before`, and what this world is known by.
    pub(crate) fn settle_views(&mut self, before: &World) {
        for at in 0..self.nodes.len() {
            if !Arc::ptr_eq(&self.nodes[at], &before.nodes[at]) {
                self.node(at).review();
            }
        }
        for at in 0..self.proposers.len() {
            if !Arc::ptr_eq(&self.proposers[at], &before.proposers[at]) {
                self.proposer(at).review();
            }
        }
        self.identify();
    }

    fn identify(&mut self) {
        let mut rest = DefaultHasher::new();
        (&*self.servers, &*self.past, self.broken).hash(&mut rest);
        let rest = rest.finish();
        let forward = self.identity_by(0, rest);
        self.identity = if self.proposers.len() == 2 { forward.min(self.identity_by(1, rest)) } else { forward };
    }

    /// As seen with the proposers in order, or the other way round.
    fn identity_by(&self, order: usize, rest: u64) -> u64 {
        let proposers: Vec<&Proposer> = match order {
            0 => self.proposers.iter().map(|proposer| &**proposer).collect(),
            _ => self.proposers.iter().rev().map(|proposer| &**proposer).collect(),
        };
        let column = |(at, node): (usize, &Arc<Node>)| {
            let mut hasher = DefaultHasher::new();
            node.view[order].hash(&mut hasher);
            proposers.iter().for_each(|proposer| proposer.columns[at].hash(&mut hasher));
            hasher.finish()
        };
        let mut columns: Vec<u64> = self.nodes.iter().enumerate().map(column).collect();
        columns.sort_unstable();
        let mut hasher = DefaultHasher::new();
        (columns, rest).hash(&mut hasher);
        proposers.iter().for_each(|proposer| proposer.whole.hash(&mut hasher));
        hasher.finish()
    }
}

impl Hash for World {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        hasher.write_u64(self.identity);
    }
}
