//! What is found in WAL that lies in memory.

use super::*;
use proptest::prelude::*;
use wal_format::build::WalBuilder;

fn size() -> SegmentSize {
    SegmentSize::new(1 << 20).unwrap()
}

fn run(wal: &WalBuilder) -> Run<'_> {
    Run { size: size(), system_id: WalBuilder::SYSTEM_ID, start: wal.start(), bytes: wal.bytes() }
}

/// Main data of a commit: a time, and more.
fn commit(time: i64, more: usize) -> Vec<u8> {
    let mut payload = vec![255, 8 + more.min(200) as u8];
    payload.extend_from_slice(&time.to_le_bytes());
    payload.resize(payload.len() + more, 7);
    payload
}

fn meanings(run: Run<'_>) -> Vec<Meaning> {
    let mut found = Vec::new();
    records(run, |_, meaning| found.push(meaning)).unwrap();
    found.retain(|meaning| *meaning != Meaning::Other);
    found
}

#[test]
fn commits_and_restore_points_are_read() {
    let mut wal = WalBuilder::new(size(), Lsn(0x10_0000));
    wal.record(b"something");
    // 2000-01-01T00:00:01Z.
    wal.record_of(record::RMGR_TRANSACTION, 0x80, &commit(1_000_000, 3));
    // A long main data header, behind an origin and a top-level transaction.
    let mut payload = vec![253, 1, 0, 252, 9, 0, 0, 0, 254, 8, 0, 0, 0];
    payload.extend_from_slice(&2_000_000i64.to_le_bytes());
    wal.record_of(record::RMGR_TRANSACTION, record::TRANSACTION_ABORT, &payload);
    wal.record_of(record::RMGR_TRANSACTION, record::TRANSACTION_COMMIT_PREPARED, &commit(3_000_000, 0));
    let mut point = vec![255, 72];
    point.extend_from_slice(&[0; 8]);
    point.extend_from_slice(b"before the change");
    point.resize(2 + 72, 0);
    wal.record_of(record::RMGR_XLOG, record::XLOG_RESTORE_POINT, &point);
    let at = |second: &str| second.parse().unwrap();
    assert_eq!(
        meanings(run(&wal)),
        [
            Meaning::End { xid: 0, at: at("2000-01-01T00:00:01Z") },
            Meaning::End { xid: 0, at: at("2000-01-01T00:00:02Z") },
            Meaning::End { xid: 0, at: at("2000-01-01T00:00:03Z") },
            Meaning::RestorePoint { name: "before the change".to_owned() },
        ]
    );
}

#[test]
fn what_a_record_says_is_found_across_pages_and_segments() {
    for gap in (0..96).step_by(8) {
        let mut wal = WalBuilder::new(size(), Lsn(0x10_0000));
        // Up to shortly before the end of the segment.
        wal.fill_to(Lsn(0x1F_E100), 3000);
        while wal.end().0 < 0x20_0000 - 200 - gap {
            wal.record(&[1; 40]);
        }
        wal.record_of(record::RMGR_TRANSACTION, 0, &commit(5, 700));
        assert_eq!(meanings(run(&wal)).len(), 1, "{gap}");
    }
}

#[test]
fn damage_is_an_error_and_never_an_end() {
    let mut wal = WalBuilder::new(size(), Lsn(0x10_0000));
    wal.fill_to(Lsn(0x11_0000), 500);
    let whole = run(&wal);
    let mut bytes = wal.bytes().to_vec();
    for at in [0, 7, 8, 24, 45, 70, 8192, 8193, 30_000] {
        bytes[at] ^= 0x10;
        assert!(records(Run { bytes: &bytes, ..whole }, |_, _| {}).is_err(), "byte {at}");
        bytes[at] ^= 0x10;
    }
    // Right bytes in the wrong place, and another cluster's.
    assert!(records(Run { start: Lsn(0x20_0000), ..whole }, |_, _| {}).is_err());
    assert!(records(Run { system_id: SystemId(1), ..whole }, |_, _| {}).is_err());
    assert!(records(whole, |_, _| {}).is_ok());
}

proptest! {
    #[test]
    fn the_last_record_below_a_limit(lens in prop::collection::vec(0usize..9000, 1..40), cut in 0.0f64..1.0, limit in 0.0f64..1.2) {
        let mut wal = WalBuilder::new(size(), Lsn(0x10_0000));
        for len in lens {
            wal.record(&vec![3; len]);
        }
        let length = wal.bytes().len();
        let bytes = &wal.bytes()[..(length as f64 * cut) as usize];
        let end = Lsn(0x10_0000 + bytes.len() as u64);
        let limit = Lsn(0x10_0000 + (length as f64 * limit) as u64);
        let found = last_record(Run { bytes, ..run(&wal) }, limit).unwrap();
        let expected = wal.records().iter().rfind(|record| record.end <= limit && record.end <= end);
        prop_assert_eq!(found, expected.map(|record| (record.start, record.end)));
    }

    #[test]
    fn bodies_of_any_shape_are_taken(payload in prop::collection::vec(any::<u8>(), 0..300), rmgr in 0u8..2, info in any::<u8>()) {
        prop_assume!(!(rmgr == 0 && matches!(info & 0xF0, record::XLOG_SWITCH | record::XLOG_OVERWRITE_CONTRECORD)));
        let mut wal = WalBuilder::new(size(), Lsn(0x10_0000));
        wal.record_of(rmgr, info, &payload);
        let outcome = records(run(&wal), |_, _| {});
        prop_assert!(outcome.is_ok());
    }
}
