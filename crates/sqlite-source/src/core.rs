//! One database, looked after: attached, its WAL copied, its checkpoints run. Everything here blocks; `database.rs` drives it.
//!
//! Invariants, on which [`Control`] relies:
//! * every frame that was there when the guard began is in the shadow WAL before the guard is renewed;
//! * once `sealed`, the first renewal has happened under the write lock, and from then on the WAL's header can change at most once
//!   between two renewals, and only when every frame of the old life was copied;
//! * a header that changed otherwise (not the next number, or while we were not attached) is a lost life, and a new generation begins,
//!   unless the old life can be read to its end (`core/follow.rs`).

mod checkpoint;
mod follow;

use crate::control::{Control, Worker};
use crate::error::Error;
use crate::options::Options;
use crate::shadow::{Log, READ_LEN, Shadow};
use crate::snapshot::Frozen;
use crate::stats::Stats;
use crate::wal_file::{Begin, WalFile};
use disk::{Disk, OpenMode};
use sqlite_wal::{Chain, Header, PageSize, Position};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tracing::{debug, info, warn};

/// A checkpoint that did not get through is tried again after so long, or a tenth more pages.
const CHECKPOINT_AGAIN: Duration = Duration::from_secs(10);
/// Why a log cannot be gone on with, unless the life that ended can be followed.
const BEGAN_ANEW: &str = "the WAL began anew while nobody watched it";

/// A file's identity.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct FileId {
    device: u64,
    inode: u64,
}

/// A database under control.
#[derive(Debug)]
struct Attached {
    control: Control,
    id: FileId,
    page_size: PageSize,
    /// The first renewal under the write lock has happened.
    sealed: bool,
}

/// One database.
#[derive(Debug)]
pub(crate) struct Core {
    options: Options,
    wal_path: PathBuf,
    disk: Arc<dyn Disk>,
    shadow: Option<Arc<Shadow>>,
    attached: Option<Attached>,
    log: Option<Log>,
    /// The database file for raw reading. Closing it would drop SQLite's locks on the file, so it stays as long as anything of ours
    /// may be connected to the same file, and is never opened twice.
    raw: Option<(FileId, Arc<File>)>,
    /// The next attachment is to another database, or after something unexplained.
    start_over: Option<&'static str>,
    /// Counted up whenever control is lost or a generation begins; what was being read meanwhile is worth nothing.
    epoch: Arc<AtomicU64>,
    /// A snapshot is being read: the guard stays as it is.
    held: Arc<AtomicBool>,
    last_checkpoint: Instant,
    /// Where the log ended when a checkpoint last did not get through.
    stuck_at: Option<(u64, Instant)>,
    /// Something was copied since the last checkpoint.
    dirty: bool,
    /// Lives below this one were removed.
    removed_below: Position,
    stats: Stats,
}

/// What came of looking at the WAL.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Captured {
    Nothing,
    Copied,
    Broken(&'static str),
}

/// What came of a turn.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Turn {
    /// Where the copy ends.
    pub(crate) position: Position,
    /// Look again after so long, even if nothing is written.
    pub(crate) again: Option<Duration>,
}

impl Core {
    pub(crate) fn new(options: Options, disk: Arc<dyn Disk>) -> Core {
        Core {
            wal_path: options.wal_path(),
            stats: Stats::new(&options.path),
            options,
            disk,
            shadow: None,
            attached: None,
            log: None,
            raw: None,
            start_over: None,
            epoch: Arc::default(),
            held: Arc::default(),
            last_checkpoint: Instant::now(),
            stuck_at: None,
            dirty: false,
            removed_below: Position { generation: 0, index: 0, offset: 0 },
        }
    }

    pub(crate) fn shadow(&self) -> Option<&Arc<Shadow>> {
        self.shadow.as_ref()
    }

    pub(crate) fn position(&self) -> Option<Position> {
        self.log.as_ref().map(position_of)
    }

