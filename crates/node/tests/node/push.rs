//! Whole sessions of a proposer, byte by byte, and what a restart keeps of them.

use crate::client::Client;
use crate::messages::{acknowledged_v2, joined, v2, v3};
use crate::process::Node;
use crate::session::{Push, START, by_ids, serves, wal, with_cluster};
use lsn::Lsn;

#[test]
fn a_session_of_protocol_3() {
    let (node, _dir) = with_cluster();
    let mut push = Push::open(&node);
    push.tell(&v3::greeting());
    let record = joined(&[
        &1_u32.to_be_bytes(),
        &1_u32.to_be_bytes(),
        &1_u64.to_be_bytes(),
        b"127.0.0.1\0",
        &node.pg.port().to_be_bytes(),
        &0_u32.to_be_bytes(),
    ]);
    let greeting = joined(&[b"g", &1_u64.to_be_bytes(), &record, &0_u64.to_be_bytes()]);
    assert_eq!(push.client.recv_copy_data(), greeting);

    push.tell(&v3::vote(1, 5));
    let vote =
        |given: u8| joined(&[b"v", &1_u32.to_be_bytes(), &5_u64.to_be_bytes(), &[given], &[0; 8], &[0; 8], &[0; 4]]);
    assert_eq!(push.client.recv_copy_data(), vote(1));
    push.tell(&v3::vote(1, 5));
    assert_eq!(push.client.recv_copy_data(), vote(0), "one vote a term");
    push.tell(&v3::vote(1, 4));
    assert_eq!(push.client.recv_copy_data(), vote(0), "and none for an older one");

    push.term = 5;
    push.tell(&v3::elected(1, 5, START, &[(5, START)]));
    let mut wal = wal();
    let mut at = START;
    for index in 0..30_u8 {
        // Longer than a page now and then, so that records lie across pages and segments.
        let end = wal.record(&vec![index; 100 + 4000 * usize::from(index % 8)]).0;
        push.append(at, START, wal.slice(Lsn(at), Lsn(end)));
        let response = loop {
            let response = push.acknowledged();
            assert_eq!((response.generation, response.term), (1, 5));
            // The first WAL commits the start of the term, and that is told as soon as it is durable.
            if (response.flush, response.commit) == (end, START) || index > 0 {
                break response;
            }
        };
        assert_eq!((response.flush, response.commit), (end, START), "one answer to each append that moves the end");
        at = end;
    }
    // A heartbeat is answered although nothing moves.
    for _ in 0..3 {
        push.append(at, START, &[]);
        assert_eq!(push.acknowledged().flush, at);
    }
    let mut client = Client::connect(node.pg, "");
    assert_eq!(client.row("TIMELINE_STATUS")["flush_lsn"], Lsn(at).to_string());
    push.client.send(b'c', &[]);
    assert_eq!(push.client.recv().tag, b'c', "CopyDone is answered");
    assert_eq!(push.client.try_recv(), None);
}

#[test]
fn bytes_of_half_a_record_are_not_acknowledged() {
    let (node, _dir) = with_cluster();
    let mut push = Push::leading(&node);
    let mut wal = wal();
    let whole = wal.record(&[1; 200]).0;
    let end = wal.record(&[2; 60_000]).0;
    let cut = whole + 30_000;
    push.append(START, 0, wal.slice(Lsn(START), Lsn(cut)));
    push.wait_for_flush(whole);
    push.append(cut, 0, &[]);
    assert_eq!(push.acknowledged().flush, whole);
    push.append(cut, 0, wal.slice(Lsn(cut), Lsn(end)));
    push.wait_for_flush(end);
}

#[test]
fn many_appends_at_once_are_acknowledged_with_few_answers() {
    let (node, _dir) = with_cluster();
    let mut push = Push::leading(&node);
    let mut wal = wal();
    let end = wal.fill_to(Lsn(START + (3 << 20)), 300).0;
    let mut burst = Vec::new();
    let mut at = START;
    let records = wal.records().to_vec();
    for record in &records {
        let payload = v3::append(1, 1, at, 0, wal.slice(Lsn(at), record.end));
        burst.extend_from_slice(&crate::client::framed(b'd', &payload));
        at = record.end.0;
    }
    push.client.send_raw(&burst);
    let mut answers = 1;
    while push.acknowledged().flush < end {
        answers += 1;
    }
    assert!(answers < records.len() / 2, "{answers} answers to {} appends", records.len());
}

