//! [`WalDownloader`]: starts workers a few indexes ahead and hands their files over in order.

use std::collections::VecDeque;
use std::fmt;
use std::ops::{Range, RangeInclusive};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lsn::{Lsn, SegmentSize};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use super::error::DownloadError;
use super::fetch::{Shared, fetch};
use super::file::Scratch;
use super::plan::{FilePlan, plan};
use super::progress::DownloadProgress;
use super::source::WalSource;
use crate::names::Generation;
use crate::replica::Replica;

/// What to download of a generation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WalRange {
    /// Whole indexes, first and last included.
    Indexes(RangeInclusive<u64>),
    /// PostgreSQL: all segments with bytes of these positions. Of the first and the last segment only the wanted bytes need be in
    /// the replica; every file is as long as a segment, with zeros where nothing is.
    Positions(Range<Lsn>),
}

impl From<RangeInclusive<u64>> for WalRange {
    fn from(indexes: RangeInclusive<u64>) -> WalRange {
        WalRange::Indexes(indexes)
    }
}

impl From<Range<Lsn>> for WalRange {
    fn from(positions: Range<Lsn>) -> WalRange {
        WalRange::Positions(positions)
    }
}

/// How to download.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DownloadOptions {
    /// Objects read at a time, and files ahead of the caller; at least 1.
    pub parallelism: usize,
    /// Permissions of the files.
    pub mode: u32,
    /// User and group of the files; `None` leaves them to the process.
    pub owner: Option<(u32, u32)>,
}

impl Default for DownloadOptions {
    /// One after another, readable for the owner only.
    fn default() -> Self {
        DownloadOptions { parallelism: 1, mode: 0o600, owner: None }
    }
}

/// Looks at a whole file before it gets its name; gets the index and the path, and blocks. An error says what is wrong with it.
#[derive(Clone)]
pub struct Check(Arc<CheckFunction>);

type CheckFunction = dyn Fn(u64, &Path) -> Result<(), String> + Send + Sync;

impl Check {
    /// From a function.
    pub fn new(check: impl Fn(u64, &Path) -> Result<(), String> + Send + Sync + 'static) -> Check {
        Check(Arc::new(check))
    }

    pub(super) fn run(&self, index: u64, path: &Path) -> Result<(), String> {
        (self.0)(index, path)
    }
}

impl fmt::Debug for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Check")
    }
}

/// A delivered file; it belongs to whoever got it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WalFile {
    /// Which index.
    pub index: u64,
    /// `<prefix>-<index as 16 hex digits>-wal`
    pub path: PathBuf,
    /// Its length in bytes.
    pub length: u64,
}

type Handle = JoinHandle<Result<(Scratch, u64), DownloadError>>;

/// Delivers the WAL files of one generation in order. Nothing happens before the first [`next`](WalDownloader::next), which must be
/// called on a tokio runtime.
#[derive(Debug)]
pub struct WalDownloader<S = Replica> {
    shared: Arc<Shared<S>>,
    range: WalRange,
    state: State,
    delivered: u64,
}

#[derive(Debug)]
enum State {
    New,
    Running {
        waiting: VecDeque<FilePlan>,
        /// In order of their indexes, at most `parallelism`.
        working: VecDeque<(u64, Handle)>,
    },
    /// Why no plan could be made; told again and again.
    Unplanned(DownloadError),
    /// An error was delivered before the last file; these workers are ending.
    GivenUp(VecDeque<(u64, Handle)>),
    Closed,
}

impl<S: WalSource> WalDownloader<S> {
    /// Of a generation; files are named after `prefix`, a path.
    pub fn new(
        source: S,
        prefix: impl Into<PathBuf>,
        generation: Generation,
        range: impl Into<WalRange>,
        options: DownloadOptions,
    ) -> WalDownloader<S> {
        let readers = Semaphore::new(options.parallelism.min(Semaphore::MAX_PERMITS));
        let progress = Arc::default();
        let shared = Shared { source, generation, prefix: prefix.into(), options, check: None, readers, progress };
        WalDownloader { shared: Arc::new(shared), range: range.into(), state: State::New, delivered: 0 }
    }

    /// With a check of every file; for a downloader that has not begun.
    pub fn with_check(mut self, check: Check) -> WalDownloader<S> {
        if let Some(shared) = Arc::get_mut(&mut self.shared) {
            shared.check = Some(check);
        }
        self
    }

    /// The next file; `None` after the last. Cancel-safe: a dropped call loses nothing, and the download goes on.
    ///
    /// An error is told in order, when its index is due, and ends the download: later calls say so, or `None` if it was the last
    /// index. That no plan can be made (something is missing, the listing failed) is told by every call.
    pub async fn next(&mut self) -> Result<Option<WalFile>, DownloadError> {
        if matches!(self.state, State::New) {
            self.state = match self.plan().await {
                Ok(waiting) => State::Running { waiting, working: VecDeque::new() },
                Err(error) => State::Unplanned(error),
            };
        }
        let (waiting, working) = match &mut self.state {
            State::Running { waiting, working } => (waiting, working),
            State::Unplanned(error) => return Err(error.clone()),
            State::GivenUp(_) => return Err(DownloadError::GivenUp),
            State::Closed | State::New => return Err(DownloadError::Closed),
        };
        start(&self.shared, waiting, working);
        let Some((index, handle)) = working.front_mut() else { return Ok(None) };
        let index = *index;
        let outcome = handle.await.unwrap_or(Err(DownloadError::Stopped { index }));
        working.pop_front();
        match outcome {
            Ok((scratch, length)) => {
                start(&self.shared, waiting, working);
                self.delivered += 1;
                Ok(Some(WalFile { index, path: scratch.keep(), length }))
            }
            Err(error) => {
                working.iter().for_each(|(_, handle)| handle.abort());
                if !(working.is_empty() && waiting.is_empty()) {
                    self.state = State::GivenUp(std::mem::take(working));
                }
                Err(error)
            }
        }
    }

