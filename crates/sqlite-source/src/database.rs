//! A database as a [`Source`]: the blocking core on a thread of the runtime's pool, woken when the WAL is written.

use crate::core::{Core, Turn};
use crate::error::Error;
use crate::options::Options;
use crate::snapshot::Frozen;
use bytes::{Bytes, BytesMut};
use disk::{Disk, OpenMode};
use source::{Chunk, Source};
use sqlite_wal::Position;
use std::future::Future;
use std::path::Path;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Mutex as AsyncMutex, Notify, OwnedMutexGuard, watch};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep_until, timeout};
use tracing::{info, warn};

/// Most bytes of one chunk of the log.
const CHUNK: u64 = 1024 * 1024;
/// After errors the next try waits twice as long each time, at most so long.
const BACK_OFF_MAX: Duration = Duration::from_secs(300);
/// An error that stays the same is told so often.
const TELL_AGAIN: Duration = Duration::from_secs(30);
/// With notifications: how long a change that was not notified may stay unseen.
const LOOK_ANYWAY: Duration = Duration::from_secs(30);

#[derive(Debug)]
struct Shared {
    options: Options,
    core: Mutex<Core>,
    /// The end of the shadow WAL; `None` while the database is not under control.
    position: watch::Sender<Option<Position>>,
    /// Something may have been written.
    wake: Arc<Notify>,
    /// From where each replica needs the shadow WAL; `None` until it has said.
    needed: Mutex<Vec<Option<Position>>>,
    /// One snapshot at a time.
    freezing: Arc<AsyncMutex<()>>,
}

/// A database that is looked after. Clones are the same one.
#[derive(Clone, Debug)]
pub struct Database {
    shared: Arc<Shared>,
}

/// One replica's view of a database. Its [`Source::stream`] says from where the shadow WAL is needed.
#[derive(Debug)]
pub struct Reader {
    shared: Arc<Shared>,
    slot: usize,
}

/// The log from a position on.
#[derive(Debug)]
pub struct Stream {
    shared: Arc<Shared>,
    position: watch::Receiver<Option<Position>>,
    at: Position,
}

/// A copy of the database at one position, being read; no checkpoint runs meanwhile.
#[derive(Debug)]
pub struct Snapshot {
    frozen: Arc<Frozen>,
    offset: u64,
    _turn: OwnedMutexGuard<()>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What a panicking thread left is judged by the next turn as after any error.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs blocking work on the core.
async fn on_core<T: Send + 'static>(
    shared: &Arc<Shared>,
    work: impl FnOnce(&mut Core) -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let own = Arc::clone(shared);
    let done = spawn_blocking(move || {
        let mut core = lock(&own.core);
        let outcome = work(&mut core);
        let position = core.position();
        own.position.send_if_modified(|last| std::mem::replace(last, position) != position);
        outcome
    });
    // The runtime is shutting down when the work does not come back.
    done.await.unwrap_or_else(|_| Err(Error::Closed(shared.options.path.clone())))
}

impl Database {
    /// A database that nothing was done with yet: [`Database::run`] looks after it. The shadow WAL is kept through `disk`.
    pub fn new(options: Options, disk: Arc<dyn Disk>) -> Database {
        let needed = vec![None; options.replicas.max(1)];
        let shared = Shared {
            core: Mutex::new(Core::new(options.clone(), disk)),
            options,
            position: watch::Sender::new(None),
            wake: Arc::default(),
            needed: Mutex::new(needed),
            freezing: Arc::default(),
        };
        Database { shared: Arc::new(shared) }
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.shared.options.path
    }

    /// Wakes the loop: to be notified when its WAL is written.
    pub fn wake(&self) -> Arc<Notify> {
        Arc::clone(&self.shared.wake)
    }

    /// The view of replica number `slot`, below [`Options::replicas`].
    pub fn reader(&self, slot: usize) -> Reader {
        Reader { shared: Arc::clone(&self.shared), slot }
    }

    /// The end of the shadow WAL as it moves; `None` while the database is not under control.
    pub fn watch(&self) -> watch::Receiver<Option<Position>> {
        self.shared.position.subscribe()
    }

