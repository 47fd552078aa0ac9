//! What can go wrong: while connecting ([`ConnectError`], a [`Failure`] for each host tried) and afterwards ([`Error`]).

use crate::{AuthError, ConnInfoError, TlsError};
use pq_proto::SqlState;
use pq_proto::backend::{BackendError, Report};
use std::fmt;
use std::time::Duration;

/// No host gave a connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The conninfo cannot be used.
    #[error(transparent)]
    ConnInfo(#[from] ConnInfoError),
    /// Nobody to connect as.
    #[error("the conninfo names no user; add user=NAME")]
    NoUser,
    /// Certificates that cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// What happened at each address tried, in order; never empty.
    #[error("cannot connect to {}", Joined(.0))]
    Hosts(Vec<HostError>),
}

impl ConnectError {
    /// The SQLSTATE of the last server that answered with an error.
    pub fn sqlstate(&self) -> Option<SqlState> {
        match self {
            ConnectError::Hosts(errors) => errors.iter().rev().find_map(|error| error.failure.sqlstate()),
            _ => None,
        }
    }
}

/// What happened at one address.
#[derive(Debug)]
pub struct HostError {
    /// The host as configured, with its port.
    pub host: String,
    /// What happened.
    pub failure: Failure,
}

struct Joined<'a>(&'a [HostError]);

impl fmt::Display for Joined<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "; " };
            write!(f, "{separator}{error}")?;
        }
        Ok(())
    }
}

impl fmt::Display for HostError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.host, self.failure)?;
        match self.failure.hint() {
            Some(hint) => write!(f, " ({hint})"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for HostError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.failure)
    }
}

/// Why one address gave no connection.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The name has no address.
    #[error("the name cannot be resolved: {0}")]
    Resolve(std::io::Error),
    /// Nobody answers there.
    #[error("{0}")]
    Unreachable(std::io::Error),
    /// It took too long.
    #[error("no connection within {} seconds", .0.as_secs())]
    Timeout(Duration),
    /// TLS is wanted, the server has none.
    #[error("the server does not offer TLS")]
    TlsRefused,
    /// The handshake failed, or the certificate is not trusted.
    #[error("TLS: {0}")]
    Tls(std::io::Error),
    /// The name cannot stand in a certificate.
    #[error("{0:?} is not a name that a certificate can carry")]
    TlsName(String),
    /// The password or the method.
    #[error(transparent)]
    Auth(#[from] AuthError),
    /// The server refused; SQLSTATE, detail and hint are kept.
    #[error("{0}")]
    Server(Box<Report>),
    /// Not a server that `target_session_attrs` asks for.
    #[error("the server is not the kind that target_session_attrs asks for ({0})")]
    WrongRole(&'static str),
    /// The connection broke during start-up.
    #[error(transparent)]
    Connection(#[from] Error),
}

impl Failure {
    /// The server's SQLSTATE, if it gave one.
    pub fn sqlstate(&self) -> Option<SqlState> {
        match self {
            Failure::Server(report) => Some(report.code),
            _ => None,
        }
    }

    /// What mends it, where we know.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Failure::Unreachable(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
                Some("is the server running, and do listen_addresses and port match?")
            }
            Failure::Unreachable(error) if error.kind() == std::io::ErrorKind::NotFound => {
                Some("is the server running, and does unix_socket_directories name this directory?")
            }
            Failure::TlsRefused => Some("set ssl = on at the server, or sslmode=prefer here"),
            Failure::Server(report) => match report.code {
                SqlState::INVALID_AUTHORIZATION if report.message.contains("pg_hba.conf") => Some(
                    "add a line for this user and address to pg_hba.conf and reload the server; replication needs its own",
                ),
                SqlState::INVALID_PASSWORD => Some("check user and password, PGPASSWORD or the password file"),
                SqlState::TOO_MANY_CONNECTIONS => Some("raise max_connections or max_wal_senders at the server"),
                _ => None,
            },
            _ => None,
        }
    }

    /// Whether another host may do better: a refused password or role would be refused there too.
    pub(crate) fn try_next_host(&self) -> bool {
        match self {
            Failure::Auth(_) | Failure::TlsName(_) => false,
            Failure::Server(report) => {
                matches!(
                    report.code,
                    SqlState::CANNOT_CONNECT_NOW | SqlState::TOO_MANY_CONNECTIONS | SqlState::ADMIN_SHUTDOWN
                )
            }
            _ => true,
        }
    }
}

/// A connection that broke, or a query that failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The other side closed the connection.
    #[error("the server closed the connection")]
    Closed,
    /// The system reports a broken connection.
    #[error("the connection broke: {0}")]
    Io(#[from] std::io::Error),
    /// Bytes that are not the protocol. The connection is of no use any more.
    #[error(transparent)]
    Protocol(#[from] BackendError),
    /// A message that cannot come now. The connection is of no use any more.
    #[error("the server sent {0} where it must not")]
    Unexpected(&'static str),
    /// The server refused the query; the connection goes on unless the report is fatal.
    #[error("{0}")]
    Server(Box<Report>),
    /// A result above the bound. The connection is of no use any more.
    #[error("a result is larger than {0} bytes")]
    TooLarge(usize),
    /// The query holds a NUL byte.
    #[error(transparent)]
    Encode(#[from] pq_proto::frontend::EncodeError),
    /// An earlier query was given up half-way; its answer may still be on the way.
    #[error("an earlier query on this connection was abandoned; open another connection")]
    Abandoned,
}

impl Error {
    /// The server's SQLSTATE, if it gave one.
    pub fn sqlstate(&self) -> Option<SqlState> {
        match self {
            Error::Server(report) => Some(report.code),
            _ => None,
        }
    }
}
