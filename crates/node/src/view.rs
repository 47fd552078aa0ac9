//! What people and Prometheus see of a safekeeper.
//!
//! HTTP runs on a thread of its own; a question travels to the commit thread and its answer back, so that nothing is shared.

use crate::reader_view;
use crate::registry::Registry;
use keeper::{KeeperView, ReceiverState};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::rc::Rc;

/// Status of the whole node, as `GET /v1/status` shows it.
pub(crate) fn status(registry: &Registry, pg: SocketAddr) -> Value {
    let identity = registry.identity();
    let mut clusters: Vec<Value> =
        registry.all().iter().map(|cluster| cluster_status(registry, &cluster.view())).collect();
    for (id, reason) in registry.broken() {
        clusters.push(json!({
            "name": null, "tenant_id": id.tenant_hex(), "timeline_id": id.timeline_hex(), "state": "broken", "stopped": reason,
        }));
    }
    json!({
        "kind": "safekeeper",
        "version": env!("CARGO_PKG_VERSION"),
        "node_id": identity.node.0,
        "disk_id": identity.disk.to_string(),
        "pg": pg.to_string(),
        "data_dir": registry.options().data_dir,
        "free_bytes": registry.free_bytes(),
        "peers": registry.peers().view(),
        "clusters": clusters,
    })
}

/// One cluster, as `GET /v1/clusters/{name}` shows it.
pub(crate) fn cluster_by_name(registry: &Registry, name: &str) -> Option<Value> {
    registry
        .all()
        .iter()
        .find(|cluster| cluster.name() == name)
        .map(|cluster| cluster_status(registry, &cluster.view()))
}

/// Why the node is not of use, if it is not.
pub(crate) fn readiness(registry: &Registry) -> Result<(), String> {
    if let Some((id, reason)) = registry.broken().into_iter().next() {
        return Err(format!("cluster {id} cannot be opened: {reason}"));
    }
    let stopped = registry.all().iter().find_map(|cluster| Some((cluster.name().to_owned(), cluster.view().stopped?)));
    match stopped {
        Some((name, reason)) => Err(format!("cluster {name} stopped: {reason}")),
        None => Ok(()),
    }
}

fn cluster_status(registry: &Registry, view: &KeeperView) -> Value {
    let row = &view.row;
    let peers: Vec<Value> = registry
        .peers()
        .live(row.cluster)
        .iter()
        .map(|peer| {
            json!({
                "node_id": peer.node.0, "disk_id": peer.disk.to_string(), "term": peer.log.term.0,
                "flush_lsn": peer.log.flush.to_string(), "commit_lsn": peer.log.commit.to_string(),
                "silent_ms": u64::try_from(peer.silent.as_millis()).unwrap_or(u64::MAX),
            })
        })
        .collect();
    let receivers: Vec<Value> = view
        .receivers
        .iter()
        .map(|receiver| {
            let state = match receiver.state {
                ReceiverState::Voting => "voting",
                ReceiverState::Streaming => "streaming",
            };
            json!({
                "peer": receiver.peer, "state": state,
                "queue_messages": receiver.queue_messages, "queue_bytes": receiver.queue_bytes,
            })
        })
        .collect();
    json!({
        "name": row.name,
        "tenant_id": row.cluster.tenant_hex(),
        "timeline_id": row.cluster.timeline_hex(),
        "state": row.state.to_string(),
        "term": row.term.0,
        "last_log_term": row.last_log_term.0,
        "write_lsn": view.written.to_string(),
        "flush_lsn": row.flush.to_string(),
        "commit_lsn": row.commit.to_string(),
        "oldest_lsn": view.oldest.to_string(),
        "kept_bytes": row.flush.bytes_since(view.oldest),
        "kept_because": view.kept_for.map(keeper::KeptFor::as_str),
        "archive_holds": view.archived.map(|archived| archived.to_string()),
        "history": row.history.to_string(),
        "path": row.path.as_ref().map(ToString::to_string),
        "membership": row.membership.to_string(),
        "system_id": row.system_id.to_string(),
        "wal_segment_size": row.segment_size,
        "pg_version": row.pg_version,
        "leader_silent_ms": row.leader_silent_ms,
        "receivers": receivers,
        "peers": peers,
        "asking_peers": registry.get(row.cluster).is_some_and(|cluster| cluster.holds_votes()),
        "readers": reader_view::readers(view),
        "slots": reader_view::slots(view),
        "call_backs": reader_view::call_backs(view),
        "archive": registry.get(row.cluster).map(|cluster| registry.archiving().view(&cluster)),
        "catching_up": view.pulling,
        "catch_up_problem": view.pull_problem,
        "stopped": view.stopped,
    })
}

/// Sets the gauges that are computed when somebody looks.
pub(crate) fn refresh_gauges(registry: &Rc<Registry>) {
    for cluster in registry.all() {
        let view = cluster.view();
        let labels = [("cluster", cluster.name().to_owned())];
        let gauge = |name: &'static str, value: f64| metrics::gauge!(name, &labels).set(value);
        gauge("safekeeper_term", view.row.term.0 as f64);
        gauge("safekeeper_write_lsn", view.written.0 as f64);
        gauge("safekeeper_flush_lsn", view.row.flush.0 as f64);
        gauge("safekeeper_commit_lsn", view.row.commit.0 as f64);
        gauge("safekeeper_oldest_lsn", view.oldest.0 as f64);
        gauge("safekeeper_kept_wal_bytes", view.row.flush.bytes_since(view.oldest) as f64);
        gauge("safekeeper_receivers", view.receivers.len() as f64);
        gauge("safekeeper_readers", view.readers.len() as f64);
        reader_view::refresh_gauges(&view, cluster.name());
        registry.archiving().refresh_gauges(&cluster);
        let sum = |of: fn(&keeper::ReceiverView) -> usize| view.receivers.iter().map(of).sum::<usize>() as f64;
        gauge("safekeeper_receiver_queue_messages", sum(|receiver| receiver.queue_messages));
        gauge("safekeeper_receiver_queue_bytes", sum(|receiver| receiver.queue_bytes));
        gauge("safekeeper_unsynced_bytes", view.written.bytes_since(view.row.flush) as f64);
        gauge("safekeeper_stopped", if view.stopped.is_some() { 1.0 } else { 0.0 });
    }
}
