//! The WAL that a server sends with a backup, into an archive that nobody else fills.
//!
//! Segments come in order, so one is whole as soon as the next begins; of the last one only what lies below the backup's end is WAL for
//! sure. Stored as pieces like all WAL: who archives the same segments later finds the same bytes.

use super::TakeError;
use backup_format::DataPath;
use bytes::{Bytes, BytesMut};
use lsn::{Lsn, SegmentNumber, SegmentSize, Tli};
use replica_client::{CommitTimes, Generation, PieceName, PostgresReplica};

/// Takes the segments below `pg_wal` of one backup.
#[derive(Debug)]
pub(super) struct IncludedWal<'a> {
    replica: &'a PostgresReplica,
    generation: Generation,
    segment_size: SegmentSize,
    /// The newest segment, not yet stored.
    current: Option<(Tli, SegmentNumber, BytesMut)>,
}

impl<'a> IncludedWal<'a> {
    pub(super) fn new(
        replica: &'a PostgresReplica,
        generation: Generation,
        segment_size: SegmentSize,
    ) -> IncludedWal<'a> {
        IncludedWal { replica, generation, segment_size, current: None }
    }

    /// A file of the backup begins. `true`: it is a segment, and its bytes are for [`IncludedWal::data`]. Other files of `pg_wal` are
    /// files like all.
    pub(super) async fn file(&mut self, path: &DataPath) -> Result<bool, TakeError> {
        let name = path.as_bytes().strip_prefix(b"pg_wal/").and_then(|name| std::str::from_utf8(name).ok());
        let Some((tli, number)) = name.and_then(|name| self.segment_size.parse_file_name(name)) else {
            return Ok(false);
        };
        if let Some((before, whole, bytes)) = self.current.take() {
            self.put(before, whole, bytes.freeze()).await?;
        }
        self.current = Some((tli, number, BytesMut::new()));
        Ok(true)
    }

    /// Bytes of the segment.
    pub(super) fn data(&mut self, bytes: &[u8]) {
        if let Some((_, _, segment)) = &mut self.current {
            // A segment of another size than the server said is cut, and found too short when its WAL is looked for.
            let room = (self.segment_size.bytes() as usize).saturating_sub(segment.len());
            segment.extend_from_slice(&bytes[..bytes.len().min(room)]);
        }
    }

    /// Stores the last segment, up to the backup's end.
    pub(super) async fn finish(mut self, end: Lsn) -> Result<(), TakeError> {
        let Some((tli, number, bytes)) = self.current.take() else { return Ok(()) };
        let known = end.bytes_since(self.segment_size.start_of(number)).min(bytes.len() as u64) as usize;
        self.put(tli, number, bytes.freeze().slice(..known)).await
    }

    async fn put(&self, tli: Tli, number: SegmentNumber, bytes: Bytes) -> Result<(), TakeError> {
        if tli != self.generation.tli() {
            return Err(TakeError::TliChanged(tli));
        }
        if bytes.is_empty() {
            return Ok(());
        }
        let name = match bytes.len() as u64 {
            whole if whole == self.segment_size.bytes() => PieceName::segment(number.0),
            part => PieceName::of_segment(number.0, 0..part),
        };
        self.replica.put_piece(self.generation, name, bytes, CommitTimes::default()).await?;
        Ok(())
    }
}
