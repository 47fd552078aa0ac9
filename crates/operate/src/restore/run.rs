//! `seawall restore`: from flags to a directory, and to a running server where that is wanted.
//!
//! "Latest" means the end of the quorum's log. With safekeepers named, a restore that cannot reach it is refused unless it is told to be
//! content with the archive: whoever restores after a disaster must know whether acknowledged commits are missing.

use super::hold::Held;
use super::open::{self, OpenError, Opened};
use super::progress::{Display, size};
use super::quorum::{Quorum, QuorumError};
use super::start::{self, Start, StartError};
use crate::process::Exit;
use config::RestoreFlags;
use jiff::Timestamp;
use pg_server::RunAs;
use replica_client::{Generation, PostgresReplica};
use restore::postgres::execute::{self, Options, RestoreError, Restored};
use restore::postgres::lay_out::Progress;
use restore::postgres::lineage::{LineageError, Step};
use restore::postgres::plan::{self, Plan, PlanError, QuorumEnd, Request, Stop};
use restore::postgres::recovery::Action;
use restore::postgres::target::Target;
use serde::Serialize;
use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Why there is no restored database.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The replica.
    #[error(transparent)]
    Open(Box<OpenError>),
    /// No plan.
    #[error(transparent)]
    Plan(Box<PlanError>),
    /// The quorum's end is not known.
    #[error("{0}; --archive-only restores what the archive holds, which may lack acknowledged commits")]
    Quorum(#[source] Box<QuorumError>),
    /// The safekeepers keep another cluster.
    #[error("the safekeepers keep era {quorum}, and the archive is of era {archive}: they do not belong together")]
    OtherEra {
        /// Theirs.
        quorum: String,
        /// The archive's.
        archive: String,
    },
    /// A SQLite database.
    #[error(transparent)]
    Sqlite(Box<restore::sqlite::Error>),
    /// Carrying it out failed.
    #[error(transparent)]
    Restore(Box<RestoreError>),
    /// Flags that contradict each other or the replica.
    #[error("{0}")]
    Usage(String),
    /// Files cannot be given to PostgreSQL's user.
    #[error("cannot give {} to PostgreSQL's user: {source}", path.display())]
    Owner {
        /// What.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The server.
    #[error(transparent)]
    Start(Box<StartError>),
    /// A worker ended.
    #[error("starting the server was cut short")]
    Stopped,
}

boxed!(RunError: Open(OpenError), Plan(PlanError), Sqlite(restore::sqlite::Error), Restore(RestoreError), Start(StartError));

impl RunError {
    /// How the process ends.
    pub fn exit(&self) -> Exit {
        match self {
            RunError::Usage(_) | RunError::OtherEra { .. } => Exit::Usage,
            RunError::Open(error) if error.is_usage() => Exit::Usage,
            RunError::Plan(error)
                if matches!(
                    **error,
                    PlanError::Lineage(LineageError::Ambiguous { .. } | LineageError::Unknown { .. })
                ) =>
            {
                Exit::Usage
            }
            RunError::Quorum(_) => Exit::Refused,
            RunError::Restore(error) if error.is_refusal() => Exit::Refused,
            RunError::Sqlite(error) if error.is_refusal() => Exit::Refused,
            _ => Exit::Failed,
        }
    }
}

/// What came of it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Outcome {
    /// Only a plan was wanted.
    Planned {
        /// The plan.
        plan: PlanReport,
    },
    /// A directory.
    Restored {
        /// What was planned.
        plan: PlanReport,
        /// The directory.
        directory: PathBuf,
        /// Where recovery stops.
        stop: Stop,
        /// Settings it did not inherit.
        neutralised: Vec<restore::postgres::settings::Neutralised>,
        /// Files laid out.
        files: u64,
        /// Their bytes.
        bytes: u64,
        /// The running server, if it was started.
        server: Option<ServerReport>,
    },
    /// Only a plan was wanted, for a SQLite database.
    PlannedSqlite {
        /// The plan.
        plan: SqliteReport,
    },
    /// A SQLite database.
    RestoredSqlite {
        /// What was planned.
        plan: SqliteReport,
        /// The file.
        file: PathBuf,
        /// Its bytes.
        bytes: u64,
    },
    /// Nothing was done, as told.
    Nothing {
        /// Why.
        reason: String,
    },
}

/// A plan for a SQLite database.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct SqliteReport {
    /// The generation.
    pub generation: String,
    /// Index of the snapshot.
    pub snapshot: String,
    /// Pieces of WAL.
    pub pieces: usize,
    /// Bytes of all objects.
    pub stored: u64,
    /// The newest life of the WAL that counts.
    pub end_index: String,
    /// When its last piece was stored.
    pub stored_at: Timestamp,
}

/// A server that was started.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct ServerReport {
    /// Its process.
    pub pid: Option<u32>,
    /// On 127.0.0.1.
    pub port: u16,
    /// Its log.
    pub log: PathBuf,
}

