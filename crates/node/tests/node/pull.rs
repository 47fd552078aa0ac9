//! A safekeeper that lies behind fetches what it lacks from another.

use crate::client::Client;
use crate::messages::{TENANT, v3};
use crate::process::{Node, Setup};
use crate::session::{Push, START, init_command, wal};
use lsn::Lsn;
use wal_format::build::WalBuilder;

/// Two members of one cluster, the first with a log of some segments.
fn one_ahead_of_the_other(dirs: [&std::path::Path; 2]) -> (Node, Node, Push, WalBuilder) {
    let (ahead, behind) = (Setup::new(1, dirs[0]).start(), Setup::new(2, dirs[1]).start());
    let member = |id: u64, node: &Node| format!("{id}:{}@127.0.0.1:{}", node.disk(), node.pg.port());
    let record = format!("1/0/{};{}", member(1, &ahead), member(2, &behind));
    for node in [&ahead, &behind] {
        node.client().rows(&init_command("orders", TENANT, &record)).unwrap();
    }
    let mut push = Push::leading(&ahead);
    let mut wal = wal();
    let end = wal.fill_to(Lsn(START + (9 << 20)), 5000).0;
    push.append_all(&wal, START, START);
    push.commit(end, end);
    (ahead, behind, push, wal)
}

#[test]
fn what_the_leader_does_not_relay_is_pulled_from_a_peer() {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let (_ahead, behind, mut leading, mut wal) = one_ahead_of_the_other([dirs[0].path(), dirs[1].path()]);
    let end = wal.end().0;
    let mut push = Push::leading(&behind);
    push.append(end, end, &[]);
    while push.acknowledged().flush < end {}
    let status = behind.client().row("TIMELINE_STATUS");
    assert_eq!((&status["flush_lsn"], &status["commit_lsn"]), (&Lsn(end).to_string(), &Lsn(end).to_string()));

    // From there on it takes appends like everybody else, and holds the same bytes.
    let more = wal.fill_to(Lsn(end + 300_000), 5000).0;
    for push in [&mut leading, &mut push] {
        push.append_all(&wal, end, end);
        push.commit(more, more);
    }
    let mut client = Client::connect(behind.pg, "");
    client.send_query("START_REPLICATION 0/1000000");
    assert_eq!(client.recv().tag, b'W');
    let mut read = Vec::new();
    while read.len() < wal.bytes().len() {
        let message = client.recv_copy_data();
        if message[0] == b'w' {
            read.extend_from_slice(&message[25..]);
        }
    }
    assert!(read == wal.bytes());
}

#[test]
fn nothing_is_pulled_from_a_peer_of_another_term() {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let (ahead, behind, _leading, wal) = one_ahead_of_the_other([dirs[0].path(), dirs[1].path()]);
    let end = wal.end().0;
    // The one behind follows a leader of term 5 of whom the other has not heard.
    let mut push = Push::voted(&behind, 5);
    push.tell(&v3::elected(1, 5, START, &[(1, START), (5, end)]));
    push.commit(end, end);
    assert_eq!(behind.client().row("TIMELINE_STATUS")["flush_lsn"], Lsn(START).to_string());
    // Once it has, the bytes are the leader's.
    let mut other = Push::leading_on(&ahead, 5, end);
    assert_eq!(behind.client().row("TIMELINE_STATUS")["flush_lsn"], Lsn(START).to_string());
    other.append(end, end, &[]);
    other.acknowledged();
    loop {
        push.append(end, end, &[]);
        if push.acknowledged().flush == end {
            return;
        }
    }
}
