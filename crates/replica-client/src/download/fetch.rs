//! One index: its objects read side by side into one file.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::sync::Semaphore;

use super::downloader::{Check, DownloadOptions};
use super::error::DownloadError;
use super::file::{Partial, Scratch};
use super::plan::{FilePlan, Step};
use super::progress::DownloadProgress;
use super::source::{PlainChunks, WalSource};
use crate::names::Generation;

/// What all workers of a download share.
#[derive(Debug)]
pub(super) struct Shared<S> {
    pub(super) source: S,
    pub(super) generation: Generation,
    pub(super) prefix: PathBuf,
    pub(super) options: DownloadOptions,
    pub(super) check: Option<Check>,
    /// One permit for each object that is being read.
    pub(super) readers: Semaphore,
    pub(super) progress: Arc<DownloadProgress>,
}

impl<S> Shared<S> {
    /// Where the file of an index is put.
    fn target(&self, index: u64) -> PathBuf {
        let mut path = self.prefix.clone().into_os_string();
        path.push(format!("-{index:016x}-wal"));
        path.into()
    }
}

/// Makes the file of one plan; returns it and its length.
pub(super) async fn fetch<S: WalSource>(
    shared: Arc<Shared<S>>,
    plan: FilePlan,
) -> Result<(Scratch, u64), DownloadError> {
    let DownloadOptions { parallelism, mode, owner, .. } = shared.options;
    let partial = Partial::create(shared.target(plan.index), mode, owner)?;
    let worker = Worker { shared: &shared, partial: &partial, index: plan.index };
    let (free, compared): (Vec<Step>, Vec<Step>) = plan.steps.into_iter().partition(Step::is_free);
    let ends = stream::iter(free.into_iter().map(|step| worker.step(step))).buffer_unordered(parallelism);
    let mut end = ends.try_fold(0, async |end: u64, other| Ok(end.max(other))).await?;
    // Ascending, and behind all others: what one is compared with has been written by then.
    for step in compared {
        end = end.max(worker.step(step).await?);
    }
    let length = plan.length.unwrap_or(end);
    worker.check().await?;
    let done = partial.finish(length)?;
    shared.progress.file_done();
    Ok(done)
}

struct Worker<'a, S> {
    shared: &'a Shared<S>,
    partial: &'a Partial,
    index: u64,
}

impl<S: WalSource> Worker<'_, S> {
    /// Reads one object; returns where its bytes end.
    async fn step(&self, step: Step) -> Result<u64, DownloadError> {
        let (generation, index) = (self.shared.generation, self.index);
        let read = |error| DownloadError::Read { generation, index, source: Arc::new(error) };
        // It fails only when the semaphore is closed, which nobody does.
        let _permit = self.shared.readers.acquire().await.map_err(|_| DownloadError::Stopped { index })?;
        let mut reader = self.shared.source.open(&step.piece).map_err(read)?;
        let mut at = step.start;
        while let Some(chunk) = reader.next_chunk().await.map_err(read)? {
            self.shared.progress.received(chunk.len());
            let end = at.saturating_add(chunk.len() as u64);
            if let Some(limit) = step.end.filter(|limit| end > *limit) {
                return Err(DownloadError::Overlap { generation, index, start: step.start, end: limit });
            }
            self.place(&step, at, chunk).await?;
            at = end;
        }
        if step.end.is_some_and(|end| at < end) {
            return Err(DownloadError::Missing { generation, index, offset: at });
        }
        self.shared.progress.object_done(step.piece.stored);
        Ok(at.min(step.take.end))
    }

    /// Compares what an earlier step brought, writes what is new, leaves out what nobody wants.
    async fn place(&self, step: &Step, at: u64, mut chunk: Bytes) -> Result<(), DownloadError> {
        let known = chunk.split_to((step.take.start.saturating_sub(at) as usize).min(chunk.len()));
        let begin = at + known.len() as u64;
        if !known.is_empty()
            && let Some(offset) = self.partial.differs(at, known).await?
        {
            return Err(DownloadError::Disagree { generation: self.shared.generation, index: self.index, offset });
        }
        chunk.truncate(usize::try_from(step.take.end.saturating_sub(begin)).unwrap_or(usize::MAX).min(chunk.len()));
        if chunk.is_empty() { Ok(()) } else { self.partial.write(begin, chunk).await }
    }

    async fn check(&self) -> Result<(), DownloadError> {
        let Some(check) = &self.shared.check else { return Ok(()) };
        let (check, index, path) = (check.clone(), self.index, self.partial.path().to_owned());
        let checked = tokio::task::spawn_blocking(move || check.run(index, &path)).await;
        let reason = match checked {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(reason)) => reason,
            Err(_) => return Err(DownloadError::Stopped { index }),
        };
        Err(DownloadError::Check { generation: self.shared.generation, index, reason })
    }
}
