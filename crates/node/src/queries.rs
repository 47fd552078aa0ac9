//! Commands that answer with rows.

use crate::cluster::Cluster;
use crate::registry::{Choice, Registry};
use bytes::BytesMut;
use pq_proto::SqlState;
use pq_proto::backend::Report;
use pq_proto::backend::encode::{self, Column};
use pq_proto::command::Command;
use quorum_proto::{InitCluster, LogStatusRow};
use std::rc::Rc;
use walsender::answers;

/// The whole answer to a command, ReadyForQuery included.
pub(crate) enum Answer {
    /// Messages to send.
    Bytes(BytesMut),
    /// An error; ReadyForQuery follows it.
    Error(Report),
}

/// Answers every command that is not a COPY.
pub(crate) fn answer(registry: &Rc<Registry>, choice: &Choice, application_name: &str, command: Command) -> Answer {
    match respond(registry, choice, application_name, command) {
        Ok(mut bytes) => {
            encode::ready_for_query(&mut bytes);
            Answer::Bytes(bytes)
        }
        Err(report) => Answer::Error(report),
    }
}

fn respond(registry: &Registry, choice: &Choice, application_name: &str, command: Command) -> Result<BytesMut, Report> {
    let mut out = BytesMut::with_capacity(512);
    match command {
        Command::IdentifySystem => {
            let cluster = registry.choose(choice)?;
            identify_system(&cluster, application_name, &mut out)?;
        }
        Command::TimelineStatus => {
            let (flush, commit) = registry.choose(choice)?.timeline_status();
            let columns = [Column::text("flush_lsn"), Column::text("commit_lsn")];
            rows(&columns, &[vec![flush.to_string(), commit.to_string()]], "TIMELINE_STATUS", &mut out);
        }
        Command::LogStatus { since } => log_status(registry, choice, since, &mut out),
        Command::InitCluster(options) => {
            let options: Vec<_> = options.iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
            let init = InitCluster::parse(&options)
                .map_err(|error| Report::error(SqlState::INVALID_PARAMETER_VALUE, error.to_string()))?;
            registry.init(&init)?;
            encode::command_complete("INIT_CLUSTER", &mut out);
        }
        Command::Show { name } => {
            let cluster = registry.choose(choice)?;
            let value = show(&cluster, &name).ok_or_else(|| answers::unknown_setting(&name))?;
            rows(&[Column::text(&name)], &[vec![value]], "SHOW", &mut out);
        }
        Command::Set => encode::command_complete("SET", &mut out),
        Command::Unknown { word } if word.is_empty() => encode::empty_query_response(&mut out),
        Command::Unknown { word } => {
            return Err(Report::error(
                SqlState::SYNTAX_ERROR,
                format!("unknown command {word:?}: a safekeeper answers replication commands, not SQL"),
            ));
        }
        Command::StartReplication(_) | Command::StartWalPush(_) => {
            return Err(Report::error(SqlState::INTERNAL_ERROR, "a stream is not answered with rows"));
        }
        Command::TimelineHistory { .. }
        | Command::ReadReplicationSlot { .. }
        | Command::CreateReplicationSlot { .. }
        | Command::DropReplicationSlot { .. } => {
            return Err(Report::error(
                SqlState::FEATURE_NOT_SUPPORTED,
                "this safekeeper does not serve slots and histories yet",
            ));
        }
    }
    Ok(out)
}

/// Readers that name a term are told the end of the local log, everyone else the commit LSN.
fn identify_system(cluster: &Cluster, application_name: &str, out: &mut BytesMut) -> Result<(), Report> {
    let uncommitted = application_name == "wal_proposer_recovery" || application_name.starts_with("safekeeper");
    let identity = cluster.identity(uncommitted);
    if !identity.position.is_valid() {
        let text = "no WAL of this cluster is here yet: no proposer has been elected";
        return Err(Report::error(SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE, text));
    }
    answers::IdentifySystem {
        system_id: identity.system_id,
        tli: identity.tli,
        end: identity.position,
        server_major: cluster.pg_version() / 10_000,
    }
    .encode(out);
    Ok(())
}

fn log_status(registry: &Registry, choice: &Choice, since: Option<u64>, out: &mut BytesMut) {
    let columns: Vec<Column<'_>> = LogStatusRow::columns().iter().map(|name| Column::text(name)).collect();
    let values: Vec<Vec<String>> = registry
        .matching(choice)
        .iter()
        .map(|cluster| cluster.log_status())
        .filter(|row| since.is_none_or(|since| row.version > since))
        .map(|row| row.to_values().to_vec())
        .collect();
    rows(&columns, &values, "LOG_STATUS", out);
}

fn show(cluster: &Cluster, name: &str) -> Option<String> {
    let row = cluster.log_status();
    match name.to_ascii_lowercase().as_str() {
        "wal_segment_size" => lsn::SegmentSize::new(row.segment_size.into()).ok().map(|size| size.to_string()),
        "server_version_num" => Some(row.pg_version.to_string()),
        "data_directory_mode" => Some("0700".to_owned()),
        _ => None,
    }
}

fn rows(columns: &[Column<'_>], values: &[Vec<String>], tag: &str, out: &mut BytesMut) {
    encode::row_description(columns, out);
    for row in values {
        let row: Vec<Option<&[u8]>> = row.iter().map(|value| Some(value.as_bytes())).collect();
        encode::data_row(&row, out);
    }
    encode::command_complete(tag, out);
}
