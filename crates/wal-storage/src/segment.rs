//! Making and opening segment files.
//!
//! A segment is made under another name and gets its own when it is complete, so that a name always stands for a file of
//! full length; only a crash before a sync can leave a shorter one, which is filled up with zeros when it is written next.
//! Zeros are written, not promised: a file system need not change metadata on the commit path, and a full disk shows here.

use crate::Error;
use crate::layout::FileId;
use disk::{Disk, File, OpenMode};
use lsn::SegmentSize;
use std::io::{self, IoSlice};
use std::path::Path;
use std::sync::Arc;

/// A segment that was opened for writing. Its path is made once and shared: errors need it, every commit does not.
#[derive(Clone, Debug)]
pub(crate) struct OpenSegment {
    pub(crate) id: FileId,
    pub(crate) path: Arc<Path>,
    pub(crate) file: Arc<dyn File>,
}

impl OpenSegment {
    pub(crate) fn sync(&self) -> Result<(), Error> {
        self.file.sync_data().map_err(Error::io("syncing", &self.path))
    }
}

static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// So many zeros are made durable at a time while others commit.
const GENTLE_BYTES: u64 = 1 << 20;

/// Writes zeros from `from` to `to`, offsets in the file.
pub(crate) fn write_zeros(file: &dyn File, path: &Path, from: u64, to: u64) -> Result<(), Error> {
    let mut at = from;
    while at < to {
        let mut left = (to - at).min(1 << 20) as usize;
        let end = at + left as u64;
        let mut slices = Vec::with_capacity(16);
        while left > 0 {
            let part = left.min(ZEROS.len());
            slices.push(IoSlice::new(&ZEROS[..part]));
            left -= part;
        }
        file.write_vectored_at(&slices, at).map_err(Error::write("writing", path))?;
        at = end;
    }
    Ok(())
}

/// Creates a file, in place of a leftover of the same name.
pub(crate) fn create_fresh(disk: &dyn Disk, path: &Path) -> Result<Arc<dyn File>, Error> {
    match disk.open(path, OpenMode::CreateNew) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            disk.remove_file(path).map_err(Error::io("removing", path))?;
            disk.open(path, OpenMode::CreateNew).map_err(Error::write("creating", path))
        }
        other => other.map_err(Error::write("creating", path)),
    }
}

/// Makes a file of one segment's length, all zeros, not synced. If the disk is full nothing of it stays.
pub(crate) fn make_zeroed(disk: &dyn Disk, path: &Path, size: SegmentSize) -> Result<Arc<dyn File>, Error> {
    let file = create_fresh(disk, path)?;
    if let Err(error) = write_zeros(&*file, path, 0, size.bytes()) {
        if error.is_out_of_space() {
            disk.remove_file(path).map_err(Error::io("removing", path))?;
        }
        return Err(error);
    }
    Ok(file)
}

/// Makes a file of one segment's length that begins with the first `length` bytes of `parent`, zeros behind, not synced. If the
/// disk is full nothing of it stays.
pub(crate) fn make_copy(
    disk: &dyn Disk,
    path: &Path,
    size: SegmentSize,
    parent: (&dyn File, &Path),
    length: u64,
) -> Result<Arc<dyn File>, Error> {
    let file = create_fresh(disk, path)?;
    let filled =
        copy_prefix(parent, (&*file, path), length).and_then(|()| write_zeros(&*file, path, length, size.bytes()));
    if let Err(error) = filled {
        if error.is_out_of_space() {
            disk.remove_file(path).map_err(Error::io("removing", path))?;
        }
        return Err(error);
    }
    Ok(file)
}

/// Copies the first `length` bytes of one file into another.
pub(crate) fn copy_prefix(from: (&dyn File, &Path), to: (&dyn File, &Path), length: u64) -> Result<(), Error> {
    let mut buffer = vec![0; 1 << 20];
    let mut at = 0;
    while at < length {
        let want = (length - at).min(buffer.len() as u64) as usize;
        let read = from.0.read_at(&mut buffer[..want], at).map_err(Error::io("reading", from.1))?;
        if read < want {
            return Err(Error::io("reading", from.1)(io::ErrorKind::UnexpectedEof.into()));
        }
        to.0.write_at(&buffer[..want], at).map_err(Error::write("writing", to.1))?;
        at += want as u64;
    }
    Ok(())
}

/// As [`make_zeroed`], durable piece by piece: one sync of a whole segment would keep the disk from the commits that sync
/// meanwhile.
pub(crate) fn make_zeroed_gently(disk: &dyn Disk, path: &Path, size: SegmentSize) -> Result<Arc<dyn File>, Error> {
    let file = create_fresh(disk, path)?;
    let mut at = 0;
    while at < size.bytes() {
        let end = (at + GENTLE_BYTES).min(size.bytes());
        if let Err(error) = write_zeros(&*file, path, at, end) {
            if error.is_out_of_space() {
                disk.remove_file(path).map_err(Error::io("removing", path))?;
            }
            return Err(error);
        }
        file.sync_data().map_err(Error::io("syncing", path))?;
        at = end;
    }
    Ok(file)
}

/// Opens a spare, if it is there and of the right length; one of another length is removed.
pub(crate) fn open_spare(disk: &dyn Disk, path: &Path, size: SegmentSize) -> Result<Option<Arc<dyn File>>, Error> {
    let file = match disk.open(path, OpenMode::ReadWrite) {
        Ok(file) => file,
        // A cut removes spares that were promised to somebody already.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io("opening", path)(error)),
    };
    if file.len().map_err(Error::io("reading", path))? == size.bytes() {
        return Ok(Some(file));
    }
    disk.remove_file(path).map_err(Error::io("removing", path))?;
    Ok(None)
}

/// Opens a segment for writing and fills it up to full length if a crash left it shorter.
pub(crate) fn open_segment(disk: &dyn Disk, path: &Path, size: SegmentSize) -> Result<Arc<dyn File>, Error> {
    let file = disk.open(path, OpenMode::ReadWrite).map_err(Error::io("opening", path))?;
    let len = file.len().map_err(Error::io("reading", path))?;
    write_zeros(&*file, path, len.min(size.bytes()), size.bytes())?;
    Ok(file)
}
