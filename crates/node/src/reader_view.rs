//! Readers and replication slots, as status and metrics show them.

use keeper::{KeeperView, ReaderView, SlotView};
use lsn::Lsn;
use serde_json::{Value, json};

/// A position a reader told; `null` for none.
fn told(position: Lsn) -> Option<String> {
    position.is_valid().then(|| position.to_string())
}

/// The readers of a cluster.
pub(crate) fn readers(view: &KeeperView) -> Vec<Value> {
    let one = |reader: &ReaderView| {
        json!({
            "peer": reader.peer, "application_name": reader.application_name,
            "kind": reader.kind.as_str(), "tli": reader.tli.0, "term": reader.term.map(|term| term.0),
            "slot": reader.slot, "state": if reader.behind == 0 { "streaming" } else { "catching up" },
            "sent_lsn": reader.sent.to_string(), "behind_bytes": reader.behind,
            "write_lsn": told(reader.write), "flush_lsn": told(reader.flush), "apply_lsn": told(reader.apply),
            "xmin": (reader.xmin != 0).then_some(reader.xmin),
        })
    };
    view.readers.iter().map(one).collect()
}

/// The replication slots of a cluster. `held_bytes` is WAL kept for the slot, behind the commit LSN.
pub(crate) fn slots(view: &KeeperView) -> Vec<Value> {
    let one = |slot: &SlotView| {
        json!({
            "name": slot.name, "temporary": slot.is_temporary, "active": slot.is_active, "lost": slot.is_lost,
            "restart_lsn": slot.restart.map(|restart| restart.to_string()),
            "held_bytes": slot.restart.map(|restart| view.row.commit.bytes_since(restart)),
        })
    };
    view.slots.iter().map(one).collect()
}

/// Consumers that left an address and are not connected.
pub(crate) fn call_backs(view: &KeeperView) -> Vec<Value> {
    view.call_backs.iter().map(|(name, calls)| json!({"application_name": name, "calls": calls})).collect()
}

/// Sets the gauges of a cluster's readers and slots.
pub(crate) fn refresh_gauges(view: &KeeperView, name: &str) {
    let labels = [("cluster", name.to_owned())];
    let gauge = |name: &'static str, value: f64| metrics::gauge!(name, &labels).set(value);
    let behind = view.readers.iter().map(|reader| reader.behind).max().unwrap_or(0);
    gauge("seawall_reader_behind_bytes_max", behind as f64);
    let held = view.slots.iter().filter_map(|slot| slot.restart).min();
    gauge("seawall_slot_held_bytes_max", held.map_or(0, |held| view.row.commit.bytes_since(held)) as f64);
    gauge("seawall_slots", view.slots.len() as f64);
    gauge("seawall_slots_lost", view.slots.iter().filter(|slot| slot.is_lost).count() as f64);
}