    /// One turn at once: everything committed so far is in the shadow WAL afterwards.
    pub async fn sync(&self) -> Result<Position, Error> {
        Ok(self.turn().await?.position)
    }

    async fn turn(&self) -> Result<Turn, Error> {
        let keep = self.needed();
        on_core(&self.shared, move |core| core.turn(keep)).await
    }

    /// The lowest position a replica needs; `None` until every one has said, and all of them read one generation.
    fn needed(&self) -> Option<Position> {
        let lowest = lock(&self.shared.needed).iter().copied().reduce(|a, b| match (a, b) {
            (Some(a), Some(b)) if a.generation == b.generation => Some(a.min(b)),
            _ => None,
        });
        lowest.flatten()
    }

    /// Begins a new generation with the next turn: what a replica has cannot be gone on with.
    pub async fn start_over(&self) -> Result<(), Error> {
        on_core(&self.shared, |core| {
            core.start_over();
            Ok(())
        })
        .await?;
        self.shared.wake.notify_one();
        Ok(())
    }

    /// A sealed checkpoint now; says whether everything is in the database file.
    pub async fn checkpoint(&self) -> Result<bool, Error> {
        on_core(&self.shared, |core| {
            core.turn(None)?;
            core.checkpoint()
        })
        .await
    }

    /// Lets go of the database: the read transaction ends, the connections close, the shadow WAL stays.
    pub async fn close(&self) -> Result<(), Error> {
        on_core(&self.shared, |core| {
            core.detach();
            Ok(())
        })
        .await
    }

    /// Looks after the database until `stop` resolves; then everything committed is copied once more and the position returned (`None` if
    /// the database never came under control). `notified`: whether something calls [`Database::wake`] on writes; otherwise the WAL is
    /// looked at once an interval.
    pub async fn run(&self, notified: bool, stop: impl Future<Output = ()>) -> Option<Position> {
        let interval = self.shared.options.monitor_interval.max(Duration::from_millis(1));
        let look_anyway = if notified { LOOK_ANYWAY.max(interval) } else { interval };
        let mut stop = pin!(stop);
        let mut told: Option<(String, Instant)> = None;
        let mut back_off = interval;
        loop {
            let begun = Instant::now();
            // How long to wait for a wake-up, and what must pass in any case.
            let (wait, pause) = match self.turn().await {
                Ok(turn) => {
                    if told.take().is_some() {
                        info!(database = %self.path().display(), position = %turn.position, "under control");
                    }
                    back_off = interval;
                    (turn.again.map_or(look_anyway, |again| again.min(look_anyway)), interval)
                }
                Err(error) if error.is_transient() => (interval, interval),
                Err(error) => {
                    let text = chain(&error);
                    if told.as_ref().is_none_or(|(last, when)| *last != text || when.elapsed() >= TELL_AGAIN) {
                        warn!(database = %self.path().display(), "{text}");
                        told = Some((text, Instant::now()));
                    }
                    back_off = (back_off * 2).min(BACK_OFF_MAX);
                    (Duration::ZERO, back_off)
                }
            };
            let stopped = tokio::select! {
                () = stop.as_mut() => true,
                () = async {
                    let _ = timeout(wait, self.shared.wake.notified()).await;
                    // Writes that come close together are taken together.
                    sleep_until(begun + pause).await;
                } => false,
            };
            if stopped {
                return self.turn().await.ok().map(|turn| turn.position);
            }
        }
    }
}

/// The error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(source) = cause {
        text = format!("{text}: {source}");
        cause = source.source();
    }
    text
}

impl Source for Reader {
    type Position = Position;
    type Error = Error;
    type Stream = Stream;
    type Snapshot = Snapshot;

    async fn position(&mut self) -> Result<Position, Error> {
        let position = *self.shared.position.borrow();
        position.ok_or_else(|| Error::Absent(self.shared.options.path.clone()))
    }

