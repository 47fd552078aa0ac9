//! `seawall replicate`: databases come and go, replicas follow, and at the end everything is uploaded.

use super::child::{self, ChildError};
use super::database::{Common, Running, SetupError, Target, source_options};
use super::directory;
use super::door::HttpDoor;
use super::show::{Board, Show};
use crate::process::{self, Exit};
use archive::sqlite::Limits;
use auth::{Gate, GateError};
use config::{ReplicateOptions, SqliteOptions, SqliteSource};
use http_api::Metrics;
use serde::Serialize;
use sqlite_source::Notices;
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::process::Child;
use tokio::time::{Instant, interval, sleep, timeout};
use tracing::{info, warn};

/// How often directories are searched and the board is brought up to date.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long the databases may take to come under control before the command is started.
const CONTROL_WITHIN: Duration = Duration::from_secs(5);
/// How long a command that was asked to stop may take.
const CHILD_WITHIN: Duration = Duration::from_secs(30);

/// Why replication cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A database or replica as it was told.
    #[error(transparent)]
    Setup(#[from] SetupError),
    /// The command.
    #[error(transparent)]
    Child(#[from] ChildError),
    /// The address.
    #[error("cannot listen on {0}")]
    Listen(String, #[source] io::Error),
    /// Who may listen there, and ask.
    #[error(transparent)]
    Gate(#[from] GateError),
    /// The recorder.
    #[error(transparent)]
    Metrics(#[from] http_api::InstallError),
    /// `--once` with nothing to replicate.
    #[error("there is no database at {}", .0.display())]
    Nothing(PathBuf),
}

impl RunError {
    /// How the process ends.
    pub fn exit(&self) -> Exit {
        match self {
            RunError::Setup(error) => error.exit(),
            RunError::Child(ChildError::Words(..)) | RunError::Gate(_) => Exit::Usage,
            _ => Exit::Failed,
        }
    }
}

/// How it ended.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// What is not uploaded, a sentence each.
    pub missing: Vec<String>,
    /// The command's exit code, if it ended by itself.
    pub child: Option<u8>,
}

/// A section, and what of it is running.
struct Section {
    options: SqliteOptions,
    targets: Vec<Target>,
}

impl Section {
    /// The databases there are, each with the folder of its replicas and state. `known`: those that are running.
    fn find(&self, known: &BTreeSet<PathBuf>) -> Vec<(PathBuf, Option<String>)> {
        match &self.options.source {
            SqliteSource::File(path) => vec![(path.clone(), None)],
            SqliteSource::Directory { dir, pattern, recursive } => {
                match directory::find(dir, pattern, *recursive, known) {
                    Ok(found) => found.into_iter().map(|path| (path.clone(), folder_of(dir, &path))).collect(),
                    Err(error) => {
                        warn!(directory = %dir.display(), "cannot be searched: {error}");
                        // What runs goes on.
                        let here = known.iter().filter(|path| path.starts_with(dir));
                        here.map(|path| (path.clone(), folder_of(dir, path))).collect()
                    }
                }
            }
        }
    }

    fn start(&self, path: &Path, folder: Option<&str>, common: &Common) -> Result<Running, SetupError> {
        let meta = match (&self.options.meta_path, folder) {
            (Some(meta), Some(folder)) => Some(meta.join(folder)),
            (meta, _) => meta.clone(),
        };
        let targets: Vec<Target> = match folder {
            Some(folder) => self.targets.iter().map(|target| target.below(folder)).collect(),
            None => self.targets.clone(),
        };
        Running::start(source_options(&self.options, path, meta), &targets, common)
    }
}

/// The path of a database below its directory, with `/` between the parts.
fn folder_of(dir: &Path, path: &Path) -> Option<String> {
    let below = path.strip_prefix(dir).ok()?;
    let parts: Vec<&str> = below.iter().map(|part| part.to_str()).collect::<Option<_>>()?;
    Some(parts.join("/"))
}

/// Replicates until `stop` resolves, or the command ends, or, with `once`, everything is uploaded. What is left then is uploaded, unless
/// `again` resolves, which is called from then on only: first for the command, then for the upload.
pub async fn run(
    options: &ReplicateOptions,
    stop: impl Future<Output = ()>,
    again: impl AsyncFn(),
) -> Result<Outcome, RunError> {
    let sections = options.databases.iter().map(|database| {
        if let SqliteSource::File(path) = &database.source
            && let Some(text) = path.to_str().filter(|text| is_conninfo(text))
        {
            return Err(SetupError::Conninfo(text.to_owned()));
        }
        Ok(Section { options: database.clone(), targets: Target::all(&database.replicas)? })
    });
    let sections: Vec<Section> = sections.collect::<Result<_, _>>()?;
    let board = Board::default();
    let server =
        options.listen_http.as_ref().map(|address| listen(&address.to_string(), options, &board)).transpose()?;
    let common = Common { limits: Limits::default(), stores: Arc::default(), notices: Arc::new(Notices::new()) };
    let mut running = BTreeMap::new();
    let mut failed = BTreeSet::new();
    look(&sections, &common, &mut running, &mut failed).await?;
    if options.once {
        return once(&sections, running, stop).await;
    }
    let mut child = match &options.exec {
        Some(line) => {
            controlled(&running).await;
            Some(child::start(line)?)
        }
        None => None,
    };
    let mut stop = pin!(stop);
    let mut every = interval(LOOK_EVERY);
    let mut outcome = Outcome::default();
    loop {
        tokio::select! {
            () = stop.as_mut() => {
                if let Some(child) = &mut child {
                    outcome.child = end(child, again()).await;
                }
                break;
            }
            status = wait(&mut child) => {
                outcome.child = Some(status);
                break;
            }
            _ = every.tick() => {
                if sections.iter().any(|section| matches!(section.options.source, SqliteSource::Directory { .. })) {
                    // After the first look an error concerns the one database, and was told.
                    outcome.missing.extend(look(&sections, &common, &mut running, &mut failed).await.unwrap_or_default());
                }
                board.update(running.values());
            }
        }
    }
    info!("stopping: what is left is uploaded; a second signal ends that");
    outcome.missing.extend(upload_rest(running, again()).await);
    drop(server);
    Ok(outcome)
}

/// Whether a name is meant for PostgreSQL.
fn is_conninfo(text: &str) -> bool {
    let has_key = ["host=", "user=", "dbname=", "port="].iter().any(|key| text.starts_with(key));
    text.starts_with("postgres://") || text.starts_with("postgresql://") || has_key
}

fn listen(address: &str, options: &ReplicateOptions, board: &Board) -> Result<http_api::Server, RunError> {
    let failed = |source| RunError::Listen(address.to_owned(), source);
    let listener = std::net::TcpListener::bind(address).map_err(failed)?;
    let host = listener.local_addr().map_err(failed)?.ip().to_string();
    let gate = Gate::open(&process::gate(&options.auth), &[&host])?;
    let metrics = Metrics::install()?;
    tokio::spawn(metrics.clone().upkeep());
    let view = Show { board: board.clone(), metrics };
    let server = http_api::Server::start_behind(listener, Arc::new(view), Arc::new(HttpDoor(gate))).map_err(failed)?;
    info!(address = %server.local_addr(), "metrics and status");
    Ok(server)
}

/// Starts what appeared, stops what vanished from a directory. Returns what is missing of the latter.
async fn look(
    sections: &[Section],
    common: &Common,
    running: &mut BTreeMap<PathBuf, Running>,
    failed: &mut BTreeSet<PathBuf>,
) -> Result<Vec<String>, SetupError> {
    let known: BTreeSet<PathBuf> = running.keys().cloned().collect();
    let mut there = BTreeSet::new();
    let first = known.is_empty();
    for section in sections {
        for (path, folder) in section.find(&known) {
            there.insert(path.clone());
            if running.contains_key(&path) || failed.contains(&path) {
                continue;
            }
            match section.start(&path, folder.as_deref(), common) {
                Ok(started) => {
                    info!(database = %path.display(), "replicating");
                    running.insert(path, started);
                }
                Err(error) if first => return Err(error),
                Err(error) => {
                    warn!(database = %path.display(), "{error}");
                    failed.insert(path);
                }
            }
        }
    }
    let gone: Vec<PathBuf> = known.difference(&there).cloned().collect();
    let mut vanished = BTreeMap::new();
    for path in gone {
        info!(database = %path.display(), "is gone; its replicas stay");
        vanished.extend(running.remove_entry(&path));
    }
    Ok(stop_all(vanished).await)
}

async fn stop_all(running: BTreeMap<PathBuf, Running>) -> Vec<String> {
    let stopping: Vec<_> = running.into_values().map(|database| tokio::spawn(database.stop())).collect();
    let mut missing = Vec::new();
    for task in stopping {
        missing.extend(task.await.unwrap_or_else(|_| vec!["a database's task ended early".to_owned()]));
    }
    missing
}

/// Stops all, and uploads what is left until `again` resolves. Returns what is missing.
async fn upload_rest(running: BTreeMap<PathBuf, Running>, again: impl Future<Output = ()>) -> Vec<String> {
    let witnesses: Vec<_> = running.values().map(Running::witness).collect();
    tokio::select! {
        missing = stop_all(running) => missing,
        () = again => {
            let mut missing: Vec<String> = witnesses.iter().flat_map(|witness| witness()).collect();
            if missing.is_empty() {
                missing.push("a second signal came before everything was known to be uploaded".to_owned());
            }
            missing
        }
    }
}

/// Waits until every database that exists is under control: what the command writes first must not be missed.
async fn controlled(running: &BTreeMap<PathBuf, Running>) {
    let deadline = Instant::now() + CONTROL_WITHIN;
    for (path, database) in running.iter().filter(|(path, _)| path.exists()) {
        let mut position = database.controlled();
        let under_control = position.wait_for(Option::is_some);
        if timeout(deadline.saturating_duration_since(Instant::now()), under_control).await.is_err() {
            warn!(database = %path.display(), "is not under control yet; the command is started anyway");
        }
    }
}

async fn once(
    sections: &[Section],
    running: BTreeMap<PathBuf, Running>,
    stop: impl Future<Output = ()>,
) -> Result<Outcome, RunError> {
    for section in sections {
        if let SqliteSource::File(path) = &section.options.source
            && !path.exists()
        {
            stop_all(running).await;
            return Err(RunError::Nothing(path.clone()));
        }
    }
    let mut stop = pin!(stop);
    tokio::select! {
        () = controlled(&running) => {}
        () = stop.as_mut() => {
            return Ok(Outcome { missing: vec!["a signal came before anything was uploaded".to_owned()], child: None });
        }
    }
    Ok(Outcome { missing: upload_rest(running, stop).await, child: None })
}

async fn wait(child: &mut Option<Child>) -> u8 {
    match child {
        Some(child) => child.wait().await.map_or(1, child::code),
        None => std::future::pending().await,
    }
}

/// Passes the signal on and waits; a child that does not end by then, or before the second signal, is killed. `None`: it ended as asked.
async fn end(child: &mut Child, again: impl Future<Output = ()>) -> Option<u8> {
    child::ask_to_stop(child);
    let too_long = async {
        tokio::select! {
            () = again => {}
            () = sleep(CHILD_WITHIN) => {}
        }
    };
    tokio::select! {
        status = child.wait() => status.ok().and_then(|status| status.code()).and_then(|code| u8::try_from(code).ok()),
        () = too_long => {
            warn!("the command does not stop and is killed");
            if let Err(error) = child.kill().await {
                warn!("it cannot be killed: {error}");
            }
            Some(1)
        }
    }
}

/// One database of the configuration, for `seawall databases`.
#[derive(Debug, Serialize)]
pub struct DatabaseRow {
    /// Its path.
    pub path: String,
    /// Where it goes: name and URL.
    pub replicas: Vec<(String, String)>,
}

/// The databases a configuration names, those in directories included.
pub fn databases(options: &[SqliteOptions]) -> Result<Vec<DatabaseRow>, SetupError> {
    let mut rows = Vec::new();
    for database in options {
        let section = Section { options: database.clone(), targets: Target::all(&database.replicas)? };
        for (path, folder) in section.find(&BTreeSet::new()) {
            let replicas = section.targets.iter().map(|target| {
                let target = folder.as_deref().map_or_else(|| target.clone(), |folder| target.below(folder));
                (target.name.clone(), target.destination.to_string())
            });
            rows.push(DatabaseRow { path: path.display().to_string(), replicas: replicas.collect() });
        }
    }
    Ok(rows)
}
