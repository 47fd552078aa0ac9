//! Numbers about every operation on a store, through the `metrics` facade: count, bytes, seconds, errors by kind.
//!
//! One operation is one call of the layer above, its retries included; `seawall_replica_retries_total` counts those.

use std::time::Instant;

use metrics::{counter, histogram};

use crate::error::Kind;
use crate::store::{Operation, StoreKind};

/// Measures one operation; give it up without [`Timer::done`] or [`Timer::failed`] and only the attempt is counted.
pub(crate) struct Timer {
    store: StoreKind,
    operation: Operation,
    began: Instant,
}

impl Timer {
    pub(crate) fn start(store: StoreKind, operation: Operation) -> Timer {
        let timer = Timer { store, operation, began: Instant::now() };
        counter!("seawall_replica_operations_total", "store" => store.as_str(), "operation" => operation.as_str())
            .increment(1);
        timer
    }

    pub(crate) fn done(self, bytes: u64) {
        let (store, operation) = (self.store.as_str(), self.operation.as_str());
        if bytes > 0 {
            counter!("seawall_replica_operation_bytes_total", "store" => store, "operation" => operation)
                .increment(bytes);
        }
        histogram!("seawall_replica_operation_seconds", "store" => store, "operation" => operation)
            .record(self.began.elapsed().as_secs_f64());
    }

    pub(crate) fn failed(self, kind: Kind) {
        counter!("seawall_replica_operation_errors_total",
            "store" => self.store.as_str(), "operation" => self.operation.as_str(), "kind" => kind.as_str())
        .increment(1);
    }

    pub(crate) fn retried(&self) {
        counter!("seawall_replica_retries_total",
            "store" => self.store.as_str(), "operation" => self.operation.as_str())
        .increment(1);
    }
}
