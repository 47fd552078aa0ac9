//! [`SimDisk`]: a disk in memory that crashes, runs full, fails and rots on demand, and remembers what was asked of it.
//!
//! What a crash may leave is modelled in `sim_image`. A power cut or a kill makes every open file useless, as the process that
//! had it open is gone; the disk itself goes on and can be opened anew. Clones are the same disk.

use crate::sim_crash::{CrashImages, by_seed};
use crate::sim_image::{Images, Node};
use crate::{DirEntry, Disk, File, LockGuard, OpenMode};
use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A kind of operation, for injecting faults and reading the journal.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Op {
    /// Opening an existing file.
    Open,
    /// Creating a file or directory.
    Create,
    /// Reading bytes or a length.
    Read,
    /// Writing bytes.
    Write,
    /// Changing a length.
    SetLen,
    /// Syncing a file, data or all.
    Sync,
    /// Syncing a directory.
    SyncDirectory,
    /// Renaming; the journal has the new name.
    Rename,
    /// Removing a file or directory.
    Remove,
    /// Listing a directory or asking whether a name exists.
    List,
    /// Taking a lock.
    Lock,
}

/// One operation that was carried out.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OpRecord {
    /// What.
    pub op: Op,
    /// On which path: of a file, the one it was opened by.
    pub path: PathBuf,
    /// First byte, for reads and writes; else 0.
    pub offset: u64,
    /// Bytes, for reads, writes and lengths; else 0.
    pub len: u64,
}

#[derive(Debug, Default)]
struct State {
    images: Images,
    /// Raised by every crash and kill: files opened before are useless.
    epoch: u64,
    locks: BTreeSet<PathBuf>,
    journal: Vec<OpRecord>,
    /// Operations that change the disk, counted since it was made.
    changes: u64,
    power_cut_at: Option<u64>,
    faults: Vec<(Op, u64, io::ErrorKind)>,
    capacity: Option<u64>,
    lies: bool,
}

/// A disk in memory. Paths are absolute; the root directory exists.
#[derive(Clone, Debug, Default)]
pub struct SimDisk {
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct SimFile {
    state: Arc<Mutex<State>>,
    inode: u64,
    epoch: u64,
    path: PathBuf,
    writable: bool,
}

struct SimLock {
    state: Arc<Mutex<State>>,
    epoch: u64,
    path: PathBuf,
}

impl Drop for SimLock {
    fn drop(&mut self) {
        let mut state = locked(&self.state);
        if state.epoch == self.epoch {
            state.locks.remove(&self.path);
        }
    }
}

/// A panic of another test thread leaves the state as consistent as a power cut does.
fn locked(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn power_is_cut() -> io::Error {
    io::Error::other("the simulated machine has no power")
}

fn not_found(path: &Path) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("{} does not exist", path.display()))
}

impl State {
    /// Counts, journals and perhaps fails one operation.
    fn begin(&mut self, op: Op, path: &Path, offset: u64, len: u64) -> io::Result<()> {
        if matches!(op, Op::Create | Op::Write | Op::SetLen | Op::Sync | Op::SyncDirectory | Op::Rename | Op::Remove) {
            if self.power_cut_at.is_some_and(|at| self.changes >= at) {
                return Err(power_is_cut());
            }
            self.changes += 1;
        } else if self.power_cut_at.is_some_and(|at| self.changes >= at) {
            return Err(power_is_cut());
        }
        if let Some(index) = self.faults.iter().position(|(kind, ..)| *kind == op) {
            if self.faults[index].1 == 0 {
                let (_, _, kind) = self.faults.remove(index);
                return Err(io::Error::new(kind, "injected fault"));
            }
            self.faults[index].1 -= 1;
        }
        self.journal.push(OpRecord { op, path: path.to_owned(), offset, len });
        Ok(())
    }

    fn parent_exists(&self, path: &Path) -> io::Result<()> {
        match path.parent().map(|parent| self.images.node(parent)) {
            Some(Some(Node::Directory)) => Ok(()),
            _ => Err(not_found(path.parent().unwrap_or(path))),
        }
    }

    fn free(&self) -> u64 {
        self.capacity.map_or(u64::MAX, |capacity| capacity.saturating_sub(self.images.used()))
    }
}

impl SimDisk {
    /// An empty disk of unlimited size.
    pub fn new() -> SimDisk {
        SimDisk::default()
    }

    /// Cuts the power and brings it back: the disk becomes one of the images that a power cut may leave, chosen by `seed`.
    /// Open files and locks are gone, injected faults too; the capacity stays.
    pub fn crash(&self, seed: u64) {
        let mut state = locked(&self.state);
        by_seed(&mut state.images, seed);
        state.restart();
    }

    /// Every disk that a power cut may leave now, each a disk of its own; this one stays as it is. Where there are more than
    /// `limit`, so many that are most different from each other; [`CrashImages::is_complete`] tells. At least 2 are given if
    /// there are 2.
    pub fn crash_images(&self, limit: usize) -> CrashImages {
        CrashImages::new(locked(&self.state).images.clone(), limit)
    }

