//! What is shown over HTTP while databases are replicated.

use super::database::Running;
use archive::sqlite::Status;
use http_api::{Metrics, View};
use jiff::Timestamp;
use metrics::gauge;
use serde_json::{Value, json};
use std::sync::{Arc, Mutex, PoisonError};

/// One replica of one database.
#[derive(Clone, Debug)]
pub(super) struct Row {
    database: String,
    replica: String,
    status: Status,
}

/// All replicas, as the run loop last saw them. Clones are the same.
#[derive(Clone, Debug, Default)]
pub(super) struct Board(Arc<Mutex<Vec<Row>>>);

impl Board {
    /// Takes how everything stands, and sets the metric users need most.
    pub(super) fn update<'a>(&self, running: impl Iterator<Item = &'a Running>) {
        let now = Timestamp::now();
        let mut rows = Vec::new();
        for database in running {
            for (replica, status) in database.statuses() {
                let row = Row { database: database.path().display().to_string(), replica: replica.to_owned(), status };
                row.measure(now);
                rows.push(row);
            }
        }
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = rows;
    }

    fn rows(&self) -> Vec<Row> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Row {
    fn measure(&self, now: Timestamp) {
        let set = |name: &'static str, seconds: Option<f64>| {
            if let Some(seconds) = seconds {
                gauge!(name, "database" => self.database.clone(), "replica" => self.replica.clone()).set(seconds);
            }
        };
        set("seawall_sqlite_replica_seconds_since_confirmed_upload", self.status.seconds_since_confirmed(now));
        set("seawall_sqlite_replica_seconds_behind", self.status.seconds_behind(now));
    }

    fn json(&self, now: Timestamp) -> Value {
        let status = &self.status;
        json!({
            "database": self.database,
            "replica": self.replica,
            "confirmed": status.confirmed.map(|position| position.to_string()),
            "confirmed_at": status.confirmed_at.map(|at| at.to_string()),
            "in_sync": status.in_sync,
            "seconds_since_confirmed": status.seconds_since_confirmed(now),
            "seconds_behind": status.seconds_behind(now),
            "error": status.error,
            "shared": status.shared,
            "validated": status.validated.map(|(at, right)| json!({"at": at.to_string(), "right": right})),
        })
    }
}

/// The board over HTTP.
pub(super) struct Show {
    pub(super) board: Board,
    pub(super) metrics: Metrics,
}

impl View for Show {
    fn status(&self) -> Value {
        let now = Timestamp::now();
        let rows: Vec<Value> = self.board.rows().iter().map(|row| row.json(now)).collect();
        json!({"part": "replicate", "replicas": rows})
    }

    fn cluster(&self, _name: &str) -> Option<Value> {
        None
    }

    /// Ready: every replica has everything.
    fn ready(&self) -> Result<(), String> {
        let rows = self.board.rows();
        match rows.iter().find(|row| !row.status.in_sync) {
            None => Ok(()),
            Some(row) => Err(format!("{} is behind {}", row.replica, row.database)),
        }
    }

    fn metrics(&self) -> String {
        let now = Timestamp::now();
        self.board.rows().iter().for_each(|row| row.measure(now));
        self.metrics.render()
    }

    fn page(&self) -> String {
        let mut page = String::from("<!doctype html><title>seawall replicate</title><h1>Replicas</h1><table>");
        let escape = |text: &str| text.replace('&', "&amp;").replace('<', "&lt;").replace('"', "&quot;");
        let now = Timestamp::now();
        page.push_str("<tr><th>database<th>replica<th>confirmed<th>seconds behind<th>error");
        for row in self.board.rows() {
            let confirmed = row.status.confirmed.map_or("nothing yet".to_owned(), |position| position.to_string());
            let behind = row.status.seconds_behind(now).map_or("unknown".to_owned(), |seconds| format!("{seconds:.0}"));
            let error = row.status.error.as_deref().unwrap_or_default();
            let cells = [&row.database, &row.replica, &confirmed, &behind, error].map(escape);
            page.push_str(&format!("<tr><td>{}", cells.join("<td>")));
        }
        page.push_str("</table>");
        page
    }
}
