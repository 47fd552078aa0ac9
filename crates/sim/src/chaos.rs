//! What goes wrong, and what operators do, while a run has its faults.

use crate::net::Net;
use crate::plan::{Kind, Standby};
use crate::proposer::Proposer;
use crate::safekeeper::{Node, dir};
use crate::server::{Role, SEGMENT, segment_size};
use crate::world::{MS, SECOND, World, note};
use consensus::{Member, Membership};
use disk::Op;
use lsn::{DiskId, Lsn};
use quorum_proto::Wish;
use std::io::ErrorKind;

/// Most data directories there may be.
const SERVERS_MAX: usize = 6;
/// Most proposers there may be.
const PROPOSERS_MAX: usize = 9;

impl World {
    /// The next fault, and the one after it.
    pub(crate) fn chaos(&mut self) {
        if self.calm {
            return;
        }
        let kinds: Vec<Kind> = self.plan.kinds.iter().copied().collect();
        if let Some(kind) = self.chance.pick(&kinds) {
            self.fault(kind);
        }
        let pause = self.chance.range(10 * MS, self.plan.pause);
        self.after(pause, World::chaos);
    }

    fn any_node(&mut self) -> usize {
        self.chance.below(self.nodes.len() as u64) as usize
    }

    fn any_primary(&mut self) -> Option<usize> {
        let up: Vec<usize> = (0..self.servers.len()).filter(|s| self.servers[*s].role == Role::Primary).collect();
        self.chance.pick(&up)
    }

    fn fault(&mut self, kind: Kind) {
        let n = self.any_node();
        let until = self.now + self.chance.range(100 * MS, 25 * SECOND);
        match kind {
            Kind::KillSafekeeper if self.nodes[n].is_up() => {
                note!(self, "k{n} is killed");
                self.coverage.count("fault: safekeeper killed");
                self.stop_node(n, false);
                self.start_later(n);
            }
            Kind::PowerCut if self.nodes[n].is_up() => {
                note!(self, "k{n} loses power");
                self.coverage.count("fault: power cut");
                self.stop_node(n, true);
                self.start_later(n);
            }
            Kind::PowerCutMidway if self.nodes[n].is_up() => {
                note!(self, "k{n} is about to lose power");
                self.coverage.count("fault: power cut after some operations");
                self.nodes[n].doomed = true;
                let changes = self.chance.below(8);
                self.nodes[n].disk.power_cut_after(changes);
                let epoch = self.nodes[n].epoch;
                self.after(10 * SECOND, move |world| {
                    if world.nodes[n].epoch == epoch {
                        world.stop_node(n, true);
                        world.start_later(n);
                    }
                });
            }
            Kind::PowerCutAll => {
                note!(self, "everybody loses power");
                self.coverage.count("fault: power cut everywhere");
                for n in 0..self.nodes.len() {
                    self.stop_node(n, true);
                    self.start_later(n);
                }
            }
            Kind::DiskError if self.nodes[n].is_up() => {
                let ops = [Op::Write, Op::Read, Op::Rename, Op::SyncDirectory, Op::Create, Op::Open, Op::Remove];
                let (op, nth) = (self.chance.pick(&ops).unwrap_or(Op::Write), self.chance.below(10));
                note!(self, "k{n}: {op:?} will fail");
                self.coverage.count("fault: disk error");
                self.nodes[n].disk.fail(op, nth, ErrorKind::Other);
            }
            Kind::FailedSync if self.nodes[n].is_up() => {
                note!(self, "k{n}: a sync will fail");
                self.coverage.count("fault: failed sync");
                let nth = self.chance.below(4);
                self.nodes[n].disk.fail(Op::Sync, nth, ErrorKind::Other);
            }
            Kind::DiskFull => {
                let room = self.chance.below(SEGMENT);
                note!(self, "k{n}: the disk is full but for {room} bytes");
                self.coverage.count("fault: full disk");
                self.nodes[n].disk.set_free_space(Some(room));
                self.at(until, move |world| world.nodes[n].disk.set_free_space(None));
            }
            Kind::Rot => self.rot(),
            Kind::EmptyDisk => self.empty_disk(),
            Kind::SlowDisk => {
                self.coverage.count("fault: slow disk");
                self.nodes[n].job_micros = self.chance.range(5 * MS, 2 * SECOND);
                self.at(until, move |world| world.nodes[n].job_micros = 2 * MS);
            }
            Kind::Stall => {
                note!(self, "k{n} stalls");
                self.coverage.count("fault: stalled process");
                self.nodes[n].stalled_until = until;
            }
            Kind::Reset => {
                let conns: Vec<u64> = self.net.conns.keys().copied().collect();
                if let Some(conn) = self.chance.pick(&conns) {
                    self.coverage.count("fault: connection reset");
                    self.reset(conn);
                }
            }
            Kind::OneWay | Kind::Isolate => self.partition(kind, n, until),
            Kind::SlowLink => {
                let other = Net::PROPOSERS + self.chance.below(self.proposers.len() as u64) as usize;
                let slow = self.chance.range(10 * MS, 3 * SECOND);
                self.coverage.count("fault: slow link");
                for link in [(n, other), (other, n)] {
                    self.net.slow.insert(link, slow);
                    self.at(until, move |world| {
                        world.net.slow.remove(&link);
                    });
                }
            }
            Kind::KillProposer => {
                let p = self.chance.below(self.proposers.len() as u64) as usize;
                self.coverage.count("fault: proposer killed");
                let with_machine = self.chance.one_in(2);
                self.stop_proposer(p, with_machine);
                let later = self.chance.range(10 * MS, 5 * SECOND);
                self.after(later, move |world| world.start_proposer(p));
            }
            Kind::SecondProposer => {
                if let Some(s) = self.any_primary() {
                    self.coverage.count("fault: another proposer for a primary");
                    let takeover = self.chance.one_in(3);
                    self.new_proposer(s, takeover);
                }
            }
            Kind::MoveConninfo => {
                let p = self.chance.below(self.proposers.len() as u64) as usize;
                if let Some(s) = self.any_primary().filter(|s| *s != self.proposers[p].server) {
                    note!(self, "p{p}: its conninfo leads to s{s} now");
                    self.coverage.count("fault: a conninfo leads elsewhere");
                    let from = std::mem::replace(&mut self.proposers[p].server, s);
                    self.primary_gone(from, 20 * MS);
                }
            }
            Kind::CrashPrimary => {
                if let Some(s) = self.any_primary() {
                    self.crash_primary(s);
                }
            }
            Kind::LosePrimaryConnection => {
                if let Some(s) = self.any_primary() {
                    self.coverage.count("fault: connection to a primary lost");
                    let longest = self.chance.range(5 * MS, 12 * SECOND);
                    self.primary_gone(s, longest);
                }
            }
            Kind::PromoteFromQuorum | Kind::PromoteDirect => self.promote(kind),
            Kind::Clone => self.clone_server(),
            Kind::Members => self.change_members(),
            Kind::Readers => self.add_reader(),
            _ => {}
        }
    }

