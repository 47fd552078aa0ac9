//! Tests of the acceptor, one rule each: build a state, hand in one event, compare state and commands.

use super::*;
use crate::{Cutting, Member, Membership, TermEntry, TermHistory};
use AcceptorCommand::{Cut, Persist, Refuse, Send, Write};
use lsn::{ClusterId, DiskId, NodeId, SystemId, Tli};

#[path = "acceptor_append_test.rs"]
mod append;

/// First byte of the log, a segment start.
const B: u64 = 1 << 20;
const CLUSTER: ClusterId = ClusterId { tenant: [1; 16], timeline: [2; 16] };
const ONE: SessionId = SessionId(1);
const TWO: SessionId = SessionId(2);
const SERVER: ServerInfo = ServerInfo { system_id: SystemId(7), segment_size: B as u32, pg_version: 150_004 };

fn record() -> Membership {
    let member = |node: u64| Member { node: NodeId(node), disk: DiskId([node as u8; 16]), host: "h".into(), port: 1 };
    Membership::new(1, Term(0), (1..=3).map(member).collect(), None).unwrap()
}

fn history(pairs: &[(u64, u64)]) -> TermHistory {
    let entry = |&(term, begin): &(u64, u64)| TermEntry { term: Term(term), begin: Lsn(B + begin) };
    TermHistory::new(pairs.iter().map(entry).collect()).unwrap()
}

fn root() -> Path {
    Path::root(Tli(1))
}

/// A log of term 2 up to `B + 100`, committed up to `B + 60`.
fn used_state() -> AcceptorState {
    AcceptorState {
        term: Term(2),
        history: history(&[(1, 0), (2, 50)]),
        path: Some(root()),
        server: SERVER,
        log_start: Lsn(B),
        commit: Lsn(B + 60),
        floor: Lsn(B + 90),
        ..fresh_state()
    }
}

fn fresh_state() -> AcceptorState {
    AcceptorState::new(CLUSTER, "c".into(), record(), ServerInfo::default())
}

fn start(state: AcceptorState, end: u64) -> Acceptor {
    let end = if end == 0 { Lsn::INVALID } else { Lsn(B + end) };
    Acceptor::new(Identity { node: NodeId(1), disk: DiskId([1; 16]) }, state, end)
}

fn greeting() -> ProposerGreeting {
    let ServerInfo { system_id, segment_size, pg_version } = SERVER;
    ProposerGreeting { cluster: CLUSTER, membership: Membership::none(), pg_version, system_id, segment_size }
}

/// With both sessions greeted and their answers taken.
fn greeted(state: AcceptorState, end: u64) -> Acceptor {
    let mut acceptor = start(state, end);
    for session in [ONE, TWO] {
        acceptor.handle_greeting(session, &greeting(), Introduction::of(root())).unwrap();
    }
    assert_eq!(commands(&mut acceptor).len(), 2);
    acceptor
}

/// Leading in term 3 from `B + 100` on session ONE, everything durable.
fn led() -> Acceptor {
    let mut acceptor = greeted(used_state(), 100);
    acceptor.handle_elected(ONE, elected(3, 100, &[(1, 0), (2, 50), (3, 100)])).unwrap();
    complete(&mut acceptor);
    assert_eq!(acceptor.leader_session(), Some(ONE));
    acceptor
}

fn commands(acceptor: &mut Acceptor) -> Vec<AcceptorCommand> {
    std::iter::from_fn(|| acceptor.poll_command()).collect()
}

/// Carries everything out at once; gives what was sent and refused.
fn complete(acceptor: &mut Acceptor) -> Vec<AcceptorCommand> {
    let mut seen = Vec::new();
    loop {
        let batch = commands(acceptor);
        if batch.is_empty() && acceptor.written() == acceptor.durable {
            return seen;
        }
        for command in batch {
            match command {
                Persist { ticket, .. } => acceptor.handle_persisted(ticket),
                Cut { .. } => acceptor.handle_cut(),
                Write { .. } => {}
                other => seen.push(other),
            }
        }
        if acceptor.written() != acceptor.durable {
            acceptor.handle_flushed(acceptor.written(), acceptor.written());
        }
    }
}

