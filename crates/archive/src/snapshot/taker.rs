//! [`SnapshotTaker`] and [`Sealed`]: from files in order to a snapshot that exists.

use super::claim::Claim;
use super::error::SnapshotError;
use super::wal::wal_end;
use backup_format::chunk::{Packed, Packer};
use backup_format::{Blob, Chunk, DataPath, MAX_CHUNK_NUMBER, SNAPSHOT_VERSION, Snapshot, WalRange};
use bytes::{Bytes, BytesMut};
use lsn::{Lsn, SegmentSize};
use replica_client::{Generation, Part, Plain, PostgresReplica, SnapshotWriter};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// How a snapshot is cut and sent.
#[derive(Clone, Debug)]
pub struct SnapshotOptions {
    /// About how many plain bytes a chunk has.
    pub chunk_bytes: u64,
    /// How many chunks are compressed and sent at once. Memory: about twice the chunk's size for each.
    pub parallelism: usize,
    /// Who takes it, told apart from everybody else: host, process, something random.
    pub holder: String,
}

impl SnapshotOptions {
    /// Chunks of 16 MiB, four at once.
    pub fn new(holder: impl Into<String>) -> SnapshotOptions {
        SnapshotOptions { chunk_bytes: 16 << 20, parallelism: 4, holder: holder.into() }
    }
}

/// Takes a snapshot's files in order and stores them.
#[derive(Debug)]
pub struct SnapshotTaker {
    claim: Claim,
    writer: SnapshotWriter,
    packer: Packer,
    parallelism: usize,
    next: u32,
    workers: JoinSet<Result<Chunk, SnapshotError>>,
    done: Vec<Chunk>,
    target: Target,
}

#[derive(Clone, Debug)]
struct Target {
    replica: PostgresReplica,
    generation: Generation,
    begin: Lsn,
}

impl SnapshotTaker {
    /// Begins a snapshot of `generation` whose backup begins at `begin`. Parts that an interrupted one left there are deleted.
    ///
    /// # Errors
    /// [`SnapshotError::Busy`] if another backup has the same beginning; the replica's error of kind `Different` if a finished one has.
    pub async fn begin(
        replica: &PostgresReplica,
        generation: Generation,
        begin: Lsn,
        options: &SnapshotOptions,
    ) -> Result<SnapshotTaker, SnapshotError> {
        let claim = Claim::take(replica, generation, begin, &options.holder).await?;
        let writer = match replica.begin_snapshot(generation, begin).await {
            Ok(writer) => writer,
            Err(error) => {
                claim.release().await?;
                return Err(error.into());
            }
        };
        Ok(SnapshotTaker {
            next: claim.first_number(),
            claim,
            writer,
            packer: Packer::new(options.chunk_bytes),
            parallelism: options.parallelism.max(1),
            workers: JoinSet::new(),
            done: Vec::new(),
            target: Target { replica: replica.clone(), generation, begin },
        })
    }

    /// Adds a directory.
    ///
    /// # Errors
    /// As [`SnapshotTaker::data`].
    pub async fn directory(&mut self, path: DataPath, mode: u32) -> Result<(), SnapshotError> {
        self.packer.directory(path, mode);
        self.send_full().await
    }

    /// Begins a file of `size` bytes.
    ///
    /// # Errors
    /// As [`SnapshotTaker::data`].
    pub async fn file(&mut self, path: DataPath, mode: u32, size: u64) -> Result<(), SnapshotError> {
        self.packer.file(path, mode, size);
        self.send_full().await
    }

    /// Adds bytes of the file. Waits while as many chunks are under way as may be.
    ///
    /// # Errors
    /// A chunk could not be stored. The snapshot is lost; [`SnapshotTaker::abandon`] it.
    pub async fn data(&mut self, bytes: Bytes) -> Result<(), SnapshotError> {
        self.packer.data(bytes);
        self.send_full().await
    }

    async fn send_full(&mut self) -> Result<(), SnapshotError> {
        while let Some(packed) = self.packer.poll() {
            self.claim.renew().await?;
            self.send(packed).await?;
        }
        Ok(())
    }

    async fn send(&mut self, packed: Packed) -> Result<(), SnapshotError> {
        while self.workers.len() >= self.parallelism {
            self.join_one().await?;
        }
        let number = self.next;
        if number > MAX_CHUNK_NUMBER {
            return Err(SnapshotError::TooManyChunks);
        }
        self.next += 1;
        let writer = self.writer.clone();
        self.workers.spawn(async move { store(&writer, number, packed).await });
        Ok(())
    }

    async fn join_one(&mut self) -> Result<(), SnapshotError> {
        if let Some(outcome) = self.workers.join_next().await {
            self.done.push(outcome.map_err(|_| SnapshotError::Worker)??);
        }
        Ok(())
    }

