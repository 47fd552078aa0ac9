//! Threads for blocking work, and the way back of its completions.
//!
//! A job is a closure that blocks; what it returns goes back over a channel to whoever asked. A thread keeps the order of its
//! jobs.

use std::sync::mpsc;
use tokio::sync::mpsc as channel;

type Job = Box<dyn FnOnce() + Send>;

/// A thread that runs jobs one after another.
#[derive(Debug, Clone)]
pub(crate) struct JobThread {
    jobs: mpsc::Sender<Job>,
}

impl JobThread {
    /// Starts it. It ends when the last handle is dropped and its queue is empty.
    pub(crate) fn start(name: &str) -> std::io::Result<JobThread> {
        let (jobs, queue) = mpsc::channel::<Job>();
        std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            for job in queue {
                job();
            }
        })?;
        Ok(JobThread { jobs })
    }

    /// Runs `work` on the thread and sends what it returns.
    pub(crate) fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
        done: channel::UnboundedSender<T>,
    ) {
        let job = Box::new(move || {
            // Nobody listens any more when the node is stopping; the work itself is what mattered.
            let _ = done.send(work());
        });
        // The thread lives as long as a handle does, so this cannot fail while we hold one.
        let _ = self.jobs.send(job);
    }
}
