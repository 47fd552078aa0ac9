//! [`Node`]: one safekeeper: its disk, and while its process runs its keeper and storage, driven as `node` drives them.
//!
//! Commands are carried out in order; syncs and cuts go to one thread, control files to another, new and old segments to a third.
//! [`crate::jobs`] has the threads.

use crate::jobs::{BACKGROUND, CONTROL, DISK, Job, Thread};
use crate::net::{Packet, TO_CLIENT};
use crate::oracle::Said;
use crate::plan::Sabotage;
use crate::reading::Pulling;
use crate::world::{MS, SECOND, World, note};
use bytes::{Bytes, BytesMut};
use consensus::{AcceptorMessage, AcceptorState, Identity, Membership, ServerInfo, SessionId};
use disk::{Disk, SimDisk};
use keeper::{Command, FoundLog, Keeper, KeeperOptions, Opening, ReaderId, control};
use lsn::{ClusterId, DiskId, Lsn, NodeId, SegmentSize};
use quorum_proto::{BootId, LogStatusRow, Memory, PeerColumns, ProtoVersion, decode_acceptor};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use wal_storage::{ControlFile, Floor, Layout, PersistJob, Unrecovered, WalStorage};

pub(crate) const CLUSTER: ClusterId = ClusterId { tenant: [0x5E; 16], timeline: [0xA1; 16] };
pub(crate) const NAME: &str = "orders";

/// Bytes of recent WAL in a safekeeper's memory: little, so that files are read.
const RING: usize = 96 << 10;

pub(crate) fn dir() -> PathBuf {
    PathBuf::from("/data/cluster")
}

/// A cluster that is open in a running process.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) keeper: Keeper,
    pub(crate) storage: Option<WalStorage>,
    pub(crate) threads: [Thread; 3],
    armed: Option<u64>,
    pub(crate) pushes: BTreeMap<SessionId, u64>,
    pub(crate) readers: BTreeMap<ReaderId, u64>,
    /// What its bytes were held against the oracle's up to.
    pub(crate) verified: Lsn,
    pub(crate) commit: Lsn,
    pub(crate) pulling: Option<Pulling>,
}

/// One safekeeper.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) disk: SimDisk,
    pub(crate) identity: Identity,
    pub(crate) epoch: u64,
    up: bool,
    boot: BootId,
    pub(crate) run: Option<Run>,
    /// The power is about to go: after the next failed operation.
    pub(crate) doomed: bool,
    /// Its process does nothing until then.
    pub(crate) stalled_until: u64,
    pub(crate) said: Said,
    /// A fault took away what its disk said.
    pub(crate) excused: bool,
    next_session: u64,
    pub(crate) remembered: BTreeMap<(NodeId, DiskId), Memory>,
    saved: BTreeMap<(NodeId, DiskId), Memory>,
    /// Peers that told what they remember since the start.
    pub(crate) told: BTreeSet<usize>,
    /// What the peers said last.
    pub(crate) peers: BTreeMap<usize, (LogStatusRow, PeerColumns)>,
    /// Longest time of a job, in microseconds.
    pub(crate) job_micros: u64,
}

impl Node {
    pub(crate) fn new(index: usize) -> Node {
        let identity = Identity { node: NodeId(index as u64 + 1), disk: DiskId([index as u8 + 1; 16]) };
        Node {
            disk: SimDisk::new(),
            identity,
            epoch: 0,
            up: false,
            boot: BootId(0),
            run: None,
            doomed: false,
            stalled_until: 0,
            said: Said::default(),
            excused: false,
            next_session: 0,
            remembered: BTreeMap::new(),
            saved: BTreeMap::new(),
            told: BTreeSet::new(),
            peers: BTreeMap::new(),
            job_micros: 2 * MS,
        }
    }

    pub(crate) fn is_up(&self) -> bool {
        self.up
    }

    pub(crate) fn boot(&self) -> BootId {
        self.boot
    }

    pub(crate) fn new_session(&mut self) -> u64 {
        self.next_session += 1;
        self.next_session
    }

