//! A disk with less free than it should have.

use crate::process::Setup;
use crate::session::{Push, START, init, wal};
use lsn::Lsn;

#[test]
fn appends_are_refused_with_a_sentence_and_votes_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let node = Setup { min_free: u64::MAX / 2, ..Setup::new(1, dir.path()) }.start();
    init(&node);
    let mut push = Push::leading(&node);
    let mut wal = wal();
    let end = wal.record(&[7; 100]);
    push.append(START, 0, wal.slice(Lsn(START), end));
    let refused = push.refused();
    assert!(refused.text.contains("no space for WAL") && refused.text.contains("--min-free"), "{refused:?}");
    drop(Push::voted(&node, 5));
    // Room is found again by itself; here by a start with another limit.
    let setup = node.kill();
    let node = Setup { min_free: 0, ..setup }.start();
    let mut push = Push::leading_with(&node, &[(6, START)]);
    push.append_all(&wal, START, START);
}
