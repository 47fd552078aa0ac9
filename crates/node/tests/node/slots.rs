//! Replication slots, from their creation to their loss, through crashes.

use crate::client::Client;
use crate::process::{Node, Setup};
use crate::reading::{Stream, half_committed, status};
use crate::session::{Push, START, init, wal, with_cluster};
use lsn::Lsn;
use std::time::{Duration, Instant};

const MIB: u64 = 1 << 20;

fn code(client: &mut Client, command: &str) -> String {
    client.rows(command).unwrap_err().code
}

/// Type, position and TLI of a slot, as READ_REPLICATION_SLOT tells them.
fn read(client: &mut Client, slot: &str) -> [String; 3] {
    let row = client.row(&format!("READ_REPLICATION_SLOT {slot}"));
    ["slot_type", "restart_lsn", "restart_tli"].map(|column| row[column].clone())
}

#[test]
fn slots_are_made_read_and_dropped_as_postgresql_does() {
    let (node, _dir) = with_cluster();
    let (_push, _wal, middle) = half_committed(&node);
    let mut client = node.client();
    assert_eq!(read(&mut client, "a"), ["<null>", "<null>", "<null>"]);
    let row = client.row("CREATE_REPLICATION_SLOT \"a\" PHYSICAL");
    assert_eq!((row["slot_name"].as_str(), row["consistent_point"].as_str()), ("a", "0/0"));
    assert_eq!((row["snapshot_name"].as_str(), row["output_plugin"].as_str()), ("<null>", "<null>"));
    assert_eq!(read(&mut client, "a"), ["physical", "<null>", "<null>"], "no WAL is kept yet");
    client.row("CREATE_REPLICATION_SLOT b PHYSICAL RESERVE_WAL");
    client.row("CREATE_REPLICATION_SLOT \"c\" PHYSICAL (RESERVE_WAL)");
    let start = Lsn(middle / MIB * MIB).to_string();
    for slot in ["b", "\"c\""] {
        assert_eq!(read(&mut client, slot), ["physical", &start, "1"]);
    }
    assert_eq!(code(&mut client, "CREATE_REPLICATION_SLOT a PHYSICAL"), "42710");
    assert_eq!(code(&mut client, "CREATE_REPLICATION_SLOT \"no-slot\" PHYSICAL"), "42602");
    assert_eq!(code(&mut client, "DROP_REPLICATION_SLOT nobody"), "42704");
    client.send_query("DROP_REPLICATION_SLOT a");
    assert_eq!(client.answer().unwrap().1, "DROP_REPLICATION_SLOT");
    assert_eq!(read(&mut client, "a"), ["<null>", "<null>", "<null>"]);
    for number in 2..64 {
        client.row(&format!("CREATE_REPLICATION_SLOT s{number} PHYSICAL"));
    }
    assert_eq!(code(&mut client, "CREATE_REPLICATION_SLOT one_more PHYSICAL"), "53400");
}

#[test]
fn a_slot_that_was_answered_survives_a_crash_and_a_dropped_one_does_not_return() {
    let (node, _dir) = with_cluster();
    let (push, _wal, middle) = half_committed(&node);
    let mut client = node.client();
    client.row("CREATE_REPLICATION_SLOT kept PHYSICAL RESERVE_WAL");
    client.row("CREATE_REPLICATION_SLOT bare PHYSICAL");
    client.row("CREATE_REPLICATION_SLOT gone PHYSICAL");
    client.row("CREATE_REPLICATION_SLOT short TEMPORARY PHYSICAL RESERVE_WAL");
    client.rows("DROP_REPLICATION_SLOT gone").unwrap();
    drop(push);
    let node = node.kill().start();
    let mut client = node.client();
    let missing = ["<null>", "<null>", "<null>"];
    let start = Lsn(middle / MIB * MIB).to_string();
    assert_eq!(read(&mut client, "kept"), ["physical", &start, "1"]);
    assert_eq!(read(&mut client, "bare"), ["physical", "<null>", "<null>"]);
    assert_eq!(read(&mut client, "gone"), missing);
    assert_eq!(read(&mut client, "short"), missing);
}

#[test]
fn a_damaged_record_of_slots_keeps_nothing_else_from_working() {
    let (node, _dir) = with_cluster();
    let (_push, _wal, middle) = half_committed(&node);
    node.client().row("CREATE_REPLICATION_SLOT kept PHYSICAL RESERVE_WAL");
    let record = std::fs::read_dir(node.dir()).unwrap().find_map(|tenant| {
        let timeline = std::fs::read_dir(tenant.unwrap().path()).ok()?.next()?.unwrap();
        Some(timeline.path().join("slots/control"))
    });
    let setup = node.kill();
    std::fs::write(record.unwrap(), b"nonsense").unwrap();
    let node = setup.start();
    assert_eq!(read(&mut node.client(), "kept")[0], "<null>");
    node.client().row("CREATE_REPLICATION_SLOT kept PHYSICAL");
    let (mut push, wal) = (Push::leading_on(&node, 2, middle), wal());
    push.append(middle, middle, wal.slice(wal.end(), wal.end()));
}

