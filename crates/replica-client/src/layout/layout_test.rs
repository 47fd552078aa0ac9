//! The keys, written out, and that reading undoes writing.

use lsn::{Lsn, Tli};
use proptest::prelude::*;

use super::postgres::{Part, history_file, parse_snapshot_folder, snapshot_folder};
use super::*;
use crate::names::PieceEnd;

const GENERATION: Generation = Generation(0x0123_4567_89ab_cdef);

#[test]
fn litestreams_keys() {
    let key = |index, offset| Layout::Sqlite.piece(GENERATION, PieceName::sqlite(index, offset)).unwrap();
    assert_eq!(key(0, 0), "generations/0123456789abcdef/wal/00000000_00000000.wal.lz4");
    assert_eq!(key(0x2a, 4152), "generations/0123456789abcdef/wal/0000002a_00001038.wal.lz4");
    assert_eq!(key(1, 0xffff_ffff), "generations/0123456789abcdef/wal/00000001_ffffffff.wal.lz4");
    assert_eq!(key(1, 0x1_0000_0000), "generations/0123456789abcdef/wal/00000001_100000000.wal.lz4");
    assert_eq!(key(1, u64::MAX), "generations/0123456789abcdef/wal/00000001_ffffffffffffffff.wal.lz4");
    assert_eq!(sqlite::snapshot_file(0x7fff_ffff).unwrap(), "7fffffff.snapshot.lz4");
    assert_eq!(sqlite::snapshot_file(0x8000_0000), None);
    assert_eq!(Layout::Sqlite.piece(GENERATION, PieceName::sqlite(0x8000_0000, 0)), None);
    assert_eq!(Layout::Sqlite.piece(GENERATION, PieceName::segment(1)), None);
}

#[test]
fn postgres_keys() {
    let key = |name| Layout::Postgres.piece(GENERATION, name);
    assert_eq!(
        key(PieceName::of_segment(0x1_02, 0x10..0x2000)).unwrap(),
        "generations/0123456789abcdef/wal/0000000000000102_00000010_00002000.wal.lz4"
    );
    assert_eq!(key(PieceName::segment(u64::MAX)).unwrap(), "generations/0123456789abcdef/wal/ffffffffffffffff.seg.lz4");
    assert_eq!(key(PieceName::of_segment(1, 5..5)), None);
    assert_eq!(key(PieceName::of_segment(1, 0..(1 << 30) + 1)), None);
    assert_eq!(key(PieceName::sqlite(1, 5)), None);
    assert_eq!(history_file(Tli(0x1b)), "0000001B.history");
    assert_eq!(snapshot_folder(Lsn(0x2_8000_0028)), "0000000280000028");
    assert_eq!(parse_snapshot_folder("0000000280000028"), Some(Lsn(0x2_8000_0028)));
    assert_eq!(Part::Chunk(7).file().unwrap(), "chunks/00000007.lz4");
    assert_eq!(Part::Chunk(100_000_000).file(), None);
    for part in [Part::Chunk(0), Part::Chunk(99_999_999), Part::Manifest] {
        assert_eq!(Part::parse(&part.file().unwrap()), Some(part));
    }
    for file in ["chunks/7.lz4", "chunks/0000000x.lz4", "chunks/+0000007.lz4", "snapshot.json", "backup_manifest"] {
        assert_eq!(Part::parse(file), None, "{file}");
    }
}

#[test]
fn foreign_names_are_skipped() {
    for file in [
        "00000000_00000000.wal",
        "00000000_00000000.wal.lz4.tmp",
        "0000000_00000000.wal.lz4",
        "00000000_0000000.wal.lz4",
        "000000000_00000000.wal.lz4",
        "00000000_000000000.wal.lz4",
        "00000000_10000000000000000.wal.lz4",
        "80000000_00000000.wal.lz4",
        "0000000A_00000000.wal.lz4",
        "+0000000_00000000.wal.lz4",
        "00000000-00000000.wal.lz4",
        "0000000000000102_00000010_00002000.wal.lz4",
        "",
    ] {
        assert_eq!(Layout::Sqlite.parse_piece(file), None, "{file}");
    }
    for file in [
        "0000000000000102_00000010_00000010.wal.lz4",
        "0000000000000102_00000010_00000001.wal.lz4",
        "0000000000000102_00000010_40000001.wal.lz4",
        "0000000000000102_00000010_00002000_00003000.wal.lz4",
        "0000000000000102_00000010.wal.lz4",
        "000000000000102_00000010_00002000.wal.lz4",
        "000000000000102.seg.lz4",
        "0000000000000102.seg",
        "00000000_00000000.wal.lz4",
    ] {
        assert_eq!(Layout::Postgres.parse_piece(file), None, "{file}");
    }
    for name in ["0123456789ABCDEF", "0123456789abcde", "0123456789abcdef0", "0123456789abcdeg", "latest"] {
        assert!(name.parse::<Generation>().is_err(), "{name}");
    }
}

#[test]
fn a_generation_is_mark_and_tli() {
    let generation = Generation::of_tli(0x8a0c_44f1, Tli(2));
    assert_eq!(generation.to_string(), "8a0c44f100000002");
    assert_eq!((generation.mark(), generation.tli()), (0x8a0c_44f1, Tli(2)));
    assert_eq!("8a0c44f100000002".parse(), Ok(generation));
}

proptest! {
    #[test]
    fn reading_undoes_writing(index in 0u64..0x8000_0000, start in any::<u64>(), a in 0u64..=1 << 30, b in 0u64..=1 << 30) {
        let sqlite = PieceName::sqlite(index, start);
        let file = Layout::Sqlite.piece_file(sqlite).unwrap();
        prop_assert_eq!(Layout::Sqlite.parse_piece(&file), Some(sqlite));
        prop_assert!(Layout::Sqlite.before_index(index) < file);
        prop_assert!(index == 0 || file > Layout::Sqlite.piece_file(PieceName::sqlite(index - 1, u64::MAX)).unwrap());
        for name in [PieceName::of_segment(start, a.min(b)..a.max(b)), PieceName::segment(start)] {
            let Some(file) = Layout::Postgres.piece_file(name) else {
                prop_assert!(a == b && name.end != PieceEnd::Segment);
                continue;
            };
            prop_assert_eq!(Layout::Postgres.parse_piece(&file), Some(name));
            prop_assert!(Layout::Postgres.before_index(start) < file);
        }
    }

    #[test]
    fn what_parses_is_written_the_same(file in "[0-9a-f]{8}_[0-9a-f]{7,17}\\.wal\\.lz4") {
        if let Some(name) = Layout::Sqlite.parse_piece(&file) {
            prop_assert_eq!(Layout::Sqlite.piece_file(name).unwrap(), file);
        }
    }
}
