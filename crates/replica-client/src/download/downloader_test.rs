//! The downloader's acceptance cases, at parallelism 1, 8 and 1024: order, holes, failures, limits, and what is left behind.

use super::super::source::PlainChunks;
use super::*;
use crate::error::{Error, Kind};
use crate::names::{Piece, PieceName};
use bytes::Bytes;
use jiff::Timestamp;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::fs;
use std::future::Future;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

const PARALLELISMS: [usize; 3] = [1, 8, 1024];
const SEGMENT: u64 = 1 << 20;

/// What a piece of a [`Fake`] does.
#[derive(Debug, Clone)]
enum Content {
    Bytes(Vec<u8>),
    /// Fails at once.
    Unopened,
    /// Fails behind these bytes.
    Cut(Vec<u8>),
    /// Never ends.
    Hangs,
}

#[derive(Debug, Default)]
struct Seen {
    open: AtomicUsize,
    open_max: AtomicUsize,
    opened: Mutex<Vec<PieceName>>,
}

/// A replica in memory that can fail.
#[derive(Debug, Clone, Default)]
struct Fake {
    pieces: BTreeMap<PieceName, Content>,
    segment_size: Option<SegmentSize>,
    no_listing: bool,
    /// Readers stay open until so many are.
    meet: usize,
    seen: Arc<Seen>,
}

fn broken() -> Error {
    Error::NotFound { key: "the object".to_owned() }
}

impl WalSource for Fake {
    type Reader = FakeReader;

    async fn pieces(&self, generation: Generation, indexes: RangeInclusive<u64>) -> Result<Vec<Piece>, Error> {
        if self.no_listing {
            return Err(broken());
        }
        let piece = |name: &PieceName| Piece { generation, name: *name, stored: 1, created: Timestamp::UNIX_EPOCH };
        Ok(self.pieces.keys().filter(|name| indexes.contains(&name.index)).map(piece).collect())
    }

    fn open(&self, piece: &Piece) -> Result<FakeReader, Error> {
        let content = self.pieces[&piece.name].clone();
        self.seen.opened.lock().unwrap().push(piece.name);
        if matches!(content, Content::Unopened) {
            return Err(broken());
        }
        let open = self.seen.open.fetch_add(1, Ordering::SeqCst) + 1;
        self.seen.open_max.fetch_max(open, Ordering::SeqCst);
        Ok(FakeReader { content: Some(content), meet: self.meet, seen: Arc::clone(&self.seen) })
    }

    fn segment_size(&self) -> Option<SegmentSize> {
        self.segment_size
    }
}

#[derive(Debug)]
struct FakeReader {
    content: Option<Content>,
    meet: usize,
    seen: Arc<Seen>,
}

impl Drop for FakeReader {
    fn drop(&mut self) {
        self.seen.open.fetch_sub(1, Ordering::SeqCst);
    }
}

impl PlainChunks for FakeReader {
    async fn next_chunk(&mut self) -> Result<Option<Bytes>, Error> {
        while self.seen.open_max.load(Ordering::SeqCst) < self.meet {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        match self.content.take() {
            None | Some(Content::Unopened) => Ok(None),
            Some(Content::Hangs) => std::future::pending().await,
            Some(Content::Cut(bytes)) if bytes.is_empty() => Err(broken()),
            Some(Content::Cut(bytes)) => {
                self.content = Some(Content::Cut(Vec::new()));
                Ok(Some(bytes.into()))
            }
            Some(Content::Bytes(bytes)) if bytes.is_empty() => Ok(None),
            Some(Content::Bytes(mut bytes)) => {
                // Some chunks, each about half of what is left.
                let rest = bytes.split_off((bytes.len() / 2 + 7).min(bytes.len()));
                self.content = Some(Content::Bytes(rest));
                Ok(Some(bytes.into()))
            }
        }
    }
}

fn bytes_of(index: u64, len: usize) -> Vec<u8> {
    (0..len).map(|at| (at as u64 * 31 + index * 17) as u8).collect()
}

impl Fake {
    /// SQLite: an index of three pieces.
    fn with_index(mut self, index: u64) -> Fake {
        let whole = bytes_of(index, 100);
        for (start, end) in [(0, 32), (32, 40), (40, 100)] {
            let content = Content::Bytes(whole[start..end].to_vec());
            self.pieces.insert(PieceName::sqlite(index, start as u64), content);
        }
        self
    }

    fn with_indexes(indexes: RangeInclusive<u64>) -> Fake {
        indexes.fold(Fake::default(), Fake::with_index)
    }