    /// Files delivered so far.
    pub fn delivered(&self) -> u64 {
        self.delivered
    }

    /// Counters that go on moving while the caller is busy with a file.
    pub fn progress(&self) -> Arc<DownloadProgress> {
        Arc::clone(&self.shared.progress)
    }

    /// Ends the download and waits for its workers; what was not delivered is deleted. The error is that of planning, else the first
    /// one of a worker that was never delivered. Harmless before the first [`next`](WalDownloader::next), and a second time.
    pub async fn close(&mut self) -> Result<(), DownloadError> {
        let (working, told) = match &mut self.state {
            State::Running { waiting, working } => {
                waiting.clear();
                working.iter().for_each(|(_, handle)| handle.abort());
                (working, false)
            }
            State::GivenUp(working) => (working, true),
            State::Unplanned(error) => return Err(error.clone()),
            State::New | State::Closed => {
                self.state = State::Closed;
                return Ok(());
            }
        };
        let mut first = Ok(());
        while let Some((_, handle)) = working.front_mut() {
            // Aborted, it has no outcome. A file it made goes with its value.
            if let Ok(Err(error)) = handle.await
                && first.is_ok()
            {
                first = Err(error);
            }
            working.pop_front();
        }
        self.state = State::Closed;
        // What came after an error that was told is its consequence, or would have been met next.
        if told { Ok(()) } else { first }
    }

    async fn plan(&self) -> Result<VecDeque<FilePlan>, DownloadError> {
        if self.shared.options.parallelism == 0 {
            return Err(DownloadError::Parallelism);
        }
        let Shared { source, generation, progress, .. } = &*self.shared;
        let size = source.segment_size();
        let wanted = Wanted::new(&self.range, size)?;
        let listed = source.pieces(*generation, wanted.indexes.clone()).await;
        let pieces =
            listed.map_err(|error| DownloadError::List { generation: *generation, source: Arc::new(error) })?;
        let plans = plan(*generation, wanted.indexes.clone(), &pieces, size, |index| wanted.within(index))?;
        progress.planned(plans.len() as u64, plans.iter().map(FilePlan::stored).sum());
        Ok(plans)
    }
}

/// Begins as many files as may be under way.
fn start<S: WalSource>(
    shared: &Arc<Shared<S>>,
    waiting: &mut VecDeque<FilePlan>,
    working: &mut VecDeque<(u64, Handle)>,
) {
    while working.len() < shared.options.parallelism
        && let Some(plan) = waiting.pop_front()
    {
        working.push_back((plan.index, tokio::spawn(fetch(Arc::clone(shared), plan))));
    }
}

/// Which indexes are wanted, and which bytes of each.
#[derive(Debug)]
struct Wanted {
    indexes: RangeInclusive<u64>,
    /// `None`: whole segments.
    positions: Option<Range<Lsn>>,
    segment_bytes: u64,
}

impl Wanted {
    fn new(range: &WalRange, size: Option<SegmentSize>) -> Result<Wanted, DownloadError> {
        let (indexes, positions) = match (range, size) {
            (WalRange::Indexes(indexes), _) => (indexes.clone(), None),
            (WalRange::Positions(positions), Some(size)) if positions.start < positions.end => {
                let last = size.segment_of(Lsn(positions.end.0 - 1)).0;
                (size.segment_of(positions.start).0..=last, Some(positions.clone()))
            }
            (WalRange::Positions(_), _) => return Err(DownloadError::Range),
        };
        match indexes.is_empty() {
            true => Err(DownloadError::Range),
            false => Ok(Wanted { indexes, positions, segment_bytes: size.map_or(0, SegmentSize::bytes) }),
        }
    }

    /// The wanted bytes of one segment.
    fn within(&self, index: u64) -> Range<u64> {
        let Some(positions) = &self.positions else { return 0..self.segment_bytes };
        let bytes = u128::from(self.segment_bytes);
        let begin = u128::from(index) * bytes;
        let inside = |position: Lsn| u128::from(position.0).saturating_sub(begin).min(bytes) as u64;
        inside(positions.start)..inside(positions.end)
    }
}

impl<S> Drop for WalDownloader<S> {
    fn drop(&mut self) {
        if let State::Running { working, .. } = &self.state {
            working.iter().for_each(|(_, handle)| handle.abort());
        }
    }
}

#[cfg(test)]
#[path = "downloader_test.rs"]
mod tests;
