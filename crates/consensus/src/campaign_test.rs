//! Tests of counting votes and choosing the donor.

use super::*;
use crate::{Member, TermEntry};
use lsn::DiskId;

pub(crate) fn three() -> Membership {
    let members = (1..=3)
        .map(|node| Member { node: NodeId(node), disk: DiskId([node as u8; 16]), host: "h".into(), port: 1 })
        .collect();
    Membership::new(1, Term(0), members, None).unwrap()
}

fn history(pairs: &[(u64, u64)]) -> TermHistory {
    TermHistory::new(pairs.iter().map(|&(term, begin)| TermEntry { term: Term(term), begin: Lsn(begin) }).collect())
        .unwrap()
}

fn granted(flush: u64, pairs: &[(u64, u64)]) -> VoteResponse {
    let history = history(pairs);
    VoteResponse { generation: 1, term: Term(9), granted: true, flush: Lsn(flush), truncate: Lsn(0), history }
}

fn campaign(votes: &[(u64, VoteResponse)]) -> Campaign {
    let mut campaign = Campaign::new(three(), Term(9));
    for (node, vote) in votes {
        assert!(campaign.handle_vote(NodeId(*node), vote));
    }
    campaign
}

fn won_by(decision: Decision) -> u64 {
    match decision {
        Decision::Won(vote) => vote.node.0,
        other => panic!("not won: {other:?}"),
    }
}

#[test]
fn one_vote_is_not_enough() {
    assert_eq!(campaign(&[(1, granted(50, &[(1, 10)]))]).decide(|_| Some(true)), Decision::Undecided);
}

#[test]
fn the_higher_term_gives_the_log_not_the_longer_one() {
    let campaign = campaign(&[(1, granted(900, &[(1, 10)])), (2, granted(60, &[(1, 10), (2, 50)]))]);
    assert_eq!(won_by(campaign.decide(|_| Some(true))), 2);
}

#[test]
fn a_history_beyond_the_end_of_the_log_counts_for_nothing() {
    let campaign = campaign(&[(1, granted(40, &[(1, 10), (8, 50)])), (2, granted(45, &[(1, 10)]))]);
    assert_eq!(won_by(campaign.decide(|_| Some(true))), 2);
}

#[test]
fn a_tail_the_primary_lacks_is_left_out_once_a_majority_stands_below_it() {
    let tail = (3, granted(90, &[(1, 10)]));
    let two = campaign(&[(1, granted(50, &[(1, 10)])), tail.clone()]);
    assert_eq!(two.decide(|vote| Some(vote.flush <= Lsn(60))), Decision::Undecided);
    let all = campaign(&[(1, granted(50, &[(1, 10)])), (2, granted(55, &[(1, 10)])), tail]);
    assert_eq!(won_by(all.decide(|vote| Some(vote.flush <= Lsn(60)))), 2);
}

#[test]
fn a_primary_behind_the_majority_is_refused() {
    let all = campaign(&[(1, granted(50, &[(1, 10)])), (2, granted(55, &[(1, 10)])), (3, granted(20, &[(1, 10)]))]);
    assert_eq!(all.decide(|vote| Some(vote.flush <= Lsn(30))), Decision::Refused);
}

#[test]
fn nothing_is_decided_on_an_uncompared_log() {
    let two = campaign(&[(1, granted(50, &[(1, 10)])), (2, granted(55, &[(1, 10)]))]);
    assert!(matches!(two.decide(|_| None), Decision::Compare(vote) if vote.node == NodeId(2)));
}

#[test]
fn only_votes_for_this_term_and_generation_by_members_count() {
    let mut campaign = Campaign::new(three(), Term(9));
    let vote = granted(50, &[(1, 10)]);
    assert!(!campaign.handle_vote(NodeId(4), &vote));
    assert!(!campaign.handle_vote(NodeId(1), &VoteResponse { term: Term(10), ..vote.clone() }));
    assert!(!campaign.handle_vote(NodeId(1), &VoteResponse { generation: 2, ..vote.clone() }));
    assert!(!campaign.handle_vote(NodeId(1), &VoteResponse { granted: false, ..vote.clone() }));
    assert!(campaign.handle_vote(NodeId(1), &vote));
}
