//! The data directory of `up`: who holds it, what is kept in it from one start to the next, and `up.json`.
//!
//! | name | holds |
//! |---|---|
//! | `lock` | locked while an `up` runs; the system frees it when the process is gone, however it went |
//! | `kept.json` | ports and the place of the throw-away server, chosen once |
//! | `up.json` | how to reach everything; there while everything runs |
//! | `safekeeper-N`, `postgres` | data |
//! | `logs` | what the parts say |
//!
//! Files appear whole or not at all: written beside, then renamed.

use rand::Rng;
use rustix::fs::{FlockOperation, flock};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::fs::{self, DirBuilder, File};
use std::io;
use std::net::TcpListener;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// How many safekeepers there are.
pub(crate) const SAFEKEEPERS: usize = 3;
/// Ports are picked from here: below those that systems give to outgoing connections.
const PORTS: std::ops::Range<u16> = 20_000..32_000;
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Why the data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// Another `up` uses it.
    #[error("another seawall up is running in {}; stop it, or choose another --data-dir", .0.display())]
    InUse(PathBuf),
    /// The system refused something.
    #[error("cannot {what} {}: {source}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// No port is free.
    #[error("no free port was found on 127.0.0.1 from {} to {}", PORTS.start, PORTS.end)]
    NoPort,
}

/// What is chosen once.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Kept {
    pub(crate) postgres_port: u16,
    /// Where the throw-away server's data is, once it is made.
    pub(crate) postgres_dir: Option<PathBuf>,
    pub(crate) proposer_http: u16,
    pub(crate) safekeepers: Vec<KeptSafekeeper>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct KeptSafekeeper {
    pub(crate) pg: u16,
    pub(crate) http: u16,
}

/// How to reach what runs: the content of `up.json`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct UpFile {
    /// How to connect to PostgreSQL, without a password.
    pub primary: String,
    /// The safekeepers.
    pub safekeepers: Vec<UpSafekeeper>,
    /// The proposer's process; `None` while it is being started again.
    pub proposer_pid: Option<u32>,
    /// The throw-away server's process; `None` without one, or while it is being started again.
    pub postgres_pid: Option<u32>,
    /// `host:port` of the proposer's status page.
    pub http: String,
    /// The archive's URL; `None` without one.
    pub archive: Option<String>,
}

/// A safekeeper in `up.json`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct UpSafekeeper {
    /// Its number.
    pub id: u64,
    /// `host:port` of PostgreSQL's protocol.
    pub pg: String,
    /// `host:port` of its status page.
    pub http: String,
    /// Its process; `None` while it is being started again.
    pub pid: Option<u32>,
}

impl UpFile {
    /// Reads `up.json` of a data directory; `None` if there is none.
    pub fn read(data_dir: &Path) -> io::Result<Option<UpFile>> {
        read_json(&data_dir.join("up.json"))
    }
}

/// The data directory, held.
#[derive(Debug)]
pub(crate) struct Folder {
    root: PathBuf,
    _lock: File,
}

impl Folder {
    /// Makes it if it is missing, and holds it. What an earlier run said about itself is removed.
    pub(crate) fn open(root: &Path) -> Result<Folder, FolderError> {
        let root = std::path::absolute(root).map_err(io_error("name", root))?;
        // Others may pass through, so that PostgreSQL's user reaches its folder, but not look around.
        make(&root, 0o711)?;
        let path = root.join("lock");
        let lock = File::create(&path).map_err(io_error("open", &path))?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(FolderError::InUse(root)),
            Err(error) => return Err(io_error("lock", &path)(error.into())),
        }
        let folder = Folder { root, _lock: lock };
        folder.remove("up.json")?;
        make(&folder.path("logs"), 0o700)?;
        for id in 1..=SAFEKEEPERS {
            make(&folder.safekeeper(id), 0o700)?;
        }
        Ok(folder)
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    pub(crate) fn safekeeper(&self, id: usize) -> PathBuf {
        self.path(&format!("safekeeper-{id}"))
    }

    pub(crate) fn log(&self, part: &str) -> PathBuf {
        self.path("logs").join(format!("{part}.log"))
    }

