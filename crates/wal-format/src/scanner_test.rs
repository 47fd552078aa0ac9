//! The scanner against built WAL: every split, every segment size, every fault.

use super::*;
use crate::build::WalBuilder;
use proptest::prelude::*;

const MB: SegmentSize = SegmentSize::DEFAULT;

fn megabyte() -> SegmentSize {
    SegmentSize::new(1 << 20).unwrap()
}

fn scan(scanner: &mut Scanner, bytes: &[u8], chunk: usize) -> (Vec<RecordSeen>, Result<(), ScanError>) {
    let mut seen = Vec::new();
    for part in bytes.chunks(chunk) {
        if let Err(error) = scanner.feed_with(part, &mut |record| seen.push(*record)) {
            return (seen, Err(error));
        }
    }
    (seen, Ok(()))
}

fn scan_all(wal: &WalBuilder, size: SegmentSize) -> (Scanner, Vec<RecordSeen>) {
    let mut scanner = Scanner::at_page_start(ScanOptions::new(size), wal.start());
    let (seen, result) = scan(&mut scanner, wal.bytes(), usize::MAX);
    result.unwrap();
    (scanner, seen)
}

fn fault_at(wal: &WalBuilder, size: SegmentSize, change: impl FnOnce(&mut Vec<u8>)) -> (Scanner, ScanError) {
    let mut bytes = wal.bytes().to_vec();
    change(&mut bytes);
    let mut scanner = Scanner::at_page_start(ScanOptions::new(size), wal.start());
    let error = scanner.feed(&bytes).unwrap_err();
    assert_eq!(scanner.feed(&[]).unwrap_err(), error, "a failed scanner stays failed");
    (scanner, error)
}

#[test]
fn records_of_all_sizes_are_found_in_every_split() {
    // Payloads chosen so that headers end up split over pages in all three possible ways.
    let mut wal = WalBuilder::new(MB, Lsn(0x100_0000));
    for len in 0..200usize {
        wal.record(&vec![len as u8; len * 37 % 9001]);
    }
    for chunk in [1, 3, 7, 8, 24, 4096, 8191, 8192, 100_000, usize::MAX] {
        let mut scanner = Scanner::at_page_start(ScanOptions::new(MB), wal.start());
        let (seen, result) = scan(&mut scanner, wal.bytes(), chunk);
        result.unwrap();
        let ends: Vec<_> = seen.iter().map(|r| (r.start, r.end, r.header.crc)).collect();
        let built: Vec<_> = wal.records().iter().map(|r| (r.start, r.end, r.crc)).collect();
        assert_eq!(ends, built, "chunk {chunk}");
        assert_eq!((scanner.record_end(), scanner.position()), (wal.end(), wal.end()));
        assert_eq!(scanner.last_record_start(), wal.records().last().map(|r| r.start));
        assert_eq!(scanner.system_id(), Some(WalBuilder::SYSTEM_ID));
    }
}

#[test]
fn headers_split_over_pages() {
    for (room, have) in [(8, 8), (16, 16), (24, 24)] {
        let mut wal = WalBuilder::new(MB, Lsn(0x100_0000));
        wal.record(&vec![1; 8192 - 40 - 24 - room]);
        assert_eq!(wal.end().0 % 8192, 8192 - room as u64);
        let end = wal.record(&[2; 100]);
        let (scanner, seen) = scan_all(&wal, MB);
        assert_eq!((scanner.record_end(), seen.len()), (end, 2), "split after {have} bytes");
    }
}

#[test]
fn an_end_on_a_page_start_is_the_page_start() {
    let mut wal = WalBuilder::new(MB, Lsn(0x100_0000));
    let end = wal.record(&[1; 8192 - 40 - 24 - 3]);
    assert_eq!(end, Lsn(0x100_2000));
    let next = wal.record(&[]);
    let (scanner, seen) = scan_all(&wal, MB);
    assert_eq!((seen[0].end, seen[1].start, scanner.record_end()), (end, Lsn(0x100_2018), next));
}

