//! [`Unrecovered`]: a log as a stopped or crashed process left it, until it is known where it ends.
//!
//! The *floor* is a flush LSN that the control file promises to be durable. Recovery scans from the start of the segment
//! that holds it. Whatever verifies beyond the floor is kept, because it may have been acknowledged after the floor was
//! written; and it is written and synced once more before anybody is told of it, because it may exist only in the page
//! cache of a machine that stayed up while its process was killed. What does not verify is left alone: bytes are cut at
//! elections, never here.
//!
//! A torn tail is what crashes leave. Damage is what they cannot leave: a record below the floor that does not verify, or
//! pages written for their place further behind the break than unsynced bytes can reach.

use crate::error::{Error, Latch};
use crate::layout::FileId;
use crate::segment::{self, OpenSegment};
use crate::storage::{Found, WalStorage};
use crate::sync::Durable;
use crate::{CutJob, Layout, cut, layout};
use disk::{Disk, OpenMode};
use lsn::{Lsn, SystemId, WAL_PAGE_SIZE};
use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use wal_format::{PageHeader, ScanOptions, Scanner};

/// Pages written for their place further than this behind the break are damage: at most so many bytes are ever unsynced.
pub const DAMAGE_DISTANCE: u64 = 8 << 20;

/// Bytes read and rewritten at a time; a multiple of the page size.
const CHUNK: usize = 1 << 20;

/// What the control file knows of the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Floor {
    /// A flush LSN that was durable once: the end of a record, or `log_start`. 0/0 for a log that never began.
    pub lsn: Lsn,
    /// Where the log began: a segment start.
    pub log_start: Lsn,
    /// The cluster's system identifier, if it is known; pages of another cluster are not WAL of this log.
    pub system_id: Option<SystemId>,
}

/// Why what is on the disk is less than what was durable once, or may be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// WAL below the floor does not verify, or is missing.
    #[error("the log was durable up to {floor}, but verifies only up to {found}: {why}")]
    BelowFloor {
        /// End of the last record that verifies, or the start of the segment.
        found: Lsn,
        /// What the control file says.
        floor: Lsn,
        /// What the scan met.
        why: String,
    },
    /// The log breaks off, and much later there is WAL again that was written for its place.
    #[error("the log breaks off at {broken} ({why}), but goes on at {page}: more than a crash can leave unsynced")]
    WrittenBehind {
        /// How far the scan came.
        broken: Lsn,
        /// The first page that should not be there.
        page: Lsn,
        /// What the scan met.
        why: String,
    },
}

/// What recovery found.
#[derive(Debug)]
pub struct Recovered {
    /// Where the log ends, all of it durable: with damage, what is left of it.
    pub end: Durable,
    /// Why this log must not be trusted to be whole; `None` after any ordinary crash.
    pub damage: Option<Damage>,
    /// Start of the record that ends at `end`, for a scanner that goes on there; `None` if that record was not scanned.
    pub last_record_start: Option<Lsn>,
    /// The page magic of the WAL that was scanned.
    pub magic: Option<u16>,
    /// The system identifier given, or found.
    pub system_id: Option<SystemId>,
}

/// Creates a log's directory and makes its name durable, and the names of the directories above it that were missing.
pub fn create_directory(disk: &dyn Disk, directory: &Path) -> Result<(), Error> {
    let mut missing = 0;
    for above in directory.ancestors() {
        if disk.exists(above).map_err(Error::io("looking for", above))? {
            break;
        }
        missing += 1;
    }
    disk.create_dir_all(directory).map_err(Error::write("creating", directory))?;
    // The last two also if they were there: whoever created them may have died before syncing.
    for above in directory.ancestors().skip(1).take(missing.max(2)) {
        disk.sync_directory(above).map_err(Error::io("syncing", above))?;
    }
    Ok(())
}

/// A log that was not recovered yet.
#[derive(Debug)]
pub struct Unrecovered {
    disk: Arc<dyn Disk>,
    directory: PathBuf,
    layout: Arc<Layout>,
    latch: Latch,
}

