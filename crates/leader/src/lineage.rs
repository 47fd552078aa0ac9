//! [`Lineage`]: the TLIs a primary descends from, and how they stand to a log's path; [`Marks`]: what tells two promotions apart.
//!
//! Numbers and history files of two promotions can be identical, so a path also carries marks: the CRC field of the first
//! record on each TLI. A primary's history file does not have them; they are read from its stream at the switch points. For
//! switch points below the stream's start the log's own marks are taken: with a slot of ours, or after a comparison from the
//! oldest byte both sides have, what lies below is known to be shared.

use crate::{PrimaryFacts, Refusal};
use lsn::{Lsn, Path, PathEntry, SegmentSize, Tli};
use std::collections::BTreeMap;
use wal_format::{ScanOptions, Scanner};

/// A primary's TLIs, oldest first: each but the last with the position at which it was left.
#[derive(Clone, Debug)]
pub(crate) struct Lineage {
    left: Vec<(Tli, Lsn)>,
    newest: Tli,
}

/// How a primary's lineage stands to a log that it may continue.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Relation {
    /// The primary's path from the log's root; marks that only its stream can tell are 0.
    pub(crate) path: Path,
    /// It goes on to a TLI that the log is not on.
    pub(crate) adds_tli: bool,
}

impl Lineage {
    pub(crate) fn of(facts: &PrimaryFacts) -> Lineage {
        Lineage { left: facts.ancestors.iter().map(|a| (a.tli, a.switch)).collect(), newest: facts.tli }
    }

    /// First byte of the newest TLI; 0/0 if it is the only one known.
    pub(crate) fn newest_begin(&self) -> Lsn {
        self.left.last().map_or(Lsn::INVALID, |(_, switch)| *switch)
    }

    /// Where each TLI but the first begins.
    pub(crate) fn begins(&self) -> impl Iterator<Item = Lsn> {
        self.left.iter().map(|(_, switch)| *switch)
    }

    /// On which TLI to ask the primary for a segment: the newest that has bytes in it, because its file holds all of them.
    pub(crate) fn tli_of_segment(&self, position: Lsn, size: SegmentSize) -> Tli {
        let last = Lsn(size.start_of_segment_at(position).0.saturating_add(size.bytes() - 1));
        self.left.iter().find(|(_, switch)| *switch > last).map_or(self.newest, |(tli, _)| *tli)
    }

    /// The path from `root` on; `None` if `root` is not one of these TLIs, or they make no path.
    pub(crate) fn path_from(&self, root: Tli, mark: impl Fn(Tli, Lsn) -> u32) -> Option<Path> {
        let tlis: Vec<Tli> = self.left.iter().map(|(tli, _)| *tli).chain([self.newest]).collect();
        let at = tlis.iter().position(|tli| *tli == root)?;
        let later = self.left.iter().zip(tlis.iter().skip(1)).skip(at);
        let entries = later.map(|((_, begin), tli)| PathEntry { tli: *tli, begin: *begin, mark: mark(*tli, *begin) });
        Path::new([PathEntry { tli: root, begin: Lsn::INVALID, mark: 0 }].into_iter().chain(entries).collect()).ok()
    }

    /// Whether a log that lies on `log` up to `end` can be continued, as far as lineage can tell.
    pub(crate) fn relation(&self, log: &Path, end: Lsn) -> Result<Relation, Refusal> {
        let log = log.cut(end);
        let known = |tli, begin| {
            let entry = log.entries().iter().find(|entry| entry.tli == tli && entry.begin == begin);
            entry.map_or(0, |entry| entry.mark)
        };
        let root = log.entries().first().map_or(self.newest, |entry| entry.tli);
        let unrelated = || Refusal::Unrelated { primary: self.newest, log: log.clone() };
        let path = self.path_from(root, known).ok_or_else(unrelated)?;
        let at = path.agree(&log);
        if at < end {
            return Err(Refusal::Forked { primary: self.newest, at, end, log });
        }
        let adds_tli = path.last().tli > log.last().tli;
        Ok(Relation { path, adds_tli })
    }
}

/// The marks at the switch points that a stream passes.
#[derive(Debug, Default)]
pub(crate) struct Marks {
    readers: BTreeMap<Lsn, Reader>,
}

#[derive(Debug)]
struct Reader {
    scanner: Scanner,
    mark: Option<u32>,
    fault: Option<String>,
}

impl Marks {
    /// Waits for the first record at each of `begins` that the stream, which starts at `from`, comes by.
    pub(crate) fn new(begins: impl Iterator<Item = Lsn>, from: Lsn, size: SegmentSize) -> Marks {
        let reader = |begin| {
            let scanner = Scanner::at_record_boundary(ScanOptions::new(size), begin);
            (begin, Reader { scanner, mark: None, fault: None })
        };
        Marks { readers: begins.filter(|begin| *begin >= from).map(reader).collect() }
    }

    /// Looks at bytes of the stream, which come without gaps.
    pub(crate) fn feed(&mut self, begin: Lsn, bytes: &[u8]) {
        for reader in self.readers.values_mut().filter(|reader| reader.mark.is_none() && reader.fault.is_none()) {
            let at = reader.scanner.position();
            let skipped = at.bytes_since(begin);
            let Some(rest) = usize::try_from(skipped).ok().and_then(|skipped| bytes.get(skipped..)) else { continue };
            let mut mark = None;
            let result = reader.scanner.feed_with(rest, &mut |record| {
                mark.get_or_insert(record.header.crc);
            });
            reader.mark = mark;
            if let (None, Err(error)) = (mark, result) {
                reader.fault = Some(error.to_string());
            }
        }
    }

