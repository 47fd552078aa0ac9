//! A thread of its own for the archive: compression, encryption and the store's sockets stay off the commit thread.

use std::future::Future;
use std::io;
use std::pin::Pin;
use tokio::runtime::Builder;
use tokio::sync::mpsc;

type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Runs tasks until the last handle is dropped; what is under way then is given up.
#[derive(Clone, Debug)]
pub(crate) struct ArchiveThread {
    tasks: mpsc::UnboundedSender<Task>,
}

impl ArchiveThread {
    /// Starts it.
    pub(crate) fn start() -> io::Result<ArchiveThread> {
        let runtime = Builder::new_current_thread().enable_all().thread_name("archive-work").build()?;
        let (tasks, mut waiting) = mpsc::unbounded_channel();
        std::thread::Builder::new().name("archive".to_owned()).spawn(move || {
            runtime.block_on(async move {
                while let Some(task) = waiting.recv().await {
                    tokio::spawn(task);
                }
            });
            // A blocking read or encode may still run; nobody waits for it.
            runtime.shutdown_background();
        })?;
        Ok(ArchiveThread { tasks })
    }

    /// Runs a task.
    pub(crate) fn run(&self, task: impl Future<Output = ()> + Send + 'static) {
        // The thread ends only after its handles.
        let _ = self.tasks.send(Box::pin(task));
    }
}
