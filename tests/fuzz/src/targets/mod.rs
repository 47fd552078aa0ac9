//! The targets, one file per crate whose decoders they run.

mod backup;
mod conf;
mod pq;
mod quorum;
mod replica;
mod sqlite;
mod state;
mod wal;

use crate::Target;

const fn target(name: &'static str, run: fn(&[u8])) -> Target {
    Target { name, run }
}

pub(crate) const ALL: &[Target] = &[
    target("pq_startup", pq::startup),
    target("pq_frontend", pq::frontend),
    target("pq_backend", pq::backend),
    target("pq_command", pq::command),
    target("pq_replication", pq::replication),
    target("quorum_proposer", quorum::proposer),
    target("quorum_acceptor", quorum::acceptor),
    target("quorum_feedback", quorum::feedback),
    target("quorum_text", quorum::text),
    target("wal_scanner", wal::scanner),
    target("wal_history", wal::history),
    target("sqlite_wal", sqlite::wal),
    target("control_file", state::control_file),
    target("control_record", state::control_record),
    target("backup_manifest", backup::manifest),
    target("backup_chunk", backup::chunk),
    target("backup_snapshot", backup::snapshot),
    target("backup_label", backup::label),
    target("pg_control", backup::pg_control),
    target("replica_codec", replica::codec),
    target("replica_names", replica::names),
    target("replica_pieces", replica::pieces),
    target("conninfo", conf::conninfo),
    target("configuration", conf::configuration),
];
