//! One database and its replicators, as tasks.

use crate::process::Exit;
use archive::sqlite::{Error, Limits, Replicator, Setup, Status};
use config::{Interval, SqliteOptions, SqliteReplicaOptions};
use replica_client::{Codec, CodecError, Destination, DestinationError, Replica, Stores};
use sqlite_source::{Database, Notices};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Why a database cannot be replicated as it was told.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The URL.
    #[error(transparent)]
    Destination(#[from] DestinationError),
    /// The keys.
    #[error(transparent)]
    Codec(#[from] CodecError),
    /// The store.
    #[error(transparent)]
    Replica(#[from] replica_client::Error),
    /// What was named is not a file.
    #[error(
        "{0} is a PostgreSQL connection, not a SQLite file; `seawall walproposer` and `seawall backup` keep clusters safe"
    )]
    Conninfo(String),
}

impl SetupError {
    /// How the process ends.
    pub fn exit(&self) -> Exit {
        match self {
            SetupError::Replica(_) => Exit::Failed,
            _ => Exit::Usage,
        }
    }
}

/// What all databases of the process share.
#[derive(Clone)]
pub(super) struct Common {
    pub(super) limits: Limits,
    pub(super) stores: Arc<Stores>,
    pub(super) notices: Arc<Notices>,
}

/// One replica: its name, how it stands, and the task that keeps it.
type Kept = (String, watch::Receiver<Status>, JoinHandle<Result<(), Error>>);

/// A database that is being replicated.
pub(super) struct Running {
    database: Database,
    wal: PathBuf,
    common: Common,
    stop_source: watch::Sender<bool>,
    stop_replicas: watch::Sender<bool>,
    source: JoinHandle<()>,
    replicas: Vec<Kept>,
}

/// A replica as it was told, ready to be opened.
#[derive(Clone)]
pub(super) struct Target {
    pub(super) name: String,
    pub(super) destination: Destination,
    codec: Codec,
    options: archive::sqlite::Options,
}

fn or(period: Option<Interval>, default: Duration) -> Duration {
    period.map_or(default, |period| period.0)
}

impl Target {
    /// Reads what was told of the replicas of one section; names that were not given are made, all different.
    pub(super) fn all(replicas: &[SqliteReplicaOptions]) -> Result<Vec<Target>, SetupError> {
        let mut taken: BTreeSet<String> = replicas.iter().filter_map(|replica| replica.name.clone()).collect();
        let mut targets = Vec::new();
        for replica in replicas {
            let destination = Destination::parse(&replica.url)?.with_options(replica.store.iter().cloned())?;
            let name = replica.name.clone().unwrap_or_else(|| {
                let kind = match replica.url.split_once("://") {
                    Some((scheme, _)) => scheme.to_owned(),
                    None => "file".to_owned(),
                };
                let mut names = std::iter::once(kind.clone()).chain((2..).map(|number| format!("{kind}-{number}")));
                // The iterator does not end.
                names.find(|name| !taken.contains(name)).unwrap_or(kind)
            });
            taken.insert(name.clone());
            let default = archive::sqlite::Options::default();
            let options = archive::sqlite::Options {
                sync_interval: or(replica.sync_interval, default.sync_interval),
                retention: or(replica.retention, default.retention),
                retention_check_interval: or(replica.retention_check_interval, default.retention_check_interval),
                snapshot_interval: or(replica.snapshot_interval, default.snapshot_interval),
                validation_interval: or(replica.validation_interval, default.validation_interval),
                ..default
            };
            targets.push(Target {
                name,
                destination,
                codec: Codec::new(&replica.recipients, &replica.identities)?,
                options,
            });
        }
        Ok(targets)
    }

    /// The same in a folder below.
    pub(super) fn below(&self, folder: &str) -> Target {
        Target { destination: self.destination.below(folder), ..self.clone() }
    }

    fn replica(&self, stores: &Stores) -> Result<Replica, SetupError> {
        Ok(Replica::sqlite(stores.open(&self.destination)?, self.codec.clone()))
    }
}

/// How the source of a section is looked after; `path` is the file.
pub(super) fn source_options(
    options: &SqliteOptions,
    path: &Path,
    meta_path: Option<PathBuf>,
) -> sqlite_source::Options {
    let default = sqlite_source::Options::new(path);
    sqlite_source::Options {
        meta_path,
        monitor_interval: or(options.monitor_interval, default.monitor_interval),
        min_checkpoint_pages: options.min_checkpoint_pages.unwrap_or(default.min_checkpoint_pages).max(1),
        truncate_pages: options.truncate_pages.unwrap_or(default.truncate_pages),
        checkpoint_interval: or(options.checkpoint_interval, default.checkpoint_interval),
        busy_timeout: or(options.busy_timeout, default.busy_timeout),
        ..default
    }
}

