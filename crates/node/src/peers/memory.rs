//! [`Remembered`]: what each disk has promised, kept on disk.
//!
//! ```text
//! <data-dir>/peers/<hex digit>/control     framed and checksummed like every control file
//! ```
//!
//! Sixteen files by the first digit of the cluster's `timeline_id`, so that one stays small with thousands of clusters. The body,
//! little-endian: u32 version = 1, u32 number of entries, then per entry 16 + 16 bytes of cluster, u64 node, 16 bytes of disk, u64
//! boot id, and twice (in its last known run, and before) u64 term, u64 log term, u64 flush LSN.
//!
//! Written off the commit path, at most every [`SAVE_EVERY`], and only if something was learned. A power cut loses what was heard
//! since: the sign it serves then misses a disk that went back by no more than that. Nothing else depends on it, so a file that
//! cannot be read is begun anew.

use crate::data_dir::DataDir;
use crate::jobs::JobThread;
use crate::registry::Registry;
use consensus::Identity;
use disk::Disk;
use lsn::{ClusterId, DiskId, Lsn, NodeId, Term};
use quorum_proto::{BootId, Memory, Promise};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use wal_storage::{ControlFile, PersistJob};

const VERSION: u32 = 1;
const ENTRY_BYTES: usize = 32 + 8 + 16 + 8 + 6 * 8;
const SHARDS: u8 = 16;
/// Entries that fit into one file.
const SHARD_ENTRIES_MAX: usize = (ControlFile::MAX_BODY - 8) / ENTRY_BYTES;
/// How often what was learned is written down.
const SAVE_EVERY: Duration = Duration::from_secs(10);

/// What is remembered, by cluster and disk.
#[derive(Debug, Default)]
pub(crate) struct Remembered {
    clusters: BTreeMap<ClusterId, BTreeMap<(NodeId, DiskId), Memory>>,
    /// Files that lag behind.
    dirty: BTreeSet<u8>,
}

impl Remembered {
    /// Everything remembered of a cluster.
    pub(crate) fn of(&self, cluster: ClusterId) -> Vec<Memory> {
        self.clusters.get(&cluster).into_iter().flat_map(BTreeMap::values).copied().collect()
    }

    /// A disk said what it has promised.
    pub(crate) fn observe(&mut self, cluster: ClusterId, who: Identity, boot: BootId, promise: Promise) {
        let nothing = Promise::default();
        let fresh = Memory { node: who.node, disk: who.disk, boot, latest: nothing, earlier: nothing };
        let memory = self.clusters.entry(cluster).or_default().entry((who.node, who.disk)).or_insert(fresh);
        if memory.observe(boot, promise) {
            self.dirty.insert(shard_of(cluster));
        }
    }

    /// Forgets clusters that are not here any more.
    fn retain(&mut self, is_here: impl Fn(ClusterId) -> bool) {
        let dirty = &mut self.dirty;
        self.clusters.retain(|cluster, _| {
            let keep = is_here(*cluster);
            if !keep {
                dirty.insert(shard_of(*cluster));
            }
            keep
        });
    }

    fn encode(&self, shard: u8) -> Vec<u8> {
        let clusters = self.clusters.iter().filter(|(cluster, _)| shard_of(**cluster) == shard);
        let entries: Vec<_> = clusters.flat_map(|(id, disks)| disks.values().map(move |memory| (id, memory))).collect();
        let entries = entries.get(..SHARD_ENTRIES_MAX).unwrap_or(&entries);
        let mut out = Vec::with_capacity(8 + entries.len() * ENTRY_BYTES);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&(entries.len() as u32).to_le_bytes());
        for (cluster, memory) in entries {
            out.extend_from_slice(&cluster.tenant);
            out.extend_from_slice(&cluster.timeline);
            out.extend_from_slice(&memory.node.0.to_le_bytes());
            out.extend_from_slice(&memory.disk.0);
            out.extend_from_slice(&memory.boot.0.to_le_bytes());
            for promise in [memory.latest, memory.earlier] {
                for number in [promise.term.0, promise.log_term.0, promise.flush.0] {
                    out.extend_from_slice(&number.to_le_bytes());
                }
            }
        }
        out
    }

    /// Adds what these bytes say; `None` if they say nothing sensible.
    fn decode(&mut self, bytes: &[u8]) -> Option<()> {
        let mut input = Input(bytes);
        let (version, count) = (u32::from_le_bytes(input.take()?), u32::from_le_bytes(input.take()?));
        if version != VERSION || input.0.len() != (count as usize).checked_mul(ENTRY_BYTES)? {
            return None;
        }
        for _ in 0..count {
            let cluster = ClusterId { tenant: input.take()?, timeline: input.take()? };
            let (node, disk) = (NodeId(input.number()?), DiskId(input.take()?));
            let boot = BootId(input.number()?);
            let (latest, earlier) = (input.promise()?, input.promise()?);
            let memory = Memory { node, disk, boot, latest, earlier };
            self.clusters.entry(cluster).or_default().insert((node, disk), memory);
        }
        Some(())
    }
}

fn shard_of(cluster: ClusterId) -> u8 {
    cluster.timeline[0] >> 4
}

