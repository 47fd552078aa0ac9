//! Carrying out a plan: from an empty directory to one that a server can be started on.
//!
//! Order: the directory is claimed; what only the quorum has is read and put aside; the snapshot's files are laid out and compared with
//! its manifest; labels and settings are put in place; everything is made durable; `pg_control` comes last. An error, or the end of the
//! process, at any point leaves a directory that does not start and that the next attempt may take.

use super::directory::{Claim, DirectoryError};
use super::fetch::{FetchError, Fetcher};
use super::lay_out::{self, LayOutError, Progress};
use super::plan::{self, Plan, PlanError, Stop};
use super::recovery::{self, Action, FOLDER, LOCAL_WAL, ORDERS, Orders};
use super::settings::{self, Neutralised};
use backup_format::{BackupLabel, ControlFile, LabelError, TablespaceMap};
use lsn::{Lsn, SegmentNumber};
use replica_client::PostgresReplica;
use source::{Stream, Tail};
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Why a restore failed. Whatever it was, the directory does not start.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The target directory.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// The snapshot's files.
    #[error(transparent)]
    LayOut(#[from] LayOutError),
    /// WAL.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// Finding the last record.
    #[error(transparent)]
    Plan(Box<PlanError>),
    /// The quorum.
    #[error("the quorum's WAL above {from} cannot be read")]
    Tail {
        /// What the archive has ends here.
        from: Lsn,
        /// Why not.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The plan needs the quorum and nobody named it.
    #[error("the plan reads WAL above {0} from the safekeepers, and none are named")]
    NoTail(Lsn),
    /// A label that cannot be believed.
    #[error("{file} of the snapshot: {source}")]
    Label {
        /// The file.
        file: &'static str,
        /// What is wrong.
        source: LabelError,
    },
    /// The label is missing or says something else.
    #[error("backup_label of the snapshot is missing or of another backup; a server would start in the wrong place")]
    WrongLabel,
    /// A tablespace without a place.
    #[error("tablespace {oid} was at {location:?}, which is no absolute path; give --tablespace-mapping {oid}=DIR")]
    Tablespace {
        /// The tablespace.
        oid: u32,
        /// Where it was.
        location: String,
    },
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
    #[error("the restore was cut short")]
    Stopped,
}

impl From<PlanError> for RestoreError {
    fn from(error: PlanError) -> RestoreError {
        RestoreError::Plan(Box::new(error))
    }
}

impl RestoreError {
    /// Whether it was refused to protect what is there, rather than failed.
    pub fn is_refusal(&self) -> bool {
        matches!(self, RestoreError::Directory(error) if error.is_refusal())
    }
}

/// How to carry a plan out.
#[derive(Clone, Debug)]
pub struct Options {
    /// The new data directory.
    pub output: PathBuf,
    /// Lose what is in it.
    pub overwrite: bool,
    /// New places of tablespaces, by oid; others go where they were.
    pub tablespaces: Vec<(u32, PathBuf)>,
    /// Chunks at once.
    pub parallelism: usize,
    /// The path of `seawall`, for `restore_command`.
    pub program: PathBuf,
    /// The URL of the archive, without secrets.
    pub replica: String,
    /// Files with identities, absolute.
    pub identities: Vec<PathBuf>,
    /// What the server does at the end.
    pub action: Action,
}

/// A directory that a server can be started on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Restored {
    /// The directory, absolute.
    pub directory: PathBuf,
    /// Where recovery will stop.
    pub stop: Stop,
    /// Settings it did not inherit.
    pub neutralised: Vec<Neutralised>,
    /// Where each linked tablespace lies.
    pub tablespaces: Vec<(u32, PathBuf)>,
    /// Files and bytes laid out.
    pub files: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// What the reader should know, one sentence each.
    pub notes: Vec<String>,
}

fn io_error<'a>(what: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> RestoreError + 'a {
    move |source| RestoreError::Io { what, path: path.to_path_buf(), source }
}

