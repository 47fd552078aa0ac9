//! One cluster: its keeper, its storage, and what the keeper's commands mean.
//!
//! Everything here runs on the commit thread. Blocking work goes to the disk thread (syncs and cuts, in order), the control
//! thread (control files: their two syncs must not hold up a commit) or the background thread (segments made ready, old ones
//! removed), and comes back as a [`Done`]. What must not overtake what is decided by the keeper, which waits for completions.

mod archive;
mod fencing;
mod members;
mod peers;
mod readers;
mod slots;

pub(crate) use archive::Extent;

use crate::data_dir::DataDir;
use crate::jobs::JobThread;
use crate::pace::Pace;
use crate::pull;
use crate::reading::ReaderPort;
use crate::room::Room;
use crate::wire::Outlet;
use bytes::{Bytes, BytesMut};
use consensus::{AcceptorState, Membership, ServerInfo, SessionId};
use keeper::{Command, FoundLog, Keeper, KeeperOptions, KeeperView, ReaderId};
use lsn::{ClusterId, Lsn, Path, SegmentSize, Term};
use pq_proto::SqlState;
use pq_proto::backend::{Report, encode};
use quorum_proto::{LogStatusRow, PushOptions};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::{Notify, mpsc};
use wal_format::magic_for_version_num;
use wal_storage::{
    CutDone, Damage, Floor, Layout, PersistJob, PrepareDone, RemoveDone, SyncDone, Unrecovered, WalStorage,
};

/// How soon a control-file write is tried again when the disk was full.
const SPACE_RETRY: Duration = Duration::from_secs(1);

/// What all clusters of a node share.
#[derive(Clone, Debug)]
pub(crate) struct ClusterContext {
    pub(crate) data_dir: Rc<DataDir>,
    /// Addresses of other safekeepers, beside those in membership records.
    pub(crate) peers: Rc<[String]>,
    /// What is shown to other safekeepers.
    pub(crate) outgoing: Rc<auth::Outgoing>,
    /// How much WAL beyond the limit may be kept for replication slots, in bytes.
    pub(crate) max_slot_wal: u64,
    /// Who may be called back.
    pub(crate) call_back_hosts: Rc<[String]>,
    /// Whether the disk has room for more WAL.
    pub(crate) room: Rc<Room>,
    pub(crate) archiving: Rc<crate::archive::Archiving>,
    pub(crate) disk_thread: JobThread,
    pub(crate) control_thread: JobThread,
    pub(crate) pace: Pace,
    pub(crate) background_thread: JobThread,
}

/// Blocking work that has ended.
enum Done {
    Synced(Result<SyncDone, wal_storage::Error>),
    Persisted(u64, Vec<u8>, Result<(), wal_storage::Error>),
    Cut(Result<CutDone, wal_storage::Error>),
    Prepared(Result<PrepareDone, wal_storage::Error>),
    Removed(Result<RemoveDone, wal_storage::Error>),
}

/// What changes while the cluster lives.
struct Inner {
    keeper: Keeper,
    /// `None` while the log is empty: the segment size comes with the first leader.
    storage: Option<WalStorage>,
    proposers: HashMap<SessionId, Rc<Outlet>>,
    readers: HashMap<ReaderId, Rc<ReaderPort>>,
}

/// One cluster on this node.
pub(crate) struct Cluster {
    me: Weak<Cluster>,
    id: ClusterId,
    name: String,
    context: ClusterContext,
    inner: RefCell<Inner>,
    done: mpsc::UnboundedSender<Done>,
    next_id: Cell<u64>,
    /// The moment for which the timer task is set.
    alarm: Cell<Option<Instant>>,
    alarm_changed: Notify,
    /// Blocking work that has not come back.
    under_way: Cell<usize>,
    /// Some of it has.
    work_done: Notify,
    sync_began: Cell<Option<Instant>>,
    failure_logged: Cell<bool>,
    /// Answers that wait for the record of slots.
    slot_answers: slots::SlotAnswers,
    /// A reader's session has ended.
    reader_left: Notify,
    /// Kept, because looking a metric up costs more than counting.
    written_bytes: metrics::Counter,
    sync_seconds: metrics::Histogram,
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cluster").field("id", &self.id).field("name", &self.name).finish_non_exhaustive()
    }
}

