//! Tests of the acceptor's appends, acknowledgements, commit LSN and sessions, one rule each.

use super::*;
use crate::Cutting;

#[test]
fn appends_follow_each_other_exactly() {
    let mut acceptor = led();
    let end = Lsn(B + 100);
    for begin in [99, 101, 0] {
        let refusal = Refusal::Contiguity { begin: Lsn(B + begin), end };
        assert_eq!(take(&mut acceptor, ONE, append(3, begin, 5, 0)), Err(refusal));
    }
    let longer = AppendRequest { end: Lsn(B + 106), ..append(3, 100, 5, 0) };
    assert!(matches!(take(&mut acceptor, ONE, longer), Err(Refusal::Length { bytes: 5, .. })));
    let backwards = AppendRequest { end: Lsn(B + 90), ..append(3, 100, 0, 0) };
    assert!(matches!(take(&mut acceptor, ONE, backwards), Err(Refusal::Length { .. })));
    let big = append(3, 100, MAX_APPEND_BYTES + 1, 0);
    assert!(matches!(take(&mut acceptor, ONE, big), Err(Refusal::Length { .. })));
    assert_eq!((acceptor.written(), commands(&mut acceptor)), (end, vec![]));
    take(&mut acceptor, ONE, append(3, 100, MAX_APPEND_BYTES, 0)).unwrap();
    assert_eq!(acceptor.written(), Lsn(B + 100 + MAX_APPEND_BYTES as u64));
}

#[test]
fn only_the_elected_session_appends() {
    let mut acceptor = led();
    assert_eq!(take(&mut acceptor, TWO, append(3, 100, 5, 0)), Err(Refusal::NotElected(Term(3))));
    assert_eq!(take(&mut acceptor, ONE, append(4, 100, 5, 0)), Err(Refusal::NotElected(Term(4))));
    let mut restarted = greeted(used_state(), 100);
    assert_eq!(take(&mut restarted, ONE, append(2, 100, 5, 0)), Err(Refusal::NotElected(Term(2))));
}

#[test]
fn bytes_that_are_no_wal_end_the_leadership() {
    let mut acceptor = led();
    let refused = acceptor.handle_append(ONE, append(3, 100, 5, 0), |_, _| Err("bad".into()));
    assert_eq!(refused, Err(Refusal::BadWal { begin: Lsn(B + 100), reason: "bad".into() }));
    assert_eq!((acceptor.leader_term(), acceptor.written(), commands(&mut acceptor)), (None, Lsn(B + 100), vec![]));
}

#[test]
fn pulled_wal_fits_only_its_term_and_place() {
    let mut acceptor = led();
    let wal = || Bytes::from(vec![7; 5]);
    let mut pull = |term, begin| acceptor.handle_pulled(Term(term), Lsn(B + begin), wal(), |_, _| Ok(()));
    assert!(!pull(2, 100) && !pull(4, 100) && !pull(3, 101) && !pull(3, 99));
    assert!(pull(3, 100));
    assert_eq!(commands(&mut acceptor), [Write { begin: Lsn(B + 100), wal: wal() }]);
}

#[test]
fn a_heartbeat_is_answered_and_a_commit_carrier_is_not() {
    let mut acceptor = led();
    take(&mut acceptor, ONE, append(3, 100, 0, 60)).unwrap();
    assert_eq!(commands(&mut acceptor), [sent(ONE, acknowledged(3, 100, 60))]);
    // Exempt from contiguity, wherever it says to begin.
    take(&mut acceptor, ONE, append(3, 500, 0, 60)).unwrap();
    assert_eq!(commands(&mut acceptor), [sent(ONE, acknowledged(3, 100, 60))]);
    take(&mut acceptor, ONE, append(3, 100, 0, 80)).unwrap();
    assert_eq!((commands(&mut acceptor), acceptor.commit()), (vec![], Lsn(B + 80)));
}

#[test]
fn an_acknowledgement_ends_at_the_last_durable_record() {
    let mut acceptor = led();
    take(&mut acceptor, ONE, append(3, 100, 20, 0)).unwrap();
    take(&mut acceptor, ONE, append(3, 120, 0, 0)).unwrap();
    assert_eq!(commands(&mut acceptor)[1..], [sent(ONE, acknowledged(3, 100, 60))]);
    acceptor.handle_flushed(Lsn(B + 110), Lsn(B + 100));
    assert_eq!(commands(&mut acceptor), [], "no whole record more");
    acceptor.handle_flushed(Lsn(B + 120), Lsn(B + 118));
    assert_eq!(commands(&mut acceptor), [sent(ONE, acknowledged(3, 118, 60))]);
}

#[test]
fn commit_stays_at_what_is_durable_here() {
    let mut acceptor = led();
    take(&mut acceptor, ONE, append(3, 100, 20, 119)).unwrap();
    assert_eq!((acceptor.commit(), acceptor.leader_commit()), (Lsn(B + 100), Lsn(B + 119)));
    acceptor.handle_flushed(Lsn(B + 120), Lsn(B + 110));
    assert_eq!(acceptor.commit(), Lsn(B + 110));
}

