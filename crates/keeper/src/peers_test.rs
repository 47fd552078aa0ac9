//! Peers' memory and peers' positions against a keeper without storage.

use crate::command::Command;
use crate::{FoundLog, HOLD_LONGEST, Keeper, KeeperOptions};
use bytes::BytesMut;
use consensus::{
    AcceptorMessage, AcceptorState, Identity, Membership, ProposerGreeting, ProposerMessage, ServerInfo, SessionId,
    Standing, TermEntry, TermHistory, VoteRequest, VoteResponse,
};
use lsn::{ClusterId, DiskId, Lsn, NodeId, Path, SystemId, Term, Tli};
use quorum_proto::{Promise, ProtoVersion, decode_acceptor, encode_proposer};
use std::time::{Duration, Instant};

const BASE: u64 = 16 << 20;
const SERVER: ServerInfo = ServerInfo { system_id: SystemId(7), segment_size: 1 << 20, pg_version: 150_004 };
const SESSION: SessionId = SessionId(1);

fn cluster() -> ClusterId {
    ClusterId { tenant: [1; 16], timeline: [2; 16] }
}

/// A log of term 3, adopted, up to `BASE + 100`, that was opened at `now`; term 3 is promised unless `term` is higher.
fn opened(members: u64, term: u64, now: Instant) -> Keeper {
    let member = |node: u64| format!("{node}:{}@h:{node}", DiskId([node as u8; 16]));
    let members: Vec<String> = (1..=members).map(member).collect();
    let record: Membership = format!("1/0/{}", members.join(";")).parse().unwrap();
    let state = AcceptorState {
        term: Term(term),
        history: TermHistory::new(vec![TermEntry { term: Term(3), begin: Lsn(BASE) }]).unwrap(),
        path: Some(Path::root(Tli(1))),
        log_start: Lsn(BASE),
        ..AcceptorState::new(cluster(), "c".into(), record, SERVER)
    };
    let identity = Identity { node: NodeId(1), disk: DiskId([1; 16]) };
    let options = KeeperOptions { identity, max_wal: 1 << 30, max_slot_wal: 1 << 30, clock: (now, Default::default()) };
    let found = FoundLog { end: Lsn(BASE + 100), oldest: Lsn(BASE), damaged_below: None };
    let mut keeper = Keeper::new(options, state, found);
    keeper.hold_votes(now);
    keeper
}

fn push(keeper: &mut Keeper, now: Instant, message: ProposerMessage) {
    let mut bytes = BytesMut::new();
    encode_proposer(ProtoVersion::V3, &message, &mut bytes).unwrap();
    keeper.handle_push(now, SESSION, bytes.freeze());
    keeper.drive(now);
}

/// Asks for a vote in term 9; the session is greeted.
fn ask(keeper: &mut Keeper, now: Instant) {
    keeper.connect_receiver(SESSION, ProtoVersion::V3, consensus::Introduction::of(Path::root(Tli(1))), "p".into());
    let greeting = ProposerGreeting {
        cluster: cluster(),
        membership: Membership::none(),
        pg_version: SERVER.pg_version,
        system_id: SERVER.system_id,
        segment_size: SERVER.segment_size,
    };
    push(keeper, now, ProposerMessage::Greeting(greeting));
    push(keeper, now, ProposerMessage::Vote(VoteRequest { generation: 1, term: Term(9) }));
}

/// Carries out what a disk does; gives the votes sent.
fn votes(keeper: &mut Keeper, now: Instant) -> Vec<VoteResponse> {
    let mut votes = Vec::new();
    while let Some(command) = keeper.poll_command() {
        match command {
            Command::PersistControl { ticket, .. } => keeper.handle_persisted(now, ticket),
            Command::SendPush { payload, .. } => {
                if let AcceptorMessage::Vote(vote) = decode_acceptor(ProtoVersion::V3, payload).unwrap() {
                    votes.push(vote);
                }
            }
            _ => {}
        }
    }
    votes
}

fn promise(term: u64, log_term: u64, flush: u64) -> Promise {
    Promise { term: Term(term), log_term: Term(log_term), flush: Lsn(flush) }
}

#[test]
fn a_vote_waits_for_what_the_peers_remember() {
    let now = Instant::now();
    let mut keeper = opened(3, 3, now);
    ask(&mut keeper, now);
    assert!(votes(&mut keeper, now).is_empty(), "nobody was asked yet");
    assert!(!keeper.handle_remembered(now, NodeId(2), promise(3, 3, BASE + 100)));
    assert!(votes(&mut keeper, now).is_empty(), "the third has a second left");
    keeper.handle_remembered(now, NodeId(3), Promise::default());
    let vote = votes(&mut keeper, now).pop().unwrap();
    assert!(vote.granted);
}

#[test]
fn a_majority_and_a_second_are_enough() {
    let now = Instant::now();
    let mut keeper = opened(3, 3, now);
    ask(&mut keeper, now);
    keeper.handle_remembered(now, NodeId(2), Promise::default());
    assert_eq!(keeper.poll_timeout(), Some(now + Duration::from_secs(1)));
    let later = now + Duration::from_secs(1);
    keeper.handle_timeout(later);
    assert_eq!(votes(&mut keeper, later).len(), 1);
}

