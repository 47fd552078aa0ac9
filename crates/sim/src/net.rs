//! [`Net`]: connections between hosts, as TCP makes them.
//!
//! What is sent on a connection arrives in order, once, or not at all; how long it takes is drawn. A link can be blocked in one
//! direction: then bytes wait, as TCP repeats them, until the block ends or an end gives the connection up. A connection that is
//! reset loses what was on its way, from some byte on. Knows nothing of what is sent.

use crate::chance::Chance;
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// A machine: safekeepers from 0 on, then [`Net::PROPOSERS`], then [`Net::READERS`].
pub(crate) type Host = usize;

/// Which way on a connection.
pub(crate) const TO_SERVER: usize = 0;
pub(crate) const TO_CLIENT: usize = 1;

/// What arrives.
#[derive(Clone, Debug)]
pub(crate) enum Packet {
    Bytes(Bytes),
    /// The other end is gone.
    Closed(String),
}

#[derive(Debug, Default)]
pub(crate) struct Pipe {
    pub(crate) queue: VecDeque<(u64, Packet)>,
    pub(crate) bytes: usize,
    pub(crate) pumping: bool,
}

/// Who opened a connection, and what for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Purpose {
    /// A proposer pushes.
    Push { proposer: usize, peer: usize, epoch: u64 },
    /// A proposer reads a donor's log.
    Donor { proposer: usize, id: u64 },
    /// A safekeeper pulls from another.
    Pull { node: usize, epoch: u64 },
    /// A standby, or somebody who stores WAL.
    Reader { reader: usize, epoch: u64 },
}

#[derive(Debug)]
pub(crate) struct Conn {
    pub(crate) client: Host,
    pub(crate) server: Host,
    pub(crate) purpose: Purpose,
    /// The safekeeper's process, and its number for this session.
    pub(crate) server_epoch: u64,
    pub(crate) session: u64,
    /// Whether the client's and the server's end are in use.
    pub(crate) open: [bool; 2],
    pub(crate) pipes: [Pipe; 2],
}

/// All links and connections.
#[derive(Debug, Default)]
pub(crate) struct Net {
    pub(crate) conns: BTreeMap<u64, Conn>,
    pub(crate) blocked: BTreeSet<(Host, Host)>,
    /// Longest time on a link, in microseconds, where it is not the usual.
    pub(crate) slow: BTreeMap<(Host, Host), u64>,
    next: u64,
}

/// The usual longest time on a link, in microseconds.
const LATENCY: u64 = 1500;
/// A connection whose pipe holds so much takes no more from whoever fills it.
pub(crate) const PIPE_BYTES: usize = 192 << 10;

impl Net {
    /// First proposer.
    pub(crate) const PROPOSERS: Host = 16;
    /// First reader.
    pub(crate) const READERS: Host = 48;

    pub(crate) fn is_blocked(&self, from: Host, to: Host) -> bool {
        self.blocked.contains(&(from, to))
    }

    /// How long something takes, in microseconds.
    pub(crate) fn latency(&self, chance: &mut Chance, from: Host, to: Host) -> u64 {
        chance.range(20, self.slow.get(&(from, to)).copied().unwrap_or(LATENCY))
    }

    pub(crate) fn add(&mut self, client: Host, server: Host, purpose: Purpose, server_epoch: u64, session: u64) -> u64 {
        self.next += 1;
        let pipes = [Pipe::default(), Pipe::default()];
        let conn = Conn { client, server, purpose, server_epoch, session, open: [true; 2], pipes };
        self.conns.insert(self.next, conn);
        self.next
    }

    /// Bytes on their way.
    pub(crate) fn queued(&self, id: u64, way: usize) -> usize {
        self.conns.get(&id).map_or(0, |conn| conn.pipes[way].bytes)
    }

    /// Puts something on its way. Returns when it has to be looked after, if nobody does.
    pub(crate) fn send(&mut self, now: u64, chance: &mut Chance, id: u64, way: usize, packet: Packet) -> Option<u64> {
        let (from, to) = self.conns.get(&id).map(|conn| conn.ends(way))?;
        let latency = self.latency(chance, from, to);
        let pipe = &mut self.conns.get_mut(&id)?.pipes[way];
        let at = pipe.queue.back().map_or(0, |(at, _)| *at).max(now + latency);
        if let Packet::Bytes(bytes) = &packet {
            pipe.bytes += bytes.len();
        }
        pipe.queue.push_back((at, packet));
        (!std::mem::replace(&mut pipe.pumping, true)).then_some(at)
    }

    /// Connections with this host that are not wholly closed.
    pub(crate) fn of_host(&self, host: Host) -> Vec<u64> {
        self.conns.iter().filter(|(_, conn)| conn.client == host || conn.server == host).map(|(id, _)| *id).collect()
    }
}

impl Conn {
    /// Who sends and who receives on this way.
    pub(crate) fn ends(&self, way: usize) -> (Host, Host) {
        if way == TO_SERVER { (self.client, self.server) } else { (self.server, self.client) }
    }

    /// Loses what is on its way, from some packet on.
    pub(crate) fn lose(&mut self, chance: &mut Chance, way: usize) {
        let pipe = &mut self.pipes[way];
        let keep = chance.below(pipe.queue.len() as u64 + 1) as usize;
        pipe.queue.truncate(keep);
        let length = |packet: &Packet| if let Packet::Bytes(bytes) = packet { bytes.len() } else { 0 };
        pipe.bytes = pipe.queue.iter().map(|(_, packet)| length(packet)).sum();
    }
}
