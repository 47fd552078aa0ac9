//! [`Watched`]: something read from files, read again when they change.
//!
//! The files are looked at when somebody asks, at most once a second. New content that cannot be used is told once and changes
//! nothing: a half-written file must not lock everybody out.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Size and time of change of each file, by name.
type Stamp = Vec<(PathBuf, u64, Option<SystemTime>)>;

type Load<T, E> = Box<dyn Fn() -> Result<T, E> + Send + Sync>;

/// A value and the files it comes from.
pub(crate) struct Watched<T, E> {
    paths: Vec<PathBuf>,
    load: Load<T, E>,
    state: Mutex<State<T>>,
}

struct State<T> {
    value: Arc<T>,
    stamp: Stamp,
    looked: Instant,
}

impl<T, E: std::fmt::Display> Watched<T, E> {
    /// Reads it for the first time; files in a directory among `paths` count too.
    pub(crate) fn new(
        paths: Vec<PathBuf>,
        load: impl Fn() -> Result<T, E> + Send + Sync + 'static,
    ) -> Result<Watched<T, E>, E> {
        // Before reading: what changes meanwhile is read again.
        let stamp = stamp(&paths);
        let value = Arc::new(load()?);
        let state = Mutex::new(State { value, stamp, looked: Instant::now() });
        Ok(Watched { paths, load: Box::new(load), state })
    }

    /// The newest value that could be used.
    pub(crate) fn get(&self) -> Arc<T> {
        self.get_at(Instant::now())
    }

    pub(crate) fn get_at(&self, now: Instant) -> Arc<T> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if now.saturating_duration_since(state.looked) >= LOOK_EVERY {
            state.looked = now;
            let stamp = stamp(&self.paths);
            if stamp != state.stamp {
                state.stamp = stamp;
                match (self.load)() {
                    Ok(value) => state.value = Arc::new(value),
                    Err(error) => {
                        tracing::error!("changed files are not taken up, what was read before stays: {error}")
                    }
                }
            }
        }
        Arc::clone(&state.value)
    }
}

impl<T, E> std::fmt::Debug for Watched<T, E> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watched").field("paths", &self.paths).finish_non_exhaustive()
    }
}

fn stamp(paths: &[PathBuf]) -> Stamp {
    let mut stamp = Vec::new();
    for path in paths {
        stamp.push(of(path));
        if let Ok(entries) = std::fs::read_dir(path) {
            stamp.extend(entries.flatten().map(|entry| of(&entry.path())));
        }
    }
    stamp.sort();
    stamp
}

fn of(path: &Path) -> (PathBuf, u64, Option<SystemTime>) {
    let metadata = std::fs::metadata(path).ok();
    let changed = metadata.as_ref().and_then(|metadata| metadata.modified().ok());
    (path.to_owned(), metadata.map_or(0, |metadata| metadata.len()), changed)
}