#[test]
fn a_restart_keeps_term_flush_and_commit() {
    let (mut node, _dir) = with_cluster();
    let mut wal = wal();
    let (mut at, mut history) = (START, Vec::new());
    for term in 1..=4_u64 {
        history.push((term, at));
        let mut push = Push::leading_with(&node, &history);
        let end = wal.fill_to(Lsn(at + (1 << 20) + 12_345), 1000).0;
        push.append_all(&wal, at, at);
        push.append(end, end, &[]);
        // Told once it is written down, which is not the commit path's business.
        let persisted = |push: &mut Push| {
            push.append(end, end, &[]);
            push.acknowledged().commit == end
        };
        while !persisted(&mut push) {}
        node = if term % 2 == 0 {
            node.kill().start()
        } else {
            let (status, setup) = node.stop();
            assert!(status.success());
            setup.start()
        };
        let row = node.client().row("LOG_STATUS");
        assert_eq!((row["term"].as_str(), row["state"].as_str()), (term.to_string().as_str(), "member"));
        assert_eq!((&row["flush_lsn"], &row["commit_lsn"]), (&Lsn(end).to_string(), &Lsn(end).to_string()));
        at = end;
    }
    serves(&node, 1);
}

#[test]
fn what_was_acknowledged_survives_kill_9_in_the_middle() {
    let (mut node, _dir) = with_cluster();
    let mut wal = wal();
    let (mut at, mut history) = (START, Vec::new());
    for term in 1..=6_u64 {
        history.push((term, at));
        let mut push = Push::leading_with(&node, &history);
        let end = wal.fill_to(Lsn(at + 500_000 * term), 700).0;
        push.append_all(&wal, at, at);
        // More is under way when the process dies.
        let more = wal.fill_to(Lsn(end + 50_000), 700);
        push.append(end, end, wal.slice(Lsn(end), more));
        node = node.kill().start();
        let row = node.client().row("LOG_STATUS");
        let flush: Lsn = row["flush_lsn"].parse().unwrap();
        assert!(flush >= Lsn(end), "{flush} was acknowledged up to {}", Lsn(end));
        assert!(flush <= more);
        assert_eq!(row["state"], "member");
        wal.cut(flush);
        at = flush.0;
    }
}

#[test]
fn a_foreign_proposer_of_protocol_2_makes_its_cluster_and_works() {
    let (node, _dir) = Node::foreign();
    let mut client = Client::connect(node.pg, &by_ids());
    client.send_query("START_WAL_PUSH");
    assert_eq!(client.recv().tag, b'W');
    let u64s = |values: &[u64]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
    client.send_copy_data(&v2::greeting());
    assert_eq!(client.recv_copy_data(), u64s(&[u64::from(b'g'), 0, 1]), "tag, term, node");
    client.send_copy_data(&v2::vote(3));
    let expected = joined(&[&u64s(&[u64::from(b'v'), 3, 1, 0, 0]), &[0; 4], &[0; 8]]);
    assert_eq!(client.recv_copy_data(), expected, "tag, term, given, flush, truncate, empty history, nothing");
    client.send_copy_data(&v2::elected(3, START, &[(3, START)]));
    let mut wal = wal();
    let end = wal.fill_to(Lsn(START + 60_000), 900).0;
    client.send_copy_data(&v2::append(3, START, START, wal.slice(Lsn(START), Lsn(end))));
    let mut response = acknowledged_v2(&client.recv_copy_data());
    while (response.flush, response.commit) != (end, START) {
        client.send_copy_data(&v2::append(3, end, START, &[]));
        response = acknowledged_v2(&client.recv_copy_data());
    }
    let row = node.client().row("LOG_STATUS");
    assert_eq!((row["membership"].split('/').next(), row["cluster"].as_str()), (Some("0"), ""));
    drop(client);

    // After a restart the vote tells the log, and protocol 3 with generation 0 goes on.
    let (_, setup) = node.stop();
    let node = setup.start();
    let mut client = Client::connect(node.pg, &by_ids());
    client.send_query("START_WAL_PUSH (proto_version '3')");
    assert_eq!(client.recv().tag, b'W');
    client.send_copy_data(&v3::greeting());
    assert_eq!(client.recv_copy_data(), joined(&[b"g", &1_u64.to_be_bytes(), &[0; 12], &3_u64.to_be_bytes()]));
    client.send_copy_data(&v3::vote(0, 4));
    let history = joined(&[&1_u32.to_be_bytes(), &3_u64.to_be_bytes(), &START.to_be_bytes()]);
    let vote = client.recv_copy_data();
    assert_eq!(vote[..22], joined(&[b"v", &[0; 4], &4_u64.to_be_bytes(), &[1], &end.to_be_bytes()])[..]);
    assert_eq!(vote[30..], history);
}

#[test]
fn nobody_makes_a_cluster_unless_the_operator_allowed_it() {
    let (node, _dir) = Node::fresh();
    let mut client = Client::connect(node.pg, &by_ids());
    for command in ["START_WAL_PUSH", "START_WAL_PUSH (proto_version '3', allow_timeline_creation 'true')"] {
        let refused = client.rows(command).unwrap_err();
        assert_eq!(refused.code, "3D000");
        assert!(refused.text.contains("does not have cluster"), "{}", refused.text);
    }
    let (node, _dir) = Node::foreign();
    let mut client = Client::connect(node.pg, &by_ids());
    client.rows("START_WAL_PUSH (proto_version '3', allow_timeline_creation 'false')").unwrap_err();
    assert!(node.client().rows("LOG_STATUS").unwrap().is_empty());
}
