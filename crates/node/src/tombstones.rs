//! Tombstones: clusters that were removed from this safekeeper, and must not come back by an old record.
//!
//! ```text
//! <data-dir>/tombstones/<tenant>-<timeline>/control     framed and checksummed like every control file
//! ```
//!
//! The body is u32 version = 1 and u32 generation, little-endian: of the record at the time. Only a record with a higher generation,
//! or a learner's of the same, brings the cluster back: then somebody wants this safekeeper again.

use crate::data_dir::{DataDir, DataDirError};
use lsn::ClusterId;
use std::path::PathBuf;
use std::sync::Arc;
use wal_storage::{ControlFile, PersistJob};

const VERSION: u32 = 1;
const FOLDER: &str = "tombstones";

impl DataDir {
    fn tombstone_dir(&self, cluster: ClusterId) -> PathBuf {
        self.root.join(FOLDER).join(format!("{}-{}", cluster.tenant_hex(), cluster.timeline_hex()))
    }

    /// The generation with which a cluster was removed; `None` if it never was.
    pub(crate) fn tombstone(&self, cluster: ClusterId) -> Result<Option<u32>, DataDirError> {
        let dir = self.tombstone_dir(cluster);
        let control = |error| DataDirError::Control { path: dir.clone(), error };
        let Some(bytes) = ControlFile::load(self.disk.as_ref(), &dir).map_err(control)? else { return Ok(None) };
        let fields = <[u8; 8]>::try_from(bytes.as_slice()).ok().map(|bytes| {
            let (version, generation) = bytes.split_at(4);
            (version == VERSION.to_le_bytes(), generation.try_into().map(u32::from_le_bytes))
        });
        match fields {
            Some((true, Ok(generation))) => Ok(Some(generation)),
            _ => Err(DataDirError::Tombstone(dir)),
        }
    }

    /// Takes a tombstone away: the cluster is here again, with a record that is as new.
    pub(crate) fn remove_tombstone(&self, cluster: ClusterId) -> Result<(), DataDirError> {
        let dir = self.tombstone_dir(cluster);
        let io = |doing, path: PathBuf| move |error| DataDirError::Io { doing, path, error };
        self.disk.remove_dir_all(&dir).map_err(io("remove", dir.clone()))?;
        let parent = self.root.join(FOLDER);
        self.disk.sync_directory(&parent).map_err(io("sync", parent.clone()))
    }

    /// Removes a cluster's files, its tombstone first: a crash in between leaves a cluster that is no member, and is removed again.
    /// Blocking; nothing may use the cluster any more.
    pub(crate) fn remove_cluster(&self, cluster: ClusterId, generation: u32) -> Result<(), DataDirError> {
        let (dir, tombstone) = (self.cluster_dir(cluster), self.tombstone_dir(cluster));
        let io = |doing, path: &PathBuf| {
            let path = path.clone();
            move |error| DataDirError::Io { doing, path, error }
        };
        self.disk.create_dir_all(&tombstone).map_err(io("create", &tombstone))?;
        let body = [VERSION.to_le_bytes(), generation.to_le_bytes()].concat();
        PersistJob::new(Arc::clone(&self.disk), &tombstone, body)
            .run()
            .map_err(|error| DataDirError::Control { path: tombstone.clone(), error })?;
        for parent in [self.root.join(FOLDER), self.root.clone()] {
            self.disk.sync_directory(&parent).map_err(io("sync", &parent))?;
        }
        self.disk.remove_dir_all(&dir).map_err(io("remove", &dir))?;
        if let Some(parent) = dir.parent() {
            self.disk.sync_directory(parent).map_err(io("sync", &dir))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use consensus::{AcceptorState, Membership, ServerInfo};
    use disk::{Disk, SimDisk};
    use lsn::NodeId;

    #[test]
    fn a_removed_cluster_leaves_its_generation_across_a_power_cut() {
        let disk = Arc::new(SimDisk::new());
        let cluster = ClusterId { tenant: [1; 16], timeline: [2; 16] };
        let root = PathBuf::from("/data");
        let dir = DataDir::open(Arc::clone(&disk) as Arc<dyn Disk>, &root, NodeId(1)).unwrap();
        assert_eq!(dir.tombstone(cluster).unwrap(), None);
        dir.create_cluster(&AcceptorState::new(cluster, "c".into(), Membership::none(), ServerInfo::default()))
            .unwrap();
        dir.remove_cluster(cluster, 7).unwrap();
        drop(dir);
        disk.crash(1);
        let dir = DataDir::open(disk, &root, NodeId(1)).unwrap();
        assert_eq!(dir.tombstone(cluster).unwrap(), Some(7));
        assert!(dir.clusters().unwrap().is_empty());
        dir.remove_tombstone(cluster).unwrap();
        assert_eq!(dir.tombstone(cluster).unwrap(), None);
    }
}
