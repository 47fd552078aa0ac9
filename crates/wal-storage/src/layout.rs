//! [`Layout`]: which file holds which segment, and how much is kept.

use lsn::{Lsn, Path, SegmentNumber, SegmentSize};
use std::path::{Path as FilePath, PathBuf};

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

    /// The name of a segment's file. The segment in which a TLI begins is whole and has the new TLI's name, so the TLI of
    /// the segment's last byte decides.
    pub fn file_name(&self, segment: SegmentNumber) -> String {
        let last = self.segment_size.start_of(segment).saturating_add(self.segment_size.bytes() - 1);
        self.segment_size.file_name(self.path.tli_at(last), segment)
    }

    /// The segment whose file has this name in this log; `None` for any other file.
    pub(crate) fn parse_file_name(&self, name: &str) -> Option<SegmentNumber> {
        let (_, segment) = self.segment_size.parse_file_name(name)?;
        (self.file_name(segment) == name).then_some(segment)
    }

    pub(crate) fn file_path(&self, directory: &FilePath, segment: SegmentNumber) -> PathBuf {
        directory.join(self.file_name(segment))
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
