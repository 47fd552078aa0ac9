//! A place in the log of a SQLite database that is being archived.

use std::fmt;

/// `(generation, index, offset)`, in this order. Within a generation a later place is a greater one; between generations the order
/// means nothing.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Position {
    /// An unbroken lineage: 8 random bytes, printed as 16 hex digits.
    pub generation: u64,
    /// Which life of the WAL, counted from 0 in the generation.
    pub index: u32,
    /// Bytes of that life, its header included; 0, 32, or behind a frame that ends a transaction.
    pub offset: u64,
}

impl Position {
    /// The highest index; reaching it begins a new generation (Litestream's limit).
    pub const INDEX_MAX: u32 = 0x7fff_ffff;

    /// The beginning of this life.
    #[must_use]
    pub fn life(self) -> Position {
        Position { offset: 0, ..self }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}/{:08x}:{}", self.generation, self.index, self.offset)
    }
}
