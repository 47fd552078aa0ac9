//! `seawall validate`: a backup is one that has been restored.
//!
//! The newest snapshot is restored to a scratch directory as a restore would do it, every record of the archived WAL is walked in one
//! pass, a server recovers to the end and is read through (`pg_amcheck` where it is installed, else a dump of everything), and where
//! safekeepers are named, the end is compared with theirs. The server of a validation listens on a socket of its own only, believes its
//! own user, and starts neither vacuum nor replication. A success is noted in the replica.

use super::hold::Held;
use super::open::{self, Opened};
use super::progress::{Counter, Display};
use super::quorum::Quorum;
use super::run::{self, PlanReport, RunError};
use super::start::{self, Start};
use config::ValidateFlags;
use jiff::Timestamp;
use lsn::Lsn;
use pg_server::{Mode, RunAs, Server};
use replica_client::{Control, Generation, PostgresReplica};
use restore::postgres::execute::Options;
use restore::postgres::fetch::Fetcher;
use restore::postgres::plan::{self, Plan, PlanError, Request, Stop};
use restore::postgres::recovery::Action;
use restore::postgres::target::Target;
use restore::postgres::verify::{self, Walked};
use serde::Serialize;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// The object that notes the last success.
const LAST_SUCCESS: &str = "last-success.json";
const STOP_WITHIN: Duration = Duration::from_secs(30);
/// Not used: there is no TCP. It is part of the socket's name.
const PORT: u16 = 5432;

/// Why a validation failed.
#[derive(Debug, thiserror::Error)]
pub enum ValidateError {
    /// Restoring.
    #[error(transparent)]
    Run(Box<RunError>),
    /// The WAL.
    #[error(transparent)]
    Wal(Box<PlanError>),
    /// The walk ended before the WAL did.
    #[error("the WAL reaches to {archived}, and its last whole record ends at {walked}")]
    Short {
        /// Objects reach to here.
        archived: Lsn,
        /// Records to here.
        walked: Lsn,
    },
    /// The scratch directory.
    #[error("cannot use {} for scratch: {source}", path.display())]
    Scratch {
        /// Where.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A check of the running server.
    #[error("{program} says that the restored database is not sound ({outcome}): {said}")]
    Check {
        /// The program.
        program: &'static str,
        /// Its exit status.
        outcome: String,
        /// What it said.
        said: String,
    },
    /// A program of PostgreSQL could not be run.
    #[error("cannot run {program}: {source}")]
    Program {
        /// The program.
        program: &'static str,
        /// Why not.
        source: io::Error,
    },
}

boxed!(ValidateError: Run(RunError), Wal(PlanError));

impl ValidateError {
    /// How the process ends.
    pub fn exit(&self) -> crate::process::Exit {
        match self {
            ValidateError::Run(error) => error.exit(),
            _ => crate::process::Exit::Failed,
        }
    }
}

/// A successful validation.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Report {
    /// When it ended.
    pub at: Timestamp,
    /// What was restored.
    pub plan: PlanReport,
    /// Records of WAL whose links and checksums hold.
    pub wal_records: u64,
    /// Bytes of WAL walked.
    pub wal_bytes: u64,
    /// End of the last record.
    pub wal_end: String,
    /// Files restored and compared with the backup manifest.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// What read the recovered server through; `None` if none was started.
    pub checked_by: Option<&'static str>,
    /// The end of the quorum's log, where safekeepers were named.
    pub quorum_end: Option<String>,
    /// Bytes of it that are not archived yet.
    pub not_archived: Option<u64>,
    /// How long it took.
    pub seconds: u64,
}

