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
mod storing;

pub(crate) use archive::Extent;

use crate::data_dir::DataDir;
use crate::jobs::JobThread;
use crate::pace::Pace;
use crate::pull;
use crate::reading::ReaderPort;
use crate::room::Room;
use crate::wire::Outlet;
use bytes::{Bytes, BytesMut};
use consensus::{AcceptorState, Membership, SessionId};
use keeper::{Command, FoundLog, Keeper, KeeperOptions, KeeperView, Opening, ReaderId};
use lsn::{ClusterId, Lsn, Term};
use pq_proto::SqlState;
use pq_proto::backend::{Report, encode};
use quorum_proto::{Archived, LogStatusRow, PushOptions};
use std::cell::{Cell, OnceCell, RefCell};
use std::collections::HashMap;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::{Instant, SystemTime};
use tokio::sync::{Notify, mpsc};
use wal_storage::{CutDone, PrepareDone, RemoveDone, SyncDone, Unrecovered, WalStorage};

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
    /// How much WAL stays though it is archived, in bytes.
    pub(crate) min_wal: u64,
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
    /// Once its era has ended.
    renamed: OnceCell<String>,
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
    /// What the archive holds: known here because this safekeeper uploads, and what the keeper was told last.
    archived_own: Cell<Option<Archived>>,
    archived_told: Cell<Option<Archived>>,
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
        let Some(opening) = Opening::of(&state).map_err(|error| error.to_string())? else {
            return Ok(Cluster::empty(context, state, max_wal));
        };
        let (id, name) = (state.cluster, state.name.clone());
        let segment_size = opening.layout.segment_size;
        let (disk, dir) = (Arc::clone(&context.data_dir.disk), context.data_dir.cluster_dir(id));
        let Opening { layout, cut, floor } = opening.clone();
        let recover = move || {
            let found = Unrecovered::open(disk, &dir, layout)?;
            if let Some(to) = cut {
                found.cut(to).run()?;
            }
            found.recover(floor)
        };
        let recovered = tokio::task::spawn_blocking(recover).await.map_err(|error| error.to_string())?;
        let (storage, recovered) = recovered.map_err(|error| error.to_string())?;
        let found = opening.found(&storage, &recovered);
        let end = found.end;
        if let Some(damage) = &recovered.damage {
            tracing::error!(cluster = %name, %end, "the log is damaged and does not vote until it has learned what it lost: {damage}");
        }
        let kept = if context.archiving.can_read(&name) { context.min_wal.min(max_wal) } else { max_wal };
        let kept_from = segment_size.start_of_segment_at(Lsn(end.0.saturating_sub(kept)).max(state.log_start));
        if found.oldest > kept_from {
            let oldest = found.oldest;
            tracing::warn!(cluster = %name, "WAL from {kept_from} to {oldest} is not here: removed under smaller limits, or lost");
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
        if context.archiving.can_read(&name) {
            keeper.use_archive(context.min_wal);
        }
        slots::load(&*context.data_dir.disk, &context.data_dir.cluster_dir(id), id, &mut keeper);
        let (done, finished) = mpsc::unbounded_channel();
        let inner = Inner { keeper, storage, proposers: HashMap::new(), readers: HashMap::new() };
        let cluster = Rc::new_cyclic(|me| Cluster {
            me: me.clone(),
            id,
            name,
            renamed: OnceCell::new(),
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
            archived_own: Cell::new(None),
            archived_told: Cell::new(None),
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