/// How far a scan came.
struct Scanned {
    /// End of the last verified record, or the scan's beginning.
    end: Lsn,
    /// Where the scan stopped: all pages before it fit their place.
    broken: Lsn,
    why: String,
    /// Whether a record ends at the floor and all before it verifies.
    reached_floor: bool,
    scanner: Scanner,
}

impl Unrecovered {
    /// Opens the log's directory, which is created if it is missing. Files that are not the log's are left alone.
    pub fn open(disk: Arc<dyn Disk>, directory: &Path, layout: Layout) -> Result<Unrecovered, Error> {
        create_directory(&*disk, directory)?;
        Ok(Unrecovered { disk, directory: directory.to_owned(), layout: Arc::new(layout), latch: Latch::new() })
    }

    /// The latch of this log: shared with the storage that recovery makes.
    pub fn latch(&self) -> &Latch {
        &self.latch
    }

    /// A job that does again a cut of which the control file says that it was begun. To be run before recovery, with a
    /// floor that is not above it.
    pub fn cut(&self, to: Lsn) -> CutJob {
        CutJob {
            disk: Arc::clone(&self.disk),
            directory: self.directory.clone(),
            layout: Arc::clone(&self.layout),
            to,
            unsynced: Vec::new(),
            latch: self.latch.clone(),
        }
    }

    /// Finds the end of the log, makes it durable, and says whether the log is damaged. The floor `0/0` gives an empty log,
    /// whatever files there are.
    pub fn recover(self, floor: Floor) -> Result<(WalStorage, Recovered), Error> {
        self.latch.check()?;
        let result = self.recover_files(floor);
        let (found, recovered) = self.latch.guard(result)?;
        let storage = WalStorage::new(self.disk, self.directory, self.layout, self.latch, found);
        Ok((storage, recovered))
    }

    fn recover_files(&self, floor: Floor) -> Result<(Found, Recovered), Error> {
        let (present, spares) = self.take_stock()?;
        if !floor.lsn.is_valid() {
            let found =
                Found { started: false, oldest: Lsn::INVALID, end: Lsn::INVALID, present: BTreeSet::new(), spares };
            let end = Durable(Lsn::INVALID);
            let system_id = floor.system_id;
            return Ok((found, Recovered { end, damage: None, last_record_start: None, magic: None, system_id }));
        }
        let scanned = self.scan(floor)?;
        let end = if scanned.reached_floor { scanned.end.max(floor.lsn) } else { scanned.end };
        let damage = if scanned.reached_floor {
            let from = scanned.broken.saturating_add(DAMAGE_DISTANCE);
            let page = self.written_page_behind(&present, from)?;
            page.map(|page| Damage::WrittenBehind { broken: scanned.broken, page, why: scanned.why.clone() })
        } else {
            Some(Damage::BelowFloor { found: end, floor: floor.lsn, why: scanned.why.clone() })
        };
        self.rewrite(floor.lsn, end)?;
        self.disk.sync_directory(&self.directory).map_err(Error::io("syncing", &self.directory))?;

        let found = Found { started: true, oldest: self.oldest(floor, &present), end, present, spares };
        let recovered = Recovered {
            end: Durable(end),
            damage,
            last_record_start: scanned
                .scanner
                .last_record_start()
                .filter(|_| scanned.scanner.verified_end() == Some(end)),
            magic: scanned.scanner.magic(),
            system_id: scanned.scanner.system_id(),
        };
        Ok((found, recovered))
    }

    /// The segments and spares there are; what a dead process left half-made is removed.
    fn take_stock(&self) -> Result<(BTreeSet<FileId>, Vec<u64>), Error> {
        let (mut present, mut spares) = (BTreeSet::new(), Vec::new());
        for entry in self.disk.list(&self.directory).map_err(Error::io("listing", &self.directory))? {
            let Some(name) = entry.name.to_str() else { continue };
            if let Some(file) = self.layout.parse_file_name(name) {
                present.insert(file);
            } else if let Some(number) = layout::parse_spare_name(name) {
                spares.push(number);
            } else if cut::is_leftover(name) {
                let path = self.directory.join(name);
                self.disk.remove_file(&path).map_err(Error::io("removing", &path))?;
            }
        }
        Ok((present, spares))
    }

