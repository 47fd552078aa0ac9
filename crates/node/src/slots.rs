//! CREATE_REPLICATION_SLOT and DROP_REPLICATION_SLOT: commands whose answer waits for a disk, or for another reader.

use crate::cluster::Cluster;
use crate::wire::Inlet;
use bytes::{Bytes, BytesMut};
use keeper::SlotKind;
use pq_proto::SqlState;
use pq_proto::backend::{Report, encode};
use pq_proto::command::Command;
use std::rc::Rc;
use walsender::answers;

/// The whole answer, ReadyForQuery included, or the error to answer with; `None` if the client went while it waited.
pub(crate) async fn answer(
    cluster: &Rc<Cluster>,
    command: Command,
    connection: u32,
    inlet: &mut Inlet,
) -> Option<Result<Bytes, Report>> {
    let mut out = BytesMut::new();
    let done = match command {
        Command::CreateReplicationSlot { slot, temporary, reserve_wal } => {
            let kind = if temporary { SlotKind::Temporary(connection) } else { SlotKind::Persistent };
            let created = cluster.create_slot(&slot, kind, reserve_wal).await;
            created.map(|()| answers::create_replication_slot(&slot, &mut out))
        }
        Command::DropReplicationSlot { slot, wait } => {
            let dropped =
                if wait { drop_when_free(cluster, &slot, inlet).await? } else { cluster.drop_slot(&slot).await };
            dropped.map(|()| answers::drop_replication_slot(&mut out))
        }
        _ => Err(Report::error(SqlState::INTERNAL_ERROR, "this command is not about slots")),
    };
    encode::ready_for_query(&mut out);
    Some(done.map(|()| out.freeze()))
}

/// Drops a slot as soon as no reader uses it; `None` if the client does not wait that long.
async fn drop_when_free(cluster: &Rc<Cluster>, slot: &str, inlet: &mut Inlet) -> Option<Result<(), Report>> {
    let mut may_read = true;
    loop {
        match cluster.drop_slot(slot).await {
            Err(report) if report.code == SqlState::OBJECT_IN_USE => {}
            done => return Some(done),
        }
        tokio::select! {
            () = cluster.reader_left() => {}
            read = inlet.read_more(), if may_read => match read {
                // What it says next is taken after the answer; more of it is left to TCP.
                Ok(true) => may_read = false,
                Ok(false) | Err(_) => return None,
            },
        }
    }
}
