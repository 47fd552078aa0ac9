//! Histories that are right, and one of every kind that is wrong.

use std::collections::BTreeMap;

use super::check::{Anomaly, check};
use super::record::{Op, Outcome, Transaction};

const LATER: u64 = 1_000;

fn append(key: i64, value: i64) -> Op {
    Op::Append { key, value }
}

fn read(key: i64, seen: &[i64]) -> Op {
    Op::Read { key, seen: Some(seen.to_vec()) }
}

/// Acknowledged at `ended`.
fn acknowledged(began: u64, ended: u64, ops: Vec<Op>) -> Transaction {
    Transaction { client: began, began, ops, outcome: Outcome::Acknowledged(ended) }
}

fn with(outcome: Outcome, transaction: Transaction) -> Transaction {
    Transaction { outcome, ..transaction }
}

fn judge(transactions: &[Transaction], lists: &[(i64, &[i64])]) -> Result<super::Checked, Anomaly> {
    let lists: BTreeMap<i64, Vec<i64>> = lists.iter().map(|(key, list)| (*key, list.to_vec())).collect();
    check(transactions, &lists, LATER)
}

#[test]
fn an_order_that_explains_all_is_found() {
    let all = [
        acknowledged(1, 4, vec![append(1, 10), read(2, &[])]),
        acknowledged(2, 6, vec![read(1, &[10]), append(1, 20), read(1, &[10, 20])]),
        acknowledged(5, 8, vec![append(2, 30), append(2, 31), read(1, &[10])]),
    ];
    let checked = judge(&all, &[(1, &[10, 20]), (2, &[30, 31])]).expect("nothing is wrong");
    assert_eq!((checked.acknowledged, checked.silent, checked.appends, checked.reads), (3, 0, 4, 4));
}

#[test]
fn an_open_fate_may_be_either() {
    let open = |began, op| with(Outcome::Open, acknowledged(began, 0, vec![op]));
    let all = [open(1, append(1, 10)), open(2, append(1, 20)), acknowledged(3, 9, vec![append(1, 30)])];
    assert_eq!(judge(&all, &[(1, &[20, 30])]).expect("both are right").silent, 1);
    // It may also have come late: nobody knows when it ended.
    judge(&all, &[(1, &[30, 20, 10])]).expect("both are right");
}

#[test]
fn whoever_ends_after_the_lists_were_read_need_not_be_there() {
    let all = [acknowledged(1, LATER + 1, vec![append(1, 10)])];
    judge(&all, &[]).expect("it ended later");
    assert_eq!(judge(&all, &[(1, &[10])]).expect("it may be there").silent, 1);
}

#[test]
fn a_lost_append_is_told() {
    let all = [acknowledged(1, 2, vec![append(1, 10)]), acknowledged(3, 4, vec![append(1, 20)])];
    assert!(matches!(judge(&all, &[(1, &[20])]), Err(Anomaly::Lost(_))));
}

#[test]
fn what_failed_or_nobody_did_is_told() {
    let all = [with(Outcome::Failed, acknowledged(1, 2, vec![append(1, 10)]))];
    assert!(matches!(judge(&all, &[(1, &[10])]), Err(Anomaly::FromNowhere(_))));
    assert!(matches!(judge(&all, &[(1, &[11])]), Err(Anomaly::FromNowhere(_))));
}

#[test]
fn an_append_done_twice_or_elsewhere_is_told() {
    let all = [acknowledged(1, 2, vec![append(1, 10)])];
    assert!(matches!(judge(&all, &[(1, &[10, 10])]), Err(Anomaly::Misplaced(_))));
    assert!(matches!(judge(&all, &[(2, &[10])]), Err(Anomaly::Misplaced(_))));
}

#[test]
fn half_a_transaction_is_told() {
    let half = with(Outcome::Open, acknowledged(1, 2, vec![append(1, 10), append(2, 11)]));
    assert!(matches!(judge(&[half], &[(1, &[10])]), Err(Anomaly::Torn(_))));
    let all = [
        acknowledged(1, 5, vec![append(1, 10), append(1, 11)]),
        acknowledged(2, 6, vec![read(1, &[10]), append(2, 1)]),
    ];
    assert!(matches!(judge(&all, &[(1, &[10, 11]), (2, &[1])]), Err(Anomaly::Torn(_))));
}

#[test]
fn a_list_that_never_was_is_told() {
    let writers = [acknowledged(1, 2, vec![append(1, 10)]), acknowledged(3, 4, vec![append(1, 20)])];
    let reader = |seen: &[i64]| acknowledged(5, 6, vec![read(1, seen), append(2, 1)]);
    for seen in [&[20, 10][..], &[20], &[10, 20, 30]] {
        let all = [writers[0].clone(), writers[1].clone(), reader(seen)];
        assert!(matches!(judge(&all, &[(1, &[10, 20]), (2, &[1])]), Err(Anomaly::NeverWas(_))), "{seen:?}");
    }
    let forgetful = acknowledged(1, 2, vec![append(1, 10), read(1, &[])]);
    assert!(matches!(judge(&[forgetful], &[(1, &[10])]), Err(Anomaly::NeverWas(_))));
}

#[test]
fn write_skew_is_a_circle() {
    let all =
        [acknowledged(1, 5, vec![read(1, &[]), append(2, 20)]), acknowledged(2, 6, vec![read(2, &[]), append(1, 10)])];
    assert!(matches!(judge(&all, &[(1, &[10]), (2, &[20])]), Err(Anomaly::Circle(_))));
}

#[test]
fn lists_in_different_orders_are_a_circle() {
    let all = [
        acknowledged(1, 5, vec![append(1, 10), append(2, 11)]),
        acknowledged(2, 6, vec![append(1, 20), append(2, 21)]),
    ];
    judge(&all, &[(1, &[20, 10]), (2, &[21, 11])]).expect("the second came first");
    assert!(matches!(judge(&all, &[(1, &[20, 10]), (2, &[11, 21])]), Err(Anomaly::Circle(_))));
}

#[test]
fn a_stale_read_is_a_circle_with_real_time() {
    let stale = [acknowledged(1, 2, vec![append(1, 10)]), acknowledged(3, 4, vec![read(1, &[]), append(2, 20)])];
    let Err(Anomaly::Circle(text)) = judge(&stale, &[(1, &[10]), (2, &[20])]) else { panic!("nothing was told") };
    assert!(text.contains("ended before the beginning of") && text.contains("did not see in 1"), "{text}");
    // At the same time it is right.
    let [first, second] = stale;
    judge(&[first, Transaction { began: 1, ..second }], &[(1, &[10]), (2, &[20])]).expect("they ran side by side");
}

#[test]
fn an_append_before_one_that_was_over_is_a_circle() {
    let all = [acknowledged(1, 2, vec![append(1, 10)]), acknowledged(3, 4, vec![append(1, 20)])];
    assert!(matches!(judge(&all, &[(1, &[20, 10])]), Err(Anomaly::Circle(_))));
}