    fn partition(&mut self, kind: Kind, n: usize, until: u64) {
        let all: Vec<usize> =
            (0..self.nodes.len()).chain((0..self.proposers.len()).map(|p| Net::PROPOSERS + p)).collect();
        let links: Vec<(usize, usize)> = if kind == Kind::Isolate {
            self.coverage.count("fault: host cut off");
            all.iter().filter(|other| **other != n).flat_map(|other| [(n, *other), (*other, n)]).collect()
        } else {
            self.coverage.count("fault: one-way partition");
            let (Some(from), Some(to)) = (self.chance.pick(&all), self.chance.pick(&all)) else { return };
            vec![(from, to)]
        };
        note!(self, "blocked: {links:?}");
        self.net.blocked.extend(links.iter().copied());
        self.at(until, move |world| world.net.blocked.retain(|link| !links.contains(link)));
    }

    /// A bit of the fragile disk flips, in WAL that was durable for a while.
    fn rot(&mut self) {
        let n = self.plan.fragile;
        let Some(state) = self.state_on_disk(n).filter(|state| state.floor > state.log_start) else { return };
        let begin =
            if self.chance.one_in(2) { segment_size().start_of_segment_at(state.floor) } else { state.log_start };
        let at = Lsn(self.chance.range(begin.0.max(state.log_start.0), state.floor.0));
        let Some(path) = state.path.filter(|_| at < state.floor) else { return };
        let file = segment_size().file_name(path.tli_at(at), segment_size().segment_of(at));
        let place = dir().join(file);
        if self.nodes[n].disk.rot(&place, segment_size().offset_of(at)).is_ok() {
            note!(self, "k{n}: the byte at {at} rots");
            self.coverage.count("fault: rot");
            self.nodes[n].excused = true;
        }
    }

