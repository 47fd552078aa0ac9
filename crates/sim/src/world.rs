//! [`World`]: everything there is, a virtual clock, and the queue of what happens next.
//!
//! An action is a closure that is due at a moment. Actions due at the same moment happen in the order they were planned, so a run
//! depends on its seed alone.

use crate::chance::Chance;
use crate::coverage::Coverage;
use crate::net::{Net, Packet, TO_SERVER};
use crate::oracle::Oracle;
use crate::plan::Plan;
use crate::proposer::Proposer;
use crate::reading::ReadClient;
use crate::safekeeper::Node;
use crate::server::{FIRST, Server};
use crate::trace::Trace;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

type Action = Box<dyn FnOnce(&mut World)>;

/// Milliseconds in microseconds.
pub(crate) const MS: u64 = 1000;
/// Seconds in microseconds.
pub(crate) const SECOND: u64 = 1_000_000;

pub(crate) struct World {
    /// Microseconds since the beginning.
    pub(crate) now: u64,
    base: Instant,
    pub(crate) chance: Chance,
    queue: BTreeMap<(u64, u64), Action>,
    planned: u64,
    pub(crate) nodes: Vec<Node>,
    pub(crate) servers: Vec<Server>,
    pub(crate) proposers: Vec<Proposer>,
    /// By connection.
    pub(crate) reading: BTreeMap<u64, ReadClient>,
    pub(crate) net: Net,
    pub(crate) oracle: Oracle,
    pub(crate) coverage: Coverage,
    pub(crate) trace: Trace,
    pub(crate) plan: Plan,
    /// The faults are over.
    pub(crate) calm: bool,
    /// Servers that were let go on after the faults, and refused for WAL they lack.
    pub(crate) unfit: Vec<usize>,
    pub(crate) actions: u64,
    /// The last term won for each server.
    pub(crate) wins: BTreeMap<usize, u64>,
}

/// Notes a line in the trace.
macro_rules! note {
    ($world:expr, $($what:tt)*) => {{
        let now = $world.now;
        $world.trace.note(now, format_args!($($what)*));
    }};
}
pub(crate) use note;

impl World {
    pub(crate) fn new(plan: Plan, keeps_trace: bool) -> World {
        let mut chance = Chance::new(plan.seed);
        let server = Server::new(&mut chance);
        World {
            now: 0,
            base: Instant::now(),
            chance,
            queue: BTreeMap::new(),
            planned: 0,
            nodes: Vec::new(),
            servers: vec![server],
            proposers: Vec::new(),
            reading: BTreeMap::new(),
            net: Net::default(),
            oracle: Oracle::new(FIRST),
            coverage: Coverage::default(),
            trace: Trace::new(keeps_trace),
            plan,
            calm: false,
            unfit: Vec::new(),
            actions: 0,
            wins: BTreeMap::new(),
        }
    }

    /// The moment, as the state machines are told it.
    pub(crate) fn instant(&self) -> Instant {
        self.base + Duration::from_micros(self.now)
    }

    /// A moment of theirs in microseconds, never before now.
    pub(crate) fn micros(&self, at: Instant) -> u64 {
        let micros = at.saturating_duration_since(self.base).as_nanos().div_ceil(1000);
        u64::try_from(micros).unwrap_or(u64::MAX).max(self.now)
    }

    /// Plans an action.
    pub(crate) fn at(&mut self, at: u64, action: impl FnOnce(&mut World) + 'static) {
        self.planned += 1;
        self.queue.insert((at.max(self.now), self.planned), Box::new(action));
    }

    pub(crate) fn after(&mut self, micros: u64, action: impl FnOnce(&mut World) + 'static) {
        self.at(self.now.saturating_add(micros), action);
    }

    /// Lets things happen until a moment, or until something is found wrong.
    pub(crate) fn run_until(&mut self, until: u64) {
        while let Some(entry) = self.queue.first_entry() {
            if entry.key().0 > until || self.oracle.violation().is_some() {
                break;
            }
            let ((at, _), action) = entry.remove_entry();
            self.now = at;
            self.actions += 1;
            action(self);
        }
        self.now = self.now.max(until);
    }

    /// Sends on a connection.
    pub(crate) fn send(&mut self, conn: u64, way: usize, packet: Packet) {
        if let Some(at) = self.net.send(self.now, &mut self.chance, conn, way, packet) {
            self.at(at, move |world| world.pump(conn, way));
        }
    }