    /// Makes the cluster known on this disk; durable when it returns. False if the disk says no.
    pub(crate) fn make(&self, membership: &Membership) -> bool {
        let state = AcceptorState::new(CLUSTER, NAME.to_owned(), membership.clone(), ServerInfo::default());
        let disk: Arc<dyn Disk> = Arc::new(self.disk.clone());
        wal_storage::create_directory(&*disk, &dir()).is_ok()
            && PersistJob::new(disk, &dir(), control::encode(&state)).run().is_ok()
    }
}

impl World {
    /// Starts the process of a safekeeper: opens what is on its disk.
    pub(crate) fn start_node(&mut self, n: usize) {
        let boot = BootId(self.chance.next());
        let Some(node) = self.nodes.get_mut(n).filter(|node| !node.up) else { return };
        node.disk.take_journal();
        node.up = true;
        node.epoch += 1;
        node.boot = boot;
        node.run = None;
        node.told.clear();
        node.peers.clear();
        node.remembered = node.saved.clone();
        match self.open(n) {
            Ok(()) => {}
            Err(reason) => {
                note!(self, "k{n} cannot be opened: {reason}");
                self.coverage.count("a log that could not be opened");
                let doomed = self.nodes[n].doomed;
                self.stop_node(n, doomed);
                self.start_later(n);
                return;
            }
        }
        let epoch = self.nodes[n].epoch;
        for peer in (0..self.nodes.len()).filter(|peer| *peer != n) {
            let soon = self.chance.below(50 * MS);
            self.after(soon, move |world| world.poll_peer(n, epoch, peer));
        }
        self.after(10 * SECOND, move |world| world.save_memory(n, epoch));
    }

    pub(crate) fn start_later(&mut self, n: usize) {
        let pause = if self.calm { 200 * MS } else { self.chance.range(50 * MS, 8 * SECOND) };
        self.after(pause, move |world| world.start_node(n));
    }

    fn save_memory(&mut self, n: usize, epoch: u64) {
        let Some(node) = self.nodes.get_mut(n).filter(|node| node.epoch == epoch && node.up) else { return };
        node.saved = node.remembered.clone();
        self.after(10 * SECOND, move |world| world.save_memory(n, epoch));
    }

    fn open(&mut self, n: usize) -> Result<(), String> {
        let node = &self.nodes[n];
        let (disk, identity, said) = (Arc::new(node.disk.clone()) as Arc<dyn Disk>, node.identity, node.said);
        let text = |error: wal_storage::Error| error.to_string();
        let Some(bytes) = ControlFile::load(&*disk, &dir()).map_err(text)? else {
            if said != Said::default() && !self.nodes[n].excused {
                self.oracle.fail(format!("safekeeper {n} came back without its control file"));
            }
            return Ok(());
        };
        let state = control::decode(&bytes).map_err(|error| error.to_string())?;
        let (mut found, mut storage) = (FoundLog::default(), None);
        if let Some(opening) = Opening::of(&state).map_err(|error| error.to_string())? {
            let layout = Layout { ring_bytes: RING, ..opening.layout.clone() };
            let unrecovered = Unrecovered::open(disk, &dir(), layout).map_err(text)?;
            if self.plan.sabotage == Some(Sabotage::CutBelowCommit) && state.commit > state.log_start {
                let to = Lsn(state.commit.0.saturating_sub(5000).max(state.log_start.0));
                let _done = unrecovered.cut(to).run().map_err(text)?;
            }
            if let Some(to) = opening.cut {
                let _done = unrecovered.cut(to).run().map_err(text)?;
                self.coverage.count("an announced cut done again");
            }
            let (recovered_storage, recovered) = unrecovered.recover(opening.floor).map_err(text)?;
            found = opening.found(&recovered_storage, &recovered);
            if let Some(damage) = &recovered.damage {
                self.coverage.count("a damaged log found");
                note!(self, "k{n} is damaged: {damage}");
                if !self.nodes[n].excused {
                    self.oracle.fail(format!("safekeeper {n} is damaged without a reason: {damage}"));
                }
            }
            storage = Some(recovered_storage);
        }
        let (log_term, cutting) = (state.history.last_term(), state.cutting);
        note!(self, "k{n} opens: term {} log {log_term} end {} floor {}", state.term, found.end, state.floor);
        if !self.nodes[n].excused {
            let mut said = said;
            if let Some(cutting) = cutting {
                said.flush = said.flush.min(cutting.to);
            }
            self.nodes[n].said = said;
            self.oracle.started(n, said, state.term, log_term, found.end);
        }
        let commit = state.commit;
        let options = KeeperOptions {
            identity,
            max_wal: self.plan.max_wal,
            max_slot_wal: 0,
            clock: (self.instant(), Default::default()),
        };
        let mut keeper = Keeper::new(options, state, found);
        keeper.hold_votes(self.instant());
        let threads = Default::default();
        let (pushes, readers) = (BTreeMap::new(), BTreeMap::new());
        let verified = found.oldest;
        self.nodes[n].run =
            Some(Run { keeper, storage, threads, armed: None, pushes, readers, verified, commit, pulling: None });
        self.keeper_event(n, |_, _| {});
        Ok(())
    }