fn vote(term: u64) -> VoteRequest {
    VoteRequest { generation: 1, term: Term(term) }
}

fn elected(term: u64, start: u64, pairs: &[(u64, u64)]) -> ProposerElected {
    let start_streaming_at = Lsn(B + start);
    ProposerElected { generation: 1, term: Term(term), start_streaming_at, history: history(pairs) }
}

fn append(term: u64, begin: u64, length: usize, commit: u64) -> AppendRequest {
    AppendRequest {
        generation: 1,
        term: Term(term),
        begin: Lsn(B + begin),
        end: Lsn(B + begin + length as u64),
        commit: Lsn(B + commit),
        truncate: Lsn(0),
        wal: vec![7; length].into(),
    }
}

fn take(acceptor: &mut Acceptor, session: SessionId, append: AppendRequest) -> Result<(), Refusal> {
    acceptor.handle_append(session, append, |_, _| Ok(()))
}

fn answer(granted: bool, term: u64, flush: u64, pairs: &[(u64, u64)]) -> AcceptorMessage {
    let (flush, truncate) = (Lsn(B + flush), Lsn(0));
    AcceptorMessage::Vote(VoteResponse {
        generation: 1,
        term: Term(term),
        granted,
        flush,
        truncate,
        history: history(pairs),
    })
}

fn acknowledged(term: u64, flush: u64, commit: u64) -> AcceptorMessage {
    let (flush, commit) = (Lsn(B + flush), Lsn(B + commit));
    AcceptorMessage::Append(AppendResponse {
        generation: 1,
        term: Term(term),
        flush,
        commit,
        ..AppendResponse::default()
    })
}

fn sent(session: SessionId, message: AcceptorMessage) -> AcceptorCommand {
    Send { session, message }
}

/// The one persist command.
fn persist(commands: &[AcceptorCommand]) -> (u64, &AcceptorState) {
    match commands {
        [Persist { ticket, state }] => (*ticket, state),
        other => panic!("not one persist: {other:?}"),
    }
}

#[test]
fn a_greeting_of_another_cluster_is_refused() {
    let mut acceptor = start(used_state(), 100);
    let mut refused =
        |greeting: ProposerGreeting| acceptor.handle_greeting(ONE, &greeting, Introduction::of(root())).unwrap_err();
    let other = ClusterId { tenant: [9; 16], ..CLUSTER };
    assert_eq!(refused(ProposerGreeting { cluster: other, ..greeting() }), Refusal::Cluster(other));
    let theirs = SystemId(8);
    let system_id = Refusal::SystemId { ours: SystemId(7), theirs };
    assert_eq!(refused(ProposerGreeting { system_id: theirs, ..greeting() }), system_id);
    for theirs in [B as u32 * 2, 0, 12345] {
        let segment_size = Refusal::SegmentSize { ours: B as u32, theirs };
        assert_eq!(refused(ProposerGreeting { segment_size: theirs, ..greeting() }), segment_size);
    }
    let pg_version = Refusal::Version { ours: 15, theirs: 16 };
    assert_eq!(refused(ProposerGreeting { pg_version: 160_001, ..greeting() }), pg_version);
    assert_eq!(acceptor.handle_vote(ONE, VoteRequest { generation: 1, term: Term(9) }), Err(Refusal::NoGreeting));
    assert!(acceptor.poll_command().is_none());
}

#[test]
fn unknown_and_minor_versions_pass() {
    let mut acceptor = start(used_state(), 100);
    let unknown = ProposerGreeting { pg_version: 0, system_id: SystemId(0), ..greeting() };
    acceptor.handle_greeting(ONE, &unknown, Introduction::of(root())).unwrap();
    acceptor
        .handle_greeting(TWO, &ProposerGreeting { pg_version: 150_019, ..greeting() }, Introduction::of(root()))
        .unwrap();
    let greeting = AcceptorMessage::Greeting(AcceptorGreeting { node: NodeId(1), membership: record(), term: Term(2) });
    assert_eq!(commands(&mut acceptor), [sent(ONE, greeting.clone()), sent(TWO, greeting)]);
    assert_eq!(acceptor.state(), &used_state());
}