    /// The fragile disk is replaced by an empty one.
    fn empty_disk(&mut self) {
        let n = self.plan.fragile;
        note!(self, "k{n}: its disk is replaced by an empty one");
        self.coverage.count("fault: emptied disk");
        self.stop_node(n, true);
        let (fresh, old) = (Node::new(n), &self.nodes[n]);
        let mut disk = old.identity.disk;
        disk.0[0] ^= 0x80;
        disk.0[1] = disk.0[1].wrapping_add(1);
        let mut node = fresh;
        node.epoch = old.epoch;
        self.nodes[n] = node;
        self.nodes[n].identity.disk = disk;
        self.start_later(n);
    }

    fn new_proposer(&mut self, s: usize, takeover: bool) {
        if self.proposers.len() < PROPOSERS_MAX {
            self.proposers.push(Proposer::new(s, takeover));
            self.start_proposer(self.proposers.len() - 1);
        }
    }

    /// A primary crashes, and is started again some time later: as a primary, or never.
    pub(crate) fn crash_primary(&mut self, s: usize) {
        self.coverage.count("fault: primary crashed");
        let kept = self.servers[s].crash(&mut self.chance);
        note!(self, "s{s} crashes, {kept} is on its disk");
        let longest = if self.chance.one_in(4) { 11 * SECOND } else { 20 * MS };
        self.primary_gone(s, longest);
        let later = self.chance.range(20 * MS, 4 * SECOND);
        let promotes = self.plan.kinds.contains(&Kind::PromoteDirect) && self.chance.one_in(4);
        self.after(later, move |world| {
            if world.servers[s].role != Role::Down {
                return;
            }
            if world.servers[s].recover(kept, !promotes) {
                world.coverage.count("a record overwritten after a crash");
            }
            if promotes {
                world.coverage.count("a crashed primary started as a standby and promoted");
                world.servers[s].promote(&mut world.chance);
                world.permit(s);
            } else {
                world.servers[s].start(&mut world.chance);
            }
            note!(world, "s{s} is up on TLI {} at {}", world.servers[s].tli, world.servers[s].flush);
        });
    }

    /// A server that is down is started as the primary it was.
    pub(crate) fn restart_server(&mut self, s: usize) {
        let flush = self.servers[s].flush;
        self.servers[s].recover(flush, true);
        self.servers[s].start(&mut self.chance);
    }

    /// Somebody permits a server to take over: its proposers are started with the permission.
    fn permit(&mut self, s: usize) {
        for p in 0..self.proposers.len() {
            if self.proposers[p].server == s && !self.proposers[p].takeover {
                self.stop_proposer(p, false);
                self.proposers[p].takeover = true;
                self.after(10 * MS, move |world| world.start_proposer(p));
            }
        }
    }

    /// A standby is promoted: one that has what is committed, or one that has more because it followed a primary directly.
    fn promote(&mut self, kind: Kind) {
        if self.servers.len() >= SERVERS_MAX {
            return;
        }
        let Some(s) = (0..self.servers.len()).max_by_key(|s| self.wins_of(*s)) else { return };
        let flush = self.servers[s].flush;
        let at = if kind == Kind::PromoteDirect {
            self.coverage.count("fault: a direct standby promoted");
            Lsn(flush.0 - self.chance.below(flush.bytes_since(self.oracle.committed()).min(5000) + 1))
        } else {
            self.coverage.count("fault: a standby of the quorum promoted");
            // It may lag.
            let lag = if self.chance.one_in(3) { self.chance.below(20_000) } else { 0 };
            Lsn(self.oracle.committed().0.saturating_sub(lag)).min(flush)
        };
        if self.servers[s].record_end(at) <= crate::server::FIRST {
            return;
        }
        let has_it = self.servers[s].role != Role::Down
            && self.oracle.agrees(crate::server::FIRST, self.servers[s].bytes(crate::server::FIRST, at)).is_ok();
        if !has_it {
            return;
        }
        let with_slot = self.chance.one_in(2);
        let mut copy = self.servers[s].copy(at, with_slot);
        copy.promote(&mut self.chance);
        self.servers.push(copy);
        let new = self.servers.len() - 1;
        note!(self, "s{new}, a standby of s{s} at {at}, is promoted to TLI {}", self.servers[new].tli);
        let permitted = !self.chance.one_in(5);
        self.new_proposer(new, permitted);
        // Its old primary is stopped, goes on, or is stopped later.
        match self.chance.below(3) {
            0 => self.retire(s),
            1 => {
                let later = self.chance.range(10 * MS, 10 * SECOND);
                self.after(later, move |world| world.retire(s));
            }
            _ => {}
        }
    }

