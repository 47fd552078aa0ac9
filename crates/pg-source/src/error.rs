//! Why a primary cannot be used, told apart by what the caller, or the operator, can do about it.

use crate::settings::SettingsError;
use pg_conn::{ConnInfoError, ConnectError, Failure};
use pq_proto::SqlState;
use pq_proto::backend::Report;

/// Why a primary cannot be used, or no longer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The conninfo cannot be used.
    #[error(transparent)]
    ConnInfo(#[from] ConnInfoError),
    /// No host answers as a PostgreSQL server.
    #[error(transparent)]
    Connect(ConnectError),
    /// The server does not believe us.
    #[error("the primary does not let us in: {0}")]
    Auth(String),
    /// The server is a standby.
    #[error("{host} is a standby, not a primary; name the primary, or all servers of the cluster")]
    NotPrimary {
        /// The server.
        host: String,
    },
    /// A version that is not supported.
    #[error("the primary runs PostgreSQL {}.{}; versions 13 to 18 are supported", .0 / 10_000, .0 % 10_000)]
    Version(u32),
    /// The WAL holds too little to be replicated.
    #[error("the primary's wal_level is {0}; set wal_level = replica and restart it")]
    WalLevel(String),
    /// A segment size that PostgreSQL does not have.
    #[error("the primary's WAL segments have an impossible size: {0}")]
    SegmentSize(#[from] lsn::SegmentSizeError),
    /// The role may not replicate.
    #[error("the role may not replicate ({0}); run ALTER ROLE … REPLICATION, and GRANT pg_monitor TO it")]
    NoReplicationPrivilege(String),
    /// All replication slots are taken.
    #[error("the primary has no free replication slot; raise max_replication_slots and restart it")]
    NoFreeSlot,
    /// All walsenders are taken.
    #[error("the primary has no free walsender; raise max_wal_senders and restart it")]
    NoFreeWalsender,
    /// All connections are taken.
    #[error("the primary takes no more connections ({0})")]
    NoFreeConnection(String),
    /// Another client holds our slot.
    #[error("the replication slot is in use: another proposer streams from this primary ({0})")]
    SlotBusy(String),
    /// There is no slot of our name.
    #[error("the replication slot does not exist")]
    NoSlot,
    /// The slot lost its place in the WAL, or is a logical one.
    #[error("the replication slot cannot be used: {0}")]
    SlotLost(String),
    /// The WAL asked for is gone from the primary.
    #[error("the primary has removed WAL the quorum needs: {0}")]
    WalRemoved(String),
    /// The server is going down.
    #[error("the primary is shutting down")]
    ShuttingDown,
    /// The server is starting, or going down, and takes no connections now.
    #[error("the primary takes no connections now ({0})")]
    NotAccepting(String),
    /// Our two connections do not lead to one server, or the server was restarted between them.
    #[error(
        "the two connections to the primary do not lead to one running server ({0}); name one server, without a pooler between"
    )]
    DifferentServers(&'static str),
    /// The stream ended without a word.
    #[error("the primary closed the connection")]
    Closed,
    /// Any other answer.
    #[error("the primary refused: {0}")]
    Server(Box<Report>),
    /// A connection broke.
    #[error("the connection to the primary failed: {0}")]
    Connection(pg_conn::Error),
    /// An answer that cannot be read.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// An answer of another shape than PostgreSQL's.
    #[error("the primary's answer to {0} cannot be read; is this a PostgreSQL server?")]
    Answer(&'static str),
    /// The stream broke its rules, or fell silent.
    #[error("the stream from the primary failed: {0}")]
    Stream(#[from] walreceiver::Error),
}

impl Error {
    /// Whether somebody has to change something before another try can succeed. Otherwise trying again is all there is to do.
    pub fn needs_operator(&self) -> bool {
        match self {
            Error::ConnInfo(_)
            | Error::Auth(_)
            | Error::Version(_)
            | Error::WalLevel(_)
            | Error::SegmentSize(_)
            | Error::NoReplicationPrivilege(_)
            | Error::NoFreeSlot
            | Error::SlotLost(_)
            | Error::WalRemoved(_) => true,
            Error::Connect(error) => !matches!(error, ConnectError::Hosts(_)),
            Error::NotPrimary { .. }
            | Error::NoFreeWalsender
            | Error::NoFreeConnection(_)
            | Error::SlotBusy(_)
            | Error::NoSlot
            | Error::ShuttingDown
            | Error::NotAccepting(_)
            | Error::DifferentServers(_)
            | Error::Closed
            | Error::Server(_)
            | Error::Connection(_)
            | Error::Settings(_)
            | Error::Answer(_)
            | Error::Stream(_) => false,
        }
    }

    /// What an ErrorResponse of a primary means.
    pub(crate) fn from_report(report: Report) -> Error {
        match report.code {
            SqlState::INSUFFICIENT_PRIVILEGE => Error::NoReplicationPrivilege(report.message),
            SqlState::CONFIGURATION_LIMIT_EXCEEDED => Error::NoFreeSlot,
            // The name of the setting is never translated.
            SqlState::TOO_MANY_CONNECTIONS if report.message.contains("max_wal_senders") => Error::NoFreeWalsender,
            SqlState::TOO_MANY_CONNECTIONS => Error::NoFreeConnection(report.message),
            SqlState::OBJECT_IN_USE => Error::SlotBusy(report.message),
            SqlState::UNDEFINED_OBJECT => Error::NoSlot,
            SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE => Error::SlotLost(report.message),
            SqlState::UNDEFINED_FILE => Error::WalRemoved(report.message),
            SqlState::ADMIN_SHUTDOWN => Error::ShuttingDown,
            SqlState::CANNOT_CONNECT_NOW => Error::NotAccepting(report.message),
            code if code.as_str().starts_with("28") => Error::Auth(report.message),
            _ => Error::Server(Box::new(report)),
        }
    }
}

impl From<pg_conn::Error> for Error {
    fn from(error: pg_conn::Error) -> Error {
        match error {
            pg_conn::Error::Server(report) => Error::from_report(*report),
            pg_conn::Error::Closed => Error::Closed,
            other => Error::Connection(other),
        }
    }
}

impl From<ConnectError> for Error {
    /// The last host's answer decides, because hosts are tried until one will do.
    fn from(error: ConnectError) -> Error {
        let text = error.to_string();
        match error {
            ConnectError::Hosts(mut hosts) => match hosts.pop() {
                Some(pg_conn::HostError { failure: Failure::Server(report), .. }) => {
                    match Error::from_report(*report) {
                        // What was said with the host and the hint is better than the bare message.
                        Error::Auth(_) => Error::Auth(text),
                        Error::NoReplicationPrivilege(_) => Error::NoReplicationPrivilege(text),
                        Error::NotAccepting(_) => Error::NotAccepting(text),
                        other => other,
                    }
                }
                Some(pg_conn::HostError { failure: Failure::Auth(_), .. }) => Error::Auth(text),
                Some(last) => {
                    hosts.push(last);
                    Error::Connect(ConnectError::Hosts(hosts))
                }
                None => Error::Connect(ConnectError::Hosts(hosts)),
            },
            other => Error::Connect(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_told_apart() {
        let told = |code: SqlState, message: &str| Error::from_report(Report::fatal(code, message));
        assert!(matches!(told(SqlState::INVALID_PASSWORD, ""), Error::Auth(_)));
        assert!(matches!(told(SqlState::INVALID_AUTHORIZATION, ""), Error::Auth(_)));
        assert!(matches!(told(SqlState::ADMIN_SHUTDOWN, ""), Error::ShuttingDown));
        assert!(matches!(told(SqlState::CANNOT_CONNECT_NOW, ""), Error::NotAccepting(_)));
        assert!(matches!(told(SqlState::OBJECT_IN_USE, ""), Error::SlotBusy(_)));
        assert!(matches!(
            told(SqlState::TOO_MANY_CONNECTIONS, "number … max_wal_senders (currently 0)"),
            Error::NoFreeWalsender
        ));
        assert!(matches!(told(SqlState::TOO_MANY_CONNECTIONS, "sorry"), Error::NoFreeConnection(_)));
        assert!(matches!(told(SqlState::SYNTAX_ERROR, ""), Error::Server(_)));
    }
}
