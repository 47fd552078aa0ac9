//! Which directories a safekeeper runs on, and where it listens.

use crate::client::Client;
use crate::messages::{TENANT, TIMELINE, hex};
use crate::process::{Node, Setup};
use crate::session::{Push, START, by_ids, init_command, only, serves, wal, with_cluster};
use lsn::Lsn;
use std::fs;

#[test]
fn the_directory_of_another_node_is_refused() {
    let (node, dir) = Node::fresh();
    let disk = node.disk();
    node.stop();
    let refused = Setup::new(2, dir.path()).try_start().err().unwrap();
    assert!(refused.contains("belongs to safekeeper 1, not 2") && refused.contains("--id 1"), "{refused}");
    assert_eq!(Setup::new(1, dir.path()).start().disk(), disk, "nothing was changed");
}

#[test]
fn a_directory_in_use_is_refused() {
    let (node, dir) = with_cluster();
    let refused = Setup::new(1, dir.path()).try_start().err().unwrap();
    assert!(refused.contains("in use by another safekeeper"), "{refused}");
    serves(&node, 1);
}

#[test]
fn a_damaged_identity_is_not_replaced_by_a_new_one() {
    let (node, dir) = Node::fresh();
    node.stop();
    let control = dir.path().join("control");
    let good = fs::read(&control).unwrap();
    for at in (0..good.len()).step_by(7) {
        let mut bad = good.clone();
        bad[at] ^= 0x10;
        fs::write(&control, &bad).unwrap();
        if let Err(refused) = Setup::new(1, dir.path()).try_start() {
            assert!(refused.contains("control"), "{refused}");
        } else {
            // Bytes behind the record are nobody's.
            assert!(at >= 64, "byte {at} was believed");
        }
    }
    fs::write(&control, &good).unwrap();
    Setup::new(1, dir.path()).start();
}

#[test]
fn a_broken_control_file_leaves_the_other_clusters_alive() {
    let (node, dir) = with_cluster();
    node.client().rows(&init_command("bills", [9; 16], &only(&node))).unwrap();
    let record = only(&node);
    node.stop();
    let control = dir.path().join(hex(TENANT)).join(hex(TIMELINE)).join("control");
    let mut bytes = fs::read(&control).unwrap();
    bytes[30] ^= 1;
    fs::write(&control, bytes).unwrap();

    let node = Setup::new(1, dir.path()).start();
    let row = Client::connect(node.pg, "-c cluster=bills").row("LOG_STATUS");
    assert_eq!(row["state"], "member");
    let mut client = Client::connect(node.pg, &by_ids());
    for command in ["TIMELINE_STATUS", "START_WAL_PUSH (proto_version '3')", "START_REPLICATION 0/1000000"] {
        let refused = client.rows(command).unwrap_err();
        assert!(refused.text.contains("cannot be opened on safekeeper 1"), "{}", refused.text);
    }
    let refused = client.rows(&init_command("orders", TENANT, &record)).unwrap_err();
    assert_eq!(refused.code, "42710", "nothing is made in its place: {}", refused.text);
    serves(&node, 1);
}

#[test]
fn lost_wal_is_damage_and_does_not_vote() {
    let (node, dir) = with_cluster();
    let mut push = Push::leading(&node);
    let mut wal = wal();
    let end = wal.fill_to(Lsn(START + (3 << 20) + 300_000), 900).0;
    push.append_all(&wal, START, START);
    push.commit(end, end);
    node.stop();
    let cluster = dir.path().join(hex(TENANT)).join(hex(TIMELINE));
    fs::remove_file(cluster.join("000000010000000000000013")).unwrap();

    let node = Setup::new(1, dir.path()).start();
    let row = node.client().row("LOG_STATUS");
    assert_eq!(row["state"], "damaged");
    let mut push = Push::greeted(&node);
    push.tell(&crate::messages::v3::vote(1, 2));
    assert_eq!(push.client.recv_copy_data()[13], 0, "no vote");
    serves(&node, 1);
}

#[test]
fn listening_beyond_loopback_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    for listen in ["0.0.0.0:0", "[::]:0"] {
        let setup = Setup { listen, ..Setup::new(1, dir.path()) };
        let refused = setup.try_start().err().unwrap();
        assert!(refused.contains("--insecure-no-auth"), "{refused}");
    }
    assert!(fs::read_dir(dir.path()).unwrap().next().is_none(), "nothing was made");
}
