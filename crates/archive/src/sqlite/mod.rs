//! One replica of a SQLite database over time: Litestream's four loops (monitor, snapshotter, retainer, validator) without their holes.
//!
//! A [`Replicator`] reads a [`source::Source`] whose log is a sequence of WAL lives, and writes pieces and snapshots in Litestream 0.3's
//! layout. Each destination has its own; they know nothing of each other.
//!
//! Invariants:
//! * a piece continues the one before: `offset + length` is the next one's offset, and a life's first begins at 0;
//! * every piece was checked, frame by frame, when it left;
//! * a snapshot is a state that was committed. It becomes visible only when every piece up to its position is there, or none is and
//!   the first will bring them all: pieces cut short of it would take pages back;
//! * nothing that is stored is replaced, and what the window needs is not deleted;
//! * while nothing is written to the database nothing is asked of the store.
//!
//! Nothing here knows how a live SQLite file is read.

mod error;
mod options;
mod piece;
mod reader;
mod replicate;
mod retention;
mod status;
mod timer;
mod validate;

pub use error::{Error, ShadowError};
pub use options::{Limits, Options};
pub use replicate::{Replicator, Setup};
pub use status::Status;
