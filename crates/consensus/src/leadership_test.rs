//! Tests of the commit rule.

use super::*;
use crate::{Member, TermEntry};
use lsn::DiskId;

fn three() -> Membership {
    let members = (1..=3)
        .map(|node| Member { node: NodeId(node), disk: DiskId([node as u8; 16]), host: "h".into(), port: 1 })
        .collect();
    Membership::new(1, Term(0), members, None).unwrap()
}

fn vote(flush: u64, pairs: &[(u64, u64)]) -> Vote {
    let entries = pairs.iter().map(|&(term, begin)| TermEntry { term: Term(term), begin: Lsn(begin) }).collect();
    Vote { node: NodeId(1), flush: Lsn(flush), history: TermHistory::new(entries).unwrap(), truncate: Lsn(0) }
}

fn acknowledged(flush: u64) -> AppendResponse {
    AppendResponse { generation: 1, term: Term(5), flush: Lsn(flush), ..AppendResponse::default() }
}

fn leader() -> Leadership {
    Leadership::new(three(), Term(5), &vote(100, &[(1, 10), (2, 50)]), Lsn(7)).unwrap()
}

#[test]
fn the_term_starts_where_the_donor_ends() {
    assert_eq!(leader().start(), Lsn(100));
    assert_eq!(leader().history().to_string(), "1:0/A,2:0/32,5:0/64");
    let first = Leadership::new(three(), Term(1), &vote(0, &[]), Lsn(7)).unwrap();
    assert_eq!((first.start(), first.history().last_term()), (Lsn(7), Term(1)));
}

#[test]
fn positions_below_the_term_start_commit_nothing() {
    let mut leader = leader();
    assert_eq!(leader.handle_append_response(NodeId(1), &acknowledged(99)), Outcome::Noted);
    assert_eq!(leader.handle_append_response(NodeId(2), &acknowledged(99)), Outcome::Noted);
    assert_eq!(leader.handle_append_response(NodeId(3), &acknowledged(120)), Outcome::Noted);
    assert_eq!(leader.commit(), None);
}

#[test]
fn the_term_start_commits_without_an_append() {
    let mut leader = leader();
    assert_eq!(leader.handle_append_response(NodeId(1), &acknowledged(100)), Outcome::Noted);
    assert_eq!(leader.handle_append_response(NodeId(3), &acknowledged(100)), Outcome::Committed(Lsn(100)));
    assert_eq!(leader.handle_append_response(NodeId(3), &acknowledged(150)), Outcome::Noted);
    assert_eq!(leader.handle_append_response(NodeId(1), &acknowledged(140)), Outcome::Committed(Lsn(140)));
    assert_eq!(leader.truncate(), Lsn(0));
    leader.handle_append_response(NodeId(2), &acknowledged(110));
    assert_eq!(leader.truncate(), Lsn(110));
}

#[test]
fn a_higher_term_deposes_and_foreign_answers_do_not_count() {
    let mut leader = leader();
    let deposed = AppendResponse { term: Term(6), ..acknowledged(100) };
    assert_eq!(leader.handle_append_response(NodeId(1), &deposed), Outcome::Deposed(Term(6)));
    let late = AppendResponse { term: Term(4), ..acknowledged(100) };
    assert_eq!(leader.handle_append_response(NodeId(1), &late), Outcome::Foreign);
    let other = AppendResponse { generation: 2, ..acknowledged(100) };
    assert_eq!(leader.handle_append_response(NodeId(1), &other), Outcome::Foreign);
    assert_eq!(leader.handle_append_response(NodeId(4), &acknowledged(100)), Outcome::Foreign);
}

#[test]
fn a_follower_is_told_its_common_point() {
    let mut leader = leader();
    assert_eq!(leader.elected_for(&vote(130, &[(1, 10), (2, 50), (3, 60)])).start_streaming_at, Lsn(60));
    assert_eq!(leader.elected_for(&vote(80, &[(1, 10), (2, 50)])).start_streaming_at, Lsn(80));
    assert_eq!(leader.elected_for(&vote(130, &[(1, 10), (2, 50)])).start_streaming_at, Lsn(100));
    assert_eq!(leader.elected_for(&vote(0, &[])).start_streaming_at, Lsn(10));
}

#[test]
fn a_safekeeper_that_comes_back_with_less_counts_with_less() {
    let mut leader = leader();
    leader.handle_append_response(NodeId(1), &acknowledged(150));
    leader.elected_for(&vote(120, &[(1, 10), (2, 50), (5, 100)]));
    assert_eq!(leader.flush_of(NodeId(1)), Some(Lsn(120)));
    assert_eq!(leader.handle_append_response(NodeId(2), &acknowledged(150)), Outcome::Committed(Lsn(120)));
    leader.elected_for(&vote(130, &[(1, 10), (2, 50), (5, 100)]));
    assert_eq!((leader.flush_of(NodeId(1)), leader.commit()), (Some(Lsn(120)), Some(Lsn(120))));
}
