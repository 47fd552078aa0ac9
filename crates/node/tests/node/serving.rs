//! What stock clients trip over when a server is not PostgreSQL: positions, texts, columns, endings, silence.

use crate::client::Client;
use crate::messages::{SEGMENT, SYSTEM, TENANT, v3};
use crate::process::Node;
use crate::reading::{Stream, half_committed, status};
use crate::session::{Push, START, init_command, only, with_cluster};
use lsn::{Lsn, SegmentSize, SystemId};
use std::time::{Duration, Instant};
use wal_format::build::WalBuilder;

#[test]
fn identify_system_has_four_columns_and_a_position_that_can_be_read() {
    let (node, _dir) = with_cluster();
    let (_push, _wal, middle) = half_committed(&node);
    let row = node.client().row("IDENTIFY_SYSTEM");
    let values = ["systemid", "timeline", "xlogpos", "dbname"].map(|column| row[column].clone());
    assert_eq!(values, [SYSTEM.to_string(), "1".to_owned(), Lsn(middle).to_string(), "<null>".to_owned()]);
    Stream::start(&node, middle, " TIMELINE 1").unwrap().ping();
    // Nobody learns of uncommitted WAL by its name alone.
    let mut other = Client::connect_as(node.pg, "", "walreceiver").unwrap();
    assert_eq!(other.row("IDENTIFY_SYSTEM")["xlogpos"], Lsn(middle).to_string());
}

#[test]
fn the_version_announced_is_the_primarys() {
    let (node, _dir) = with_cluster();
    assert_eq!(node.client().parameters["server_version"], "13.0", "not known yet: the oldest there is");
    half_committed(&node);
    let mut client = node.client();
    assert_eq!(client.parameters["server_version"], "15.18");
    assert_eq!(client.parameters["integer_datetimes"], "on");
    assert_eq!(client.row("SHOW server_version_num")["server_version_num"], "150018");
    assert_eq!(client.row("SHOW wal_block_size")["wal_block_size"], "8192");
}

#[test]
fn a_missing_history_is_an_error_behind_a_description() {
    let (node, _dir) = with_cluster();
    half_committed(&node);
    let mut client = node.client();
    for tli in [1, 2, 7] {
        client.send_query(&format!("TIMELINE_HISTORY {tli}"));
        assert_eq!(client.recv().tag, b'T');
        let refused = client.recv().refused().unwrap();
        let text = format!("could not open file \"pg_wal/{tli:08X}.history\": No such file or directory");
        assert_eq!((refused.code.as_str(), refused.text), ("58P01", text));
        assert_eq!(client.recv().tag, b'Z');
    }
}

#[test]
fn a_silent_reader_is_given_up_and_a_talking_one_is_not() {
    let (node, _dir) = with_cluster();
    let (_push, _wal, middle) = half_committed(&node);
    let start = |options: &str| {
        let mut client = Client::connect(node.pg, options);
        client.send_query(&format!("START_REPLICATION {} TIMELINE 1", Lsn(middle)));
        assert_eq!(client.recv().tag, b'W');
        client
    };
    let (mut silent, mut talking) = (start("-c wal_sender_timeout=1500ms"), start("-c wal_sender_timeout=1500"));
    let began = Instant::now();
    let mut asked = 0;
    while let Some(message) = silent.try_recv() {
        assert_eq!((message.tag, message.body[0]), (b'd', b'k'), "an end without an error, as PostgreSQL has it");
        asked += usize::from(message.body[17]);
        // Answering in time keeps the other alive.
        talking.send_copy_data(&status(middle, false));
    }
    assert!(asked >= 1, "it was asked before it was given up");
    assert!(began.elapsed() > Duration::from_millis(1200));
    talking.send_copy_data(&status(middle, true));
    while talking.recv_copy_data()[0] != b'k' {}
    let mut readers = node.client();
    readers.row("LOG_STATUS");
}

#[test]
fn a_ping_is_answered_while_wal_is_on_its_way() {
    let (node, _dir) = with_cluster();
    let (mut push, wal, _) = half_committed(&node);
    let end = wal.end().0;
    push.commit(end, end);
    let mut stream = Stream::start(&node, START, " TIMELINE 1").unwrap();
    // Whatever is in flight, the answer is not forgotten.
    stream.ping();
    stream.read_to(end);
    assert!(stream.is_of(&wal));
}

