//! A row of LOG_STATUS: what one safekeeper knows of one cluster. All columns are text.
//!
//! Rows are read by column name, so that a newer safekeeper may add columns and an older reader does not notice.

use crate::Error;
use consensus::{Membership, TermHistory};
use lsn::{ClusterId, DiskId, Lsn, NodeId, Path, SystemId, Term};
use std::fmt;
use std::str::FromStr;

const COLUMNS: [&str; 19] = [
    "node_id",
    "disk_id",
    "cluster",
    "tenant_id",
    "timeline_id",
    "state",
    "term",
    "last_log_term",
    "flush_lsn",
    "commit_lsn",
    "history",
    "path",
    "membership",
    "fence",
    "leader_silent_ms",
    "system_id",
    "wal_segment_size",
    "pg_version",
    "version",
];

/// What a safekeeper is to a cluster.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum LogState {
    /// A member of the membership record, node and disk; it votes.
    Member,
    /// Not in the record: it may learn, never vote.
    Learner,
    /// A member that lost something it had acknowledged; it learns, then votes again.
    Damaged,
    /// The node is in the record, with another disk.
    ForeignDisk,
}

impl LogState {
    const ALL: [(LogState, &'static str); 4] = [
        (LogState::Member, "member"),
        (LogState::Learner, "learner"),
        (LogState::Damaged, "damaged"),
        (LogState::ForeignDisk, "foreign-disk"),
    ];
}

impl fmt::Display for LogState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = LogState::ALL.iter().find(|(state, _)| state == self).map_or("", |(_, text)| text);
        f.write_str(text)
    }
}

/// One cluster on one safekeeper.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogStatusRow {
    /// The safekeeper.
    pub node: NodeId,
    /// Its disk.
    pub disk: DiskId,
    /// The operator's name for the cluster.
    pub name: String,
    /// The cluster's ids.
    pub cluster: ClusterId,
    /// Whether this safekeeper counts.
    pub state: LogState,
    /// Its term.
    pub term: Term,
    /// Term of the last entry of its history, cut to its end.
    pub last_log_term: Term,
    /// Its flush LSN.
    pub flush: Lsn,
    /// Its commit LSN.
    pub commit: Lsn,
    /// Its term history, cut to its end.
    pub history: TermHistory,
    /// Its path, cut to its end; `None` while the log is empty.
    pub path: Option<Path>,
    /// Its membership record, with disks and term.
    pub membership: Membership,
    /// The fence that stands, in text; `None` without one.
    pub fence: Option<String>,
    /// Milliseconds since a leader was heard; `None` if none was since the start.
    pub leader_silent_ms: Option<u64>,
    /// The primary's system identifier; 0 while unknown.
    pub system_id: SystemId,
    /// Bytes in a WAL segment; 0 while unknown.
    pub segment_size: u32,
    /// `server_version_num` of the primary; 0 while unknown.
    pub pg_version: u32,
    /// Change counter: `LOG_STATUS (since 'N')` returns rows above N.
    pub version: u64,
}

impl LogStatusRow {
    /// The names of the columns, in the order of [`LogStatusRow::to_values`].
    pub fn columns() -> &'static [&'static str] {
        &COLUMNS
    }

    /// The values, all text. What is not there is empty text, not NULL.
    pub fn to_values(&self) -> [String; 19] {
        fn or_empty(value: Option<impl ToString>) -> String {
            value.map(|value| value.to_string()).unwrap_or_default()
        }
        [
            self.node.to_string(),
            self.disk.to_string(),
            self.name.clone(),
            self.cluster.tenant_hex(),
            self.cluster.timeline_hex(),
            self.state.to_string(),
            self.term.to_string(),
            self.last_log_term.to_string(),
            self.flush.to_string(),
            self.commit.to_string(),
            self.history.to_string(),
            or_empty(self.path.as_ref()),
            self.membership.to_string(),
            self.fence.clone().unwrap_or_default(),
            or_empty(self.leader_silent_ms),
            self.system_id.to_string(),
            self.segment_size.to_string(),
            self.pg_version.to_string(),
            self.version.to_string(),
        ]
    }

    /// Reads a row; `value` gives the text of a column by its name, `None` if the row has no such column or NULL in it.
    pub fn from_row<'a>(value: impl Fn(&str) -> Option<&'a str>) -> Result<Self, Error> {
        let text =
            |column: &'static str| value(column).ok_or_else(|| Error::Column { column, problem: "missing".to_owned() });
        Ok(LogStatusRow {
            node: parse("node_id", text("node_id")?)?,
            disk: parse("disk_id", text("disk_id")?)?,
            name: text("cluster")?.to_owned(),
            cluster: ClusterId::from_hex(text("tenant_id")?, text("timeline_id")?)?,
            state: state(text("state")?)?,
            term: parse("term", text("term")?)?,
            last_log_term: parse("last_log_term", text("last_log_term")?)?,
            flush: parse("flush_lsn", text("flush_lsn")?)?,
            commit: parse("commit_lsn", text("commit_lsn")?)?,
            history: parse("history", text("history")?)?,
            path: parse_unless_empty("path", text("path")?)?,
            membership: parse("membership", text("membership")?)?,
            fence: Some(text("fence")?).filter(|fence| !fence.is_empty()).map(str::to_owned),
            leader_silent_ms: parse_unless_empty("leader_silent_ms", text("leader_silent_ms")?)?,
            system_id: parse("system_id", text("system_id")?)?,
            segment_size: parse("wal_segment_size", text("wal_segment_size")?)?,
            pg_version: parse("pg_version", text("pg_version")?)?,
            version: parse("version", text("version")?)?,
        })
    }
}