/// Validates the newest state of a replica.
pub async fn validate(flags: &ValidateFlags, program: &Path) -> Result<Report, ValidateError> {
    let replica = match open::open(&flags.replica, &flags.source).await.map_err(RunError::from)? {
        Opened::Postgres(replica) => replica,
        Opened::Sqlite(_) => return Err(RunError::Usage("this is a replica of a SQLite database".to_owned()).into()),
    };
    let started = Instant::now();
    let generation = flags.generation.as_ref().map(|text| {
        text.parse::<Generation>()
            .map_err(|_| RunError::Usage(format!("{text:?} is no generation: 16 hexadecimal digits are")))
    });
    let request = Request { target: Target::Latest, generation: generation.transpose()? };
    let mut quorum = (!flags.quorum.safekeepers.is_empty())
        .then(|| Quorum::new(flags.quorum.safekeepers.clone(), flags.quorum.cluster.as_ref().map(ToString::to_string)));
    let end = match quorum.as_mut() {
        Some(quorum) => Some(run::look(&replica, quorum).await?),
        None => None,
    };
    let plan = plan::plan(&replica, &request, end.as_ref()).await?;
    let held = Held::put(&replica, "validate", plan.chosen.generation, plan.chosen.lsn).await.ok();
    let outcome = prove(flags, &replica, &plan, quorum.as_mut(), program).await;
    if let Some(held) = held {
        held.release().await;
    }
    let (walked, files, bytes, checked_by) = outcome?;
    let report = Report {
        at: Timestamp::now(),
        plan: PlanReport::new(&plan),
        wal_records: walked.records,
        wal_bytes: walked.bytes,
        wal_end: walked.end.to_string(),
        files,
        bytes,
        checked_by,
        quorum_end: end.as_ref().map(|end| end.end.to_string()),
        not_archived: end.as_ref().map(|end| end.end.0.saturating_sub(plan.archived.0)),
        seconds: started.elapsed().as_secs(),
    };
    note(&replica, &report).await;
    Ok(report)
}

/// When the last validation of this replica succeeded; `None` if none has been noted.
pub(crate) async fn last_success(replica: &PostgresReplica) -> Result<Option<Timestamp>, replica_client::Error> {
    #[derive(serde::Deserialize)]
    struct Noted {
        at: Timestamp,
    }
    let noted = replica.control_get(Control::Validation, LAST_SUCCESS).await?;
    // A note that cannot be read is no proof of anything.
    Ok(noted.and_then(|json| serde_json::from_slice::<Noted>(&json).ok()).map(|noted| noted.at))
}

async fn prove(
    flags: &ValidateFlags,
    replica: &PostgresReplica,
    plan: &Plan,
    quorum: Option<&mut Quorum>,
    program: &Path,
) -> Result<(Walked, u64, u64, Option<&'static str>), ValidateError> {
    let archived = plan.archived.min(plan.end);
    let fetcher = Fetcher::new(replica.clone(), plan.lineage.clone(), archived);
    let begin = plan.chosen.snapshot.wal_begin();
    let walked = {
        let counter = Counter::default();
        let counted = counter.clone();
        let _display = Display::start("walked", archived.bytes_since(begin), move || counted.get());
        verify::walk(&fetcher, begin, |bytes| counter.add(bytes)).await?
    };
    // An archive that is fed by the segment may end in mid-record; one that names its last record must have it.
    if let Some(Stop::Record { end, .. }) = plan.stop
        && walked.end < end
    {
        return Err(ValidateError::Short { archived, walked: walked.end });
    }
    let parent = flags.scratch.clone().unwrap_or_else(std::env::temp_dir);
    let scratch = scratch(&parent)?;
    let options = Options {
        output: scratch.path().join("data"),
        overwrite: false,
        tablespaces: plan
            .chosen
            .snapshot
            .tablespaces
            .iter()
            .map(|tablespace| (tablespace.oid, scratch.path().join(format!("tablespace-{}", tablespace.oid))))
            .collect(),
        parallelism: usize::from(flags.parallelism),
        program: program.to_path_buf(),
        replica: open::absolute_url(&flags.replica),
        identities: flags
            .source
            .identity
            .iter()
            .map(|path| std::path::absolute(path).unwrap_or(path.clone()))
            .collect(),
        action: Action::Promote,
    };
    let restored = run::carry_out(replica, plan, quorum, &options).await?;
    let (files, bytes) = (restored.files, restored.bytes);
    if flags.no_start {
        return Ok((walked, files, bytes, None));
    }
    run::give_away(&restored)?;
    let socket_dir = scratch.path().join("s");
    let hba = restored.directory.join("seawall_validate_hba.conf");
    let own = |path: &Path, source: io::Error| ValidateError::Scratch { path: path.to_path_buf(), source };
    fs::write(&hba, "local all all trust\n").map_err(|source| own(&hba, source))?;
    let settings = [
        ("hba_file", hba.to_string_lossy().into_owned()),
        ("ssl", "off".to_owned()),
        ("fsync", "off".to_owned()),
        ("autovacuum", "off".to_owned()),
        ("max_logical_replication_workers", "0".to_owned()),
        ("logging_collector", "off".to_owned()),
        ("log_destination", "stderr".to_owned()),
    ];
    let start = Start {
        directory: restored.directory,
        pg_bin: flags.pg_bin.clone(),
        port: PORT,
        socket_dir: Some(socket_dir.clone()),
        major: plan.chosen.snapshot.server_version / 10_000,
        settings: settings.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
    };
    let user = flags.user.clone();
    let work = tokio::task::spawn_blocking(move || {
        let mut server = start::start(&start, true).map_err(RunError::from)?;
        let checked_by = check(&server, &socket_dir, &user);
        // The scratch directory is thrown away: how the server ends does not matter.
        if let Err(error) = server.stop(Mode::Immediate, STOP_WITHIN) {
            tracing::warn!(%error, "the server of the validation did not stop");
        }
        checked_by
    });
    let checked_by = work.await.map_err(|_| RunError::Stopped)??;
    Ok((walked, files, bytes, Some(checked_by)))
}

