//! The ports through which the archive sees what it keeps safe.
//!
//! A [`Source`] is a thing with a log: it can be followed from a position ([`Stream`]) and copied whole ([`Snapshot`]). [`Tail`] is
//! the end of a quorum's log: how far it reaches, and the bytes above what an archive has.
//!
//! The traits are static: an implementation names its own types, callers are generic, nothing is boxed per message. What they
//! return is `Send`, so that a caller may move it between threads. Nothing here knows PostgreSQL, SQLite, sockets or a runtime.

#![cfg_attr(doctest, doc = include_str!("../README.md"))]

use bytes::Bytes;
use lsn::Lsn;
use std::future::Future;

/// A run of a log's bytes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Chunk<P> {
    /// Where its first byte stands.
    pub begin: P,
    /// The bytes, never empty; a slice of the buffer they were received in.
    pub bytes: Bytes,
}

/// A log being followed.
pub trait Stream {
    /// A place in the log. Later bytes have greater positions.
    type Position: Copy + Ord + Send;
    /// Why following stopped.
    type Error: std::error::Error + Send + Sync + 'static;

    /// The next bytes, contiguous with the ones before; `None` once the source ended the stream in order. Waits while there are none.
    ///
    /// Cancel-safe: a dropped call loses nothing.
    fn next_chunk(&mut self) -> impl Future<Output = Result<Option<Chunk<Self::Position>>, Self::Error>> + Send;
}

/// A copy of the whole source, being taken.
///
/// The copy is usable with the log from [`Snapshot::begin`] to its end position, which is known once it is complete.
pub trait Snapshot {
    /// A place in the log.
    type Position: Copy + Ord + Send;
    /// Why taking it failed.
    type Error: std::error::Error + Send + Sync + 'static;

    /// The log is needed from here on.
    fn begin(&self) -> Self::Position;

    /// The next bytes of the copy; `None` after the last. Cancel-safe.
    fn next_bytes(&mut self) -> impl Future<Output = Result<Option<Bytes>, Self::Error>> + Send;

    /// Ends a copy whose bytes have all been taken and says up to where the log is needed with it. An error means that the copy is
    /// worth nothing, whatever its bytes look like.
    fn finish(self) -> impl Future<Output = Result<Self::Position, Self::Error>> + Send;
}

/// A thing that can be archived.
pub trait Source {
    /// A place in its log.
    type Position: Copy + Ord + Send;
    /// Why it cannot be used.
    type Error: std::error::Error + Send + Sync + 'static;
    /// Its log being followed.
    type Stream: Stream<Position = Self::Position>;
    /// A copy being taken.
    type Snapshot: Snapshot<Position = Self::Position>;

    /// The durable end of its log at this moment.
    fn position(&mut self) -> impl Future<Output = Result<Self::Position, Self::Error>> + Send;

    /// Follows the log from `from`, which must not lie above [`Source::position`].
    fn stream(&mut self, from: Self::Position) -> impl Future<Output = Result<Self::Stream, Self::Error>> + Send;

    /// Begins to take a copy.
    fn snapshot(&mut self) -> impl Future<Output = Result<Self::Snapshot, Self::Error>> + Send;
}

/// The end of a quorum's log, for a restore that must not stop where the archive does.
pub trait Tail {
    /// Why it cannot be read.
    type Error: std::error::Error + Send + Sync + 'static;
    /// The bytes, in order.
    type Stream: Stream<Position = Lsn>;

    /// The highest flush LSN that a majority reports. It has been, or may yet be, acknowledged to a client.
    fn end(&mut self) -> impl Future<Output = Result<Lsn, Self::Error>> + Send;

    /// Waits until everything below `end` is committed, then gives the bytes from `from` to `end`.
    fn read(&mut self, from: Lsn, end: Lsn) -> impl Future<Output = Result<Self::Stream, Self::Error>> + Send;
}
