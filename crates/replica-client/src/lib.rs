//! A replica in object storage: where it is, what things in it are called, how they are encoded, and storing, listing,
//! reading and deleting them.
//!
//! From below: [`Destination`] names a place, [`Store`] keeps objects there, [`Codec`] turns plain bytes into objects and
//! back, [`Replica`] speaks of generations, snapshots and pieces of WAL in one of two layouts (Litestream 0.3's for SQLite,
//! our own for PostgreSQL), and [`Archive`] finds the replicas of PostgreSQL clusters. [`cover`] plans how pieces make a
//! segment, and `download` delivers the WAL of many segments in order.
//!
//! Usable alone, from any tokio runtime with time enabled. It knows neither PostgreSQL nor SQLite, and decides nothing about
//! what is kept.

mod archive;
mod codec;
mod control;
pub mod cover;
mod destination;
pub mod download;
mod error;
mod facts;
mod layout;
mod lease;
mod lives;
mod metrics;
mod names;
mod replica;
mod retry;
mod seal;
mod snapshot;
mod store;

pub use archive::{Archive, Era, EraName, EraNameError, Parent, PostgresReplica};
pub use codec::{BlockingReader, Codec, CodecError, Encoder, PlainReader};
pub use control::{Control, ControlInfo, MAX_CONTROL};
pub use destination::{Destination, DestinationError, Stores};
pub use error::{Error, Kind};
pub use facts::{CommitTimes, Facts, Plain};
pub use layout::Layout;
pub use layout::postgres::Part;
pub use lease::Lease;
pub use names::{Generation, ParseGenerationError, Piece, PieceEnd, PieceName, SnapshotInfo};
pub use replica::{MAX_PIECE, Replica, Resume, SnapshotWritten, Written};
pub use retry::RetryPolicy;
pub use snapshot::{MAX_SNAPSHOT_JSON, SnapshotWriter};
pub use store::{Conditions, Created, ObjectInfo, Operation, Store, StoreKind};
