//! MEMBERS, and what safekeepers tell each other of their promises.

use crate::client::Client;
use crate::messages::{TENANT, v3};
use crate::process::{Node, Setup};
use crate::session::{Push, START, by_ids, init_command, wal, with_cluster};
use lsn::Lsn;
use std::path::Path;
use std::time::{Duration, Instant};

/// Two members of one cluster.
fn two(dirs: [&Path; 2]) -> (Node, Node, String) {
    let (one, two) = (Setup::new(1, dirs[0]).start(), Setup::new(2, dirs[1]).start());
    let set = format!("{};{}", member(1, &one), member(2, &two));
    for node in [&one, &two] {
        node.client().rows(&init_command("orders", TENANT, &format!("1/0/{set}"))).unwrap();
    }
    (one, two, set)
}

fn member(id: u64, node: &Node) -> String {
    format!("{id}:{}@127.0.0.1:{}", node.disk(), node.pg.port())
}

/// Asks until the row of LOG_STATUS is as wanted.
fn wait_for(node: &Node, what: &str, reached: impl Fn(&std::collections::BTreeMap<String, String>) -> bool) {
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        let rows = node.client().rows("LOG_STATUS").unwrap();
        if rows.first().is_some_and(&reached) {
            return;
        }
        assert!(Instant::now() < until, "{what}: {rows:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_record_is_taken_once_and_ends_sessions_of_the_one_before() {
    let (node, _dir) = with_cluster();
    let mut push = Push::leading(&node);
    let mut client = Client::connect(node.pg, &by_ids());
    let own = member(1, &node);
    let other = format!("2:{}@127.0.0.1:1", "0c".repeat(16));
    let joint = format!("2/1/{own}|{own};{other}");
    let taken = client.row(&format!("MEMBERS (take '{joint}')"));
    assert_eq!((taken["generation"].as_str(), taken["term"].as_str()), ("2", "1"));
    assert!(push.client.last_words().unwrap().text.contains("generation 2"));
    assert_eq!(client.row(&format!("MEMBERS (take '{joint}')"))["generation"], "2", "the same again");
    let older = client.rows(&format!("MEMBERS (take '1/0/{own}')")).unwrap_err();
    assert!(older.text.contains("generation 2"), "{older:?}");
    assert!(client.rows(&format!("MEMBERS (take '9/1/{own}')")).is_err(), "no leader makes such a record");
    let wish = client.rows(&format!("MEMBERS (change '2/1/{own}')")).unwrap_err();
    assert!(wish.text.contains("no leader"), "{wish:?}");
    let kept = node.client().row("LOG_STATUS")["membership"].clone();
    let node = node.kill().start();
    assert_eq!(node.client().row("LOG_STATUS")["membership"], kept, "it is durable");
}

#[test]
fn a_removed_cluster_stays_removed_until_it_is_wanted_again() {
    let (node, _dir) = with_cluster();
    let mut client = Client::connect(node.pg, &by_ids());
    let own = member(1, &node);
    let row = client.row("LOG_STATUS");
    let refused = client.rows("MEMBERS (drop '9')").unwrap_err();
    assert!(refused.text.contains("is a member"), "{refused:?}");
    let other = format!("2:{}@127.0.0.1:1", "0c".repeat(16));
    client.row(&format!("MEMBERS (take '3/2/{other}')"));
    assert!(client.rows("MEMBERS (drop '2')").is_err(), "its record is newer");
    client.rows("MEMBERS (drop '3')").unwrap();
    assert!(node.client().rows("LOG_STATUS").unwrap().is_empty());
    let node = node.kill().start();
    assert!(node.client().rows("LOG_STATUS").unwrap().is_empty(), "across a restart");
    let again = node.client().rows(&init_command("orders", TENANT, &format!("1/0/{own}"))).unwrap_err();
    assert!(again.text.contains("was removed"), "{again:?}");
    let ids = format!("name 'orders', tenant_id '{}', timeline_id '{}'", row["tenant_id"], row["timeline_id"]);
    let old = node.client().rows(&format!("MEMBERS (join '2/1/{other}', {ids})")).unwrap_err();
    assert!(old.text.contains("was removed"), "{old:?}");
    let counted = node.client().rows(&format!("MEMBERS (join '3/2/{other};{own}', {ids})")).unwrap_err();
    assert!(counted.text.contains("must not begin empty"), "{counted:?}");
    node.client().rows(&format!("MEMBERS (join '3/2/{other}', {ids})")).unwrap();
    let node = node.kill().start();
    assert_eq!(node.client().row("LOG_STATUS")["state"], "learner", "and stays across a restart");
}

#[test]
fn a_learner_follows_what_members_have_committed() {
    let dirs = [(); 3].map(|()| tempfile::tempdir().unwrap());
    let (one, _two, set) = two([dirs[0].path(), dirs[1].path()]);
    let mut push = Push::leading(&one);
    let mut wal = wal();
    let end = wal.fill_to(Lsn(START + (5 << 20)), 5000).0;
    push.append_all(&wal, START, START);
    push.commit(end, end);
    let learner = Setup::new(3, dirs[2].path()).start();
    let row = one.client().row("LOG_STATUS");
    let ids = format!("name 'orders', tenant_id '{}', timeline_id '{}'", row["tenant_id"], row["timeline_id"]);
    learner.client().rows(&format!("MEMBERS (join '1/0/{set}', {ids})")).unwrap();
    let caught_up = Lsn(end).to_string();
    wait_for(&learner, "a learner that has everything", |row| row["commit_lsn"] == caught_up);
    assert_eq!(learner.client().row("LOG_STATUS")["state"], "learner");
    let more = wal.fill_to(Lsn(end + 300_000), 5000).0;
    push.append_all(&wal, end, end);
    push.commit(more, more);
    let caught_up = Lsn(more).to_string();
    wait_for(&learner, "and goes on", |row| row["flush_lsn"] == caught_up);
    let mut voter = Push::open(&learner);
    voter.tell(&v3::greeting());
    voter.client.recv_copy_data();
    voter.tell(&v3::vote(1, 9));
    let vote = voter.client.recv_copy_data();
    assert_eq!(vote[13], 0, "a learner does not vote: {vote:?}");
}

#[test]
fn peers_remember_what_was_promised() {
    let dirs = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let (one, two, _) = two([dirs[0].path(), dirs[1].path()]);
    let mut push = Push::leading(&one);
    let mut wal = wal();
    let end = wal.fill_to(Lsn(START + 100_000), 5000).0;
    push.append_all(&wal, START, START);
    push.commit(end, end);
    let wanted = format!(":1:1@{}", Lsn(end));
    wait_for(&two, "what 1 has promised", |row| {
        row["remembers"].starts_with("1:") && row["remembers"].contains(&wanted)
    });
    let row = one.client().row("LOG_STATUS");
    assert_eq!(row["promise"], format!("1:1@{}", Lsn(end)));
    assert!(!row["boot_id"].is_empty() && row["oldest_lsn"] == Lsn(START).to_string());
    let (_, setup) = two.stop();
    let two = setup.start();
    assert!(two.client().row("LOG_STATUS")["remembers"].contains(&wanted), "a clean stop writes it down");
}