    fn set(mut self, index: u64, start: u64, content: Content) -> Fake {
        self.pieces.insert(PieceName::sqlite(index, start), content);
        self
    }

    fn without(mut self, index: u64) -> Fake {
        self.pieces.retain(|name, _| name.index != index);
        self
    }

    /// PostgreSQL: bytes of a segment.
    fn with_span(mut self, index: u64, span: Range<u64>, bytes: &[u8]) -> Fake {
        self.segment_size = SegmentSize::new(SEGMENT).ok();
        self.pieces.insert(PieceName::of_segment(index, span), Content::Bytes(bytes.to_vec()));
        self
    }
}

struct Rig {
    dir: tempfile::TempDir,
}

impl Rig {
    fn new() -> Rig {
        Rig { dir: tempfile::tempdir().unwrap() }
    }

    fn downloader(&self, fake: Fake, range: impl Into<WalRange>, parallelism: usize) -> WalDownloader<Fake> {
        let options = DownloadOptions { parallelism, ..DownloadOptions::default() };
        WalDownloader::new(fake, self.dir.path().join("db"), Generation(7), range, options)
    }

    /// Names in the folder.
    fn files(&self) -> Vec<String> {
        let names =
            fs::read_dir(self.dir.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.collect()
    }

    async fn wait_until_empty(&self) {
        for _ in 0..2000 {
            if self.files().is_empty() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("left behind: {:?}", self.files());
    }
}

/// Runs a case at every parallelism.
fn each<F: Future<Output = ()>>(case: impl Fn(usize, Rig) -> F) {
    for parallelism in PARALLELISMS {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(case(parallelism, Rig::new()));
    }
}

async fn expect(downloader: &mut WalDownloader<Fake>, index: u64) -> WalFile {
    let file = downloader.next().await.unwrap().unwrap();
    assert_eq!(file.index, index);
    assert_eq!(fs::read(&file.path).unwrap(), bytes_of(index, 100));
    assert_eq!(file.length, 100);
    file
}

#[test]
fn files_come_whole_and_in_order_then_the_end() {
    each(|parallelism, rig| async move {
        for range in [0..=2, 1..=1, 0..=1, 1..=2] {
            let mut downloader = rig.downloader(Fake::with_indexes(0..=2), range.clone(), parallelism);
            for index in range.clone() {
                let file = expect(&mut downloader, index).await;
                assert!(file.path.ends_with(format!("db-{index:016x}-wal")), "{:?}", file.path);
                fs::remove_file(file.path).unwrap();
            }
            assert_eq!(downloader.next().await.unwrap(), None);
            assert_eq!(downloader.next().await.unwrap(), None);
            let count = range.clone().count() as u64;
            assert_eq!(downloader.delivered(), count);
            let progress = downloader.progress();
            assert_eq!((progress.files(), progress.files_total(), progress.plain()), (count, count, count * 100));
            assert_eq!((progress.stored(), progress.stored_total()), (count * 3, count * 3));
            downloader.close().await.unwrap();
            assert_eq!(rig.files(), Vec::<String>::new());
        }
    });
}

#[test]
fn a_thousand_files_come_in_exact_order() {
    each(|parallelism, rig| async move {
        let mut downloader = rig.downloader(Fake::with_indexes(5..=1004), 5..=1004, parallelism);
        for index in 5..=1004 {
            expect(&mut downloader, index).await;
            assert!(rig.files().len() as u64 <= (index - 4) + parallelism as u64, "more files ahead than allowed");
        }
        assert_eq!(downloader.next().await.unwrap(), None);
        let seen = &downloader.shared.source.seen;
        assert!(seen.open_max.load(Ordering::SeqCst) <= parallelism);
        assert_eq!(rig.files().len(), 1000);
    });
}

#[test]
fn what_is_missing_is_told_again_and_again() {
    each(|parallelism, rig| async move {
        let all = Fake::with_indexes(3..=5);
        let cases =
            [(Fake::default(), 3), (all.clone().without(3), 3), (all.clone().without(4), 4), (all.without(5), 5)];
        for (fake, missing) in cases {
            let mut downloader = rig.downloader(fake, 3..=5, parallelism);
            for _ in 0..2 {
                let error = downloader.next().await.unwrap_err();
                assert!(matches!(error, DownloadError::NotFound { index, .. } if index == missing), "{error}");
                assert_eq!(error.kind(), Kind::NotFound);
            }
            assert!(matches!(downloader.close().await, Err(DownloadError::NotFound { .. })));
            assert_eq!((downloader.delivered(), rig.files().len()), (0, 0));
        }
    });
}

#[test]
fn a_hole_inside_an_index_is_told_with_its_offset() {
    each(|parallelism, rig| async move {
        let mut fake = Fake::with_indexes(0..=0);
        fake.pieces.remove(&PieceName::sqlite(0, 32));
        let mut downloader = rig.downloader(fake, 0..=0, parallelism);
        let error = downloader.next().await.unwrap_err();
        assert!(matches!(error, DownloadError::Missing { index: 0, offset: 32, .. }), "{error}");
        assert_eq!(downloader.next().await.unwrap(), None, "it was the last index");

        let long = Fake::with_indexes(0..=0).set(0, 0, Content::Bytes(bytes_of(0, 33)));
        let error = rig.downloader(long, 0..=0, parallelism).next().await.unwrap_err();
        assert!(matches!(error, DownloadError::Overlap { start: 0, end: 32, .. }), "{error}");
        rig.wait_until_empty().await;
    });
}

#[test]
fn failures_are_told_in_order_and_end_the_download() {
    each(|parallelism, rig| async move {
        for content in [Content::Unopened, Content::Cut(vec![1, 2, 3]), Content::Cut(Vec::new())] {
            let fake = Fake::with_indexes(0..=3).set(2, 32, content);
            let mut downloader = rig.downloader(fake.clone(), 0..=3, parallelism);
            for index in 0..=1 {
                fs::remove_file(expect(&mut downloader, index).await.path).unwrap();
            }
            let error = downloader.next().await.unwrap_err();
            assert!(matches!(error, DownloadError::Read { index: 2, .. }), "{error}");
            assert_eq!(error.kind(), Kind::NotFound);
            assert!(matches!(downloader.next().await, Err(DownloadError::GivenUp)));
            downloader.close().await.unwrap();
            assert_eq!(rig.files(), Vec::<String>::new());

            let mut last = rig.downloader(fake, 1..=2, parallelism);
            fs::remove_file(expect(&mut last, 1).await.path).unwrap();
            last.next().await.unwrap_err();
            assert_eq!(last.next().await.unwrap(), None);
            rig.wait_until_empty().await;
        }
    });
}

#[test]
fn an_error_nobody_saw_is_told_at_the_end() {
    each(|parallelism, rig| async move {
        let fake = Fake::with_indexes(0..=2).set(1, 0, Content::Unopened);
        let mut downloader = rig.downloader(fake, 0..=2, parallelism);
        let file = expect(&mut downloader, 0).await;
        let failed = |downloader: &WalDownloader<Fake>| match &downloader.state {
            State::Running { working, .. } => working.front().is_some_and(|(_, handle)| handle.is_finished()),
            _ => true,
        };
        while !failed(&downloader) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let error = downloader.close().await.unwrap_err();
        assert!(matches!(error, DownloadError::Read { index: 1, .. }), "{error}");
        downloader.close().await.unwrap();
        assert_eq!(rig.files().len(), 1, "the delivered file stays: {:?}", rig.files());
        fs::remove_file(file.path).unwrap();
    });
}

#[test]
fn a_listing_that_fails_is_told() {
    each(|parallelism, rig| async move {
        let mut downloader = rig.downloader(Fake { no_listing: true, ..Fake::default() }, 0..=1, parallelism);
        assert!(matches!(downloader.next().await, Err(DownloadError::List { .. })));
        assert!(matches!(downloader.close().await, Err(DownloadError::List { .. })));
    });
}

#[test]
fn a_directory_that_cannot_be_written_is_told() {
    each(|parallelism, rig| async move {
        let prefix = rig.dir.path().join("nowhere/db");
        let options = DownloadOptions { parallelism, ..DownloadOptions::default() };
        let mut downloader = WalDownloader::new(Fake::with_indexes(0..=1), prefix, Generation(7), 0..=1, options);
        let error = downloader.next().await.unwrap_err();
        assert!(
            matches!(&error, DownloadError::Write { path, .. } if path.ends_with("db-0000000000000000-wal.partial"))
        );
    });
}

#[test]
fn what_is_asked_must_make_sense() {
    let rig = Rig::new();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let reversed = RangeInclusive::new(2, 1);
        let error = rig.downloader(Fake::with_indexes(0..=2), reversed, 1).next().await.unwrap_err();
        assert!(matches!(error, DownloadError::Range));
        let error = rig.downloader(Fake::with_indexes(0..=2), 0..=1, 0).next().await.unwrap_err();
        assert!(matches!(error, DownloadError::Parallelism));
        for positions in [Lsn(5)..Lsn(5), Lsn(5)..Lsn(4)] {
            let fake = Fake::default().with_span(0, 0..1, &[1]);
            assert!(matches!(rig.downloader(fake, positions, 1).next().await, Err(DownloadError::Range)));
        }
        let sqlite = rig.downloader(Fake::with_indexes(0..=2), Lsn(0)..Lsn(1), 1).next().await;
        assert!(matches!(sqlite, Err(DownloadError::Range)));
    });
}

#[test]
fn an_early_end_leaves_nothing() {
    each(|parallelism, rig| async move {
        let mut unused = rig.downloader(Fake::with_indexes(0..=2), 0..=2, parallelism);
        unused.close().await.unwrap();
        assert!(matches!(unused.next().await, Err(DownloadError::Closed)));

        let mut downloader = rig.downloader(Fake::with_indexes(0..=9), 0..=9, parallelism);
        let first = expect(&mut downloader, 0).await;
        downloader.close().await.unwrap();
        assert!(matches!(downloader.next().await, Err(DownloadError::Closed)));
        assert_eq!(rig.files(), ["db-0000000000000000-wal"]);
        fs::remove_file(first.path).unwrap();

        let mut dropped = rig.downloader(Fake::with_indexes(0..=9).set(3, 40, Content::Hangs), 0..=9, parallelism);
        fs::remove_file(expect(&mut dropped, 0).await.path).unwrap();
        drop(dropped);
        rig.wait_until_empty().await;
    });
}

#[test]
fn a_call_that_is_given_up_loses_nothing() {
    each(|parallelism, rig| async move {
        let mut downloader = rig.downloader(Fake::with_indexes(0..=4), 0..=4, parallelism);
        for index in 0..=4 {
            // Polled once, then dropped.
            tokio::select! { biased; _ = std::future::ready(()) => {} file = downloader.next() => panic!("{file:?}") }
            let given_up = tokio::time::timeout(Duration::ZERO, downloader.next()).await;
            match given_up {
                Ok(file) => assert_eq!(file.unwrap().unwrap().index, index),
                Err(_) => drop(expect(&mut downloader, index).await),
            }
        }
        assert_eq!(downloader.next().await.unwrap(), None);
    });
}

#[test]
fn pieces_of_one_index_are_read_side_by_side() {
    for parallelism in [8, 64] {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let rig = Rig::new();
            let whole = bytes_of(3, SEGMENT as usize);
            let mut fake = Fake { meet: parallelism, ..Fake::default() };
            for part in 0..64 {
                let (start, end) = (part * SEGMENT / 64, (part + 1) * SEGMENT / 64);
                fake = fake.with_span(3, start..end, &whole[start as usize..end as usize]);
            }
            let mut downloader = rig.downloader(fake, 3..=3, parallelism);
            // It would not come back if fewer were read at a time: each waits for the others.
            let file =
                tokio::time::timeout(Duration::from_secs(30), downloader.next()).await.unwrap().unwrap().unwrap();
            assert!(fs::read(file.path).unwrap() == whole);
            assert_eq!(downloader.shared.source.seen.open_max.load(Ordering::SeqCst), parallelism);
        });
    }
}