    /// One turn: attach if need be, copy what is new, checkpoint if it is time. `keep` is the lowest life a replica still needs.
    pub(crate) fn turn(&mut self, keep: Option<Position>) -> Result<Turn, Error> {
        let begun = Instant::now();
        let outcome = self.try_turn(keep);
        self.stats.turn(begun.elapsed(), outcome.as_ref().err());
        match &outcome {
            Err(Error::Busy(_)) if self.attached.is_some() => {}
            Err(_) => self.detach(),
            Ok(turn) => self.stats.position(turn.position),
        }
        outcome
    }

    fn try_turn(&mut self, keep: Option<Position>) -> Result<Turn, Error> {
        self.look_at_the_file()?;
        if self.attached.is_none() {
            self.attach()?;
        }
        let before = self.log;
        match self.attached.as_ref().is_some_and(|attached| attached.sealed) {
            true => self.capture_or_start_over()?,
            false => self.settle()?,
        }
        self.dirty |= self.log != before;
        if !self.held.load(Ordering::Acquire) && self.checkpoint_is_due() {
            self.checkpoint()?;
        }
        if let (Some(log), Some(shadow), Some(keep)) = (self.log, &self.shadow, keep)
            && keep.generation == log.generation
            && self.removed_below != keep.life()
        {
            shadow.remove_below(log.generation, keep.index.min(log.index))?;
            self.removed_below = keep.life();
        }
        self.stats.sizes(&self.options.path, &self.wal_path, self.shadow.as_deref(), self.log.as_ref());
        let position = self.position().ok_or_else(|| Error::Absent(self.options.path.clone()))?;
        Ok(Turn { position, again: self.again() })
    }

    /// When to look even if nothing is written: for the checkpoint by time, and for one that did not get through.
    fn again(&self) -> Option<Duration> {
        let interval = self.options.checkpoint_interval;
        let by_time = (self.dirty && !interval.is_zero())
            .then(|| (self.last_checkpoint + interval).saturating_duration_since(Instant::now()));
        let stuck = self.stuck_at.map(|(_, at)| (at + CHECKPOINT_AGAIN).saturating_duration_since(Instant::now()));
        by_time.into_iter().chain(stuck).min().map(|wait| wait.max(Duration::from_millis(100)))
    }

    /// Notices a database that is gone, not there yet, or another one.
    fn look_at_the_file(&mut self) -> Result<(), Error> {
        let found = match fs::metadata(&self.options.path) {
            Ok(found) => Some(found),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(source) => {
                return Err(Error::File { what: "look at", path: self.options.path.clone(), source });
            }
        };
        let id = found.as_ref().map(|found| FileId { device: found.dev(), inode: found.ino() });
        if let Some(attached) = &self.attached
            && id != Some(attached.id)
        {
            let reason = if id.is_some() { "the database file was replaced" } else { "the database file was deleted" };
            warn!(database = %self.options.path.display(), "{reason}");
            self.detach();
            self.start_over = Some(reason);
        }
        match found {
            // Before the first transaction the file has no bytes: setting WAL mode would write some, and fix the page size.
            Some(found) if found.len() > 0 => Ok(()),
            _ => Err(Error::Absent(self.options.path.clone())),
        }
    }

    /// Lets go of the database. The shadow WAL stays; so does the raw file.
    pub(crate) fn detach(&mut self) {
        self.epoch.fetch_add(1, Ordering::AcqRel);
        self.attached = None;
        self.log = None;
        self.stuck_at = None;
    }

    /// The next attachment begins a new generation.
    pub(crate) fn start_over(&mut self) {
        self.detach();
        self.start_over = Some("a replica cannot be gone on with");
    }

