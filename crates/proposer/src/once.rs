//! Leading once: a term is won to get something done, and given up.
//!
//! [`complete`] brings what the quorum has onto a majority without a primary, and may fence it there; [`adopt`] lets a primary
//! go on whose slot was lost; [`bring`] brings the WAL of a server that is down. All of them obey the rules of any election.

use crate::discover::{self, Found};
use crate::driver::{Driver, Origin};
use crate::error::Error;
use crate::files::WalFiles;
use crate::options::Takeover;
use crate::run::ask;
use crate::safekeeper::Safekeeper;
use consensus::{Fence, FenceLine, FenceToken};
use leader::{Leader, State};
use lsn::{Lsn, Path, Term};
use pg_conn::ConnInfo;
use quorum_proto::{FenceCommand, LogStatusRow};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::task::LocalSet;

/// How often it is looked whether it is done.
const TICK: Duration = Duration::from_millis(20);
/// Pause between two tries. A proposer that was deposed waits for a second, so this one gets its turn.
const RETRY: Duration = Duration::from_millis(100);

/// Whose quorum, and how long it may take.
#[derive(Clone, Debug)]
pub struct OnceOptions {
    /// Addresses of the safekeepers, `host:port`.
    pub safekeepers: Vec<String>,
    /// Name of the cluster; not needed where the safekeepers have only one.
    pub cluster: Option<String>,
    /// What is shown to safekeepers.
    pub outgoing: auth::Outgoing,
    /// Who may take over, where a server leads.
    pub takeover: Takeover,
    /// It fails after this.
    pub within: Duration,
}

/// The fence to be set.
#[derive(Clone, Debug)]
pub struct FenceRequest {
    /// What passes it.
    pub token: FenceToken,
    /// How long it stands; `None` until it is lifted.
    pub expires: Option<Duration>,
}

/// A term that was led.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Led {
    /// The cluster's name.
    pub cluster: String,
    /// The term.
    pub term: Term,
    /// Everything below is committed.
    pub commit: Lsn,
    /// The lineage of what is committed.
    pub path: Path,
    /// The fence that was set.
    pub fence: Option<FenceLine>,
}

/// Completes the quorum's log on a majority, and sets a fence there, if asked for one.
///
/// # Errors
/// Nothing was set; see [`Error::exit_kind`].
pub async fn complete(options: OnceOptions, fence: Option<FenceRequest>) -> Result<Led, Error> {
    let work = async {
        let (driver, deadline) = start(&options, Origin::Quorum, |options| options.completes = true).await?;
        let led = loop {
            let led = reached(&driver, deadline, |status| status.term_start).await?;
            match &fence {
                None => break led,
                Some(request) => match set_fence(&driver, &led, request).await {
                    Ok(line) => break Led { fence: Some(line), ..led },
                    // Another proposer came in between: once more, in a new term.
                    Err(reason) if Instant::now() < deadline => {
                        tracing::info!("the fence does not stand yet: {reason}");
                        tokio::time::sleep(RETRY).await;
                    }
                    Err(reason) => return Err(Error::NotDone(reason)),
                },
            }
        };
        driver.leave().await;
        Ok(led)
    };
    LocalSet::new().run_until(work).await
}

/// Lets a primary without our slot lead, if all WAL that both sides have is equal, until its slot vouches for it.
pub async fn adopt(options: OnceOptions, primary: &str) -> Result<Led, Error> {
    let conninfo: ConnInfo = primary.parse()?;
    let conninfo = conninfo.with_env(|name| std::env::var(name).ok())?;
    let origin = Origin::Primary(Rc::new(pg_source::Options::new(conninfo)));
    let work = async {
        let (driver, deadline) = start(&options, origin, |options| options.adopt = true).await?;
        let goal =
            |status: &leader::Status| Some(status.primary.as_ref()?.flush).filter(|_| status.answered.is_valid());
        let led = reached(&driver, deadline, goal).await;
        driver.leave().await;
        led
    };
    LocalSet::new().run_until(work).await
}

