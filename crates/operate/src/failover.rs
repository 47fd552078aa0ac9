//! Around a failover: completing the quorum's log, fencing it, making a standby fit for promotion, and bringing what a server
//! had written before it starts again.

use config::FailoverOptions;
use consensus::FenceToken;
use lsn::Lsn;
use pg_conn::{ConnInfo, Connection, StartupExtra};
use proposer::{FenceRequest, Led, OnceOptions, Takeover, WalFiles};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How often a standby is asked how far it is.
const TICK: Duration = Duration::from_millis(100);
/// Our slot on a primary.
const SLOT: &str = pg_source::SLOT;

/// Why something around a failover was not done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The quorum.
    #[error(transparent)]
    Quorum(#[from] proposer::Error),
    /// What we show to safekeepers.
    #[error(transparent)]
    Outgoing(#[from] auth::OutgoingError),
    /// The token cannot be left where it was asked for.
    #[error("cannot write the fence token to {path}: {error}")]
    Token {
        /// Where.
        path: PathBuf,
        /// The system's answer.
        error: io::Error,
    },
    /// The standby cannot be asked.
    #[error("the standby cannot be asked: {0}")]
    Standby(String),
    /// The standby may not be promoted.
    #[error("the standby must not be promoted: {0}")]
    Unfit(String),
    /// No primary was named.
    #[error("the primary is missing: give --primary, or primary under [[cluster]] in the file of --config")]
    NoPrimary,
    /// The server of a data directory runs.
    #[error("the server in {path} runs (process {pid}): stop it, or leave pre-start out")]
    Running {
        /// The data directory.
        path: PathBuf,
        /// Its postmaster.
        pid: u32,
    },
}

impl Error {
    /// How the process ends.
    pub fn exit(&self) -> crate::process::Exit {
        use crate::process::Exit;
        match self {
            Error::Quorum(error) => match error.exit_kind() {
                proposer::ExitKind::Failed => Exit::Failed,
                proposer::ExitKind::Usage => Exit::Usage,
                proposer::ExitKind::Refused => Exit::Refused,
            },
            Error::Unfit(_) | Error::Running { .. } => Exit::Refused,
            Error::NoPrimary | Error::Outgoing(_) => Exit::Usage,
            Error::Token { .. } | Error::Standby(_) => Exit::Failed,
        }
    }
}

fn once(options: &FailoverOptions, takeover: Takeover) -> Result<OnceOptions, Error> {
    Ok(OnceOptions {
        safekeepers: options.safekeepers.iter().map(ToString::to_string).collect(),
        cluster: options.cluster.as_ref().map(ToString::to_string),
        outgoing: crate::process::outgoing(&options.auth)?,
        takeover,
        within: Duration::from_secs(options.within.into()),
    })
}

/// Completes the quorum's log on a majority: everything that may have been acknowledged is committed, and nobody who led before
/// leads any more until it is elected again.
pub async fn sync(options: &FailoverOptions) -> Result<Led, Error> {
    Ok(proposer::complete(once(options, Takeover::default())?, None).await?)
}

/// Completes the log and fences it there. The token is returned, and left in a file if one is named.
pub async fn fence(
    options: &FailoverOptions,
    expires: Option<Duration>,
    token_file: Option<&Path>,
) -> Result<(Led, FenceToken), Error> {
    let token = FenceToken(rand::random());
    let request = FenceRequest { token, expires };
    let led = proposer::complete(once(options, Takeover::default())?, Some(request)).await?;
    if let Some(path) = token_file {
        leave_token(path, token).map_err(|error| Error::Token { path: path.to_owned(), error })?;
    }
    Ok((led, token))
}

/// Under its name only when it is whole, and readable by its owner alone.
fn leave_token(path: &Path, token: FenceToken) -> io::Result<()> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut draft = tempfile::NamedTempFile::new_in(directory)?;
    io::Write::write_all(&mut draft, format!("{token}\n").as_bytes())?;
    draft.persist(path).map(drop).map_err(|error| error.error)
}

/// Takes the fence away wherever one stands; (address, fence) of each.
pub async fn lift(options: &FailoverOptions) -> Result<Vec<(String, String)>, Error> {
    Ok(proposer::lift_fence(once(options, Takeover::default())?).await?)
}

/// Lets a primary go on whose slot was lost, after all WAL there is was compared.
pub async fn adopt(options: &FailoverOptions, primary: Option<&str>) -> Result<Led, Error> {
    let primary = primary.or(options.primary.as_ref().map(config::Conninfo::as_str)).ok_or(Error::NoPrimary)?;
    Ok(proposer::adopt(once(options, Takeover::default())?, primary).await?)
}

/// What pre-start did.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PreStarted {
    /// A standby has nothing of its own to bring.
    Standby,
    /// No proposer was ever attached to it, and the quorum has no WAL.
    Fresh,
    /// Everything the server will recover is committed.
    Brought(Led),
}