#[test]
fn without_any_peer_the_wait_ends_by_itself() {
    let now = Instant::now();
    let mut keeper = opened(3, 3, now);
    ask(&mut keeper, now);
    keeper.handle_timeout(now + HOLD_LONGEST - Duration::from_millis(1));
    assert!(votes(&mut keeper, now).is_empty());
    assert_eq!(keeper.poll_timeout(), Some(now + HOLD_LONGEST));
    keeper.handle_timeout(now + HOLD_LONGEST);
    assert!(votes(&mut keeper, now).pop().unwrap().granted);
}

#[test]
fn a_lone_safekeeper_has_nobody_to_ask() {
    let now = Instant::now();
    assert!(!opened(1, 3, now).holds_votes());
}

#[test]
fn less_than_what_was_promised_is_damage() {
    for (remembered, why) in [
        (promise(3, 3, BASE + 108), "the same term, a shorter log"),
        (promise(4, 0, 0), "a promise of a term is gone"),
        (promise(5, 4, BASE + 50), "a later leader was followed"),
    ] {
        let now = Instant::now();
        let mut keeper = opened(3, 3, now);
        ask(&mut keeper, now);
        assert!(keeper.handle_remembered(now, NodeId(2), remembered), "{why}");
        assert!(!keeper.handle_remembered(now, NodeId(3), remembered), "{why}: told twice");
        assert_eq!(keeper.acceptor.standing(), Standing::Damaged, "{why}");
        let vote = votes(&mut keeper, now).pop().unwrap();
        assert!(!vote.granted && vote.term == remembered.term.max(Term(3)), "{why}");
    }
}

#[test]
fn a_promised_term_without_its_history_is_damage() {
    // The copy was made between the vote for term 4 and the leader's Elected.
    let now = Instant::now();
    let mut keeper = opened(3, 4, now);
    assert!(keeper.handle_remembered(now, NodeId(2), promise(4, 4, BASE + 60)));
}

#[test]
fn what_a_later_leader_cut_is_no_damage() {
    let now = Instant::now();
    // Term 5 was promised since; its leader may have cut the log of term 3, and a crash came before its history was adopted.
    let mut keeper = opened(3, 5, now);
    assert!(!keeper.handle_remembered(now, NodeId(2), promise(4, 3, BASE + 5000)));
    assert_eq!(keeper.acceptor.standing(), Standing::Member);
}

#[test]
fn a_late_answer_still_counts() {
    let now = Instant::now();
    let mut keeper = opened(3, 3, now);
    keeper.handle_timeout(now + HOLD_LONGEST);
    ask(&mut keeper, now);
    assert!(votes(&mut keeper, now).pop().unwrap().granted);
    assert!(keeper.handle_remembered(now, NodeId(2), promise(3, 3, BASE + 108)));
    assert_eq!(keeper.acceptor.standing(), Standing::Damaged);
}

#[test]
fn only_what_is_durable_is_promised() {
    let now = Instant::now();
    let mut keeper = opened(3, 3, now);
    assert_eq!(keeper.promise(), Some(promise(3, 3, BASE + 100)));
    keeper.handle_timeout(now + HOLD_LONGEST);
    ask(&mut keeper, now);
    assert_eq!(keeper.promise(), None, "term 9 is on its way to the disk");
    votes(&mut keeper, now);
    assert_eq!(keeper.promise(), Some(promise(9, 0, 0)), "no history of term 9 yet");
    keeper.acceptor.checkpoint();
    assert_eq!(keeper.promise(), Some(promise(9, 0, 0)), "a floor on its way to the disk changes nothing of it");
}

#[test]
fn readers_are_sent_away_while_a_peer_is_ahead_and_nobody_leads() {
    let now = Instant::now();
    let at = |seconds: u64| now + Duration::from_secs(seconds);
    let mut keeper = opened(3, 3, now);
    let ahead = Lsn(BASE + 200);
    keeper.handle_peers(at(0), ahead);
    keeper.handle_peers(at(29), ahead);
    assert_eq!(keeper.reader_refusal(), None);
    keeper.note_leader_heard(at(20));
    keeper.handle_peers(at(30), ahead);
    assert_eq!(keeper.reader_refusal(), None, "a leader was heard");
    keeper.handle_peers(at(50), ahead);
    assert!(keeper.reader_refusal().unwrap().contains("read from another"));
    keeper.note_leader_heard(at(50));
    assert_eq!(keeper.reader_refusal(), None, "not only when the peers are asked next");
    keeper.handle_peers(at(79), ahead);
    assert_eq!(keeper.reader_refusal(), None);
    keeper.handle_peers(at(80), ahead);
    assert!(keeper.reader_refusal().is_some());
    keeper.handle_peers(at(81), Lsn(0));
    assert_eq!(keeper.reader_refusal(), None);
}
