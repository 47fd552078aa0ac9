//! `restore_command`: one file of WAL for a server in recovery, and others fetched ahead of it.
//!
//! The server reads the exit code: 0, the file is there; 1, it exists nowhere, which outside standby mode ends recovery; 126 and more,
//! stop, something is wrong. So "not there" is said only when the archive, and where safekeepers are named a majority of them, answered
//! and have nothing. Everything else is tried again for a while, and then depends on who asks: a standby (`standby.signal`) gets 1,
//! because it would shut down at 255 and asks again anyway; a recovery to a target gets 255.
//!
//! Fetching ahead is another process, started here and left to itself, because this one must end for the server to go on. It keeps to one
//! at a time by a lock, and files appear under their names only when they are whole and checked.

use super::open::{self, OpenError};
use super::quorum::{Quorum, QuorumError};
use config::{QuorumFlags, ReplicaFlags, WalFetchFlags};
use disk::{Disk, RealDisk};
use lsn::{Lsn, SegmentNumber, Tli};
use replica_client::{Generation, Kind, PostgresReplica};
use restore::postgres::fetch::{FetchError, Fetcher, Segment};
use restore::postgres::lineage::{Lineage, LineageError};
use restore::postgres::recovery::{FOLDER, LOCAL_WAL, Orders, OrdersError, PREFETCH};
use source::{Stream, Tail};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use wal_format::history::History;

/// How long somebody who waits for us is kept waiting when the archive does not answer.
const STANDBY_PATIENCE: Duration = Duration::from_secs(30);
const RECOVERY_PATIENCE: Duration = Duration::from_secs(300);
/// How long a file that is being fetched ahead is waited for.
const AHEAD_PATIENCE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(500);
const LOOK: Duration = Duration::from_millis(10);
/// Files fetched at once, ahead.
const AHEAD_AT_ONCE: usize = 4;

/// What a server is told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answer {
    /// 0: it is there.
    Delivered,
    /// 1: it exists nowhere.
    Absent,
    /// 255: that cannot be said.
    Unknown,
}

impl Answer {
    /// The exit code.
    pub fn code(self) -> u8 {
        match self {
            Answer::Delivered => 0,
            Answer::Absent => 1,
            Answer::Unknown => 255,
        }
    }
}