    /// Ends the process; with the power, what was not synced may be lost or torn.
    pub(crate) fn stop_node(&mut self, n: usize, power: bool) {
        let seed = self.chance.next();
        let Some(node) = self.nodes.get_mut(n) else { return };
        let was_up = std::mem::replace(&mut node.up, false);
        node.run = None;
        node.epoch += 1;
        node.doomed = false;
        if power {
            node.disk.crash(seed);
        } else {
            node.disk.kill();
        }
        if was_up {
            self.host_gone(n, power);
        }
    }

    /// Hands an event to a keeper and carries out what comes of it.
    pub(crate) fn keeper_event(&mut self, n: usize, event: impl FnOnce(&mut Keeper, std::time::Instant)) {
        let now = self.instant();
        let Some(mut run) = self.nodes.get_mut(n).and_then(|node| node.run.take()) else { return };
        event(&mut run.keeper, now);
        let survives = self.carry_out(n, &mut run);
        if !survives {
            return self.power_fails(n);
        }
        self.watch(n, &mut run);
        let due = run.keeper.poll_timeout().map(|due| self.micros(due));
        if let Some(due) = due.filter(|due| run.armed.is_none_or(|armed| *due < armed)) {
            run.armed = Some(due);
            let epoch = self.nodes[n].epoch;
            self.at(due, move |world| world.keeper_timer(n, epoch, due));
        }
        self.nodes[n].run = Some(run);
    }

    /// The power that was to go has gone.
    pub(crate) fn power_fails(&mut self, n: usize) {
        note!(self, "k{n} loses power in the middle of something");
        self.coverage.count("power lost in the middle of an operation");
        self.stop_node(n, true);
        self.start_later(n);
    }

    fn keeper_timer(&mut self, n: usize, epoch: u64, due: u64) {
        let Some(node) = self.nodes.get_mut(n).filter(|node| node.epoch == epoch) else { return };
        let Some(run) = node.run.as_mut().filter(|run| run.armed == Some(due)) else { return };
        run.armed = None;
        if node.stalled_until > self.now {
            let later = node.stalled_until;
            run.armed = Some(later);
            return self.at(later, move |world| world.keeper_timer(n, epoch, later));
        }
        self.keeper_event(n, |keeper, now| keeper.handle_timeout(now));
    }

