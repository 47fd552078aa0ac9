//! [`Layout`]: which file holds which byte, and how much is kept.

use lsn::{Lsn, Path, SegmentNumber, SegmentSize, Tli};
use std::path::{Path as FilePath, PathBuf};

/// One file of a log: a segment as it is on one TLI.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct FileId {
    pub(crate) segment: SegmentNumber,
    pub(crate) tli: Tli,
}

/// How a log lies in its directory.
#[derive(Clone, Debug)]
pub struct Layout {
    /// Bytes per segment.
    pub segment_size: SegmentSize,
    /// The lineage the log lies on; names the segments.
    pub path: Path,
    /// How many bytes of recent WAL are kept in memory.
    pub ring_bytes: usize,
    /// How many removed segments are kept as files to write into again.
    pub max_spares: usize,
}

impl Layout {
    /// A layout with a 64 MiB ring and two spare segments.
    pub fn new(segment_size: SegmentSize, path: Path) -> Layout {
        Layout { segment_size, path, ring_bytes: 64 << 20, max_spares: 2 }
    }

    /// The name of the file that holds the byte at `position`.
    ///
    /// A segment in which a TLI begins has a file for each TLI: the parent's holds what lies below the switch point and zeros
    /// above it, the child's is whole, its parent's part copied.
    pub fn file_name(&self, position: Lsn) -> String {
        self.name_of(self.file_at(position))
    }

    pub(crate) fn file_at(&self, position: Lsn) -> FileId {
        FileId { segment: self.segment_size.segment_of(position), tli: self.path.tli_at(position) }
    }

    fn name_of(&self, file: FileId) -> String {
        self.segment_size.file_name(file.tli, file.segment)
    }

    pub(crate) fn path_of(&self, directory: &FilePath, file: FileId) -> PathBuf {
        directory.join(self.name_of(file))
    }

    /// The positions whose bytes are this file's own, first and first behind; `None` if no byte of this log is.
    pub(crate) fn own_range(&self, file: FileId) -> Option<(Lsn, Lsn)> {
        let entries = self.path.entries();
        let index = entries.iter().position(|entry| entry.tli == file.tli)?;
        let start = self.segment_size.start_of(file.segment);
        let begin = if index == 0 { start } else { entries[index].begin.max(start) };
        let end = entries.get(index + 1).map_or(Lsn::MAX, |next| next.begin).min(self.segment_end(start));
        (begin < end).then_some((begin, end))
    }

    /// First position behind `position` whose byte lies in another file.
    pub(crate) fn file_end(&self, position: Lsn) -> Lsn {
        let segment_end = self.segment_end(position);
        let later = self.path.entries().iter().skip(1).map(|entry| entry.begin);
        later.filter(|begin| *begin > position).min().unwrap_or(Lsn::MAX).min(segment_end)
    }

    /// Whether a TLI begins at `position`, inside a segment: its file begins with a copy of its parent's.
    pub(crate) fn copies_at(&self, position: Lsn) -> bool {
        let begins = self.path.entries().iter().skip(1).any(|entry| entry.begin == position);
        begins && self.segment_size.offset_of(position) != 0
    }

    /// The files that hold the byte at `position`: its own first, then copies in the files of TLIs that begin later in the
    /// segment.
    pub(crate) fn files_with(&self, position: Lsn) -> impl Iterator<Item = FileId> {
        let (own, end) = (self.file_at(position), self.segment_end(position));
        let later = self.path.entries().iter().skip(1).filter(move |e| position < e.begin && e.begin < end);
        std::iter::once(own).chain(later.map(move |entry| FileId { tli: entry.tli, ..own }))
    }

    /// The file of this log that has this name; `None` for any other file.
    pub(crate) fn parse_file_name(&self, name: &str) -> Option<FileId> {
        let (tli, segment) = self.segment_size.parse_file_name(name)?;
        let file = FileId { segment, tli };
        self.own_range(file).map(|_| file)
    }

    /// First byte behind the segment that holds `position`.
    pub(crate) fn segment_end(&self, position: Lsn) -> Lsn {
        self.segment_size.start_of_segment_at(position).saturating_add(self.segment_size.bytes())
    }
}

/// The name of a spare: a removed segment that waits to be written again.
pub(crate) fn spare_name(number: u64) -> String {
    format!("spare.{number}")
}

/// Reads a spare's name back.
pub(crate) fn parse_spare_name(name: &str) -> Option<u64> {
    name.strip_prefix("spare.")?.parse().ok()
}

/// The file in which the next segment is made on the background thread.
pub(crate) const PREPARE_NAME: &str = "prepare.new";
/// The file in which a segment is made that was not prepared in time.
pub(crate) const INLINE_NAME: &str = "inline.new";