    /// What was chosen at the first start; chosen now if this is the first. A file that cannot be read counts as none: everything in it
    /// can be chosen anew.
    pub(crate) fn kept(&self) -> Result<Kept, FolderError> {
        match self.read::<Kept>("kept.json") {
            Ok(Some(kept)) if kept.safekeepers.len() == SAFEKEEPERS => return Ok(kept),
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, "kept.json cannot be read; ports are chosen anew"),
        }
        let ports = free_ports(2 + 2 * SAFEKEEPERS)?;
        let kept = Kept {
            postgres_port: ports[0],
            postgres_dir: None,
            proposer_http: ports[1],
            safekeepers: ports[2..].chunks_exact(2).map(|pair| KeptSafekeeper { pg: pair[0], http: pair[1] }).collect(),
        };
        self.write("kept.json", &kept)?;
        Ok(kept)
    }

    pub(crate) fn read<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, FolderError> {
        let path = self.path(name);
        read_json(&path).map_err(io_error("read", &path))
    }

    pub(crate) fn write(&self, name: &str, value: &impl Serialize) -> Result<(), FolderError> {
        let (path, temporary) = (self.path(name), self.path(&format!("{name}.tmp")));
        let text = serde_json::to_string_pretty(value).map_err(io::Error::other).map_err(io_error("write", &path))?;
        fs::write(&temporary, text + "\n")
            .and_then(|()| fs::rename(&temporary, &path))
            .map_err(io_error("write", &path))
    }

    pub(crate) fn remove(&self, name: &str) -> Result<(), FolderError> {
        let path = self.path(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_error("remove", &path)(error)),
            _ => Ok(()),
        }
    }
}

fn io_error(what: &'static str, path: &Path) -> impl Fn(io::Error) -> FolderError {
    let path = path.to_owned();
    move |source| FolderError::Io { what, path: path.clone(), source }
}

fn make(path: &Path, mode: u32) -> Result<(), FolderError> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(io_error("make", parent))?;
    }
    match DirBuilder::new().mode(mode).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists || !path.is_dir() => {
            Err(io_error("make", path)(error))
        }
        _ => Ok(()),
    }
}

fn read_json<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    let length = match fs::metadata(path) {
        Ok(metadata) => metadata.len(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    if length > FILE_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is larger than anything we write there"));
    }
    serde_json::from_slice(&fs::read(path)?).map(Some).map_err(io::Error::from)
}

/// Ports that are free now, all different.
fn free_ports(count: usize) -> Result<Vec<u16>, FolderError> {
    let width = PORTS.end - PORTS.start;
    let first = rand::rng().random_range(0..width);
    let candidates = (0..width).map(|step| PORTS.start + (first + step) % width);
    // Held until all are found.
    let found: Vec<(u16, TcpListener)> =
        candidates.filter_map(|port| Some((port, TcpListener::bind(("127.0.0.1", port)).ok()?))).take(count).collect();
    if found.len() < count { Err(FolderError::NoPort) } else { Ok(found.into_iter().map(|(port, _)| port).collect()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_up_is_refused_until_the_first_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("a/b");
        let folder = Folder::open(&root).unwrap();
        assert!(matches!(Folder::open(&root), Err(FolderError::InUse(_))));
        drop(folder);
        Folder::open(&root).unwrap();
    }

    #[test]
    fn ports_are_picked_once() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::open(dir.path()).unwrap();
        let kept = folder.kept().unwrap();
        let mut ports: Vec<u16> =
            kept.safekeepers.iter().flat_map(|safekeeper| [safekeeper.pg, safekeeper.http]).collect();
        ports.extend([kept.postgres_port, kept.proposer_http]);
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), 2 + 2 * SAFEKEEPERS);
        drop(folder);
        assert_eq!(Folder::open(dir.path()).unwrap().kept().unwrap(), kept);
    }

    #[test]
    fn a_broken_file_is_chosen_anew_and_an_old_up_file_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("kept.json"), "{").unwrap();
        fs::write(dir.path().join("up.json"), "{}").unwrap();
        let folder = Folder::open(dir.path()).unwrap();
        assert!(UpFile::read(dir.path()).unwrap().is_none());
        assert_eq!(folder.kept().unwrap().safekeepers.len(), SAFEKEEPERS);
    }
}