    /// The mark of the TLI that begins there, if it was read.
    pub(crate) fn get(&self, begin: Lsn) -> Option<u32> {
        self.readers.get(&begin)?.mark
    }

    /// The first switch point whose mark has not come by yet.
    pub(crate) fn missing(&self) -> Option<Lsn> {
        self.readers.iter().find(|(_, reader)| reader.mark.is_none()).map(|(begin, _)| *begin)
    }

    /// Why a mark will never come, if so.
    pub(crate) fn fault(&self) -> Option<(Lsn, &str)> {
        self.readers.iter().find_map(|(begin, reader)| Some((*begin, reader.fault.as_deref()?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wal_format::build::WalBuilder;

    fn lineage(left: &[(u32, u64)], newest: u32) -> Lineage {
        Lineage { left: left.iter().map(|(tli, at)| (Tli(*tli), Lsn(*at))).collect(), newest: Tli(newest) }
    }

    fn path(text: &str) -> Path {
        text.parse().unwrap()
    }

    #[test]
    fn a_primary_continues_a_log_that_it_contains() {
        let promoted = lineage(&[(1, 0x100), (2, 0x200)], 3);
        let relation = promoted.relation(&path("1:0/0:0"), Lsn(0x100)).unwrap();
        assert_eq!((relation.path, relation.adds_tli), (path("1:0/0:0;2:0/100:0;3:0/200:0"), true));
        let relation = promoted.relation(&path("1:0/0:0;2:0/100:A;3:0/200:B"), Lsn(0x300)).unwrap();
        assert_eq!((relation.path, relation.adds_tli), (path("1:0/0:0;2:0/100:A;3:0/200:B"), false));
        // What the log's path says beyond its end does not count.
        assert!(promoted.relation(&path("1:0/0:0;2:0/100:A;3:0/200:B"), Lsn(0x200)).unwrap().adds_tli);
        assert_eq!(promoted.relation(&path("2:0/0:0"), Lsn(0x180)).unwrap().path, path("2:0/0:0;3:0/200:0"));
    }

    #[test]
    fn a_primary_that_left_the_log_too_early_does_not() {
        let promoted = lineage(&[(1, 0x100)], 2);
        let forked = |log: &str, end| promoted.relation(&path(log), Lsn(end)).unwrap_err();
        assert!(matches!(forked("1:0/0:0", 0x101), Refusal::Forked { at: Lsn(0x100), end: Lsn(0x101), .. }));
        assert!(matches!(forked("1:0/0:0;2:0/80:A", 0x101), Refusal::Forked { at: Lsn(0x80), .. }));
        assert!(matches!(forked("1:0/0:0;2:0/100:A;3:0/180:B", 0x181), Refusal::Forked { at: Lsn(0x180), .. }));
        assert!(matches!(forked("7:0/0:0", 0x50), Refusal::Unrelated { primary: Tli(2), .. }));
        let still_there = lineage(&[], 1);
        assert!(matches!(still_there.relation(&path("1:0/0:0;2:0/80:A"), Lsn(0x81)), Err(Refusal::Forked { .. })));
        assert!(still_there.relation(&path("1:0/0:0;2:0/80:A"), Lsn(0x80)).is_ok());
    }

    #[test]
    fn segments_are_asked_for_on_the_newest_tli_that_has_bytes_in_them() {
        let size = SegmentSize::new(1 << 20).unwrap();
        let promoted = lineage(&[(1, 0x18_0000), (2, 0x18_8000), (4, 0x40_0000)], 5);
        let tli = |position| promoted.tli_of_segment(Lsn(position), size).0;
        assert_eq!([tli(0xF_0000), tli(0x10_0000), tli(0x3F_0000), tli(0x40_0000)], [1, 4, 4, 5]);
    }

    #[test]
    fn marks_are_the_checksums_of_the_first_records() {
        let size = SegmentSize::new(1 << 20).unwrap();
        let mut wal = WalBuilder::new(size, Lsn(0x10_0000));
        let first = wal.record(&[1; 100]);
        wal.record(&[2; 20_000]);
        let second = wal.switch();
        wal.record(&[3; 50]);
        let crc = |at: usize| wal.records()[at].crc;
        for piece in [1, 7, 1000, 1 << 20] {
            // One below the stream's start is not waited for.
            let begins = [Lsn(0xF_0000), first, second];
            let mut marks = Marks::new(begins.into_iter(), Lsn(0x10_0000), size);
            let mut at = wal.start();
            assert_eq!(marks.missing(), Some(first));
            for bytes in wal.bytes().chunks(piece) {
                marks.feed(at, bytes);
                at = Lsn(at.0 + bytes.len() as u64);
            }
            assert_eq!((marks.get(first), marks.get(second)), (Some(crc(1)), Some(crc(3))));
            assert_eq!((marks.missing(), marks.fault()), (None, None));
        }
        let mut marks = Marks::new([Lsn(0x10_0800)].into_iter(), Lsn(0x10_0000), size);
        marks.feed(wal.start(), wal.bytes());
        assert!(marks.fault().is_some(), "no record begins there");
    }
}