    /// Another disk that is as this one, page cache and all. Nothing is open on it.
    pub fn fork(&self) -> SimDisk {
        SimDisk::of(locked(&self.state).images.clone())
    }

    /// A number for what can be read now, names and bytes: equal disks have the same.
    pub fn digest(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        locked(&self.state).images.hash(&mut hasher);
        hasher.finish()
    }

    pub(crate) fn of(images: Images) -> SimDisk {
        SimDisk { state: Arc::new(Mutex::new(State { images, ..State::default() })) }
    }

    /// Kills the process: open files and locks are gone, the page cache stays (and is still not durable).
    pub fn kill(&self) {
        locked(&self.state).restart();
    }

    /// Lets `changes` more changing operations succeed; after them everything fails until [`crash`](Self::crash).
    pub fn power_cut_after(&self, changes: u64) {
        let mut state = locked(&self.state);
        state.power_cut_at = Some(state.changes + changes);
    }

    /// How many changing operations (create, write, length, sync, rename, remove) were carried out so far.
    pub fn changes(&self) -> u64 {
        locked(&self.state).changes
    }

    /// Makes the `nth` next operation of a kind fail, once; 0 is the very next. A failed sync forgets the unsynced bytes of
    /// its file: they stay readable until a crash, and later syncs succeed without them, as on Linux.
    pub fn fail(&self, op: Op, nth: u64, error: io::ErrorKind) {
        locked(&self.state).faults.push((op, nth, error));
    }

    /// Lets files grow by `bytes` more in total, then `StorageFull`; `None` for no limit.
    pub fn set_free_space(&self, bytes: Option<u64>) {
        let mut state = locked(&self.state);
        state.capacity = bytes.map(|bytes| state.images.used().saturating_add(bytes));
    }

    /// Flips a bit of a file's byte, on the disk and in the page cache. `NotFound` if there is no such byte.
    pub fn rot(&self, path: &Path, offset: u64) -> io::Result<()> {
        let mut state = locked(&self.state);
        let Some(Node::File(number)) = state.images.node(path) else { return Err(not_found(path)) };
        match state.images.inode_mut(number) {
            Some(inode) if (offset as usize) < inode.live.len() => {
                inode.rot(offset as usize);
                Ok(())
            }
            _ => Err(not_found(path)),
        }
    }

    /// From now on syncs of files succeed and do nothing, or do what they should again: a disk that lies.
    pub fn drop_syncs(&self, lies: bool) {
        locked(&self.state).lies = lies;
    }

    /// The operations carried out since the last call, in order.
    pub fn take_journal(&self) -> Vec<OpRecord> {
        std::mem::take(&mut locked(&self.state).journal)
    }
}

impl State {
    fn restart(&mut self) {
        self.epoch += 1;
        self.locks.clear();
        self.faults.clear();
        self.power_cut_at = None;
    }
}

