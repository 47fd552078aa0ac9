//! A keeper with real storage on a simulated disk, driven by hand: commands are carried out at once, blocking work when the
//! test says so.

use bytes::{Bytes, BytesMut};
use consensus::{
    AcceptorMessage, AcceptorState, AppendRequest, AppendResponse, Identity, Introduction, Membership, ProposerElected,
    ProposerGreeting, ProposerMessage, ServerInfo, SessionId, TermEntry, TermHistory, VoteRequest,
};
use disk::{Disk, SimDisk};
use keeper::{Command, FoundLog, Keeper, KeeperOptions, ReaderId, control};
use lsn::{ClusterId, DiskId, Lsn, NodeId, Path, SegmentSize, SystemId, Term, Tli};
use quorum_proto::{ProtoVersion, decode_acceptor, encode_proposer};
use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;
use wal_format::build::WalBuilder;
use wal_storage::{ControlFile, CutDone, Floor, Layout, SyncDone, Unrecovered, WalStorage};

pub(crate) const SEGMENT: u32 = 1 << 20;
pub(crate) const START: Lsn = Lsn(16 << 20);
pub(crate) const SYSTEM: SystemId = SystemId(77);

pub(crate) fn segment_size() -> SegmentSize {
    SegmentSize::new(SEGMENT.into()).unwrap()
}

pub(crate) fn cluster() -> ClusterId {
    ClusterId { tenant: [1; 16], timeline: [2; 16] }
}

pub(crate) fn membership() -> Membership {
    let member = |node: u8| format!("{node}:{}@127.0.0.1:{}", DiskId([node; 16]), 5400 + u16::from(node));
    format!("1/0/{};{};{}", member(1), member(2), member(3)).parse().unwrap()
}

pub(crate) fn wal() -> WalBuilder {
    WalBuilder::new(segment_size(), START).with_system_id(SYSTEM)
}

pub(crate) fn history(entries: &[(u64, Lsn)]) -> TermHistory {
    TermHistory::new(entries.iter().map(|&(term, begin)| TermEntry { term: Term(term), begin }).collect()).unwrap()
}

enum Work {
    Sync(Result<SyncDone, wal_storage::Error>),
    Persist(u64, Result<(), wal_storage::Error>),
    Cut(Result<CutDone, wal_storage::Error>),
}

pub(crate) struct Rig {
    pub(crate) disk: Arc<SimDisk>,
    pub(crate) keeper: Keeper,
    storage: Option<WalStorage>,
    /// Blocking work that was begun: what it did is on the disk, its completion is held back.
    work: VecDeque<Work>,
    pub(crate) syncs: usize,
    pub(crate) sent: Vec<(SessionId, AcceptorMessage)>,
    pub(crate) closed: Vec<(SessionId, String)>,
    pub(crate) pulls: Vec<(Term, Lsn, Lsn)>,
    /// Wire bytes for each reader.
    pub(crate) told: BTreeMap<ReaderId, Vec<u8>>,
    /// Readers whose sessions the keeper ended.
    pub(crate) gone: Vec<ReaderId>,
    /// Consumers that were to be called.
    pub(crate) calls: Vec<String>,
    /// Records of slots to be written down; tests complete them.
    pub(crate) slot_records: Vec<(u64, Vec<u8>)>,
    pub(crate) now: Instant,
    /// What the next session says of itself.
    pub(crate) introduction: Introduction,
    version: ProtoVersion,
}

fn dir() -> PathBuf {
    PathBuf::from("/data/cluster")
}

impl Rig {
    pub(crate) fn new() -> Rig {
        let disk = Arc::new(SimDisk::new());
        let state = AcceptorState::new(cluster(), "orders".to_owned(), membership(), ServerInfo::default());
        disk.create_dir_all(&dir()).unwrap();
        Rig::with(disk, state, FoundLog::default(), None)
    }

    fn with(disk: Arc<SimDisk>, state: AcceptorState, found: FoundLog, storage: Option<WalStorage>) -> Rig {
        let identity = Identity { node: NodeId(1), disk: DiskId([1; 16]) };
        let now = Instant::now();
        let options =
            KeeperOptions { identity, max_wal: 4 << 20, max_slot_wal: 4 << 20, clock: (now, Default::default()) };
        Rig {
            disk,
            keeper: Keeper::new(options, state, found),
            storage,
            work: VecDeque::new(),
            syncs: 0,
            sent: Vec::new(),
            closed: Vec::new(),
            pulls: Vec::new(),
            told: BTreeMap::new(),
            gone: Vec::new(),
            slot_records: Vec::new(),
            calls: Vec::new(),
            now,
            introduction: Introduction::of(Path::root(Tli(1))),
            version: ProtoVersion::V3,
        }
    }

