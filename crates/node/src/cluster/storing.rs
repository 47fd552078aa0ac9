//! A cluster's blocking work: what it writes, syncs, cuts and removes, and what comes of it.

use super::{Cluster, Done, Inner};
use crate::jobs::JobThread;
use bytes::Bytes;
use consensus::ServerInfo;
use keeper::Keeper;
use lsn::{Lsn, Path, SegmentSize};
use std::sync::Arc;
use std::time::{Duration, Instant};
use wal_format::magic_for_version_num;
use wal_storage::{Floor, Layout, PersistJob, SyncDone, Unrecovered, WalStorage};

/// How soon a control-file write is tried again when the disk was full.
const SPACE_RETRY: Duration = Duration::from_secs(1);

impl Cluster {
    pub(super) fn dir(&self) -> std::path::PathBuf {
        self.context.data_dir.cluster_dir(self.id)
    }

    /// Puts contiguous slices into the page cache.
    pub(super) fn write(&self, inner: &mut Inner, begin: Lsn, slices: &[Bytes]) {
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

    pub(super) fn persist(&self, storage: Option<&WalStorage>, ticket: u64, bytes: Vec<u8>) {
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
    pub(super) fn start(&self, thread: &JobThread, work: impl FnOnce() -> Done + Send + 'static) {
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

    pub(super) fn sync(&self, inner: &mut Inner) {
        let job = inner.storage.as_mut().and_then(WalStorage::start_sync);
        let Some(job) = job else {
            // A job that failed may not have come back yet; its reason is the one to tell.
            let failed = inner.storage.as_ref().and_then(|storage| storage.check().err());
            match failed {
                Some(error) => self.fail(&mut inner.keeper, &error),
                None => inner.keeper.handle_failed(Instant::now(), "a sync was asked for with nothing to sync"),
            }
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

    pub(super) fn cut(&self, inner: &mut Inner, to: Lsn, first: bool, path: Path, server: ServerInfo) {
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
        // One failure may come back from several jobs.
        if keeper.stopped().is_none() {
            metrics::counter!("safekeeper_disk_failures_total").increment(1);
        }
        keeper.handle_failed(Instant::now(), &error.to_string());
    }

    pub(super) fn finish(&self, done: Done) {
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