impl Cluster {
    /// A cluster that was just made: no WAL yet.
    pub(crate) fn empty(context: &ClusterContext, state: AcceptorState, max_wal: u64) -> Rc<Cluster> {
        let options = keeper_options(context, max_wal);
        let (id, name) = (state.cluster, state.name.clone());
        Cluster::begin(context, id, name, Keeper::new(options, state, FoundLog::default()), None)
    }

    /// A cluster from its directory: an announced cut is done again, the log's end is found and made durable.
    pub(crate) async fn open(
        context: &ClusterContext,
        state: AcceptorState,
        max_wal: u64,
    ) -> Result<Rc<Cluster>, String> {
        let Some(path) = state.path.clone().filter(|_| state.log_start.is_valid()) else {
            return Ok(Cluster::empty(context, state, max_wal));
        };
        let (id, name) = (state.cluster, state.name.clone());
        let segment_size = SegmentSize::new(state.server.segment_size.into()).map_err(|error| error.to_string())?;
        let layout = Layout::new(segment_size, path);
        let (disk, dir) = (Arc::clone(&context.data_dir.disk), context.data_dir.cluster_dir(id));
        let cut = state.cutting.map(|cutting| cutting.to);
        let floor = Floor {
            lsn: state.floor,
            log_start: state.log_start,
            system_id: (state.server.system_id != lsn::SystemId(0)).then_some(state.server.system_id),
        };
        let recover = move || {
            let found = Unrecovered::open(disk, &dir, layout)?;
            if let Some(to) = cut {
                found.cut(to).run()?;
            }
            found.recover(floor)
        };
        let recovered = tokio::task::spawn_blocking(recover).await.map_err(|error| error.to_string())?;
        let (storage, recovered) = recovered.map_err(|error| error.to_string())?;
        let end = recovered.end.lsn();
        if let Some(damage) = &recovered.damage {
            tracing::error!(cluster = %name, %end, "the log is damaged and does not vote until it has learned what it lost: {damage}");
        }
        let damaged_below = recovered.damage.map(|damage| match damage {
            Damage::BelowFloor { floor, .. } => floor,
            Damage::WrittenBehind { page, .. } => page.max(state.floor),
        });
        let found = FoundLog { end, oldest: storage.oldest(), damaged_below };
        let kept_from = segment_size.start_of_segment_at(Lsn(end.0.saturating_sub(max_wal)).max(state.log_start));
        if found.oldest > kept_from {
            let oldest = found.oldest;
            tracing::warn!(cluster = %name, "WAL from {kept_from} to {oldest} is not here: removed under a smaller --max-wal, or lost");
        }
        tracing::info!(cluster = %name, %end, term = %state.term, "log opened");
        let options = keeper_options(context, max_wal);
        Ok(Cluster::begin(context, id, name, Keeper::new(options, state, found), Some(storage)))
    }

    fn begin(
        context: &ClusterContext,
        id: ClusterId,
        name: String,
        mut keeper: Keeper,
        storage: Option<WalStorage>,
    ) -> Rc<Cluster> {
        slots::load(&*context.data_dir.disk, &context.data_dir.cluster_dir(id), id, &mut keeper);
        let (done, finished) = mpsc::unbounded_channel();
        let inner = Inner { keeper, storage, proposers: HashMap::new(), readers: HashMap::new() };
        let cluster = Rc::new_cyclic(|me| Cluster {
            me: me.clone(),
            id,
            name,
            context: context.clone(),
            inner: RefCell::new(inner),
            done,
            next_id: Cell::new(1),
            alarm: Cell::new(None),
            alarm_changed: Notify::new(),
            under_way: Cell::new(0),
            work_done: Notify::new(),
            sync_began: Cell::new(None),
            failure_logged: Cell::new(false),
            slot_answers: slots::SlotAnswers::default(),
            reader_left: Notify::new(),
            written_bytes: metrics::counter!("safekeeper_write_wal_bytes_total"),
            sync_seconds: metrics::histogram!("safekeeper_wal_sync_seconds"),
        });
        tokio::task::spawn_local(finish_jobs(Rc::clone(&cluster), finished));
        tokio::task::spawn_local(keep_time(Rc::clone(&cluster)));
        cluster.drive();
        cluster
    }