    fn attach(&mut self) -> Result<(), Error> {
        let shadow = match &self.shadow {
            Some(shadow) => Arc::clone(shadow),
            None => {
                let meta = self.options.meta_dir();
                Arc::clone(self.shadow.insert(Arc::new(Shadow::open(
                    Arc::clone(&self.disk),
                    &meta,
                    &self.options.path,
                )?)))
            }
        };
        let before = self.identify()?;
        let control = Control::take(&self.options.path, self.options.busy_timeout)?;
        let id = self.identify()?;
        if id != before {
            return Err(Error::Absent(self.options.path.clone()));
        }
        if self.raw.as_ref().is_some_and(|(raw, _)| *raw != id) {
            self.raw = None;
        }
        let page_size = PageSize::new(control.page_size()?).map_err(|error| Error::File {
            what: "use the page size of",
            path: self.options.path.clone(),
            source: io::Error::other(error),
        })?;
        self.attached = Some(Attached { control, id, page_size, sealed: false });
        self.log = match self.start_over {
            Some(_) => None,
            None => shadow.resume()?,
        };
        Ok(())
    }

    /// The first copy after attaching: going on with the log that was found, if nothing was missed, or a new generation.
    fn settle(&mut self) -> Result<(), Error> {
        let reason = match (&self.log, self.start_over) {
            (_, Some(reason)) => Some(reason),
            (None, None) => Some("there is no generation yet"),
            (Some(log), None) => {
                debug!(position = %position_of(log), "the shadow WAL was found and checked");
                self.seal()?
            }
        };
        reason.map_or(Ok(()), |reason| self.begin_generation(reason))
    }