/// Why a file cannot be had now.
#[derive(Debug, thiserror::Error)]
pub enum WalFetchError {
    /// The archive cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The archive's files.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// The archive's tree.
    #[error(transparent)]
    Lineage(#[from] LineageError),
    /// The orders.
    #[error(transparent)]
    Orders(#[from] OrdersError),
    /// The safekeepers.
    #[error(transparent)]
    Quorum(#[from] QuorumError),
    /// The operating system.
    #[error("cannot {what} {}: {source}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// With what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Text that is no generation.
    #[error("{0:?} is no generation: 16 hexadecimal digits are")]
    Generation(String),
}

impl WalFetchError {
    /// Whether asking again may help.
    fn is_passing(&self) -> bool {
        match self {
            WalFetchError::Open(error) => error.is_passing(),
            WalFetchError::Fetch(FetchError::Replica(error)) => matches!(error.kind(), Kind::Unavailable | Kind::Busy),
            // Pieces may be merged between a listing and a read.
            WalFetchError::Fetch(FetchError::Missing { .. }) => true,
            WalFetchError::Quorum(_) => true,
            _ => false,
        }
    }
}

fn io_error<'a>(what: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> WalFetchError + 'a {
    move |source| WalFetchError::Io { what, path: path.to_path_buf(), source }
}

/// Answers one call. `program` is what is started to fetch ahead; `say` is told what the server's log should hold.
pub async fn wal_fetch(
    flags: &WalFetchFlags,
    program: &Path,
    mut say: impl FnMut(&(dyn std::error::Error + 'static)),
) -> Answer {
    let started = Instant::now();
    let standby = Path::new("standby.signal").exists();
    let recovery = Path::new("recovery.signal").exists();
    let patience = if recovery && !standby { RECOVERY_PATIENCE } else { STANDBY_PATIENCE };
    loop {
        let error = match attempt(flags, program).await {
            Ok(true) => return Answer::Delivered,
            Ok(false) => return Answer::Absent,
            Err(error) => error,
        };
        if !error.is_passing() || started.elapsed() + PAUSE > patience {
            say(&error);
            return if standby { Answer::Absent } else { Answer::Unknown };
        }
        tracing::debug!(%error, "trying again");
        tokio::time::sleep(PAUSE).await;
    }
}

async fn attempt(flags: &WalFetchFlags, program: &Path) -> Result<bool, WalFetchError> {
    let folder = Path::new(FOLDER).join(PREFETCH);
    // A file that was fetched ahead needs no look at the archive.
    if take_ahead(&folder, flags)? {
        continue_ahead(flags, program, &folder);
        return Ok(true);
    }
    let context = Context::open(flags).await?;
    let size = context.replica.era().segment_size;
    if let Some(tli) = History::parse_file_name(&flags.name) {
        let Some(bytes) = context.fetcher(tli).await?.history(tli).await? else { return Ok(false) };
        put(&flags.path, &bytes)?;
        return Ok(true);
    }
    // `.backup` and `.partial` files, and names that are none: nobody archived them.
    let Some((tli, number)) = size.parse_file_name(&flags.name) else { return Ok(false) };
    let Some(segment) = context.segment(tli, number).await? else { return Ok(false) };
    put(&flags.path, &segment.bytes)?;
    continue_ahead(flags, program, &folder);
    Ok(true)
}

/// The archive, and what of it counts.
struct Context {
    replica: PostgresReplica,
    orders: Option<Orders>,
    generation: Option<Generation>,
    quorum: Option<Quorum>,
}

impl Context {
    async fn open(flags: &WalFetchFlags) -> Result<Context, WalFetchError> {
        let parse = |text: &String| text.parse().map_err(|_| WalFetchError::Generation(text.clone()));
        let generation = flags.generation.as_ref().map(parse).transpose()?;
        let Some(path) = &flags.recovery else {
            let url = flags.replica.as_deref().unwrap_or_default();
            let QuorumFlags { safekeepers, cluster } = flags.quorum.clone();
            let name = cluster.map(|name| name.to_string());
            let quorum = (!safekeepers.is_empty()).then(|| Quorum::new(safekeepers, name));
            let replica = open::postgres(url, &flags.source).await?;
            return Ok(Context { replica, orders: None, generation, quorum });
        };
        let bytes = fs::read(path).map_err(io_error("read", path))?;
        let orders = Orders::from_json(&bytes)?;
        let source = ReplicaFlags {
            identity: orders.identities.clone(),
            system_id: Some(orders.system_id),
            era: Some(orders.era.clone()),
        };
        let replica = open::postgres(&orders.replica, &source).await?;
        Ok(Context { replica, orders: Some(orders), generation, quorum: None })
    }

    /// For files of `tli`: of the ordered lineage, else of the newest that has it.
    async fn fetcher(&self, tli: Tli) -> Result<Fetcher, WalFetchError> {
        if let Some(orders) = &self.orders {
            let fetcher = Fetcher::new(self.replica.clone(), orders.lineage.clone(), orders.end);
            return Ok(fetcher.with_local(Path::new(FOLDER).join(LOCAL_WAL)));
        }
        let tree = self.replica.lineages().await.map_err(FetchError::from)?;
        let of_tli: Vec<Generation> = tree.keys().copied().filter(|generation| generation.tli() == tli).collect();
        let wanted = match (self.generation, &of_tli[..]) {
            (Some(generation), _) => Some(generation),
            // On the way to the newest, or a branch: the file's own generation decides.
            (None, [only]) => Some(*only),
            (None, _) => None,
        };
        let lineage = match Lineage::choose(&tree, wanted) {
            // Nothing archived yet is no error: the file is not there.
            Err(LineageError::Empty) => Lineage::of_path(&lsn::Path::root(tli)),
            lineage => lineage?,
        };
        Ok(Fetcher::new(self.replica.clone(), lineage, Lsn::MAX))
    }

    async fn segment(&self, tli: Tli, number: SegmentNumber) -> Result<Option<Segment>, WalFetchError> {
        let fetcher = self.fetcher(tli).await?;
        let found = fetcher.by_name(tli, number).await?;
        let size = fetcher.size();
        let whole = found.as_ref().is_some_and(|segment| segment.filled == size.bytes());
        let Some(mut quorum) = self.quorum.clone().filter(|_| !whole) else { return Ok(found) };
        // What the archive lacks, the safekeepers may have; a majority of them must have been asked.
        let end = quorum.look().await?;
        let (start, filled) = (size.start_of(number), found.as_ref().map_or(0, |segment| segment.filled));
        let until = end.end.min(size.start_of(number.next()));
        let newest = end.path.cut(until).last().tli;
        let from = start.saturating_add(filled);
        if until <= from || newest != tli {
            return Ok(found);
        }
        let mut bytes = found.map_or_else(|| vec![0; size.bytes() as usize], |segment| segment.bytes.to_vec());
        let mut stream = quorum.read(from, until).await?;
        while let Some(chunk) = stream.next_chunk().await? {
            let at = chunk.begin.bytes_since(start) as usize;
            let room = bytes.len().saturating_sub(at).min(chunk.bytes.len());
            if let Some(place) = bytes.get_mut(at..at + room) {
                place.copy_from_slice(&chunk.bytes[..room]);
            }
        }
        Ok(Some(Segment { bytes: bytes.into(), filled: until.bytes_since(start) }))
    }
}

fn put(path: &Path, bytes: &[u8]) -> Result<(), WalFetchError> {
    fs::write(path, bytes).map_err(io_error("write", path))
}

/// Moves a file that was fetched ahead to where the server wants it; waits for one that is on its way.
fn take_ahead(folder: &Path, flags: &WalFetchFlags) -> Result<bool, WalFetchError> {
    let (ready, coming) = (folder.join(&flags.name), folder.join(format!("{}.coming", flags.name)));
    let started = Instant::now();
    loop {
        match RealDisk.rename(&ready, &flags.path) {
            Ok(()) => return Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(io_error("move", &ready)(error)),
        }
        // Whoever fetches it holds the lock; if nobody does, what lies there was left behind.
        let abandoned = || RealDisk.lock_exclusive(&folder.join("lock")).is_ok();
        if !coming.exists() || started.elapsed() > AHEAD_PATIENCE || abandoned() {
            // It may have arrived between the two looks.
            return Ok(ready.exists() && RealDisk.rename(&ready, &flags.path).is_ok());
        }
        std::thread::sleep(LOOK);
    }
}

/// Starts the process that fetches ahead, unless it runs or has enough. Failing to is no failure.
fn continue_ahead(flags: &WalFetchFlags, program: &Path, folder: &Path) {
    if flags.prefetch == 0 || !Path::new("PG_VERSION").exists() {
        return;
    }
    let made = fs::create_dir_all(folder).is_ok();
    if !made || RealDisk.lock_exclusive(&folder.join("lock")).is_err() {
        return;
    }
    let mut command = Command::new(program);
    command.arg("wal-fetch").arg("--ahead").args(std::env::args_os().skip(2));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    // It must outlive this process, and is none of the server's children that the server waits for.
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    if let Err(error) = command.spawn() {
        tracing::debug!(%error, "cannot fetch ahead");
    }
}

/// Fetches the files behind `flags.name` until there are enough or no more. What goes wrong here is met again, and told, by whoever needs
/// the file.
pub async fn ahead(flags: &WalFetchFlags) -> Result<(), WalFetchError> {
    let folder = Path::new(FOLDER).join(PREFETCH);
    let Ok(_lock) = RealDisk.lock_exclusive(&folder.join("lock")) else { return Ok(()) };
    let context = Context::open(flags).await?;
    let size = context.replica.era().segment_size;
    let Some((tli, current)) = size.parse_file_name(&flags.name) else { return Ok(()) };
    let fetcher = context.fetcher(tli).await?;
    let depth = (u64::from(flags.prefetch) << 20) / size.bytes();
    clear(&folder, &fetcher, current)?;
    let wanted = (1..=depth.max(1)).map(|ahead| SegmentNumber(current.0.saturating_add(ahead)));
    let (mut wanted, mut running) = (wanted.fuse(), tokio::task::JoinSet::new());
    loop {
        while running.len() < AHEAD_AT_ONCE
            && let Some(number) = wanted.next()
        {
            let Some(step) = fetcher.lineage().step_of_segment(size, number, fetcher.end()) else { break };
            let (name, fetcher, folder) = (fetcher.file_name(step, number), fetcher.clone(), folder.clone());
            if folder.join(&name).exists() {
                continue;
            }
            running.spawn(async move {
                let coming = folder.join(format!("{name}.coming"));
                let fetched = async {
                    fs::write(&coming, b"").map_err(io_error("make", &coming))?;
                    let Some(segment) = fetcher.by_name(step.tli(), number).await? else { return Ok(false) };
                    // Without orders the archive may still get more of a segment that is not full.
                    if segment.filled < size.bytes() && fetcher.end() == Lsn::MAX {
                        return Ok(false);
                    }
                    fs::write(&coming, &segment.bytes).map_err(io_error("write", &coming))?;
                    let ready = folder.join(&name);
                    RealDisk.rename(&coming, &ready).map_err(io_error("rename", &coming))?;
                    Ok::<bool, WalFetchError>(true)
                };
                let outcome = fetched.await;
                // Left only where it did not become the file.
                let _ = fs::remove_file(&coming);
                outcome
            });
        }
        match running.join_next().await {
            Some(Ok(Ok(true))) => {}
            Some(Ok(Err(error))) => return Err(error),
            Some(_) | None => return Ok(()),
        }
    }
}

/// Removes what an earlier process left half-fetched, and files that recovery has passed.
fn clear(folder: &Path, fetcher: &Fetcher, current: SegmentNumber) -> Result<(), WalFetchError> {
    for entry in RealDisk.list(folder).map_err(io_error("list", folder))? {
        let name = entry.name.to_string_lossy();
        let passed = fetcher.size().parse_file_name(&name).is_some_and(|(_, number)| number <= current);
        if passed || name.ends_with(".coming") {
            let path = folder.join(&entry.name);
            RealDisk.remove_file(&path).map_err(io_error("remove", &path))?;
        }
    }
    Ok(())
}
