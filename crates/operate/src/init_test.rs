//! Every situation an init can find.

use super::*;
use consensus::TermHistory;
use lsn::Lsn;
use quorum_proto::LogState;

const FRESH: ClusterId = ClusterId { tenant: [1; 16], timeline: [2; 16] };

fn empty(node: u64) -> Answer {
    Answer {
        address: Address::new("127.0.0.1", 5000 + node as u16),
        node: NodeId(node),
        disk: DiskId([node as u8; 16]),
        row: None,
    }
}

fn three() -> Vec<Answer> {
    vec![empty(1), empty(2), empty(3)]
}

fn record() -> InitCluster {
    plan("orders", &three(), FRESH).unwrap().record
}

fn knows(answer: Answer, record: &InitCluster) -> Answer {
    let row = LogStatusRow {
        node: answer.node,
        disk: answer.disk,
        name: record.name.clone(),
        cluster: record.cluster,
        state: LogState::Member,
        term: Term(0),
        last_log_term: Term(0),
        flush: Lsn::INVALID,
        commit: Lsn::INVALID,
        history: TermHistory::empty(),
        path: None,
        membership: record.membership.clone(),
        fence: None,
        leader_silent_ms: None,
        system_id: SystemId(0),
        segment_size: 0,
        pg_version: 0,
        version: 1,
    };
    Answer { row: Some(row), ..answer }
}

fn problem(answers: &[Answer]) -> String {
    let error = plan("orders", answers, ClusterId { tenant: [9; 16], timeline: [9; 16] }).unwrap_err();
    assert!(error.is_refusal(), "{error}");
    error.to_string()
}

#[test]
fn all_inits_begin_at_the_same_safekeeper() {
    let shuffled = vec![empty(3), empty(1), empty(2)];
    assert_eq!(plan("orders", &shuffled, FRESH).unwrap().tell, [1, 2, 0]);
    let half = vec![empty(3), knows(empty(2), &record()), empty(1)];
    assert_eq!(plan("orders", &half, FRESH).unwrap().tell, [2, 0]);
}

#[test]
fn a_new_cluster_is_told_to_everyone() {
    let plan = plan("orders", &three(), FRESH).unwrap();
    assert_eq!((plan.done, plan.tell, plan.record.cluster), (Done::Created, vec![0, 1, 2], FRESH));
    assert_eq!(plan.record.membership.precedence(), (1, Term(0)));
    assert!(plan.record.membership.includes(NodeId(2), DiskId([2; 16])));
    assert_eq!(InitCluster::parse(&plan.record.to_options()).unwrap(), plan.record);
}

#[test]
fn one_node_or_disk_twice_is_no_cluster() {
    assert!(matches!(plan("orders", &[empty(1), empty(1)], FRESH), Err(Error::Members(_))));
    let copied = Answer { disk: DiskId([1; 16]), ..empty(2) };
    assert!(matches!(plan("orders", &[empty(1), copied], FRESH), Err(Error::Members(_))));
}

#[test]
fn a_half_done_init_is_finished_with_its_own_record() {
    let answers = vec![empty(1), knows(empty(2), &record()), empty(3)];
    let plan = plan("orders", &answers, ClusterId { tenant: [9; 16], timeline: [9; 16] }).unwrap();
    assert_eq!((plan.done, plan.tell, plan.record), (Done::Finished, vec![0, 2], record()));
}

#[test]
fn a_second_init_changes_nothing_whatever_the_addresses_are_now() {
    let mut answers: Vec<Answer> = three().into_iter().map(|answer| knows(answer, &record())).collect();
    answers[1].address = Address::new("elsewhere", 1);
    let plan = plan("orders", &answers, FRESH).unwrap();
    assert_eq!((plan.done, plan.tell), (Done::AlreadyThere, vec![]));
}

#[test]
fn a_racing_init_is_refused() {
    let other = InitCluster { cluster: ClusterId { tenant: [7; 16], timeline: [7; 16] }, ..record() };
    let answers = vec![knows(empty(1), &record()), knows(empty(2), &other), empty(3)];
    assert!(problem(&answers).contains("different clusters"));
}

#[test]
fn other_members_are_refused() {
    let answers = vec![knows(empty(1), &record()), empty(2), empty(4)];
    assert!(problem(&answers).contains("safekeeper 4 at 127.0.0.1:5004 is not one of its members"));
    let answers = vec![knows(empty(1), &record()), empty(2)];
    assert!(problem(&answers).contains("members are the safekeepers 1, 2, 3"));
}

#[test]
fn an_emptied_disk_is_not_made_a_member_again() {
    let emptied = Answer { disk: DiskId([33; 16]), ..empty(3) };
    let answers = vec![knows(empty(1), &record()), knows(empty(2), &record()), emptied];
    assert!(problem(&answers).contains("safekeeper 3 does not have it"));
    // The right disk without the cluster, after somebody voted: the vote may have been its own.
    let mut answers = vec![knows(empty(1), &record()), knows(empty(2), &record()), empty(3)];
    answers[0].row.as_mut().unwrap().term = Term(1);
    assert!(problem(&answers).contains("safekeeper 3 does not have it"));
}
