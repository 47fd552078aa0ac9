//! [`OldWal`]: WAL that is no longer on the local disk, read back from the replica.
//!
//! For readers far behind and for safekeepers that were away. One object at a time is fetched whole, checked (its own checksum and length,
//! then pages and records) and handed out in parts; the newest few stay in memory for the next question, at most [`KEPT_BYTES_MAX`] beside
//! the newest. So memory is bounded by the size of objects, not of segments, and a reader costs one request per object.
//!
//! Only committed WAL is archived and commit LSN is final across forks, so the bytes are those of every log whose lineage has the
//! generation. Nothing is listed where a segment was merged, which old ones are.
//!
//! Does not know which WAL is local, nor what a reader may see.

use super::error::WalError;
use super::inspect::inspect;
use super::lineage::Track;
use bytes::Bytes;
use lsn::{Lsn, SystemId};
use replica_client::{Archive, EraName, Error, Generation, PieceName, PostgresReplica};
use std::collections::VecDeque;
use std::ops::Range;
use std::time::{Duration, Instant};
use tokio::sync::Mutex;

/// Most bytes kept for the next question, beside the object that was used last.
const KEPT_BYTES_MAX: usize = 32 << 20;

/// Which log is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OldLog {
    /// Its system.
    pub system_id: SystemId,
    /// Its era.
    pub era: EraName,
    /// Its committed lineage, oldest first.
    pub tracks: Vec<Track>,
}

/// One cluster's WAL in its replica.
#[derive(Debug)]
pub struct OldWal {
    archive: Archive,
    // Held while an object is fetched: readers at one place fetch it once.
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    replica: Option<PostgresReplica>,
    /// The one used last is the last one.
    kept: VecDeque<Object>,
    used: Option<Instant>,
}

/// The checked bytes of an object.
#[derive(Debug)]
struct Object {
    generation: Generation,
    wal: Range<Lsn>,
    bytes: Bytes,
}

impl OldWal {
    /// Reads from this archive; nothing is asked of it yet.
    pub fn new(archive: Archive) -> OldWal {
        OldWal { archive, state: Mutex::default() }
    }

    /// Up to `max` bytes from `from` on, not across the end of an object or of a TLI; `None` if the replica does not have the byte there.
    ///
    /// # Errors
    /// The replica cannot be asked, or what it gave is not that WAL: nothing is said about whether it has the byte.
    pub async fn read(&self, log: &OldLog, from: Lsn, max: usize) -> Result<Option<Bytes>, WalError> {
        let mut state = self.state.lock().await;
        state.used = Some(Instant::now());
        let replica = match state.replica.take() {
            Some(replica) if (replica.era().system_id, &replica.era().name) == (log.system_id, &log.era) => replica,
            _ => match self.archive.open(log.system_id, &log.era).await {
                Ok(replica) => replica,
                Err(Error::NotFound { .. }) => return Ok(None),
                Err(error) => return Err(error.into()),
            },
        };
        let state = &mut *state;
        let replica = state.replica.insert(replica);
        // A TLI's first segment holds its parent's bytes, too: any generation that has the byte will do.
        for track in log.tracks.iter().filter(|track| track.wal.contains(&from)) {
            let has = |object: &Object| object.generation == track.generation && object.wal.contains(&from);
            let object = match state.kept.iter().position(has).and_then(|at| state.kept.remove(at)) {
                Some(object) => Some(object),
                None => fetch(replica, track.generation, from).await?,
            };
            if let Some(object) = object {
                let begin = from.bytes_since(object.wal.start) as usize;
                let end = object.wal.end.min(track.wal.end).bytes_since(object.wal.start) as usize;
                let bytes = object.bytes.slice(begin..end.min(begin.saturating_add(max)));
                state.keep(object);
                return Ok(Some(bytes));
            }
        }
        Ok(None)
    }

    /// Lets go of what nobody has asked for in this time.
    pub fn forget_unused(&self, since: Duration) {
        if let Ok(mut state) = self.state.try_lock()
            && state.used.is_some_and(|used| used.elapsed() > since)
        {
            *state = State::default();
        }
    }
}

impl State {
    fn keep(&mut self, object: Object) {
        let mut others: usize = self.kept.iter().map(|other| other.bytes.len()).sum();
        while others > KEPT_BYTES_MAX
            && let Some(oldest) = self.kept.pop_front()
        {
            others -= oldest.bytes.len();
        }
        self.kept.push_back(object);
    }
}

/// The object with the byte at `from`: the merged segment, else the piece that reaches furthest.
async fn fetch(replica: &PostgresReplica, generation: Generation, from: Lsn) -> Result<Option<Object>, WalError> {
    let size = replica.era().segment_size;
    let number = size.segment_of(from).0;
    let merged = PieceName::segment(number);
    let (name, bytes) = match replica.read_piece(generation, merged).await {
        Ok(bytes) => (merged, bytes),
        Err(Error::NotFound { .. }) => {
            let pieces = replica.pieces(generation, number..=number).await?;
            let offset = size.offset_of(from);
            let with = pieces.iter().map(|piece| piece.name);
            let with = with.filter(|name| name.span(size).is_some_and(|span| span.contains(&offset)));
            let Some(name) = with.max_by_key(|name| name.span(size).map(|span| span.end)) else { return Ok(None) };
            (name, replica.read_piece(generation, name).await?)
        }
        Err(error) => return Err(error.into()),
    };
    metrics::counter!("seawall_archive_read_bytes_total").increment(bytes.len() as u64);
    let (start, system_id) = (name.start, replica.era().system_id);
    let begin = size.start_of(size.segment_of(from)).saturating_add(start);
    let checked = tokio::task::spawn_blocking(move || inspect(begin, &bytes, size, system_id).map(|_| bytes));
    let bytes = checked.await.map_err(|_| WalError::Stopped)?;
    let bytes = bytes.map_err(|error| WalError::Object { generation, segment: number, start, error })?;
    Ok(Some(Object { generation, wal: begin..begin.saturating_add(bytes.len() as u64), bytes }))
}

#[cfg(test)]
#[path = "old_test.rs"]
mod tests;
