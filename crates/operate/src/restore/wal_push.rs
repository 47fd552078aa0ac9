//! `archive_command`: one file of WAL from a server to the archive.
//!
//! **With a quorum** nothing is uploaded: the safekeepers do that. The file counts once the quorum has committed its last byte and the
//! archive holds every one of them, which is waited for.
//!
//! **Without one** this is how the archive is filled. A segment is uploaded as one merged object, after every record of it was walked: what
//! is no sound WAL is never archived. An object that is there with the same bytes is success; one with other bytes is a failure, and
//! nothing is replaced. Files that PostgreSQL has marked ready beside the one it offers are uploaded in the same call, and remembered by
//! a mark with their checksum, so that their own calls return at once. Exit code 0 means that the file is in the archive.
//!
//! A generation is TLI and mark, the CRC of the first record on that TLI, read from the server's own segment; the history file of the
//! TLI names its parent. A server archives history files before segments.

use super::open::OpenError;
use super::quorum::{Quorum, QuorumError};
use bytes::Bytes;
use config::WalPushFlags;
use disk::{Disk, RealDisk};
use lsn::{Lsn, SegmentNumber, SegmentSize, SystemId, Tli};
use replica_client::{
    Archive, Codec, CodecError, CommitTimes, Destination, Era, EraName, Generation, Parent, PieceName, PostgresReplica,
};
use restore::postgres::holdings::Holdings;
use restore::postgres::lineage::Lineage;
use restore::postgres::walk::{self, Meaning, Run};
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use wal_format::history::{History, HistoryError};
use wal_format::{PageHeader, ScanError, page};

/// The folder of the data directory that holds the marks.
const MARKS: &str = "seawall_pushed";
/// How long the quorum's archiver is waited for; PostgreSQL asks again after a failure.
const ARCHIVED_WITHIN: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(500);

/// Why a file is not in the archive.
#[derive(Debug, thiserror::Error)]
pub enum WalPushError {
    /// The replica.
    #[error(transparent)]
    Open(Box<OpenError>),
    /// The archive; also where it holds other bytes under the name.
    #[error(transparent)]
    Replica(Box<replica_client::Error>),
    /// A recipient.
    #[error("a recipient cannot be used: {0}")]
    Codec(#[from] CodecError),
    /// The era's name.
    #[error("{0}")]
    Era(String),
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
    /// A name PostgreSQL does not offer.
    #[error("{0:?} is the name of no WAL file; is this archive_command = 'seawall wal-push --replica URL %p %f'?")]
    Name(String),
    /// Bytes that are no segment of this name.
    #[error("{} is not the segment its name says: {problem}", path.display())]
    NotWal {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// Damaged WAL.
    #[error("{} holds WAL that is damaged: {source}; it is not archived", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: Box<ScanError>,
    },
    /// A history file that cannot be read.
    #[error("{}: {source}", path.display())]
    History {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: HistoryError,
    },
    /// The TLI's beginning is neither in pg_wal nor in the archive.
    #[error("the first segment of TLI {0} is neither in pg_wal nor in the archive, so its generation is not known")]
    Beginning(Tli),
    /// The quorum.
    #[error(transparent)]
    Quorum(Box<QuorumError>),
    /// Not yet.
    #[error(
        "{name} is not archived yet: the quorum has committed {committed}, and the archive holds WAL up to {archived}; PostgreSQL will ask again"
    )]
    NotYet {
        /// The file.
        name: String,
        /// The quorum's commit.
        committed: Lsn,
        /// The archive's end.
        archived: Lsn,
    },
}

boxed!(WalPushError: Open(OpenError), Replica(replica_client::Error), Quorum(QuorumError));

fn io_error<'a>(what: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> WalPushError + 'a {
    move |source| WalPushError::Io { what, path: path.to_path_buf(), source }
}

/// Archives one file, or waits until the quorum has. Returns how many files were uploaded.
pub async fn wal_push(flags: &WalPushFlags) -> Result<u64, WalPushError> {
    if flags.safekeepers.is_empty() { upload(flags).await } else { wait_for_quorum(flags).await.map(|()| 0) }
}

/// What a segment file says of itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Identity {
    system_id: SystemId,
    size: SegmentSize,
    tli: Tli,
    number: SegmentNumber,
}

/// What kind of file PostgreSQL offers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Offered {
    Segment,
    History(Tli),
    /// A backup history file, or the last and incomplete segment of a TLI that was left: recovery asks for neither, and what they tell
    /// stands in `snapshot.json` and in the first segment of the next TLI.
    NotNeeded,
}