impl Running {
    /// Begins.
    pub(super) fn start(
        options: sqlite_source::Options,
        targets: &[Target],
        common: &Common,
    ) -> Result<Running, SetupError> {
        let (path, wal) = (options.path.clone(), options.wal_path());
        let options = sqlite_source::Options { replicas: targets.len(), ..options };
        let meta = options.meta_dir();
        let database = Database::new(options, Arc::new(disk::RealDisk));
        let (stop_source, stop_replicas) = (watch::Sender::new(false), watch::Sender::new(false));
        let mut replicas = Vec::new();
        for (slot, target) in targets.iter().enumerate() {
            let over = database.clone();
            let setup = Setup {
                source: database.reader(slot),
                replica: target.replica(&common.stores)?,
                options: target.options.clone(),
                limits: common.limits.clone(),
                database: path.display().to_string(),
                name: target.name.clone(),
                start_over: Arc::new(move |why: &str| {
                    tracing::warn!(database = %over.path().display(), "{why}");
                    let over = over.clone();
                    tokio::spawn(async move { over.start_over().await });
                }),
                scratch: meta.join(format!("validate-{slot}.tmp")),
            };
            let replicator = Replicator::new(setup);
            replicas.push((target.name.clone(), replicator));
        }
        let replicas = replicas
            .into_iter()
            .map(|(name, replicator)| {
                let status = replicator.status();
                (name, status, tokio::spawn(replicator.run(stop_replicas.subscribe())))
            })
            .collect();
        let notified = common.notices.add(&path, &wal, &database.wake());
        let (looked_after, mut stopped) = (database.clone(), stop_source.subscribe());
        let source = tokio::spawn(async move {
            let stop = async move {
                // A sender that is gone stops it too.
                let _ = stopped.wait_for(|stopped| *stopped).await;
            };
            looked_after.run(notified, stop).await;
        });
        Ok(Running { database, wal, common: common.clone(), stop_source, stop_replicas, source, replicas })
    }

    pub(super) fn path(&self) -> &Path {
        self.database.path()
    }

    /// How each replica stands.
    pub(super) fn statuses(&self) -> impl Iterator<Item = (&str, Status)> {
        self.replicas.iter().map(|(name, status, _)| (name.as_str(), status.borrow().clone()))
    }

    /// What tells, whatever becomes of this, which replicas have everything: a sentence each for those that have not.
    pub(super) fn witness(&self) -> impl Fn() -> Vec<String> + use<> {
        let path = self.path().display().to_string();
        let replicas: Vec<_> = self.replicas.iter().map(|(name, status, _)| (name.clone(), status.clone())).collect();
        let position = self.database.watch();
        move || {
            let end = *position.borrow();
            let whole = |status: &Status| status.in_sync && (end.is_none() || status.confirmed == end);
            let missing = replicas.iter().filter(|(_, status)| !whole(&status.borrow()));
            missing.map(|(name, _)| format!("{path} is not complete in {name}: a second signal cut it short")).collect()
        }
    }

    /// Whether the database is under control.
    pub(super) fn controlled(&self) -> watch::Receiver<Option<sqlite_wal::Position>> {
        self.database.watch()
    }

    /// Copies what is committed, uploads it to every replica, and lets go. An error for each replica that has not everything.
    pub(super) async fn stop(self) -> Vec<String> {
        let path = self.path().to_path_buf();
        self.stop_source.send_replace(true);
        let mut errors = Vec::new();
        if self.source.await.is_err() {
            errors.push(format!("{}: its task ended early", path.display()));
        }
        // A database that never came under control has nothing to upload, unless it is there and could not be taken.
        let last = self.database.sync().await;
        match last {
            Ok(_) => {}
            Err(sqlite_source::Error::Absent(_)) => {
                for (_, _, task) in &self.replicas {
                    task.abort();
                }
                self.common.notices.remove(&path, &self.wal);
                return errors;
            }
            Err(error) => errors.push(format!("{}: {error}", path.display())),
        }
        self.stop_replicas.send_replace(true);
        for (name, _, task) in self.replicas {
            match task.await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => errors.push(format!("{} is not complete in {name}: {error}", path.display())),
                Err(_) => errors.push(format!("{} is not complete in {name}: its task ended early", path.display())),
            }
        }
        if let Err(error) = self.database.close().await {
            errors.push(format!("{}: {error}", path.display()));
        }
        self.common.notices.remove(&path, &self.wal);
        errors
    }
}
