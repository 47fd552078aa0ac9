//! Where a quorum's log ends, from its members' answers.

use super::*;
use consensus::{Membership, TermHistory};
use lsn::{ClusterId, DiskId, NodeId, SystemId};
use proptest::prelude::*;

fn row(node: u64, term: u64, flush: u64, commit: u64, silent: Option<u64>) -> LogStatusRow {
    LogStatusRow {
        node: NodeId(node),
        disk: DiskId([1; 16]),
        name: "main".to_owned(),
        cluster: ClusterId { tenant: [1; 16], timeline: [1; 16] },
        state: LogState::Member,
        term: Term(term),
        last_log_term: Term(term),
        flush: Lsn(flush),
        commit: Lsn(commit),
        history: TermHistory::empty(),
        path: None,
        membership: Membership::none(),
        fence: None,
        leader_silent_ms: silent,
        system_id: SystemId(1),
        segment_size: 1 << 24,
        pg_version: 150_000,
        version: 1,
    }
}

fn verdict(rows: &[LogStatusRow], missing: usize, goal: Option<u64>) -> Verdict {
    judge(&rows.iter().collect::<Vec<_>>(), missing, goal.map(Lsn))
}

#[test]
fn a_leader_at_work_is_waited_for() {
    let led = |flush, commit| [row(1, 5, flush, commit, Some(100)), row(2, 5, flush, commit, Some(100))];
    assert_eq!(verdict(&led(100, 100), 1, None), Verdict::Ends(Lsn(100)));
    assert_eq!(verdict(&led(100, 90), 1, None), Verdict::Wait { wanted: Lsn(100), committed: Lsn(90) });
    // Only what was flushed when it was first asked.
    assert_eq!(verdict(&led(120, 110), 1, Some(100)), Verdict::Ends(Lsn(110)));
    // A new leader may have cut what nobody was promised.
    assert_eq!(verdict(&led(95, 95), 1, Some(100)), Verdict::Ends(Lsn(95)));
}

#[test]
fn without_a_leader_the_answers_decide_or_nobody_does() {
    let (a, b, c) = (row(1, 5, 100, 80, None), row(2, 5, 95, 80, Some(60_000)), row(3, 5, 90, 80, None));
    // All answer: the middle one is on a majority, and nothing above it can be.
    assert_eq!(verdict(&[a.clone(), b.clone(), c.clone()], 0, None), Verdict::Ends(Lsn(95)));
    // One is silent: it may have 100 too, and then 100 was acknowledged.
    assert_eq!(verdict(&[a.clone(), b.clone()], 1, None), Verdict::Undecided { certain: Lsn(95), possible: Lsn(100) });
    assert_eq!(verdict(&[a.clone(), row(2, 5, 100, 80, None)], 1, None), Verdict::Ends(Lsn(100)));
    // An older term's bytes on a majority may be cut by whoever leads next.
    let old = [row(1, 4, 100, 80, None), row(2, 4, 100, 80, None), row(3, 5, 90, 80, None)];
    assert_eq!(verdict(&old, 0, None), Verdict::Undecided { certain: Lsn(80), possible: Lsn(100) });
    // In a mixed answer the older term's bytes count for what may be, never for what is.
    assert_eq!(
        verdict(&[a, old[1].clone(), row(3, 5, 95, 80, None)], 0, None),
        Verdict::Undecided { certain: Lsn(95), possible: Lsn(100) }
    );
}

proptest! {
    /// What a majority of all members has flushed in one term is never above the verdict's end, whichever members answer.
    #[test]
    fn an_acknowledged_byte_is_never_left_out(flushes in prop::collection::vec(0u64..50, 3..6), silent in 0usize..3) {
        let members = flushes.len();
        let majority = members / 2 + 1;
        let silent = silent.min(members - majority);
        let mut sorted = flushes.clone();
        sorted.sort_unstable_by(|a, b| b.cmp(a));
        let acknowledged = sorted[majority - 1];
        // Whichever of them are silent: here the first ones.
        let rows: Vec<_> = flushes.iter().enumerate().skip(silent).map(|(at, flush)| row(at as u64 + 1, 5, *flush, 0, None)).collect();
        match verdict(&rows, silent, None) {
            Verdict::Ends(end) => prop_assert_eq!(end, Lsn(acknowledged)),
            Verdict::Undecided { certain, possible } => prop_assert!(certain.0 <= acknowledged && acknowledged <= possible.0),
            Verdict::Wait { .. } => prop_assert!(false),
        }
    }
}
