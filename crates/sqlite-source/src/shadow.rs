//! The shadow WAL: our copy of every life of the WAL, until it is in every replica.
//!
//! `<meta>/lock` is held while we run. `<meta>/generation` names the generation, 16 hex digits and a newline; it is replaced by
//! rename once the generation's first life is durable. `<meta>/generations/<generation>/wal/<index, 8 hex digits>.wal` is one life:
//! the header and frames of the WAL at the same offsets, byte for byte.
//!
//! A life's file may be longer than what was copied (the run after the last commit); what counts is found by following the checksums
//! from the first byte, which [`Shadow::resume`] does after every start: what a power cut tore is not taken for a copy.

use crate::error::Error;
use disk::{Disk, File, LockGuard, OpenMode};
use sqlite_wal::{Chain, HEADER_LEN, Header};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How much is read at once: at least one frame of the largest pages.
pub(crate) const READ_LEN: usize = 256 * 1024;

/// The folder.
#[derive(Debug)]
pub(crate) struct Shadow {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    _lock: LockGuard,
}

/// Where copying stands: the newest life of a generation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Log {
    /// The generation.
    pub(crate) generation: u64,
    /// Its newest life.
    pub(crate) index: u32,
    /// What was copied of it; `chain.committed() == chain.offset()`.
    pub(crate) chain: Chain,
}

impl Shadow {
    /// Opens the folder, making it if there is none, and takes its lock. `database` is for messages.
    pub(crate) fn open(disk: Arc<dyn Disk>, dir: &Path, database: &Path) -> Result<Shadow, Error> {
        let at = |what| move |source| Error::File { what, path: dir.to_path_buf(), source };
        disk.create_dir_all(dir).map_err(at("create the folder"))?;
        let lock = disk.lock_exclusive(&dir.join("lock")).map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => Error::Locked { path: database.to_path_buf(), meta: dir.to_path_buf() },
            _ => at("lock")(error),
        })?;
        if let Some(parent) = dir.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            disk.sync_directory(parent).map_err(at("sync the folder above"))?;
        }
        Ok(Shadow { disk, dir: dir.to_path_buf(), _lock: lock })
    }

    /// What an earlier run left: the newest life of the generation, its whole chain followed. `None` if there is nothing that could
    /// be gone on from.
    pub(crate) fn resume(&self) -> Result<Option<Log>, Error> {
        let path = self.dir.join("generation");
        let mut text = [0; 32];
        let read = match self.disk.open(&path, OpenMode::Read) {
            Ok(file) => file.read_at(&mut text, 0).map_err(self.at("read", &path))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(self.at("open", &path)(error)),
        };
        let Some(generation) = parse_generation(&text[..read]) else { return Ok(None) };
        let Some(index) = self.newest(generation)? else { return Ok(None) };
        let path = self.life_path(generation, index);
        let file = self.disk.open(&path, OpenMode::Read).map_err(self.at("open", &path))?;
        let chain = follow(file.as_ref()).map_err(self.at("read", &path))?;
        Ok(chain.map(|chain| Log { generation, index, chain }))
    }

    /// Forgets the generation: the next run begins a new one.
    pub(crate) fn forget(&self) -> Result<(), Error> {
        let path = self.dir.join("generation");
        match self.disk.remove_file(&path) {
            Ok(()) => self.disk.sync_directory(&self.dir).map_err(self.at("sync", &self.dir)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(self.at("remove", &path)(error)),
        }
    }

    /// Begins a life: its file with the header alone. What an earlier attempt left there is gone.
    pub(crate) fn begin_life(&self, generation: u64, index: u32, header: Header) -> Result<Log, Error> {
        let dir = self.lives(generation);
        if index == 0 {
            self.disk.create_dir_all(&dir).map_err(self.at("create the folder", &dir))?;
        }
        let path = self.life_path(generation, index);
        let file = match self.disk.open(&path, OpenMode::CreateNew) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => self.disk.open(&path, OpenMode::ReadWrite),
            other => other,
        };
        let file = file.map_err(self.at("create", &path))?;
        let begun = file.set_len(0).and_then(|()| file.write_at(&header.encode(), 0)).and_then(|()| file.sync_all());
        begun.map_err(self.at("write", &path))?;
        self.disk.sync_directory(&dir).map_err(self.at("sync", &dir))?;
        Ok(Log { generation, index, chain: Chain::new(header) })
    }

    /// Makes a generation whose first life is there the one to go on with, and removes all others.
    pub(crate) fn publish(&self, generation: u64) -> Result<(), Error> {
        let generations = self.dir.join("generations");
        for dir in [self.dir.join("generations").join(format!("{generation:016x}")), generations.clone()] {
            self.disk.sync_directory(&dir).map_err(self.at("sync", &dir))?;
        }
        let (path, new) = (self.dir.join("generation"), self.dir.join("generation.tmp"));
        match self.disk.remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(self.at("remove", &new)(error)),
            _ => {}
        }
        let file = self.disk.open(&new, OpenMode::CreateNew).map_err(self.at("create", &new))?;
        let written = file.write_at(format!("{generation:016x}\n").as_bytes(), 0).and_then(|()| file.sync_all());
        written.map_err(self.at("write", &new))?;
        self.disk.rename(&new, &path).map_err(self.at("replace", &path))?;
        self.disk.sync_directory(&self.dir).map_err(self.at("sync", &self.dir))?;
        let keep = format!("{generation:016x}");
        for entry in self.disk.list(&generations).map_err(self.at("list", &generations))? {
            if entry.is_dir && entry.name.to_str() != Some(&keep) {
                let dir = generations.join(entry.name);
                self.disk.remove_dir_all(&dir).map_err(self.at("remove", &dir))?;
            }
        }
        Ok(())
    }

    /// Opens the file of a life.
    pub(crate) fn open_life(&self, generation: u64, index: u32, mode: OpenMode) -> Result<Arc<dyn File>, Error> {
        let path = self.life_path(generation, index);
        self.disk.open(&path, mode).map_err(self.at("open", &path))
    }

    /// Names the file of a life in an error.
    pub(crate) fn life_error(&self, log: &Log, what: &'static str, source: io::Error) -> Error {
        self.at(what, &self.life_path(log.generation, log.index))(source)
    }

    /// Cuts a life that has ended to what was copied of it, which is all there was.
    pub(crate) fn end_life(&self, log: &Log) -> Result<(), Error> {
        let path = self.life_path(log.generation, log.index);
        let file = self.disk.open(&path, OpenMode::ReadWrite).map_err(self.at("open", &path))?;
        if file.len().map_err(self.at("ask for the length of", &path))? != log.chain.offset() {
            file.set_len(log.chain.offset()).and_then(|()| file.sync_all()).map_err(self.at("cut", &path))?;
        }
        Ok(())
    }

    /// Removes the lives below `index`; says how many were there.
    pub(crate) fn remove_below(&self, generation: u64, index: u32) -> Result<usize, Error> {
        let dir = self.lives(generation);
        let mut removed = 0;
        for entry in self.disk.list(&dir).map_err(self.at("list", &dir))? {
            let name = entry.name.to_str().and_then(parse_life);
            if name.is_some_and(|life| life < index) {
                let path = dir.join(entry.name);
                self.disk.remove_file(&path).map_err(self.at("remove", &path))?;
                removed += 1;
            }
        }
        Ok(removed)
    }

    /// Bytes of all lives of a generation.
    pub(crate) fn bytes(&self, generation: u64) -> Result<u64, Error> {
        let dir = self.lives(generation);
        Ok(self.disk.list(&dir).map_err(self.at("list", &dir))?.iter().map(|entry| entry.len).sum())
    }

    fn newest(&self, generation: u64) -> Result<Option<u32>, Error> {
        let dir = self.lives(generation);
        match self.disk.list(&dir) {
            Ok(entries) => Ok(entries.iter().filter_map(|entry| entry.name.to_str().and_then(parse_life)).max()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.at("list", &dir)(error)),
        }
    }

    fn lives(&self, generation: u64) -> PathBuf {
        self.dir.join("generations").join(format!("{generation:016x}")).join("wal")
    }

    fn life_path(&self, generation: u64, index: u32) -> PathBuf {
        self.lives(generation).join(format!("{index:08x}.wal"))
    }

    fn at<'a>(&self, what: &'static str, path: &'a Path) -> impl Fn(io::Error) -> Error + use<'a> {
        move |source| Error::File { what, path: path.to_path_buf(), source }
    }
}

