//! What peers say of a cluster, handed to its keeper.

use super::Cluster;
use lsn::{Lsn, NodeId};
use quorum_proto::Promise;

impl Cluster {
    /// The log was here before this start: its peers are asked about it before it votes.
    pub(crate) fn hold_votes(&self) {
        self.event(|keeper, now| keeper.hold_votes(now));
    }

    /// Whether votes wait for peers.
    pub(crate) fn holds_votes(&self) -> bool {
        self.inner.borrow().keeper.holds_votes()
    }

    /// A peer was asked what this disk had promised before this run.
    pub(crate) fn handle_remembered(&self, peer: NodeId, remembered: Promise) {
        let mut forgotten = false;
        self.event(|keeper, now| forgotten = keeper.handle_remembered(now, peer, remembered));
        if forgotten {
            tracing::error!(
                cluster = self.name(),
                "this disk holds less than safekeeper {peer} remembers of it ({remembered}): it is an older copy of itself or lost \
                 writes, and does not vote until it has learned what it lost"
            );
            metrics::counter!("safekeeper_forgotten_total").increment(1);
        }
    }

    /// The highest commit LSN among the peers that answer.
    pub(crate) fn handle_peers(&self, best_commit: Lsn) {
        self.event(|keeper, now| keeper.handle_peers(now, best_commit));
    }

    /// What this disk has promised, durably; `None` while something is on its way to the disk.
    pub(crate) fn promise(&self) -> Option<Promise> {
        self.inner.borrow().keeper.promise()
    }

    /// Counts up with every change of what LOG_STATUS shows of this cluster.
    pub(crate) fn version(&self) -> u64 {
        self.inner.borrow().keeper.version()
    }
}
