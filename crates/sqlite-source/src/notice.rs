//! Being woken when a WAL is written, where the system tells.
//!
//! One watcher for the whole process, one watch per folder. A folder that cannot be watched is no error: the database is then looked at
//! once an interval.

use notify::event::{EventKind, ModifyKind};
use notify::{Event, RecommendedWatcher, RecursiveMode, Watcher};
use std::collections::HashMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::Notify;
use tracing::debug;

/// Whom to wake, by folder and file name.
type Sleepers = HashMap<PathBuf, HashMap<OsString, Arc<Notify>>>;

/// Wakes those whose files change.
#[derive(Debug)]
pub struct Notices {
    sleepers: Arc<Mutex<Sleepers>>,
    watcher: Mutex<Option<RecommendedWatcher>>,
}

impl Default for Notices {
    fn default() -> Notices {
        Notices::new()
    }
}

impl Notices {
    /// Begins to listen.
    pub fn new() -> Notices {
        let sleepers: Arc<Mutex<Sleepers>> = Arc::default();
        let shared = Arc::clone(&sleepers);
        let watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            let Ok(event) = event else { return };
            // Reading changes nothing, and we read ourselves.
            let changes = match event.kind {
                EventKind::Create(_) | EventKind::Remove(_) | EventKind::Any | EventKind::Other => true,
                EventKind::Modify(kind) => !matches!(kind, ModifyKind::Metadata(_)),
                EventKind::Access(_) => false,
            };
            if !changes {
                return;
            }
            let sleepers = shared.lock().unwrap_or_else(PoisonError::into_inner);
            for path in &event.paths {
                let found = path.parent().zip(path.file_name());
                if let Some(sleeper) = found.and_then(|(dir, name)| sleepers.get(dir)?.get(name)) {
                    sleeper.notify_one();
                }
            }
        });
        let watcher = watcher.inspect_err(|error| debug!("no file notifications: {error}")).ok();
        Notices { sleepers, watcher: Mutex::new(watcher) }
    }

    /// Wakes `sleeper` when the database or its WAL changes. Says whether it will: where not, it must look by itself.
    pub fn add(&self, database: &Path, wal: &Path, sleeper: &Arc<Notify>) -> bool {
        let Some(dir) = folder(database) else { return false };
        let mut watcher = self.watcher.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(watcher) = watcher.as_mut() else { return false };
        let mut sleepers = self.sleepers.lock().unwrap_or_else(PoisonError::into_inner);
        if !sleepers.contains_key(&dir)
            && let Err(error) = watcher.watch(&dir, RecursiveMode::NonRecursive)
        {
            debug!(folder = %dir.display(), "cannot be watched: {error}");
            return false;
        }
        let names = sleepers.entry(dir).or_default();
        for name in [database, wal].into_iter().filter_map(Path::file_name) {
            names.insert(name.to_owned(), Arc::clone(sleeper));
        }
        true
    }

    /// Wakes nobody for this database any more.
    pub fn remove(&self, database: &Path, wal: &Path) {
        let Some(dir) = folder(database) else { return };
        let mut watcher = self.watcher.lock().unwrap_or_else(PoisonError::into_inner);
        let mut sleepers = self.sleepers.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(names) = sleepers.get_mut(&dir) else { return };
        for name in [database, wal].into_iter().filter_map(Path::file_name) {
            names.remove(name);
        }
        if names.is_empty() {
            sleepers.remove(&dir);
            if let Some(watcher) = watcher.as_mut()
                && let Err(error) = watcher.unwatch(&dir)
            {
                debug!(folder = %dir.display(), "cannot be unwatched: {error}");
            }
        }
    }
}

/// The folder as the notifications name it.
fn folder(database: &Path) -> Option<PathBuf> {
    let dir = database.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    dir.canonicalize().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test]
    async fn a_write_wakes_and_a_read_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let (database, wal) = (dir.path().join("a.db"), dir.path().join("a.db-wal"));
        let (notices, sleeper) = (Notices::new(), Arc::new(Notify::new()));
        assert!(notices.add(&database, &wal, &sleeper));
        std::fs::write(&wal, b"x").unwrap();
        tokio::time::timeout(Duration::from_secs(10), sleeper.notified()).await.expect("woken by a new file");
        // Whatever the first write still sends.
        while tokio::time::timeout(Duration::from_millis(300), sleeper.notified()).await.is_ok() {}
        std::fs::read(&wal).unwrap();
        std::fs::write(dir.path().join("b.db-wal"), b"x").unwrap();
        assert!(tokio::time::timeout(Duration::from_millis(300), sleeper.notified()).await.is_err());
        std::fs::write(&wal, b"y").unwrap();
        tokio::time::timeout(Duration::from_secs(10), sleeper.notified()).await.expect("woken by a write");
        notices.remove(&database, &wal);
        assert!(notices.sleepers.lock().unwrap().is_empty());
    }
}
