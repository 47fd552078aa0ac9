//! Litestream 0.3's keys: `snapshots/<index 8 hex>.snapshot.lz4` and `wal/<index 8 hex>_<offset 8 hex>.wal.lz4`.
//!
//! An offset of 4 GiB or more has more than 8 digits there, up to 16; it is read and written so. Its index has 31 bits.

use crate::names::{PieceEnd, PieceName, hex};

/// The highest index Litestream counts to.
pub(crate) const MAX_INDEX: u64 = 0x7fff_ffff;

pub(super) fn piece_file(name: PieceName) -> Option<String> {
    let PieceName { index, start, end: PieceEnd::Unknown } = name else { return None };
    (index <= MAX_INDEX).then(|| format!("{index:08x}_{start:08x}.wal.lz4"))
}

pub(super) fn parse_piece(file: &str) -> Option<PieceName> {
    let (index, offset) = file.strip_suffix(".wal.lz4")?.split_once('_')?;
    let name = PieceName::sqlite(hex(index, 8..=8)?, hex(offset, 8..=16)?);
    (name.index <= MAX_INDEX && (offset.len() == 8 || !offset.starts_with('0'))).then_some(name)
}

pub(crate) fn snapshot_file(index: u64) -> Option<String> {
    (index <= MAX_INDEX).then(|| format!("{index:08x}.snapshot.lz4"))
}

pub(crate) fn parse_snapshot(file: &str) -> Option<u64> {
    hex(file.strip_suffix(".snapshot.lz4")?, 8..=8).filter(|index| *index <= MAX_INDEX)
}
