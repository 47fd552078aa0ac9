//! A learner.

use crate::*;
use bytes::Bytes;
use lsn::{ClusterId, DiskId, Lsn, NodeId, Path, SystemId, Term, Tli};

const BASE: u64 = 1 << 20;
const CLUSTER: ClusterId = ClusterId { tenant: [1; 16], timeline: [2; 16] };
const SERVER: ServerInfo = ServerInfo { system_id: SystemId(7), segment_size: BASE as u32, pg_version: 150_004 };

fn members(nodes: &[u64]) -> Vec<Member> {
    let member = |&node: &u64| Member { node: NodeId(node), disk: DiskId([node as u8; 16]), host: "h".into(), port: 1 };
    nodes.iter().map(member).collect()
}

fn record() -> Membership {
    Membership::new(1, Term(0), members(&[1, 2, 3]), None).unwrap()
}

/// Safekeeper 4, empty.
fn learner() -> Acceptor {
    let state = AcceptorState::new(CLUSTER, "c".into(), record(), ServerInfo::default());
    Acceptor::new(Identity { node: NodeId(4), disk: DiskId([4; 16]) }, state, Lsn::INVALID)
}

fn log(entries: &[(u64, u64)], commit: u64) -> MembersLog {
    let entry = |&(term, begin): &(u64, u64)| TermEntry { term: Term(term), begin: Lsn(begin) };
    MembersLog {
        term: Term(entries.last().unwrap().0),
        history: TermHistory::new(entries.iter().map(entry).collect()).unwrap(),
        path: Path::root(Tli(1)),
        server: SERVER,
        commit: Lsn(commit),
        oldest: Lsn(3 * BASE),
    }
}

/// Carries everything out at once; nothing may be sent.
fn complete(acceptor: &mut Acceptor) -> Vec<(Lsn, bool)> {
    let mut cuts = Vec::new();
    while let Some(command) = acceptor.poll_command() {
        match command {
            AcceptorCommand::Persist { ticket, .. } => acceptor.handle_persisted(ticket),
            AcceptorCommand::Cut { to, first, .. } => {
                cuts.push((to, first));
                acceptor.handle_cut();
            }
            AcceptorCommand::Write { .. } => acceptor.handle_flushed(acceptor.written(), acceptor.written()),
            AcceptorCommand::Send { session, .. } => assert_eq!(session, SessionId(u64::MAX), "heard by nobody"),
            AcceptorCommand::Refuse { refusal, .. } => panic!("{refusal}"),
        }
    }
    cuts
}

fn pull(acceptor: &mut Acceptor, term: u64, bytes: usize) -> bool {
    let begin = acceptor.written();
    let taken = acceptor.handle_pulled(Term(term), begin, Bytes::from(vec![7; bytes]), |_, _| Ok(()));
    complete(acceptor);
    taken
}

#[test]
fn an_empty_learner_begins_where_the_members_do_and_follows_their_commit() {
    let mut acceptor = learner();
    assert_eq!(acceptor.handle_learn(log(&[(1, BASE), (5, 4 * BASE)], 5 * BASE)), Ok(false));
    assert_eq!(complete(&mut acceptor), [(Lsn(3 * BASE), true)]);
    assert_eq!(acceptor.state().log_start, Lsn(BASE), "it is the same log");
    assert_eq!((acceptor.flush(), acceptor.state().term), (Lsn(3 * BASE), Term(5)));
    assert_eq!(acceptor.handle_learn(log(&[(1, BASE), (5, 4 * BASE)], 3 * BASE + 60)), Ok(true));
    assert!(pull(&mut acceptor, 5, 100));
    assert_eq!((acceptor.flush(), acceptor.commit()), (Lsn(3 * BASE + 100), Lsn(3 * BASE + 60)));
    assert!(!pull(&mut acceptor, 4, 100), "of another term");
    assert_eq!(acceptor.standing(), Standing::Learner);
}

#[test]
fn it_follows_a_later_term_and_cuts_what_is_not_in_it() {
    let mut acceptor = learner();
    acceptor.handle_learn(log(&[(1, BASE)], 5 * BASE)).unwrap();
    complete(&mut acceptor);
    assert!(pull(&mut acceptor, 1, 100));
    acceptor.handle_learn(log(&[(1, BASE), (6, 3 * BASE + 40)], 3 * BASE)).unwrap();
    assert_eq!(complete(&mut acceptor), [(Lsn(3 * BASE + 40), false)]);
    assert!(pull(&mut acceptor, 6, 10));
    assert_eq!(acceptor.handle_learn(log(&[(1, BASE)], 5 * BASE)), Ok(false), "a lower term says nothing");
}

#[test]
fn a_member_learns_from_its_leader_only() {
    let mut acceptor = learner();
    acceptor.handle_record(record().joint(Term(5), members(&[1, 2, 4])).unwrap()).unwrap();
    complete(&mut acceptor);
    assert_eq!(acceptor.handle_learn(log(&[(1, BASE), (5, 4 * BASE)], 5 * BASE)), Ok(false));
    assert!(acceptor.poll_command().is_none());
}

#[test]
fn a_log_that_cannot_be_is_refused() {
    let mut acceptor = learner();
    for wrong in [
        MembersLog { term: Term(9), ..log(&[(1, BASE)], BASE) },
        MembersLog { oldest: Lsn(3 * BASE + 8), ..log(&[(1, BASE)], BASE) },
        MembersLog { oldest: Lsn::INVALID, ..log(&[(1, BASE)], BASE) },
        MembersLog { server: ServerInfo::default(), ..log(&[(1, BASE)], BASE) },
    ] {
        assert!(acceptor.handle_learn(wrong).is_err());
    }
    assert!(acceptor.poll_command().is_none());
}

/// Members that just began to follow a leader differ in how much of its path their logs reach.
#[test]
fn a_tli_that_begins_on_the_way_is_taken_up_before_its_wal() {
    let (short, long): (Path, Path) = ("1:0/0:0".parse().unwrap(), "1:0/0:0;2:0/300064:A".parse().unwrap());
    assert_eq!(long.last().begin, Lsn(3 * BASE + 100), "the numbers below");
    let told = |path: &Path, commit| MembersLog { path: path.clone(), ..log(&[(1, BASE), (5, 3 * BASE)], commit) };
    let mut acceptor = learner();
    acceptor.handle_learn(told(&short, 3 * BASE)).unwrap();
    complete(&mut acceptor);
    assert_eq!(acceptor.handle_learn(told(&short, 3 * BASE + 60)), Ok(true));
    assert!(pull(&mut acceptor, 5, 60));
    // The commit LSN lies above the begin of a TLI that is new here.
    assert_eq!(acceptor.handle_learn(told(&long, 3 * BASE + 200)), Ok(false));
    assert!(acceptor.leader_commit() <= Lsn(3 * BASE + 60));
    assert_eq!(complete(&mut acceptor), [(Lsn(3 * BASE + 60), false)], "nothing is lost");
    assert_eq!(acceptor.state().path.as_ref(), Some(&long));
    assert_eq!(acceptor.handle_learn(told(&long, 3 * BASE + 200)), Ok(true));
    assert!(pull(&mut acceptor, 5, 140));
    // One that lags tells a shorter path, which says nothing new.
    assert_eq!(acceptor.handle_learn(told(&short, 3 * BASE + 80)), Ok(true));
    assert_eq!((acceptor.flush(), acceptor.commit()), (Lsn(3 * BASE + 200), Lsn(3 * BASE + 200)));
    assert_eq!(acceptor.state().path.as_ref(), Some(&long));
}
