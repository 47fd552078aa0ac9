//! `pre-promote`: a standby is made fit for promotion, and shown to be.
//!
//! The fence comes first, so that the end of the log is known and stays. Then the standby gets a source that works with the primary
//! dead, and is waited for. What it has is held against the quorum's log itself: its lineage, and the bytes of the last segments,
//! because a standby of a copy has the same numbers. (Everything both sides have is compared once more before a term is won.) What was
//! changed in its settings is taken back in any case; while it runs it keeps the source it was given. If it is not fit the fence is
//! lifted, so that the old primary, or another standby, can go on.

use super::{Error, fence, once};
use crate::restore::{Quorum, TailStream};
use config::FailoverOptions;
use consensus::FenceToken;
use lsn::{Lsn, SegmentSize, Tli};
use pg_conn::{ConnInfo, Connection, StartupExtra};
use proposer::{Led, Takeover};
use source::{Stream, Tail};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use wal_format::history::History;

/// How often a standby is asked how far it is.
const TICK: Duration = Duration::from_millis(100);
/// Bytes of WAL below the end of the log that are compared.
const COMPARED: u64 = 16 << 20;
/// Where the standby reads, as long as its promotion lasts.
const SETTINGS: [&str; 2] = ["primary_conninfo", "primary_slot_name"];

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
    let mut server = connect(standby, false).await?;
    if one(&mut server, "SELECT pg_is_in_recovery()::text").await?.as_deref() != Some("true") {
        return Err(Error::Unfit("it is not in recovery: it was promoted already".to_owned()));
    }
    let (led, token) = fence(options, Some(expires), token_file).await?;
    let before = if feed { Some(self::feed(&mut server, options, &led.cluster).await?) } else { None };
    let fit = prove(&mut server, options, standby, &led, deadline).await;
    if let Some(before) = before {
        // Not before a reload: what runs keeps the source it was given.
        put_back(&mut server, before, fit.is_err()).await?;
    }
    if fit.is_err() {
        // Whoever leads next is not to wait for a promotion that does not come. A fence somebody else has set since stays.
        let lifted = proposer::lift_fence(once(options, Takeover::default())?, Some(led.term)).await;
        lifted.inspect_err(|error| tracing::warn!("the fence stands until it expires: {error}")).ok();
    }
    let replayed = fit?;
    tracing::info!(%replayed, fenced = %led.commit, "the standby has everything that was acknowledged");
    Ok((led, token))
}

/// Waits until the standby has everything, and holds it against the quorum's log. Returns how far it has replayed.
async fn prove(
    server: &mut Connection,
    options: &FailoverOptions,
    standby: &str,
    led: &Led,
    deadline: Instant,
) -> Result<Lsn, Error> {
    let replayed = wait_for_replay(server, led.commit, deadline).await?;
    let tli = one(server, "SELECT timeline_id::text FROM pg_control_checkpoint()").await?.unwrap_or_default();
    if !led.path.entries().iter().any(|entry| entry.tli.to_string() == tli) {
        return Err(Error::Unfit(format!("it is on TLI {tli}, which is not on the quorum's log, {}", led.path)));
    }
    let addresses = options.safekeepers.clone();
    let outgoing = once(options, Takeover::default())?.outgoing;
    let mut quorum = Quorum::new(addresses, Some(led.cluster.clone())).showing(outgoing);
    quorum.look().await.map_err(|error| Error::Compare(error.to_string()))?;
    compare(server, standby, &mut quorum, led).await?;
    bring_histories(server, &quorum, led).await;
    Ok(replayed)
}

/// Holds the standby's last WAL against the quorum's.
async fn compare(server: &mut Connection, standby: &str, quorum: &mut Quorum, led: &Led) -> Result<(), Error> {
    let failed = |error: &dyn std::fmt::Display| Error::Compare(error.to_string());
    let size = quorum.rows().map(|row| u64::from(row.segment_size)).max().unwrap_or_default();
    let size = SegmentSize::new(size).map_err(|error| failed(&error))?;
    let first = quorum.rows().filter_map(|row| row.history.entries().first()).map(|entry| entry.begin).max();
    let oldest = "SELECT name FROM pg_ls_waldir() WHERE name ~ '^[0-9A-F]{24}$' ORDER BY substr(name, 9) LIMIT 1";
    let oldest = one(server, oldest).await?.and_then(|name| size.parse_file_name(&name));
    let oldest = oldest.map(|(_, segment)| size.start_of(segment)).ok_or_else(|| failed(&"it has no WAL"))?;
    let window = Lsn(led.commit.0.saturating_sub(COMPARED));
    let from = size.start_of_segment_at(window).max(oldest).max(first.unwrap_or_default());
    if from >= led.commit {
        return Err(Error::Unfit(format!(
            "it has no WAL below {}, where the quorum's log ends, so nothing shows that it has all of it, and its proposer would be \
             refused; set wal_keep_size on every server",
            led.commit
        )));
    }
    let mut theirs = quorum.read(from, led.commit).await.map_err(|error| failed(&error))?;
    let connection = connect(standby, true).await?;
    let ours = TailStream::begin_on(connection, "the standby".to_owned(), &led.path, None, from, led.commit);
    let mut ours = ours.await.map_err(|error| failed(&error))?;
    let (mut at, mut substance) = (from, false);
    let (mut left, mut right) = (bytes::Bytes::new(), bytes::Bytes::new());
    while at < led.commit {
        for (rest, stream) in [(&mut left, &mut ours), (&mut right, &mut theirs)] {
            if rest.is_empty() {
                let chunk = stream.next_chunk().await.map_err(|error| failed(&error))?;
                *rest = chunk.ok_or_else(|| failed(&format!("the WAL ended at {at}")))?.bytes;
            }
        }
        let length = left.len().min(right.len());
        let (a, b) = (left.split_to(length), right.split_to(length));
        if let Some(off) = a.iter().zip(&b).position(|(a, b)| a != b) {
            let at = at.saturating_add(off as u64);
            return Err(Error::Unfit(format!(
                "its WAL differs from the quorum's log at {at}: it follows another server"
            )));
        }
        substance |= a.iter().any(|byte| *byte != 0);
        at = at.saturating_add(length as u64);
    }
    match substance {
        true => Ok(()),
        false => Err(Error::Unfit(format!("the WAL it has from {from} on is all zeros, which shows nothing"))),
    }
}

