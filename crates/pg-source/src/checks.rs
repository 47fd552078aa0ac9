//! [`Checks`]: the SQL connection. It asks what a stream cannot answer, and hears of a shutdown before the stream does.

use crate::attach::Facts;
use crate::error::Error;
use crate::settings::{Settings, query};
use lsn::{Lsn, SegmentSize};
use pg_conn::Connection;
use pq_proto::SqlState;
use pq_proto::backend::BackendMessage;

/// The connection that asks.
#[derive(Debug)]
pub struct Checks {
    connection: Connection,
    query: String,
}

impl Checks {
    pub(crate) fn new(connection: Connection, slot: &str) -> Checks {
        Checks { connection, query: query(slot) }
    }

    /// The primary's settings now: one query. Not to be cancelled; afterwards the connection would be of no use.
    pub async fn read(&mut self) -> Result<Settings, Error> {
        let rows = self.connection.simple_query(&self.query).await?;
        let columns = |row| [0, 1, 2, 3, 4].map(|column| pg_conn::Row::text(row, column));
        Ok(Settings::from_rows(rows.iter().map(columns))?)
    }

    /// Drops a slot of a standby. What the server says against it is no obstacle: it is asked again with the next attempt. Not to be
    /// cancelled.
    pub(crate) async fn drop_slot(&mut self, slot: &str) -> Result<(), Error> {
        let command = format!("SELECT pg_drop_replication_slot('{}')", slot.replace('\'', "''"));
        match self.connection.simple_query(&command).await {
            Err(error) if error.sqlstate().is_none() => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// Start of the oldest WAL segment on the server; `None` if it may not be asked. Not to be cancelled.
    pub async fn oldest_wal(&mut self, segment_size: SegmentSize) -> Result<Option<Lsn>, Error> {
        // Names without their TLI sort by position. Files kept for later use have names too, but high ones.
        let query = "SELECT min(substr(name, 9)) FROM pg_ls_waldir() WHERE name ~ '^[0-9A-F]{24}$'";
        match self.connection.simple_query(query).await {
            Err(error) if error.sqlstate() == Some(SqlState::INSUFFICIENT_PRIVILEGE) => Ok(None),
            answer => {
                let rows = answer?;
                let name = rows.first().and_then(|row| row.text(0)).map(|rest| format!("00000001{rest}"));
                let segment = name.and_then(|name| segment_size.parse_file_name(&name));
                Ok(segment.map(|(_, segment)| segment_size.start_of(segment)))
            }
        }
    }

    /// Reads the settings and proves that the stream that was started comes from this very server: the same identifier, the same run of
    /// the postmaster, and the slot held by the backend of the walsender connection. Not to be cancelled.
    ///
    /// # Errors
    /// [`Error::DifferentServers`] if one of them is not so.
    pub async fn prove(&mut self, facts: &Facts) -> Result<Settings, Error> {
        let settings = self.read().await?;
        if settings.system_id != facts.system_id {
            return Err(Error::DifferentServers("their system identifiers differ"));
        }
        if settings.started_at != facts.started_at {
            return Err(Error::DifferentServers("the server was restarted"));
        }
        let holder = settings.slot.as_ref().and_then(|slot| slot.active_pid);
        if holder != Some(facts.walsender_pid) {
            return Err(Error::DifferentServers("the slot is not held by our stream"));
        }
        Ok(settings)
    }

    /// Waits until the connection ends, and says why: [`Error::ShuttingDown`] when the primary is being stopped, which it says here
    /// while the stream goes on until its last record is acknowledged. May be cancelled without loss.
    pub async fn ended(&mut self) -> Error {
        loop {
            match self.connection.recv().await {
                Ok(BackendMessage::ErrorResponse(report)) => return Error::from_report(report),
                Ok(_) => {}
                Err(error) => return error.into(),
            }
        }
    }
}
