//! Around a failover: completing the quorum's log, fencing it, making a standby fit for promotion, and bringing what a server
//! had written before it starts again.

mod rebase;
mod release;
mod standby;

pub use rebase::{Era, rebase};
pub use release::{protect_again, release};
pub use standby::pre_promote;

use config::FailoverOptions;
use consensus::FenceToken;
use lsn::Lsn;
use proposer::{FenceRequest, Led, OnceOptions, Takeover, WalFiles};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

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
    #[error("the server cannot be asked: {0}")]
    Standby(String),
    /// Whether it has the quorum's WAL cannot be found out.
    #[error(
        "the standby's WAL cannot be held against the quorum's log: {0}; its role needs REPLICATION and pg_monitor, and pg_hba.conf a \
         line for the database replication"
    )]
    Compare(String),
    /// The quorum does not catch up.
    #[error(
        "the quorum has committed {committed}, and the primary has flushed {goal}: commits are still let through without it; see \
         `seawall status`, and try again"
    )]
    NotBack {
        /// What it has to have.
        goal: Lsn,
        /// What it has.
        committed: Lsn,
    },
    /// An era cannot end.
    #[error("{0}")]
    Rebase(String),
    /// The next era does not begin.
    #[error(transparent)]
    Init(#[from] crate::init::Error),
    /// No cluster was named.
    #[error("name the cluster whose era ends with --cluster")]
    NoName,
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
            Error::Unfit(_) | Error::Compare(_) | Error::Running { .. } => Exit::Refused,
            Error::Init(error) if error.is_refusal() => Exit::Refused,
            Error::NotBack { .. } | Error::Rebase(_) | Error::Init(_) => Exit::Failed,
            Error::NoPrimary | Error::NoName | Error::Outgoing(_) => Exit::Usage,
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
    Ok(proposer::lift_fence(once(options, Takeover::default())?, None).await?)
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
