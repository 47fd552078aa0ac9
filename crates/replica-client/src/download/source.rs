//! [`WalSource`]: what a downloader needs of a replica, whatever its layout.

use std::future::Future;
use std::ops::RangeInclusive;

use bytes::Bytes;
use lsn::SegmentSize;

use crate::codec::PlainReader;
use crate::error::Error;
use crate::names::{Generation, Piece};
use crate::replica::Replica;

/// A replica as a downloader sees it. Tests put something in between.
pub trait WalSource: Send + Sync + 'static {
    /// Plain bytes of one object.
    type Reader: PlainChunks;

    /// The pieces of a generation with these indexes, ascending by name.
    fn pieces(
        &self,
        generation: Generation,
        indexes: RangeInclusive<u64>,
    ) -> impl Future<Output = Result<Vec<Piece>, Error>> + Send;

    /// Begins to read a piece.
    fn open(&self, piece: &Piece) -> Result<Self::Reader, Error>;

    /// How long every file is; `None` if a file is as long as its pieces, which follow each other without overlap.
    fn segment_size(&self) -> Option<SegmentSize>;
}

/// Plain bytes that come in chunks.
pub trait PlainChunks: Send + 'static {
    /// The next chunk, never empty; `None` only after everything was verified.
    fn next_chunk(&mut self) -> impl Future<Output = Result<Option<Bytes>, Error>> + Send;
}

impl WalSource for Replica {
    type Reader = PlainReader;

    async fn pieces(&self, generation: Generation, indexes: RangeInclusive<u64>) -> Result<Vec<Piece>, Error> {
        Replica::pieces(self, generation, indexes).await
    }

    fn open(&self, piece: &Piece) -> Result<PlainReader, Error> {
        self.open_piece(piece.generation, piece.name)
    }

    fn segment_size(&self) -> Option<SegmentSize> {
        Replica::segment_size(self)
    }
}

impl PlainChunks for PlainReader {
    async fn next_chunk(&mut self) -> Result<Option<Bytes>, Error> {
        self.next().await
    }
}