    fn identify(&self) -> Result<FileId, Error> {
        let found = fs::metadata(&self.options.path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Error::Absent(self.options.path.clone()),
            _ => Error::File { what: "look at", path: self.options.path.clone(), source: error },
        })?;
        Ok(FileId { device: found.dev(), inode: found.ino() })
    }

    /// The first renewal: everything is copied while nobody can write, then the guard begins. Says why the log cannot be gone on with.
    fn seal(&mut self) -> Result<Option<&'static str>, Error> {
        // Most of it without the lock, so that writers hardly wait.
        match self.capture()? {
            Captured::Broken(reason) if reason != BEGAN_ANEW => return Ok(Some(reason)),
            _ => {}
        }
        let worker = self.control()?.worker()?;
        worker.lock()?;
        let captured = match self.capture()? {
            Captured::Broken(BEGAN_ANEW) => self.follow()?,
            captured => captured,
        };
        if let Captured::Broken(reason) = captured {
            return Ok(Some(reason));
        }
        self.control()?.renew(&worker)?;
        if let Some(attached) = &mut self.attached {
            attached.sealed = true;
        }
        Ok(None)
    }

    fn control(&self) -> Result<&Control, Error> {
        self.attached.as_ref().map(|attached| &attached.control).ok_or_else(|| Error::Absent(self.options.path.clone()))
    }

    fn capture_or_start_over(&mut self) -> Result<(), Error> {
        match self.capture()? {
            Captured::Broken(reason) => self.begin_generation(reason),
            _ => Ok(()),
        }
    }

    /// Copies what is new in the WAL.
    fn capture(&mut self) -> Result<Captured, Error> {
        let Some(log) = self.log else { return Ok(Captured::Broken("there is no generation yet")) };
        let Some(attached) = &self.attached else { return Err(Error::Absent(self.options.path.clone())) };
        let (sealed, page_size) = (attached.sealed, attached.page_size);
        let Some(wal) = WalFile::open(&self.wal_path)? else {
            // With our connection open nobody removes it; before the first seal it means that the life has ended unseen.
            return Ok(if sealed { Captured::Nothing } else { Captured::Broken("the WAL is gone") });
        };
        let known = *log.chain.header();
        match wal.begin()? {
            Begin::Empty | Begin::Invalid if sealed => Ok(Captured::Nothing),
            Begin::Empty | Begin::Invalid => Ok(Captured::Broken("the WAL was cut while nobody watched it")),
            Begin::Header(header) if header == known => {
                if !wal.still_has(&known, log.chain.offset(), log.chain.checksum())? {
                    // Unless it began anew just now, which the next look sees.
                    return Ok(match wal.begin()? {
                        Begin::Header(header) if header == known => {
                            Captured::Broken("the WAL was written over what had been copied")
                        }
                        _ if sealed => Captured::Nothing,
                        _ => Captured::Broken(BEGAN_ANEW),
                    });
                }
                self.copy(&wal)
            }
            Begin::Header(_) if !sealed => Ok(Captured::Broken(BEGAN_ANEW)),
            Begin::Header(header) if header.page_size != page_size => Ok(Captured::Broken("the page size changed")),
            Begin::Header(header) if lost_between(&known, &header) => {
                Ok(Captured::Broken("a life of the WAL was lost between two looks"))
            }
            Begin::Header(_) if log.index >= Position::INDEX_MAX => Ok(Captured::Broken("the last index is used up")),
            Begin::Header(header) => {
                let shadow = self.shadow.clone().ok_or_else(|| Error::Absent(self.options.path.clone()))?;
                shadow.end_life(&log)?;
                self.log = Some(shadow.begin_life(log.generation, log.index + 1, header)?);
                self.copy(&wal)?;
                Ok(Captured::Copied)
            }
        }
    }

    /// Copies frames up to the last commit there is. Frames of a transaction that is being written go into the file too and do not
    /// count: the next copy begins at the last commit again.
    fn copy(&mut self, wal: &WalFile) -> Result<Captured, Error> {
        let (Some(log), Some(shadow)) = (self.log.as_mut(), &self.shadow) else { return Ok(Captured::Nothing) };
        let frame_len = log.chain.header().page_size.frame_len();
        let (mut chain, mut committed) = (log.chain, log.chain);
        let mut first = vec![0; frame_len];
        // Mostly there is nothing new: one small read says so.
        if wal.read_at(&mut first, chain.offset())? < frame_len || { chain }.next(&first).is_err() {
            return Ok(Captured::Nothing);
        }
        let file = shadow.open_life(log.generation, log.index, OpenMode::ReadWrite)?;
        let mut buffer = vec![0; READ_LEN / frame_len * frame_len];
        loop {
            let start = chain.offset();
            let read = wal.read_at(&mut buffer, start)?;
            let frames = buffer[..read].chunks_exact(frame_len);
            let mut valid = 0;
            for frame in frames {
                let Ok(frame) = chain.next(frame) else { break };
                valid += frame_len;
                if frame.commit.is_some() {
                    committed = chain;
                }
            }
            let wanted = &buffer[..valid];
            file.write_at(wanted, start).map_err(|source| shadow.life_error(log, "write", source))?;
            if valid < buffer.len() {
                break;
            }
        }
        if committed == log.chain {
            return Ok(Captured::Nothing);
        }
        file.sync_data().map_err(|source| shadow.life_error(log, "sync", source))?;
        self.stats.copied(committed.offset() - log.chain.offset());
        log.chain = committed;
        Ok(Captured::Copied)
    }

    /// Begins a generation with the life that is in the WAL, from its first frame.
    fn begin_generation(&mut self, reason: &'static str) -> Result<(), Error> {
        info!(database = %self.options.path.display(), "a new generation begins: {reason}");
        self.epoch.fetch_add(1, Ordering::AcqRel);
        self.log = None;
        let shadow = self.shadow.clone().ok_or_else(|| Error::Absent(self.options.path.clone()))?;
        shadow.forget()?;
        let generation = rand::random::<u64>();
        let worker = self.control()?.worker()?;
        // A restart can come in between once, the guard sees to that; an empty WAL needs a header first.
        for _ in 0..8 {
            if self.try_generation(&shadow, generation, &worker)? {
                shadow.publish(generation)?;
                self.control()?.renew(&worker)?;
                if let Some(attached) = &mut self.attached {
                    attached.sealed = true;
                }
                (self.start_over, self.dirty, self.stuck_at) = (None, true, None);
                self.last_checkpoint = Instant::now();
                self.stats.generation();
                return worker.end();
            }
        }
        self.log = None;
        Err(Error::Busy(self.options.path.clone()))
    }

    /// On success the worker holds the write lock and everything in the WAL is copied.
    fn try_generation(&mut self, shadow: &Shadow, generation: u64, worker: &Worker) -> Result<bool, Error> {
        let header = match WalFile::open(&self.wal_path)? {
            Some(wal) => match wal.begin()? {
                Begin::Header(header) => Some((wal, header)),
                _ => None,
            },
            None => None,
        };
        let Some((wal, header)) = header else {
            worker.touch()?;
            return Ok(false);
        };
        self.log = Some(shadow.begin_life(generation, 0, header)?);
        self.copy(&wal)?;
        worker.lock()?;
        let same = matches!(wal.begin()?, Begin::Header(now) if now == header);
        let chain = self.log.as_ref().map_or(Chain::new(header), |log| log.chain);
        if same && wal.still_has(&header, chain.offset(), chain.checksum())? {
            self.copy(&wal)?;
            return Ok(true);
        }
        worker.end()?;
        Ok(false)
    }

    /// Freezes the database file as it is at the position returned: no checkpoint until the result is dropped.
    pub(crate) fn freeze(&mut self) -> Result<Frozen, Error> {
        let outcome = self.try_freeze();
        match &outcome {
            Err(Error::Busy(_)) if self.attached.is_some() => {}
            Err(_) => self.detach(),
            Ok(_) => {}
        }
        outcome
    }

    fn try_freeze(&mut self) -> Result<Frozen, Error> {
        self.try_turn(None)?;
        // A life that begins with the snapshot spares every restore from it the life before.
        let worth = self.log.as_ref().is_some_and(|log| log.chain.header().page_size.frames_in(log.chain.offset()) > 1);
        if worth && self.checkpoint()? {
            self.control()?.worker()?.touch()?;
        }
        self.capture_or_start_over()?;
        let worker = self.control()?.worker()?;
        worker.lock()?;
        if let Captured::Broken(reason) = self.capture()? {
            drop(worker);
            self.begin_generation(reason)?;
            return Err(Error::Busy(self.options.path.clone()));
        }
        self.renew_or_detach(&worker)?;
        let pages = self.control()?.page_count()?;
        worker.end()?;
        let raw = self.raw_file()?;
        let (Some(log), Some(shadow)) = (self.log, &self.shadow) else {
            return Err(Error::Absent(self.options.path.clone()));
        };
        let life = shadow.open_life(log.generation, log.index, OpenMode::Read)?;
        let mut frozen = Frozen {
            path: self.options.path.clone(),
            position: position_of(&log),
            header: *log.chain.header(),
            pages,
            raw,
            life,
            newest: Default::default(),
            epoch: (self.epoch.load(Ordering::Acquire), Arc::clone(&self.epoch)),
            held: Arc::clone(&self.held),
        };
        self.held.store(true, Ordering::Release);
        frozen.read_life()?;
        Ok(frozen)
    }

    fn raw_file(&mut self) -> Result<Arc<File>, Error> {
        let id = self.attached.as_ref().map(|attached| attached.id);
        if let Some((of, raw)) = &self.raw
            && Some(*of) == id
        {
            return Ok(Arc::clone(raw));
        }
        let path = self.options.path.clone();
        let file_error = |source| Error::File { what: "open", path: path.clone(), source };
        let file = Arc::new(File::open(&path).map_err(file_error)?);
        let found = file.metadata().map_err(file_error)?;
        let found = FileId { device: found.dev(), inode: found.ino() };
        self.raw = Some((found, Arc::clone(&file)));
        match Some(found) == id {
            true => Ok(file),
            false => Err(Error::Broken(path)),
        }
    }
}

fn position_of(log: &Log) -> Position {
    Position { generation: log.generation, index: log.index, offset: log.chain.offset() }
}

/// Whether the WAL may have lived once more, unseen, between these two. Whoever begins it anew counts the first salt up by one; so does a
/// checkpoint that cuts it to nothing. After a cut both salts may also be drawn, when a process died and another recovered the empty WAL:
/// then nothing says how often it lived, and no reader of the replica could tell that no life is missing. (The sequence number says
/// nothing: each connection counts its own.)
fn lost_between(known: &Header, next: &Header) -> bool {
    next.salts.first().wrapping_sub(known.salts.first()) != 1
}

#[cfg(test)]
#[path = "core_test.rs"]
mod tests;