    pub(crate) fn id(&self) -> ClusterId {
        self.id
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// What IDENTIFY_SYSTEM answers.
    pub(crate) fn identity(&self, uncommitted: bool) -> keeper::SystemIdentity {
        self.inner.borrow().keeper.identity(uncommitted)
    }

    /// What TIMELINE_STATUS answers: (flush LSN, commit LSN).
    pub(crate) fn timeline_status(&self) -> (Lsn, Lsn) {
        self.inner.borrow().keeper.timeline_status()
    }

    pub(crate) fn log_status(&self) -> LogStatusRow {
        self.inner.borrow().keeper.log_status(Instant::now())
    }

    pub(crate) fn view(&self) -> KeeperView {
        self.inner.borrow().keeper.view(Instant::now())
    }

    pub(crate) fn membership(&self) -> Membership {
        self.log_status().membership
    }

    pub(crate) fn pg_version(&self) -> u32 {
        self.log_status().pg_version
    }

    fn new_id(&self) -> u64 {
        let id = self.next_id.get();
        self.next_id.set(id + 1);
        id
    }

    /// A proposer's session begins; its answers go out through `outlet`.
    pub(crate) fn connect_receiver(&self, options: &PushOptions, peer: String, outlet: Rc<Outlet>) -> SessionId {
        let session = SessionId(self.new_id());
        {
            let mut inner = self.inner.borrow_mut();
            if inner.proposers.is_empty() {
                self.context.pace.enter();
            }
            inner.proposers.insert(session, outlet);
            inner.keeper.connect_receiver(session, options.version, options.introduction(), peer);
        }
        self.drive();
        session
    }

    pub(crate) fn disconnect_receiver(&self, session: SessionId) {
        self.event(|keeper, now| keeper.disconnect_receiver(now, session));
        self.forget_proposer(&mut self.inner.borrow_mut(), session);
    }

    fn forget_proposer(&self, inner: &mut Inner, session: SessionId) -> Option<Rc<Outlet>> {
        let outlet = inner.proposers.remove(&session)?;
        if inner.proposers.is_empty() {
            self.context.pace.leave();
        }
        Some(outlet)
    }

    pub(crate) fn wants_push(&self, session: SessionId) -> bool {
        self.inner.borrow().keeper.wants_push(session)
    }

    /// Hands one message over; [`Cluster::drive`] processes what was handed in.
    pub(crate) fn hand_in(&self, session: SessionId, payload: Bytes) {
        self.inner.borrow_mut().keeper.handle_push(Instant::now(), session, payload);
    }

    pub(crate) fn drive(&self) {
        self.event(|keeper, now| keeper.drive(now));
    }

    /// WAL that another safekeeper sent; false once it no longer fits.
    pub(crate) fn hand_in_pulled(&self, term: Term, begin: Lsn, wal: Bytes) -> bool {
        let mut fits = false;
        self.event(|keeper, now| fits = keeper.handle_pulled(now, term, begin, wal));
        fits
    }

    /// Waits until so many more bytes may be written.
    pub(crate) async fn room(&self, bytes: usize) {
        loop {
            let changed = self.work_done.notified();
            if self.inner.borrow().keeper.has_room(bytes) {
                return;
            }
            changed.await;
        }
    }

    pub(crate) fn pull_ended(&self, result: Result<(), String>) {
        self.event(|keeper, now| keeper.handle_pull_ended(now, result));
    }

    /// Tells the keeper that a clean stop is near.
    pub(crate) fn prepare_stop(&self) {
        self.event(|keeper, now| keeper.prepare_stop(now));
    }

    /// Hands an event to the keeper and carries out what it asks for.
    pub(crate) fn event(&self, handle: impl FnOnce(&mut Keeper, Instant)) {
        let mut inner = self.inner.borrow_mut();
        handle(&mut inner.keeper, Instant::now());
        self.carry_out(&mut inner);
        let due = inner.keeper.poll_timeout();
        drop(inner);
        if due.is_some_and(|due| self.alarm.get().is_none_or(|set| due < set)) {
            self.alarm_changed.notify_one();
        }
    }

    fn carry_out(&self, inner: &mut Inner) {
        loop {
            // Appends that arrived together are one vectored write.
            let mut slices = Vec::new();
            let mut first = Lsn::INVALID;
            while let Some((begin, wal)) = inner.keeper.poll_write() {
                if slices.is_empty() {
                    first = begin;
                }
                slices.push(wal);
            }
            if !slices.is_empty() {
                self.write(inner, first, &slices);
                continue;
            }
            let Some(command) = inner.keeper.poll_command() else { break };
            match command {
                Command::Write { begin, wal } => self.write(inner, begin, &[wal]),
                Command::Sync => self.sync(inner),
                Command::PersistControl { ticket, bytes } => self.persist(inner.storage.as_ref(), ticket, bytes),
                Command::Cut { to, first, path, server } => self.cut(inner, to, first, path, server),
                Command::SendPush { session, payload } => {
                    if let Some(outlet) = inner.proposers.get(&session) {
                        outlet.send([frame(&payload)]);
                    }
                }
                Command::ClosePush { session, reason } => {
                    tracing::info!(cluster = %self.name, "session of a proposer ended: {reason}");
                    metrics::counter!("safekeeper_sessions_refused_total").increment(1);
                    if let Some(outlet) = self.forget_proposer(inner, session) {
                        let mut bytes = BytesMut::new();
                        encode::error_response(&Report::fatal(SqlState::INTERNAL_ERROR, reason), &mut bytes);
                        outlet.send([bytes.freeze()]);
                        outlet.finish();
                    }
                }
                Command::SendReader { reader, head, payload } => {
                    if let Some(port) = inner.readers.get(&reader) {
                        port.send([head, payload]);
                    }
                }
                Command::Read { reader, from, max } => {
                    if let Some(port) = inner.readers.get(&reader) {
                        port.request(from, max);
                    }
                }
                Command::CloseReader { reader, reusable } => {
                    if let Some(port) = inner.readers.get(&reader) {
                        port.close(reusable);
                    }
                }
                Command::Pull { term, from, to, members } => {
                    if let Some(cluster) = self.me.upgrade() {
                        pull::start(cluster, &self.context.peers, term, from, to, &members);
                    }
                }
                Command::Call { name, address } => self.call(name, address),
                Command::PersistSlots { ticket, bytes } => self.persist_slots(ticket, bytes),
                Command::RemoveBelow(below) => {
                    if let Some(job) = inner.storage.as_mut().and_then(|storage| storage.remove_below(below)) {
                        self.start(&self.context.background_thread, move || Done::Removed(job.run()));
                    }
                }
            }
        }
        inner.proposers.values().for_each(|outlet| outlet.resume());
    }

    fn dir(&self) -> std::path::PathBuf {
        self.context.data_dir.cluster_dir(self.id)
    }

    /// Puts contiguous slices into the page cache.
    fn write(&self, inner: &mut Inner, begin: Lsn, slices: &[Bytes]) {
        let Inner { keeper, storage: Some(storage), .. } = inner else { return };
        if let Some(reason) = self.context.room.refusal() {
            return keeper.handle_write_refused(Instant::now(), storage.written().lsn(), &reason);
        }
        match storage.append_all(begin, slices) {
            Ok(written) => {
                self.written_bytes.increment(written.lsn().bytes_since(begin));
                if let Some(job) = storage.prepare_job() {
                    self.start(&self.context.background_thread, move || Done::Prepared(job.run()));
                }
            }
            Err(error) if error.is_out_of_space() => {
                if !self.failure_logged.replace(true) {
                    tracing::error!(cluster = %self.name, "no space for WAL, appends are refused until there is: {error}");
                }
                keeper.handle_write_refused(Instant::now(), storage.written().lsn(), &error.to_string());
            }
            Err(error) => self.fail(keeper, &error),
        }
    }

    fn persist(&self, storage: Option<&WalStorage>, ticket: u64, bytes: Vec<u8>) {
        let job = match storage {
            Some(storage) => storage.persist(bytes.clone()),
            None => PersistJob::new(Arc::clone(&self.context.data_dir.disk), &self.dir(), bytes.clone()),
        };
        self.start(&self.context.control_thread, move || Done::Persisted(ticket, bytes, job.run()));
    }

    /// A full disk keeps a promise from being written down, and so from being made; it is tried again until there is room.
    fn persist_later(&self, ticket: u64, bytes: Vec<u8>) {
        let Some(cluster) = self.me.upgrade() else { return };
        tokio::task::spawn_local(async move {
            tokio::time::sleep(SPACE_RETRY).await;
            cluster.persist(cluster.inner.borrow().storage.as_ref(), ticket, bytes);
        });
    }

    /// Starts blocking work; [`Cluster::finish`] takes what comes of it.
    fn start(&self, thread: &JobThread, work: impl FnOnce() -> Done + Send + 'static) {
        self.under_way.set(self.under_way.get() + 1);
        thread.run(work, self.done.clone());
    }

    /// Waits until no blocking work is under way.
    pub(crate) async fn idle(&self) {
        loop {
            let changed = self.work_done.notified();
            if self.under_way.get() == 0 {
                return;
            }
            changed.await;
        }
    }

    fn sync(&self, inner: &mut Inner) {
        let job = inner.storage.as_mut().and_then(WalStorage::start_sync);
        let Some(job) = job else {
            let error = "a sync was asked for with nothing to sync";
            inner.keeper.handle_failed(Instant::now(), error);
            return;
        };
        let now = Instant::now();
        self.sync_began.set(Some(now));
        let Inner { keeper, storage: Some(storage), .. } = inner else { return };
        if !self.context.pace.in_place(now, job.to().bytes_since(storage.durable().lsn())) {
            return self.start(&self.context.disk_thread, move || Done::Synced(job.run()));
        }
        match job.run() {
            Ok(done) => self.synced(keeper, storage, done),
            Err(error) => self.fail(keeper, &error),
        }
    }

    fn synced(&self, keeper: &mut Keeper, storage: &mut WalStorage, done: SyncDone) {
        let now = Instant::now();
        if let Some(began) = self.sync_began.take() {
            let took = now.duration_since(began);
            self.sync_seconds.record(took.as_secs_f64());
            self.context.pace.note(now, took);
        }
        let durable = storage.finish_sync(done);
        self.failure_logged.set(false);
        keeper.handle_synced(now, durable);
    }

    fn cut(&self, inner: &mut Inner, to: Lsn, first: bool, path: Path, server: ServerInfo) {
        if first || inner.storage.is_none() {
            match self.begin_log(path.clone(), server, to) {
                Ok(storage) => inner.storage = Some(storage),
                Err(reason) => return inner.keeper.handle_failed(Instant::now(), &reason),
            }
        }
        let Inner { keeper, storage: Some(storage), .. } = inner else { return };
        match storage.start_cut_on(to, path) {
            Ok(job) => self.start(&self.context.disk_thread, move || Done::Cut(job.run())),
            Err(error) => self.fail(keeper, &error),
        }
    }

    /// Storage for a log whose first byte will be at `at`.
    fn begin_log(&self, path: Path, server: ServerInfo, at: Lsn) -> Result<WalStorage, String> {
        let segment_size = SegmentSize::new(server.segment_size.into()).map_err(|error| error.to_string())?;
        let disk = Arc::clone(&self.context.data_dir.disk);
        let found =
            Unrecovered::open(disk, &self.dir(), Layout::new(segment_size, path)).map_err(|error| error.to_string())?;
        let floor = Floor { lsn: Lsn::INVALID, log_start: Lsn::INVALID, system_id: None };
        let (mut storage, _) = found.recover(floor).map_err(|error| error.to_string())?;
        let begun = if segment_size.offset_of(at) == 0 {
            storage.start_at(at)
        } else {
            let magic = magic_for_version_num(server.pg_version);
            let magic = magic.ok_or("a log cannot begin inside a segment while the PostgreSQL version is unknown")?;
            storage.start_inside(at, server.system_id, magic)
        };
        begun.map_err(|error| error.to_string())?;
        Ok(storage)
    }

    fn fail(&self, keeper: &mut Keeper, error: &wal_storage::Error) {
        tracing::error!(cluster = %self.name, "cluster stopped on this safekeeper until a restart: {error}");
        metrics::counter!("safekeeper_disk_failures_total").increment(1);
        keeper.handle_failed(Instant::now(), &error.to_string());
    }

    fn finish(&self, done: Done) {
        let mut guard = self.inner.borrow_mut();
        let inner = &mut *guard;
        let now = Instant::now();
        let keeper = &mut inner.keeper;
        match (done, &mut inner.storage) {
            (Done::Synced(Ok(done)), Some(storage)) => self.synced(keeper, storage, done),
            (Done::Persisted(ticket, _, Ok(())), _) => keeper.handle_persisted(now, ticket),
            (Done::Persisted(ticket, bytes, Err(error)), _) if error.is_out_of_space() => {
                if !self.failure_logged.replace(true) {
                    tracing::error!(cluster = %self.name, "no space for the control file, nothing is promised until there is: {error}");
                }
                self.persist_later(ticket, bytes);
            }
            (Done::Cut(Ok(done)), Some(storage)) => {
                let durable = storage.finish_cut(done);
                keeper.handle_cut(now, durable);
            }
            (Done::Prepared(Ok(done)), Some(storage)) => {
                // Without room the segment is made when it is needed, or the append is refused then.
                if let Err(error) = storage.finish_prepare(done) {
                    tracing::warn!(cluster = %self.name, "the next WAL segment is not ready: {error}");
                }
            }
            (Done::Prepared(Err(error)), _) if error.is_out_of_space() => {
                tracing::warn!(cluster = %self.name, "no space for the next WAL segment: {error}");
            }
            (Done::Removed(Ok(done)), Some(storage)) => {
                storage.finish_remove(done);
                keeper.handle_removed(storage.oldest());
            }
            (Done::Synced(Err(error)) | Done::Persisted(_, _, Err(error)) | Done::Cut(Err(error)), _)
            | (Done::Prepared(Err(error)) | Done::Removed(Err(error)), _) => self.fail(keeper, &error),
            (Done::Synced(_) | Done::Cut(_) | Done::Prepared(_) | Done::Removed(_), None) => {}
        }
        drop(guard);
        self.under_way.set(self.under_way.get() - 1);
        self.work_done.notify_waiters();
        self.drive();
    }
}

fn keeper_options(context: &ClusterContext, max_wal: u64) -> KeeperOptions {
    let clock = (Instant::now(), SystemTime::now().into());
    KeeperOptions { identity: context.data_dir.identity, max_wal, max_slot_wal: context.max_slot_wal, clock }
}

fn frame(payload: &Bytes) -> Bytes {
    let mut bytes = BytesMut::with_capacity(payload.len() + 5);
    encode::copy_data(payload, &mut bytes);
    bytes.freeze()
}

/// Takes completions as they come. All that are there are handled before anything else runs.
async fn finish_jobs(cluster: Rc<Cluster>, mut finished: mpsc::UnboundedReceiver<Done>) {
    while let Some(done) = finished.recv().await {
        cluster.finish(done);
    }
}

/// Calls the keeper when a moment it named has come.
async fn keep_time(cluster: Rc<Cluster>) {
    loop {
        let due = cluster.inner.borrow().keeper.poll_timeout();
        cluster.alarm.set(due);
        let Some(due) = due else {
            cluster.alarm_changed.notified().await;
            continue;
        };
        tokio::select! {
            () = tokio::time::sleep_until(due.into()) => cluster.event(|keeper, now| keeper.handle_timeout(now)),
            () = cluster.alarm_changed.notified() => {}
        }
    }
}
