//! TLI switches and fences against a whole keeper with real storage on a simulated disk.

use crate::rig::{Rig, START, wal};
use consensus::{Fence, FenceToken, Introduction};
use lsn::{Lsn, Path, Term, Tli};
use std::time::Duration;
use wal_format::build::WalBuilder;

const HISTORY: &str = "1\t0/FFFFFFFF\tno recovery target specified\n";

/// A log of term 1 that ends at the switch point, and the WAL that goes on behind it on TLI 2; the path of that WAL.
pub(crate) fn at_the_switch() -> (Rig, WalBuilder, Path) {
    let mut rig = Rig::new();
    let session = rig.lead_from_nothing(1);
    let mut wal = wal();
    wal.record(&[7; 9000]);
    let switch = wal.record(&[8; 500]);
    rig.append(session, 1, START, wal.slice(START, switch), START);
    rig.settle();
    wal.set_tli(Tli(2));
    let path = format!("1:0/0:0;2:{switch}:AB").parse().unwrap();
    (rig, wal, path)
}

/// A leader of term 2 on this path, from the end of the log on.
pub(crate) fn promoted(rig: &mut Rig, path: &Path) -> consensus::SessionId {
    let end = rig.keeper.timeline_status().0;
    rig.introduction = Introduction { tli_history: HISTORY.to_owned(), ..Introduction::of(path.clone()) };
    let session = rig.connect(2);
    rig.greet(session);
    rig.vote(session, 2);
    rig.settle();
    rig.elect(session, end, &[(1, START), (2, end)]);
    rig.settle();
    session
}

#[test]
fn a_switch_is_stored_across_a_power_cut_and_public_once_committed() {
    for seed in 0..30 {
        let (mut rig, mut wal, path) = at_the_switch();
        let switch = wal.end();
        let session = promoted(&mut rig, &path);
        assert!(rig.closed.is_empty(), "{:?}", rig.closed);
        let end = wal.fill_to(Lsn(switch.0 + 30_000), 4000);
        rig.append(session, 2, switch, wal.slice(switch, end), switch);
        rig.settle();
        assert_eq!(rig.last_flush(), end);
        let shown = |rig: &Rig| (rig.keeper.identity(false).tli, rig.keeper.history_file(Tli(2)));
        assert_eq!(shown(&rig), (Tli(1), None), "nothing on it is committed");
        rig.append(session, 2, end, &[], end);
        rig.settle();
        assert_eq!(shown(&rig), (Tli(2), Some(HISTORY.as_bytes().to_vec())));
        rig.keeper.prepare_stop(rig.now);
        rig.settle();
        rig.disk.crash(seed);
        let rig = rig.restart();
        assert_eq!(rig.keeper.timeline_status(), (end, end));
        assert_eq!(rig.keeper.log_status(rig.now).path, Some(path));
        assert_eq!(shown(&rig), (Tli(2), Some(HISTORY.as_bytes().to_vec())));
    }
}

#[test]
fn a_lineage_that_differs_below_the_end_is_refused() {
    let (mut rig, mut wal, path) = at_the_switch();
    let switch = wal.end();
    let session = promoted(&mut rig, &path);
    let end = wal.record(&[1; 100]);
    rig.append(session, 2, switch, wal.slice(switch, end), switch);
    rig.settle();
    // The same number at the same place, but another promotion.
    rig.introduction = Introduction::of(format!("1:0/0:0;2:{switch}:AC").parse().unwrap());
    let session = rig.connect(3);
    rig.greet(session);
    rig.vote(session, 3);
    rig.settle();
    rig.elect(session, end, &[(1, START), (2, switch), (3, end)]);
    rig.settle();
    let (closed, reason) = rig.closed.last().unwrap();
    assert!(*closed == session && reason.contains("is not that of this log"), "{reason}");
    assert_eq!(rig.keeper.log_status(rig.now).path, Some(path));
}

fn fence(rig: &Rig, epoch: u64, millis: Option<u64>) -> Fence {
    let end = rig.keeper.timeline_status().0;
    let line = consensus::FenceLine { epoch: Term(epoch), path: Path::root(Tli(1)), lsn: end, expires_ms: millis };
    Fence { line, token: FenceToken([5; 16]) }
}

/// Whether a session that says this of itself may be elected.
fn is_let_in(rig: &mut Rig, number: u64, introduction: Introduction) -> bool {
    rig.introduction = introduction;
    let session = rig.connect(number);
    rig.greet(session);
    rig.settle();
    assert!(rig.closed.iter().all(|(closed, _)| *closed != session), "a greeting tells the term to everybody");
    rig.vote(session, number);
    rig.settle();
    rig.closed.iter().all(|(closed, _)| *closed != session)
}

#[test]
fn a_fence_bars_all_but_promoted_servers_and_outlives_a_restart() {
    let (mut rig, _, path) = at_the_switch();
    let root = Introduction::of(Path::root(Tli(1)));
    let wrong = fence(&rig, 2, None);
    assert!(rig.keeper.set_fence(rig.now, wrong).is_err(), "a fence belongs to the current term");
    let set = fence(&rig, 1, None);
    let ticket = rig.keeper.set_fence(rig.now, set.clone()).unwrap();
    assert!(!rig.keeper.is_persisted(ticket));
    rig.settle();
    assert!(rig.keeper.is_persisted(ticket));
    assert!(!is_let_in(&mut rig, 10, root.clone()), "whoever led before");
    assert!(rig.closed.iter().any(|(session, reason)| session.0 == 10 && reason.contains("seawall fence --lift")));
    rig.disk.crash(1);
    let mut rig = rig.restart();
    assert!(!is_let_in(&mut rig, 11, root.clone()));
    assert!(is_let_in(&mut rig, 12, Introduction::of(path)), "a server promoted at its end");
    assert!(is_let_in(&mut rig, 13, Introduction { fence_token: Some(set.token), ..root.clone() }));
    assert!(is_let_in(&mut rig, 14, Introduction { completes: true, ..root.clone() }));
    assert_eq!(rig.keeper.log_status(rig.now).fence, Some(set.line.to_string()));
    assert!(rig.keeper.lift_fence(rig.now, Term(0)).is_none(), "an earlier epoch lifts nothing");
    let ticket = rig.keeper.lift_fence(rig.now, Term(1)).unwrap();
    rig.settle();
    assert!(rig.keeper.is_persisted(ticket) && is_let_in(&mut rig, 15, root));
}

#[test]
fn a_fence_ends_by_the_clock_of_its_safekeeper() {
    let (mut rig, _, _) = at_the_switch();
    let root = Introduction::of(Path::root(Tli(1)));
    let set = fence(&rig, 1, Some(120_000));
    rig.keeper.set_fence(rig.now, set).unwrap();
    rig.settle();
    let due = rig.now + Duration::from_secs(120);
    rig.now += Duration::from_secs(119);
    rig.keeper.handle_timeout(rig.now);
    rig.settle();
    assert!(!is_let_in(&mut rig, 10, root.clone()));
    assert!(rig.keeper.log_status(rig.now).fence.unwrap().contains(" 1000 "), "the time it has left is shown");
    assert!(rig.keeper.poll_timeout().unwrap() <= due);
    rig.now = due;
    rig.keeper.handle_timeout(rig.now);
    rig.settle();
    assert!(is_let_in(&mut rig, 11, root));
}
