//! The files of a snapshot: chunks fetched in parallel, every part written to its place, and at the end everything compared with the
//! backup manifest.
//!
//! A chunk names its parts before their bytes; a large file has parts in several chunks, written in any order. Each part's checksum is
//! checked as its bytes go by (`backup-format`), each object's by `replica-client`, and the checksum of a whole file is put together
//! from its parts: only manifests with SHA checksums make files be read back. `global/pg_control` is kept in memory: it is put in place
//! by [`Claim::finish`](super::directory::Claim::finish) and not before.
//!
//! Memory: the parallel chunks' buffers, and a few words per file.

use backup_format::chunk::{Decoder, Event};
use backup_format::{
    Checksum, ChecksumAlgorithm, ChunkError, ControlError, ControlFile, DataPath, Hasher, Kind as PartKind,
    MAX_MANIFEST, Manifest, ManifestError, Part as ChunkPart, Snapshot, combine_crc32c,
};
use disk::LockGuard;
use lsn::Lsn;
use replica_client::{BlockingReader, Error as ReplicaError, Generation, Part, Plain, PostgresReplica};
use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::runtime::Handle;
use tokio::task::JoinSet;

const CONTROL: &[u8] = b"global/pg_control";
/// Bytes read at once from an object.
const BUFFER: usize = 256 << 10;
/// Files open at once per chunk.
const OPEN_FILES: usize = 16;