fn offered(name: &str) -> Option<Offered> {
    if let Some(tli) = History::parse_file_name(name) {
        return Some(Offered::History(tli));
    }
    let upper_hex = |text: &str, digits| {
        text.len() == digits && text.bytes().all(|b| b.is_ascii_digit() || (b'A'..=b'F').contains(&b))
    };
    let (segment, rest) = name.split_at_checked(24)?;
    if !upper_hex(segment, 24) {
        return None;
    }
    match rest {
        "" => Some(Offered::Segment),
        ".partial" => Some(Offered::NotNeeded),
        _ => {
            let offset = rest.strip_prefix('.')?.strip_suffix(".backup")?;
            upper_hex(offset, 8).then_some(Offered::NotNeeded)
        }
    }
}

async fn upload(flags: &WalPushFlags) -> Result<u64, WalPushError> {
    let offer = offered(&flags.name).ok_or_else(|| WalPushError::Name(flags.name.clone()))?;
    let folder = flags.path.parent().unwrap_or(Path::new(".")).to_path_buf();
    if offer == Offered::NotNeeded {
        return Ok(0);
    }
    let marks = Marks { folder: PathBuf::from(MARKS), kept: Path::new("PG_VERSION").exists() };
    let bytes = fs::read(&flags.path).map_err(io_error("read", &flags.path))?;
    if marks.take(&flags.name, &bytes) {
        return Ok(0);
    }
    let codec = Codec::new::<String, &str>(&flags.recipient, &[])?;
    let store = Destination::parse(&flags.replica).map_err(OpenError::from)?.open()?;
    // Any segment beside a history file tells whose it is.
    let identity = match offer {
        Offered::Segment => identity(&flags.path, &flags.name, &bytes)?,
        _ => any_identity(&folder)?,
    };
    let era = Era {
        system_id: identity.system_id,
        name: EraName::parse(&flags.era).map_err(|error| WalPushError::Era(error.to_string()))?,
        segment_size: identity.size,
        server_version: 0,
        cluster: String::new(),
        previous: None,
    };
    let replica = Archive::new(store, codec).claim(&era).await?;
    let mut pushed = 0;
    let mut pusher = Pusher { replica, folder, identity, generations: BTreeMap::new() };
    pusher.one(&flags.name, bytes).await?;
    pushed += 1;
    // Others are a favour: their own calls tell what is wrong with them.
    if offer == Offered::Segment && marks.kept {
        for name in pusher.ready(&flags.name, usize::from(flags.parallelism).saturating_sub(1)) {
            let path = pusher.folder.join(&name);
            let Ok(bytes) = fs::read(&path) else { break };
            let crc = crc32c::crc32c(&bytes);
            if pusher.one(&name, bytes).await.is_err() {
                break;
            }
            marks.put(&name, crc);
            pushed += 1;
        }
    }
    Ok(pushed)
}

/// Reads the long header of a segment's first page.
fn identity(path: &Path, name: &str, bytes: &[u8]) -> Result<Identity, WalPushError> {
    let wrong = |problem: &str| WalPushError::NotWal { path: path.to_path_buf(), problem: problem.to_owned() };
    let header = PageHeader::parse(bytes).ok_or_else(|| wrong("it is shorter than a page header"))?;
    let long = header.long.ok_or_else(|| wrong("its first page has no long header"))?;
    let size = SegmentSize::new(u64::from(long.segment_size)).map_err(|error| wrong(&error.to_string()))?;
    let (tli, number) = size.parse_file_name(name).ok_or_else(|| WalPushError::Name(name.to_owned()))?;
    if header.address != size.start_of(number) {
        return Err(wrong(&format!("its first page says it belongs at {}", header.address)));
    }
    if bytes.len() as u64 != size.bytes() {
        return Err(wrong(&format!("it has {} bytes instead of {}", bytes.len(), size.bytes())));
    }
    Ok(Identity { system_id: long.system_id, size, tli, number })
}

/// From any segment of the folder.
fn any_identity(folder: &Path) -> Result<Identity, WalPushError> {
    let entries = RealDisk.list(folder).map_err(io_error("list", folder))?;
    for entry in entries.iter().rev() {
        let name = entry.name.to_string_lossy();
        let path = folder.join(&entry.name);
        if offered(&name) != Some(Offered::Segment) {
            continue;
        }
        let mut head = vec![0; page::LONG_HEADER];
        let read = RealDisk.open(&path, disk::OpenMode::Read).and_then(|file| file.read_at(&mut head, 0));
        let header = read.ok().and_then(|_| PageHeader::parse(&head)).and_then(|header| header.long);
        // A recycled file has a header of an earlier place, but the same cluster's.
        if let Some(long) = header
            && let Ok(size) = SegmentSize::new(u64::from(long.segment_size))
            && let Some((tli, number)) = size.parse_file_name(&name)
        {
            return Ok(Identity { system_id: long.system_id, size, tli, number });
        }
    }
    let path = folder.to_path_buf();
    Err(WalPushError::NotWal { path, problem: "it holds no segment that says whose WAL this is".to_owned() })
}