#[test]
fn nothing_comes_before_the_greeting() {
    let mut acceptor = start(used_state(), 100);
    assert_eq!(acceptor.handle_vote(ONE, vote(9)), Err(Refusal::NoGreeting));
    assert_eq!(acceptor.handle_elected(ONE, elected(9, 100, &[(9, 0)])), Err(Refusal::NoGreeting));
    assert_eq!(take(&mut acceptor, ONE, append(2, 100, 1, 0)), Err(Refusal::NoGreeting));
    assert_eq!(acceptor.state(), &used_state());
}

#[test]
fn another_generation_changes_nothing() {
    let mut acceptor = led();
    let before = acceptor.state().clone();
    let refusal = Err(Refusal::Generation { ours: 1, theirs: 2 });
    assert_eq!(acceptor.handle_vote(ONE, VoteRequest { generation: 2, ..vote(9) }), refusal);
    let message = ProposerElected { generation: 2, ..elected(9, 100, &[(9, 0)]) };
    assert_eq!(acceptor.handle_elected(TWO, message), refusal);
    assert_eq!(take(&mut acceptor, ONE, AppendRequest { generation: 2, ..append(3, 100, 5, 0) }), refusal);
    assert_eq!((acceptor.state(), acceptor.leader_term()), (&before, Some(Term(3))));
    assert!(acceptor.poll_command().is_none());
}

#[test]
fn a_vote_waits_for_the_term_and_for_all_wal() {
    for persisted_first in [true, false] {
        let mut acceptor = led();
        take(&mut acceptor, ONE, append(3, 100, 20, 0)).unwrap();
        acceptor.handle_vote(TWO, vote(5)).unwrap();
        let pending = commands(&mut acceptor);
        assert!(matches!(pending[0], Write { .. }), "{pending:?}");
        let (ticket, state) = persist(&pending[1..]);
        assert_eq!(state.term, Term(5));
        let flushed = |acceptor: &mut Acceptor| acceptor.handle_flushed(Lsn(B + 120), Lsn(B + 115));
        if persisted_first {
            acceptor.handle_persisted(ticket)
        } else {
            flushed(&mut acceptor)
        }
        assert!(acceptor.poll_command().is_none(), "one of two is not enough");
        if persisted_first {
            flushed(&mut acceptor)
        } else {
            acceptor.handle_persisted(ticket)
        }
        let granted = sent(TWO, answer(true, 5, 115, &[(1, 0), (2, 50), (3, 100)]));
        assert_eq!(commands(&mut acceptor), [granted]);
    }
}

#[test]
fn the_same_or_a_lower_term_is_refused_with_the_own_position() {
    let mut acceptor = greeted(used_state(), 100);
    for term in [2, 1] {
        acceptor.handle_vote(ONE, vote(term)).unwrap();
        assert_eq!(commands(&mut acceptor), [sent(ONE, answer(false, 2, 100, &[(1, 0), (2, 50)]))]);
    }
    assert_eq!(acceptor.state(), &used_state());
}

#[test]
fn a_vote_tells_no_term_that_is_still_on_its_way() {
    let mut acceptor = greeted(used_state(), 100);
    acceptor.handle_vote(ONE, vote(5)).unwrap();
    acceptor.handle_vote(TWO, vote(5)).unwrap();
    let pending = commands(&mut acceptor);
    acceptor.handle_persisted(persist(&pending).0);
    let history = [(1, 0), (2, 50)];
    let answers = [sent(ONE, answer(true, 5, 100, &history)), sent(TWO, answer(false, 5, 100, &history))];
    assert_eq!(commands(&mut acceptor), answers);
}

#[test]
fn a_vote_names_its_own_term_however_many_followed() {
    let mut acceptor = greeted(used_state(), 100);
    acceptor.handle_vote(ONE, vote(5)).unwrap();
    acceptor.handle_vote(ONE, vote(6)).unwrap();
    let pending = commands(&mut acceptor);
    let (ticket, state) = persist(&pending);
    assert_eq!(state.term, Term(5));
    acceptor.handle_persisted(ticket);
    let released = commands(&mut acceptor);
    assert_eq!(released[1..], [sent(ONE, answer(true, 5, 100, &[(1, 0), (2, 50)]))], "term 6 is not durable yet");
    acceptor.handle_persisted(persist(&released[..1]).0);
    assert_eq!(commands(&mut acceptor), [sent(ONE, answer(true, 6, 100, &[(1, 0), (2, 50)]))]);
}