/// What is left to read.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }

    fn number(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }

    fn promise(&mut self) -> Option<Promise> {
        Some(Promise { term: Term(self.number()?), log_term: Term(self.number()?), flush: Lsn(self.number()?) })
    }
}

/// Where the memory is kept, and the thread that writes it.
#[derive(Clone, Debug)]
pub(crate) struct MemoryStore {
    disk: Arc<dyn Disk>,
    root: PathBuf,
    thread: JobThread,
}

impl MemoryStore {
    pub(crate) fn new(data_dir: &DataDir, thread: JobThread) -> MemoryStore {
        MemoryStore { disk: Arc::clone(&data_dir.disk), root: data_dir.root.join("peers"), thread }
    }

    fn shard(&self, shard: u8) -> PathBuf {
        self.root.join(format!("{shard:x}"))
    }

    /// What was kept. Blocking.
    pub(crate) fn load(&self) -> Remembered {
        let mut remembered = Remembered::default();
        for shard in 0..SHARDS {
            let dir = self.shard(shard);
            match ControlFile::load(self.disk.as_ref(), &dir) {
                Ok(None) => {}
                Ok(Some(bytes)) if remembered.decode(&bytes).is_some() => {}
                Ok(Some(_)) => {
                    tracing::warn!(dir = %dir.display(), "the memory of peers cannot be understood and is begun anew")
                }
                Err(error) => tracing::warn!("the memory of peers is begun anew: {error}"),
            }
        }
        remembered
    }

    /// Writes one file; its result comes back over `done`.
    fn save(&self, shard: u8, bytes: Vec<u8>, done: mpsc::UnboundedSender<(u8, Result<(), String>)>) {
        let (disk, dir) = (Arc::clone(&self.disk), self.shard(shard));
        let work = move || {
            let made = disk.create_dir_all(&dir).map_err(|error| format!("cannot create {}: {error}", dir.display()));
            let saved = made.and_then(|()| PersistJob::new(disk, &dir, bytes).run().map_err(|error| error.to_string()));
            (shard, saved)
        };
        self.thread.run(work, done);
    }
}

/// Writes down what was learned, for ever.
pub(super) async fn keep(registry: Rc<Registry>, store: MemoryStore) {
    loop {
        tokio::time::sleep(SAVE_EVERY).await;
        save(&registry, &store).await;
    }
}

/// Writes down what was learned and is not written yet.
pub(crate) async fn save(registry: &Registry, store: &MemoryStore) {
    let dirty: Vec<(u8, Vec<u8>)> = {
        let mut remembered = registry.peers().remembered.borrow_mut();
        remembered.retain(|cluster| registry.get(cluster).is_some());
        let dirty = std::mem::take(&mut remembered.dirty);
        dirty.into_iter().map(|shard| (shard, remembered.encode(shard))).collect()
    };
    let (done, mut saved) = mpsc::unbounded_channel();
    for (shard, bytes) in dirty {
        store.save(shard, bytes, done.clone());
    }
    drop(done);
    while let Some((shard, result)) = saved.recv().await {
        if let Err(problem) = result {
            tracing::warn!("what peers promised cannot be written down and is tried again: {problem}");
            registry.peers().remembered.borrow_mut().dirty.insert(shard);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster(first: u8) -> ClusterId {
        ClusterId { tenant: [1; 16], timeline: [first; 16] }
    }

    fn promise(term: u64) -> Promise {
        Promise { term: Term(term), log_term: Term(term), flush: Lsn(term * 10) }
    }

    fn who(node: u64) -> Identity {
        Identity { node: NodeId(node), disk: DiskId([node as u8; 16]) }
    }

    fn sample() -> Remembered {
        let mut remembered = Remembered::default();
        for node in 1..=3 {
            remembered.observe(cluster(0x10), who(node), BootId(1), promise(node));
            remembered.observe(cluster(0x10), who(node), BootId(2), promise(node + 1));
            remembered.observe(cluster(0xf0), who(node), BootId(1), promise(9));
        }
        remembered
    }

    #[test]
    fn what_is_written_is_read() {
        let remembered = sample();
        assert_eq!(remembered.dirty.iter().copied().collect::<Vec<_>>(), [1, 15]);
        let mut read = Remembered::default();
        for shard in 0..SHARDS {
            read.decode(&remembered.encode(shard)).unwrap();
        }
        assert_eq!(read.clusters, remembered.clusters);
        let of = read.of(cluster(0x10));
        assert_eq!((of[0].latest, of[0].earlier), (promise(2), promise(1)));
    }

    #[test]
    fn nothing_new_is_not_written_again() {
        let mut remembered = sample();
        remembered.dirty.clear();
        remembered.observe(cluster(0xf0), who(1), BootId(1), promise(9));
        assert!(remembered.dirty.is_empty());
        remembered.retain(|id| id == cluster(0xf0));
        assert_eq!((remembered.clusters.len(), remembered.dirty.len()), (1, 1));
    }

    #[test]
    fn other_bytes_are_refused() {
        let bytes = sample().encode(1);
        for length in 0..bytes.len() {
            assert!(Remembered::default().decode(&bytes[..length]).is_none(), "{length}");
        }
        let mut other = bytes;
        other[0] = 2;
        assert!(Remembered::default().decode(&other).is_none());
    }
}
