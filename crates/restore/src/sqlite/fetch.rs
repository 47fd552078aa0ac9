//! Carrying a plan out: snapshot, WAL, check, name.

use std::fs::File;
use std::io::{Read, Write};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use disk::{Disk, RealDisk};
use lsn::SegmentSize;
use replica_client::download::{DownloadOptions, WalDownloader, WalSource};
use replica_client::{Generation, Piece, PlainReader, Replica};
use tokio::runtime::Handle;

use super::apply::{Applier, Life};
use super::{Error, IntegrityCheck, Options, Plan, local};

/// How far a restore is; anybody may read it while it runs.
#[derive(Debug, Default)]
pub struct Progress {
    plain: AtomicU64,
    stored: AtomicU64,
}

impl Progress {
    /// Plain bytes written so far.
    pub fn plain(&self) -> u64 {
        self.plain.load(Ordering::Relaxed)
    }

    /// Stored bytes of the objects that are done; of [`Plan::stored_bytes`].
    pub fn stored(&self) -> u64 {
        self.stored.load(Ordering::Relaxed)
    }
}

/// What was restored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Restored {
    /// Bytes of the database file.
    pub bytes: u64,
    /// Lives of the WAL that were applied.
    pub lives: u64,
    /// The place that was reached: the newest life, and how many bytes of it count (0: only the snapshot).
    pub position: (u64, u64),
}

/// Restores to a file that does not exist. Needs room for the database and a few lives of the WAL beside it.
pub async fn restore(
    replica: &Replica,
    plan: &Plan,
    output: &Path,
    options: &Options,
    progress: &Arc<Progress>,
) -> Result<Restored, Error> {
    let output = std::path::absolute(output).map_err(local("name", output))?;
    refuse_existing(&output)?;
    let parent = output.parent().unwrap_or(Path::new("/")).to_path_buf();
    let folder = tempfile::Builder::new()
        .prefix(".seawall-restore-")
        .tempdir_in(&parent)
        .map_err(local("make a folder in", &parent))?;
    let path = folder.path().join("database");
    let begin = snapshot(replica, plan, &path, progress).await?;
    let (lives, position) = wal(replica, plan, folder.path(), &path, begin, options, progress).await?;
    let integrity = options.integrity;
    let done = blocking(move || {
        check(&path, integrity)?;
        RealDisk.sync_file(&path).map_err(local("sync", &path))?;
        let bytes = std::fs::metadata(&path).map_err(local("look at", &path))?.len();
        refuse_existing(&output)?;
        // A link never replaces a file, however short the time since it was looked for.
        match std::fs::hard_link(&path, &output) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => return Err(Error::Exists(output)),
            Err(_) => RealDisk.rename(&path, &output).map_err(local("name", &output))?,
        }
        RealDisk.sync_directory(&parent).map_err(local("sync", &parent))?;
        drop(folder);
        Ok(bytes)
    });
    Ok(Restored { bytes: done.await?, lives, position })
}

/// A file of this name, or one SQLite would take for its WAL or journal.
fn refuse_existing(output: &Path) -> Result<(), Error> {
    let exists = |path: &Path| std::fs::symlink_metadata(path).is_ok();
    if exists(output) {
        return Err(Error::Exists(output.to_path_buf()));
    }
    for suffix in ["-wal", "-shm", "-journal"] {
        let mut name = output.as_os_str().to_owned();
        name.push(suffix);
        let path = PathBuf::from(name);
        if exists(&path) {
            return Err(Error::Leftover(path));
        }
    }
    Ok(())
}

/// What is known once the snapshot is there.
#[derive(Clone, Copy)]
struct Begin {
    /// The page size its header says.
    page_size: Option<u32>,
    /// One of ours: its writer told what it holds.
    ours: bool,
}

/// Fetches the snapshot.
async fn snapshot(replica: &Replica, plan: &Plan, path: &Path, progress: &Arc<Progress>) -> Result<Begin, Error> {
    let (generation, index) = (plan.generation, plan.snapshot.at);
    let mut reader = replica.open_snapshot(generation, index)?;
    let facts = replica.snapshot_facts(generation, index).await?;
    if let Some(facts) = facts {
        reader = reader.expect(facts.plain);
    }
    let mut reader = reader.blocking(Handle::current());
    let (path, counted, stored) = (path.to_path_buf(), Arc::clone(progress), plan.snapshot.stored);
    blocking(move || {
        let mut file = File::create_new(&path).map_err(local("make", &path))?;
        let mut buffer = vec![0; 256 << 10];
        let mut start = Vec::new();
        let mut bytes = 0u64;
        loop {
            let read = match reader.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => read,
                Err(error) => return Err(unwrap(error)),
            };
            if start.len() < 100 {
                start.extend_from_slice(&buffer[..read.min(100)]);
            }
            file.write_all(&buffer[..read]).map_err(local("write", &path))?;
            bytes += read as u64;
            counted.plain.fetch_add(read as u64, Ordering::Relaxed);
        }
        counted.stored.fetch_add(stored, Ordering::Relaxed);
        let damaged = |reason: String| Error::Snapshot { generation, index, reason };
        Ok(Begin { page_size: page_size(&start, bytes).map_err(damaged)?, ours: facts.is_some() })
    })
    .await
}