#[test]
fn a_vote_deposes_the_old_leader_at_once() {
    let mut acceptor = led();
    acceptor.handle_vote(TWO, vote(4)).unwrap();
    assert_eq!(acceptor.leader_term(), None);
    take(&mut acceptor, ONE, append(3, 100, 20, 0)).unwrap();
    let response = AppendResponse { generation: 1, term: Term(4), ..AppendResponse::default() };
    assert_eq!(commands(&mut acceptor)[1..], [sent(ONE, AcceptorMessage::Append(response))]);
    assert_eq!(acceptor.written(), Lsn(B + 100));
}

#[test]
fn elected_cuts_in_three_durable_steps() {
    let mut acceptor = greeted(used_state(), 100);
    acceptor.handle_elected(ONE, elected(4, 70, &[(1, 0), (2, 50), (4, 70)])).unwrap();
    let announce = commands(&mut acceptor);
    let (ticket, state) = persist(&announce);
    let cutting = Some(Cutting { to: Lsn(B + 70) });
    assert_eq!((state.term, state.cutting, state.floor), (Term(4), cutting, Lsn(B + 70)));
    assert_eq!(state.history, used_state().history, "not adopted yet");
    acceptor.handle_persisted(ticket);
    let cut = Cut { to: Lsn(B + 70), first: false, path: root(), server: SERVER };
    assert_eq!(commands(&mut acceptor), [cut]);
    assert!(acceptor.is_busy() && acceptor.flush() == Lsn(B + 100));
    acceptor.handle_cut();
    let adopt = commands(&mut acceptor);
    let (ticket, state) = persist(&adopt);
    assert_eq!((state.cutting, state.floor), (None, Lsn(B + 70)));
    assert_eq!(state.history, history(&[(1, 0), (2, 50), (4, 70)]));
    assert!(acceptor.is_busy() && acceptor.leader_term().is_none());
    acceptor.handle_persisted(ticket);
    assert_eq!((acceptor.is_busy(), acceptor.leader_term(), acceptor.flush()), (false, Some(Term(4)), Lsn(B + 70)));
}

#[test]
fn the_first_cut_after_start_up_happens_whatever_the_start_point() {
    let mut acceptor = greeted(used_state(), 100);
    acceptor.handle_elected(ONE, elected(3, 100, &[(1, 0), (2, 50), (3, 100)])).unwrap();
    assert_eq!(persist(&commands(&mut acceptor)).1.cutting, Some(Cutting { to: Lsn(B + 100) }));
}

#[test]
fn nothing_is_cut_when_the_tail_is_known() {
    let mut acceptor = led();
    take(&mut acceptor, ONE, append(3, 100, 20, 110)).unwrap();
    complete(&mut acceptor);
    acceptor.handle_elected(TWO, elected(4, 120, &[(1, 0), (2, 50), (3, 100), (4, 120)])).unwrap();
    let adopt = commands(&mut acceptor);
    assert_eq!((persist(&adopt).1.cutting, persist(&adopt).1.history.last_term()), (None, Term(4)));
    acceptor.handle_persisted(persist(&adopt).0);
    assert_eq!((acceptor.leader_session(), acceptor.leader_commit()), (Some(TWO), Lsn(0)));
    // The same leader on another session: there is nothing to write at all.
    acceptor.handle_elected(ONE, elected(4, 120, &[(1, 0), (2, 50), (3, 100), (4, 120)])).unwrap();
    assert_eq!((commands(&mut acceptor), acceptor.leader_session()), (vec![], Some(ONE)));
}