    /// A server is stopped and its writers sent elsewhere; it is never taken away, because it may have the only whole copy.
    fn retire(&mut self, s: usize) {
        if self.servers[s].role == Role::Primary && self.wins_of(s) < self.best_wins() {
            note!(self, "s{s} is stopped");
            self.servers[s].role = Role::Down;
            self.servers[s].run += 1;
            self.primary_gone(s, 20 * MS);
        }
    }

    /// The last term won for a server.
    pub(crate) fn wins_of(&self, s: usize) -> u64 {
        self.wins.get(&s).copied().unwrap_or(0)
    }

    fn best_wins(&self) -> u64 {
        self.wins.values().copied().max().unwrap_or(0)
    }

    /// A copy of a data directory is started as it is: a second primary on the same TLI.
    fn clone_server(&mut self) {
        let Some(s) = self.any_primary().filter(|_| self.servers.len() < SERVERS_MAX) else { return };
        self.coverage.count("fault: a copy of a data directory started");
        let with_slot = self.chance.one_in(2);
        let mut copy = self.servers[s].copy(self.servers[s].flush, with_slot);
        copy.start(&mut self.chance);
        self.servers.push(copy);
        let new = self.servers.len() - 1;
        note!(self, "s{new} is a copy of s{s}, {} slot", if with_slot { "with its" } else { "without" });
        let takeover = self.chance.one_in(3);
        self.new_proposer(new, takeover);
    }

    fn add_reader(&mut self) {
        if self.plan.readers.len() >= 6 {
            return;
        }
        self.coverage.count("a reader connected");
        self.plan.readers.push(Standby { epoch: 1, position: Lsn::INVALID, tli: None, patience: 60 });
        let reader = self.plan.readers.len() - 1;
        self.read_again(reader, 1);
    }

    /// An operator replaces a member by a safekeeper that is none, or adds one, or takes one out.
    pub(crate) fn change_members(&mut self) {
        let Some(record) = self.newest_record().filter(|record| record.new_members.is_none()) else { return };
        let is_member = |n: &usize| {
            let identity = self.nodes[*n].identity;
            record.includes(identity.node, identity.disk)
        };
        let outside: Vec<usize> = (0..self.nodes.len()).filter(|n| !is_member(n)).collect();
        let comes = self.chance.pick(&outside);
        let mut wanted = record.members.clone();
        // A disk that is gone goes first: votes are counted by node.
        let replaced = comes.is_some_and(|n| wanted.iter().any(|member| member.node == self.nodes[n].identity.node));
        let goes = match comes {
            Some(n) if replaced => wanted.iter().position(|member| member.node == self.nodes[n].identity.node),
            _ if wanted.len() > 3 && self.chance.one_in(2) => Some(self.chance.below(wanted.len() as u64) as usize),
            _ => None,
        };
        if let Some(place) = goes {
            wanted.remove(place);
        }
        let comes = comes.filter(|_| !replaced);
        if wanted.len() < 3 || (goes.is_none() && comes.is_none()) {
            return;
        }
        self.coverage.count("fault: a membership change wished");
        if let Some(n) = comes {
            if self.nodes[n].is_up() && self.nodes[n].run.is_none() {
                if !self.nodes[n].make(&record) {
                    return;
                }
                self.stop_node(n, false);
                self.start_later(n);
            }
            let identity = self.nodes[n].identity;
            wanted.push(member_of(n, identity.disk));
        }
        let generation = record.generation;
        let Ok(wanted) = Membership::new(generation, record.term, wanted, None) else { return };
        note!(self, "wished: {wanted}");
        self.wish(wanted, 20);
    }

    /// A wish is repeated until it is no longer of its generation.
    fn wish(&mut self, wanted: Membership, times: u32) {
        if times == 0 || self.newest_record().is_some_and(|record| record.generation != wanted.generation) {
            return;
        }
        let Ok(wish) = Wish::new(wanted.clone()) else { return };
        for n in 0..self.nodes.len() {
            let wish = wish.clone();
            let mut sent = false;
            self.keeper_event(n, |keeper, now| sent = keeper.forward_wish(now, &wish));
            if sent {
                self.coverage.count("a wish passed on to a leader");
            }
        }
        self.after(SECOND, move |world| world.wish(wanted, times - 1));
    }

