//! Membership of one cluster: what MEMBERS asks for.

use super::Cluster;
use consensus::Membership;
use lsn::Lsn;
use quorum_proto::{LogStatusRow, RecordTaken, Wish};
use std::time::Duration;

/// How long an election under way, or a slow disk, may hold a record up.
const TAKEN_WITHIN: Duration = Duration::from_secs(10);

impl Cluster {
    /// Its name; once its era has ended, that of the era.
    pub(crate) fn name(&self) -> &str {
        self.renamed.get().unwrap_or(&self.name)
    }

    /// Gives an era that has ended another name; it is durable when this returns. Once is enough, so twice is refused.
    pub(crate) async fn rename(&self, name: &str) -> Result<(), String> {
        if self.name() == name {
            return Ok(());
        }
        if self.renamed.get().is_some() {
            return Err(format!("this era was named {} already", self.name()));
        }
        let mut asked = None;
        self.event(|keeper, now| asked = Some(keeper.rename(now, name.to_owned())));
        let ticket = asked.ok_or("the cluster is stopping")?.map_err(|refusal| refusal.to_string())?;
        tokio::time::timeout(TAKEN_WITHIN, self.persisted(ticket))
            .await
            .unwrap_or_else(|_| Err(format!("it could not be made durable within {TAKEN_WITHIN:?}")))?;
        tracing::info!(before = self.name, name, "the era has ended, and has another name");
        let _ = self.renamed.set(name.to_owned());
        Ok(())
    }

    /// Takes a record; it is durable when this returns.
    pub(crate) async fn take_record(&self, record: Membership) -> Result<RecordTaken, String> {
        let taken = async {
            loop {
                let changed = self.work_done.notified();
                let mut result = None;
                self.event(|keeper, now| result = Some(keeper.handle_record(now, record.clone())));
                match result {
                    Some(Err(consensus::RecordRefusal::Busy)) => changed.await,
                    Some(Err(refusal)) => return Err(refusal.to_string()),
                    Some(Ok(ticket)) => return self.persisted(ticket).await,
                    None => return Err("the cluster is stopping".to_owned()),
                }
            }
        };
        let late = |_| Err(format!("the record could not be made durable within {TAKEN_WITHIN:?}"));
        tokio::time::timeout(TAKEN_WITHIN, taken).await.unwrap_or_else(late)
    }

    async fn persisted(&self, ticket: u64) -> Result<RecordTaken, String> {
        loop {
            let changed = self.work_done.notified();
            {
                let keeper = &self.inner.borrow().keeper;
                if keeper.has_persisted(ticket) {
                    return Ok(keeper.record_taken());
                }
                if let Some(reason) = keeper.stopped() {
                    return Err(format!("the cluster stopped here: {reason}"));
                }
            }
            changed.await;
        }
    }

    /// Passes a wish on to the leader; false if none leads here.
    pub(crate) fn forward_wish(&self, wish: &Wish) -> bool {
        let mut forwarded = false;
        self.event(|keeper, now| forwarded = keeper.forward_wish(now, wish));
        forwarded
    }

    /// A member told its log: a learner follows it.
    pub(crate) fn handle_members_log(&self, row: &LogStatusRow, oldest: Lsn) {
        self.event(|keeper, now| keeper.handle_members_log(now, row, oldest));
    }

    /// First byte that is still here; `None` while the log is empty.
    pub(crate) fn oldest(&self) -> Option<Lsn> {
        Some(self.inner.borrow().keeper.oldest()).filter(|oldest| oldest.is_valid())
    }

    /// The first byte that can be read through this safekeeper, here or in the archive.
    pub(crate) fn reachable(&self) -> Lsn {
        self.inner.borrow().keeper.reachable()
    }

    /// Takes a damaged log as it is; durable when this returns.
    pub(crate) async fn accept(&self, end: Lsn) -> Result<RecordTaken, String> {
        let mut ticket = None;
        self.event(|keeper, now| ticket = keeper.handle_accepted(now, end));
        let ticket = ticket.ok_or_else(|| format!("the log here is not damaged, or does not end at {end}"))?;
        tracing::warn!(cluster = self.name(), %end, "a damaged log was accepted as it is");
        tokio::time::timeout(TAKEN_WITHIN, self.persisted(ticket))
            .await
            .unwrap_or_else(|_| Err(format!("it could not be made durable within {TAKEN_WITHIN:?}")))
    }

    /// Whether the record names this safekeeper's disk.
    pub(crate) fn is_member(&self) -> bool {
        self.inner.borrow().keeper.is_member()
    }

    /// Ends everything this cluster does here, for its removal; returns once no work is under way.
    pub(crate) async fn end(&self, reason: &str) {
        self.event(|keeper, now| keeper.handle_failed(now, reason));
        self.idle().await;
    }
}
