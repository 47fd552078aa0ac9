//! Commands that are answered at once.

use crate::cluster::Cluster;
use crate::peers::Peers;
use crate::registry::{Choice, Registry};
use bytes::BytesMut;
use pq_proto::SqlState;
use pq_proto::backend::Report;
use pq_proto::backend::encode::{self, Column};
use pq_proto::command::Command;
use quorum_proto::InitCluster;
use std::rc::Rc;
use walsender::answers;

/// The whole answer to a command, ReadyForQuery included.
pub(crate) enum Answer {
    /// Messages to send.
    Bytes(BytesMut),
    /// An error; ReadyForQuery follows it.
    Error(Report),
}

/// Answers every command that is no COPY and waits for nothing.
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
            answers::show(&name, &value, &mut out);
        }
        Command::TimelineHistory { tli } => {
            let cluster = registry.choose(choice)?;
            let content = cluster.history_file(tli);
            answers::timeline_history(tli, content.as_deref(), cluster.pg_version() / 10_000, &mut out);
        }
        Command::ReadReplicationSlot { slot } => {
            answers::read_replication_slot(registry.choose(choice)?.read_slot(&slot), &mut out);
        }
        Command::Set => encode::command_complete("SET", &mut out),
        Command::Unknown { word } if word.is_empty() => encode::empty_query_response(&mut out),
        Command::Unknown { word } => {
            return Err(Report::error(
                SqlState::SYNTAX_ERROR,
                format!("unknown command {word:?}: a safekeeper answers replication commands, not SQL"),
            ));
        }
        Command::StartReplication(_)
        | Command::StartWalPush(_)
        | Command::CreateReplicationSlot { .. }
        | Command::DropReplicationSlot { .. }
        | Command::Members(_)
        | Command::Fence(_) => {
            return Err(Report::error(SqlState::INTERNAL_ERROR, "this command is not answered with rows at once"));
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
    let columns: Vec<Column<'_>> = Peers::columns().into_iter().map(Column::text).collect();
    let values = registry.peers().log_status(&registry.matching(choice), since);
    rows(&columns, &values, "LOG_STATUS", out);
}

fn show(cluster: &Cluster, name: &str) -> Option<String> {
    let row = cluster.log_status();
    match name.to_ascii_lowercase().as_str() {
        "wal_segment_size" => lsn::SegmentSize::new(row.segment_size.into()).ok().map(|size| size.to_string()),
        "server_version_num" => Some(row.pg_version.to_string()),
        "server_version" => Some(server_version(row.pg_version)),
        // For proposers: below it nothing can be compared.
        "seawall_oldest_lsn" => Some(cluster.reachable().to_string()),
        "data_directory_mode" => Some("0700".to_owned()),
        "wal_block_size" | "block_size" => Some(lsn::WAL_PAGE_SIZE.to_string()),
        "integer_datetimes" | "transaction_read_only" => Some("on".to_owned()),
        _ => None,
    }
}

/// The primary's version as it announces it; the oldest supported one while it is not known, because clients refuse servers
/// that are newer than they are.
pub(crate) fn server_version(version_num: u32) -> String {
    if version_num == 0 { "13.0".to_owned() } else { format!("{}.{}", version_num / 10_000, version_num % 10_000) }
}

fn rows(columns: &[Column<'_>], values: &[Vec<String>], tag: &str, out: &mut BytesMut) {
    encode::row_description(columns, out);
    for row in values {
        let row: Vec<Option<&[u8]>> = row.iter().map(|value| Some(value.as_bytes())).collect();
        encode::data_row(&row, out);
    }
    encode::command_complete(tag, out);
}