/// A plan, for people and programs.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct PlanReport {
    /// What was asked for.
    pub target: String,
    /// The snapshot's generation.
    pub generation: String,
    /// The snapshot's position.
    pub snapshot: String,
    /// When it was complete.
    pub snapshot_end_time: Timestamp,
    /// Plain bytes of its files.
    pub snapshot_bytes: u64,
    /// Objects they lie in.
    pub snapshot_chunks: usize,
    /// The way.
    pub lineage: Vec<Step>,
    /// WAL is read from here.
    pub wal_from: String,
    /// To here.
    pub wal_to: String,
    /// The archive reaches to here; the rest comes from the safekeepers.
    pub archived_to: String,
    /// Whether some does.
    pub reads_safekeepers: bool,
    /// Segments of WAL.
    pub segments: u64,
    /// Bytes of their objects.
    pub stored_wal: u64,
    /// Where recovery stops, if that is known yet.
    pub stop: Option<Stop>,
    /// What the reader should know.
    pub notes: Vec<String>,
}

impl PlanReport {
    pub(super) fn new(plan: &Plan) -> PlanReport {
        let snapshot = &plan.chosen.snapshot;
        PlanReport {
            target: plan.target.to_string(),
            generation: plan.chosen.generation.to_string(),
            snapshot: plan.chosen.lsn.to_string(),
            snapshot_end_time: snapshot.end_time,
            snapshot_bytes: snapshot.bytes,
            snapshot_chunks: snapshot.chunks.len(),
            lineage: plan.lineage.steps().to_vec(),
            wal_from: snapshot.wal_begin().to_string(),
            wal_to: plan.end.to_string(),
            archived_to: plan.archived.to_string(),
            reads_safekeepers: plan.needs_tail(),
            segments: plan.segments,
            stored_wal: plan.stored_wal,
            stop: plan.stop,
            notes: plan.notes.clone(),
        }
    }

    /// For people.
    pub fn text(&self) -> String {
        let tlis: Vec<String> = self.lineage.iter().map(|step| step.tli().to_string()).collect();
        let mut text = format!(
            "target    {}\nsnapshot  {} of generation {}, complete at {}: {} in {} objects\nTLIs      {}\nWAL       {} to {}: {} segments, {} to fetch",
            self.target,
            self.snapshot,
            self.generation,
            self.snapshot_end_time,
            size(self.snapshot_bytes),
            self.snapshot_chunks,
            tlis.join(" > "),
            self.wal_from,
            self.wal_to,
            self.segments,
            size(self.stored_wal),
        );
        if self.reads_safekeepers {
            let _ = write!(text, ", from {} on from the safekeepers", self.archived_to);
        }
        match self.stop {
            Some(Stop::Record { end, .. }) => {
                let _ = write!(text, "\nstops     behind the record that ends at {end}");
            }
            Some(Stop::Time(time)) => {
                let _ = write!(text, "\nstops     before the first transaction that ended after {time}");
            }
            None => {}
        }
        for note in &self.notes {
            let _ = write!(text, "\nnote      {note}");
        }
        text
    }
}

/// Runs a restore. `program` is the path of `seawall`; `say` takes what people should read on the way.
pub async fn run(flags: &RestoreFlags, program: &Path, say: &dyn Fn(&str)) -> Result<Outcome, RunError> {
    if flags.if_db_not_exists
        && let Some(output) = flags.output.as_ref().filter(|output| output.exists())
    {
        return Ok(Outcome::Nothing { reason: format!("{} is there already", output.display()) });
    }
    match open::open(&flags.replica, &flags.source).await {
        Ok(Opened::Postgres(replica)) => postgres(flags, &replica, program, say).await,
        Ok(Opened::Sqlite(replica)) => super::sqlite::sqlite(flags, &replica, say).await,
        Err(OpenError::Nothing(url)) if flags.if_replica_exists => {
            Ok(Outcome::Nothing { reason: format!("there is no replica at {url}") })
        }
        Err(error) => Err(error.into()),
    }
}

fn target(flags: &RestoreFlags) -> Result<Target, RunError> {
    Ok(match (&flags.to_time, flags.to_lsn, &flags.to_name, flags.to_xid) {
        (Some(text), _, _, _) => Target::Time(Target::parse_time(text).map_err(RunError::Usage)?),
        (_, Some(lsn), _, _) => Target::Lsn(lsn),
        (_, _, Some(name), _) => Target::Name(name.clone()),
        (_, _, _, Some(xid)) => Target::Xid(xid),
        _ => Target::Latest,
    })
}