/// Why the files could not be laid out. The directory is half-made then.
#[derive(Debug, thiserror::Error)]
pub enum LayOutError {
    /// An object.
    #[error(transparent)]
    Replica(#[from] ReplicaError),
    /// A chunk whose bytes are whole and make no sense.
    #[error("chunk {chunk:08} of snapshot {snapshot:016X}: {source}", snapshot = snapshot.0)]
    Chunk {
        /// Its number.
        chunk: u32,
        /// The snapshot.
        snapshot: Lsn,
        /// What is wrong.
        source: ChunkError,
    },
    /// The manifest.
    #[error("the backup manifest of snapshot {snapshot:016X}: {source}", snapshot = snapshot.0)]
    Manifest {
        /// The snapshot.
        snapshot: Lsn,
        /// What is wrong.
        source: ManifestError,
    },
    /// A file that is not what the manifest says.
    #[error("file {path} of the snapshot {problem}")]
    File {
        /// The file.
        path: String,
        /// What is wrong.
        problem: &'static str,
    },
    /// The control file.
    #[error("global/pg_control of the snapshot: {0}")]
    Control(#[from] ControlError),
    /// The snapshot's parts do not belong together.
    #[error("the snapshot contradicts itself: {0}")]
    Contradiction(&'static str),
    /// The operating system refused something.
    #[error("cannot {what} {}: {source}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// With what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A worker ended.
    #[error("laying out chunk {0:08} was cut short")]
    Stopped(u32),
}

/// Bytes done so far, for a display.
#[derive(Debug, Default)]
pub struct Progress {
    /// Plain bytes written.
    pub written: AtomicU64,
}

/// What was laid out.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LaidOut {
    /// Content of `global/pg_control`.
    pub control_bytes: Vec<u8>,
    /// The same, read.
    pub control: ControlFile,
    /// Files, `pg_control` included.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// What is known of one file so far.
#[derive(Debug, Default)]
struct Laid {
    size: u64,
    /// By offset: length and checksum.
    parts: BTreeMap<u64, (u64, u32)>,
}

/// Lays a snapshot out below `root`. `tablespaces` are the directories of its tablespaces, by oid; they exist. `lock` is held while anything
/// is still being written.
#[expect(clippy::too_many_arguments, reason = "one caller, and each is a different thing")]
pub async fn lay_out(
    replica: &PostgresReplica,
    generation: Generation,
    snapshot: &Snapshot,
    root: &Path,
    tablespaces: &[(u32, PathBuf)],
    parallelism: usize,
    progress: Arc<Progress>,
    lock: Arc<LockGuard>,
) -> Result<LaidOut, LayOutError> {
    let at = snapshot.begin.lsn;
    link_tablespaces(root, tablespaces)?;
    let (mut running, mut laid, mut control) = (JoinSet::new(), HashMap::<DataPath, Laid>::new(), Vec::new());
    let mut chunks = snapshot.chunks.iter();
    loop {
        while running.len() < parallelism.max(1)
            && let Some(chunk) = chunks.next()
        {
            let reader = replica.open_part(generation, at, Part::Chunk(chunk.number))?;
            let reader =
                reader.expect(Plain { length: chunk.length, crc32c: chunk.crc32c }).blocking(Handle::current());
            let worker = Worker {
                number: chunk.number,
                snapshot: at,
                root: root.to_path_buf(),
                progress: Arc::clone(&progress),
                _lock: Arc::clone(&lock),
            };
            running.spawn_blocking(move || worker.run(reader));
        }
        let Some(done) = running.join_next().await else { break };
        let done = done.map_err(|_| LayOutError::Stopped(0))??;
        for (path, size, offset, length, crc32c) in done.parts {
            let file = laid.entry(path).or_default();
            file.size = size;
            file.parts.insert(offset, (length, crc32c));
        }
        for (offset, bytes) in done.control {
            let end = offset as usize + bytes.len();
            control.resize(control.len().max(end), 0);
            control[offset as usize..end].copy_from_slice(&bytes);
        }
    }
    let manifest = Plain { length: snapshot.manifest.length, crc32c: snapshot.manifest.crc32c };
    let manifest =
        replica.open_part(generation, at, Part::Manifest)?.expect(manifest).read_all(MAX_MANIFEST as u64).await?;
    let (root, snapshot_copy) = (root.to_path_buf(), snapshot.clone());
    let checked = tokio::task::spawn_blocking(move || {
        let manifest = Manifest::parse(&manifest).map_err(|source| LayOutError::Manifest { snapshot: at, source })?;
        compare(&manifest, &laid, &root, &control)?;
        let control_file = ControlFile::parse(&control)?;
        agree(&snapshot_copy, &manifest, &control_file)?;
        let bytes = laid.values().map(|file| file.size).sum();
        Ok(LaidOut { control: control_file, control_bytes: control, files: laid.len() as u64, bytes })
    });
    checked.await.map_err(|_| LayOutError::Stopped(0))?
}

fn io_error(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> LayOutError {
    let path = path.to_path_buf();
    move |source| LayOutError::Io { what, path, source }
}

fn make_directory(path: &Path) -> Result<(), LayOutError> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(io_error("make the directory", path))
}

fn link_tablespaces(root: &Path, tablespaces: &[(u32, PathBuf)]) -> Result<(), LayOutError> {
    let folder = root.join("pg_tblspc");
    make_directory(&folder)?;
    for (oid, directory) in tablespaces {
        let link = folder.join(oid.to_string());
        std::os::unix::fs::symlink(directory, &link).map_err(io_error("link", &link))?;
    }
    Ok(())
}

struct Worker {
    number: u32,
    snapshot: Lsn,
    root: PathBuf,
    progress: Arc<Progress>,
    _lock: Arc<LockGuard>,
}

struct Done {
    /// Path, size of the file, offset, length, checksum of the part.
    parts: Vec<(DataPath, u64, u64, u64, u32)>,
    control: Vec<(u64, Vec<u8>)>,
}

impl Worker {
    /// Writes the parts of one chunk. Blocks.
    fn run(self, mut reader: BlockingReader) -> Result<Done, LayOutError> {
        let chunk_error = |source| LayOutError::Chunk { chunk: self.number, snapshot: self.snapshot, source };
        let mut decoder = Decoder::new();
        let (mut index, mut open): (Vec<ChunkPart>, Vec<(usize, File)>) = (Vec::new(), Vec::new());
        let mut done = Done { parts: Vec::new(), control: Vec::new() };
        let mut buffer = vec![0; BUFFER];
        loop {
            let read = reader.read(&mut buffer).map_err(|error| self.read_error(error))?;
            if read == 0 {
                break;
            }
            decoder.push(bytes::Bytes::copy_from_slice(&buffer[..read]));
            while let Some(event) = decoder.poll().map_err(chunk_error)? {
                match event {
                    Event::Index(parts) => {
                        for part in &parts {
                            self.prepare(part)?;
                        }
                        index = parts;
                    }
                    Event::Data { part, offset, bytes } => {
                        let Some(entry) = index.get(part) else { continue };
                        self.progress.written.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                        if entry.path.as_bytes() == CONTROL {
                            if offset + bytes.len() as u64 > backup_format::CONTROL_FILE_SIZE as u64 {
                                return Err(LayOutError::Contradiction("its pg_control is longer than any"));
                            }
                            done.control.push((offset, bytes.to_vec()));
                            continue;
                        }
                        let path = self.root.join(entry.path.to_path());
                        let file = match open.iter().position(|(opened, _)| *opened == part) {
                            Some(place) => &open[place].1,
                            None => {
                                if open.len() >= OPEN_FILES {
                                    open.remove(0);
                                }
                                let file =
                                    OpenOptions::new().write(true).open(&path).map_err(io_error("open", &path))?;
                                open.push((part, file));
                                &open[open.len() - 1].1
                            }
                        };
                        file.write_all_at(&bytes, offset).map_err(io_error("write", &path))?;
                    }
                    Event::PartDone(part) => {
                        open.retain(|(opened, _)| *opened != part);
                        let Some(entry) = index.get(part) else { continue };
                        if entry.kind == PartKind::File {
                            done.parts.push((entry.path.clone(), entry.size, entry.offset, entry.length, entry.crc32c));
                        }
                    }
                }
            }
        }
        decoder.finish().map_err(chunk_error)?;
        Ok(done)
    }

    /// Makes the directory, or the file with its mode and nothing in it.
    fn prepare(&self, part: &ChunkPart) -> Result<(), LayOutError> {
        let path = self.root.join(part.path.to_path());
        if part.kind == PartKind::Directory {
            make_directory(&path)?;
            // Group access, where the cluster was made with it.
            let mode = fs::Permissions::from_mode(0o700 | part.mode & 0o050);
            return fs::set_permissions(&path, mode).map_err(io_error("set the mode of", &path));
        }
        if let Some(parent) = path.parent() {
            make_directory(parent)?;
        }
        if part.path.as_bytes() == CONTROL {
            return Ok(());
        }
        // Another chunk may hold other parts of the file, and may have made it.
        let made =
            OpenOptions::new().write(true).create(true).truncate(false).mode(0o600 | part.mode & 0o040).open(&path);
        made.map(drop).map_err(io_error("make", &path))
    }

    /// An error of the object below comes through the reader as an I/O error.
    fn read_error(&self, error: io::Error) -> LayOutError {
        match error.downcast::<ReplicaError>() {
            Ok(error) => LayOutError::Replica(error),
            Err(source) => {
                LayOutError::Io { what: "read", path: PathBuf::from(format!("chunk {:08}", self.number)), source }
            }
        }
    }
}

/// Every file of the manifest is there with its size and checksum, and no other.
fn compare(
    manifest: &Manifest,
    laid: &HashMap<DataPath, Laid>,
    root: &Path,
    control: &[u8],
) -> Result<(), LayOutError> {
    let wrong = |path: &DataPath, problem| LayOutError::File { path: path.to_string(), problem };
    let mut listed = std::collections::HashSet::with_capacity(manifest.files.len());
    for file in &manifest.files {
        listed.insert(&file.path);
        let Some(found) = laid.get(&file.path) else {
            return Err(wrong(&file.path, "is in the backup manifest and in no chunk"));
        };
        let (mut reached, mut crc) = (0, 0);
        for (offset, (length, part)) in &found.parts {
            if *offset != reached {
                return Err(wrong(&file.path, "has a gap between its parts"));
            }
            crc = combine_crc32c(crc, *part, *length);
            reached += length;
        }
        if reached != file.size || found.size != file.size {
            return Err(wrong(&file.path, "has another size than the backup manifest says"));
        }
        let right = match &file.checksum {
            Checksum::None => true,
            Checksum::Crc32c(expected) => crc == *expected,
            other if file.path.as_bytes() == CONTROL => {
                hash(&mut io::Cursor::new(control), other.algorithm()).is_ok_and(|found| found == *other)
            }
            other => {
                let path = root.join(file.path.to_path());
                let mut opened = File::open(&path).map_err(io_error("open", &path))?;
                hash(&mut opened, other.algorithm()).map_err(io_error("read", &path))? == *other
            }
        };
        if !right {
            return Err(wrong(&file.path, "has another checksum than the backup manifest says"));
        }
    }
    // WAL is not in a manifest, because it is checked by itself.
    match laid.keys().find(|path| !listed.contains(path) && !path.as_bytes().starts_with(b"pg_wal/")) {
        Some(stranger) => Err(wrong(stranger, "is in a chunk and not in the backup manifest")),
        None => Ok(()),
    }
}

fn hash(reader: &mut impl Read, algorithm: ChecksumAlgorithm) -> io::Result<Checksum> {
    let (mut hasher, mut buffer) = (Hasher::new(algorithm), vec![0; BUFFER]);
    loop {
        match reader.read(&mut buffer)? {
            0 => return Ok(hasher.finish()),
            read => hasher.update(&buffer[..read]),
        }
    }
}

/// The three descriptions of a snapshot say the same.
fn agree(snapshot: &Snapshot, manifest: &Manifest, control: &ControlFile) -> Result<(), LayOutError> {
    let wrong = |what| Err(LayOutError::Contradiction(what));
    if control.system_id != snapshot.system_id || manifest.system_id.is_some_and(|id| id != snapshot.system_id) {
        return wrong("its files are of another cluster than snapshot.json says");
    }
    if control.segment_size != snapshot.segment_size {
        return wrong("its WAL segments have another size than snapshot.json says");
    }
    if manifest.wal_ranges != snapshot.wal_ranges {
        return wrong("snapshot.json and the backup manifest name different WAL");
    }
    Ok(())
}