impl Disk for SimDisk {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        let mut state = locked(&self.state);
        let op = if mode == OpenMode::CreateNew { Op::Create } else { Op::Open };
        let inode = match (state.images.node(path), mode) {
            (Some(_), OpenMode::CreateNew) => return Err(io::ErrorKind::AlreadyExists.into()),
            (Some(Node::Directory), _) => return Err(io::ErrorKind::IsADirectory.into()),
            (None, OpenMode::Read | OpenMode::ReadWrite) => return Err(not_found(path)),
            (Some(Node::File(inode)), _) => {
                state.begin(op, path, 0, 0)?;
                inode
            }
            (None, OpenMode::CreateNew) => {
                state.parent_exists(path)?;
                state.begin(op, path, 0, 0)?;
                state.images.create_file(path)
            }
        };
        let epoch = state.epoch;
        let writable = mode != OpenMode::Read;
        Ok(Arc::new(SimFile { state: Arc::clone(&self.state), inode, epoch, path: path.to_owned(), writable }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = locked(&self.state);
        let node = state.images.node(from).ok_or_else(|| not_found(from))?;
        if node == Node::Directory || state.images.node(to) == Some(Node::Directory) {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        state.parent_exists(to)?;
        state.begin(Op::Rename, to, 0, 0)?;
        state.images.rename(from, to, node);
        Ok(())
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        let mut state = locked(&self.state);
        match state.images.node(path) {
            None => Err(not_found(path)),
            Some(Node::Directory) => Err(io::ErrorKind::IsADirectory.into()),
            Some(node) => {
                state.begin(Op::Remove, path, 0, 0)?;
                state.images.remove(path, node);
                Ok(())
            }
        }
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        let mut state = locked(&self.state);
        match state.images.node(path) {
            None => return Err(not_found(path)),
            Some(Node::File(_)) => return Err(io::ErrorKind::NotADirectory.into()),
            Some(Node::Directory) => {}
        }
        // Deepest first, each name on its own: that is what a crash in the middle shows.
        for (name, node) in state.images.below(path).into_iter().rev() {
            state.begin(Op::Remove, &name, 0, 0)?;
            state.images.remove(&name, node);
        }
        Ok(())
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        let mut state = locked(&self.state);
        let mut chain: Vec<&Path> = path.ancestors().collect();
        chain.reverse();
        for directory in chain {
            match state.images.node(directory) {
                Some(Node::Directory) => {}
                Some(Node::File(_)) => return Err(io::ErrorKind::NotADirectory.into()),
                None => {
                    state.begin(Op::Create, directory, 0, 0)?;
                    state.images.create_directory(directory);
                }
            }
        }
        Ok(())
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<DirEntry>> {
        let mut state = locked(&self.state);
        match state.images.node(directory) {
            None => return Err(not_found(directory)),
            Some(Node::File(_)) => return Err(io::ErrorKind::NotADirectory.into()),
            Some(Node::Directory) => {}
        }
        state.begin(Op::List, directory, 0, 0)?;
        let entry = |(path, node): (&Path, Node)| {
            let len = match node {
                Node::File(number) => state.images.inode(number).map_or(0, |inode| inode.live.len() as u64),
                Node::Directory => 0,
            };
            Some(DirEntry { name: path.file_name()?.to_owned(), len, is_dir: node == Node::Directory })
        };
        Ok(state.images.children(directory).filter_map(entry).collect())
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        let mut state = locked(&self.state);
        state.begin(Op::List, path, 0, 0)?;
        Ok(state.images.node(path).is_some())
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        let mut state = locked(&self.state);
        match state.images.node(path) {
            None => return Err(not_found(path)),
            Some(Node::File(_)) => return Err(io::ErrorKind::NotADirectory.into()),
            Some(Node::Directory) => {}
        }
        state.begin(Op::SyncDirectory, path, 0, 0)?;
        state.images.sync_directory(path);
        Ok(())
    }

    fn free_space(&self, path: &Path) -> io::Result<u64> {
        let state = locked(&self.state);
        state.images.node(path).map(|_| state.free()).ok_or_else(|| not_found(path))
    }

    fn lock_exclusive(&self, path: &Path) -> io::Result<LockGuard> {
        let mut state = locked(&self.state);
        state.parent_exists(path)?;
        state.begin(Op::Lock, path, 0, 0)?;
        if state.images.node(path).is_none() {
            state.images.create_file(path);
        }
        if !state.locks.insert(path.to_owned()) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let epoch = state.epoch;
        Ok(LockGuard::new(SimLock { state: Arc::clone(&self.state), epoch, path: path.to_owned() }))
    }
}

impl SimFile {
    fn begin(&self, op: Op, offset: u64, len: u64) -> io::Result<MutexGuard<'_, State>> {
        let mut state = locked(&self.state);
        if state.epoch != self.epoch {
            return Err(io::Error::other("the process that opened this file is gone"));
        }
        if matches!(op, Op::Write | Op::SetLen) && !self.writable {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        match state.begin(op, &self.path, offset, len) {
            Ok(()) => Ok(state),
            Err(error) => {
                if op == Op::Sync
                    && let Some(inode) = state.images.inode_mut(self.inode)
                {
                    inode.forget_pending();
                }
                Err(error)
            }
        }
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.begin(Op::Sync, 0, 0)?;
        if state.lies {
            return Ok(());
        }
        state.images.inode_mut(self.inode).ok_or_else(|| not_found(&self.path))?.sync();
        Ok(())
    }
}

impl File for SimFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let state = self.begin(Op::Read, offset, buffer.len() as u64)?;
        let live = &state.images.inode(self.inode).ok_or_else(|| not_found(&self.path))?.live;
        Ok(live.read(usize::try_from(offset).unwrap_or(usize::MAX), buffer))
    }

    fn write_vectored_at(&self, slices: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        let bytes: Vec<u8> = slices.iter().map(|slice| &**slice).collect::<Vec<&[u8]>>().concat();
        let mut state = self.begin(Op::Write, offset, bytes.len() as u64)?;
        let free = state.free();
        let inode = state.images.inode_mut(self.inode).ok_or_else(|| not_found(&self.path))?;
        let limit = (inode.live.len() as u64).saturating_add(free);
        let end = offset.saturating_add(bytes.len() as u64);
        if end > limit {
            // Part of it may be there, as on a real disk.
            let fits = limit.saturating_sub(offset) as usize;
            inode.write(offset as usize, &bytes[..fits]);
            return Err(io::ErrorKind::StorageFull.into());
        }
        inode.write(offset as usize, &bytes);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.begin(Op::SetLen, 0, len)?;
        let free = state.free();
        let inode = state.images.inode_mut(self.inode).ok_or_else(|| not_found(&self.path))?;
        if len > (inode.live.len() as u64).saturating_add(free) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        inode.set_len(len as usize);
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        let state = self.begin(Op::Read, 0, 0)?;
        Ok(state.images.inode(self.inode).ok_or_else(|| not_found(&self.path))?.live.len() as u64)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.sync()
    }

    fn sync_all(&self) -> io::Result<()> {
        self.sync()
    }
}

#[cfg(test)]
#[path = "sim_test.rs"]
mod tests;