#[test]
fn a_replica_that_has_everything_is_let_go_once_nobody_could_bring_more() {
    let (node, _dir) = with_cluster();
    let (push, _wal, middle) = half_committed(&node);
    let mut client = Client::connect_as(node.pg, "", "replica-1").unwrap();
    client.send_query(&format!("START_REPLICATION PHYSICAL {}", Lsn(middle)));
    assert_eq!(client.recv().tag, b'W');
    let feedback = |applied: u64| {
        let pair = [&b"\x01ps_applylsn\0\0\0\0\x08"[..], &applied.to_be_bytes()].concat();
        [&b"z"[..], &(pair.len() as u64).to_be_bytes(), &pair].concat()
    };
    let survives = |client: &mut Client| {
        let until = Instant::now() + Duration::from_millis(1500);
        while Instant::now() < until {
            client.send_copy_data(&status(0, true));
            assert_eq!(client.recv_copy_data()[0], b'k');
        }
    };
    client.send_copy_data(&feedback(middle));
    survives(&mut client);
    drop(push);
    // Not one that lacks something, and not a standby that never said so.
    let mut standby = Stream::start(&node, middle, " TIMELINE 1").unwrap();
    let words = client.last_words().unwrap();
    assert_eq!(words.code, "00000");
    let text =
        format!("ending streaming to replica-1 at {}, receiver is caughtup and there is no computes", Lsn(middle));
    assert_eq!(words.text, text);
    standby.ping();
    let mut lacking = Client::connect_as(node.pg, "", "replica-2").unwrap();
    lacking.send_query(&format!("START_REPLICATION PHYSICAL {}", Lsn(middle)));
    assert_eq!(lacking.recv().tag, b'W');
    lacking.send_copy_data(&feedback(middle - 1));
    survives(&mut lacking);
}

#[test]
fn a_consumer_that_sleeps_is_called_while_wal_waits_for_it() {
    let (node, _dir) = with_cluster();
    let (mut push, wal, middle) = half_committed(&node);
    let door = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}/wake", door.local_addr().unwrap());
    let start = |address: &str| {
        let mut client = Client::connect_as(node.pg, "", "sleeper").unwrap();
        client.send_query(&format!("START_REPLICATION {} TIMELINE 1 (call_back '{address}')", Lsn(middle)));
        let first = client.recv();
        (client, first)
    };
    let refused = start("http://10.1.2.3/").1.refused().unwrap();
    assert_eq!(refused.code, "42501", "{}", refused.text);
    let (mut sleeper, first) = start(&address);
    assert_eq!(first.tag, b'W');
    sleeper.send_copy_data(&status(middle, true));
    while sleeper.recv_copy_data()[0] != b'k' {}
    drop(sleeper);
    // Nothing waits for it yet; then something does.
    push.commit(wal.end().0, wal.end().0);
    let (mut caller, _) = door.accept().unwrap();
    let mut asked = [0; 9];
    std::io::Read::read_exact(&mut caller, &mut asked).unwrap();
    assert_eq!(&asked, b"GET /wake");
}

/// A cluster whose log begins at `start`, in segments of `size`.
fn far_away(node: &Node, size: u32, start: u64, bytes: u64) -> (Push, WalBuilder) {
    node.client().rows(&init_command("far", TENANT, &only(node))).unwrap();
    let mut push = Push { client: Client::connect(node.pg, "-c cluster=far"), term: 1 };
    push.client.send_query("START_WAL_PUSH (proto_version '3')");
    assert_eq!(push.client.recv().tag, b'W');
    push.tell(&v3::greeting_of(TENANT, SYSTEM, size, 150_018));
    push.tell(&v3::vote(1, 1));
    push.tell(&v3::elected(1, 1, start, &[(1, start)]));
    assert_eq!(push.client.recv_copy_data()[0], b'g');
    assert_eq!(push.client.recv_copy_data()[0], b'v');
    let segment = SegmentSize::new(size.into()).unwrap();
    let mut wal = WalBuilder::new(segment, Lsn(start)).with_system_id(SystemId(SYSTEM));
    let end = wal.fill_to(Lsn(start + bytes), 8000).0;
    push.append_all(&wal, start, start);
    push.commit(end, end);
    (push, wal)
}

#[test]
fn positions_above_four_gigabytes_and_names_past_ff() {
    let (node, _dir) = Node::fresh();
    // With 1 MB segments there are 4096 to the 4 GB: the last of them, then the first of the next.
    let start = (2 << 32) + (4095 << 20);
    let (_push, wal) = far_away(&node, SEGMENT, start, 2 << 20);
    let mut stream = Stream::start(&node, start, " TIMELINE 1").unwrap();
    stream.read_to(wal.end().0);
    assert!(stream.is_of(&wal));
    drop(stream);
    let node = node.kill().start();
    let mut stream = Stream::start(&node, start + (1 << 20), " TIMELINE 1 (term='1')").unwrap();
    stream.read_to(wal.end().0);
    assert!(stream.is_of(&wal));
    let refused = Stream::refused(&node, start - 1, " TIMELINE 1");
    assert_eq!(refused.text, "requested WAL segment 000000010000000200000FFE has already been removed");
    assert_eq!(node.client().row("SHOW wal_segment_size")["wal_segment_size"], "1MB");
}

#[test]
fn segments_of_a_gigabyte() {
    let (node, _dir) = Node::fresh();
    let start = 3 << 30;
    let (_push, wal) = far_away(&node, 1 << 30, start, 300_000);
    let mut stream = Stream::start(&node, start, " TIMELINE 1").unwrap();
    stream.read_to(wal.end().0);
    assert!(stream.is_of(&wal));
    assert_eq!(node.client().row("SHOW wal_segment_size")["wal_segment_size"], "1GB");
    let refused = Stream::refused(&node, start - 1, " TIMELINE 1");
    assert_eq!(refused.text, "requested WAL segment 000000010000000000000002 has already been removed");
}