    /// A cluster made by a foreign proposer's greeting: no membership record, generation 0.
    pub(crate) fn foreign(version: ProtoVersion) -> Rig {
        let disk = Arc::new(SimDisk::new());
        disk.create_dir_all(&dir()).unwrap();
        let state = AcceptorState::new(cluster(), String::new(), Membership::none(), ServerInfo::default());
        let mut rig = Rig::with(disk, state, FoundLog::default(), None);
        rig.version = version;
        rig
    }

    /// The process was killed or the machine lost power, and comes back.
    pub(crate) fn restart(self) -> Rig {
        let disk: Arc<dyn Disk> = Arc::clone(&self.disk) as Arc<dyn Disk>;
        let state = control::decode(&ControlFile::load(&*disk, &dir()).unwrap().unwrap()).unwrap();
        let layout = Layout::new(segment_size(), state.path.clone().unwrap_or_else(|| Path::root(Tli(1))));
        let unrecovered = Unrecovered::open(disk, &dir(), layout).unwrap();
        if let Some(cutting) = state.cutting {
            unrecovered.cut(cutting.to).run().unwrap();
        }
        let floor = Floor { lsn: state.floor, log_start: state.log_start, system_id: Some(SYSTEM) };
        let (storage, recovered) = unrecovered.recover(floor).unwrap();
        assert!(recovered.damage.is_none(), "{:?}", recovered.damage);
        let found = FoundLog { end: recovered.end.lsn(), oldest: storage.oldest(), damaged_below: None };
        Rig::with(self.disk, state, found, Some(storage))
    }

    /// Carries out commands; blocking work is done and its completion held back.
    pub(crate) fn carry_out(&mut self) {
        while let Some(command) = self.keeper.poll_command() {
            match command {
                Command::Write { begin, wal } => {
                    let storage = self.storage.as_mut().unwrap();
                    match storage.append(begin, wal) {
                        Ok(_) => {}
                        Err(error) if error.is_out_of_space() => {
                            let written = storage.written().lsn();
                            self.keeper.handle_write_refused(self.now, written, &error.to_string());
                        }
                        Err(error) => self.keeper.handle_failed(self.now, &error.to_string()),
                    }
                }
                Command::Sync => {
                    self.syncs += 1;
                    let job = self.storage.as_mut().unwrap().start_sync().unwrap();
                    self.work.push_back(Work::Sync(job.run()));
                }
                Command::PersistControl { ticket, bytes } => {
                    let disk: Arc<dyn Disk> = Arc::clone(&self.disk) as Arc<dyn Disk>;
                    let job = wal_storage::PersistJob::new(disk, &dir(), bytes);
                    self.work.push_back(Work::Persist(ticket, job.run()));
                }
                Command::Cut { to, first, path, server } => {
                    if first {
                        let size = SegmentSize::new(server.segment_size.into()).unwrap();
                        let disk: Arc<dyn Disk> = Arc::clone(&self.disk) as Arc<dyn Disk>;
                        let found = Unrecovered::open(disk, &dir(), Layout::new(size, path.clone())).unwrap();
                        let floor = Floor { lsn: Lsn::INVALID, log_start: Lsn::INVALID, system_id: None };
                        let (mut storage, _) = found.recover(floor).unwrap();
                        if size.offset_of(to) == 0 {
                            storage.start_at(to).unwrap();
                        } else {
                            storage.start_inside(to, SYSTEM, 0xD110).unwrap();
                        }
                        self.storage = Some(storage);
                    }
                    let job = self.storage.as_mut().unwrap().start_cut_on(to, path).unwrap();
                    self.work.push_back(Work::Cut(job.run()));
                }
                Command::SendPush { session, payload } => {
                    self.sent.push((session, decode_acceptor(self.version, payload).unwrap()));
                }
                Command::ClosePush { session, reason } => self.closed.push((session, reason)),
                Command::Pull { term, from, to, .. } => self.pulls.push((term, from, to)),
                Command::SendReader { reader, head, payload } => {
                    self.told.entry(reader).or_default().extend_from_slice(&[head, payload].concat());
                }
                Command::Read { reader, from, max } => {
                    let bytes = self.storage.as_ref().unwrap().reader().read(from, max);
                    self.keeper.handle_read(self.now, reader, from, bytes.map(Some).map_err(|error| error.to_string()));
                }
                Command::CloseReader { reader, .. } => self.gone.push(reader),
                Command::Call { name, .. } => self.calls.push(name),
                Command::PersistSlots { ticket, bytes } => self.slot_records.push((ticket, bytes)),
                Command::RemoveBelow(below) => {
                    let job = self.storage.as_mut().unwrap().remove_below(below);
                    if let Some(job) = job {
                        let done = job.run().unwrap();
                        let storage = self.storage.as_mut().unwrap();
                        storage.finish_remove(done);
                        self.keeper.handle_removed(storage.oldest());
                    }
                }
            }
        }
    }