#[test]
fn the_end_moves_only_with_the_padding() {
    let mut wal = WalBuilder::new(MB, Lsn(0x100_0000));
    let first = wal.record(&[]);
    let second = wal.record(&[1; 3]);
    let mut scanner = Scanner::at_page_start(ScanOptions::new(MB), wal.start());
    let all = wal.bytes();
    scanner.feed(&all[..all.len() - 1]).unwrap();
    assert_eq!((scanner.record_end(), scanner.verified_end()), (first, Some(first)));
    scanner.feed(&all[all.len() - 1..]).unwrap();
    assert_eq!(scanner.record_end(), second);
}

#[test]
fn a_record_over_segments_of_every_size_above_4_gib() {
    for power in 20..=24 {
        let size = SegmentSize::new(1 << power).unwrap();
        let start = Lsn(0x7_0000_0000 - size.bytes());
        let mut wal = WalBuilder::new(size, start);
        let big = vec![3; size.bytes() as usize * 2 + 12_345];
        let end = wal.record(&big);
        wal.record(&[4; 10]);
        let (scanner, seen) = scan_all(&wal, size);
        assert_eq!((seen[0].end, seen.len(), scanner.record_end()), (end, 2, wal.end()));
        assert!(end > Lsn(0x7_0000_0000));
    }
}

#[test]
fn a_gigabyte_segment() {
    let size = SegmentSize::new(1 << 30).unwrap();
    // Only the two pages around the boundary are built: the scan enters at a record boundary inside the last page.
    let at = Lsn((1 << 40) - 4096);
    let mut wal = WalBuilder::new(size, at).with_prev(Lsn(1 << 30));
    wal.fill_to(Lsn((1 << 40) + 20_000), 333);
    let mut scanner =
        Scanner::at_record_boundary(ScanOptions { prev: Some(Lsn(1 << 30)), ..ScanOptions::new(size) }, at);
    scanner.feed(wal.bytes()).unwrap();
    assert_eq!(scanner.verified_end(), Some(wal.end()));
    let other = SegmentSize::new(1 << 29).unwrap();
    let mut wrong = Scanner::at_record_boundary(ScanOptions::new(other), at);
    assert!(matches!(wrong.feed(wal.bytes()), Err(ScanError::Page { what: PageFault::SegmentSize(_), .. })));
}

#[test]
fn a_switch_ends_with_its_segment() {
    let mut wal = WalBuilder::new(MB, Lsn(0x100_0000));
    let before = wal.record(&[1; 100]);
    let end = wal.switch();
    wal.record(&[2; 100]);
    assert_eq!(end, Lsn(0x200_0000));
    let zeros_end = end.bytes_since(wal.start()) as usize;
    let mut scanner = Scanner::at_page_start(ScanOptions::new(MB), wal.start());
    scanner.feed(&wal.bytes()[..zeros_end - 1]).unwrap();
    assert_eq!(scanner.record_end(), before);
    scanner.feed(&wal.bytes()[zeros_end - 1..zeros_end]).unwrap();
    assert_eq!(scanner.record_end(), end);
    scanner.feed(&wal.bytes()[zeros_end..]).unwrap();
    assert_eq!(scanner.record_end(), wal.end());

    let (scanner, error) = fault_at(&wal, MB, |bytes| bytes[0x50_0000] = 1);
    assert_eq!(scanner.record_end(), before);
    assert!(matches!(error, ScanError::Record { what: RecordFault::AfterSwitch(Lsn(0x150_0000)), .. }));
}