#[test]
fn overlapping_pieces_must_agree() {
    each(|parallelism, rig| async move {
        let whole = bytes_of(0, SEGMENT as usize);
        let fake = |lie: Option<usize>| {
            let mut second = whole[1000..].to_vec();
            if let Some(at) = lie {
                second[at] ^= 1;
            }
            Fake::default().with_span(0, 0..3000, &whole[..3000]).with_span(0, 1000..SEGMENT, &second)
        };
        let mut good = rig.downloader(fake(None), 0..=0, parallelism);
        assert!(fs::read(good.next().await.unwrap().unwrap().path).unwrap() == whole);
        let mut bad = rig.downloader(fake(Some(1999)), 0..=0, parallelism);
        let error = bad.next().await.unwrap_err();
        assert!(matches!(error, DownloadError::Disagree { index: 0, offset: 2999, .. }), "{error}");
        assert_eq!(error.kind(), Kind::Corrupt);
    });
}

#[test]
fn positions_choose_segments_and_fill_them_with_zeros() {
    each(|parallelism, rig| async move {
        let (first, second) = (bytes_of(1, SEGMENT as usize), bytes_of(2, 300));
        let fake = Fake::default().with_span(1, 100..SEGMENT, &first[100..]).with_span(2, 0..300, &second);
        let mut downloader = rig.downloader(fake.clone(), Lsn(SEGMENT + 100)..Lsn(2 * SEGMENT + 300), parallelism);
        let file = downloader.next().await.unwrap().unwrap();
        let bytes = fs::read(&file.path).unwrap();
        assert!((file.index, file.length) == (1, SEGMENT) && bytes[..100] == [0; 100] && bytes[100..] == first[100..]);
        let bytes = fs::read(downloader.next().await.unwrap().unwrap().path).unwrap();
        assert!(bytes.len() as u64 == SEGMENT && bytes[..300] == second && bytes[300..].iter().all(|byte| *byte == 0));
        assert_eq!(downloader.next().await.unwrap(), None);

        let mut early = rig.downloader(fake.clone(), Lsn(SEGMENT + 99)..Lsn(2 * SEGMENT), parallelism);
        let error = early.next().await.unwrap_err();
        assert!(matches!(error, DownloadError::Missing { index: 1, offset: 99, .. }), "{error}");
        let mut late = rig.downloader(fake, Lsn(2 * SEGMENT)..Lsn(2 * SEGMENT + 301), parallelism);
        let error = late.next().await.unwrap_err();
        assert!(matches!(error, DownloadError::Missing { index: 2, offset: 300, .. }), "{error}");
    });
}