    /// Hands the oldest held-back completion in; false if there is none.
    pub(crate) fn complete_one(&mut self) -> bool {
        let Some(work) = self.work.pop_front() else { return false };
        match work {
            Work::Sync(Ok(done)) => {
                let durable = self.storage.as_mut().unwrap().finish_sync(done);
                self.keeper.handle_synced(self.now, durable);
            }
            Work::Persist(ticket, Ok(())) => self.keeper.handle_persisted(self.now, ticket),
            Work::Cut(Ok(done)) => {
                let durable = self.storage.as_mut().unwrap().finish_cut(done);
                self.keeper.handle_cut(self.now, durable);
            }
            Work::Sync(Err(error)) | Work::Persist(_, Err(error)) | Work::Cut(Err(error)) => {
                self.keeper.handle_failed(self.now, &error.to_string());
            }
        }
        self.carry_out();
        true
    }

    /// Everything that can happen without a new event happens.
    pub(crate) fn settle(&mut self) {
        self.carry_out();
        while self.complete_one() {}
    }

    pub(crate) fn connect(&mut self, session: u64) -> SessionId {
        let session = SessionId(session);
        self.keeper.connect_receiver(session, self.version, self.introduction.clone(), "test".to_owned());
        session
    }

    /// Hands a message in without completing any work.
    pub(crate) fn tell(&mut self, session: SessionId, message: &ProposerMessage) {
        let mut payload = BytesMut::new();
        encode_proposer(self.version, message, &mut payload).unwrap();
        self.keeper.handle_push(self.now, session, payload.freeze());
        self.keeper.drive(self.now);
        self.carry_out();
    }

    pub(crate) fn generation(&self) -> u32 {
        self.keeper.log_status(self.now).membership.generation
    }

    pub(crate) fn greet(&mut self, session: SessionId) {
        let greeting = ProposerGreeting {
            cluster: cluster(),
            membership: Membership::none(),
            pg_version: 150_018,
            system_id: SYSTEM,
            segment_size: SEGMENT,
        };
        self.tell(session, &ProposerMessage::Greeting(greeting));
    }

    pub(crate) fn vote(&mut self, session: SessionId, term: u64) {
        let request = VoteRequest { generation: self.generation(), term: Term(term) };
        self.tell(session, &ProposerMessage::Vote(request));
    }

    pub(crate) fn elect(&mut self, session: SessionId, start: Lsn, entries: &[(u64, Lsn)]) {
        let history = history(entries);
        let message = ProposerElected {
            generation: self.generation(),
            term: history.last_term(),
            start_streaming_at: start,
            history,
        };
        self.tell(session, &ProposerMessage::Elected(message));
    }

    pub(crate) fn append(&mut self, session: SessionId, term: u64, begin: Lsn, bytes: &[u8], commit: Lsn) {
        let append = AppendRequest {
            generation: self.generation(),
            term: Term(term),
            begin,
            end: Lsn(begin.0 + bytes.len() as u64),
            commit,
            truncate: Lsn(0),
            wal: Bytes::copy_from_slice(bytes),
        };
        self.tell(session, &ProposerMessage::Append(append));
    }

    /// A leader of `term` from an empty log on.
    pub(crate) fn lead_from_nothing(&mut self, term: u64) -> SessionId {
        let session = self.connect(1);
        self.greet(session);
        self.vote(session, term);
        self.settle();
        self.elect(session, START, &[(term, START)]);
        self.settle();
        session
    }

    pub(crate) fn acknowledged(&self) -> Vec<AppendResponse> {
        let append = |(_, message): &(SessionId, AcceptorMessage)| match message {
            AcceptorMessage::Append(response) => Some(response.clone()),
            _ => None,
        };
        self.sent.iter().filter_map(append).collect()
    }

    pub(crate) fn last_flush(&self) -> Lsn {
        self.acknowledged().last().map_or(Lsn(0), |response| response.flush)
    }
}
