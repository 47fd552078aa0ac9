//! Bytes that are wrong: a sentence, the end of that connection, and nothing else.

use crate::client::{Client, framed, startup_packet};
use crate::messages::{PG_VERSION, SEGMENT, SYSTEM, TENANT, joined, v2, v3};
use crate::process::Node;
use crate::session::{Push, START, by_ids, serves, wal, with_cluster};
use lsn::Lsn;

/// Says something to a listener that expects a start-up packet; the error it answers with, if any.
fn first_bytes(node: &Node, bytes: &[u8]) -> Option<String> {
    let mut client = Client::raw(node.pg);
    client.send_raw(bytes);
    client.half_close();
    client.last_words().map(|refused| refused.text)
}

#[test]
fn strangers_are_told_what_is_spoken_here() {
    let (node, _dir) = Node::fresh();
    let version_2 = [0, 0, 0, 9, 0, 2, 0, 0, 0];
    for (bytes, says) in [
        (&b"GET / HTTP/1.1\r\n\r\n"[..], "is this a PostgreSQL client?"),
        (b"\xff\xff\xff\xff\xff\xff\xff\xff", "is this a PostgreSQL client?"),
        (b"\x7f\xff\xff\xff\0\x03\0\0", "is this a PostgreSQL client?"),
        (b"\0\0\0\0\0\x03\0\0", "is this a PostgreSQL client?"),
        (b"\0\0\0\x07\0\x03\0", "is this a PostgreSQL client?"),
        (b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03", "TLS"),
        (&version_2, "protocol version 2.0"),
        (b"\0\0\0\x0d\0\x03\0\0user\0", "start-up packet"),
        (b"\0\0\0\x08\x04\xd2\x16\x2fmore", "before its answer"),
    ] {
        let text = first_bytes(&node, bytes).unwrap();
        assert!(text.contains(says), "{bytes:?}: {text}");
    }
    serves(&node, 1);
}

#[test]
fn a_start_up_that_breaks_off_is_let_go() {
    let (node, _dir) = Node::fresh();
    let packet = startup_packet("-c cluster=orders", "test");
    for length in 0..packet.len() {
        assert_eq!(first_bytes(&node, &packet[..length]), None);
    }
    serves(&node, 1);
}

#[test]
fn damaged_messages_end_the_connection_with_a_sentence() {
    let (node, _dir) = with_cluster();
    for (bytes, says) in [
        (b"Q\0\0\0\0".to_vec(), "impossible length"),
        (b"Q\xff\xff\xff\xff".to_vec(), "impossible length"),
        (b"Q\x7f\xff\xff\xff".to_vec(), "above the limit"),
        (b"d\x7f\xff\xff\xff".to_vec(), "above the limit"),
        (b"\0\x00\x20\x00\x00".to_vec(), "above the limit"),
        (framed(b'Q', b"LOG_STATUS"), "Query"),
        (framed(b'Q', b"LOG\0STATUS\0"), "Query"),
        (framed(b'Q', b"\xff\xfe\0"), "Query"),
        (framed(b'c', b"x"), "CopyDone"),
        (framed(b'f', b"no end"), "CopyFail"),
    ] {
        let mut client = Client::connect(node.pg, "");
        client.send_raw(&bytes);
        let refused = client.last_words().unwrap();
        assert_eq!(refused.code, "08P01");
        assert!(refused.text.contains(says), "{bytes:?}: {}", refused.text);
    }
    // A message that breaks off is let go.
    let query = framed(b'Q', b"LOG_STATUS\0");
    for length in 0..query.len() {
        let mut client = Client::connect(node.pg, "");
        client.send_raw(&query[..length]);
        client.half_close();
        assert_eq!(client.last_words(), None);
    }
    // A whole one from someone who will say no more is still answered.
    let mut client = Client::connect(node.pg, "");
    client.send_query("LOG_STATUS");
    client.half_close();
    assert_eq!(client.answer().unwrap().0.len(), 1);
    serves(&node, 1);
}

#[test]
fn random_bytes_never_harm() {
    let (node, _dir) = with_cluster();
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for round in 0..150 {
        let length = random() as usize % 600;
        let bytes: Vec<u8> = (0..length).map(|_| random() as u8).collect();
        if round % 3 == 0 {
            first_bytes(&node, &bytes);
        } else if round % 3 == 1 {
            let mut client = Client::connect(node.pg, "");
            client.send_raw(&bytes);
            client.half_close();
            client.last_words();
        } else {
            let mut push = Push::greeted(&node);
            let mut payload = bytes;
            payload.insert(0, b"gvea"[round % 4]);
            push.tell(&payload);
            push.client.half_close();
            push.client.last_words();
        }
    }
    serves(&node, 1);
}

#[test]
fn options_nobody_speaks_leave_the_connection_usable() {
    let (node, _dir) = with_cluster();
    let mut client = Client::connect(node.pg, "");
    for (command, says) in [
        ("START_WAL_PUSH (proto_version '4')", "4"),
        ("START_WAL_PUSH (proto_version '-1')", "-1"),
        ("START_WAL_PUSH (proto_version '3', tli_path 'x')", "tli_path"),
        ("START_WAL_PUSH (allow_timeline_creation 'maybe')", "allow_timeline_creation"),
        ("START_WAL_PUSH (proto_version", "syntax error"),
        ("START_WAL_PUSH (proto_version '3", "closing quote"),
    ] {
        let refused = client.rows(command).unwrap_err();
        assert!(refused.text.contains(says), "{command}: {}", refused.text);
    }
    client.row("LOG_STATUS");
}

#[test]
fn every_truncated_message_is_refused() {
    let (node, _dir) = with_cluster();
    let mut wal = wal();
    wal.record(&[1; 30]);
    for whole in [
        v3::greeting(),
        v3::vote(1, 9),
        v3::elected(1, 9, START, &[(9, START)]),
        v3::append(1, 9, START, 0, wal.bytes()),
    ] {
        for length in 0..whole.len() {
            let mut push = Push::greeted(&node);
            push.tell(&whole[..length]);
            let refused = push.refused();
            assert!(!refused.text.is_empty(), "{length} bytes of {:?}", char::from(whole[0]));
        }
    }
    assert_eq!(node.client().row("LOG_STATUS")["term"], "0", "nothing was believed");
    serves(&node, 1);
}

/// What a session is refused with after these messages.
fn refusal(node: &Node, payloads: &[Vec<u8>]) -> String {
    let mut push = Push::open(node);
    for payload in payloads {
        push.tell(payload);
    }
    push.refused().text
}

#[test]
fn messages_in_the_wrong_state_are_refused() {
    let (node, _dir) = with_cluster();
    let before = "first message of a session must be a greeting";
    assert!(refusal(&node, &[v3::vote(1, 1)]).contains(before));
    assert!(refusal(&node, &[v3::elected(1, 1, START, &[(1, START)])]).contains(before));
    assert!(refusal(&node, &[v3::append(1, 1, START, 0, &[])]).contains(before));
    let greeting = v3::greeting();
    let text = refusal(&node, &[greeting.clone(), v3::append(1, 1, START, 0, &[])]);
    assert!(text.contains("before its Elected message"), "{text}");
    for generation in [0, 2, u32::MAX] {
        let text = refusal(&node, &[greeting.clone(), v3::vote(generation, 1)]);
        assert!(text.contains("membership generation"), "{text}");
    }
    // Protocol 2 cannot say which record it counts by.
    let mut client = Client::connect(node.pg, &by_ids());
    client.send_query("START_WAL_PUSH (proto_version '2')");
    client.send_copy_data(&v2::greeting());
    client.send_copy_data(&v2::vote(1));
    assert!(client.last_words().unwrap().text.contains("membership generation"));
    for history in [&[][..], &[(1, START)], &[(2, START), (2, START)], &[(2, START), (1, START)]] {
        let text = refusal(&node, &[greeting.clone(), v3::vote(1, 2), v3::elected(1, 2, START, history)]);
        assert!(text.contains("history"), "{history:?}: {text}");
    }
    let mut endless = v3::elected(1, 2, START, &[]);
    endless.splice(21..25, u32::MAX.to_be_bytes());
    assert!(refusal(&node, &[greeting.clone(), endless]).contains("history"));
    for tag in [0, b'x', b'G'] {
        refusal(&node, &[greeting.clone(), vec![tag; 40]]);
    }
    refusal(&node, &[vec![]]);
    serves(&node, 1);
}

#[test]
fn another_database_is_refused() {
    let (node, _dir) = with_cluster();
    Push::leading(&node).commit(START, START);
    let of = |tenant, system, segment, version| refusal(&node, &[v3::greeting_of(tenant, system, segment, version)]);
    let text = of(TENANT, SYSTEM + 1, SEGMENT, PG_VERSION);
    assert!(text.contains(&SYSTEM.to_string()) && text.contains("another PostgreSQL"), "{text}");
    let text = of(TENANT, SYSTEM, SEGMENT * 2, PG_VERSION);
    assert!(text.contains("do not fit this cluster"), "{text}");
    for nonsense in [0, 1, SEGMENT + 1, u32::MAX] {
        of(TENANT, SYSTEM, nonsense, PG_VERSION);
    }
    let text = of(TENANT, SYSTEM, SEGMENT, 160_004);
    assert!(text.contains("new major version"), "{text}");
    let text = of([9; 16], SYSTEM, SEGMENT, PG_VERSION);
    assert!(text.contains("the greeting names cluster"), "{text}");
    serves(&node, 1);
}

#[test]
fn appends_that_do_not_fit_are_refused() {
    let (node, _dir) = with_cluster();
    let mut wal = wal();
    let end = wal.fill_to(Lsn(START + 20_000), 500).0;
    Push::leading(&node).append_all(&wal, START, START);
    let more = wal.fill_to(Lsn(end + 20_000), 500).0;
    let mut term = 1;
    let mut after = |payload: &dyn Fn(u64) -> Vec<u8>| {
        term += 1;
        let mut push = Push::leading_on(&node, term, end);
        push.tell(&payload(term));
        push.refused().text
    };
    let next = wal.slice(Lsn(end), Lsn(more));
    let gap = after(&|term| v3::append(1, term, end + 8, 0, &next[8..]));
    assert!(gap.contains("but this log ends at"), "{gap}");
    let overlap = after(&|term| v3::append(1, term, end - 8, 0, next));
    assert!(overlap.contains("but this log ends at"), "{overlap}");
    let garbage = after(&|term| v3::append(1, term, end, 0, &[0xAB; 9000]));
    assert!(garbage.contains("is not valid"), "{garbage}");
    let mut rotten = next.to_vec();
    rotten[100] ^= 1;
    let rotten = after(&|term| v3::append(1, term, end, 0, &rotten));
    assert!(rotten.contains("is not valid"), "{rotten}");
    let early = after(&|term| v3::append(1, term + 1, end, 0, next));
    assert!(early.contains("before its Elected"), "{early}");
    let header = |term: u64, begin: u64, end: u64, wal: &[u8]| {
        joined(&[
            b"a",
            &1_u32.to_be_bytes(),
            &term.to_be_bytes(),
            &begin.to_be_bytes(),
            &end.to_be_bytes(),
            &[0; 16],
            wal,
        ])
    };
    for (begin, to) in [(end, end - 1), (end, u64::MAX), (0, u64::MAX), (end, end + (129 << 10)), (end, end + 100_000)]
    {
        after(&|term| header(term, begin, to, next));
    }
    // A deposed leader is told the newer term, and not refused.
    let mut old = Push::leading_on(&node, 90, end);
    Push::voted(&node, 91);
    old.append(end, 0, next);
    let told = old.acknowledged();
    assert_eq!((told.term, told.flush, told.commit), (91, 0, 0));

    assert_eq!(node.client().row("LOG_STATUS")["flush_lsn"], Lsn(end).to_string(), "nothing of it was taken");
    let mut push = Push::leading_on(&node, 100, end);
    push.append_all(&wal, end, end);
    serves(&node, 1);
}

#[test]
fn committed_wal_is_never_cut() {
    let (node, _dir) = with_cluster();
    let mut wal = wal();
    let middle = wal.fill_to(Lsn(START + 20_000), 500).0;
    let end = wal.fill_to(Lsn(START + 40_000), 500).0;
    let mut push = Push::leading(&node);
    push.append_all(&wal, START, START);
    push.commit(end, middle);
    // A leader whose log parts below the commit LSN.
    let early = wal.records()[3].end.0;
    let mut push = Push::voted(&node, 7);
    push.tell(&v3::elected(1, 7, early, &[(1, START), (7, early)]));
    let text = push.refused().text;
    assert!(text.contains("would cut WAL committed"), "{text}");
    // One that asks for another place than where the logs part.
    let mut push = Push::voted(&node, 8);
    push.tell(&v3::elected(1, 8, middle, &[(1, START), (8, end)]));
    let text = push.refused().text;
    assert!(text.contains("the logs part at"), "{text}");
    // And one that parts above it.
    let mut push = Push::voted(&node, 9);
    push.tell(&v3::elected(1, 9, middle, &[(1, START), (9, middle)]));
    push.append(middle, middle, &[]);
    assert_eq!(push.acknowledged().flush, middle, "the rest was cut");
}

#[test]
fn a_session_ends_as_its_proposer_ends_it() {
    let (node, _dir) = with_cluster();
    let mut push = Push::greeted(&node);
    push.client.send(b'f', b"no more\0");
    assert_eq!(push.refused().code, "00000");
    let mut push = Push::greeted(&node);
    push.client.send(b'X', &[]);
    assert_eq!(push.client.last_words(), None);
    let mut push = Push::greeted(&node);
    push.client.half_close();
    assert_eq!(push.client.last_words(), None);
    let mut push = Push::greeted(&node);
    push.client.send_query("LOG_STATUS");
    assert_eq!(push.refused().code, "08P01");
    serves(&node, 1);
}
