//! What the archive is told of a cluster, and what it tells.

use super::Cluster;
use ::archive::wal::{CommittedLog, OldLog, tracks};
use bytes::Bytes;
use lsn::{Lsn, Path, SegmentSize, SystemId, Tli};
use quorum_proto::{Archived, LogState};
use replica_client::{Era, EraName};
use std::collections::BTreeMap;
use std::rc::Rc;
use wal_storage::WalStorage;

/// Positions whose movement is worth a closer look.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Extent {
    /// First byte that is here.
    pub(crate) oldest: Lsn,
    /// Committed and durable here up to this position.
    pub(crate) end: Lsn,
}

impl Cluster {
    /// Where its committed WAL begins and ends here. Cheap.
    pub(crate) fn extent(&self) -> Extent {
        let inner = self.inner.borrow();
        let (flush, commit) = inner.keeper.timeline_status();
        Extent { oldest: inner.storage.as_ref().map_or(Lsn::INVALID, WalStorage::oldest), end: flush.min(commit) }
    }

    /// Whether this safekeeper is a member whose word counts.
    pub(crate) fn counts(&self) -> bool {
        self.log_status().state == LogState::Member
    }

    /// Its committed WAL as the archive is to have it, and whether this safekeeper counts; `None` while there is none.
    pub(crate) fn committed_log(&self, known: &BTreeMap<Tli, Bytes>) -> Option<(CommittedLog, bool)> {
        let row = self.log_status();
        let extent = self.extent();
        let path: Path = self.inner.borrow().keeper.public_path(false)?;
        if extent.end <= extent.oldest || row.system_id == SystemId(0) {
            return None;
        }
        let segment_size = SegmentSize::new(row.segment_size.into()).ok()?;
        let name = EraName::parse(&self.id.timeline_hex()).ok()?;
        let era = Era {
            system_id: row.system_id,
            name,
            segment_size,
            server_version: row.pg_version,
            cluster: self.name.clone(),
            previous: None,
        };
        let history = |tli: Tli| match known.get(&tli) {
            Some(content) => Some((tli, content.clone())),
            None => Some((tli, self.inner.borrow().keeper.history_file(tli)?.into())),
        };
        let histories = path.entries().iter().skip(1).filter_map(|entry| history(entry.tli)).collect();
        let counts = row.state == LogState::Member;
        Some((CommittedLog { era, path, oldest: extent.oldest, end: extent.end, histories }, counts))
    }

    /// Takes what is known of the archive: `own` as the uploader, to tell the peers, and the best there is.
    pub(crate) fn note_archived(&self, own: Option<Archived>, best: Option<Archived>) {
        self.archived_own.set(own);
        if let Some(archived) = best.filter(|archived| self.archived_told.replace(Some(*archived)) != Some(*archived)) {
            self.event(|keeper, now| keeper.handle_archived(now, archived));
        }
    }

    /// What the archive holds, if this safekeeper is the one who uploads.
    pub(crate) fn archived(&self) -> Option<Archived> {
        self.archived_own.get()
    }

    /// Reads WAL that is not on this disk.
    pub(crate) async fn read_archived(&self, from: Lsn, max: usize) -> Result<Option<Bytes>, String> {
        let archiving = Rc::clone(&self.context.archiving);
        archiving.read_old(self, from, max).await
    }

    /// Its log as the archive knows it; `None` before the first leader.
    pub(crate) fn old_log(&self) -> Option<OldLog> {
        let row = self.log_status();
        let size = SegmentSize::new(row.segment_size.into()).ok()?;
        // Where the newest TLI ends is not known here; nothing above the commit LSN is archived.
        let path = self.inner.borrow().keeper.public_path(true)?;
        let era = EraName::parse(&self.id.timeline_hex()).ok()?;
        let known = row.system_id != SystemId(0);
        known.then(|| OldLog { system_id: row.system_id, era, tracks: tracks(&path, Lsn::MAX, size) })
    }
}