    fn scan(&self, floor: Floor) -> Result<Scanned, Error> {
        let size = self.layout.segment_size;
        let segment_start = size.start_of_segment_at(floor.lsn);
        let begin = segment_start.max(floor.log_start.min(floor.lsn));
        let options = ScanOptions { system_id: floor.system_id, ..ScanOptions::new(size) };
        // At a floor that is a segment start a record has ended, so none can go on there; elsewhere one may reach into the
        // segment from before it.
        let inside = begin == segment_start && (floor.lsn > segment_start || floor.log_start == segment_start);
        let scanner =
            if inside { Scanner::at_page_start(options, begin) } else { Scanner::at_record_boundary(options, begin) };
        let mut scanned =
            Scanned { end: begin, broken: begin, why: String::new(), reached_floor: begin == floor.lsn, scanner };
        scanned.why = self.follow(&mut scanned, floor.lsn)?;
        scanned.broken = scanned.scanner.position();
        scanned.end = scanned.scanner.verified_end().unwrap_or(begin);
        Ok(scanned)
    }

    /// Feeds the scanner until the WAL ends, and says why it did.
    fn follow(&self, scanned: &mut Scanned, floor: Lsn) -> Result<String, Error> {
        let mut buffer = vec![0; CHUNK];
        let mut open: Option<(FileId, OpenSegment)> = None;
        loop {
            let at = scanned.scanner.position();
            let wanted = self.layout.file_at(at);
            let OpenSegment { path, file, .. } = match &open {
                Some((id, segment)) if *id == wanted => segment.clone(),
                _ => {
                    let Some(segment) = self.open_with(at)? else {
                        return Ok(format!("there is no segment {}", self.layout.file_name(at)));
                    };
                    open = Some((wanted, segment.clone()));
                    segment
                }
            };
            // Bytes up to the floor are fed on their own, to see whether a record ends exactly there.
            let stop = if at < floor { self.layout.file_end(at).min(floor) } else { self.layout.file_end(at) };
            let want = usize::try_from(stop.bytes_since(at)).unwrap_or(usize::MAX).min(CHUNK);
            let offset = self.layout.segment_size.offset_of(at);
            let read = file.read_at(&mut buffer[..want], offset).map_err(Error::io("reading", &path))?;
            if read == 0 {
                return Ok(format!("segment {} is shorter than a segment", self.layout.file_name(at)));
            }
            if let Err(error) = scanned.scanner.feed(&buffer[..read]) {
                return Ok(error.to_string());
            }
            if scanned.scanner.position() == floor {
                if scanned.scanner.record_end() != floor {
                    return Ok(format!("no record ends at {floor}"));
                }
                scanned.reached_floor = true;
            }
        }
    }

    /// A file that holds the byte at `position`; `None` if there is none. Where a TLI begins in the segment, a removal cut
    /// short by a crash may have left only the file of the later TLI, which is whole.
    fn open_with(&self, position: Lsn) -> Result<Option<OpenSegment>, Error> {
        for id in self.layout.files_with(position) {
            let path = self.layout.path_of(&self.directory, id);
            match self.disk.open(&path, OpenMode::ReadWrite) {
                Ok(file) => return Ok(Some(OpenSegment { id, path: path.into(), file })),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(Error::io("opening", &path)(error)),
            }
        }
        Ok(None)
    }