#[test]
fn a_file_that_fails_its_check_never_appears() {
    each(|parallelism, rig| async move {
        let dir = rig.dir.path().to_owned();
        let check = Check::new(move |index, path| {
            assert!(path.starts_with(&dir) && path.extension().is_some_and(|end| end == "partial"));
            if fs::read(path).unwrap() == bytes_of(1, 100) { Err(format!("{index} is one")) } else { Ok(()) }
        });
        let mut downloader = rig.downloader(Fake::with_indexes(0..=2), 0..=2, parallelism).with_check(check);
        fs::remove_file(expect(&mut downloader, 0).await.path).unwrap();
        let error = downloader.next().await.unwrap_err();
        assert!(error.to_string().ends_with("is damaged: 1 is one"), "{error}");
        downloader.close().await.unwrap();
        rig.wait_until_empty().await;
    });
}

#[test]
fn mode_and_owner_are_as_asked() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    let rig = Rig::new();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let own = fs::metadata(rig.dir.path()).unwrap();
        let options = DownloadOptions { parallelism: 1, mode: 0o640, owner: Some((own.uid(), own.gid())) };
        let mut downloader =
            WalDownloader::new(Fake::with_indexes(0..=0), rig.dir.path().join("db"), Generation(7), 0..=0, options);
        let file = fs::metadata(downloader.next().await.unwrap().unwrap().path).unwrap();
        assert_eq!((file.permissions().mode() & 0o777, file.uid(), file.gid()), (0o640, own.uid(), own.gid()));
    });
}

