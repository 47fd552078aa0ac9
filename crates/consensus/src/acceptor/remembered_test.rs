//! An acceptor that is told it forgot something.

use crate::*;
use lsn::{ClusterId, DiskId, Lsn, NodeId, Path, SystemId, Term, Tli};

const ONE: SessionId = SessionId(1);
const BASE: u64 = 1 << 20;
const SERVER: ServerInfo = ServerInfo { system_id: SystemId(7), segment_size: BASE as u32, pg_version: 150_004 };

fn acceptor() -> Acceptor {
    let cluster = ClusterId { tenant: [1; 16], timeline: [2; 16] };
    let member = |node: u64| Member { node: NodeId(node), disk: DiskId([node as u8; 16]), host: "h".into(), port: 1 };
    let record = Membership::new(1, Term(0), (1..=3).map(member).collect(), None).unwrap();
    let state = AcceptorState {
        term: Term(2),
        history: TermHistory::new(vec![TermEntry { term: Term(2), begin: Lsn(BASE) }]).unwrap(),
        path: Some(Path::root(Tli(1))),
        log_start: Lsn(BASE),
        ..AcceptorState::new(cluster, "c".into(), record, SERVER)
    };
    let mut acceptor = Acceptor::new(Identity { node: NodeId(1), disk: DiskId([1; 16]) }, state, Lsn(BASE + 100));
    let greeting = ProposerGreeting {
        cluster,
        membership: Membership::none(),
        pg_version: SERVER.pg_version,
        system_id: SERVER.system_id,
        segment_size: SERVER.segment_size,
    };
    acceptor.handle_greeting(ONE, &greeting, Introduction::of(Path::root(Tli(1)))).unwrap();
    acceptor
}

/// Persists at once; gives the votes sent.
fn votes(acceptor: &mut Acceptor) -> Vec<VoteResponse> {
    let mut votes = Vec::new();
    while let Some(command) = acceptor.poll_command() {
        match command {
            AcceptorCommand::Persist { ticket, .. } => acceptor.handle_persisted(ticket),
            AcceptorCommand::Send { message: AcceptorMessage::Vote(vote), .. } => votes.push(vote),
            _ => {}
        }
    }
    votes
}

#[test]
fn it_does_not_vote_and_takes_no_part_below_what_it_promised() {
    let mut acceptor = acceptor();
    acceptor.handle_forgotten(Term(5), Lsn(BASE + 300));
    assert!(!acceptor.is_settled(), "it is to be written down first");
    assert_eq!(acceptor.standing(), Standing::Damaged);
    assert!(votes(&mut acceptor).is_empty());
    assert!(acceptor.is_settled());
    acceptor.handle_vote(ONE, VoteRequest { generation: 1, term: Term(6) }).unwrap();
    let vote = votes(&mut acceptor).pop().unwrap();
    assert_eq!((vote.granted, vote.term), (false, Term(5)));
    assert_eq!(acceptor.state().damaged_below, Lsn(BASE + 300));
}

#[test]
fn a_vote_on_its_way_to_the_disk_is_not_given() {
    let mut acceptor = acceptor();
    acceptor.handle_vote(ONE, VoteRequest { generation: 1, term: Term(6) }).unwrap();
    acceptor.handle_forgotten(Term(5), Lsn(BASE + 300));
    assert!(votes(&mut acceptor).is_empty());
    assert_eq!(acceptor.state().term, Term(6), "the higher promise stays");
}

#[test]
fn an_operator_may_take_it_as_it_is() {
    let mut acceptor = acceptor();
    assert_eq!(acceptor.handle_accepted(Lsn(BASE + 100)), None, "it is whole");
    acceptor.handle_forgotten(Term(5), Lsn(BASE + 300));
    votes(&mut acceptor);
    assert_eq!(acceptor.handle_accepted(Lsn(BASE + 300)), None, "that is not where it ends");
    let ticket = acceptor.handle_accepted(Lsn(BASE + 100)).unwrap();
    assert!(!acceptor.has_persisted(ticket));
    votes(&mut acceptor);
    assert!(acceptor.has_persisted(ticket));
    assert_eq!((acceptor.standing(), acceptor.state().term), (Standing::Member, Term(6)));
    assert_eq!(acceptor.state().floor, Lsn(BASE + 100), "the next start finds no damage");
}

#[test]
fn it_is_whole_again_once_it_has_learned_under_a_leader() {
    let mut acceptor = acceptor();
    acceptor.handle_forgotten(Term(5), Lsn(BASE + 300));
    votes(&mut acceptor);
    let entry = |term, begin| TermEntry { term: Term(term), begin: Lsn(BASE + begin) };
    let elected = ProposerElected {
        generation: 1,
        term: Term(7),
        start_streaming_at: Lsn(BASE + 100),
        history: TermHistory::new(vec![entry(2, 0), entry(7, 200)]).unwrap(),
    };
    acceptor.handle_elected(ONE, elected).unwrap();
    let append = |begin: u64, length: usize, commit: u64| AppendRequest {
        generation: 1,
        term: Term(7),
        begin: Lsn(BASE + begin),
        end: Lsn(BASE + begin + length as u64),
        commit: Lsn(BASE + commit),
        truncate: Lsn::INVALID,
        wal: vec![7; length].into(),
    };
    while let Some(command) = acceptor.poll_command() {
        match command {
            AcceptorCommand::Persist { ticket, .. } => acceptor.handle_persisted(ticket),
            AcceptorCommand::Cut { .. } => acceptor.handle_cut(),
            _ => {}
        }
    }
    acceptor.handle_append(ONE, append(100, 150, 250), |_, _| Ok(())).unwrap();
    acceptor.handle_flushed(Lsn(BASE + 250), Lsn(BASE + 250));
    assert_eq!(acceptor.standing(), Standing::Damaged, "250 of 300");
    acceptor.handle_append(ONE, append(250, 50, 300), |_, _| Ok(())).unwrap();
    acceptor.handle_flushed(Lsn(BASE + 300), Lsn(BASE + 300));
    assert_eq!(acceptor.standing(), Standing::Member);
}

#[test]
fn while_it_is_damaged_a_checkpoint_has_nothing_to_write_down() {
    let mut acceptor = acceptor();
    acceptor.handle_forgotten(Term(5), Lsn(BASE + 300));
    votes(&mut acceptor);
    assert!(acceptor.is_settled() && acceptor.flush() > acceptor.state().floor);
    acceptor.checkpoint();
    assert!(acceptor.is_settled(), "the floor of a damaged log does not move, so it would be written for ever");
}