    /// The first page at or behind `from` that was written for its place.
    fn written_page_behind(&self, present: &BTreeSet<FileId>, from: Lsn) -> Result<Option<Lsn>, Error> {
        let size = self.layout.segment_size;
        let from = from.align_up(WAL_PAGE_SIZE);
        let mut buffer = vec![0; CHUNK];
        for id in present.iter().filter(|id| id.segment >= size.segment_of(from)) {
            // Below its own bytes a file repeats its parent's, above them it is the child's turn.
            let Some((begin, end)) = self.layout.own_range(*id) else { continue };
            let path = self.layout.path_of(&self.directory, *id);
            let file = self.disk.open(&path, OpenMode::Read).map_err(Error::io("opening", &path))?;
            let mut at = begin.align_up(WAL_PAGE_SIZE).max(from);
            while at < end {
                let read = file.read_at(&mut buffer, size.offset_of(at)).map_err(Error::io("reading", &path))?;
                for (index, page) in buffer[..read].chunks(WAL_PAGE_SIZE as usize).enumerate() {
                    let place = at.saturating_add(index as u64 * WAL_PAGE_SIZE);
                    if place < end && PageHeader::parse(page).is_some_and(|header| header.belongs_at(place)) {
                        return Ok(Some(place));
                    }
                }
                if read < CHUNK {
                    break;
                }
                at = at.saturating_add(read as u64);
            }
        }
        Ok(None)
    }

    /// Writes the bytes from `from` to `to` once more and syncs them.
    fn rewrite(&self, from: Lsn, to: Lsn) -> Result<(), Error> {
        let mut buffer = vec![0; CHUNK];
        let mut at = from;
        while at < to {
            let end = self.layout.file_end(at).min(to);
            let OpenSegment { path, file, .. } = self.open_with(at)?.ok_or_else(|| {
                let path = self.layout.path_of(&self.directory, self.layout.file_at(at));
                Error::io("opening", &path)(io::ErrorKind::NotFound.into())
            })?;
            if self.layout.copies_at(at) {
                // No sync has ended since the file was made, so its copy of the parent's bytes may be torn.
                let parent = self.layout.path_of(&self.directory, self.layout.file_at(Lsn(at.0 - 1)));
                let from = self.disk.open(&parent, OpenMode::ReadWrite).map_err(Error::io("opening", &parent))?;
                let (size, offset) = (self.layout.segment_size, self.layout.segment_size.offset_of(at));
                segment::copy_prefix((&*from, &parent), (&*file, &path), offset)?;
                // Nor need the parent's file be zero above the switch point: it may have been a recycled one.
                segment::write_zeros(&*from, &parent, offset, size.bytes())?;
                from.sync_all().map_err(Error::io("syncing", &parent))?;
            }
            while at < end {
                let want = usize::try_from(end.bytes_since(at)).unwrap_or(usize::MAX).min(CHUNK);
                let offset = self.layout.segment_size.offset_of(at);
                let read = file.read_at(&mut buffer[..want], offset).map_err(Error::io("reading", &path))?;
                if read < want {
                    return Err(Error::io("reading", &path)(io::ErrorKind::UnexpectedEof.into()));
                }
                file.write_at(&buffer[..want], offset).map_err(Error::io("writing", &path))?;
                at = at.saturating_add(want as u64);
            }
            file.sync_all().map_err(Error::io("syncing", &path))?;
        }
        Ok(())
    }

    /// First byte of the unbroken run of segments that reaches the floor. A removal cut short by a crash can leave older
    /// segments with a gap above them; nobody may read those.
    fn oldest(&self, floor: Floor, present: &BTreeSet<FileId>) -> Lsn {
        let size = self.layout.segment_size;
        let mut segment = size.segment_of(floor.lsn);
        while let Some(before) = segment.previous() {
            // The file of the segment's last TLI is whole, whatever became of the others.
            let last = self.layout.file_at(Lsn(size.start_of(segment).0 - 1));
            if !present.contains(&last) || size.start_of(before) < size.start_of_segment_at(floor.log_start) {
                break;
            }
            segment = before;
        }
        size.start_of(segment).max(floor.log_start.min(floor.lsn))
    }
}