    /// False if the power has gone meanwhile.
    fn carry_out(&mut self, n: usize, run: &mut Run) -> bool {
        loop {
            let mut slices: Vec<Bytes> = Vec::new();
            let mut first = Lsn::INVALID;
            while let Some((begin, wal)) = run.keeper.poll_write() {
                if slices.is_empty() {
                    first = begin;
                }
                slices.push(wal);
            }
            if !slices.is_empty() {
                if !self.write(n, run, first, &slices) {
                    return false;
                }
                continue;
            }
            let Some(command) = run.keeper.poll_command() else { return true };
            match command {
                Command::Write { begin, wal } => {
                    if !self.write(n, run, begin, &[wal]) {
                        return false;
                    }
                }
                Command::Sync => match run.storage.as_mut().and_then(WalStorage::start_sync) {
                    // A fast disk's short syncs are done in place.
                    Some(job) if self.plan.fast_disks && self.chance.one_in(2) => match job.run() {
                        Ok(done) => self.synced(run, done),
                        Err(_) if self.nodes[n].doomed => return false,
                        Err(error) => self.fails(n, run, &error),
                    },
                    Some(job) => self.start_job(n, run, DISK, Job::Sync(job)),
                    // A job of another thread has failed, and its word is on the way.
                    None => match run.storage.as_ref().map(WalStorage::check) {
                        Some(Err(_)) if self.nodes[n].doomed => return false,
                        Some(Err(error)) => self.fails(n, run, &error),
                        _ => self.oracle.fail(format!("safekeeper {n} wants a sync with nothing to sync")),
                    },
                },
                Command::PersistControl { ticket, bytes } => self.persist(n, run, ticket, bytes),
                Command::Cut { to, first, path, server } => {
                    self.coverage.count(if first { "a log begun" } else { "a log cut" });
                    note!(self, "k{n} cuts to {to}, path {path}");
                    let path = path.clone();
                    let begun = if first { self.begin_log(n, path.clone(), server, to) } else { Ok(None) };
                    match begun {
                        Ok(Some(storage)) => run.storage = Some(storage),
                        Ok(None) => {}
                        Err(_) if self.nodes[n].doomed => return false,
                        Err(error) => {
                            self.fails(n, run, &error);
                            continue;
                        }
                    }
                    match run.storage.as_mut().map(|storage| storage.start_cut_on(to, path)) {
                        Some(Ok(job)) => self.start_job(n, run, DISK, Job::Cut(job)),
                        Some(Err(error)) => self.fails(n, run, &error),
                        None => self.oracle.fail(format!("safekeeper {n} cuts a log that is not there")),
                    }
                }
                Command::SendPush { session, payload } => self.say(n, run, session, payload),
                Command::ClosePush { session, reason } => {
                    note!(self, "k{n} ends session {}: {reason}", session.0);
                    self.coverage.count("a session ended by a safekeeper");
                    if let Some(conn) = run.pushes.remove(&session) {
                        self.close(conn, 1, &reason);
                    }
                }
                Command::SendReader { reader, head, payload } => {
                    if let Some(conn) = run.readers.get(&reader) {
                        let mut bytes = BytesMut::from(&head[..]);
                        bytes.extend_from_slice(&payload);
                        self.send(*conn, TO_CLIENT, Packet::Bytes(bytes.freeze()));
                    }
                }
                Command::Read { reader, from, max } => self.read_later(n, reader, from, max),
                Command::CloseReader { reader, .. } => {
                    if let Some(conn) = run.readers.remove(&reader) {
                        self.close(conn, 1, "the session is over");
                    }
                }
                Command::Pull { term, from, to, members } => {
                    note!(self, "k{n} pulls {from} to {to} of term {term}");
                    self.coverage.count("a pull begun");
                    // The first is asked first.
                    let nodes = members.iter().rev().map(|member| member.node.0 as usize - 1).collect();
                    run.pulling = Some(Pulling { term, to, left: nodes, conn: None });
                    let epoch = self.nodes[n].epoch;
                    self.after(1, move |world| world.pull_next(n, epoch, "nobody was asked".to_owned()));
                }
                Command::Call { .. } | Command::PersistSlots { .. } => {}
                Command::RemoveBelow(below) => {
                    if let Some(job) = run.storage.as_mut().and_then(|storage| storage.remove_below(below)) {
                        self.coverage.count("old segments removed");
                        self.start_job(n, run, BACKGROUND, Job::Remove(job));
                    }
                }
            }
        }
    }