#[test]
fn temporary_slots_go_with_their_connection_only() {
    let (node, _dir) = with_cluster();
    half_committed(&node);
    let mut owner = node.client();
    owner.row("CREATE_REPLICATION_SLOT \"tmp\" TEMPORARY PHYSICAL ( RESERVE_WAL)");
    let mut other = node.client();
    other.row("CREATE_REPLICATION_SLOT other TEMPORARY PHYSICAL");
    assert_eq!(read(&mut other, "tmp")[0], "physical");
    assert_eq!(code(&mut other, "CREATE_REPLICATION_SLOT tmp PHYSICAL"), "42710");
    drop(owner);
    while read(&mut other, "tmp")[0] == "physical" {}
    assert_eq!(read(&mut other, "other")[0], "physical");
}

#[test]
fn one_reader_at_a_time_and_dropping_waits_for_it() {
    let (node, _dir) = with_cluster();
    let (_push, _wal, middle) = half_committed(&node);
    let mut client = node.client();
    client.row("CREATE_REPLICATION_SLOT s PHYSICAL");
    let start = |slot: &str| {
        let mut client = node.client();
        client.send_query(&format!("START_REPLICATION SLOT \"{slot}\" PHYSICAL {} TIMELINE 1", Lsn(START)));
        let first = client.recv();
        (client, first)
    };
    assert_eq!(start("none").1.refused().unwrap().code, "42704");
    let (mut reader, first) = start("s");
    assert_eq!(first.tag, b'W');
    assert_eq!(start("s").1.refused().unwrap().code, "55006");
    assert_eq!(code(&mut client, "DROP_REPLICATION_SLOT s"), "55006");
    // A diverged reader that claims more than is committed moves the slot to the commit LSN at most.
    reader.send_copy_data(&status(u64::MAX >> 1, true));
    while reader.recv_copy_data()[0] != b'k' {}
    assert_eq!(read(&mut client, "s"), ["physical", &Lsn(middle).to_string(), "1"]);
    client.send_query("DROP_REPLICATION_SLOT s WAIT");
    drop(reader);
    assert_eq!(client.answer().unwrap().1, "DROP_REPLICATION_SLOT");
    // A waiting client that goes is noticed, and its command is not carried out.
    client.row("CREATE_REPLICATION_SLOT t PHYSICAL");
    let (reader, _) = start("t");
    let mut gone = node.client();
    gone.send_query("DROP_REPLICATION_SLOT t WAIT");
    assert!({
        gone.half_close();
        gone.try_recv().is_none()
    });
    drop(reader);
    while start("t").1.tag != b'W' {}
    assert_eq!(read(&mut client, "t")[0], "physical");
}

/// Writes and commits up to `to`, one segment at a time, so that WAL is removed in between.
fn write_to(push: &mut Push, wal: &mut wal_format::build::WalBuilder, to: u64) {
    while wal.end().0 < to {
        let from = wal.end().0;
        let end = wal.fill_to(Lsn(to.min(from + MIB)), 3000).0;
        push.append_all(wal, from, from);
        push.commit(end, end);
    }
}

fn refused_start(node: &Node) -> Option<String> {
    Stream::start(node, START, " TIMELINE 1").unwrap().try_ping().err().map(|refused| refused.code)
}

#[test]
fn a_slot_holds_wal_back_up_to_its_allowance() {
    let dir = tempfile::tempdir().unwrap();
    let setup = Setup { max_wal: 2 * MIB, max_slot_wal: 6 * MIB, ..Setup::new(1, dir.path()) };
    let node = setup.start();
    init(&node);
    let (mut push, mut wal) = (Push::leading(&node), wal());
    write_to(&mut push, &mut wal, START + MIB / 2);
    let mut client = node.client();
    client.row("CREATE_REPLICATION_SLOT held PHYSICAL RESERVE_WAL");
    write_to(&mut push, &mut wal, START + 7 * MIB);
    // Old WAL is looked for once a second while WAL comes: for two rounds it must stay, though it is above the limit.
    let until = Instant::now() + Duration::from_millis(2500);
    while Instant::now() < until {
        let end = wal.end().0;
        write_to(&mut push, &mut wal, end + 1000);
        assert_eq!(refused_start(&node), None, "kept for the slot");
    }
    write_to(&mut push, &mut wal, START + 13 * MIB);
    let mut more = wal.end().0;
    while refused_start(&node).is_none() {
        more += 1000;
        write_to(&mut push, &mut wal, more);
    }
    assert_eq!(refused_start(&node).unwrap(), "58P01");
    assert_eq!(read(&mut client, "held"), ["physical", "<null>", "<null>"], "lost: it keeps nothing any more");
    // Its reader may go on from what is there, and the slot keeps WAL again.
    let end = wal.end().0;
    let mut reader = node.client();
    reader.send_query(&format!("START_REPLICATION SLOT held {} TIMELINE 1", Lsn(end - MIB)));
    assert_eq!(reader.recv().tag, b'W');
    reader.send_copy_data(&status(end, true));
    while reader.recv_copy_data()[0] != b'k' {}
    assert_eq!(read(&mut client, "held"), ["physical", &Lsn(end).to_string(), "1"]);
}
