//! [`WalStorage`]: a recovered log, owned by the thread that receives its WAL.
//!
//! Invariants: `oldest <= durable <= written`; the ring ends at `written`; every file with bytes above `durable` is in
//! `touched` or in the sync that is in flight; a name that may not be durable yet sets `directory_touched`. At most one sync
//! is in flight, and none while the log is being cut.

use crate::layout::{FileId, INLINE_NAME, spare_name};
use crate::prepare::{Claim, SharedClaim, locked};
use crate::reader::Bounds;
use crate::ring::Ring;
use crate::segment::OpenSegment;
use crate::sync::{Durable, SyncDone, SyncJob, Written};
use crate::{
    CutDone, CutJob, Error, Latch, Layout, PersistJob, PrepareDone, PrepareJob, RemoveDone, RemoveJob, WalReader,
    segment,
};
use bytes::Bytes;
use disk::{Disk, File};
use lsn::{Lsn, Path, SystemId};
use std::collections::BTreeSet;
use std::io::IoSlice;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use wal_format::prefix::{self, PrefixOptions};

/// A recovered log.
#[derive(Debug)]
pub struct WalStorage {
    disk: Arc<dyn Disk>,
    directory: PathBuf,
    layout: Arc<Layout>,
    latch: Latch,
    bounds: Arc<Bounds>,
    started: bool,
    durable: Lsn,
    ring: Ring,
    current: Option<OpenSegment>,
    touched: Vec<OpenSegment>,
    directory_touched: bool,
    /// Files that have their names, the prepared one included.
    present: BTreeSet<FileId>,
    /// The files of the sync that is in flight.
    syncing: Option<Vec<OpenSegment>>,
    /// How many cuts were begun: tells results of jobs from before apart.
    cuts: u64,
    cutting: Option<Lsn>,
    preparing: Option<(FileId, SharedClaim)>,
    /// The segment for which there was no room; it is not prepared again, only made when it is needed.
    unprepared: Option<FileId>,
    spares: Vec<PathBuf>,
    /// Spares that removals under way will make.
    recycling: usize,
    next_spare: u64,
}

/// What recovery found.
pub(crate) struct Found {
    pub(crate) started: bool,
    pub(crate) oldest: Lsn,
    pub(crate) end: Lsn,
    pub(crate) present: BTreeSet<FileId>,
    pub(crate) spares: Vec<u64>,
}

impl WalStorage {
    pub(crate) fn new(
        disk: Arc<dyn Disk>,
        directory: PathBuf,
        layout: Arc<Layout>,
        latch: Latch,
        found: Found,
    ) -> Self {
        let bounds = Arc::new(Bounds::new(Arc::clone(&layout)));
        bounds.set_oldest(found.oldest);
        bounds.set_written(found.end);
        WalStorage {
            ring: Ring::new(layout.ring_bytes),
            spares: found.spares.iter().map(|number| directory.join(spare_name(*number))).collect(),
            recycling: 0,
            next_spare: found.spares.iter().max().map_or(0, |number| number.saturating_add(1)),
            disk,
            directory,
            layout,
            latch,
            bounds,
            started: found.started,
            durable: found.end,
            current: None,
            touched: Vec::new(),
            directory_touched: false,
            present: found.present,
            syncing: None,
            cuts: 0,
            cutting: None,
            preparing: None,
            unprepared: None,
        }
    }

    /// Says where an empty log begins: at the start of a segment. Nothing is written. Files of an attempt that was never
    /// recorded may lie there, so a cut to the same position comes next, as at any election.
    pub fn start_at(&mut self, lsn: Lsn) -> Result<(), Error> {
        self.latch.check()?;
        if self.started {
            return Err(Error::AlreadyStarted(self.oldest()));
        }
        if !lsn.is_valid() || self.layout.segment_size.offset_of(lsn) != 0 {
            return Err(Error::NotSegmentStart(lsn));
        }
        self.started = true;
        self.durable = lsn;
        self.bounds.set_oldest(lsn);
        self.bounds.set_written(lsn);
        Ok(())
    }

