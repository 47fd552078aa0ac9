//! Results and errors of replication commands, byte for byte as PostgreSQL 13 to 18 gives them; clients count columns and
//! operators search for texts.
//!
//! A result is RowDescription, rows and CommandComplete; ReadyForQuery is the caller's. What the values are is not known
//! here.

use bytes::BytesMut;
use lsn::{Lsn, SystemId, Tli};
use pq_proto::SqlState;
use pq_proto::backend::Report;
use pq_proto::backend::encode::{Column, command_complete, data_row, error_response, row_description};

/// What IDENTIFY_SYSTEM says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IdentifySystem {
    /// The cluster.
    pub system_id: SystemId,
    /// The newest TLI that may be shown.
    pub tli: Tli,
    /// A position from which START_REPLICATION succeeds.
    pub end: Lsn,
    /// The server's major version; the type of `timeline` changed with 16.
    pub server_major: u32,
}

impl IdentifySystem {
    /// Appends the result: four columns, `dbname` NULL.
    pub fn encode(&self, buffer: &mut BytesMut) {
        let timeline = if self.server_major >= 16 { Column::int8("timeline") } else { Column::int4("timeline") };
        row_description(&[Column::text("systemid"), timeline, Column::text("xlogpos"), Column::text("dbname")], buffer);
        let (system_id, tli, end) = (self.system_id.to_string(), self.tli.to_string(), self.end.to_string());
        data_row(&[Some(system_id.as_bytes()), Some(tli.as_bytes()), Some(end.as_bytes()), None], buffer);
        command_complete("IDENTIFY_SYSTEM", buffer);
    }
}

/// Appends the result of `SHOW name`.
pub fn show(name: &str, value: &str, buffer: &mut BytesMut) {
    row_description(&[Column::text(name)], buffer);
    data_row(&[Some(value.as_bytes())], buffer);
    command_complete("SHOW", buffer);
}

/// Appends the result of `TIMELINE_HISTORY tli`: the file's name and its bytes, or, behind the description as PostgreSQL has
/// it, the error that there is no such file. Major 13 calls the content bytea.
pub fn timeline_history(tli: Tli, content: Option<&[u8]>, server_major: u32, buffer: &mut BytesMut) {
    let column = if server_major <= 13 { Column::bytea("content") } else { Column::text("content") };
    row_description(&[Column::text("filename"), column], buffer);
    let Some(content) = content else { return error_response(&history_missing(tli), buffer) };
    data_row(&[Some(history_file(tli).as_bytes()), Some(content)], buffer);
    command_complete("TIMELINE_HISTORY", buffer);
}

/// What `READ_REPLICATION_SLOT` finds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SlotFound {
    /// No slot of this name: one row of NULLs.
    Missing,
    /// A physical slot that keeps no WAL, yet or any more.
    Unreserved,
    /// A physical slot that keeps WAL from here, on this TLI.
    Reserved(Lsn, Tli),
}

/// Appends the result of `READ_REPLICATION_SLOT`: always one row.
pub fn read_replication_slot(slot: SlotFound, buffer: &mut BytesMut) {
    let columns = [Column::text("slot_type"), Column::text("restart_lsn"), Column::int8("restart_tli")];
    row_description(&columns, buffer);
    match slot {
        SlotFound::Missing => data_row(&[None, None, None], buffer),
        SlotFound::Unreserved => data_row(&[Some(b"physical"), None, None], buffer),
        SlotFound::Reserved(restart, tli) => {
            let (restart, tli) = (restart.to_string(), tli.to_string());
            data_row(&[Some(b"physical"), Some(restart.as_bytes()), Some(tli.as_bytes())], buffer);
        }
    }
    command_complete("READ_REPLICATION_SLOT", buffer);
}

/// Appends the result of `CREATE_REPLICATION_SLOT` for a physical slot.
pub fn create_replication_slot(name: &str, buffer: &mut BytesMut) {
    let columns = ["slot_name", "consistent_point", "snapshot_name", "output_plugin"].map(Column::text);
    row_description(&columns, buffer);
    data_row(&[Some(name.as_bytes()), Some(b"0/0"), None, None], buffer);
    command_complete("CREATE_REPLICATION_SLOT", buffer);
}

/// Appends the result of `DROP_REPLICATION_SLOT`: no rows.
pub fn drop_replication_slot(buffer: &mut BytesMut) {
    command_complete("DROP_REPLICATION_SLOT", buffer);
}

