//! Readers of a cluster: their sessions, and where their bytes come from.

use super::Cluster;
use crate::calling;
use crate::reading::ReaderPort;
use bytes::Bytes;
use keeper::{ReaderId, ReaderOptions};
use lsn::Lsn;
use pq_proto::backend::Report;
use std::rc::Rc;
use wal_storage::{WalReader, WalStorage};

/// A reader's entry in the registry. Dropping it takes the entry out, however the session ended: its slot is free again, its
/// part in the feedback is withdrawn.
#[derive(Debug)]
pub(crate) struct ReaderGuard {
    cluster: Rc<Cluster>,
    id: ReaderId,
}

impl ReaderGuard {
    /// The session's number.
    pub(crate) fn id(&self) -> ReaderId {
        self.id
    }
}

impl Drop for ReaderGuard {
    fn drop(&mut self) {
        self.cluster.event(|keeper, now| keeper.disconnect_reader(now, self.id));
        self.cluster.inner.borrow_mut().readers.remove(&self.id);
        self.cluster.reader_left.notify_waiters();
    }
}

impl Cluster {
    /// A reader's session begins, or is refused before anything is sent.
    pub(crate) fn connect_reader(
        self: &Rc<Cluster>,
        port: Rc<ReaderPort>,
        options: ReaderOptions,
    ) -> Result<ReaderGuard, Report> {
        let id = ReaderId(self.new_id());
        self.inner.borrow_mut().readers.insert(id, port);
        let guard = ReaderGuard { cluster: Rc::clone(self), id };
        let mut result = Ok(());
        self.event(|keeper, now| result = keeper.connect_reader(now, id, options));
        result.map(|()| guard)
    }

    /// Who may be called back.
    pub(crate) fn call_back_hosts(&self) -> &[String] {
        &self.context.call_back_hosts
    }

    /// Calls a consumer that sleeps.
    pub(super) fn call(&self, name: String, address: String) {
        let (cluster, outgoing) = (self.name.clone(), Rc::clone(&self.context.outgoing));
        tokio::task::spawn_local(async move {
            let outcome = calling::call(&address, &outgoing).await;
            let result = if outcome.is_ok() { "answered" } else { "failed" };
            metrics::counter!("seawall_call_backs_total", "result" => result).increment(1);
            match outcome {
                Ok(()) => tracing::info!(%cluster, consumer = name, "called, because WAL waits for it"),
                Err(problem) => {
                    tracing::info!(%cluster, consumer = name, "WAL waits for it and it cannot be called: {problem}")
                }
            }
        });
    }

    /// What is shown to other safekeepers.
    pub(crate) fn outgoing(&self) -> &auth::Outgoing {
        &self.context.outgoing
    }

    /// Why readers of committed WAL should go to another safekeeper, if so.
    pub(crate) fn reader_refusal(&self) -> Option<String> {
        self.inner.borrow().keeper.reader_refusal().map(str::to_owned)
    }

    /// The content of a TLI's history file, if it has one that may be shown.
    pub(crate) fn history_file(&self, tli: lsn::Tli) -> Option<Vec<u8>> {
        self.inner.borrow().keeper.history_file(tli)
    }

    /// Recent WAL from memory, up to `max` bytes from `from`; `None` if it is not there any more.
    pub(crate) fn read_recent(&self, from: Lsn, max: usize) -> Option<Vec<Bytes>> {
        self.inner.borrow().storage.as_ref()?.read_recent(from, max)
    }

    /// Reads WAL files, for old WAL; blocking.
    pub(crate) fn file_reader(&self) -> Option<WalReader> {
        self.inner.borrow().storage.as_ref().map(WalStorage::reader)
    }
}