/// Carries out a plan. `tail` is asked only if the plan needs it.
pub async fn execute<T: Tail>(
    replica: &PostgresReplica,
    plan: &Plan,
    tail: Option<&mut T>,
    options: &Options,
    progress: Arc<Progress>,
) -> Result<Restored, RestoreError> {
    let mut claim = Claim::new(&options.output, options.overwrite)?;
    let root = claim.path().to_path_buf();
    let tablespaces = place_tablespaces(&mut claim, plan, options)?;
    let local = root.join(FOLDER).join(LOCAL_WAL);
    fs::DirBuilder::new().recursive(true).mode(0o700).create(&local).map_err(io_error("make the directory", &local))?;
    let mut fetcher = Fetcher::new(replica.clone(), plan.lineage.clone(), plan.end);
    if plan.needs_tail() {
        let tail = tail.ok_or(RestoreError::NoTail(plan.archived))?;
        put_tail_aside(&fetcher, plan, tail, &local).await?;
        fetcher = fetcher.with_local(local.clone());
    }
    let mut plan = plan.clone();
    let (stop, note) = match plan.stop {
        Some(stop) => (stop, None),
        None => plan::stop(&fetcher, &plan).await?,
    };
    plan.stop = Some(stop);
    let mut notes = plan.notes.clone();
    notes.extend(note);
    let chosen = &plan.chosen;
    let laid = lay_out::lay_out(
        replica,
        chosen.generation,
        &chosen.snapshot,
        &root,
        &tablespaces,
        options.parallelism,
        progress,
        claim.lock(),
    )
    .await?;
    let orders =
        Orders::new(&plan, options.replica.clone(), replica.era().name.to_string(), options.identities.clone());
    let recovery = recovery::settings(&plan, stop, &options.program, options.action);
    let neutralised = write_labels(&root, &plan, &orders, &recovery, &tablespaces, &laid.control, &mut notes)?;
    let control = laid.control_bytes;
    let finished = tokio::task::spawn_blocking(move || claim.finish(&control));
    let directory = finished.await.map_err(|_| RestoreError::Stopped)??;
    Ok(Restored { directory, stop, neutralised, tablespaces, files: laid.files, bytes: laid.bytes, notes })
}

/// Claims the directories of the tablespaces that are not in place.
fn place_tablespaces(claim: &mut Claim, plan: &Plan, options: &Options) -> Result<Vec<(u32, PathBuf)>, RestoreError> {
    let mut placed = Vec::new();
    for tablespace in plan.chosen.snapshot.tablespaces.iter().filter(|tablespace| !tablespace.is_in_place()) {
        let mapped = options.tablespaces.iter().find(|(oid, _)| *oid == tablespace.oid).map(|(_, path)| path.clone());
        let path = mapped.unwrap_or_else(|| PathBuf::from(&tablespace.location));
        if !path.is_absolute() {
            return Err(RestoreError::Tablespace {
                oid: tablespace.oid,
                location: path.to_string_lossy().into_owned(),
            });
        }
        claim.tablespace(tablespace.oid, &path)?;
        placed.push((tablespace.oid, path));
    }
    Ok(placed)
}

/// Reads what the quorum has above the archive into whole segment files, the archive's part of the first one included.
async fn put_tail_aside<T: Tail>(
    fetcher: &Fetcher,
    plan: &Plan,
    tail: &mut T,
    folder: &Path,
) -> Result<(), RestoreError> {
    let (size, from) = (fetcher.size(), plan.archived);
    let tail_error = |source: Box<dyn std::error::Error + Send + Sync>| RestoreError::Tail { from, source };
    let mut stream = tail.read(from, plan.end).await.map_err(|error| tail_error(error.into()))?;
    let mut at = from;
    let mut open: Option<(SegmentNumber, PathBuf, fs::File)> = None;
    while at < plan.end {
        let chunk = stream.next_chunk().await.map_err(|error| tail_error(error.into()))?;
        let Some(chunk) = chunk else {
            return Err(tail_error(format!("it ended at {at}, before {}", plan.end).into()));
        };
        if chunk.begin != at {
            return Err(tail_error(format!("bytes of {} came where those of {at} were wanted", chunk.begin).into()));
        }
        let wanted = (plan.end.bytes_since(at)).min(chunk.bytes.len() as u64) as usize;
        let mut bytes = &chunk.bytes[..wanted];
        while !bytes.is_empty() {
            let number = size.segment_of(at);
            if open.as_ref().is_none_or(|(open, _, _)| *open != number) {
                let step = plan.lineage.step_of_segment(size, number, plan.end).unwrap_or(plan.lineage.tip());
                let path = folder.join(fetcher.file_name(step, number));
                let file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
                let file = file.map_err(io_error("make", &path))?;
                file.set_len(size.bytes()).map_err(io_error("extend", &path))?;
                if at > size.start_of(number)
                    && let Some(begun) = fetcher.until(at).on_lineage(number).await?
                {
                    file.write_all_at(&begun.bytes, 0).map_err(io_error("write", &path))?;
                }
                open = Some((number, path, file));
            }
            let room = size.bytes() - size.offset_of(at);
            let (now, later) = bytes.split_at(bytes.len().min(room as usize));
            if let Some((_, path, file)) = &open {
                file.write_all_at(now, size.offset_of(at)).map_err(io_error("write", path))?;
            }
            at = at.saturating_add(now.len() as u64);
            bytes = later;
        }
    }
    // Every record of it is checked now, while there is somebody to tell.
    let local = fetcher.clone().with_local(folder.to_path_buf());
    for number in (from.0 / size.bytes()..plan.end.0.div_ceil(size.bytes())).map(SegmentNumber) {
        local.on_lineage(number).await?;
    }
    Ok(())
}

