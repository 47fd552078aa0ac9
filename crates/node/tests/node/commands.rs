//! The commands that answer with rows.

use crate::client::Client;
use crate::messages::{PG_VERSION, SEGMENT, SYSTEM, TENANT, TIMELINE, hex};
use crate::process::Node;
use crate::session::{Push, START, init, init_command, only, wal, with_cluster};
use lsn::Lsn;
use quorum_proto::{LogState, LogStatusRow, PeerColumns};

fn log_status(node: &Node) -> LogStatusRow {
    let row = node.client().row("LOG_STATUS");
    LogStatusRow::from_row(|column| row.get(column).map(String::as_str)).unwrap()
}

#[test]
fn every_column_of_log_status_is_there_before_and_after_the_first_wal() {
    let (node, _dir) = with_cluster();
    let columns = node.client().row("LOG_STATUS");
    assert_eq!(columns.len(), LogStatusRow::columns().len() + PeerColumns::COLUMNS.len());
    assert_eq!((columns["path"].as_str(), columns["history"].as_str()), ("", ""));
    let before = log_status(&node);
    assert_eq!((before.node.0, before.disk.to_string(), before.name.as_str()), (1, node.disk(), "orders"));
    assert_eq!((before.cluster.tenant, before.cluster.timeline), (TENANT, TIMELINE));
    assert_eq!((before.state, before.term.0, before.last_log_term.0), (LogState::Member, 0, 0));
    assert_eq!((before.flush, before.commit), (Lsn(0), Lsn(0)));
    assert_eq!(before.membership.to_string(), only(&node));
    assert_eq!((before.fence, before.leader_silent_ms), (None, None));
    assert_eq!((before.system_id.0, before.segment_size, before.pg_version), (0, 0, 0));

    let mut push = Push::leading(&node);
    let mut wal = wal();
    let end = wal.fill_to(Lsn(START + 10_000), 500);
    push.append_all(&wal, START, START);
    push.commit(end.0, START + 1000);
    let after = log_status(&node);
    assert_eq!((after.term.0, after.last_log_term.0), (1, 1));
    assert_eq!((after.flush, after.commit), (end, Lsn(START + 1000)));
    assert_eq!(after.history.to_string(), "1:0/1000000");
    assert_eq!(after.path.unwrap().to_string(), "1:0/0:0");
    assert_eq!((after.system_id.0, after.segment_size, after.pg_version), (SYSTEM, SEGMENT, PG_VERSION));
    assert!(after.leader_silent_ms.is_some() && after.version > before.version);
}

#[test]
fn since_returns_only_what_changed() {
    let (node, _dir) = with_cluster();
    let version = log_status(&node).version;
    let mut client = node.client();
    let since = |version: u64| format!("LOG_STATUS (since '{version}')");
    assert_eq!(client.rows(&since(version - 1)).unwrap().len(), 1);
    assert!(client.rows(&since(version)).unwrap().is_empty());
    Push::voted(&node, 1);
    assert_eq!(client.rows(&since(version)).unwrap().len(), 1, "a vote is a change");
    assert!(client.rows("LOG_STATUS (since 'x')").is_err());
}

#[test]
fn positions_are_told_once_there_is_wal() {
    let (node, _dir) = with_cluster();
    let refused = node.client().rows("IDENTIFY_SYSTEM").unwrap_err();
    assert_eq!(refused.code, "55000");
    assert!(refused.text.contains("no WAL of this cluster is here yet"), "{}", refused.text);
    assert_eq!(node.client().row("TIMELINE_STATUS")["flush_lsn"], "0/0");

    let mut push = Push::leading(&node);
    let mut wal = wal();
    let middle = wal.fill_to(Lsn(START + 20_000), 500);
    let end = wal.fill_to(Lsn(START + 40_000), 500);
    push.append_all(&wal, START, START);
    push.commit(end.0, middle.0);
    let status = node.client().row("TIMELINE_STATUS");
    assert_eq!((&status["flush_lsn"], &status["commit_lsn"]), (&end.to_string(), &middle.to_string()));
    // Who will name a term is told the end of the log, everybody else the committed end.
    for (application, position) in [("psql", middle), ("wal_proposer_recovery", end), ("safekeeper_2", end)] {
        let row = Client::connect_as(node.pg, "", application).unwrap().row("IDENTIFY_SYSTEM");
        assert_eq!(row["systemid"], SYSTEM.to_string());
        assert_eq!((row["timeline"].as_str(), row["dbname"].as_str()), ("1", "<null>"));
        assert_eq!(row["xlogpos"], position.to_string(), "{application}");
    }
    let version = Client::connect(node.pg, "").parameters["server_version"].clone();
    assert_eq!(version, "15.18", "that of the primary, once it is known");
}

