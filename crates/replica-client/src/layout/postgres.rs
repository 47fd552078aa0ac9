//! PostgreSQL's keys below an era's root:
//!
//! ```text
//! era.json
//! generations/<generation>/parent.json
//! generations/<generation>/<TLI, 8 upper-case hex>.history
//! generations/<generation>/wal/<segment 16 hex>_<start 8 hex>_<end 8 hex>.wal.lz4
//! generations/<generation>/wal/<segment 16 hex>.seg.lz4
//! generations/<generation>/snapshots/<LSN 16 hex>/chunks/<8 digits>.lz4
//! generations/<generation>/snapshots/<LSN 16 hex>/backup_manifest.lz4
//! generations/<generation>/snapshots/<LSN 16 hex>/snapshot.json        (last: with it the snapshot exists)
//! ```

use std::fmt;

use lsn::{Lsn, Tli};

use crate::names::{PieceEnd, PieceName, hex};

/// The era object.
pub(crate) const ERA: &str = "era.json";
/// The object that makes a snapshot exist.
pub(crate) const SNAPSHOT: &str = "snapshot.json";
/// A generation's parent link.
pub(crate) const PARENT: &str = "parent.json";
/// The largest segment is 1 GiB; offsets end there.
const MAX_OFFSET: u64 = 1 << 30;

pub(super) fn piece_file(name: PieceName) -> Option<String> {
    let PieceName { index, start, end } = name;
    match end {
        PieceEnd::At(end) if start < end && end <= MAX_OFFSET => {
            Some(format!("{index:016x}_{start:08x}_{end:08x}.wal.lz4"))
        }
        PieceEnd::Segment if start == 0 => Some(format!("{index:016x}.seg.lz4")),
        _ => None,
    }
}

pub(super) fn parse_piece(file: &str) -> Option<PieceName> {
    if let Some(index) = file.strip_suffix(".seg.lz4") {
        return Some(PieceName::segment(hex(index, 16..=16)?));
    }
    let mut parts = file.strip_suffix(".wal.lz4")?.split('_');
    let (index, start, end) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() {
        return None;
    }
    let (start, end) = (hex(start, 8..=8)?, hex(end, 8..=8)?);
    (start < end && end <= MAX_OFFSET).then_some(PieceName::of_segment(hex(index, 16..=16)?, start..end))
}

pub(crate) fn history_file(tli: Tli) -> String {
    format!("{:08X}.history", tli.0)
}

pub(crate) fn snapshot_folder(lsn: Lsn) -> String {
    format!("{:016x}", lsn.0)
}

pub(crate) fn parse_snapshot_folder(name: &str) -> Option<Lsn> {
    hex(name, 16..=16).map(Lsn)
}

/// A part of a PostgreSQL snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Part {
    /// A chunk of the data directory, by number (at most 8 decimal digits).
    Chunk(u32),
    /// PostgreSQL's backup manifest.
    Manifest,
}

/// The highest chunk number the keys have digits for.
pub(crate) const MAX_CHUNK: u32 = 99_999_999;

impl Part {
    pub(crate) fn file(self) -> Option<String> {
        match self {
            Part::Chunk(number) if number <= MAX_CHUNK => Some(format!("chunks/{number:08}.lz4")),
            Part::Chunk(_) => None,
            Part::Manifest => Some("backup_manifest.lz4".to_owned()),
        }
    }

    pub(crate) fn parse(file: &str) -> Option<Part> {
        if file == "backup_manifest.lz4" {
            return Some(Part::Manifest);
        }
        let number = file.strip_prefix("chunks/")?.strip_suffix(".lz4")?;
        let digits = number.len() == 8 && number.bytes().all(|byte| byte.is_ascii_digit());
        digits.then(|| number.parse().ok().map(Part::Chunk)).flatten()
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Part::Chunk(number) => write!(f, "chunk {number}"),
            Part::Manifest => f.write_str("the backup manifest"),
        }
    }
}