fn state(text: &str) -> Result<LogState, Error> {
    let known = LogState::ALL.iter().find(|(_, known)| *known == text);
    known.map(|(state, _)| *state).ok_or_else(|| unreadable("state", text))
}

fn parse<T: FromStr>(column: &'static str, text: &str) -> Result<T, Error> {
    text.parse().map_err(|_| unreadable(column, text))
}

fn parse_unless_empty<T: FromStr>(column: &'static str, text: &str) -> Result<Option<T>, Error> {
    if text.is_empty() { Ok(None) } else { parse(column, text).map(Some) }
}

fn unreadable(column: &'static str, text: &str) -> Error {
    let shown: String = text.chars().take(80).collect();
    Error::Column { column, problem: format!("not understood: {shown:?}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> LogStatusRow {
        LogStatusRow {
            node: NodeId(2),
            disk: DiskId([7; 16]),
            name: "orders".to_owned(),
            cluster: ClusterId { tenant: [1; 16], timeline: [2; 16] },
            state: LogState::ForeignDisk,
            term: Term(3),
            last_log_term: Term(1),
            flush: Lsn(0x1_0000_0028),
            commit: Lsn(0x1500028),
            history: "1:0/1000000,3:0/1600000".parse().unwrap(),
            path: Some("1:0/0:0;2:0/3063B90:8A0C44F1".parse().unwrap()),
            membership: format!("1/0/1:{}@sk1:5454", "0a".repeat(16)).parse().unwrap(),
            fence: Some("2/…".to_owned()),
            leader_silent_ms: Some(0),
            system_id: SystemId(u64::MAX),
            segment_size: 1 << 24,
            pg_version: 150018,
            version: 99,
        }
    }

    fn read(values: &[String]) -> Result<LogStatusRow, Error> {
        LogStatusRow::from_row(|name| {
            let index = LogStatusRow::columns().iter().position(|column| *column == name)?;
            values.get(index).map(String::as_str)
        })
    }

    #[test]
    fn what_is_sent_is_read() {
        assert_eq!(read(&example().to_values()).unwrap(), example());
        let empty = LogStatusRow {
            history: TermHistory::empty(),
            path: None,
            membership: Membership::none(),
            fence: None,
            leader_silent_ms: None,
            ..example()
        };
        assert_eq!(read(&empty.to_values()).unwrap(), empty);
    }

    #[test]
    fn each_column_is_needed_and_named_when_it_is_wrong() {
        let values = example().to_values();
        for length in 0..values.len() {
            assert!(read(&values[..length]).unwrap_err().to_string().contains(LogStatusRow::columns()[length]));
        }
        for (index, column) in LogStatusRow::columns().iter().enumerate() {
            let mut broken = values.clone();
            broken[index] = "\u{1}".to_owned();
            match read(&broken) {
                Ok(_) => assert!(["cluster", "fence"].contains(column), "{column}"),
                Err(err) => assert!(
                    err.to_string().contains(column) || column.ends_with("line_id") || *column == "tenant_id",
                    "{err}"
                ),
            }
        }
    }
}