/// Places of pieces in a property are multiples of this.
const UNIT: u64 = SEGMENT / 64;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whatever the pieces: the segment, or the first byte nobody has.
    #[test]
    fn any_pieces_give_the_segment_or_name_the_hole(
        spans in proptest::collection::vec((0u64..64, 1u64..64), 0..12),
        whole in any::<bool>(),
        parallelism in 1usize..9,
    ) {
        let bytes = bytes_of(9, SEGMENT as usize);
        let mut fake = Fake { segment_size: SegmentSize::new(SEGMENT).ok(), ..Fake::default() };
        let mut have = [whole; 64];
        for (start, len) in spans {
            let end = (start + len).min(64);
            have[start as usize..end as usize].fill(true);
            let (start, end) = (start * UNIT, end * UNIT);
            fake = fake.with_span(9, start..end, &bytes[start as usize..end as usize]);
        }
        if whole {
            fake.pieces.insert(PieceName::segment(9), Content::Bytes(bytes.clone()));
        }
        let is_empty = fake.pieces.is_empty();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let rig = Rig::new();
            let outcome = rig.downloader(fake, 9..=9, parallelism).next().await;
            match have.iter().position(|have| !have) {
                None => assert!(fs::read(outcome.unwrap().unwrap().path).unwrap() == bytes),
                Some(_) if is_empty => assert!(matches!(outcome, Err(DownloadError::NotFound { index: 9, .. }))),
                Some(hole) => match outcome.unwrap_err() {
                    DownloadError::Missing { index: 9, offset, .. } => assert_eq!(offset, hole as u64 * UNIT),
                    other => panic!("{other}"),
                },
            }
        });
    }
}