/// Of a database file that begins so; one of no bytes has none.
fn page_size(start: &[u8], bytes: u64) -> Result<Option<u32>, String> {
    if bytes == 0 {
        return Ok(None);
    }
    let (Some(magic), Some(size)) = (start.get(..16), start.get(16..18)) else {
        return Err(format!("{bytes} bytes are no database"));
    };
    if magic != b"SQLite format 3\0" {
        return Err("it does not begin as a SQLite database".to_owned());
    }
    let size = sqlite_wal::PageSize::of_database([size[0], size[1]]).map_err(|error| error.to_string())?;
    if !bytes.is_multiple_of(u64::from(size.bytes())) {
        return Err(format!("{bytes} bytes are not a whole number of pages of {}", size.bytes()));
    }
    Ok(Some(size.bytes()))
}

/// The planned pieces, so that what is fetched is what was planned.
#[derive(Clone)]
struct Planned {
    replica: Replica,
    pieces: Arc<Vec<Piece>>,
}

impl WalSource for Planned {
    type Reader = PlainReader;

    async fn pieces(&self, _: Generation, indexes: RangeInclusive<u64>) -> Result<Vec<Piece>, replica_client::Error> {
        Ok(self.pieces.iter().filter(|piece| indexes.contains(&piece.name.index)).copied().collect())
    }

    fn open(&self, piece: &Piece) -> Result<PlainReader, replica_client::Error> {
        self.replica.open_piece(piece.generation, piece.name)
    }

    fn segment_size(&self) -> Option<SegmentSize> {
        None
    }
}

async fn wal(
    replica: &Replica,
    plan: &Plan,
    folder: &Path,
    path: &Path,
    begin: Begin,
    options: &Options,
    progress: &Arc<Progress>,
) -> Result<(u64, (u64, u64)), Error> {
    let Some(last) = plan.pieces.last().map(|piece| piece.name.index) else {
        return Ok((0, (plan.snapshot.at, 0)));
    };
    let source = Planned { replica: replica.clone(), pieces: Arc::new(plan.pieces.clone()) };
    let download = DownloadOptions { parallelism: options.parallelism.max(1), ..DownloadOptions::default() };
    let first = plan.snapshot.at;
    let mut wal = WalDownloader::new(source, folder.join("wal"), plan.generation, first..=last, download);
    let mut state =
        State { generation: plan.generation, path: path.to_path_buf(), begin, header: None, position: (first, 0) };
    let mut lives = 0;
    while let Some(file) = wal.next().await? {
        let newest = file.index == last;
        let (cut, length) = (plan.cut.filter(|_| newest), plan.lengths.get(&file.index).copied());
        let counted = Arc::clone(progress);
        state = blocking(move || {
            let database =
                std::fs::OpenOptions::new().write(true).open(&state.path).map_err(local("open", &state.path))?;
            let mut applier = Applier::new(state.generation, &database, &state.path, state.begin.page_size);
            if !state.begin.ours {
                applier = applier.with_drawn_salts();
            }
            applier.resume(state.header);
            let life = Life { index: file.index, path: &file.path, newest, cut, length };
            let applied = applier.apply(&life)?;
            counted.plain.fetch_add(applied, Ordering::Relaxed);
            (state.begin.page_size, state.header) = applier.state();
            state.position = (file.index, applied);
            std::fs::remove_file(&file.path).map_err(local("remove", &file.path))?;
            Ok(state)
        })
        .await?;
        lives += 1;
        let of_life = plan.pieces.iter().filter(|piece| piece.name.index == file.index);
        progress.stored.fetch_add(of_life.map(|piece| piece.stored).sum(), Ordering::Relaxed);
    }
    wal.close().await?;
    Ok((lives, state.position))
}

struct State {
    generation: Generation,
    path: PathBuf,
    begin: Begin,
    header: Option<sqlite_wal::Header>,
    position: (u64, u64),
}

/// SQLite's own look at a finished file that has no name yet.
fn check(path: &Path, integrity: IntegrityCheck) -> Result<(), Error> {
    let pragma = match integrity {
        IntegrityCheck::None => return Ok(()),
        IntegrityCheck::Quick => "PRAGMA quick_check(10)",
        IntegrityCheck::Full => "PRAGMA integrity_check(10)",
    };
    let failed = |error: rusqlite::Error| Error::Integrity(error.to_string());
    let connection = rusqlite::Connection::open(path).map_err(failed)?;
    let mut statement = connection.prepare(pragma).map_err(failed)?;
    let rows = statement.query_map([], |row| row.get::<_, String>(0)).map_err(failed)?;
    let said = rows.collect::<Result<Vec<String>, _>>().map_err(failed)?;
    drop(statement);
    connection.close().map_err(|(_, error)| failed(error))?;
    if said == ["ok"] { Ok(()) } else { Err(Error::Integrity(said.join("; "))) }
}

/// The replica's error, from where it had to travel as an I/O error.
fn unwrap(error: std::io::Error) -> Error {
    match error.downcast::<replica_client::Error>() {
        Ok(error) => Error::Replica(error),
        Err(source) => Error::Local { what: "read", path: PathBuf::from("the snapshot"), source },
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Error> + Send + 'static) -> Result<T, Error> {
    tokio::task::spawn_blocking(work).await.map_err(|_| Error::Stopped)?
}
