//! The connections of a backup: the one that carries it, and the one that pins its WAL.

use super::describe;
use super::error::BackupError;
use super::options::BackupOptions;
use crate::attach::{identify, only};
use crate::error::Error;
use backup_format::{LsnOnTli, Tablespace};
use bytes::Bytes;
use lsn::{SegmentSize, SystemId, Tli};
use pg_conn::{ConnInfo, Connection, StartupExtra};
use pq_proto::SqlState;
use pq_proto::backend::{BackendMessage, DataRow, Report};

/// How our connections appear in `pg_stat_activity`.
const APPLICATION_NAME: &str = "seawall backup";
/// Most tablespaces that are believed; each is a directory on the server.
const MAX_TABLESPACES: usize = 100_000;

/// A temporary slot on the server, that keeps WAL from before the backup began, and the connection it lives by. Dropping it lets the
/// server remove that WAL.
#[derive(Debug)]
pub struct Pin {
    connection: Connection,
    slot: String,
}

impl Pin {
    async fn take(info: &ConnInfo) -> Result<Pin, BackupError> {
        let mut connection = connect(info).await?;
        let pid = connection.backend_pid().ok_or(BackupError::Answer("the start-up of a replication connection"))?;
        let slot = format!("seawall_backup_{pid}");
        // Old words, understood by 13 to 18; on a standby too. It reserves from the last checkpoint's redo, before the backup's own.
        let command = format!("CREATE_REPLICATION_SLOT \"{slot}\" TEMPORARY PHYSICAL RESERVE_WAL");
        connection.simple_query(&command).await?;
        Ok(Pin { connection, slot })
    }

    /// The slot's name on the server.
    pub fn slot(&self) -> &str {
        &self.slot
    }

    /// Lets the WAL go, in order.
    pub async fn release(self) {
        self.connection.close().await;
    }
}

/// What is asked before a backup begins.
pub(super) struct ServerFacts {
    pub(super) system_id: SystemId,
    pub(super) version_num: u32,
    pub(super) segment_size: SegmentSize,
    pub(super) page_checksums: bool,
    pub(super) history: Option<Bytes>,
    /// Pages of 8 KiB in files of 1 GiB, as all packaged servers have.
    pub(super) has_usual_pages: bool,
}

/// The first answers to BASE_BACKUP.
pub(super) struct Started {
    pub(super) begin: LsnOnTli,
    pub(super) tablespaces: Vec<Tablespace>,
    pub(super) estimated_bytes: u64,
}

#[derive(Debug)]
pub(super) struct Session {
    connection: Connection,
    pin: Option<Pin>,
    /// The message after the last one that was understood.
    pending: Option<BackendMessage>,
}

async fn connect(info: &ConnInfo) -> Result<Connection, BackupError> {
    let extra = StartupExtra {
        replication: true,
        application_name: Some(APPLICATION_NAME.to_owned()),
        options: None,
        dbname: None,
    };
    Ok(pg_conn::connect(info, &extra).await.map_err(Error::from)?)
}

impl Session {
    /// Both connections lead to the same host. The slot comes first, so that no WAL of the backup can be gone.
    pub(super) async fn open(options: &BackupOptions) -> Result<Session, BackupError> {
        let mut failure = None;
        for host in options.conninfo.hosts() {
            let info = only(&options.conninfo, host)?;
            match Session::open_at(&info, options.pin_wal).await {
                Ok(session) => return Ok(session),
                // A host that cannot be reached says less than one that answered.
                Err(error) if failure.is_none() || !matches!(error, BackupError::Server(Error::Connect(_))) => {
                    failure = Some(error);
                }
                Err(_) => {}
            }
        }
        Err(failure.unwrap_or(Error::Closed.into()))
    }

    async fn open_at(info: &ConnInfo, pin_wal: bool) -> Result<Session, BackupError> {
        let connection = connect(info).await?;
        let pin = if pin_wal { Some(Pin::take(info).await?) } else { None };
        Ok(Session { connection, pin, pending: None })
    }

    pub(super) fn host(&self) -> &str {
        self.connection.host()
    }

    pub(super) fn into_pin(self) -> Option<Pin> {
        self.pin
    }

    pub(super) async fn identify(&mut self) -> Result<ServerFacts, BackupError> {
        let version_num = self.show("server_version_num").await?;
        let version_num: u32 = version_num.parse().map_err(|_| BackupError::Answer("SHOW server_version_num"))?;
        if !(130_000..190_000).contains(&version_num) {
            return Err(Error::Version(version_num).into());
        }
        let (system_id, tli, _) = identify(&mut self.connection).await?;
        let history = self.history(tli).await?;
        if let Some(pin) = &mut self.pin
            && identify(&mut pin.connection).await?.0 != system_id
        {
            return Err(Error::DifferentServers("their system identifiers differ").into());
        }
        let segment_size = bytes_of(&self.show("wal_segment_size").await?).unwrap_or(0);
        let (page, file) = (self.show("block_size").await?, self.show("segment_size").await?);
        Ok(ServerFacts {
            system_id,
            version_num,
            segment_size: SegmentSize::new(segment_size).map_err(Error::SegmentSize)?,
            history,
            page_checksums: self.show("data_checksums").await? == "on",
            has_usual_pages: page == "8192" && bytes_of(&file) == Some(1 << 30),
        })
    }

