//! Restores to the end, to places, moments and names; two TLIs; the quorum's tail; an interrupted restore.

use crate::rig::{MIB, Rest, Rig, commit_at, progress, second, size, told};
use lsn::{Lsn, SegmentNumber, Tli};
use replica_client::{CommitTimes, Generation, Parent, PieceName};
use restore::postgres::execute;
use restore::postgres::fetch::Fetcher;
use restore::postgres::plan::{QuorumEnd, Stop};
use restore::postgres::recovery::{FOLDER, LOCAL_WAL, ORDERS, Orders};
use restore::postgres::target::Target;
use std::fs;
use wal_format::record;

#[tokio::test]
async fn latest_ends_behind_the_last_record_and_says_so_to_the_server() {
    let rig = Rig::new().await;
    let plan = rig.plan(Target::Latest).await.unwrap();
    let last = *rig.wal.records().last().unwrap();
    assert_eq!(plan.stop, Some(Stop::Record { start: last.start, end: last.end }));
    assert_eq!((plan.end, plan.archived), (last.end, last.end));
    let restored = rig.execute(&plan, "latest").await.unwrap();
    rig.same_files(&restored.directory);
    let read = |name: &str| fs::read_to_string(restored.directory.join(name)).unwrap();
    let auto = read("postgresql.auto.conf");
    for line in [
        &format!("recovery_target_lsn = '{}'", last.start),
        "recovery_target_inclusive = 'on'",
        "recovery_target_timeline = 'current'",
        "synchronous_standby_names = ''",
        "archive_mode = 'off'",
        "work_mem = '4MB'",
        "restore_command = '''/usr/bin/seawall'' wal-fetch --recovery seawall_restore/recovery.json %f %p'",
    ] {
        assert!(auto.lines().any(|found| found == line), "{line} is not in {auto}");
    }
    assert!(read("postgresql.conf").contains("# taken out by seawall restore: data_directory"));
    assert_eq!(read("recovery.signal"), "");
    let orders = Orders::from_json(read(&format!("{FOLDER}/{ORDERS}")).as_bytes()).unwrap();
    assert_eq!((orders.end, orders.lineage.tip().generation), (last.end, rig.root));
    let taken: Vec<_> = restored.neutralised.iter().map(|taken| taken.name.as_str()).collect();
    assert_eq!(taken, ["synchronous_standby_names"]);
}

#[tokio::test]
async fn a_place_is_everything_that_ends_at_or_below_it() {
    let rig = Rig::new().await;
    let records = rig.wal.records();
    let usable = |end: Lsn| end >= rig.snapshot.end.lsn;
    for at in (0..records.len()).step_by(97) {
        let record = records[at];
        for (place, expected) in
            [(record.end, record), (Lsn(record.end.0 + 1), record), (Lsn(record.end.0 - 1), records[at.max(1) - 1])]
        {
            let plan = rig.plan(Target::Lsn(place)).await;
            if !usable(place) {
                assert!(plan.unwrap_err().contains("no snapshot of this lineage was complete before"), "{place}");
                continue;
            }
            // A record that goes on in the next page may end before the header of that page.
            let stop = plan.unwrap().stop;
            assert_eq!(stop, Some(Stop::Record { start: expected.start, end: expected.end }), "{place}");
        }
    }
    let beyond = rig.plan(Target::Lsn(Lsn(rig.wal.end().0 + 1))).await.unwrap_err();
    assert!(beyond.contains("lies above it"), "{beyond}");
}

#[tokio::test]
async fn nothing_above_the_place_is_handed_out() {
    let rig = Rig::new().await;
    let record = rig.wal.records()[rig.wal.records().len() - 200];
    let plan = rig.plan(Target::Lsn(record.end)).await.unwrap();
    assert_eq!(plan.end, record.end);
    let fetcher = Fetcher::new(rig.replica.clone(), plan.lineage.clone(), plan.end);
    let number = size().segment_of(record.end);
    let segment = fetcher.by_name(Tli(1), number).await.unwrap().unwrap();
    let kept = record.end.bytes_since(size().start_of(number)) as usize;
    assert_eq!(&segment.bytes[..kept], rig.wal.slice(size().start_of(number), record.end));
    assert!(segment.bytes[kept..].iter().all(|byte| *byte == 0) && segment.bytes.len() as u64 == MIB);
    assert_eq!(fetcher.by_name(Tli(1), number.next()).await.unwrap(), None);
    assert_eq!(fetcher.by_name(Tli(2), number).await.unwrap(), None);
}