    /// Says where an empty log begins if that is inside a segment, as logs of foreign proposers do: what lies before in the
    /// segment is filled with pages that lead a reader to `lsn`. They are durable after the cut to `lsn` that comes next.
    pub fn start_inside(&mut self, lsn: Lsn, system_id: SystemId, magic: u16) -> Result<(), Error> {
        let segment_size = self.layout.segment_size;
        let options = PrefixOptions { segment_size, system_id, magic, tli: self.layout.path.tli_at(lsn) };
        let pages = prefix::before(options, lsn).ok_or(Error::NotSegmentStart(lsn))?;
        self.start_at(segment_size.start_of_segment_at(lsn))?;
        for page in pages {
            self.append(self.bounds.written(), Bytes::from(page))?;
        }
        Ok(())
    }

    /// End of the log in the page cache; 0/0 for an empty log without a start.
    pub fn written(&self) -> Written {
        Written(self.bounds.written())
    }

    /// How far the log is known to be durable.
    pub fn durable(&self) -> Durable {
        Durable(self.durable)
    }

    /// First byte of the log that is still here; 0/0 for an empty log without a start.
    pub fn oldest(&self) -> Lsn {
        self.bounds.oldest()
    }

    /// The latch of this log, for showing why it stopped.
    pub fn latch(&self) -> &Latch {
        &self.latch
    }

    /// Appends bytes that begin at the log's end.
    ///
    /// They go into the page cache and the ring; nothing is synced. On any error the log ends where it ended before. Out of
    /// space ([`Error::is_out_of_space`]) the same append may be tried again later; every other failure of the disk latches.
    /// The caller keeps at most [`DAMAGE_DISTANCE`](crate::DAMAGE_DISTANCE) bytes unsynced: recovery takes more for damage.
    pub fn append(&mut self, begin: Lsn, bytes: Bytes) -> Result<Written, Error> {
        self.append_all(begin, std::slice::from_ref(&bytes))
    }

    /// Appends several slices as one: one write per segment they touch.
    pub fn append_all(&mut self, begin: Lsn, slices: &[Bytes]) -> Result<Written, Error> {
        self.latch.check()?;
        self.not_cutting()?;
        if !self.started {
            return Err(Error::NotStarted);
        }
        let expected = self.bounds.written();
        if begin != expected {
            return Err(Error::NotContiguous { begin, expected });
        }
        let total: u64 = slices.iter().map(|slice| slice.len() as u64).sum();
        let end = begin.checked_add(total).ok_or(Error::Range(begin))?;
        // The last segment of the 64-bit range has no end that could be written down.
        if end > Lsn::MAX.align_down(self.layout.segment_size.bytes()) {
            return Err(Error::Range(begin));
        }
        let result = self.write(begin, slices);
        self.latch.clone().guard(result)?;
        let mut at = begin;
        for slice in slices {
            self.ring.push(at, slice.clone());
            at = at.saturating_add(slice.len() as u64);
        }
        self.bounds.set_written(end);
        Ok(Written(end))
    }

    fn write(&mut self, begin: Lsn, slices: &[Bytes]) -> Result<(), Error> {
        let mut at = begin;
        let mut batch: Vec<IoSlice<'_>> = Vec::with_capacity(slices.len());
        let mut batch_begin = begin;
        for slice in slices {
            let mut rest: &[u8] = slice;
            while !rest.is_empty() {
                let file_end = self.layout.file_end(at);
                let room = file_end.bytes_since(at);
                let (now, later) = rest.split_at(rest.len().min(usize::try_from(room).unwrap_or(usize::MAX)));
                batch.push(IoSlice::new(now));
                at = at.saturating_add(now.len() as u64);
                rest = later;
                if at == file_end {
                    self.write_batch(batch_begin, &batch)?;
                    batch.clear();
                    batch_begin = at;
                }
            }
        }
        if batch.is_empty() { Ok(()) } else { self.write_batch(batch_begin, &batch) }
    }