#[test]
fn switches_that_end_on_page_and_segment_ends() {
    let size = megabyte();
    for room in [24u64, 8, 16, 8192 + 24] {
        let mut wal = WalBuilder::new(size, Lsn(0x10_0000));
        let target = Lsn(0x20_0000 - room);
        // The filler ends exactly `room` bytes before the segment's end.
        wal.fill_to(Lsn(target.0 - 16384), 64);
        let page_end = target.align_down(8192);
        let header_between = if page_end > wal.end().align_down(8192) {
            24 * ((page_end.0 - wal.end().align_down(8192).0) / 8192)
        } else {
            0
        };
        let payload = target.0 - wal.end().0 - 24 - header_between;
        assert_eq!(wal.record(&vec![9; payload as usize]), target);
        let end = wal.switch();
        wal.record(&[1]);
        let (scanner, seen) = scan_all(&wal, size);
        // Split over the segment's end, the switch takes the whole next segment with it.
        assert_eq!(end, if room < 24 { Lsn(0x30_0000) } else { Lsn(0x20_0000) }, "room {room}");
        assert_eq!(scanner.record_end(), wal.end());
        assert_eq!(seen[seen.len() - 2].end, end);
    }
}

#[test]
fn an_aborted_record_is_dropped_where_its_replacement_begins() {
    for pages in [0, 1, 3] {
        let mut wal = WalBuilder::new(MB, Lsn(0x100_0000));
        let before = wal.record(&[1; 100]);
        wal.aborted(&[2; 100_000], pages);
        wal.record(&[3; 50]);
        let (scanner, seen) = scan_all(&wal, MB);
        assert_eq!((seen.len(), seen[0].end, scanner.record_end()), (3, before, wal.end()));
        assert!(seen[1].header.is_xlog(record::XLOG_OVERWRITE_CONTRECORD));
        assert_eq!(seen[1].header.prev, seen[0].start);
    }
    // The aborted record's header itself was split.
    let mut wal = WalBuilder::new(MB, Lsn(0x100_0000));
    wal.record(&vec![1; 8192 - 40 - 24 - 8]);
    wal.aborted(&[2; 100], 0);
    assert_eq!(scan_all(&wal, MB).0.record_end(), wal.end());
    // Entering on the page where the replacement stands.
    let mut scanner = Scanner::at_page_start(ScanOptions::new(MB), Lsn(0x100_2000));
    scanner.feed(wal.slice(Lsn(0x100_2000), wal.end())).unwrap();
    assert_eq!(scanner.verified_end(), Some(wal.end()));
}

#[test]
fn a_continuation_at_the_entry_is_skipped_and_not_verified() {
    for len in [1u32, 100, 8151, 8152, 8153, 30_000] {
        let mut wal = WalBuilder::new(MB, Lsn(0x100_0000)).with_continuation(len);
        let skipped = wal.end();
        let mut scanner = Scanner::at_page_start(ScanOptions::new(MB), wal.start());
        scanner.feed(wal.bytes()).unwrap();
        assert_eq!((scanner.record_end(), scanner.verified_end()), (skipped, None), "{len}");
        wal.record(&[1; 50]);
        scanner.feed(wal.slice(skipped, wal.end())).unwrap();
        assert_eq!((scanner.record_end(), scanner.verified_end()), (wal.end(), Some(wal.end())));
    }
}

#[test]
fn entering_at_any_record_boundary() {
    let mut wal = WalBuilder::new(megabyte(), Lsn(0x10_0000));
    for len in 0..60usize {
        wal.record(&vec![1; len * 211]);
    }
    let records = wal.records().to_vec();
    for pair in records.windows(2) {
        for at in [pair[0].end, pair[1].start] {
            let options =
                ScanOptions { prev: Some(pair[0].start), magic: Some(0xD110), ..ScanOptions::new(megabyte()) };
            let mut scanner = Scanner::at_record_boundary(options, at);
            scanner.feed(wal.slice(at, wal.end())).unwrap();
            assert_eq!(scanner.verified_end(), Some(wal.end()), "from {at}");
        }
    }
    for bad in [Lsn(0x10_0004), Lsn(0x10_0010), Lsn(0x10_0020), Lsn(0x10_2008)] {
        let mut scanner = Scanner::at_record_boundary(ScanOptions::new(megabyte()), bad);
        assert!(matches!(scanner.feed(&[]), Err(ScanError::Start { .. })), "{bad}");
    }
    let mut scanner = Scanner::at_page_start(ScanOptions::new(megabyte()), Lsn(0x10_0028));
    assert!(matches!(scanner.feed(&[0]), Err(ScanError::Start { .. })));
}

