//! Many connections, and peers that do not read: memory stays bounded, and others are served.

use crate::client::{Client, framed};
use crate::messages::v3;
use crate::session::{Push, START, serves, wal, with_cluster};
use lsn::Lsn;
use std::io::Write;
use std::time::Duration;

/// Writes until the server takes no more for a while, or closes; bytes written.
fn write_until_stuck(client: &mut Client, chunk: &[u8], max: usize) -> usize {
    client.stream.set_write_timeout(Some(Duration::from_secs(1))).unwrap();
    let mut written = 0;
    while written < max {
        match client.stream.write(chunk) {
            Ok(bytes) => written += bytes,
            Err(_) => return written,
        }
    }
    written
}

#[test]
fn hundreds_of_idle_connections_cost_little() {
    let (node, _dir) = with_cluster();
    let before = node.resident_bytes();
    let silent: Vec<Client> = (0..150).map(|_| Client::raw(node.pg)).collect();
    let started: Vec<Client> = (0..150).map(|_| Client::connect(node.pg, "-c cluster=orders")).collect();
    serves(&node, 1);
    let grown = node.resident_bytes().saturating_sub(before);
    assert!(grown < 48 << 20, "{grown} bytes for 300 idle connections");
    for mut client in started {
        client.row("TIMELINE_STATUS");
    }
    drop(silent);
}

#[test]
fn who_asks_and_never_reads_is_not_read_from() {
    let (node, _dir) = with_cluster();
    let before = node.resident_bytes();
    let questions = framed(b'Q', b"LOG_STATUS\0").repeat(1000);
    let mut clients: Vec<Client> = (0..8).map(|_| Client::connect(node.pg, "")).collect();
    for client in &mut clients {
        let written = write_until_stuck(client, &questions, 64 << 20);
        assert!(written < 64 << 20, "the server goes on reading from who does not read");
    }
    let grown = node.resident_bytes().saturating_sub(before);
    assert!(grown < 64 << 20, "{grown} bytes for 8 peers that do not read");
    serves(&node, 1);
}

#[test]
fn a_proposer_that_never_reads_is_given_up() {
    let (node, _dir) = with_cluster();
    let before = node.resident_bytes();
    let mut push = Push::leading(&node);
    let heartbeats = framed(b'd', &v3::append(1, 1, START, 0, &[])).repeat(1000);
    let written = write_until_stuck(&mut push.client, &heartbeats, 256 << 20);
    assert!(written < 256 << 20, "the server goes on answering who does not read");
    let grown = node.resident_bytes().saturating_sub(before);
    assert!(grown < 96 << 20, "{grown} bytes for a proposer that does not read");
    serves(&node, 1);
}

#[test]
fn readers_that_never_read_hold_nobody_up() {
    let (node, _dir) = with_cluster();
    let mut push = Push::leading(&node);
    let mut wal = wal();
    let half = wal.fill_to(Lsn(START + (20 << 20)), 6000).0;
    push.append_all(&wal, START, START);
    push.commit(half, half);
    let before = node.resident_bytes();
    let readers: Vec<Client> = (0..10)
        .map(|index| {
            let mut client = Client::connect(node.pg, "");
            let term = if index % 2 == 0 { " (term='1')" } else { "" };
            client.send_query(&format!("START_REPLICATION 0/1000000{term}"));
            assert_eq!(client.recv().tag, b'W');
            client
        })
        .collect();
    let end = wal.fill_to(Lsn(half + (10 << 20)), 6000).0;
    push.append_all(&wal, half, half);
    push.commit(end, end);
    let grown = node.resident_bytes().saturating_sub(before);
    assert!(grown < 96 << 20, "{grown} bytes for 10 readers that do not read");
    serves(&node, 1);
    drop(readers);
}
