//! The data directory of a safekeeper.
//!
//! ```text
//! <data-dir>/lock                          held while the process lives
//! <data-dir>/control                       which node and which disk this is (framed and checksummed like every control file)
//! <data-dir>/<tenant>/<timeline>/control   one cluster's promise
//! <data-dir>/<tenant>/<timeline>/<segment> its WAL
//! ```
//!
//! A directory gets a random disk id when it is made. That id, not the node's number, is what a membership record counts:
//! an emptied directory is another disk.

use consensus::{AcceptorState, Identity};
use disk::{Disk, LockGuard};
use lsn::{ClusterId, DiskId, NodeId};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use wal_storage::{ControlFile, PersistJob};

const IDENTITY_VERSION: u32 = 1;
/// Bytes of the identity record: u32 version, u64 node id, 16 bytes of disk id, little-endian.
const IDENTITY_LEN: usize = 4 + 8 + 16;

/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// The file system said no.
    #[error("cannot {doing} {path}: {error}")]
    Io {
        /// What was tried.
        doing: &'static str,
        /// With what.
        path: PathBuf,
        /// The system's answer.
        error: io::Error,
    },
    /// Another process uses it.
    #[error("data directory {0} is in use by another safekeeper")]
    InUse(PathBuf),
    /// It was made for another node.
    #[error(
        "data directory {path} belongs to safekeeper {found}, not {wanted}: give --id {found}, or another --data-dir"
    )]
    OtherNode {
        /// The directory.
        path: PathBuf,
        /// Whose it is.
        found: NodeId,
        /// Who asked.
        wanted: NodeId,
    },
    /// A control file cannot be read.
    #[error("control file in {path}: {error}")]
    Control {
        /// The directory it stands in.
        path: PathBuf,
        /// What is wrong.
        error: wal_storage::Error,
    },
    /// A tombstone makes no sense.
    #[error("the tombstone in {0} is not one this version understands")]
    Tombstone(PathBuf),
    /// The identity record makes no sense.
    #[error("the identity record in {0} is not one this version understands")]
    Identity(PathBuf),
}

/// An opened data directory.
#[derive(Debug)]
pub(crate) struct DataDir {
    pub(crate) root: PathBuf,
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) identity: Identity,
    _lock: LockGuard,
}

impl DataDir {
    /// Opens, or makes, the directory of `node`.
    pub(crate) fn open(disk: Arc<dyn Disk>, root: &Path, node: NodeId) -> Result<DataDir, DataDirError> {
        let io = |doing| move |error| DataDirError::Io { doing, path: root.to_owned(), error };
        disk.create_dir_all(root).map_err(io("create"))?;
        let lock = disk.lock_exclusive(&root.join("lock")).map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => DataDirError::InUse(root.to_owned()),
            _ => DataDirError::Io { doing: "lock", path: root.to_owned(), error },
        })?;
        let control = |error| DataDirError::Control { path: root.to_owned(), error };
        let identity = match ControlFile::load(disk.as_ref(), root).map_err(control)? {
            Some(bytes) => decode_identity(&bytes).ok_or_else(|| DataDirError::Identity(root.to_owned()))?,
            None => {
                let identity = Identity { node, disk: DiskId(rand::random()) };
                PersistJob::new(Arc::clone(&disk), root, encode_identity(identity)).run().map_err(control)?;
                identity
            }
        };
        if identity.node != node {
            return Err(DataDirError::OtherNode { path: root.to_owned(), found: identity.node, wanted: node });
        }
        Ok(DataDir { root: root.to_owned(), disk, identity, _lock: lock })
    }

    /// Where a cluster is kept.
    pub(crate) fn cluster_dir(&self, cluster: ClusterId) -> PathBuf {
        self.root.join(cluster.tenant_hex()).join(cluster.timeline_hex())
    }

    /// The clusters that have a directory here.
    pub(crate) fn clusters(&self) -> Result<Vec<ClusterId>, DataDirError> {
        let mut found = Vec::new();
        for tenant in self.hex_directories(&self.root)? {
            for timeline in self.hex_directories(&self.root.join(&tenant))? {
                if let Ok(cluster) = ClusterId::from_hex(&tenant, &timeline) {
                    found.push(cluster);
                }
            }
        }
        found.sort();
        Ok(found)
    }

    fn hex_directories(&self, path: &Path) -> Result<Vec<String>, DataDirError> {
        let entries =
            self.disk.list(path).map_err(|error| DataDirError::Io { doing: "list", path: path.to_owned(), error })?;
        let hex =
            |name: &str| name.len() == 32 && name.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        let names = entries.into_iter().filter(|entry| entry.is_dir).filter_map(|entry| entry.name.into_string().ok());
        Ok(names.filter(|name| hex(name)).collect())
    }

    /// Makes a cluster's directory with its first control file; durable when it returns.
    pub(crate) fn create_cluster(&self, state: &AcceptorState) -> Result<(), DataDirError> {
        let dir = self.cluster_dir(state.cluster);
        let io = |doing| {
            let path = dir.clone();
            move |error| DataDirError::Io { doing, path, error }
        };
        self.disk.create_dir_all(&dir).map_err(io("create"))?;
        PersistJob::new(Arc::clone(&self.disk), &dir, keeper::control::encode(state))
            .run()
            .map_err(|error| DataDirError::Control { path: dir.clone(), error })?;
        for parent in [dir.parent(), Some(self.root.as_path())].into_iter().flatten() {
            self.disk.sync_directory(parent).map_err(io("sync the directory above"))?;
        }
        Ok(())
    }

    /// A cluster's state, `None` if its directory has no control file: a creation that was cut off, which promised nothing.
    pub(crate) fn load_cluster(&self, cluster: ClusterId) -> Result<Option<AcceptorState>, String> {
        let dir = self.cluster_dir(cluster);
        let bytes = ControlFile::load(self.disk.as_ref(), &dir).map_err(|error| error.to_string())?;
        let state =
            bytes.map(|bytes| keeper::control::decode(&bytes)).transpose().map_err(|error| error.to_string())?;
        match state {
            Some(state) if state.cluster != cluster => {
                Err(format!("its control file is that of cluster {}", state.cluster))
            }
            state => Ok(state),
        }
    }
}

fn encode_identity(identity: Identity) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(IDENTITY_LEN);
    bytes.extend_from_slice(&IDENTITY_VERSION.to_le_bytes());
    bytes.extend_from_slice(&identity.node.0.to_le_bytes());
    bytes.extend_from_slice(&identity.disk.0);
    bytes
}

fn decode_identity(bytes: &[u8]) -> Option<Identity> {
    let bytes: &[u8; IDENTITY_LEN] = bytes.try_into().ok()?;
    let (version, rest) = bytes.split_first_chunk::<4>()?;
    let (node, disk) = rest.split_first_chunk::<8>()?;
    let disk = DiskId(disk.try_into().ok()?);
    (u32::from_le_bytes(*version) == IDENTITY_VERSION)
        .then_some(Identity { node: NodeId(u64::from_le_bytes(*node)), disk })
}