fn parse_generation(text: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(text).ok()?.strip_suffix('\n')?;
    let hex = text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
    if hex { u64::from_str_radix(text, 16).ok() } else { None }
}

fn parse_life(name: &str) -> Option<u32> {
    let digits = name.strip_suffix(".wal").filter(|digits| digits.len() == 8)?;
    u32::from_str_radix(digits, 16).ok()
}

/// The chain of a life up to its last commit; `None` if not even its header is whole.
fn follow(file: &dyn File) -> io::Result<Option<Chain>> {
    let mut bytes = [0; HEADER_LEN];
    if file.read_at(&mut bytes, 0)? < HEADER_LEN {
        return Ok(None);
    }
    let Ok(header) = Header::parse(&bytes) else { return Ok(None) };
    let mut chain = Chain::new(header);
    let mut committed = chain;
    let frame_len = header.page_size.frame_len();
    let mut buffer = vec![0; READ_LEN / frame_len * frame_len];
    loop {
        let read = file.read_at(&mut buffer, chain.offset())?;
        for frame in buffer[..read].chunks_exact(frame_len) {
            match chain.next(frame) {
                Ok(frame) if frame.commit.is_some() => committed = chain,
                Ok(_) => {}
                Err(_) => return Ok(Some(committed)),
            }
        }
        if read < buffer.len() {
            return Ok(Some(committed));
        }
    }
}

#[cfg(test)]
#[path = "shadow_test.rs"]
mod tests;
