//! Which key a thing has. Pure text: no store, no bytes.
//!
//! A key is never guessed at: a name that does not parse exactly is not ours and is skipped. Formatting and parsing are each
//! other's inverse.

pub(crate) mod postgres;
pub(crate) mod sqlite;

use crate::names::{Generation, PieceName};

/// Whose keys a replica uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// Litestream 0.3's.
    Sqlite,
    /// PostgreSQL's: pieces of segments with both ends in the key, snapshots of many parts.
    Postgres,
}

/// The folder of all generations.
pub(crate) const GENERATIONS: &str = "generations";

impl Layout {
    /// Everything of a generation.
    pub(crate) fn generation(self, generation: Generation) -> String {
        format!("{GENERATIONS}/{generation}")
    }

    /// All pieces of a generation.
    pub(crate) fn wal(self, generation: Generation) -> String {
        format!("{GENERATIONS}/{generation}/wal")
    }

    /// All snapshots of a generation.
    pub(crate) fn snapshots(self, generation: Generation) -> String {
        format!("{GENERATIONS}/{generation}/snapshots")
    }

    /// A piece's last part of the key; `None` if this layout has no name for it.
    pub fn piece_file(self, name: PieceName) -> Option<String> {
        match self {
            Layout::Sqlite => sqlite::piece_file(name),
            Layout::Postgres => postgres::piece_file(name),
        }
    }

    /// A piece's key.
    pub(crate) fn piece(self, generation: Generation, name: PieceName) -> Option<String> {
        Some(format!("{}/{}", self.wal(generation), self.piece_file(name)?))
    }

    /// Reads the last part of a piece's key; `None` for whatever else may lie there. What is read is written the same.
    pub fn parse_piece(self, file: &str) -> Option<PieceName> {
        match self {
            Layout::Sqlite => sqlite::parse_piece(file),
            Layout::Postgres => postgres::parse_piece(file),
        }
    }

    /// A name that sorts, as text, right before all pieces of this index, to begin a listing behind.
    pub(crate) fn before_index(self, index: u64) -> String {
        match self {
            Layout::Sqlite => format!("{index:08x}"),
            Layout::Postgres => format!("{index:016x}"),
        }
    }

    /// Where a piece's or snapshot's side object with its facts is.
    pub(crate) fn facts(self, key: &str) -> String {
        format!("seawall/facts/{key}.json")
    }

    /// The folder of a kind of control objects.
    pub(crate) fn control(self, folder: &str) -> String {
        match self {
            Layout::Sqlite => format!("seawall/{folder}"),
            Layout::Postgres => folder.to_owned(),
        }
    }
}

#[cfg(test)]
#[path = "layout_test.rs"]
mod tests;