/// Brings everything that the server of a data directory will show after its crash recovery onto a majority, before it starts.
pub async fn pre_start(options: &FailoverOptions, data_dir: &Path, takeover: bool) -> Result<PreStarted, Error> {
    if let Some(pid) = running(data_dir) {
        return Err(Error::Running { path: data_dir.to_owned(), pid });
    }
    let Some(files) = WalFiles::open(data_dir, SLOT).map_err(proposer::Error::from)? else {
        return Ok(PreStarted::Standby);
    };
    let takeover = Takeover { always: takeover, ..Takeover::default() };
    let led = proposer::bring(once(options, takeover)?, files).await?;
    Ok(led.map_or(PreStarted::Fresh, PreStarted::Brought))
}

/// The postmaster of a data directory, if it lives.
fn running(data_dir: &Path) -> Option<u32> {
    let text = std::fs::read_to_string(data_dir.join("postmaster.pid")).ok()?;
    let pid: i32 = text.lines().next()?.trim().parse().ok()?;
    let process = rustix::process::Pid::from_raw(pid)?;
    let lives = !matches!(rustix::process::test_kill_process(process), Err(rustix::io::Errno::SRCH));
    // A number that another program has by now is no server.
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_else(|_| "postgres".to_owned());
    (lives && name.trim().starts_with("postgres")).then(|| pid.unsigned_abs())
}

/// Makes a standby fit for promotion: fences the quorum where its log ends, lets the standby have everything up to there, and
/// checks that it has.
pub async fn pre_promote(
    options: &FailoverOptions,
    standby: &str,
    feed: bool,
    expires: Duration,
    token_file: Option<&Path>,
) -> Result<(Led, FenceToken), Error> {
    let deadline = Instant::now() + Duration::from_secs(options.within.into());
    let mut server = connect(standby).await?;
    let row = ask(&mut server, "SELECT pg_is_in_recovery()::text").await?;
    if row.first().map(String::as_str) != Some("true") {
        return Err(Error::Unfit("it is not in recovery: it was promoted already".to_owned()));
    }
    let (led, token) = fence(options, Some(expires), token_file).await?;
    if feed {
        self::feed(&mut server, options, &led.cluster).await?;
    }
    let replayed = wait_for_replay(&mut server, led.commit, deadline).await?;
    let tli = ask(&mut server, "SELECT timeline_id::text FROM pg_control_checkpoint()").await?;
    let on_path = |tli: &String| led.path.entries().iter().any(|entry| entry.tli.to_string() == *tli);
    if !tli.first().is_some_and(on_path) {
        return Err(Error::Unfit(format!(
            "it is on TLI {}, which is not on the quorum's log, {}",
            tli.join(""),
            led.path
        )));
    }
    tracing::info!(%replayed, fenced = %led.commit, "the standby has everything that was acknowledged");
    Ok((led, token))
}

async fn connect(conninfo: &str) -> Result<Connection, Error> {
    let failed = |error: &dyn std::fmt::Display| Error::Standby(error.to_string());
    let info: ConnInfo = conninfo.parse().map_err(|error| failed(&error))?;
    let info = info.with_env(|name| std::env::var(name).ok()).map_err(|error| failed(&error))?;
    let extra = StartupExtra {
        application_name: Some("seawall pre-promote".to_owned()),
        dbname: info.dbname().is_none().then(|| "postgres".to_owned()),
        ..StartupExtra::default()
    };
    pg_conn::connect(&info, &extra).await.map_err(|error| failed(&error))
}

async fn ask(server: &mut Connection, query: &str) -> Result<Vec<String>, Error> {
    let rows = server.simple_query(query).await.map_err(|error| Error::Standby(error.to_string()))?;
    let Some(row) = rows.first() else { return Ok(Vec::new()) };
    Ok((0..4).map_while(|column| row.text(column).map(str::to_owned)).collect())
}

/// Points the standby at the safekeepers: the primary it read from may be gone.
async fn feed(server: &mut Connection, options: &FailoverOptions, cluster: &str) -> Result<(), Error> {
    let joined =
        |part: fn(&config::Address) -> String| options.safekeepers.iter().map(part).collect::<Vec<_>>().join(",");
    let (hosts, ports) = (joined(|address| address.host.clone()), joined(|address| address.port.to_string()));
    let source = format!("host={hosts} port={ports} user=seawall options='-c cluster={cluster}'");
    let quoted = source.replace('\'', "''");
    for command in [
        format!("ALTER SYSTEM SET primary_conninfo = '{quoted}'"),
        // A slot of the old primary's does not exist there.
        "ALTER SYSTEM SET primary_slot_name = ''".to_owned(),
        "SELECT pg_reload_conf()".to_owned(),
    ] {
        server.simple_query(&command).await.map_err(|error| Error::Standby(error.to_string()))?;
    }
    Ok(())
}

async fn wait_for_replay(server: &mut Connection, goal: Lsn, deadline: Instant) -> Result<Lsn, Error> {
    let mut last = Lsn::INVALID;
    loop {
        let row = ask(server, "SELECT pg_last_wal_replay_lsn()::text").await?;
        if let Some(replayed) = row.first().and_then(|text| text.parse::<Lsn>().ok()) {
            last = replayed;
            if replayed >= goal {
                return Ok(replayed);
            }
        }
        if Instant::now() >= deadline {
            return Err(Error::Unfit(format!(
                "it has replayed {last}, below {goal} where the quorum's log ends: it lacks WAL that may have been acknowledged; \
                 check its primary_conninfo and its log"
            )));
        }
        tokio::time::sleep(TICK).await;
    }
}
