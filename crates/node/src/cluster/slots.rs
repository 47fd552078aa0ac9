//! Replication slots of a cluster: their record on disk, and the commands that make, read and drop them.
//!
//! The record stands in `<cluster>/slots/control`, framed and replaced like every control file, apart from the cluster's own
//! so that a slot that moves never holds up a vote. An answer waits until the record that includes its change is durable.

use super::Cluster;
use disk::Disk;
use keeper::{Keeper, SlotKind};
use lsn::ClusterId;
use pq_proto::SqlState;
use pq_proto::backend::Report;
use std::cell::RefCell;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};
use wal_storage::{ControlFile, PersistJob};
use walsender::answers::SlotFound;

/// Those who wait for a record to be durable, with the ticket of the change they made.
type Waiting = Vec<(u64, oneshot::Sender<Result<(), String>>)>;

/// Answers that wait.
#[derive(Debug, Default)]
pub(crate) struct SlotAnswers(RefCell<Waiting>);

impl SlotAnswers {
    /// The record of `ticket` and everything before it is durable, or is not.
    fn release(&self, ticket: u64, result: &Result<(), String>) {
        let mut waiting = self.0.borrow_mut();
        let (ready, later) = std::mem::take(&mut *waiting).into_iter().partition(|(wanted, _)| *wanted <= ticket);
        *waiting = later;
        let ready: Waiting = ready;
        for (_, waiter) in ready {
            // Its connection may have ended.
            let _ = waiter.send(result.clone());
        }
    }
}

fn slots_dir(cluster_dir: &Path) -> PathBuf {
    cluster_dir.join("slots")
}

/// Gives a keeper the slots that were written down. Without them WAL may go earlier; that keeps nothing else from working.
pub(super) fn load(disk: &dyn Disk, cluster_dir: &Path, id: ClusterId, keeper: &mut Keeper) {
    let loaded = ControlFile::load(disk, &slots_dir(cluster_dir)).map_err(|error| error.to_string());
    let taken = loaded.and_then(|bytes| match bytes {
        Some(bytes) => keeper.load_slots(&bytes).map_err(|error| error.to_string()),
        None => Ok(()),
    });
    if let Err(error) = taken {
        tracing::error!(cluster = %id, "replication slots are lost, create them anew: {error}");
    }
}

fn write(disk: Arc<dyn Disk>, cluster_dir: &Path, bytes: Vec<u8>) -> Result<(), String> {
    let dir = slots_dir(cluster_dir);
    let io = |error: io::Error| format!("cannot make {}: {error}", dir.display());
    disk.create_dir_all(&dir).map_err(io)?;
    disk.sync_directory(cluster_dir).map_err(io)?;
    PersistJob::new(disk, &dir, bytes).run().map_err(|error| error.to_string())
}

impl Cluster {
    /// Writes the record of slots down and tells the keeper, then those who wait.
    pub(super) fn persist_slots(&self, ticket: u64, bytes: Vec<u8>) {
        let Some(cluster) = self.me.upgrade() else { return };
        let (disk, dir) = (Arc::clone(&self.context.data_dir.disk), self.dir());
        let (done, mut finished) = mpsc::unbounded_channel();
        self.context.control_thread.run(move || write(disk, &dir, bytes), done);
        tokio::task::spawn_local(async move {
            let Some(result) = finished.recv().await else { return };
            if let Err(error) = &result {
                tracing::error!(cluster = %cluster.name, "cannot write replication slots down: {error}");
            }
            cluster.event(|keeper, now| keeper.handle_slots_persisted(now, result.is_ok()));
            cluster.slot_answers.release(ticket, &result);
        });
    }

    /// CREATE_REPLICATION_SLOT; durable when it returns.
    pub(crate) async fn create_slot(&self, name: &str, kind: SlotKind, reserve: bool) -> Result<(), Report> {
        self.change_slots(|keeper, now| keeper.create_slot(now, name, kind, reserve)).await
    }

    /// DROP_REPLICATION_SLOT; durable when it returns.
    pub(crate) async fn drop_slot(&self, name: &str) -> Result<(), Report> {
        self.change_slots(|keeper, now| keeper.drop_slot(now, name)).await
    }

    async fn change_slots(
        &self,
        change: impl FnOnce(&mut Keeper, std::time::Instant) -> Result<Option<u64>, Report>,
    ) -> Result<(), Report> {
        let (waiter, answer) = oneshot::channel();
        let mut changed = Ok(None);
        self.event(|keeper, now| {
            changed = change(keeper, now);
            if let Ok(Some(ticket)) = changed {
                self.slot_answers.0.borrow_mut().push((ticket, waiter));
            }
        });
        if changed?.is_none() {
            return Ok(());
        }
        let failed = |text: String| {
            let code = SqlState::new("58030").unwrap_or(SqlState::INTERNAL_ERROR);
            Report::error(code, format!("the slot could not be written down: {text}"))
        };
        answer.await.unwrap_or_else(|_| Err("the safekeeper is stopping".to_owned())).map_err(failed)
    }

    /// READ_REPLICATION_SLOT.
    pub(crate) fn read_slot(&self, name: &str) -> SlotFound {
        self.inner.borrow().keeper.read_slot(name)
    }

    /// A connection ended: its temporary slots go.
    pub(crate) fn end_connection(self: &Rc<Cluster>, connection: u32) {
        self.event(|keeper, now| keeper.end_connection(now, connection));
    }

    /// Waits until some reader has left.
    pub(crate) async fn reader_left(&self) {
        self.reader_left.notified().await;
    }
}