/// Appends the row that tells which TLI follows, and both completions that every client waits for.
pub(crate) fn end_of_stream(next: Option<(Tli, Lsn)>, buffer: &mut BytesMut) {
    if let Some((tli, start)) = next {
        row_description(&[Column::int8("next_tli"), Column::text("next_tli_startpos")], buffer);
        data_row(&[Some(tli.to_string().as_bytes()), Some(start.to_string().as_bytes())], buffer);
    }
    command_complete("START_STREAMING", buffer);
    command_complete("START_REPLICATION", buffer);
}

fn history_file(tli: Tli) -> String {
    format!("{:08X}.history", tli.0)
}

/// The WAL that is asked for is gone. Takes the segment's 24-digit name.
pub fn wal_removed(segment: &str) -> Report {
    let message = format!("requested WAL segment {segment} has already been removed");
    Report::error(SqlState::UNDEFINED_FILE, message)
}

/// A TLI that this log does not lie on.
pub fn tli_not_in_history(tli: Tli) -> Report {
    Report::error(SqlState::INTERNAL_ERROR, format!("requested timeline {tli} is not in this server's history"))
}

/// A position on a TLI beyond the point where the log left it.
pub fn start_not_in_history(start: Lsn, tli: Tli, switch: Lsn) -> Report {
    let message = format!("requested starting point {start} on timeline {tli} is not in this server's history");
    let mut report = Report::error(SqlState::INTERNAL_ERROR, message);
    report.detail = Some(format!("This server's history forked from timeline {tli} at {switch}."));
    report
}

/// A position beyond what there is.
pub fn ahead_of_flush(start: Lsn, flush: Lsn) -> Report {
    let message = format!("requested starting point {start} is ahead of the WAL flush position of this server {flush}");
    Report::error(SqlState::INTERNAL_ERROR, message)
}

/// The history file of a TLI is not here.
pub fn history_missing(tli: Tli) -> Report {
    let file = history_file(tli);
    Report::error(SqlState::UNDEFINED_FILE, format!("could not open file \"pg_wal/{file}\": No such file or directory"))
}

/// `SHOW` of a setting nobody has.
pub fn unknown_setting(name: &str) -> Report {
    let name: String = name.chars().take(63).collect();
    Report::error(SqlState::UNDEFINED_OBJECT, format!("unrecognized configuration parameter \"{name}\""))
}

/// A slot nobody has.
pub fn unknown_slot(name: &str) -> Report {
    Report::error(SqlState::UNDEFINED_OBJECT, format!("replication slot \"{name}\" does not exist"))
}

/// A slot somebody else reads through.
pub fn slot_in_use(name: &str, by: &str) -> Report {
    Report::error(SqlState::OBJECT_IN_USE, format!("replication slot \"{name}\" is active for {by}"))
}

/// A slot that is there already.
pub fn slot_exists(name: &str) -> Report {
    Report::error(SqlState::DUPLICATE_OBJECT, format!("replication slot \"{name}\" already exists"))
}

/// A name that breaks PostgreSQL's rules for slots.
pub fn slot_name_invalid(name: &str) -> Report {
    let name: String = name.chars().take(63).collect();
    let message = format!("replication slot name \"{name}\" is not one");
    let hint = "Replication slot names are 1 to 63 lower case letters, digits and underscores.";
    Report::error(SqlState::INVALID_NAME, message).with_hint(hint)
}

/// As many slots as there may be.
pub fn too_many_slots(limit: usize) -> Report {
    let message = format!("all {limit} replication slots are in use");
    Report::error(SqlState::CONFIGURATION_LIMIT_EXCEEDED, message).with_hint("Drop one that nobody needs.")
}

/// Anything that is not a replication command.
pub fn not_a_replication_command() -> Report {
    let message = "cannot execute SQL commands in WAL sender for physical replication";
    Report::error(SqlState::FEATURE_NOT_SUPPORTED, message)
}

