//! The description of a snapshot: comes back as it was, and no contradiction passes.

use super::*;

fn on(lsn: u64, tli: u32) -> LsnOnTli {
    LsnOnTli { lsn: Lsn(lsn), tli: Tli(tli) }
}

fn range(tli: u32, begin: u64, end: u64) -> WalRange {
    WalRange { tli: Tli(tli), begin: Lsn(begin), end: Lsn(end) }
}

fn snapshot() -> Snapshot {
    Snapshot {
        version: SNAPSHOT_VERSION,
        system_id: SystemId(7_654_321_000_000_000_001),
        server_version: 150_018,
        segment_size: SegmentSize::DEFAULT,
        begin: on(0x200_0028, 1),
        end: on(0x300_0100, 2),
        wal_ranges: vec![range(1, 0x200_0028, 0x300_0000), range(2, 0x300_0000, 0x300_0100)],
        begin_time: "2024-05-01T10:00:00Z".parse().unwrap(),
        end_time: "2024-05-01T10:00:09Z".parse().unwrap(),
        from_standby: true,
        label: "nightly".into(),
        tablespaces: vec![Tablespace { oid: 16384, location: "/srv/space".into() }],
        damaged_pages: vec![DamagedPage { path: "base/5/1249".into(), block: 7 }],
        chunks: vec![Chunk { number: 70, length: 100, crc32c: 5 }, Chunk { number: 71, length: 50, crc32c: u32::MAX }],
        manifest: Blob { length: 10, crc32c: 1 },
        files: 3,
        bytes: 120,
    }
}

#[test]
fn comes_back_as_it_was() {
    let json = snapshot().to_json();
    assert_eq!(Snapshot::from_json(&json).unwrap(), snapshot());
    let text = String::from_utf8(json).unwrap();
    for field in [
        "\"version\": 1",
        "\"system_id\": \"7654321000000000001\"",
        "\"segment_size\": 16777216",
        "\"lsn\": \"0/2000028\"",
        "\"tli\": 1",
        "\"begin_time\": \"2024-05-01T10:00:00Z\"",
    ] {
        assert!(text.contains(field), "{field} in {text}");
    }
    assert_eq!(snapshot().wal_begin(), Lsn(0x200_0000));
}

#[test]
fn a_newer_version_is_named_even_if_all_else_is_different() {
    let error = Snapshot::from_json(br#"{"version": 2, "other": true}"#).unwrap_err();
    assert!(matches!(error, SnapshotError::Version(2)), "{error}");
    assert!(matches!(Snapshot::from_json(br#"{"version": 0}"#), Err(SnapshotError::Version(0))));
}

#[test]
fn unknown_fields_are_left_alone() {
    let json = String::from_utf8(snapshot().to_json()).unwrap().replacen('{', "{\"later\": [1],", 1);
    assert_eq!(Snapshot::from_json(json.as_bytes()).unwrap(), snapshot());
}

#[test]
fn contradictions_are_found() {
    type Change = fn(&mut Snapshot);
    let changes: [(&str, Change); 15] = [
        ("end", |s| s.end.lsn = s.begin.lsn),
        ("zero", |s| s.begin.lsn = Lsn(0)),
        ("tli", |s| s.end.tli = Tli(0)),
        ("none", |s| s.wal_ranges.clear()),
        ("gap", |s| s.wal_ranges[1].begin = Lsn(0x300_0001)),
        ("tli order", |s| s.wal_ranges[1].tli = Tli(1)),
        ("short", |s| s.wal_ranges[1].end = Lsn(0x300_0099)),
        ("late", |s| s.wal_ranges[0].begin = Lsn(0x200_0029)),
        ("times", |s| s.end_time = "2024-05-01T09:00:00Z".parse().unwrap()),
        ("no chunks", |s| s.chunks.clear()),
        ("numbers", |s| s.chunks[1].number = 72),
        ("digits", |s| (s.chunks[0].number, s.chunks[1].number) = (99_999_999, 100_000_000)),
        ("overflow", |s| s.chunks.iter_mut().for_each(|chunk| chunk.length = u64::MAX)),
        ("bytes", |s| s.bytes = 151),
        ("space", |s| s.tablespaces[0].location.clear()),
    ];
    for (name, change) in changes {
        let mut snapshot = snapshot();
        change(&mut snapshot);
        assert!(Snapshot::from_json(&snapshot.to_json()).is_err(), "{name}");
    }
}

proptest::proptest! {
    #[test]
    fn any_bytes_are_an_error_at_worst(at in 0usize..1500, byte: u8) {
        let mut json = snapshot().to_json();
        if let Some(old) = json.get_mut(at) {
            *old = byte;
        }
        let _ = Snapshot::from_json(&json);
    }
}