    /// Stores what is left, and the manifest. Nothing counts yet.
    ///
    /// # Errors
    /// Something could not be stored.
    pub async fn seal(mut self, manifest: Bytes) -> Result<Sealed, SnapshotError> {
        let packer = std::mem::replace(&mut self.packer, Packer::new(1));
        for packed in packer.finish() {
            self.send(packed).await?;
        }
        while !self.workers.is_empty() {
            self.join_one().await?;
        }
        self.done.sort_by_key(|chunk| chunk.number);
        // The manifest has one name for all; only the holder of the claim writes it.
        self.claim.check().await?;
        let Plain { length, crc32c } = self.writer.put_part_bytes(Part::Manifest, manifest).await?;
        Ok(Sealed {
            claim: self.claim,
            writer: self.writer,
            target: self.target,
            chunks: self.done,
            manifest: Blob { length, crc32c },
        })
    }

    /// Throws away what was stored so far.
    ///
    /// # Errors
    /// Parts may be left; retention sweeps them.
    pub async fn abandon(mut self) -> Result<(), SnapshotError> {
        self.workers.shutdown().await;
        abandon(self.claim, self.writer).await
    }
}

/// Stores one chunk and compares what was stored with what was packed.
async fn store(writer: &SnapshotWriter, number: u32, packed: Packed) -> Result<Chunk, SnapshotError> {
    // One run of bytes for the compressor; the slices, and with them the buffers they were received in, go as it grows.
    let mut plain = BytesMut::with_capacity(usize::try_from(packed.length).unwrap_or(0));
    for slice in packed.bytes {
        plain.extend_from_slice(&slice);
    }
    let stored = writer.put_part_bytes(Part::Chunk(number), plain.freeze()).await?;
    if (stored.length, stored.crc32c) != (packed.length, packed.crc32c) {
        return Err(SnapshotError::Stored { number });
    }
    Ok(Chunk { number, length: stored.length, crc32c: stored.crc32c })
}

/// Only the holder of the claim throws parts away: they might be another's by now.
async fn abandon(claim: Claim, writer: SnapshotWriter) -> Result<(), SnapshotError> {
    claim.check().await?;
    writer.abandon().await?;
    claim.release().await
}

/// A snapshot whose parts are all stored, and which does not exist yet.
#[derive(Debug)]
pub struct Sealed {
    claim: Claim,
    writer: SnapshotWriter,
    target: Target,
    chunks: Vec<Chunk>,
    manifest: Blob,
}

impl Sealed {
    /// Waits until the WAL of `ranges` is in the replica, at most `limit`; says through `progress` how far it is while it waits. Who
    /// took the backup must keep that WAL from being removed until this returns.
    ///
    /// # Errors
    /// [`SnapshotError::WalMissing`] after `limit`.
    pub async fn await_wal(
        &mut self,
        ranges: &[WalRange],
        segment_size: SegmentSize,
        limit: Duration,
        mut progress: impl FnMut(Lsn),
    ) -> Result<(), SnapshotError> {
        let needed = ranges.last().map_or(Lsn::INVALID, |range| range.end);
        let started = Instant::now();
        let mut pause = Duration::from_millis(250);
        loop {
            let reached = wal_end(&self.target.replica, self.target.generation, ranges, segment_size).await?;
            if reached >= needed {
                return Ok(());
            }
            let waited = started.elapsed();
            if waited >= limit {
                return Err(SnapshotError::WalMissing { needed, reached, waited });
            }
            progress(reached);
            self.claim.renew().await?;
            tokio::time::sleep(pause.min(limit - waited)).await;
            // A listing per look: often at first, because archiving takes a second or so, then seldom.
            pause = (pause * 2).min(Duration::from_secs(10));
        }
    }

    /// Makes the snapshot exist. `snapshot` says everything but what is known here: version, chunks, manifest.
    ///
    /// # Errors
    /// It does not exist, unless the error is the replica's and the answer to the very last request was lost.
    pub async fn publish(self, snapshot: Snapshot) -> Result<Snapshot, SnapshotError> {
        let snapshot = Snapshot { version: SNAPSHOT_VERSION, chunks: self.chunks, manifest: self.manifest, ..snapshot };
        snapshot.check()?;
        assert_eq!(snapshot.begin.lsn, self.target.begin, "a snapshot is published where it was begun");
        let Target { replica, generation, begin } = &self.target;
        let there = replica.snapshot_parts(*generation, *begin).await?;
        let there: BTreeSet<u32> = there
            .iter()
            .filter_map(|(part, _)| match part {
                Part::Chunk(number) => Some(*number),
                Part::Manifest => None,
            })
            .collect();
        let missing = snapshot.chunks.iter().filter(|chunk| !there.contains(&chunk.number)).count();
        if missing > 0 {
            return Err(SnapshotError::PartsGone { missing });
        }
        self.claim.check().await?;
        self.writer.finish(&snapshot.to_json()).await?;
        // It exists; a claim that cannot be deleted runs out.
        if let Err(error) = self.claim.release().await {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "the claim on the finished snapshot is left to run out"
            );
        }
        Ok(snapshot)
    }

    /// Throws away what was stored.
    ///
    /// # Errors
    /// Parts may be left; retention sweeps them.
    pub async fn abandon(self) -> Result<(), SnapshotError> {
        abandon(self.claim, self.writer).await
    }
}