    /// The first TLI never has one; a later one may have lost it.
    async fn history(&mut self, tli: Tli) -> Result<Option<Bytes>, BackupError> {
        if tli <= Tli(1) {
            return Ok(None);
        }
        match self.connection.simple_query(&format!("TIMELINE_HISTORY {tli}")).await {
            Ok(rows) => Ok(rows.first().and_then(|row| row.bytes(1).cloned())),
            Err(error) if error.sqlstate() == Some(SqlState::UNDEFINED_FILE) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    async fn show(&mut self, name: &str) -> Result<String, BackupError> {
        let rows = self.connection.simple_query(&format!("SHOW {name}")).await?;
        let value = rows.first().and_then(|row| row.text(0));
        value.map(str::to_owned).ok_or(BackupError::Answer("SHOW"))
    }

    /// Sends the command and reads the two results in front of the data.
    pub(super) async fn start(&mut self, command: &str) -> Result<Started, BackupError> {
        pq_proto::frontend::encode_query(command, self.connection.writer().buffer()).map_err(pg_conn::Error::from)?;
        self.connection.writer().flush().await?;
        let begin = self.position().await?;
        let mut started = Started { begin, tablespaces: Vec::new(), estimated_bytes: 0 };
        let mut has_main = false;
        for row in self.result(MAX_TABLESPACES).await? {
            let kibibytes: u64 = row.text(2).and_then(|text| text.parse().ok()).unwrap_or(0);
            started.estimated_bytes = started.estimated_bytes.saturating_add(kibibytes.saturating_mul(1024));
            match (row.text(0), row.text(1)) {
                (Some(oid), Some(location)) if !has_main => {
                    let oid = oid.parse().ok().filter(|oid| *oid > 0).ok_or(BackupError::Answer("BASE_BACKUP"))?;
                    started.tablespaces.push(Tablespace { oid, location: location.to_owned() });
                }
                (None, None) if !has_main => has_main = true,
                _ => return Err(BackupError::Answer("BASE_BACKUP: the main directory is not its last archive")),
            }
        }
        if !has_main {
            return Err(BackupError::Answer("BASE_BACKUP: it has no main directory"));
        }
        match self.recv().await? {
            BackendMessage::ErrorResponse(report) => Err(Error::from_report(report).into()),
            copy @ BackendMessage::CopyOutResponse => {
                self.pending = Some(copy);
                Ok(started)
            }
            other => Err(pg_conn::Error::Unexpected(other.name()).into()),
        }
    }

    /// The end of the backup, and what the server has against it. It says so after everything was sent.
    pub(super) async fn end(&mut self) -> Result<(LsnOnTli, Option<Report>), BackupError> {
        let end = self.position().await?;
        let mut refusal = None;
        loop {
            match self.recv().await? {
                BackendMessage::CommandComplete(_) => {}
                BackendMessage::ErrorResponse(report) => refusal = Some(report),
                BackendMessage::ReadyForQuery(_) => return Ok((end, refusal)),
                other => return Err(pg_conn::Error::Unexpected(other.name()).into()),
            }
        }
    }

    /// The next message that is no note; notes go to the log. Cancel-safe.
    pub(super) async fn recv(&mut self) -> Result<BackendMessage, BackupError> {
        if let Some(message) = self.pending.take() {
            // Only before the data: the first COPY is announced while the last result is read.
            return Ok(message);
        }
        loop {
            match self.connection.recv().await? {
                BackendMessage::NoticeResponse(report) => {
                    tracing::warn!(server = %describe(&report), "note of the server")
                }
                BackendMessage::ParameterStatus { .. } => {}
                message => return Ok(message),
            }
        }
    }

    async fn position(&mut self) -> Result<LsnOnTli, BackupError> {
        let rows = self.result(1).await?;
        let parse = |row: &DataRow| Some(LsnOnTli { lsn: row.text(0)?.parse().ok()?, tli: row.text(1)?.parse().ok()? });
        rows.first().and_then(parse).ok_or(BackupError::Answer("BASE_BACKUP"))
    }

    /// One result of several.
    async fn result(&mut self, limit: usize) -> Result<Vec<DataRow>, BackupError> {
        let mut rows = Vec::new();
        loop {
            match self.recv().await? {
                BackendMessage::RowDescription(_) => {}
                BackendMessage::DataRow(_) if rows.len() == limit => return Err(BackupError::Answer("BASE_BACKUP")),
                BackendMessage::DataRow(row) => rows.push(row),
                BackendMessage::CommandComplete(_) => return Ok(rows),
                BackendMessage::ErrorResponse(report) => return Err(Error::from_report(report).into()),
                other => return Err(pg_conn::Error::Unexpected(other.name()).into()),
            }
        }
    }
}

/// A size as `SHOW` prints it: `16MB`, `1GB`, or a bare number of bytes.
fn bytes_of(text: &str) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let factor = match &text[digits..] {
        "" | "B" => 1,
        "kB" => 1 << 10,
        "MB" => 1 << 20,
        "GB" => 1 << 30,
        "TB" => 1 << 40,
        _ => return None,
    };
    text[..digits].parse::<u64>().ok()?.checked_mul(factor)
}

#[cfg(test)]
mod tests {
    use super::bytes_of;

    #[test]
    fn sizes_as_shown() {
        assert_eq!([bytes_of("16MB"), bytes_of("1GB"), bytes_of("8192")], [Some(16 << 20), Some(1 << 30), Some(8192)]);
        assert_eq!([bytes_of(""), bytes_of("MB"), bytes_of("1.5GB"), bytes_of("99999999999999TB")], [None; 4]);
    }
}