async fn postgres(
    flags: &RestoreFlags,
    replica: &PostgresReplica,
    program: &Path,
    say: &dyn Fn(&str),
) -> Result<Outcome, RunError> {
    if flags.index.is_some() {
        return Err(RunError::Usage("--index is for SQLite; a PostgreSQL cluster is restored --to-lsn".to_owned()));
    }
    let generation = flags.generation.as_ref().map(|text| {
        text.parse::<Generation>()
            .map_err(|_| RunError::Usage(format!("{text:?} is no generation: 16 hexadecimal digits are")))
    });
    let request = Request { target: target(flags)?, generation: generation.transpose()? };
    let mut quorum = (!flags.quorum.safekeepers.is_empty() && !flags.archive_only)
        .then(|| Quorum::new(flags.quorum.safekeepers.clone(), flags.quorum.cluster.as_ref().map(ToString::to_string)));
    let plan = make_plan(replica, &request, quorum.as_mut()).await?;
    let report = PlanReport::new(&plan);
    if flags.dry_run {
        return Ok(Outcome::Planned { plan: report });
    }
    if !flags.json {
        say(&report.text());
    }
    let output = flags.output.clone().ok_or_else(|| RunError::Usage("--output is missing".to_owned()))?;
    let action = match flags.target_action.as_str() {
        "pause" => Action::Pause,
        "shutdown" => Action::Shutdown,
        _ => Action::Promote,
    };
    let options = Options {
        output,
        overwrite: flags.overwrite,
        tablespaces: flags.tablespace_mapping.clone(),
        parallelism: usize::from(flags.parallelism),
        program: program.to_path_buf(),
        replica: open::absolute_url(&flags.replica),
        identities: flags
            .source
            .identity
            .iter()
            .map(|path| std::path::absolute(path).unwrap_or(path.clone()))
            .collect(),
        action,
    };
    let held = Held::put(replica, "restore", plan.chosen.generation, plan.chosen.lsn).await;
    let held = held
        .inspect_err(|error| tracing::warn!(%error, "the snapshot cannot be held; retention must not run meanwhile"))
        .ok();
    let restored = carry_out(replica, &plan, quorum.as_mut(), &options).await;
    let outcome = match restored {
        Ok(restored) => finish(flags, &plan, report, restored, action).await,
        Err(error) => Err(error),
    };
    if let Some(held) = held {
        held.release().await;
    }
    outcome
}

/// The plan; the quorum is asked where the answer depends on it.
async fn make_plan(
    replica: &PostgresReplica,
    request: &Request,
    quorum: Option<&mut Quorum>,
) -> Result<Plan, RunError> {
    let Some(quorum) = quorum else { return Ok(plan::plan(replica, request, None).await?) };
    match request.target {
        Target::Latest | Target::Time(_) => {}
        // A place below the archive's end needs nobody else.
        Target::Lsn(_) | Target::Name(_) | Target::Xid(_) => match plan::plan(replica, request, None).await {
            Err(PlanError::Beyond { .. } | PlanError::Unfinished { .. }) => {}
            planned => return Ok(planned?),
        },
    }
    let end = look(replica, quorum).await?;
    Ok(plan::plan(replica, request, Some(&end)).await?)
}

/// The quorum's end, if it is the archive's quorum.
pub(super) async fn look(replica: &PostgresReplica, quorum: &mut Quorum) -> Result<QuorumEnd, RunError> {
    let end = quorum.look().await.map_err(|error| RunError::Quorum(Box::new(error)))?;
    let archive = replica.era().name.to_string();
    match quorum.era() {
        Some(theirs) if theirs != archive => Err(RunError::OtherEra { quorum: theirs, archive }),
        _ => Ok(end),
    }
}

/// Lays the directory out, with a display.
pub(super) async fn carry_out(
    replica: &PostgresReplica,
    plan: &Plan,
    quorum: Option<&mut Quorum>,
    options: &Options,
) -> Result<Restored, RunError> {
    let progress = Arc::new(Progress::default());
    let counted = Arc::clone(&progress);
    let _display =
        Display::start("restored", plan.chosen.snapshot.bytes, move || counted.written.load(Ordering::Relaxed));
    Ok(execute::execute(replica, plan, quorum, options, progress).await?)
}

async fn finish(
    flags: &RestoreFlags,
    plan: &Plan,
    mut report: PlanReport,
    restored: Restored,
    action: Action,
) -> Result<Outcome, RunError> {
    give_away(&restored)?;
    report.notes.clone_from(&restored.notes);
    let mut server = None;
    if flags.start {
        let start = Start {
            directory: restored.directory.clone(),
            pg_bin: flags.pg_bin.clone(),
            port: flags.port,
            socket_dir: None,
            major: plan.chosen.snapshot.server_version / 10_000,
            settings: Vec::new(),
        };
        let started = tokio::task::spawn_blocking(move || {
            start::start(&start, action == Action::Promote).map(pg_server::Server::leave)
        });
        let pid = started.await.map_err(|_| RunError::Stopped)??;
        server = Some(ServerReport { pid, port: flags.port, log: start::log_of(&restored.directory) });
    }
    Ok(Outcome::Restored {
        plan: report,
        directory: restored.directory,
        stop: restored.stop,
        neutralised: restored.neutralised,
        files: restored.files,
        bytes: restored.bytes,
        server,
    })
}

/// A directory restored by root is PostgreSQL's user's.
pub(super) fn give_away(restored: &Restored) -> Result<(), RunError> {
    let Some(user) = RunAs::choose() else { return Ok(()) };
    for path in restored.tablespaces.iter().map(|(_, path)| path).chain([&restored.directory]) {
        user.own(path).map_err(|source| RunError::Owner { path: path.clone(), source })?;
    }
    Ok(())
}
