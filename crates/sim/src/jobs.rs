//! Blocking work of a safekeeper: three threads, each in order. A job's effect on the disk and the word of its end are two events, so a
//! crash can come between them.

use crate::plan::Sabotage;
use crate::safekeeper::Run;
use crate::world::{SECOND, World};
use std::collections::VecDeque;
use wal_storage::{CutDone, CutJob, PersistJob, PrepareDone, PrepareJob, RemoveDone, RemoveJob, SyncDone, SyncJob};

/// Blocking work.
#[derive(Debug)]
pub(crate) enum Job {
    Sync(SyncJob),
    Cut(CutJob),
    Persist(u64, Vec<u8>, PersistJob),
    Prepare(PrepareJob),
    Remove(RemoveJob),
}

/// Its end.
#[derive(Debug)]
enum Done {
    Sync(Result<SyncDone, wal_storage::Error>),
    Cut(Result<CutDone, wal_storage::Error>),
    Persist(u64, Vec<u8>, Result<(), wal_storage::Error>),
    Prepare(Result<PrepareDone, wal_storage::Error>),
    Remove(Result<RemoveDone, wal_storage::Error>),
}

pub(crate) const DISK: usize = 0;
pub(crate) const CONTROL: usize = 1;
pub(crate) const BACKGROUND: usize = 2;

/// Jobs of one thread, in order.
#[derive(Debug, Default)]
pub(crate) struct Thread {
    queue: VecDeque<Job>,
    busy: bool,
}

impl World {
    pub(crate) fn start_job(&mut self, n: usize, run: &mut Run, thread: usize, job: Job) {
        run.threads[thread].queue.push_back(job);
        if !std::mem::replace(&mut run.threads[thread].busy, true) {
            self.job_later(n, thread);
        }
    }

    fn job_later(&mut self, n: usize, thread: usize) {
        let (epoch, longest) = (self.nodes[n].epoch, self.nodes[n].job_micros);
        let later = self.chance.range(20, longest);
        self.after(later, move |world| world.run_job(n, epoch, thread));
    }

    /// A job does what it does to the disk; its end is heard of a little later.
    fn run_job(&mut self, n: usize, epoch: u64, thread: usize) {
        let lies = self.plan.sabotage;
        let Some(node) = self.nodes.get_mut(n).filter(|node| node.epoch == epoch) else { return };
        let Some(job) = node.run.as_mut().and_then(|run| run.threads[thread].queue.pop_front()) else { return };
        let done = match job {
            Job::Sync(job) => {
                if lies == Some(Sabotage::AcknowledgeBeforeSync) {
                    node.disk.drop_syncs(true);
                }
                let done = job.run();
                node.disk.drop_syncs(false);
                Done::Sync(done)
            }
            Job::Cut(job) => Done::Cut(job.run()),
            Job::Persist(ticket, bytes, job) => {
                if lies == Some(Sabotage::VoteBeforePersist) {
                    drop(job);
                    Done::Persist(ticket, bytes, Ok(()))
                } else {
                    Done::Persist(ticket, bytes.clone(), job.run())
                }
            }
            Job::Prepare(job) => Done::Prepare(job.run()),
            Job::Remove(job) => Done::Remove(job.run()),
        };
        let failed = match &done {
            Done::Sync(done) => done.is_err(),
            Done::Cut(done) => done.is_err(),
            Done::Persist(_, _, done) => done.is_err(),
            Done::Prepare(done) => done.is_err(),
            Done::Remove(done) => done.is_err(),
        };
        if failed && node.doomed {
            return self.power_fails(n);
        }
        let later = self.chance.range(5, 200);
        self.after(later, move |world| world.job_done(n, epoch, thread, done));
    }

    pub(crate) fn synced(&mut self, run: &mut Run, done: SyncDone) {
        let now = self.instant();
        if let Some(storage) = run.storage.as_mut() {
            let durable = storage.finish_sync(done);
            run.keeper.handle_synced(now, durable);
        }
    }

    fn job_done(&mut self, n: usize, epoch: u64, thread: usize, done: Done) {
        let now = self.instant();
        let Some(node) = self.nodes.get_mut(n).filter(|node| node.epoch == epoch) else { return };
        let Some(mut run) = node.run.take() else { return };
        match done {
            Done::Sync(Ok(done)) => self.synced(&mut run, done),
            Done::Cut(Ok(done)) => {
                if let Some(storage) = run.storage.as_mut() {
                    let durable = storage.finish_cut(done);
                    run.keeper.handle_cut(now, durable);
                    run.verified = run.verified.min(durable.lsn());
                }
            }
            Done::Persist(ticket, _, Ok(())) => run.keeper.handle_persisted(now, ticket),
            Done::Persist(ticket, bytes, Err(error)) if error.is_out_of_space() => {
                self.coverage.count("a control file that waits for room");
                self.after(SECOND, move |world| {
                    let Some(mut run) = world.nodes[n].run.take() else { return };
                    if world.nodes[n].epoch == epoch {
                        world.persist(n, &mut run, ticket, bytes);
                    }
                    world.nodes[n].run = Some(run);
                });
            }
            Done::Prepare(Ok(done)) => {
                if run.storage.as_mut().is_some_and(|storage| storage.finish_prepare(done).is_err()) {
                    self.coverage.count("a segment that found no room");
                }
            }
            Done::Remove(Ok(done)) => {
                if let Some(storage) = run.storage.as_mut() {
                    storage.finish_remove(done);
                    run.keeper.handle_removed(storage.oldest());
                }
            }
            Done::Sync(Err(error)) | Done::Cut(Err(error)) | Done::Persist(_, _, Err(error)) => {
                self.fails(n, &mut run, &error);
            }
            Done::Prepare(Err(error)) | Done::Remove(Err(error)) => self.fails(n, &mut run, &error),
        }
        run.threads[thread].busy = !run.threads[thread].queue.is_empty();
        if run.threads[thread].busy {
            self.job_later(n, thread);
        }
        self.nodes[n].run = Some(run);
        self.keeper_event(n, |keeper, now| keeper.drive(now));
    }
}