#[test]
fn show_answers_what_receivers_ask() {
    let (node, _dir) = with_cluster();
    assert!(node.client().rows("SHOW wal_segment_size").is_err(), "not known yet");
    Push::leading(&node).commit(START, START);
    let mut client = node.client();
    assert_eq!(client.row("SHOW wal_segment_size")["wal_segment_size"], "1MB");
    assert_eq!(client.row("SHOW data_directory_mode")["data_directory_mode"], "0700");
    let refused = client.rows("SHOW work_mem").unwrap_err();
    assert_eq!(refused.code, "42704", "{}", refused.text);
}

#[test]
fn small_talk_of_clients_is_answered() {
    let (node, _dir) = with_cluster();
    let mut client = node.client();
    for (command, tag) in [("SET datestyle TO 'ISO'", "SET"), ("set client_encoding to utf8;", "SET"), ("", "empty")] {
        client.send_query(command);
        assert_eq!(client.answer().unwrap().1, tag, "{command}");
    }
    for command in ["SELECT 1", "BASE_BACKUP", "DROP TABLE x"] {
        let refused = client.rows(command).unwrap_err();
        assert_eq!(refused.code, "42601");
        assert!(refused.text.contains("not SQL"), "{}", refused.text);
    }
    for command in ["START_REPLICATION LOGICAL 0/0", "START_REPLICATION x", "INIT_CLUSTER (", "LOG_STATUS ("] {
        client.rows(command).unwrap_err();
    }
    client.row("LOG_STATUS");
}

#[test]
fn init_is_done_once_and_the_same_again_is_success() {
    let (node, _dir) = Node::fresh();
    let mut client = node.client();
    let command = init_command("orders", TENANT, &only(&node));
    for _ in 0..2 {
        client.send_query(&command);
        assert_eq!(client.answer().unwrap().1, "INIT_CLUSTER");
    }
    let other_port = only(&node).replace("@127.0.0.1:", "@127.0.0.2:");
    for (why, command) in [
        ("other ids", init_command("orders", [9; 16], &only(&node))),
        ("another name", init_command("bills", TENANT, &only(&node))),
        ("another record", init_command("orders", TENANT, &other_port)),
    ] {
        let refused = client.rows(&command).unwrap_err();
        assert_eq!(refused.code, "42710", "{why}: {}", refused.text);
        assert!(refused.text.contains("already has cluster \"orders\""), "{why}: {}", refused.text);
    }
    assert_eq!(client.rows("LOG_STATUS").unwrap().len(), 1);
}

#[test]
fn a_record_that_does_not_name_this_disk_is_refused() {
    let (node, _dir) = Node::fresh();
    let mut client = node.client();
    let disk = node.disk();
    let (other_disk, other_node) = (format!("1/0/1:{}@h:1", hex([7; 16])), format!("1/0/2:{disk}@h:1"));
    for membership in [other_disk.as_str(), other_node.as_str()] {
        let refused = client.rows(&init_command("orders", TENANT, membership)).unwrap_err();
        assert_eq!(refused.code, "22023");
        assert!(refused.text.contains("does not name safekeeper 1 with its disk"), "{}", refused.text);
    }
    for membership in ["", "1/0/", "0/0/", "x", "1/0/1:00@h:1", "1/0/1:x@h"] {
        assert_eq!(client.rows(&init_command("orders", TENANT, membership)).unwrap_err().code, "22023", "{membership}");
    }
    for name in ["", "A", "a b", "../x"] {
        assert!(client.rows(&init_command(name, TENANT, &only(&node))).is_err(), "{name}");
    }
    assert!(client.rows("LOG_STATUS").unwrap().is_empty(), "nothing was made");
}

#[test]
fn what_init_made_is_there_after_a_crash() {
    let (node, _dir) = Node::fresh();
    init(&node);
    let record = log_status(&node).membership;
    let node = node.kill().start();
    let row = log_status(&node);
    assert_eq!((row.name.as_str(), row.membership), ("orders", record));
}