    async fn stream(&mut self, from: Position) -> Result<Stream, Error> {
        if let Some(needed) = lock(&self.shared.needed).get_mut(self.slot) {
            *needed = Some(from);
        }
        let stream = Stream { shared: Arc::clone(&self.shared), position: self.shared.position.subscribe(), at: from };
        match *stream.position.borrow() {
            Some(now) if now.generation == from.generation && from <= now => {}
            _ => return Err(Error::Gone { path: self.shared.options.path.clone(), wanted: from }),
        }
        Ok(stream)
    }

    async fn snapshot(&mut self) -> Result<Snapshot, Error> {
        let turn = Arc::clone(&self.shared.freezing).lock_owned().await;
        let frozen = on_core(&self.shared, Core::freeze).await?;
        Ok(Snapshot { frozen: Arc::new(frozen), offset: 0, _turn: turn })
    }
}

impl source::Stream for Stream {
    type Position = Position;
    type Error = Error;

    /// `None` once the generation has ended.
    async fn next_chunk(&mut self) -> Result<Option<Chunk<Position>>, Error> {
        loop {
            let end = *self.position.borrow_and_update();
            match end {
                Some(end) if end.generation != self.at.generation => return Ok(None),
                Some(end) if end > self.at => {
                    let (shared, at) = (Arc::clone(&self.shared), self.at);
                    let read = spawn_blocking(move || read_life(&shared, at, end)).await;
                    let read = read.unwrap_or_else(|_| Err(Error::Closed(self.shared.options.path.clone())))?;
                    match read {
                        Some(chunk) => {
                            self.at = Position { offset: chunk.begin.offset + chunk.bytes.len() as u64, ..chunk.begin };
                            return Ok(Some(chunk));
                        }
                        None => self.at = Position { index: self.at.index + 1, offset: 0, ..self.at },
                    }
                }
                _ => {
                    if self.position.changed().await.is_err() {
                        return Ok(None);
                    }
                }
            }
        }
    }
}

/// The next bytes of a life; `None` at its end, when there is a later one.
fn read_life(shared: &Shared, at: Position, end: Position) -> Result<Option<Chunk<Position>>, Error> {
    let gone = || Error::Gone { path: shared.options.path.clone(), wanted: at };
    let shadow = lock(&shared.core).shadow().cloned().ok_or_else(gone)?;
    let file = match shadow.open_life(at.generation, at.index, OpenMode::Read) {
        Ok(file) => file,
        Err(Error::File { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => return Err(gone()),
        Err(error) => return Err(error),
    };
    let failed = |source| Error::File { what: "read the shadow WAL of", path: shared.options.path.clone(), source };
    let len = if at.index == end.index { end.offset } else { file.len().map_err(failed)? };
    let wanted = len.saturating_sub(at.offset).min(CHUNK);
    if wanted == 0 {
        return Ok(None);
    }
    let mut bytes = BytesMut::zeroed(wanted as usize);
    if file.read_at(&mut bytes, at.offset).map_err(failed)? < bytes.len() {
        return Err(gone());
    }
    Ok(Some(Chunk { begin: at, bytes: bytes.freeze() }))
}

impl source::Snapshot for Snapshot {
    type Position = Position;
    type Error = Error;

    fn begin(&self) -> Position {
        self.frozen.begin()
    }

    async fn next_bytes(&mut self) -> Result<Option<Bytes>, Error> {
        let (frozen, offset) = (Arc::clone(&self.frozen), self.offset);
        let read = spawn_blocking(move || frozen.read(offset)).await;
        let bytes = read.unwrap_or_else(|_| Err(Error::Closed(self.frozen.path.clone())))?;
        self.offset += bytes.len() as u64;
        Ok((!bytes.is_empty()).then_some(bytes))
    }

    async fn finish(self) -> Result<Position, Error> {
        self.frozen.unbroken()?;
        Ok(self.frozen.position)
    }
}

impl Snapshot {
    /// The state it shows, before it is read.
    pub fn position(&self) -> Position {
        self.frozen.position
    }

    /// Bytes of the whole copy.
    pub fn len(&self) -> u64 {
        self.frozen.len()
    }

    /// Whether the database has no pages.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
#[path = "database_test.rs"]
mod tests;