#[test]
fn an_empty_log_begins_at_a_segment_start_only() {
    let mut acceptor = greeted(fresh_state(), 0);
    acceptor.handle_elected(ONE, elected(1, 5, &[(1, 5)])).unwrap();
    let refusal = Refusal::FirstByte(Lsn(B + 5));
    assert_eq!(complete(&mut acceptor), [Refuse { session: ONE, refusal }]);
    acceptor.handle_elected(ONE, elected(1, 0, &[(1, 0)])).unwrap();
    let announce = commands(&mut acceptor);
    acceptor.handle_persisted(persist(&announce).0);
    assert_eq!(commands(&mut acceptor), [Cut { to: Lsn(B), first: true, path: root(), server: SERVER }]);
    acceptor.handle_cut();
    complete(&mut acceptor);
    let state = acceptor.state();
    assert_eq!((state.log_start, &state.path, state.server, state.floor), (Lsn(B), &Some(root()), SERVER, Lsn(B)));
}

#[test]
fn elected_waits_until_the_end_of_the_log_is_known() {
    let mut acceptor = led();
    take(&mut acceptor, ONE, append(3, 100, 20, 0)).unwrap();
    acceptor.handle_elected(TWO, elected(4, 115, &[(1, 0), (2, 50), (3, 100), (4, 115)])).unwrap();
    assert!(matches!(commands(&mut acceptor)[..], [Write { .. }]));
    acceptor.handle_flushed(Lsn(B + 120), Lsn(B + 115));
    // The torn record above the flush LSN goes.
    assert_eq!(persist(&commands(&mut acceptor)).1.cutting, Some(Cutting { to: Lsn(B + 115) }));
}

#[test]
fn a_leader_that_leaves_in_the_middle_leaves_a_whole_log_without_a_leader() {
    let mut acceptor = greeted(used_state(), 100);
    acceptor.handle_elected(ONE, elected(4, 70, &[(1, 0), (2, 50), (4, 70)])).unwrap();
    acceptor.handle_disconnect(ONE);
    complete(&mut acceptor);
    assert_eq!((acceptor.is_busy(), acceptor.leader_term(), acceptor.flush()), (false, None, Lsn(B + 70)));
    assert_eq!((acceptor.state().cutting, acceptor.state().history.last_term()), (None, Term(4)));
}

#[test]
fn a_stale_elected_is_ignored_and_a_broken_one_refused() {
    let mut acceptor = led();
    acceptor.handle_elected(TWO, elected(2, 60, &[(1, 0), (2, 50)])).unwrap();
    assert_eq!((acceptor.leader_session(), acceptor.is_busy()), (Some(ONE), false));
    assert_eq!(acceptor.handle_elected(TWO, elected(9, 60, &[(1, 0)])), Err(Refusal::History(Term(9))));
    assert_eq!(acceptor.leader_session(), Some(ONE));
}

/// What an Elected message on a log as [`used_state`] describes, on this path, is refused with in the middle.
fn refused(message: ProposerElected, path: Path) -> Refusal {
    let mut acceptor = start(used_state(), 100);
    acceptor.handle_greeting(ONE, &greeting(), Introduction::of(path)).unwrap();
    commands(&mut acceptor);
    acceptor.handle_elected(ONE, message).unwrap();
    let refused = commands(&mut acceptor);
    assert_eq!((acceptor.state(), acceptor.is_busy()), (&used_state(), false));
    match &refused[..] {
        [Refuse { session: ONE, refusal }] => refusal.clone(),
        other => panic!("not refused: {other:?}"),
    }
}

#[test]
fn a_leader_that_does_not_fit_is_refused() {
    let start = Refusal::StartPoint { ours: Lsn(B + 70), theirs: Lsn(B + 80) };
    assert_eq!(refused(elected(4, 80, &[(1, 0), (2, 50), (4, 70)]), root()), start);
    let commit = Refusal::BelowCommit { start: Lsn(B + 55), commit: Lsn(B + 60) };
    assert_eq!(refused(elected(4, 55, &[(1, 0), (2, 50), (4, 55)]), root()), commit);
    let unrelated = Refusal::BelowCommit { start: Lsn(B), commit: Lsn(B + 60) };
    assert_eq!(refused(elected(4, 0, &[(4, 0)]), root()), unrelated);
    let theirs = Path::root(Tli(2));
    let path = Refusal::Path { ours: root(), theirs: theirs.clone() };
    assert_eq!(refused(elected(4, 70, &[(1, 0), (2, 50), (4, 70)]), theirs), path);
}