    /// Delivers what is due on one way of a connection.
    fn pump(&mut self, id: u64, way: usize) {
        loop {
            let Some(conn) = self.net.conns.get(&id) else { return };
            let (from, to) = conn.ends(way);
            let Some((at, packet)) = conn.pipes[way].queue.front() else {
                if let Some(conn) = self.net.conns.get_mut(&id) {
                    conn.pipes[way].pumping = false;
                }
                return self.after_room(id, way);
            };
            let closing = matches!(packet, Packet::Closed(_));
            let later = if *at > self.now {
                Some(*at)
            } else if self.net.is_blocked(from, to) {
                Some(self.now + 200 * MS)
            } else if !closing && self.is_held(id, way) {
                Some(self.now + MS)
            } else {
                None
            };
            if let Some(later) = later {
                return self.at(later, move |world| world.pump(id, way));
            }
            let Some(conn) = self.net.conns.get_mut(&id) else { return };
            let Some((_, packet)) = conn.pipes[way].queue.pop_front() else { return };
            if let Packet::Bytes(bytes) = &packet {
                conn.pipes[way].bytes -= bytes.len();
            }
            let receiver = if way == TO_SERVER { 1 } else { 0 };
            if conn.open[receiver] {
                match packet {
                    Packet::Bytes(bytes) if way == TO_SERVER => self.arrives_at_node(id, bytes),
                    Packet::Bytes(bytes) => self.arrives_at_client(id, bytes),
                    Packet::Closed(reason) => self.end_closed(id, receiver, reason),
                }
            }
        }
    }

    /// Whether the receiver takes nothing for now.
    fn is_held(&self, id: u64, way: usize) -> bool {
        if way == TO_SERVER { self.node_is_held(id) } else { self.client_is_held(id) }
    }

    /// A pipe has run empty: whoever fills it may have more.
    fn after_room(&mut self, id: u64, way: usize) {
        if way == TO_SERVER {
            self.transmit_on(id);
        }
    }

    /// One end closes: the other learns of it behind what was sent before.
    pub(crate) fn close(&mut self, id: u64, end: usize, reason: &str) {
        let Some(conn) = self.net.conns.get_mut(&id) else { return };
        if !std::mem::replace(&mut conn.open[end], false) {
            return;
        }
        self.reading.remove(&id);
        let way = if end == 0 { TO_SERVER } else { 1 - TO_SERVER };
        let other = conn.open[1 - end];
        if other {
            self.send(id, way, Packet::Closed(reason.to_owned()));
        } else {
            self.net.conns.remove(&id);
        }
    }

    /// One end learns that the other is gone.
    fn end_closed(&mut self, id: u64, end: usize, reason: String) {
        let Some(conn) = self.net.conns.get_mut(&id) else { return };
        conn.open[end] = false;
        let other = conn.open[1 - end];
        if end == 1 {
            self.node_lost(id)
        } else {
            self.client_lost(id, &reason)
        }
        if !other {
            self.net.conns.remove(&id);
        }
    }

    /// A connection is reset on the way: both ends learn of it, and what was on its way is lost from somewhere on.
    pub(crate) fn reset(&mut self, id: u64) {
        let Some(conn) = self.net.conns.get_mut(&id) else { return };
        for way in 0..2 {
            conn.lose(&mut self.chance, way);
        }
        for way in 0..2 {
            self.send(id, way, Packet::Closed("connection reset".to_owned()));
        }
    }

    /// A process is gone. With its machine, nobody says so for a while.
    pub(crate) fn host_gone(&mut self, host: usize, with_machine: bool) {
        for id in self.net.of_host(host) {
            let Some(conn) = self.net.conns.get_mut(&id) else { continue };
            let end = usize::from(conn.server == host);
            if !std::mem::replace(&mut conn.open[end], false) {
                continue;
            }
            self.reading.remove(&id);
            let (way, other) = if end == 0 { (TO_SERVER, 1) } else { (1 - TO_SERVER, 0) };
            conn.lose(&mut self.chance, way);
            if !conn.open[other] {
                self.net.conns.remove(&id);
            } else if with_machine {
                let silence = self.chance.range(100 * MS, 20 * SECOND);
                self.after(silence, move |world| {
                    world.send(id, way, Packet::Closed("connection timed out".to_owned()))
                });
            } else {
                self.send(id, way, Packet::Closed("connection reset by peer".to_owned()));
            }
        }
    }

    /// A question to a safekeeper and its answer, over a connection of its own: `serve` runs there if it is reached, `done` gets
    /// what came of it, within a few seconds whatever happens.
    pub(crate) fn ask<T: 'static>(
        &mut self,
        from: usize,
        node: usize,
        serve: impl FnOnce(&mut World) -> Result<T, String> + 'static,
        done: impl FnOnce(&mut World, Result<T, String>) + 'static,
    ) {
        const PATIENCE: u64 = 3 * SECOND;
        let there = self.net.latency(&mut self.chance, from, node);
        let began = self.now;
        self.after(there, move |world| {
            let late = began + PATIENCE;
            if world.net.is_blocked(from, node) {
                return world.at(late, move |world| done(world, Err("no answer".to_owned())));
            }
            let answer = match world.nodes.get(node).is_some_and(|node| node.is_up()) {
                true => serve(world),
                false => Err("connection refused".to_owned()),
            };
            let back = world.net.latency(&mut world.chance, node, from);
            world.after(back, move |world| {
                if world.net.is_blocked(node, from) {
                    return world.at(late, move |world| done(world, Err("no answer".to_owned())));
                }
                done(world, answer);
            });
        });
    }
}
