//! WAL that went from the local disk because it is archived: who knows what is in the archive, and reading it back.
//!
//! Only the uploader knows what the archive holds. It tells the others with its row of LOG_STATUS, and every safekeeper tells its keeper,
//! which decides what may go. What one was told stays true until retention deletes from the archive, so nobody has to repeat it.

use super::Archiving;
use crate::cluster::Cluster;
use crate::registry::Registry;
use ::archive::wal::{OldWal, WalStatus};
use bytes::Bytes;
use lsn::Lsn;
use quorum_proto::Archived;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;

/// What nobody has read for so long is not kept in memory.
const FORGET_AFTER: Duration = Duration::from_secs(30);

/// What an uploader knows.
pub(super) fn known(status: &WalStatus) -> Option<Archived> {
    let (from, to) = (status.archived_from, status.archived);
    (status.uploading && from.is_valid() && from < to).then_some(Archived { from, to })
}

/// Tells the keeper, and the peers, what is known of the archive: by this safekeeper if it uploads, else by the best informed peer.
pub(super) fn tell(registry: &Registry, cluster: &Cluster, own: Option<Archived>) {
    let live = registry.peers().live(cluster.id());
    let told = live.iter().filter_map(|peer| peer.log.archived);
    cluster.note_archived(own, told.chain(own).max_by_key(|archived| archived.to));
}

impl Archiving {
    /// Whether WAL of the cluster of this name can be read back here.
    pub(crate) fn can_read(&self, cluster: &str) -> bool {
        self.is_readable && self.place_of(cluster).is_some()
    }

    /// Up to `max` bytes of archived WAL from `from` on; `None` if the archive does not have the byte there, or there is no archive.
    pub(crate) async fn read_old(&self, cluster: &Cluster, from: Lsn, max: usize) -> Result<Option<Bytes>, String> {
        let (Some(thread), Some(place)) = (&self.thread, self.place(cluster).filter(|_| self.is_readable)) else {
            return Ok(None);
        };
        let Some(log) = cluster.old_log() else { return Ok(None) };
        let archive = place.archive.clone();
        let old =
            Arc::clone(self.old.borrow_mut().entry(cluster.id()).or_insert_with(|| Arc::new(OldWal::new(archive))));
        let (answer, answered) = oneshot::channel();
        thread.run(async move {
            // The reader may have gone; what was fetched is kept for the next one.
            let _ = answer.send(old.read(&log, from, max).await);
        });
        match answered.await {
            Ok(Ok(bytes)) => Ok(bytes),
            Ok(Err(error)) => Err(format!("cannot read WAL at {from} back from the archive: {error}")),
            Err(_) => Err("the archive's thread has ended".to_owned()),
        }
    }

    pub(super) fn tidy_up(&self, registry: &Registry) {
        let mut old = self.old.borrow_mut();
        old.retain(|id, _| registry.get(*id).is_some());
        old.values().for_each(|old| old.forget_unused(FORGET_AFTER));
    }
}