/// Puts the history files of the log's TLIs where the standby looks for them before it takes a TLI of its own. Only where its data
/// directory can be reached; what fails is said, and is no obstacle, because two promotions of one number are told apart.
async fn bring_histories(server: &mut Connection, quorum: &Quorum, led: &Led) {
    let folder = match one(server, "SHOW data_directory").await {
        Ok(Some(folder)) if Path::new(&folder).join("standby.signal").exists() => PathBuf::from(folder).join("pg_wal"),
        _ => {
            tracing::debug!("the standby's data directory is not here");
            return;
        }
    };
    for tli in led.path.entries().iter().skip(1).map(|entry| entry.tli) {
        let path = folder.join(History::file_name(tli));
        if path.exists() {
            continue;
        }
        let Some(text) = quorum.history(tli).await else { continue };
        match put_history(&folder, tli, &text) {
            Ok(()) => tracing::info!(%tli, "the standby has the history file of this TLI now"),
            Err(error) => tracing::warn!(path = %path.display(), "the history file cannot be put there: {error}"),
        }
    }
}

/// Under its name only when it is whole, and as the owner of the folder.
fn put_history(folder: &Path, tli: Tli, text: &str) -> io::Result<()> {
    let mut draft = tempfile::NamedTempFile::new_in(folder)?;
    io::Write::write_all(&mut draft, text.as_bytes())?;
    let owner = std::fs::metadata(folder)?;
    std::os::unix::fs::chown(draft.path(), Some(owner.uid()), Some(owner.gid()))?;
    draft.persist(folder.join(History::file_name(tli))).map(drop).map_err(|error| error.error)
}

async fn connect(conninfo: &str, replication: bool) -> Result<Connection, Error> {
    let failed = |error: &dyn std::fmt::Display| Error::Standby(error.to_string());
    let info: ConnInfo = conninfo.parse().map_err(|error| failed(&error))?;
    let info = info.with_env(|name| std::env::var(name).ok()).map_err(|error| failed(&error))?;
    let extra = StartupExtra {
        replication,
        application_name: Some("seawall pre-promote".to_owned()),
        dbname: (!replication && info.dbname().is_none()).then(|| "postgres".to_owned()),
        ..StartupExtra::default()
    };
    pg_conn::connect(&info, &extra).await.map_err(|error| failed(&error))
}

/// The first value of a query's answer.
async fn one(server: &mut Connection, query: &str) -> Result<Option<String>, Error> {
    let rows = server.simple_query(query).await.map_err(|error| Error::Standby(error.to_string()))?;
    Ok(rows.first().and_then(|row| row.text(0)).map(str::to_owned))
}

/// Points the standby at the safekeepers: the primary it read from may be gone. Returns what its `postgresql.auto.conf` said of the
/// settings before.
async fn feed(
    server: &mut Connection,
    options: &FailoverOptions,
    cluster: &str,
) -> Result<[Option<String>; SETTINGS.len()], Error> {
    let mut before = [const { None }; SETTINGS.len()];
    for (name, value) in SETTINGS.iter().zip(&mut before) {
        let query = format!(
            "SELECT setting FROM pg_file_settings WHERE name = '{name}' AND sourcefile LIKE '%/postgresql.auto.conf' \
             ORDER BY seqno DESC LIMIT 1"
        );
        *value = one(server, &query).await?;
    }
    let joined =
        |part: fn(&config::Address) -> String| options.safekeepers.iter().map(part).collect::<Vec<_>>().join(",");
    let (hosts, ports) = (joined(|address| address.host.clone()), joined(|address| address.port.to_string()));
    let source = format!("host={hosts} port={ports} user=seawall options='-c cluster={cluster}'");
    // A slot of the old primary's does not exist at a safekeeper.
    for (name, value) in SETTINGS.iter().zip([source.as_str(), ""]) {
        set(server, name, Some(value)).await?;
    }
    one(server, "SELECT pg_reload_conf()::text").await?;
    Ok(before)
}

async fn set(server: &mut Connection, name: &str, value: Option<&str>) -> Result<(), Error> {
    let command = match value {
        Some(value) => format!("ALTER SYSTEM SET {name} = '{}'", value.replace('\'', "''")),
        None => format!("ALTER SYSTEM RESET {name}"),
    };
    one(server, &command).await.map(drop)
}

async fn put_back(
    server: &mut Connection,
    before: [Option<String>; SETTINGS.len()],
    at_once: bool,
) -> Result<(), Error> {
    for (name, value) in SETTINGS.iter().zip(before) {
        set(server, name, value.as_deref()).await?;
    }
    if at_once {
        one(server, "SELECT pg_reload_conf()::text").await?;
    }
    Ok(())
}

async fn wait_for_replay(server: &mut Connection, goal: Lsn, deadline: Instant) -> Result<Lsn, Error> {
    let mut last = Lsn::INVALID;
    loop {
        let replayed = one(server, "SELECT pg_last_wal_replay_lsn()::text").await?;
        if let Some(replayed) = replayed.and_then(|text| text.parse::<Lsn>().ok()) {
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
