//! [`attach`]: two connections to one primary, and what can be known before anything is streamed.
//!
//! The SQL connection comes first, because only it can say that the server is no standby and why a walsender would be refused. With
//! several hosts they are tried in order, and the walsender connection goes to the very host where the primary was found.

use crate::checks::Checks;
use crate::error::Error;
use crate::settings::{Settings, Slot};
use crate::stream::WalStream;
use lsn::{Lsn, SegmentSize, SystemId, Tli};
use pg_conn::{ConnInfo, Connection, Host, StartupExtra};

/// The name under which our walsender connection appears, and which `synchronous_standby_names` must list.
pub const APPLICATION_NAME: &str = "seawall";
/// The name of our replication slot.
pub const SLOT: &str = "seawall";

/// The server drops us, and frees the slot for the next proposer, after this long without a message from us; it asks after half.
const WALSENDER_OPTIONS: &str = "-c wal_sender_timeout=10s";
/// Our questions are short; one that hangs must not look like an unprotected primary for long.
const CHECKS_OPTIONS: &str = "-c statement_timeout=10s";

/// How to attach.
#[derive(Clone, Debug)]
pub struct Options {
    /// The primary; of several hosts the first that is one.
    pub conninfo: ConnInfo,
    /// See [`APPLICATION_NAME`].
    pub application_name: String,
    /// See [`SLOT`]; lower-case letters, digits and underscores, at most 63.
    pub slot: String,
}

impl Options {
    /// With the usual names.
    pub fn new(conninfo: ConnInfo) -> Options {
        Options { conninfo, application_name: APPLICATION_NAME.to_owned(), slot: SLOT.to_owned() }
    }
}

/// What a primary is, at the moment of attaching.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Facts {
    /// The host as configured, with its port.
    pub host: String,
    /// Its system identifier.
    pub system_id: SystemId,
    /// The TLI it writes.
    pub tli: Tli,
    /// Content of the history file of its TLI; empty if it has none.
    pub tli_history: String,
    /// Start of the oldest WAL segment it has.
    pub oldest_wal: Option<Lsn>,
    /// Its flush position.
    pub flush_lsn: Lsn,
    /// The size of its WAL segments.
    pub segment_size: SegmentSize,
    /// `server_version_num`, 130000 to 189999.
    pub version_num: u32,
    /// When its postmaster started, microseconds since 1970-01-01 UTC.
    pub started_at: i64,
    /// Our slot; `None` if it has none.
    pub slot: Option<Slot>,
    /// The backend of our walsender connection.
    pub walsender_pid: u32,
}

/// An attached primary: its parts are used side by side.
#[derive(Debug)]
pub struct Primary {
    /// What it is.
    pub facts: Facts,
    /// The settings it had.
    pub settings: Settings,
    /// The connection that will stream.
    pub walsender: Walsender,
    /// The connection that asks.
    pub checks: Checks,
}

/// The replication connection, before it streams.
#[derive(Debug)]
pub struct Walsender {
    connection: Connection,
    slot: String,
    slot_is_lost: bool,
}

/// Connects twice and looks. Nothing on the primary is changed, and nothing is held but two connections. A standby that was the primary
/// once loses the slot we left on it, which nobody reads and which would hold back its WAL for ever; where it is promoted again, on a
/// new TLI, a slot vouches for nothing anyway.
///
/// # Errors
/// Told apart by what mends them; see [`Error`].
pub async fn attach(options: &Options) -> Result<Primary, Error> {
    let mut failure: Option<Error> = None;
    for host in options.conninfo.hosts() {
        let error = match attach_to(options, host).await {
            Ok(primary) => return Ok(primary),
            Err(error) => error,
        };
        // A host that cannot be reached says less than one that answered.
        if failure.as_ref().is_none_or(|earlier| matches!(earlier, Error::Connect(_))) {
            failure = Some(error);
        }
    }
    Err(failure.unwrap_or(Error::Closed))
}

async fn attach_to(options: &Options, host: &Host) -> Result<Primary, Error> {
    let info = only(&options.conninfo, host)?;
    let sql = StartupExtra {
        application_name: Some(format!("{} checks", options.application_name)),
        options: Some(CHECKS_OPTIONS.to_owned()),
        dbname: info.dbname().is_none().then(|| "postgres".to_owned()),
        ..StartupExtra::default()
    };
    let mut checks = Checks::new(pg_conn::connect(&info, &sql).await?, &options.slot);
    let settings = checks.read().await?;
    if settings.in_recovery {
        if settings.slot.as_ref().is_some_and(|slot| slot.physical && slot.active_pid.is_none()) {
            checks.drop_slot(&options.slot).await?;
        }
        return Err(Error::NotPrimary { host: host.to_string() });
    }
    if !(130_000..190_000).contains(&settings.version_num) {
        return Err(Error::Version(settings.version_num));
    }
    if !["replica", "logical"].contains(&settings.wal_level.as_str()) {
        return Err(Error::WalLevel(settings.wal_level));
    }
    let replication = StartupExtra {
        replication: true,
        application_name: Some(options.application_name.clone()),
        options: Some(WALSENDER_OPTIONS.to_owned()),
        dbname: None,
    };
    let mut connection = pg_conn::connect(&info, &replication).await?;
    let walsender_pid = connection.backend_pid().ok_or(Error::Answer("the start-up of a replication connection"))?;
    let (system_id, tli, flush_lsn) = identify(&mut connection).await?;
    let tli_history = if tli == Tli(1) { String::new() } else { history(&mut connection, tli).await? };
    if system_id != settings.system_id {
        return Err(Error::DifferentServers("their system identifiers differ"));
    }
    let segment_size = SegmentSize::new(settings.wal_segment_size)?;
    let facts = Facts {
        host: host.to_string(),
        system_id,
        tli,
        tli_history,
        oldest_wal: checks.oldest_wal(segment_size).await?,
        flush_lsn,
        segment_size,
        version_num: settings.version_num,
        started_at: settings.started_at,
        slot: settings.slot.clone(),
        walsender_pid,
    };
    let slot_is_lost = settings.slot.as_ref().is_some_and(|slot| slot.is_lost() || !slot.physical);
    let walsender = Walsender { connection, slot: options.slot.clone(), slot_is_lost };
    Ok(Primary { facts, settings, walsender, checks })
}