    /// What a safekeeper says to a proposer; noted, because it must still hold it after any crash.
    fn say(&mut self, n: usize, run: &Run, session: SessionId, payload: Bytes) {
        let Some(conn) = run.pushes.get(&session).copied() else { return };
        match decode_acceptor(ProtoVersion::V3, payload.clone()) {
            Ok(message) => {
                let state = (run.keeper.log_status(self.instant()).last_log_term, run.keeper.timeline_status().0);
                let said = &mut self.nodes[n].said;
                match message {
                    AcceptorMessage::Greeting(_) => {}
                    AcceptorMessage::Vote(vote) => {
                        note!(self, "k{n} votes {} in term {}, at {}", vote.granted, vote.term, vote.flush);
                        said.term = said.term.max(vote.term);
                    }
                    AcceptorMessage::Append(response) => {
                        // One that only deposes promises nothing.
                        if response.flush.is_valid() {
                            said.term = said.term.max(response.term);
                        }
                        if response.flush.is_valid() && (response.term, response.flush) >= (said.log_term, said.flush) {
                            (said.log_term, said.flush) = (response.term, response.flush);
                        }
                        if response.flush.is_valid() && response.flush > state.1 {
                            self.oracle
                                .fail(format!("safekeeper {n} acknowledges {}, beyond its flush LSN", response.flush));
                        }
                    }
                }
            }
            Err(error) => self.oracle.fail(format!("safekeeper {n} sends what cannot be read: {error}")),
        }
        self.send(conn, TO_CLIENT, Packet::Bytes(payload));
    }

    /// False if the power has gone.
    fn write(&mut self, n: usize, run: &mut Run, begin: Lsn, slices: &[Bytes]) -> bool {
        let now = self.instant();
        let Run { keeper, storage: Some(storage), .. } = run else { return true };
        match storage.append_all(begin, slices) {
            Ok(_) => {
                if let Some(job) = storage.prepare_job() {
                    self.start_job(n, run, BACKGROUND, Job::Prepare(job));
                }
            }
            Err(error) if error.is_out_of_space() => {
                self.coverage.count("an append refused by a full disk");
                keeper.handle_write_refused(now, storage.written().lsn(), &error.to_string());
            }
            Err(_) if self.nodes[n].doomed => return false,
            Err(error) => self.fails(n, run, &error),
        }
        true
    }

    fn begin_log(
        &mut self,
        n: usize,
        path: lsn::Path,
        server: ServerInfo,
        to: Lsn,
    ) -> Result<Option<WalStorage>, wal_storage::Error> {
        let Ok(size) = SegmentSize::new(server.segment_size.into()) else { return Ok(None) };
        let layout = Layout { ring_bytes: RING, ..Layout::new(size, path) };
        let found = Unrecovered::open(Arc::new(self.nodes[n].disk.clone()), &dir(), layout)?;
        let (mut storage, _) = found.recover(Floor { lsn: Lsn::INVALID, log_start: Lsn::INVALID, system_id: None })?;
        storage.start_at(to)?;
        Ok(Some(storage))
    }

    pub(crate) fn persist(&mut self, n: usize, run: &mut Run, ticket: u64, bytes: Vec<u8>) {
        let job = match &run.storage {
            Some(storage) => storage.persist(bytes.clone()),
            None => PersistJob::new(Arc::new(self.nodes[n].disk.clone()), &dir(), bytes.clone()),
        };
        self.start_job(n, run, CONTROL, Job::Persist(ticket, bytes, job));
    }

    pub(crate) fn fails(&mut self, n: usize, run: &mut Run, error: &wal_storage::Error) {
        note!(self, "k{n} stops: {error}");
        self.coverage.count("a cluster stopped by its disk");
        run.keeper.handle_failed(self.instant(), &error.to_string());
        // Somebody looks after it, sooner or later.
        let epoch = self.nodes[n].epoch;
        let later = if self.calm { SECOND } else { self.chance.range(SECOND, 15 * SECOND) };
        self.after(later, move |world| {
            if world.nodes[n].epoch == epoch {
                world.stop_node(n, false);
                world.start_later(n);
            }
        });
    }
}