/// Labels, signals and settings; returns what was taken from the settings.
fn write_labels(
    root: &Path,
    plan: &Plan,
    orders: &Orders,
    recovery: &[(String, String)],
    tablespaces: &[(u32, PathBuf)],
    control: &ControlFile,
    notes: &mut Vec<String>,
) -> Result<Vec<Neutralised>, RestoreError> {
    let label = read(&root.join("backup_label"))?.ok_or(RestoreError::WrongLabel)?;
    let label = BackupLabel::parse(&label).map_err(|source| RestoreError::Label { file: "backup_label", source })?;
    if label.start != plan.chosen.snapshot.begin.lsn || label.incremental_from.is_some() {
        return Err(RestoreError::WrongLabel);
    }
    write_tablespace_map(root, tablespaces)?;
    // A standby's own: recovery.signal is what this restore wants, and standby.signal would win over it.
    for left in ["standby.signal", "postmaster.pid", "postmaster.opts"] {
        match fs::remove_file(root.join(left)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(io_error("remove", &root.join(left))(error));
            }
            _ => {}
        }
    }
    write(&root.join("recovery.signal"), b"")?;
    for folder in ["pg_wal/archive_status", "pg_replslot"] {
        let path = root.join(folder);
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&path)
            .map_err(io_error("make the directory", &path))?;
    }
    write(&root.join(FOLDER).join(ORDERS), &orders.to_json())?;
    let major = plan.chosen.snapshot.server_version / 10_000;
    let text =
        |path: PathBuf| Ok::<_, RestoreError>(read(&path)?.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()));
    let main = match text(root.join("postgresql.conf"))? {
        Some(copied) => {
            let (main, changed) = settings::main_conf(&copied);
            if changed > 0 {
                notes.push(format!(
                    "{changed} settings of postgresql.conf that lead to other directories are comments now"
                ));
            }
            write(&root.join("postgresql.conf"), main.as_bytes())?;
            copied
        }
        None => {
            notes.push(
                "the snapshot has no postgresql.conf (the server kept it elsewhere): a minimal one is there; bring yours, and pg_hba.conf"
                    .to_owned(),
            );
            let main = minimal_conf(control);
            write(&root.join("postgresql.conf"), main.as_bytes())?;
            main
        }
    };
    if !root.join("pg_hba.conf").exists() {
        write(
            &root.join("pg_hba.conf"),
            b"# By seawall restore: only the server's own user, over the socket.\nlocal all all peer\n",
        )?;
    }
    if !root.join("pg_ident.conf").exists() {
        write(&root.join("pg_ident.conf"), b"")?;
    }
    let auto = text(root.join("postgresql.auto.conf"))?.unwrap_or_default();
    let neutralised = settings::neutralised(&[&main, &auto], major);
    write(&root.join("postgresql.auto.conf"), settings::auto_conf(&auto, major, recovery).as_bytes())?;
    Ok(neutralised)
}

/// A server in recovery must have at least the original's room for connections, transactions and locks.
fn minimal_conf(control: &ControlFile) -> String {
    format!(
        "# By seawall restore: the server this was copied from kept its configuration elsewhere.\n\
         max_connections = {}\nmax_worker_processes = {}\nmax_wal_senders = {}\nmax_prepared_transactions = {}\nmax_locks_per_transaction = {}\n",
        control.max_connections,
        control.max_worker_processes,
        control.max_wal_senders,
        control.max_prepared_xacts,
        control.max_locks_per_xact,
    )
}

/// The server makes the links of this file anew at its start.
fn write_tablespace_map(root: &Path, tablespaces: &[(u32, PathBuf)]) -> Result<(), RestoreError> {
    let path = root.join("tablespace_map");
    let Some(bytes) = read(&path)? else { return Ok(()) };
    let map = TablespaceMap::parse(&bytes).map_err(|source| RestoreError::Label { file: "tablespace_map", source })?;
    let moved = map.0.into_iter().map(|(oid, location)| {
        let placed = tablespaces.iter().find(|(placed, _)| *placed == oid);
        (oid, placed.map_or(location, |(_, path)| path.to_string_lossy().into_owned()))
    });
    write(&path, &TablespaceMap(moved.collect()).to_bytes())
}

fn read(path: &Path) -> Result<Option<Vec<u8>>, RestoreError> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(io_error("read", path)(error)),
    }
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), RestoreError> {
    let open = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path);
    open.and_then(|mut file| file.write_all(bytes)).map_err(io_error("write", path))
}