struct Pusher {
    replica: PostgresReplica,
    /// `pg_wal`.
    folder: PathBuf,
    identity: Identity,
    generations: BTreeMap<Tli, Generation>,
}

impl Pusher {
    async fn one(&mut self, name: &str, bytes: Vec<u8>) -> Result<(), WalPushError> {
        match offered(name) {
            Some(Offered::History(tli)) => self.history(tli, bytes).await,
            Some(Offered::Segment) => self.segment(name, bytes).await,
            _ => Ok(()),
        }
    }

    async fn segment(&mut self, name: &str, bytes: Vec<u8>) -> Result<(), WalPushError> {
        let path = self.folder.join(name);
        let found = identity(&path, name, &bytes)?;
        if (found.system_id, found.size) != (self.identity.system_id, self.identity.size) {
            return Err(WalPushError::NotWal { path, problem: "it is another cluster's".to_owned() });
        }
        let run = Run {
            size: found.size,
            system_id: found.system_id,
            start: found.size.start_of(found.number),
            bytes: &bytes,
        };
        let (mut first, mut last) = (None, None);
        walk::records(run, |_, meaning| {
            if let Meaning::End { at, .. } = meaning {
                first.get_or_insert(at);
                last = Some(at);
            }
        })
        .map_err(|source| WalPushError::Damaged { path, source: Box::new(source) })?;
        let generation = self.generation(found.tli).await?;
        let commits = CommitTimes { first, last };
        self.replica.put_piece(generation, PieceName::segment(found.number.0), Bytes::from(bytes), commits).await?;
        Ok(())
    }

    /// A history file alone cannot be archived before its TLI has a record, because the generation is named by that; the first segment
    /// brings it along. What can be said now is whether it is one.
    async fn history(&mut self, tli: Tli, bytes: Vec<u8>) -> Result<(), WalPushError> {
        let path = self.folder.join(History::file_name(tli));
        History::parse(tli, &bytes).map_err(|source| WalPushError::History { path, source })?;
        self.generation(tli).await.map(drop)
    }

    /// The generation of a TLI, made known in the archive with its parent and its history.
    async fn generation(&mut self, tli: Tli) -> Result<Generation, WalPushError> {
        if let Some(known) = self.generations.get(&tli) {
            return Ok(*known);
        }
        let path = self.folder.join(History::file_name(tli));
        let history = match fs::read(&path) {
            Ok(bytes) => Some(bytes),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(io_error("read", &path)(error)),
        };
        let tree = self.replica.lineages().await?;
        let parsed = history.as_ref().map(|bytes| {
            History::parse(tli, bytes).map_err(|source| WalPushError::History { path: path.clone(), source })
        });
        let parsed = parsed.transpose()?;
        // The first TLI that an archive sees is its root, whatever its number.
        let root = Generation::of_tli(0, tli);
        let older = tree.keys().any(|generation| generation.tli() < tli);
        let left =
            parsed.as_ref().and_then(|history| history.entries().last()).filter(|_| older && !tree.contains_key(&root));
        let Some(left) = left else {
            self.replica.put_parent(root, Parent::Root).await?;
            if let Some(history) = history {
                self.replica.put_history(root, Bytes::from(history)).await?;
            }
            self.generations.insert(tli, root);
            return Ok(root);
        };
        let switch = left.switch;
        let generation = match self.mark(tli, switch)? {
            Some(mark) => Generation::of_tli(mark, tli),
            // The segment is gone from here, so it was archived: then there is exactly one that left at this point.
            None => {
                let same = |(generation, parent): &(&Generation, &Option<Parent>)| {
                    generation.tli() == tli && matches!(parent, Some(Parent::Of { switch: at, .. }) if *at == switch)
                };
                let mut known = tree.iter().filter(same).map(|(generation, _)| *generation);
                match (known.next(), known.next()) {
                    (Some(only), None) => only,
                    _ => return Err(WalPushError::Beginning(tli)),
                }
            }
        };
        let parent = Box::pin(self.generation(left.tli)).await?;
        self.replica.put_parent(generation, Parent::Of { generation: parent, switch }).await?;
        if let Some(history) = history {
            self.replica.put_history(generation, Bytes::from(history)).await?;
        }
        self.generations.insert(tli, generation);
        Ok(generation)
    }