/// Brings the WAL of a server that is down onto a majority; `None` if it never had our slot and the quorum never had any WAL:
/// then nothing of it was ever acknowledged. The caller has made sure that the server is down.
pub async fn bring(options: OnceOptions, files: WalFiles) -> Result<Option<Led>, Error> {
    let end = files.end();
    let work = async {
        if !files.has_slot() && is_empty(&options).await? {
            return Ok(None);
        }
        let (driver, deadline) = start(&options, Origin::Files(Rc::new(files)), |_| {}).await?;
        let led = reached(&driver, deadline, |_| Some(end)).await;
        driver.leave().await;
        led.map(Some)
    };
    LocalSet::new().run_until(work).await
}

/// Lifts the fence on every safekeeper that has one, if it is of this epoch or an earlier one where one is named; returns what stood,
/// one for each safekeeper.
pub async fn lift_fence(options: OnceOptions, newest: Option<Term>) -> Result<Vec<(String, String)>, Error> {
    let work = async {
        let safekeepers = safekeepers(&options)?;
        let deadline = Instant::now() + options.within;
        let found = find(&safekeepers, &options, deadline).await?;
        let mut lifted = Vec::new();
        for safekeeper in &safekeepers {
            let not_done = |reason: String| Error::NotDone(format!("{safekeeper}: {reason}"));
            let status = safekeeper.log_status().await.map_err(not_done)?;
            let row = status.rows.into_iter().find(|row| row.cluster == found.id);
            let Some(line) = row.and_then(|row| row.fence) else { continue };
            let epoch = line.parse::<FenceLine>().map_err(|error| not_done(error.to_string()))?.epoch;
            if newest.is_some_and(|newest| epoch > newest) {
                continue;
            }
            safekeeper.fence(found.id, &FenceCommand::Lift(epoch)).await.map_err(not_done)?;
            lifted.push((safekeeper.address().to_owned(), line));
        }
        Ok(lifted)
    };
    LocalSet::new().run_until(work).await
}

fn safekeepers(options: &OnceOptions) -> Result<Vec<Rc<Safekeeper>>, Error> {
    if options.safekeepers.is_empty() {
        return Err(Error::NoSafekeepers);
    }
    options.safekeepers.iter().map(|address| Safekeeper::new(address, &options.outgoing).map(Rc::new)).collect()
}

async fn find(safekeepers: &[Rc<Safekeeper>], options: &OnceOptions, deadline: Instant) -> Result<Found, Error> {
    let addresses: Vec<&str> = safekeepers.iter().map(|safekeeper| safekeeper.address()).collect();
    loop {
        let asked: Vec<_> = safekeepers.iter().cloned().map(ask).collect();
        let mut answers = Vec::with_capacity(asked.len());
        for answer in asked {
            answers.push(answer.await.unwrap_or_else(|_| Err("it could not be asked".to_owned())));
        }
        match discover::judge(&addresses, &answers, options.cluster.as_deref())? {
            Ok(found) => return Ok(found),
            Err(trouble) if Instant::now() >= deadline => return Err(Error::NotDone(trouble)),
            Err(_) => tokio::time::sleep(RETRY).await,
        }
    }
}

/// Whether a majority of the safekeepers has the cluster and none of those that answer has any WAL of it.
async fn is_empty(options: &OnceOptions) -> Result<bool, Error> {
    let safekeepers = safekeepers(options)?;
    let found = find(&safekeepers, options, Instant::now() + options.within).await?;
    for safekeeper in &safekeepers {
        let rows = safekeeper.log_status().await.map(|status| status.rows).unwrap_or_default();
        if rows.iter().any(|row| row.cluster == found.id && row.flush.is_valid()) {
            return Ok(false);
        }
    }
    Ok(true)
}