/// Parse, Bind and their kind.
pub fn extended_protocol() -> Report {
    let message = "extended query protocol not supported in a replication connection";
    Report::error(SqlState::PROTOCOL_VIOLATION, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use pq_proto::Limits;
    use pq_proto::backend::{self, BackendMessage};

    fn encoded(fill: impl FnOnce(&mut BytesMut)) -> BytesMut {
        let mut buffer = BytesMut::new();
        fill(&mut buffer);
        buffer
    }

    /// Column names, one row and the tag of a result.
    fn parts(mut buffer: BytesMut) -> (Vec<String>, Vec<Option<String>>, String) {
        let mut next = || backend::decode(&mut buffer, Limits::CLIENT).unwrap().unwrap();
        let BackendMessage::RowDescription(description) = next() else { panic!("no description") };
        let BackendMessage::DataRow(row) = next() else { panic!("no row") };
        let BackendMessage::CommandComplete(tag) = next() else { panic!("no completion") };
        assert!(buffer.is_empty());
        let values = (0..row.values().len()).map(|column| row.text(column).map(str::to_owned)).collect();
        (description.names().to_vec(), values, tag)
    }

    #[test]
    fn identify_system_byte_for_byte() {
        let mut answer = IdentifySystem { system_id: SystemId(7), tli: Tli(1), end: Lsn(0x150_1168), server_major: 15 };
        let column = |name: &[u8], oid: u8, length: [u8; 2]| {
            [name, b"\0\0\0\0\0\0\0\0\0\0", &[oid], &length, b"\xff\xff\xff\xff\0\0"].concat()
        };
        let expected = |timeline: Vec<u8>| {
            let columns = [
                column(b"systemid", 25, [0xff, 0xff]),
                timeline,
                column(b"xlogpos", 25, [0xff, 0xff]),
                column(b"dbname", 25, [0xff, 0xff]),
            ];
            let row = b"D\0\0\0\x21\0\x04\0\0\0\x017\0\0\0\x011\0\0\0\x090/1501168\xff\xff\xff\xff";
            [&b"T\0\0\0\x6f\0\x04"[..], &columns.concat(), row, b"C\0\0\0\x14IDENTIFY_SYSTEM\0"].concat()
        };
        assert_eq!(encoded(|b| answer.encode(b)).to_vec(), expected(column(b"timeline", 23, [0, 4])));
        answer.server_major = 16;
        assert_eq!(encoded(|b| answer.encode(b)).to_vec(), expected(column(b"timeline", 20, [0, 8])));
    }

    #[test]
    fn other_results() {
        let (names, values, tag) = parts(encoded(|b| show("wal_segment_size", "16MB", b)));
        assert_eq!((names, values, tag), (vec!["wal_segment_size".into()], vec![Some("16MB".into())], "SHOW".into()));
        let content = b"1\t0/3063B90\tno recovery target specified\n";
        for major in [13, 15] {
            let (names, values, _) = parts(encoded(|b| timeline_history(Tli(10), Some(content), major, b)));
            assert_eq!(names, ["filename", "content"]);
            assert_eq!(values[0].as_deref(), Some("0000000A.history"));
            assert_eq!(values[1].as_deref().map(str::as_bytes), Some(&content[..]));
        }
        let (names, values, _) = parts(encoded(|b| read_replication_slot(SlotFound::Missing, b)));
        assert_eq!((names.len(), values), (3, vec![None, None, None]));
        let (_, values, _) = parts(encoded(|b| read_replication_slot(SlotFound::Reserved(Lsn(16), Tli(2)), b)));
        assert_eq!(values, [Some("physical".into()), Some("0/10".into()), Some("2".into())]);
        let (_, unreserved, _) = parts(encoded(|b| read_replication_slot(SlotFound::Unreserved, b)));
        assert_eq!(unreserved, [Some("physical".into()), None, None]);
        let (_, values, tag) = parts(encoded(|b| create_replication_slot("s", b)));
        assert_eq!(
            (values, tag.as_str()),
            (vec![Some("s".into()), Some("0/0".into()), None, None], "CREATE_REPLICATION_SLOT")
        );
    }

    #[test]
    fn a_missing_history_is_told_behind_the_description() {
        let mut buffer = encoded(|b| timeline_history(Tli(1), None, 15, b));
        let mut next = || backend::decode(&mut buffer, Limits::CLIENT).unwrap().unwrap();
        assert!(matches!(next(), BackendMessage::RowDescription(_)));
        let BackendMessage::ErrorResponse(report) = next() else { panic!("no error") };
        assert_eq!(report.code, SqlState::UNDEFINED_FILE);
    }

    #[test]
    fn texts_that_clients_and_operators_know() {
        let removed = wal_removed("000000010000000000000003");
        assert_eq!(removed.message, "requested WAL segment 000000010000000000000003 has already been removed");
        assert_eq!(removed.code, SqlState::UNDEFINED_FILE);
        assert_eq!(unknown_setting("x").code, SqlState::UNDEFINED_OBJECT);
        assert_eq!(
            history_missing(Tli(3)).message,
            "could not open file \"pg_wal/00000003.history\": No such file or directory"
        );
    }
}