pub(crate) async fn identify(connection: &mut Connection) -> Result<(SystemId, Tli, Lsn), Error> {
    let rows = connection.simple_query("IDENTIFY_SYSTEM").await?;
    let row = rows.first().ok_or(Error::Answer("IDENTIFY_SYSTEM"))?;
    let values = || Some((row.text(0)?.parse().ok()?, row.text(1)?.parse().ok()?, row.text(2)?.parse().ok()?));
    values().ok_or(Error::Answer("IDENTIFY_SYSTEM"))
}

/// The history file of a TLI; empty if the server has none, as after `pg_resetwal`.
async fn history(connection: &mut Connection, tli: Tli) -> Result<String, Error> {
    match connection.simple_query(&format!("TIMELINE_HISTORY {tli}")).await {
        Err(error) if error.sqlstate() == Some(pq_proto::SqlState::UNDEFINED_FILE) => Ok(String::new()),
        answer => {
            let rows = answer?;
            let content = rows.first().and_then(|row| row.text(1)).map(str::to_owned);
            content.ok_or(Error::Answer("TIMELINE_HISTORY"))
        }
    }
}

/// The same conninfo with one of its hosts.
pub(crate) fn only(info: &ConnInfo, host: &Host) -> Result<ConnInfo, Error> {
    // The port first: one port goes with any number of hosts.
    let info = info.with("port", &host.port().to_string())?.with("hostaddr", "")?;
    Ok(match host {
        Host::Unix { directory, .. } => info.with("host", &directory.to_string_lossy())?,
        Host::Tcp { name, address, .. } => {
            info.with("host", name)?.with("hostaddr", address.as_deref().unwrap_or_default())?
        }
    })
}

impl Primary {
    /// Makes our slot, so that it keeps WAL from now on, and gives it. One that exists is left as it is.
    pub async fn create_slot(&mut self) -> Result<Slot, Error> {
        // This spelling is understood by 13 to 18.
        let command = format!("CREATE_REPLICATION_SLOT \"{}\" PHYSICAL RESERVE_WAL", self.walsender.slot);
        match self.walsender.connection.simple_query(&command).await {
            Err(error) if error.sqlstate() == Some(pq_proto::SqlState::DUPLICATE_OBJECT) => {}
            result => {
                result?;
            }
        }
        self.settings = self.checks.read().await?;
        self.facts.slot.clone_from(&self.settings.slot);
        let slot = self.facts.slot.clone().ok_or(Error::NoSlot)?;
        self.walsender.slot_is_lost = slot.is_lost() || !slot.physical;
        Ok(slot)
    }
}

impl Walsender {
    /// Starts to stream on the slot from `from`, which lies on TLI `tli`, and waits until the server agrees. On success nobody else can
    /// stream on the slot; [`Checks::prove`] shows that it is this server's.
    ///
    /// # Errors
    /// [`Error::SlotBusy`], [`Error::NoSlot`], [`Error::SlotLost`]: servers before 18 would let a lost slot stream and skip WAL, so it
    /// is refused here. WAL that is gone is reported by the stream ([`Error::WalRemoved`]), after it started.
    pub async fn start_stream(self, from: Lsn, tli: Tli) -> Result<WalStream, Error> {
        if self.slot_is_lost {
            return Err(Error::SlotLost("it lost its place in the WAL, or is not a physical one".to_owned()));
        }
        WalStream::start(self.connection, self.slot, from, tli).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_host_is_tried_alone() {
        let alone = |text: &str| -> Vec<String> {
            let info: ConnInfo = text.parse().unwrap();
            info.hosts().iter().map(|host| only(&info, host).unwrap().to_string()).collect()
        };
        assert_eq!(alone("host=a,b port=1,2 user=u"), ["host=a port=1 user=u", "host=b port=2 user=u"]);
        assert_eq!(
            alone("hostaddr=::1,127.0.0.1 port=1,2"),
            ["host=::1 hostaddr=::1 port=1", "host=127.0.0.1 hostaddr=127.0.0.1 port=2"]
        );
        assert_eq!(
            alone("host=/run,x hostaddr=,1.2.3.4"),
            ["host=/run port=5432", "host=x hostaddr=1.2.3.4 port=5432"]
        );
    }
}
