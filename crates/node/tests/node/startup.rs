//! How a connection begins, and how it chooses its cluster.

use crate::client::{Client, framed, startup_packet};
use crate::messages::{TENANT, hex};
use crate::process::Node;
use crate::session::{by_ids, init, init_command, only, with_cluster};
use std::io::Read;

const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];
const GSSENC_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 48];

#[test]
fn encryption_is_declined_and_the_session_goes_on() {
    let (node, _dir) = Node::fresh();
    let mut client = Client::raw(node.pg);
    for request in [SSL_REQUEST, GSSENC_REQUEST] {
        client.send_raw(&request);
        let mut answer = [0];
        client.stream.read_exact(&mut answer).unwrap();
        assert_eq!(answer, *b"N");
    }
    client.send_raw(&startup_packet("", "test"));
    client.finish_startup().unwrap();
}

#[test]
fn the_greeting_tells_who_this_is() {
    let (node, _dir) = Node::fresh();
    let parameters = node.client().parameters;
    let told = |name: &str| parameters[name].as_str();
    assert_eq!((told("client_encoding"), told("integer_datetimes")), ("UTF8", "on"));
    assert_eq!((told("seawall_log"), told("seawall_node_id")), ("1", "1"));
    let disk = told("seawall_disk_id");
    assert!(disk.len() == 32 && disk.bytes().all(|byte| byte.is_ascii_hexdigit()), "{disk}");
    let major: u32 = told("server_version").split('.').next().unwrap().parse().unwrap();
    assert!((13..=18).contains(&major), "a version that clients accept");
    assert_eq!(node.disk(), disk, "the same to everybody");
}

#[test]
fn a_minor_version_nobody_knows_is_negotiated() {
    let (node, _dir) = Node::fresh();
    let mut packet = startup_packet("", "test");
    packet[7] = 9;
    let mut client = Client::raw(node.pg);
    client.send_raw(&packet);
    let first = client.recv();
    assert_eq!(first.tag, b'v', "NegotiateProtocolVersion");
    client.finish_startup().unwrap();
}

#[test]
fn a_cancel_request_ends_in_silence() {
    let (node, _dir) = Node::fresh();
    let mut client = Client::raw(node.pg);
    client.send_raw(&[0, 0, 0, 16, 4, 210, 22, 46, 0, 0, 0, 1, 0, 0, 0, 0]);
    assert_eq!(client.try_recv(), None);
}

#[test]
fn a_cluster_is_chosen_by_name_and_by_ids() {
    let (node, _dir) = with_cluster();
    for options in ["", "-c cluster=orders", "-ccluster=orders", &by_ids(), &format!("-c cluster=orders {}", by_ids())]
    {
        let row = Client::connect(node.pg, options).row("LOG_STATUS");
        assert_eq!(row["cluster"], "orders", "{options}");
    }
}

#[test]
fn an_unknown_cluster_leaves_the_connection_usable() {
    let (node, _dir) = with_cluster();
    let other = format!("-c tenant_id={} -c timeline_id={}", hex([9; 16]), hex([9; 16]));
    for options in ["-c cluster=nobody", &other, &format!("-c cluster=nobody {}", by_ids())] {
        let mut client = Client::connect(node.pg, options);
        for command in ["TIMELINE_STATUS", "IDENTIFY_SYSTEM", "START_REPLICATION 0/1000000", "START_WAL_PUSH"] {
            let refused = client.rows(command).unwrap_err();
            assert_eq!(refused.code, "3D000", "{command}: {}", refused.text);
            assert!(refused.text.contains("does not have cluster"), "{}", refused.text);
        }
        assert!(client.rows("LOG_STATUS").unwrap().is_empty(), "only what was chosen");
    }
}

#[test]
fn several_clusters_need_a_choice() {
    let (node, _dir) = with_cluster();
    let second = init_command("bills", [9; 16], &only(&node));
    node.client().rows(&second).unwrap();
    let mut client = node.client();
    let refused = client.rows("TIMELINE_STATUS").unwrap_err();
    assert!(refused.text.contains("several clusters") && refused.text.contains("cluster=NAME"), "{}", refused.text);
    assert_eq!(client.rows("LOG_STATUS").unwrap().len(), 2, "needs no choice");
    let row = Client::connect(node.pg, "-c cluster=bills").row("LOG_STATUS");
    assert_eq!(row["tenant_id"], hex([9; 16]));
}

#[test]
fn half_a_choice_and_a_damaged_one_are_refused() {
    let (node, _dir) = with_cluster();
    let tenant = hex(TENANT);
    for (options, says) in [
        (format!("-c tenant_id={tenant}"), "timeline_id"),
        (format!("-c timeline_id={tenant}"), "tenant_id"),
        (format!("-c tenant_id={tenant} -c timeline_id=xyz"), "xyz"),
    ] {
        let refused = Client::connect_as(node.pg, &options, "test").unwrap_err();
        assert!(refused.text.contains(says), "{options}: {}", refused.text);
    }
}

#[test]
fn the_extended_protocol_is_refused_in_a_sentence() {
    let (node, _dir) = Node::fresh();
    init(&node);
    for tag in [b'P', b'B', b'D', b'E', b'F', b'p'] {
        let mut client = node.client();
        client.send_raw(&framed(tag, b"\0SELECT 1\0\0\0"));
        let refused = client.last_words().unwrap();
        assert_eq!(refused.code, "08P01");
        assert!(refused.text.contains("extended query protocol"), "{}", refused.text);
    }
}
