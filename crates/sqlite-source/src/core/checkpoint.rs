//! The sealed checkpoint: when it is due, and how it is run.

use super::{CHECKPOINT_AGAIN, Captured, Core};
use crate::control::Worker;
use crate::error::Error;
use std::time::{Duration, Instant};

/// How often readers are looked for while the write lock is held for them.
const READERS_EVERY: Duration = Duration::from_millis(20);

impl Core {
    pub(super) fn checkpoint_is_due(&self) -> bool {
        let (Some(log), Some(attached)) = (&self.log, &self.attached) else { return false };
        if !attached.sealed || !self.dirty {
            return false;
        }
        let (len, size) = (log.chain.offset(), attached.page_size);
        let by_time = !self.options.checkpoint_interval.is_zero()
            && self.last_checkpoint.elapsed() >= self.options.checkpoint_interval;
        let by_size = self.options.is_large(size, len)
            && self.stuck_at.is_none_or(|(at, when)| {
                len < at
                    || len - at >= size.frame_offset(self.options.min_checkpoint_pages / 10)
                    || when.elapsed() >= CHECKPOINT_AGAIN
            });
        by_time || by_size
    }

    /// The sealed checkpoint. Says whether everything is in the database file.
    pub(crate) fn checkpoint(&mut self) -> Result<bool, Error> {
        let begun = Instant::now();
        let outcome = self.try_checkpoint();
        self.stats.checkpoint(begun.elapsed(), &outcome);
        match outcome {
            // A busy database is no error: the next turn tries again.
            Err(Error::Busy(_)) if self.attached.is_some() => {
                self.stuck_at = self.log.as_ref().map(|log| (log.chain.offset(), Instant::now()));
                Ok(false)
            }
            Err(error) => {
                self.detach();
                Err(error)
            }
            Ok(whole) => Ok(whole),
        }
    }

    fn try_checkpoint(&mut self) -> Result<bool, Error> {
        match self.checkpoint_ahead()? {
            Some(worker) => self.checkpoint_sealed(worker),
            None => Ok(false),
        }
    }

    /// The larger part without the write lock: the worker reads, what it sees is copied, the guard moves up to it. `None`: a new generation
    /// had to begin.
    pub(super) fn checkpoint_ahead(&mut self) -> Result<Option<Worker>, Error> {
        let worker = self.control()?.worker()?;
        worker.read()?;
        if let Captured::Broken(reason) = self.capture()? {
            drop(worker);
            return self.begin_generation(reason).map(|()| None);
        }
        // A guard that moves must come back: without one, control is lost.
        self.renew_or_detach(&worker)?;
        worker.end()?;
        worker.checkpoint()?;
        Ok(Some(worker))
    }

    /// The rest, sealed: what was written since is copied while nobody can write more.
    pub(super) fn checkpoint_sealed(&mut self, worker: Worker) -> Result<bool, Error> {
        worker.lock()?;
        let locked = Instant::now();
        if let Captured::Broken(reason) = self.capture()? {
            drop(worker);
            return self.begin_generation(reason).map(|()| false);
        }
        let (len, size) = match (&self.log, &self.attached) {
            (Some(log), Some(attached)) => (log.chain.offset(), attached.page_size),
            _ => return Ok(false),
        };
        let huge = self.options.is_huge(size, len);
        let whole = loop {
            let whole = match self.control()?.checkpoint(&worker) {
                Ok(done) => done.whole,
                Err(error) => {
                    self.detach();
                    return Err(error);
                }
            };
            if whole || !huge || locked.elapsed() + READERS_EVERY >= self.options.busy_timeout {
                break whole;
            }
            std::thread::sleep(READERS_EVERY);
        };
        worker.end()?;
        if huge && whole {
            // So that the next life begins before readers are in this one again.
            worker.touch()?;
        }
        self.last_checkpoint = Instant::now();
        self.dirty = !whole;
        self.stuck_at = (!whole).then(|| (len, Instant::now()));
        Ok(whole)
    }

    pub(super) fn renew_or_detach(&mut self, worker: &Worker) -> Result<(), Error> {
        let renewed = self.control()?.renew(worker);
        if renewed.is_err() {
            self.detach();
        }
        renewed
    }
}
