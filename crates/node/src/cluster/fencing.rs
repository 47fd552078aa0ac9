//! Setting and lifting a cluster's fence: the answer leaves once it is durable.

use super::Cluster;
use pq_proto::SqlState;
use pq_proto::backend::Report;
use quorum_proto::FenceCommand;

impl Cluster {
    /// Carries a FENCE command out and waits until it is durable.
    pub(crate) async fn fence(&self, command: FenceCommand) -> Result<(), Report> {
        let not_now = |text: String| Report::error(SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE, text);
        let mut asked = Ok(None);
        self.event(|keeper, now| {
            asked = match command {
                FenceCommand::Set(fence) => {
                    let line = fence.line.to_string();
                    keeper.set_fence(now, fence).map(|ticket| Some((ticket, line)))
                }
                FenceCommand::Lift(epoch) => {
                    Ok(keeper.lift_fence(now, epoch).map(|ticket| (ticket, "lifted".to_owned())))
                }
            };
        });
        let Some((ticket, what)) = asked.map_err(|refusal| not_now(refusal.to_string()))? else { return Ok(()) };
        loop {
            let changed = self.work_done.notified();
            {
                let inner = self.inner.borrow();
                if inner.keeper.is_persisted(ticket) {
                    break;
                }
                if let Some(reason) = inner.keeper.stopped() {
                    return Err(not_now(format!("this cluster stopped on this safekeeper: {reason}")));
                }
            }
            changed.await;
        }
        tracing::info!(cluster = self.name(), "fence: {what}");
        Ok(())
    }
}