#[test]
fn every_fault_is_named() {
    let mut wal = WalBuilder::new(MB, Lsn(0x100_0000));
    let first = wal.record(&[1; 100]);
    wal.record(&[2; 20_000]);
    wal.record(&[3; 10]);
    let page = 0x2000;
    let what = |error: ScanError| match error {
        ScanError::Page { at, what } => (at, what),
        other => panic!("{other}"),
    };
    let (_, error) = fault_at(&wal, MB, |b| b[0] = 1);
    assert_eq!(what(error), (Lsn(0x100_0000), PageFault::Magic(0xD101)));
    let (scanner, error) = fault_at(&wal, MB, |b| b[page] = 0x13);
    assert_eq!((what(error).1, scanner.record_end()), (PageFault::Magic(0xD113), first));
    let (_, error) = fault_at(&wal, MB, |b| b[page + 2] |= 0x10);
    assert_eq!(what(error).1, PageFault::Flags(0x11));
    let (_, error) = fault_at(&wal, MB, |b| b[page + 2] = 0x09);
    assert_eq!(what(error).1, PageFault::Flags(0x09));
    let (_, error) = fault_at(&wal, MB, |b| b[page + 2] |= 0x02);
    assert_eq!(what(error).1, PageFault::HeaderLength);
    let (_, error) = fault_at(&wal, MB, |b| b[2] = 0);
    assert_eq!(what(error).1, PageFault::HeaderLength);
    let (_, error) = fault_at(&wal, MB, |b| b[page + 8 + 3] = 7);
    assert_eq!(what(error).1, PageFault::Address(Lsn(0x700_2000)));
    let (_, error) = fault_at(&wal, MB, |b| b[page + 4] = 0);
    assert_eq!(what(error).1, PageFault::TliBackwards { found: Tli(0), last: Tli(1) });
    let (_, error) = fault_at(&wal, MB, |b| b[page + 2] = 0);
    assert!(matches!(what(error).1, PageFault::ContinuationLength { expected: 0, .. }));
    let (_, error) = fault_at(&wal, MB, |b| {
        b[page + 2..page + 20].copy_from_slice(&[&[0, 0][..], &[1, 0, 0, 0, 0, 0x20, 0, 1], &[0; 8]].concat())
    });
    assert_eq!(what(error).1, PageFault::MissingContinuation);
    let (_, error) = fault_at(&wal, MB, |b| b[page + 16] ^= 1);
    assert!(matches!(what(error).1, PageFault::ContinuationLength { .. }));
    let (_, error) = fault_at(&wal, MB, |b| b[page + 23] = 1);
    assert_eq!(what(error).1, PageFault::Padding);
    let (_, error) = fault_at(&wal, MB, |b| b[16] = 1);
    assert_eq!(what(error).1, PageFault::ContinuationLength { found: 1, expected: 0 });
    let (_, error) = fault_at(&wal, MB, |b| b[36] = 1);
    assert!(matches!(what(error).1, PageFault::PageSize(_)));
    let record = first.bytes_since(wal.start()) as usize;
    let fault = |change: fn(&mut Vec<u8>, usize)| match fault_at(&wal, MB, |b| change(b, record)) {
        (scanner, ScanError::Record { at, what }) => {
            assert_eq!((at, scanner.record_end()), (first, first));
            what
        }
        (_, other) => panic!("{other}"),
    };
    assert_eq!(fault(|b, r| b[r..].fill(0)), RecordFault::Length(0));
    assert_eq!(fault(|b, r| b[r..r + 4].fill(0xFF)), RecordFault::Length(u32::MAX));
    assert!(matches!(fault(|b, r| b[r + 8] ^= 8), RecordFault::PrevLink { .. }));
    // The first record ends 4 bytes before the second begins.
    let (scanner, error) = fault_at(&wal, MB, |b| b[record - 1] = 1);
    let start = Lsn(0x100_0028);
    assert_eq!((error, scanner.verified()), (ScanError::Record { at: start, what: RecordFault::Padding }, false));
    assert!(matches!(fault(|b, r| b[r + 30] ^= 1), RecordFault::Checksum { .. }));
    assert!(matches!(fault(|b, r| b[r + 20] ^= 1), RecordFault::Checksum { .. }));
    assert!(matches!(fault(|b, r| b[r + 16] ^= 1), RecordFault::Checksum { .. }));
    let (_, error) = fault_at(&wal, MB, |b| b[40 + 8 + 7] = 1);
    assert!(matches!(error, ScanError::Record { what: RecordFault::PrevForward(_), .. }));
}