async fn start(
    options: &OnceOptions,
    origin: Origin,
    change: impl FnOnce(&mut leader::Options),
) -> Result<(Rc<Driver>, Instant), Error> {
    let deadline = Instant::now() + options.within;
    let safekeepers = safekeepers(options)?;
    let found = find(&safekeepers, options, deadline).await?;
    let addresses = safekeepers.iter().map(ToString::to_string).collect();
    let mut told = leader::Options {
        takeover: options.takeover.always,
        takeover_after: options.takeover.after_silence,
        retry: RETRY,
        ..leader::Options::new(found.id, addresses)
    };
    change(&mut told);
    let leader = Leader::new(told, Instant::now());
    let token_file: Option<PathBuf> = options.takeover.token_file.clone();
    let driver = Driver::new(found.id, found.name, leader, origin, token_file, safekeepers);
    tokio::task::spawn_local(Rc::clone(&driver).keep_time());
    Ok((driver, deadline))
}

/// Waits until the leader has committed up to the goal, and a majority knows.
async fn reached(
    driver: &Rc<Driver>,
    deadline: Instant,
    goal: impl Fn(&leader::Status) -> Option<Lsn>,
) -> Result<Led, Error> {
    let mut asked = Instant::now();
    loop {
        let status = driver.leader().status();
        if let Some(refusal) = status.refusal.as_ref().filter(|_| status.state == State::Refused) {
            return Err(Error::Refused(refusal.to_string()));
        }
        let goal = goal(&status);
        if let (Some(term), Some(goal)) = (status.term, goal)
            && status.commit.is_some_and(|commit| commit >= goal)
            && asked <= Instant::now()
        {
            let rows: Vec<LogStatusRow> = driver.rows().await.into_iter().map(|(_, row)| *row).collect();
            if let Some(row) = rows.iter().find(|row| knows(row, term, goal)).filter(|_| is_known(&rows, term, goal)) {
                let commit = row.commit;
                let path = row
                    .path
                    .clone()
                    .map(|path| path.cut(commit))
                    .ok_or(Error::NotDone("a log has no path".to_owned()))?;
                return Ok(Led { cluster: driver.name().to_owned(), term, commit, path, fence: None });
            }
            asked = Instant::now() + RETRY;
        }
        if Instant::now() >= deadline {
            let trouble = status.trouble.unwrap_or_else(|| format!("it is still {}", status.state));
            return Err(Error::NotDone(trouble));
        }
        tokio::time::sleep(TICK).await;
    }
}

fn knows(row: &LogStatusRow, term: Term, goal: Lsn) -> bool {
    row.term == term && row.last_log_term == term && row.commit >= goal
}

fn is_known(rows: &[LogStatusRow], term: Term, goal: Lsn) -> bool {
    let Some(record) = rows.iter().map(|row| &row.membership).max_by_key(|record| record.precedence()) else {
        return false;
    };
    record.is_set() && record.has_majority(|node| rows.iter().any(|row| row.node == node && knows(row, term, goal)))
}

/// Sets the fence on all safekeepers that follow the term; a majority must.
async fn set_fence(driver: &Rc<Driver>, led: &Led, request: &FenceRequest) -> Result<FenceLine, String> {
    let millis = request.expires.map(|expires| u64::try_from(expires.as_millis()).unwrap_or(u64::MAX));
    let line = FenceLine { epoch: led.term, path: led.path.clone(), lsn: led.commit, expires_ms: millis };
    let command = FenceCommand::Set(Fence { line: line.clone(), token: request.token });
    let rows = driver.rows().await;
    let record = rows.iter().map(|(_, row)| &row.membership).max_by_key(|record| record.precedence()).cloned();
    let record = record.filter(|record| record.is_set()).ok_or("no safekeeper has a membership record")?;
    let (mut stands, mut problems) = (Vec::new(), Vec::new());
    for (peer, row) in &rows {
        match driver.safekeeper(*peer).fence(driver.cluster(), &command).await {
            Ok(()) => stands.push(row.node),
            Err(reason) => problems.push(format!("{}: {reason}", driver.safekeeper(*peer))),
        }
    }
    match record.has_majority(|node| stands.contains(&node)) {
        true => Ok(line),
        false => Err(format!("no majority has the fence ({})", problems.join("; "))),
    }
}