/// A folder of its own that PostgreSQL's user may enter.
fn scratch(parent: &Path) -> Result<TempDir, ValidateError> {
    let refused = |source| ValidateError::Scratch { path: parent.to_path_buf(), source };
    let scratch = tempfile::Builder::new().prefix("seawall-validate-").tempdir_in(parent).map_err(refused)?;
    let open = fs::set_permissions(scratch.path(), fs::Permissions::from_mode(0o711));
    open.map_err(refused)?;
    Ok(scratch)
}

/// Reads everything: tables and indexes by `pg_amcheck` where it is installed, else every row by a dump.
fn check(server: &Server, socket_dir: &Path, user: &str) -> Result<&'static str, ValidateError> {
    let installed = |program: &str| server.installation().bin_dir().join(program).is_file();
    let amcheck = installed("pg_amcheck");
    let program = if amcheck { "pg_amcheck" } else { "pg_dumpall" };
    let run_as = RunAs::choose();
    let run_as = run_as.as_ref().unwrap_or(server.runs_as());
    let mut command = server.installation().command(program, run_as);
    command.arg("-h").arg(socket_dir).args(["-p", &PORT.to_string(), "-U", user]);
    match amcheck {
        // The extension is part of contrib, and missing databases get it.
        true => command.args(["--all", "--install-missing", "--heapallindexed"]),
        false => command.args(["-f", "/dev/null"]),
    };
    let output = command.current_dir("/").stdin(Stdio::null()).output();
    let output = output.map_err(|source| ValidateError::Program { program, source })?;
    if output.status.success() {
        return Ok(program);
    }
    let said = [output.stdout, output.stderr].concat();
    let said: String = String::from_utf8_lossy(&said).trim().replace('\n', " | ").chars().take(2000).collect();
    Err(ValidateError::Check { program, outcome: output.status.to_string(), said })
}

/// Notes a success beside the archive, for whoever asks when the last one was. A store that may only be read keeps no note.
async fn note(replica: &PostgresReplica, report: &Report) {
    let json = serde_json::to_vec(report).unwrap_or_default();
    if let Err(error) = replica.control_put(Control::Validation, LAST_SUCCESS, json.into()).await {
        tracing::warn!(%error, "the success cannot be noted in the replica");
    }
}