#[test]
fn what_the_caller_knows_is_checked() {
    let mut wal = WalBuilder::new(MB, Lsn(0x100_0000)).with_magic(0xD118).with_system_id(SystemId(5));
    wal.record(&[1; 100]);
    let run = |options: ScanOptions| Scanner::at_page_start(options, wal.start()).feed(wal.bytes());
    let know = ScanOptions::new(MB);
    assert!(
        run(ScanOptions { magic: Some(0xD118), system_id: Some(SystemId(5)), min_tli: Tli(1), ..know.clone() }).is_ok()
    );
    assert!(run(ScanOptions { magic: Some(0xD110), ..know.clone() }).is_err());
    assert!(run(ScanOptions { system_id: Some(SystemId(6)), ..know.clone() }).is_err());
    assert!(run(ScanOptions { min_tli: Tli(2), ..know.clone() }).is_err());
    assert!(run(ScanOptions { prev: Some(Lsn(8)), ..know }).is_err());
}

#[test]
fn the_tli_may_rise_but_not_fall() {
    let mut wal = WalBuilder::new(MB, Lsn(0x100_0000));
    wal.record(&[1; 9000]);
    wal.set_tli(Tli(4));
    wal.record(&[1; 9000]);
    let (scanner, seen) = scan_all(&wal, MB);
    assert_eq!((scanner.tli(), seen[0].tli, seen[1].tli), (Some(Tli(4)), Some(Tli(1)), Some(Tli(4))));
    wal.set_tli(Tli(3));
    wal.record(&[1; 9000]);
    let mut scanner = Scanner::at_page_start(ScanOptions::new(MB), wal.start());
    let error = scanner.feed(wal.bytes()).unwrap_err();
    assert!(matches!(error, ScanError::Page { what: PageFault::TliBackwards { .. }, .. }));
}

#[test]
fn the_last_positions_of_all() {
    let at = Lsn(u64::MAX - 8191);
    let mut scanner = Scanner::at_record_boundary(ScanOptions::new(MB), at);
    assert_eq!(scanner.feed(&[0; 8192]), Err(ScanError::Range { at }));
    let mut wal = WalBuilder::new(MB, at);
    wal.record(&[1; 100]);
    let mut scanner = Scanner::at_record_boundary(ScanOptions::new(MB), at);
    scanner.feed(wal.bytes()).unwrap();
    assert_eq!(scanner.record_end(), wal.end());
}

