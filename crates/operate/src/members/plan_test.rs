//! Plans of membership.

use super::*;
use crate::members::{Seen, Survey};
use consensus::TermHistory;
use lsn::{ClusterId, DiskId, SystemId, Term};
use quorum_proto::LogStatusRow;

fn member(node: u64) -> Member {
    Member { node: NodeId(node), disk: DiskId([node as u8; 16]), host: format!("sk{node}"), port: 5454 }
}

fn record(nodes: &[u64]) -> Membership {
    Membership::new(1, Term(0), nodes.iter().map(|&node| member(node)).collect(), None).unwrap()
}

fn nodes(members: &[Member]) -> Vec<u64> {
    members.iter().map(|member| member.node.0).collect()
}

fn survey(record: &Membership, states: &[(u64, LogState, u64, u64)]) -> Survey {
    let cluster = ClusterId { tenant: [1; 16], timeline: [2; 16] };
    let seen = |&(node, state, term, flush): &(u64, LogState, u64, u64)| Seen {
        address: Address::new(&format!("sk{node}"), 5454),
        node: NodeId(node),
        disk: DiskId([node as u8; 16]),
        row: Some(LogStatusRow {
            node: NodeId(node),
            disk: DiskId([node as u8; 16]),
            name: "c".into(),
            cluster,
            state,
            term: Term(9),
            last_log_term: Term(term),
            flush: Lsn(flush),
            commit: Lsn(0),
            history: TermHistory::empty(),
            path: None,
            membership: record.clone(),
            fence: None,
            leader_silent_ms: None,
            system_id: SystemId(7),
            segment_size: 1 << 24,
            pg_version: 150_018,
            version: 1,
        }),
    };
    let seen = states.iter().map(seen).collect();
    Survey { cluster, name: "c".into(), record: record.clone(), seen, silent: Vec::new() }
}

#[test]
fn sets_are_changed_one_member_at_a_time() {
    let record = record(&[1, 2, 3]);
    assert_eq!(nodes(&without(&record, NodeId(2)).unwrap()), [1, 3]);
    assert!(without(&record, NodeId(4)).is_err());
    assert_eq!(nodes(&with(&record, member(4)).unwrap()), [1, 2, 3, 4]);
    assert_eq!(nodes(&with(&record, member(3)).unwrap()), [1, 2, 3], "a second run");
    assert_eq!(nodes(&instead(&record, NodeId(2), member(4)).unwrap()), [1, 4, 3]);
    assert_eq!(nodes(&instead(&record, NodeId(2), member(2)).unwrap_or_default()), [0u64; 0]);
    assert_eq!(nodes(&instead(&record, NodeId(9), member(3)).unwrap()), [1, 2, 3], "a second run");
    assert!(instead(&record, NodeId(9), member(4)).is_err());
    assert!(without(&self::record(&[1]), NodeId(1)).is_err());
    let new_disk = Member { disk: DiskId([9; 16]), ..member(3) };
    assert!(changes_disk(&record, &new_disk) && !changes_disk(&record, &member(3)));
    assert!(with(&record, new_disk).unwrap_err().contains("replace"));
}

#[test]
fn a_change_must_leave_a_majority_that_answers() {
    use LogState::{Damaged, Member as Whole};
    let three = record(&[1, 2, 3]);
    let two_up = survey(&three, &[(1, Whole, 1, 10), (2, Whole, 1, 10)]);
    assert!(check(&two_up, &[member(1), member(2)]).is_ok());
    assert!(check(&two_up, &[member(1), member(2), member(4)]).is_ok());
    assert!(check(&two_up, &[member(1), member(3)]).is_err(), "3 does not answer");
    let damaged = survey(&three, &[(1, Whole, 1, 10), (2, Damaged, 1, 10), (3, Whole, 1, 10)]);
    assert!(check(&damaged, &[member(1), member(2)]).is_err(), "2 cannot vote");
    let mut fenced = survey(&three, &[(1, Whole, 1, 10), (2, Whole, 1, 10), (3, Whole, 1, 10)]);
    fenced.seen[1].row.as_mut().unwrap().fence = Some("7 0/10 0 1:0/0:0".into());
    assert!(check(&fenced, &[member(1), member(2)]).unwrap_err().contains("fence"));
}

#[test]
fn the_longest_log_of_all_cannot_be_passed_over() {
    use LogState::{Damaged, Member as Whole};
    let three = record(&[1, 2, 3]);
    let chosen = |states: &[(u64, LogState, u64, u64)]| match repair(&survey(&three, states)) {
        Repair::Accept(chosen) => chosen.into_iter().map(|(address, _)| address.to_string()).collect::<Vec<_>>(),
        other => panic!("{other:?}"),
    };
    let all = chosen(&[(1, Damaged, 3, 10), (2, Damaged, 4, 5), (3, Damaged, 3, 20)]);
    assert_eq!(all, ["sk2:5454", "sk3:5454"], "by term first; two of three, so that both must vote");
    assert_eq!(chosen(&[(1, Damaged, 3, 10), (2, Whole, 4, 5), (3, Damaged, 3, 20)]), ["sk3:5454"]);
    let healthy = [(1, Whole, 3, 10), (2, Whole, 4, 5), (3, Damaged, 3, 20)];
    assert_eq!(repair(&survey(&three, &healthy)), Repair::Learns);
    assert_eq!(repair(&survey(&three, &healthy[..2])), Repair::Nothing);
}