#[test]
fn a_log_that_begins_elsewhere_is_refused() {
    let state = AcceptorState { commit: Lsn(0), floor: Lsn(B), ..used_state() };
    let mut acceptor = greeted(AcceptorState { history: history(&[(1, 0)]), ..state }, 20);
    acceptor.handle_elected(ONE, elected(4, B, &[(4, B)])).unwrap();
    let refusal = Refusal::LogStart { ours: Lsn(B), theirs: Lsn(2 * B) };
    assert_eq!(commands(&mut acceptor), [Refuse { session: ONE, refusal }]);
}

#[test]
fn an_emptied_disk_and_a_stranger_neither_vote_nor_follow() {
    for (node, standing) in [(1, Standing::ForeignDisk), (4, Standing::Learner)] {
        let identity = Identity { node: NodeId(node), disk: DiskId([99; 16]) };
        let mut acceptor = Acceptor::new(identity, fresh_state(), Lsn::INVALID);
        assert_eq!(acceptor.standing(), standing);
        acceptor.handle_greeting(ONE, &greeting(), Introduction::of(root())).unwrap();
        commands(&mut acceptor);
        acceptor.handle_vote(ONE, vote(5)).unwrap();
        let [Send { message: AcceptorMessage::Vote(answer), .. }] = &commands(&mut acceptor)[..] else {
            panic!("no answer")
        };
        assert!(!answer.granted && answer.term == Term(0));
        assert_eq!(acceptor.handle_elected(ONE, elected(5, 0, &[(5, 0)])), Err(Refusal::NotMember));
        assert_eq!(acceptor.state(), &fresh_state());
    }
}

#[test]
fn an_end_below_floor_or_commit_is_damage() {
    assert_eq!(start(used_state(), 90).standing(), Standing::Member);
    let damaged = start(used_state(), 89);
    assert_eq!((damaged.standing(), damaged.state().damaged_below), (Standing::Damaged, Lsn(B + 90)));
    // While a cut was announced the floor may have been older than the commit LSN.
    let old_floor = AcceptorState { floor: Lsn(B + 40), ..used_state() };
    let damaged = start(old_floor, 45);
    assert_eq!((damaged.standing(), damaged.state().damaged_below), (Standing::Damaged, Lsn(B + 60)));
    let mut marked = start(used_state(), 100);
    marked.mark_damaged(Lsn(B + 120));
    assert_eq!(persist(&commands(&mut marked)).1.damaged_below, Lsn(B + 120));
    assert_eq!(marked.standing(), Standing::Damaged);
}

#[test]
fn a_damaged_log_votes_again_only_after_it_learned_what_it_lost() {
    let mut acceptor = greeted(used_state(), 55);
    acceptor.handle_vote(TWO, vote(5)).unwrap();
    assert_eq!(commands(&mut acceptor), [sent(TWO, answer(false, 2, 55, &[(1, 0), (2, 50)]))]);
    acceptor.handle_elected(ONE, elected(5, 55, &[(1, 0), (2, 50), (5, 100)])).unwrap();
    complete(&mut acceptor);
    assert_eq!((acceptor.leader_term(), acceptor.standing()), (Some(Term(5)), Standing::Damaged));
    assert_eq!(acceptor.state().floor, Lsn(B + 55), "a known hole is no new damage");
    // What it lost is there again, but not all that is committed.
    take(&mut acceptor, ONE, append(5, 55, 40, 110)).unwrap();
    complete(&mut acceptor);
    assert_eq!((acceptor.flush(), acceptor.standing()), (Lsn(B + 95), Standing::Damaged));
    take(&mut acceptor, ONE, append(5, 95, 15, 110)).unwrap();
    complete(&mut acceptor);
    assert_eq!((acceptor.standing(), acceptor.state().damaged_below), (Standing::Member, Lsn(0)));
    assert_eq!((acceptor.commit(), acceptor.state().floor), (Lsn(B + 110), Lsn(B + 110)));
    acceptor.handle_vote(TWO, vote(6)).unwrap();
    assert_eq!(complete(&mut acceptor), [sent(TWO, answer(true, 6, 110, &[(1, 0), (2, 50), (5, 100)]))]);
}