    /// The CRC of the first record at `switch` on `tli`; `None` if its segment is not in `pg_wal`.
    fn mark(&self, tli: Tli, switch: Lsn) -> Result<Option<u32>, WalPushError> {
        let size = self.identity.size;
        let number = size.segment_of(switch);
        let path = self.folder.join(size.file_name(tli, number));
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(io_error("read", &path)(error)),
        };
        let run = Run { size, system_id: self.identity.system_id, start: size.start_of(number), bytes: &bytes };
        let mut mark = None;
        // The segment may still be written: what comes behind the record does not matter.
        let walked = walk::records(run, |record, _| {
            if record.start >= switch && mark.is_none() {
                mark = Some(record.header.crc);
            }
        });
        match (mark, walked) {
            (Some(mark), _) => Ok(Some(mark)),
            (None, Err(source)) if source.at() < switch => {
                Err(WalPushError::Damaged { path, source: Box::new(source) })
            }
            // Not written yet: what stands there is what the file was before.
            (None, _) => Ok(None),
        }
    }

    /// The next segments that PostgreSQL has marked ready, in order, at most `most`.
    fn ready(&self, behind: &str, most: usize) -> Vec<String> {
        let entries = RealDisk.list(&self.folder.join("archive_status")).unwrap_or_default();
        let names = entries.iter().filter_map(|entry| entry.name.to_str()?.strip_suffix(".ready").map(str::to_owned));
        let names = names.filter(|name| name.as_str() > behind && offered(name) == Some(Offered::Segment));
        names.take(most).collect()
    }
}

/// Which files were uploaded ahead of their call: a file each, named as the segment, with its checksum.
struct Marks {
    folder: PathBuf,
    /// Only in a data directory.
    kept: bool,
}

impl Marks {
    /// Whether exactly these bytes were uploaded before; the mark is used up.
    fn take(&self, name: &str, bytes: &[u8]) -> bool {
        let path = self.folder.join(name);
        let Some(text) = self.kept.then(|| fs::read_to_string(&path).ok()).flatten() else { return false };
        let _ = fs::remove_file(&path);
        text.trim() == format!("{:08x}", crc32c::crc32c(bytes))
    }

    /// A mark that cannot be put costs a second upload, which finds the same bytes.
    fn put(&self, name: &str, crc: u32) {
        let put =
            fs::create_dir_all(&self.folder).and_then(|()| fs::write(self.folder.join(name), format!("{crc:08x}\n")));
        if let Err(error) = put {
            tracing::debug!(%error, name, "an upload cannot be remembered");
        }
    }
}

/// Waits until the quorum has committed the file and its archiver has brought it to the archive.
async fn wait_for_quorum(flags: &WalPushFlags) -> Result<(), WalPushError> {
    match offered(&flags.name).ok_or_else(|| WalPushError::Name(flags.name.clone()))? {
        Offered::Segment => {}
        // The safekeepers archive histories themselves once they are public.
        Offered::History(_) | Offered::NotNeeded => return Ok(()),
    }
    let bytes = fs::read(&flags.path).map_err(io_error("read", &flags.path))?;
    let found = identity(&flags.path, &flags.name, &bytes)?;
    let source = config::ReplicaFlags { system_id: Some(found.system_id), ..config::ReplicaFlags::default() };
    let mut quorum = Quorum::new(flags.safekeepers.clone(), flags.cluster.as_ref().map(ToString::to_string));
    let (start, end) = (found.size.start_of(found.number), found.size.start_of(found.number.next()));
    let started = Instant::now();
    loop {
        let log = quorum.look().await?;
        let lineage = Lineage::of_path(&log.path);
        let mut archived = start;
        if log.end >= end && lineage.step_of_tli(found.tli).is_some() {
            let replica = super::open::postgres(&flags.replica, &source).await?;
            let held = Holdings::list(&replica, &lineage, found.number).await?;
            archived = held.reach(&lineage, found.size, start).end;
            if archived >= end {
                return Ok(());
            }
        }
        if started.elapsed() > ARCHIVED_WITHIN {
            return Err(WalPushError::NotYet { name: flags.name.clone(), committed: log.end, archived });
        }
        tokio::time::sleep(LOOK).await;
    }
}

#[cfg(test)]
#[path = "wal_push_test.rs"]
mod tests;