#[test]
fn the_first_commit_of_a_term_is_written_down_at_once_and_told() {
    let mut acceptor = led();
    take(&mut acceptor, ONE, append(3, 100, 0, 99)).unwrap();
    assert_eq!(commands(&mut acceptor), [], "the term's start is not committed yet");
    take(&mut acceptor, ONE, append(3, 100, 0, 100)).unwrap();
    let pending = commands(&mut acceptor);
    assert_eq!(persist(&pending).1.commit, Lsn(B + 100));
    take(&mut acceptor, ONE, append(3, 100, 0, 100)).unwrap();
    assert_eq!(commands(&mut acceptor), [sent(ONE, acknowledged(3, 100, 60))], "not before it is durable");
    acceptor.handle_persisted(persist(&pending).0);
    assert_eq!(commands(&mut acceptor), [sent(ONE, acknowledged(3, 100, 100))]);
    take(&mut acceptor, ONE, append(3, 100, 20, 0)).unwrap();
    complete(&mut acceptor);
    take(&mut acceptor, ONE, append(3, 120, 0, 120)).unwrap();
    assert_eq!(commands(&mut acceptor), [], "later ones are written down lazily");
    acceptor.checkpoint();
    let pending = commands(&mut acceptor);
    assert_eq!((persist(&pending).1.commit, persist(&pending).1.floor), (Lsn(B + 120), Lsn(B + 120)));
    acceptor.handle_persisted(persist(&pending).0);
    acceptor.checkpoint();
    assert_eq!(commands(&mut acceptor), [], "nothing moved");
}

/// Else a healthy log would be taken for a damaged one after a power cut.
#[test]
fn the_floor_is_never_above_what_a_finished_sync_covered() {
    let mut acceptor = led();
    take(&mut acceptor, ONE, append(3, 100, 20, 0)).unwrap();
    commands(&mut acceptor);
    acceptor.handle_vote(TWO, vote(4)).unwrap();
    assert_eq!(persist(&commands(&mut acceptor)).1.floor, Lsn(B + 100), "20 bytes more are written, and not durable");
}

#[test]
fn a_write_without_space_stops_appends_and_not_votes() {
    let mut acceptor = led();
    take(&mut acceptor, ONE, append(3, 100, 5, 0)).unwrap();
    take(&mut acceptor, ONE, append(3, 105, 5, 0)).unwrap();
    acceptor.handle_vote(TWO, vote(2)).unwrap();
    assert!(matches!(acceptor.poll_command(), Some(Write { .. })));
    acceptor.handle_write_refused(Lsn(B + 100));
    // The second write is gone as well, and the vote waits for nothing that will never come.
    let history = [(1, 0), (2, 50), (3, 100)];
    assert_eq!(commands(&mut acceptor), [sent(TWO, answer(false, 3, 100, &history))]);
    assert_eq!(take(&mut acceptor, ONE, append(3, 100, 5, 0)), Err(Refusal::NotElected(Term(3))));
    acceptor.handle_vote(TWO, vote(4)).unwrap();
    assert_eq!(complete(&mut acceptor), [sent(TWO, answer(true, 4, 100, &history))]);
    // Half a write may stand above the end: it is cut.
    acceptor.handle_elected(TWO, elected(4, 100, &[(1, 0), (2, 50), (3, 100), (4, 100)])).unwrap();
    assert_eq!(persist(&commands(&mut acceptor)).1.cutting, Some(Cutting { to: Lsn(B + 100) }));
}

#[test]
fn a_session_that_ends_is_told_nothing_more_and_leads_no_longer() {
    let mut acceptor = led();
    take(&mut acceptor, ONE, append(3, 100, 0, 0)).unwrap();
    take(&mut acceptor, ONE, append(3, 100, 5, 0)).unwrap();
    acceptor.handle_vote(ONE, vote(3)).unwrap();
    acceptor.handle_disconnect(ONE);
    assert!(matches!(commands(&mut acceptor)[..], [Write { .. }]), "bytes taken are still written");
    acceptor.handle_flushed(Lsn(B + 105), Lsn(B + 105));
    assert_eq!((commands(&mut acceptor), acceptor.leader_term(), acceptor.flush()), (vec![], None, Lsn(B + 105)));
    assert_eq!(take(&mut acceptor, ONE, append(3, 105, 5, 0)), Err(Refusal::NoGreeting));
}

#[test]
fn control_file_writes_are_one_at_a_time_and_coalesced() {
    let mut acceptor = greeted(used_state(), 100);
    for term in 5..9 {
        acceptor.handle_vote(ONE, vote(term)).unwrap();
    }
    let pending = commands(&mut acceptor);
    assert_eq!((persist(&pending).0, persist(&pending).1.term), (1, Term(5)));
    acceptor.handle_persisted(1);
    let pending = commands(&mut acceptor);
    let (ticket, state) = persist(&pending[..1]);
    assert_eq!((ticket, state.term), (2, Term(8)), "all the rest in one write");
    assert_eq!(pending.len(), 2, "one vote is released: {pending:?}");
    acceptor.handle_persisted(2);
    let released = commands(&mut acceptor);
    assert!(released.len() == 3 && released.iter().all(|command| matches!(command, Send { .. })), "{released:?}");
}

#[test]
fn feedback_of_replicas_rides_on_an_acknowledgement() {
    let mut acceptor = led();
    let standby = HotStandbyFeedback { time: 1, xmin: 2, catalog_xmin: 3 };
    acceptor.set_standby_feedback(standby);
    acceptor.send_feedback(Bytes::from_static(b"f"));
    let AcceptorMessage::Append(response) = acknowledged(3, 100, 60) else { panic!("an acknowledgement") };
    let response = AppendResponse { standby, feedback: Some(Bytes::from_static(b"f")), ..response };
    assert_eq!(commands(&mut acceptor), [sent(ONE, AcceptorMessage::Append(response))]);
    acceptor.handle_disconnect(ONE);
    acceptor.send_feedback(Bytes::from_static(b"f"));
    assert_eq!(commands(&mut acceptor), []);
}