    /// The highest record anybody has.
    pub(crate) fn newest_record(&mut self) -> Option<Membership> {
        let records: Vec<(usize, Membership)> =
            (0..self.nodes.len()).filter_map(|n| Some((n, self.log_status(n)?.membership))).collect();
        // A joint record that is left on a new member alone binds nobody: the change was never made, and can be begun again.
        let binds = |record: &Membership| {
            record.new_members.is_none()
                || records.iter().filter(|(_, other)| other == record).any(|(n, _)| {
                    let identity = self.nodes[*n].identity;
                    record.members.iter().any(|member| (member.node, member.disk) == (identity.node, identity.disk))
                })
        };
        let records: Vec<Membership> =
            records.iter().map(|(_, record)| record).filter(|record| binds(record)).cloned().collect();
        records.into_iter().max_by_key(Membership::precedence)
    }

    /// A primary writes.
    pub(crate) fn work(&mut self) {
        let pause = self.chance.range(MS, 60 * MS);
        self.after(pause, World::work);
        let Some(s) = self.any_primary() else { return };
        let limit = crate::server::FIRST.0 + self.plan.wal_bytes;
        let server = &mut self.servers[s];
        if !self.calm && server.end().0 >= limit {
            return;
        }
        // Commits wait: a primary whose last ones hang writes little.
        let hung = server.end().bytes_since(server.acknowledged.max(crate::server::FIRST));
        if hung > 300_000 || (self.calm && hung > 20_000) {
            server.flush(true);
            self.flushed(s);
            return;
        }
        let len = match self.chance.below(40) {
            0 if !self.calm => self.chance.range(20_000, 60_000),
            1 => self.chance.range(5_000, 20_000),
            _ => self.chance.range(1, 600),
        };
        server.add(&mut self.chance, len as usize);
        if !self.calm && self.chance.one_in(300) {
            self.coverage.count("a segment switch");
            server.switch();
        } else {
            let commits = !self.chance.one_in(3);
            if server.flush(commits) && !commits {
                self.coverage.count("a flush in the middle of a record");
            }
        }
        if self.chance.one_in(50) {
            server.checkpoint(self.now);
        }
        self.flushed(s);
    }

    /// What connects whom, for a failure.
    pub(crate) fn describe(&mut self) -> String {
        let mut text = String::new();
        for n in 0..self.nodes.len() {
            let state = match (self.nodes[n].is_up(), self.log_status(n)) {
                (false, _) => "down".to_owned(),
                (true, None) => "has no cluster".to_owned(),
                (true, Some(row)) => format!(
                    "{} term {} log {} flush {} commit {} record {} path {:?} history {}",
                    row.state,
                    row.term,
                    row.last_log_term,
                    row.flush,
                    row.commit,
                    row.membership,
                    row.path,
                    row.history
                ),
            };
            let run = self.nodes[n].run.as_ref();
            let stopped = run.and_then(|run| run.keeper.stopped()).unwrap_or_default();
            let oldest = run.map_or(Lsn::INVALID, |run| run.keeper.oldest());
            let excused = if self.nodes[n].excused { "excused" } else { "" };
            text += &format!("k{n}: {excused} from {oldest} {state} {stopped}\n");
        }
        for (s, server) in self.servers.iter().enumerate() {
            text += &format!(
                "s{s}: {:?} TLI {} flush {} slot {:?} oldest {} acknowledged {} walsender {:?} left {:?}\n",
                server.role,
                server.tli,
                server.flush,
                server.slot,
                server.oldest,
                server.acknowledged,
                server.walsender,
                server.ancestors
            );
        }
        for (p, proposer) in self.proposers.iter().enumerate() {
            let Some(leader) = &proposer.leader else { continue };
            let status = leader.status();
            text += &format!(
                "p{p} for s{}: {} term {:?} from {:?} commit {:?} received {:?} trouble {:?} refusal {:?}\n",
                proposer.server,
                status.state,
                status.term,
                status.term_start,
                status.commit,
                status.received,
                status.trouble,
                status.refusal.map(|refusal| refusal.to_string())
            );
            for peer in status.peers {
                text += &format!("    {} {} flush {:?} {:?}\n", peer.address, peer.state, peer.flush, peer.error);
            }
        }
        text
    }
}

/// A safekeeper as a membership record names it.
pub(crate) fn member_of(n: usize, disk: DiskId) -> Member {
    Member { node: lsn::NodeId(n as u64 + 1), disk, host: format!("k{}", n + 1), port: 5454 }
}
