//! An acceptor that is brought a membership record.

use crate::*;
use lsn::{ClusterId, DiskId, Lsn, NodeId, Path, Term, Tli};

const ONE: SessionId = SessionId(1);
const CLUSTER: ClusterId = ClusterId { tenant: [1; 16], timeline: [2; 16] };

fn members(nodes: &[u64]) -> Vec<Member> {
    let member = |&node: &u64| Member { node: NodeId(node), disk: DiskId([node as u8; 16]), host: "h".into(), port: 1 };
    nodes.iter().map(member).collect()
}

fn first() -> Membership {
    Membership::new(1, Term(0), members(&[1, 2, 3]), None).unwrap()
}

fn acceptor(record: Membership) -> Acceptor {
    let state = AcceptorState::new(CLUSTER, "c".into(), record, ServerInfo::default());
    let mut acceptor = Acceptor::new(Identity { node: NodeId(1), disk: DiskId([1; 16]) }, state, Lsn::INVALID);
    let greeting = ProposerGreeting {
        cluster: CLUSTER,
        membership: Membership::none(),
        pg_version: 150_004,
        system_id: lsn::SystemId(7),
        segment_size: 1 << 20,
    };
    acceptor.handle_greeting(ONE, &greeting, Introduction::of(Path::root(Tli(1)))).unwrap();
    acceptor
}

/// Persists at once; gives the tickets.
fn persist(acceptor: &mut Acceptor) -> Vec<u64> {
    let mut tickets = Vec::new();
    while let Some(command) = acceptor.poll_command() {
        if let AcceptorCommand::Persist { ticket, .. } = command {
            acceptor.handle_persisted(ticket);
            tickets.push(ticket);
        }
    }
    tickets
}

#[test]
fn a_newer_record_is_taken_and_durable_by_its_ticket() {
    let mut acceptor = acceptor(first());
    let joint = first().joint(Term(4), members(&[2, 3, 4])).unwrap();
    let ticket = acceptor.handle_record(joint.clone()).unwrap();
    assert!(!acceptor.has_persisted(ticket), "not before it is written");
    let again = acceptor.handle_record(joint.clone()).unwrap();
    assert!(!acceptor.has_persisted(again), "the same again is not durable earlier");
    persist(&mut acceptor);
    assert!(acceptor.has_persisted(ticket) && acceptor.has_persisted(again));
    assert_eq!((acceptor.state().term, &acceptor.state().membership), (Term(4), &joint));
    let old = acceptor.handle_vote(ONE, VoteRequest { generation: 1, term: Term(9) });
    assert_eq!(old, Err(Refusal::Generation { ours: 5, theirs: 1 }), "nobody is elected by the record before");
    acceptor.handle_vote(ONE, VoteRequest { generation: 5, term: Term(9) }).unwrap();
    let done = joint.finished(Term(9)).unwrap();
    acceptor.handle_record(done).unwrap();
    assert_eq!(acceptor.standing(), Standing::Learner, "it is removed");
}

#[test]
fn older_and_other_records_change_nothing() {
    let mut acceptor = acceptor(first());
    let joint = first().joint(Term(4), members(&[2, 3, 4])).unwrap();
    acceptor.handle_record(joint.clone()).unwrap();
    let rival = first().joint(Term(3), members(&[1, 2])).unwrap();
    assert_eq!(acceptor.handle_record(rival), Err(RecordRefusal::Older { ours: 5, theirs: 4 }));
    let twin = Membership { new_members: Some(members(&[1, 2])), ..joint.clone() };
    assert_eq!(acceptor.handle_record(twin), Err(RecordRefusal::Older { ours: 5, theirs: 5 }));
    let made_up = Membership { generation: 9, ..joint.clone() };
    assert_eq!(acceptor.handle_record(made_up), Err(RecordRefusal::Malformed(9)));
    assert_eq!(acceptor.state().membership, joint);
}

#[test]
fn a_later_promise_stays() {
    let mut acceptor = acceptor(first());
    acceptor.handle_vote(ONE, VoteRequest { generation: 1, term: Term(9) }).unwrap();
    persist(&mut acceptor);
    acceptor.handle_record(first().joint(Term(4), members(&[1, 2])).unwrap()).unwrap();
    assert_eq!(acceptor.state().term, Term(9), "the maker sees that its term is over");
}

#[test]
fn a_foreign_cluster_takes_none() {
    let mut acceptor = acceptor(Membership::none());
    assert_eq!(acceptor.handle_record(first()), Err(RecordRefusal::NoRecord));
}
