//! Which generations a log's WAL belongs to.

use lsn::{Lsn, Path, SegmentSize, Tli};
use replica_client::{Generation, Parent};
use std::ops::Range;

/// One TLI of a log, as the replica has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Track {
    /// Its generation.
    pub generation: Generation,
    /// Its TLI.
    pub tli: Tli,
    /// Where it came from.
    pub parent: Parent,
    /// Its WAL: from the start of the segment in which it begins (the root: from 0/0) to where the next TLI leaves it, or the log's end.
    pub wal: Range<Lsn>,
}

/// The tracks of a log that is committed up to `end`, oldest first. A TLI counts only once something on it is committed: until then it
/// may never have been.
pub fn tracks(path: &Path, end: Lsn, segment_size: SegmentSize) -> Vec<Track> {
    let entries = path.entries();
    let mut tracks: Vec<Track> = Vec::new();
    for (number, entry) in entries.iter().enumerate() {
        if number > 0 && end <= entry.begin {
            break;
        }
        let generation = Generation::of_tli(entry.mark, entry.tli);
        let switch = entries.get(number + 1).map_or(Lsn::MAX, |next| next.begin);
        let (parent, begin) = match tracks.last() {
            None => (Parent::Root, Lsn::INVALID),
            Some(parent) => {
                let parent = Parent::Of { generation: parent.generation, switch: entry.begin };
                (parent, segment_size.start_of_segment_at(entry.begin))
            }
        };
        tracks.push(Track { generation, tli: entry.tli, parent, wal: begin..switch.min(end) });
    }
    tracks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tli_begins_with_its_segment_and_ends_where_it_is_left() {
        let path: Path = "1:0/0:0;2:0/180010:8A0C44F1".parse().unwrap();
        let size = SegmentSize::new(1 << 20).unwrap();
        let root = |end: u64| Track {
            generation: Generation::of_tli(0, Tli(1)),
            tli: Tli(1),
            parent: Parent::Root,
            wal: Lsn(0)..Lsn(end),
        };
        assert_eq!(tracks(&path, Lsn(0x180000), size), [root(0x180000)]);
        assert_eq!(tracks(&path, Lsn(0x180010), size), [root(0x180010)], "nothing on the new one is committed");
        let second = Track {
            generation: Generation::of_tli(0x8A0C44F1, Tli(2)),
            tli: Tli(2),
            parent: Parent::Of { generation: Generation::of_tli(0, Tli(1)), switch: Lsn(0x180010) },
            wal: Lsn(0x100000)..Lsn(0x180018),
        };
        assert_eq!(tracks(&path, Lsn(0x180018), size), [root(0x180010), second]);
    }
}