    /// Writes slices that lie in one file.
    fn write_batch(&mut self, at: Lsn, batch: &[IoSlice<'_>]) -> Result<(), Error> {
        let id = self.layout.file_at(at);
        let copies = self.layout.copies_at(at);
        let open = match self.current.take() {
            Some(open) if open.id == id && !copies => open,
            _ => {
                let path = self.layout.path_of(&self.directory, id).into();
                let file = if copies { self.open_child(id, at)? } else { self.open(id)? };
                OpenSegment { id, path, file }
            }
        };
        if !self.touched.iter().any(|touched| touched.id == id) {
            self.touched.push(open.clone());
        }
        let offset = self.layout.segment_size.offset_of(at);
        let result = open.file.write_vectored_at(batch, offset).map_err(Error::write("writing", &open.path));
        self.current = Some(open);
        result
    }

    /// Makes the file of a TLI that begins at `at`, inside a segment: whole, so its parent's bytes are copied. They are synced
    /// with the first bytes of the TLI, before any of those is durable. One that is there already was made by a write that
    /// failed, or before a crash, and may be torn.
    fn open_child(&mut self, id: FileId, at: Lsn) -> Result<Arc<dyn File>, Error> {
        let size = self.layout.segment_size;
        let offset = size.offset_of(at);
        let parent = self.layout.file_at(Lsn(at.0 - 1));
        let path: Arc<std::path::Path> = self.layout.path_of(&self.directory, parent).into();
        let file = segment::open_segment(&*self.disk, &path, size)?;
        // A recycled file may hold stale WAL there, and nothing of this log ever will.
        segment::write_zeros(&*file, &path, offset, size.bytes())?;
        let inline = self.directory.join(INLINE_NAME);
        let child = segment::make_copy(&*self.disk, &inline, size, (&*file, &path), offset)?;
        let to = self.layout.path_of(&self.directory, id);
        self.disk.rename(&inline, &to).map_err(Error::io("renaming", &inline))?;
        self.touched.retain(|touched| touched.id != id);
        if !self.touched.iter().any(|touched| touched.id == parent) {
            self.touched.push(OpenSegment { id: parent, path, file });
        }
        self.present.insert(id);
        self.directory_touched = true;
        Ok(child)
    }

    /// Opens a file for writing; makes it if it was not prepared in time.
    fn open(&mut self, id: FileId) -> Result<Arc<dyn File>, Error> {
        let path = self.layout.path_of(&self.directory, id);
        let size = self.layout.segment_size;
        if let Some((preparing, claim)) = &self.preparing
            && *preparing == id
        {
            let mut claim = locked(claim);
            if *claim == Claim::Prepared {
                // It has its name, but perhaps not durably: the job may still be syncing the directory.
                self.present.insert(id);
                self.directory_touched = true;
            } else {
                *claim = Claim::Revoked;
            }
        }
        if self.present.contains(&id) {
            return segment::open_segment(&*self.disk, &path, size);
        }
        let mut made = None;
        while let Some(spare) = self.spares.pop() {
            if let Some(file) = segment::open_spare(&*self.disk, &spare, size)? {
                made = Some((spare, file));
                break;
            }
        }
        let (from, file) = match made {
            Some(made) => made,
            None => {
                let from = self.directory.join(INLINE_NAME);
                let file = segment::make_zeroed(&*self.disk, &from, size)?;
                (from, file)
            }
        };
        self.disk.rename(&from, &path).map_err(Error::io("renaming", &from))?;
        self.present.insert(id);
        self.directory_touched = true;
        Ok(file)
    }

    /// Whether the storage goes on. A job may have stopped it whose end nobody has heard of yet.
    ///
    /// # Errors
    /// What stopped it; nothing is durable from then on until it is opened again.
    pub fn check(&self) -> Result<(), Error> {
        self.latch.check()
    }

    /// A job that makes durable all that was written so far; `None` if there is nothing new, a sync is in flight, the log is
    /// being cut, or the storage stopped.
    pub fn start_sync(&mut self) -> Option<SyncJob> {
        let to = self.bounds.written();
        if self.syncing.is_some() || self.cutting.is_some() || to <= self.durable || self.latch.reason().is_some() {
            return None;
        }
        let files = std::mem::take(&mut self.touched);
        self.syncing = Some(files.clone());
        let directory = std::mem::take(&mut self.directory_touched).then(|| self.directory.clone());
        Some(SyncJob { disk: Arc::clone(&self.disk), files, directory, to, cuts: self.cuts, latch: self.latch.clone() })
    }

    /// Takes the result of a sync and says how far the log is durable now. A sync from before a cut moves nothing.
    pub fn finish_sync(&mut self, done: SyncDone) -> Durable {
        if done.cuts == self.cuts {
            let ours = self.syncing.take().is_some() && done.to <= self.bounds.written();
            assert!(ours, "the result of a sync that was not started here");
            self.durable = self.durable.max(done.to);
        }
        Durable(self.durable)
    }

    /// A job that makes the next segment ready; `None` if it is there, is being made, found no room, or the current segment
    /// has no byte yet. To be asked for after every append, and run where it may take its time.
    pub fn prepare_job(&mut self) -> Option<PrepareJob> {
        let written = self.bounds.written();
        let size = self.layout.segment_size;
        let next = self.layout.file_at(size.start_of(size.segment_of(written).next()));
        let wanted = self.started && size.offset_of(written) > 0 && !self.present.contains(&next);
        let busy = self.preparing.is_some() || self.cutting.is_some() || self.latch.reason().is_some();
        if !wanted || busy || self.unprepared == Some(next) {
            return None;
        }
        let claim = Arc::new(Mutex::new(Claim::Open));
        self.preparing = Some((next, Arc::clone(&claim)));
        Some(PrepareJob {
            disk: Arc::clone(&self.disk),
            directory: self.directory.clone(),
            layout: Arc::clone(&self.layout),
            file: next,
            spare: self.spares.pop(),
            claim,
            latch: self.latch.clone(),
        })
    }

    /// Takes the result of a prepare job. Out of space is an error that needs no answer: the segment is made when it is
    /// needed, or the append is refused then.
    pub fn finish_prepare(&mut self, done: PrepareDone) -> Result<(), Error> {
        self.preparing = None;
        if *locked(&done.claim) == Claim::Prepared {
            self.present.insert(done.file);
        }
        match done.out_of_space {
            Some(path) => {
                self.unprepared = Some(done.file);
                Err(Error::OutOfSpace(path))
            }
            None => Ok(()),
        }
    }

    /// As [`start_cut`](Self::start_cut), and from now on the log lies on another path, which agrees with the old one below
    /// `to`; it may go on to TLIs that begin at or behind `to`, whose files are made when the log gets there.
    pub fn start_cut_on(&mut self, to: Lsn, path: Path) -> Result<CutJob, Error> {
        self.can_cut(to)?;
        self.layout = Arc::new(Layout { path, ..Layout::clone(&self.layout) });
        self.bounds.set_layout(Arc::clone(&self.layout));
        self.start_cut(to)
    }

    /// Begins to cut the log to `to`, which lies in it. From now on the log ends there; nothing can be appended until
    /// [`finish_cut`](Self::finish_cut). The job belongs on the thread that runs the syncs, behind them.
    pub fn start_cut(&mut self, to: Lsn) -> Result<CutJob, Error> {
        self.can_cut(to)?;
        self.cutting = Some(to);
        self.cuts += 1;
        self.durable = self.durable.min(to);
        // In this order: a reader that sees the new count sees the new end.
        self.bounds.set_written(to);
        self.bounds.count_cut();
        self.ring.cut(to);
        self.current = None;
        self.spares.clear();
        self.unprepared = None;
        if let Some((_, claim)) = &self.preparing {
            // A file that has its name already is deleted by the cut like any other. The job stays the one that is waited
            // for: two at a time would share a temporary name.
            *locked(claim) = Claim::Revoked;
        }
        let layout = Arc::clone(&self.layout);
        self.present.retain(|id| layout.own_range(*id).is_some_and(|(begin, _)| begin < to));
        self.directory_touched = false;
        let unsynced = self.unsynced();
        Ok(CutJob {
            disk: Arc::clone(&self.disk),
            directory: self.directory.clone(),
            layout: Arc::clone(&self.layout),
            to,
            unsynced,
            latch: self.latch.clone(),
        })
    }

    /// All files of what is left that may not be durable; they are the cut's to sync, whatever becomes of a sync that is in
    /// flight.
    fn unsynced(&mut self) -> Vec<OpenSegment> {
        self.touched.retain(|touched| self.present.contains(&touched.id));
        let mut files = std::mem::take(&mut self.touched);
        files.extend(self.syncing.take().unwrap_or_default());
        files
    }

    /// Takes the result of the cut; all of the log is durable now, and it can grow again.
    pub fn finish_cut(&mut self, done: CutDone) -> Durable {
        assert_eq!(self.cutting, Some(done.to), "the result of a cut that was not started here");
        self.cutting = None;
        self.durable = done.to;
        Durable(done.to)
    }

    /// Forgets whole segments below `lsn` and below what is durable, never the one that holds it; `None` if there are none.
    /// Readers do not see them any more, even before the job has run.
    pub fn remove_below(&mut self, lsn: Lsn) -> Option<RemoveJob> {
        if self.latch.reason().is_some() || self.cutting.is_some() || !self.started {
            return None;
        }
        let size = self.layout.segment_size;
        let keep = size.segment_of(lsn.min(self.durable));
        let going: Vec<FileId> = self.present.iter().take_while(|id| id.segment < keep).copied().collect();
        if going.is_empty() {
            return None;
        }
        self.bounds.set_oldest(self.oldest().max(size.start_of(keep)));
        self.touched.retain(|touched| touched.id.segment >= keep);
        self.present.retain(|id| id.segment >= keep);
        let (mut recycle, mut delete) = (Vec::new(), Vec::new());
        for id in going {
            let path = self.layout.path_of(&self.directory, id);
            if self.spares.len() + self.recycling < self.layout.max_spares {
                recycle.push((path, self.directory.join(spare_name(self.next_spare))));
                self.next_spare += 1;
                self.recycling += 1;
            } else {
                delete.push(path);
            }
        }
        let directory = self.directory.clone();
        Some(RemoveJob { disk: Arc::clone(&self.disk), directory, recycle, delete, latch: self.latch.clone() })
    }

    /// Takes the result of a removal.
    pub fn finish_remove(&mut self, done: RemoveDone) {
        self.recycling = self.recycling.saturating_sub(done.spares.len());
        self.spares.extend(done.spares);
        // Room was made: the next segment may be prepared after all.
        self.unprepared = None;
    }

    /// A job that replaces the log's control file, stopping and stopped with this storage.
    pub fn persist(&self, body: Vec<u8>) -> PersistJob {
        PersistJob::new(Arc::clone(&self.disk), &self.directory, body).latched_by(&self.latch)
    }

    /// Recent WAL from memory: up to `max` bytes from `from` on, without copying; `None` if the byte at `from` is not in
    /// the ring (older, or not written yet).
    pub fn read_recent(&self, from: Lsn, max: usize) -> Option<Vec<Bytes>> {
        self.ring.read(from, max)
    }

    /// A reader of the files, for other threads.
    pub fn reader(&self) -> WalReader {
        WalReader { disk: Arc::clone(&self.disk), directory: self.directory.clone(), bounds: Arc::clone(&self.bounds) }
    }

    fn can_cut(&self, to: Lsn) -> Result<(), Error> {
        self.latch.check()?;
        self.not_cutting()?;
        if !self.started {
            return Err(Error::NotStarted);
        }
        let (oldest, written) = (self.oldest(), self.bounds.written());
        let inside = oldest <= to && to <= written;
        if inside { Ok(()) } else { Err(Error::CutOutside { to, oldest, written }) }
    }

    fn not_cutting(&self) -> Result<(), Error> {
        self.cutting.map_or(Ok(()), |to| Err(Error::Cutting(to)))
    }
}

#[cfg(test)]
#[path = "storage_test.rs"]
mod tests;