#[tokio::test]
async fn moments_names_and_what_is_not_there() {
    let rig = Rig::new().await;
    let ended = |second_of: i64| second(second_of);
    // Between two commits: the server compares commit times itself.
    let plan = rig.plan(Target::Time(ended(25))).await.unwrap();
    assert_eq!(plan.stop, Some(Stop::Time(ended(25))));
    // After the last commit: that is the end, and somebody must hear it.
    let last = *rig.wal.records().last().unwrap();
    let plan = rig.plan(Target::Time(ended(1_000_000))).await.unwrap();
    assert_eq!(plan.stop, Some(Stop::Record { start: last.start, end: last.end }));
    assert!(plan.notes[0].contains("no transaction ended after"), "{:?}", plan.notes);
    assert!(rig.plan(Target::Time(ended(1))).await.unwrap_err().contains("no snapshot"));
    let point = rig.plan(Target::Name("b".to_owned())).await.unwrap();
    let Some(Stop::Record { start, .. }) = point.stop else { panic!("{point:?}") };
    let at = rig.wal.records().iter().position(|record| record.start == start).unwrap();
    assert_eq!(at, 3000);
    // It is there, and lies before the snapshot.
    assert!(rig.plan(Target::Name("a".to_owned())).await.unwrap_err().contains("no snapshot"));
    for target in [Target::Name("c".to_owned()), Target::Xid(7), Target::Xid(0)] {
        let error = rig.plan(target.clone()).await.unwrap_err();
        assert!(error.contains(&format!("holds no {target}")), "{error}");
    }
}

/// TLI 2 begins in mid-segment; its own objects begin at the switch point, and the old TLI goes on above it for a while.
#[tokio::test]
async fn a_promotion_is_followed_and_the_other_branch_is_not() {
    let rig = Rig::new().await;
    let records = rig.wal.records();
    let switch = records[records.len() - 300].end;
    let mut branch = rig.wal.clone();
    branch.cut(switch);
    branch.set_tli(Tli(2));
    branch.record_of(record::RMGR_XLOG, record::XLOG_END_OF_RECOVERY, &[1; 30]);
    let mark = branch.records().last().unwrap().crc;
    branch.fill_to(Lsn(5 * MIB + 5000), 300);
    branch.record_of(record::RMGR_TRANSACTION, 0, &commit_at(5000));
    let two = Generation::of_tli(mark, Tli(2));
    rig.replica.put_parent(two, Parent::Of { generation: rig.root, switch }).await.unwrap();
    let number = size().segment_of(switch).0;
    assert_eq!(number, 4);
    for (index, from, to) in [(4, switch.0, 5 * MIB), (5, 5 * MIB, branch.end().0)] {
        let span = from - index * MIB..to - index * MIB;
        let bytes = branch.slice(Lsn(from), Lsn(to)).to_vec();
        rig.replica
            .put_piece(two, PieceName::of_segment(index, span), bytes.into(), CommitTimes::default())
            .await
            .unwrap();
    }
    let plan = rig.plan(Target::Latest).await.unwrap();
    assert_eq!(plan.lineage.tip().generation, two);
    assert_eq!(plan.end, branch.records().last().unwrap().end);
    let fetcher = Fetcher::new(rig.replica.clone(), plan.lineage.clone(), plan.end);
    let whole = fetcher.by_name(Tli(2), SegmentNumber(4)).await.unwrap().unwrap();
    assert_eq!(&whole.bytes[..], branch.slice(Lsn(4 * MIB), Lsn(5 * MIB)));
    let restored = rig.execute(&plan, "promoted").await.unwrap();
    let auto = fs::read_to_string(restored.directory.join("postgresql.auto.conf")).unwrap();
    assert!(auto.contains("recovery_target_timeline = '2'"), "{auto}");
    let history = fetcher.history(Tli(2)).await.unwrap().unwrap();
    assert!(String::from_utf8_lossy(&history).starts_with(&format!("1\t{switch}\t")));
    assert_eq!(fetcher.history(Tli(3)).await.unwrap(), None);
    assert_eq!(fetcher.history(Tli(1)).await.unwrap(), None);
    // Below the switch point it is a restore of TLI 1, and a free number must not be found at 2.
    let below = rig.plan(Target::Lsn(switch)).await.unwrap();
    assert_eq!((below.lineage.tip().generation, below.end), (rig.root, switch));
    let old = Fetcher::new(rig.replica.clone(), below.lineage, below.end);
    assert!(old.history(Tli(2)).await.unwrap().is_some());
    // The old branch, when it is asked for by name.
    let request = restore::postgres::plan::Request { target: Target::Latest, generation: Some(rig.root) };
    let old = restore::postgres::plan::plan(&rig.replica, &request, None).await.unwrap();
    assert_eq!(old.end, rig.wal.records().last().unwrap().end);
}