#[test]
fn a_cut_run_goes_on_as_another() {
    let mut wal = WalBuilder::new(MB, Lsn(0x100_0000));
    let first = wal.record(&[1; 10_000]);
    wal.record(&[2; 10_000]);
    wal.cut(first);
    assert_eq!(wal.end(), first);
    wal.record(&[3; 500]);
    assert_eq!(scan_all(&wal, MB).1.len(), 2);
    wal.cut(wal.start());
    wal.record(&[4; 500]);
    assert_eq!(scan_all(&wal, MB).0.record_end(), wal.end());
}

#[derive(Debug, Clone)]
enum Step {
    Record(usize),
    Switch,
    Aborted(usize, u64),
    Tli,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        8 => (0usize..600).prop_map(Step::Record),
        3 => (0usize..40_000).prop_map(Step::Record),
        1 => Just(Step::Switch),
        1 => ((0u64..4), 0usize..5000).prop_map(|(pages, more)| Step::Aborted((pages as usize + 2) * 8192 + more, pages)),
        1 => Just(Step::Tli),
    ];
    proptest::collection::vec(step, 1..40)
}

fn built(steps: &[Step], size: SegmentSize, start: Lsn) -> WalBuilder {
    let mut wal = WalBuilder::new(size, start);
    let mut tli = 1;
    for step in steps {
        match step {
            Step::Record(len) => wal.record(&vec![0xA5; *len]),
            Step::Switch => wal.switch(),
            Step::Aborted(len, pages) => wal.aborted(&vec![0x5A; *len], *pages),
            Step::Tli => {
                tli += 1;
                wal.set_tli(Tli(tli));
                wal.end()
            }
        };
    }
    wal
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_wal_in_any_splits(steps in steps(), chunk in 1usize..30_000, high: bool) {
        let start = if high { Lsn(0xFFFF_FFFF_FFF0_0000 - (1 << 40)) } else { Lsn(0x10_0000) };
        let wal = built(&steps, megabyte(), start);
        let mut scanner = Scanner::at_page_start(ScanOptions::new(megabyte()), wal.start());
        let (seen, result) = scan(&mut scanner, wal.bytes(), chunk);
        prop_assert!(result.is_ok());
        let ends: Vec<_> = seen.iter().map(|r| (r.start, r.end)).collect();
        let expected: Vec<_> = wal.records().iter().map(|r| (r.start, r.end)).collect();
        prop_assert_eq!(ends, expected);
    }

    #[test]
    fn a_flipped_bit_never_passes_unseen(steps in steps(), place: proptest::sample::Index, bit in 0u8..8) {
        let wal = built(&steps, megabyte(), Lsn(0x10_0000));
        prop_assume!(!wal.bytes().is_empty());
        let index = place.index(wal.bytes().len());
        let mut bytes = wal.bytes().to_vec();
        bytes[index] ^= 1 << bit;
        let mut scanner = Scanner::at_page_start(ScanOptions::new(megabyte()), wal.start());
        let (seen, _) = scan(&mut scanner, &bytes, 10_000);
        // Up to the record that holds the byte all are found, and that one is not; only the unfinished part of a record that
        // was replaced, and the removable flag of pages, prove nothing.
        let at = Lsn(wal.start().0 + index as u64);
        let before = wal.records().iter().filter(|r| r.end <= at.align_down(8192)).count();
        prop_assert!(seen.len() >= before);
        for (seen, built) in seen.iter().zip(wal.records()) {
            prop_assert_eq!((seen.start, seen.end), (built.start, built.end));
            prop_assert!(!(built.start..built.end).contains(&at) || at.0 % 8192 < 40);
        }
    }

    #[test]
    fn noise_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..20_000), good in 0usize..9000) {
        let mut wal = WalBuilder::new(megabyte(), Lsn(0x10_0000));
        wal.record(&vec![1; good]);
        let mut scanner = Scanner::at_page_start(ScanOptions::new(megabyte()), wal.start());
        scanner.feed(wal.bytes()).unwrap();
        let _ = scanner.feed(&bytes);
        prop_assert!(scanner.record_end() <= scanner.position());
    }
}
