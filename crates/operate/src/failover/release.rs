//! `release`: the break-glass that lets commits through without the quorum, and the way back.
//!
//! While the quorum is away commits hang, and that is the promise. Whoever would rather lose protection than wait takes
//! `synchronous_standby_names` away: hung commits return at once. The slot goes on holding all WAL the quorum lacks, so the way back
//! needs nothing but patience: the quorum catches up, and only then do commits wait for it again.

use super::Error;
use crate::members::rows;
use config::FailoverOptions;
use lsn::Lsn;
use pg_conn::{ConnInfo, Connection, StartupExtra};
use pg_source::{APPLICATION_NAME, StandbyNames};
use std::time::{Duration, Instant};

const TICK: Duration = Duration::from_millis(200);
/// How long a reload may take until sessions know of it.
const RELOADED_WITHIN: Duration = Duration::from_secs(10);

/// Lets commits return without us. Returns what `synchronous_standby_names` was; empty if nobody was waited for.
pub async fn release(options: &FailoverOptions, primary: Option<&str>) -> Result<String, Error> {
    let mut server = connect(options, primary).await?;
    let before = one(&mut server, "SHOW synchronous_standby_names").await?;
    if before.is_empty() {
        return Ok(before);
    }
    tracing::warn!(synchronous_standby_names = before, "commits are let through without the quorum: UNPROTECTED");
    one(&mut server, "ALTER SYSTEM SET synchronous_standby_names = ''").await?;
    reload(options, primary, &mut server, |names| names.is_empty()).await?;
    Ok(before)
}

/// Waits until the quorum has everything, and lets commits wait for it again. Returns what `synchronous_standby_names` is now.
pub async fn protect_again(options: &FailoverOptions, primary: Option<&str>) -> Result<String, Error> {
    let deadline = Instant::now() + Duration::from_secs(options.within.into());
    let mut server = connect(options, primary).await?;
    let goal = one(&mut server, "SELECT pg_current_wal_flush_lsn()::text").await?;
    let goal: Lsn = goal.parse().map_err(|_| Error::Standby("it does not say what it has flushed".to_owned()))?;
    loop {
        let mut committed = Lsn::INVALID;
        for address in &options.safekeepers {
            let found = rows(address).await.map(|(_, _, rows)| rows).unwrap_or_default();
            let ours = |name: &str| options.cluster.as_ref().is_none_or(|wanted| wanted.as_str() == name);
            let commit = found.iter().filter(|row| ours(&row.name)).map(|row| row.commit).max();
            committed = committed.max(commit.unwrap_or_default());
        }
        if committed >= goal {
            break;
        }
        if Instant::now() >= deadline {
            return Err(Error::NotBack { goal, committed });
        }
        tokio::time::sleep(TICK).await;
    }
    one(&mut server, "ALTER SYSTEM RESET synchronous_standby_names").await?;
    // What the other files say is what counted before somebody used ALTER SYSTEM.
    let query =
        "SELECT setting FROM pg_file_settings WHERE name = 'synchronous_standby_names' ORDER BY seqno DESC LIMIT 1";
    let below = one(&mut server, query).await?;
    if !requires_us(&below) {
        let names = StandbyNames::requiring(StandbyNames::parse(&below).ok().flatten().as_ref(), APPLICATION_NAME);
        let names = names.to_string().replace('\'', "''");
        one(&mut server, &format!("ALTER SYSTEM SET synchronous_standby_names = '{names}'")).await?;
    }
    reload(options, primary, &mut server, requires_us).await
}

fn requires_us(names: &str) -> bool {
    StandbyNames::parse(names).ok().flatten().is_some_and(|names| names.requires(APPLICATION_NAME))
}

/// Reloads, and waits until a new session sees what was set; returns it.
async fn reload(
    options: &FailoverOptions,
    primary: Option<&str>,
    server: &mut Connection,
    is_set: impl Fn(&str) -> bool,
) -> Result<String, Error> {
    one(server, "SELECT pg_reload_conf()::text").await?;
    let deadline = Instant::now() + RELOADED_WITHIN;
    loop {
        let names = one(&mut connect(options, primary).await?, "SHOW synchronous_standby_names").await?;
        if is_set(&names) {
            return Ok(names);
        }
        if Instant::now() >= deadline {
            return Err(Error::Standby(format!("synchronous_standby_names is still '{names}' after a reload")));
        }
        tokio::time::sleep(TICK).await;
    }
}

async fn connect(options: &FailoverOptions, primary: Option<&str>) -> Result<Connection, Error> {
    let failed = |error: &dyn std::fmt::Display| Error::Standby(error.to_string());
    let primary = primary.or(options.primary.as_ref().map(config::Conninfo::as_str)).ok_or(Error::NoPrimary)?;
    let info: ConnInfo = primary.parse().map_err(|error| failed(&error))?;
    let info = info.with_env(|name| std::env::var(name).ok()).map_err(|error| failed(&error))?;
    let extra = StartupExtra {
        application_name: Some("seawall release".to_owned()),
        dbname: info.dbname().is_none().then(|| "postgres".to_owned()),
        ..StartupExtra::default()
    };
    pg_conn::connect(&info, &extra).await.map_err(|error| failed(&error))
}

/// The first value of a query's answer; empty if there is none.
async fn one(server: &mut Connection, query: &str) -> Result<String, Error> {
    let rows = server.simple_query(query).await.map_err(|error| Error::Standby(error.to_string()))?;
    Ok(rows.first().and_then(|row| row.text(0)).unwrap_or_default().to_owned())
}