#[tokio::test]
async fn the_quorums_tail_is_part_of_latest() {
    let rig = Rig::new().await;
    let mut log = rig.wal.clone();
    log.fill_to(Lsn(6 * MIB + 9000), 900);
    let last = *log.records().last().unwrap();
    let quorum = QuorumEnd { path: lsn::Path::root(Tli(1)), end: last.end };
    let plan = rig.plan_with(Target::Latest, Some(&quorum)).await.unwrap();
    assert!(plan.needs_tail() && plan.stop.is_none());
    assert!(rig.execute(&plan, "without").await.unwrap_err().contains("none are named"));
    let mut rest = Rest { wal: log.clone(), end: last.end };
    let restored = rig.execute_with(&plan, Some(&mut rest), "with").await.unwrap();
    assert_eq!(restored.stop, Stop::Record { start: last.start, end: last.end });
    // Every segment of the log is had without the quorum from now on.
    let local = restored.directory.join(FOLDER).join(LOCAL_WAL);
    let fetcher = Fetcher::new(rig.replica.clone(), plan.lineage.clone(), plan.end).with_local(local);
    for number in plan.numbers() {
        let segment = fetcher.on_lineage(number).await.unwrap().unwrap();
        let start = size().start_of(number);
        assert_eq!(&segment.bytes[..segment.filled as usize], log.slice(start, plan.end.min(Lsn(start.0 + MIB))));
    }
    // A tail that is not the archive's continuation is noticed.
    let mut other = rig.wal.clone();
    other.cut(rig.wal.records()[rig.wal.records().len() - 2].end);
    other.fill_to(Lsn(6 * MIB + 9000), 901);
    let mut rest = Rest { wal: other, end: last.end };
    let error = rig.execute_with(&plan, Some(&mut rest), "other").await.unwrap_err();
    assert!(error.contains("does not hold the WAL its name says"), "{error}");
    // The quorum may be behind the archive's listing by nothing at all.
    let same = QuorumEnd { path: lsn::Path::root(Tli(1)), end: rig.wal.end() };
    assert!(!rig.plan_with(Target::Latest, Some(&same)).await.unwrap().needs_tail());
}

/// A restore that is cut short at any await leaves nothing that starts, and the next one succeeds in the same place.
#[tokio::test]
async fn interrupted_anywhere_it_never_starts_and_begins_anew() {
    let rig = Rig::new().await;
    let plan = rig.plan(Target::Latest).await.unwrap();
    let options = rig.options("interrupted");
    let (mut polls, mut cut) = (1, 0);
    loop {
        let work = execute::execute::<Rest>(&rig.replica, &plan, None, &options, progress());
        let mut work = Box::pin(work);
        let (mut done, mut busy) = (None, false);
        for _ in 0..polls {
            let polled = std::future::poll_fn(|context| std::task::Poll::Ready(work.as_mut().poll(context))).await;
            if let std::task::Poll::Ready(outcome) = polled {
                match outcome {
                    Ok(restored) => done = Some(restored),
                    // A thread of the attempt before has not noticed yet.
                    Err(error) if error.to_string().contains("another restore is at work") => busy = true,
                    // The last attempt was given up while its last step was under way, which then was done.
                    Err(error) if error.is_refusal() && options.output.join("global/pg_control").exists() => {
                        rig.same_files(&options.output);
                        assert!(cut > 3, "it was cut only {cut} times");
                        return;
                    }
                    Err(error) => panic!("{}", told(&error)),
                }
                break;
            }
            tokio::time::sleep(std::time::Duration::from_micros(200)).await;
        }
        drop(work);
        let started = options.output.join("global/pg_control").exists();
        if started && done.is_none() {
            // Given up while its last step was under way, which then was done: it is whole, or it must not start.
            rig.same_files(&options.output);
            assert!(cut > 3, "it was cut only {cut} times");
            return;
        }
        assert!(started || done.is_none(), "done after {polls} steps, and it would not start");
        let Some(restored) = done else {
            if busy {
                tokio::time::sleep(std::time::Duration::from_millis(1)).await;
            } else {
                (polls, cut) = (polls + 1 + polls / 4, cut + 1);
            }
            continue;
        };
        rig.same_files(&restored.directory);
        break;
    }
    assert!(cut > 3, "it was cut only {cut} times");
    // Done is done: no third one takes the directory.
    let again = execute::execute::<Rest>(&rig.replica, &plan, None, &options, progress()).await.unwrap_err();
    assert!(again.is_refusal(), "{again}");
}
