//! [`connect`]: from a [`ConnInfo`] to a [`Connection`], host after host, address after address.

use crate::auth::Authenticator;
use crate::connection::{Connection, Facts};
use crate::conninfo::{ConnInfo, Host, SslMode, TargetSession};
use crate::error::{ConnectError, Error, Failure, HostError};
use crate::passfile;
use crate::stream::{Incoming, Stream};
use crate::tls;
use bytes::BytesMut;
use pq_proto::backend::BackendMessage;
use pq_proto::startup;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use socket2::{SockRef, TcpKeepalive};
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream, lookup_host};
use tokio_rustls::TlsConnector;

/// What a connection is for, beside what its conninfo says.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct StartupExtra {
    /// A physical replication connection: replication commands, no SQL.
    pub replication: bool,
    /// Instead of the conninfo's.
    pub application_name: Option<String>,
    /// In addition to the conninfo's, as on the server's command line; these win.
    pub options: Option<String>,
    /// Instead of the conninfo's.
    pub dbname: Option<String>,
}

/// Connects to the first host that will do, and authenticates.
///
/// Addresses of a name are tried in order; `connect_timeout` holds for each. A refused password ends the search: other
/// hosts would refuse it too, and might lock the role.
///
/// # Errors
/// What happened at every address tried.
pub async fn connect(info: &ConnInfo, extra: &StartupExtra) -> Result<Connection, ConnectError> {
    let user = info.user().ok_or(ConnectError::NoUser)?;
    let tls = tls::client_config(info)?;
    let attempt = Attempt { info, extra, user, tls };
    let mut errors: Vec<HostError> = Vec::new();
    for host in info.hosts() {
        let failures = match attempt.host(host).await {
            Ok(connection) => return Ok(connection),
            Err(failures) => failures,
        };
        let stop = failures.iter().any(|failure| !failure.try_next_host());
        errors.extend(failures.into_iter().map(|failure| HostError { host: host.to_string(), failure }));
        if stop {
            break;
        }
    }
    Err(ConnectError::Hosts(errors))
}

enum Address<'a> {
    Tcp { name: &'a str, address: SocketAddr },
    Unix(std::path::PathBuf),
}

struct Attempt<'a> {
    info: &'a ConnInfo,
    extra: &'a StartupExtra,
    user: &'a str,
    tls: Option<Arc<ClientConfig>>,
}

impl Attempt<'_> {
    /// All addresses of one host; never an empty list of failures.
    async fn host(&self, host: &Host) -> Result<Connection, Vec<Failure>> {
        let addresses = match host {
            Host::Unix { directory, port } => vec![Address::Unix(directory.join(format!(".s.PGSQL.{port}")))],
            Host::Tcp { name, address, port } => {
                let wanted = address.as_deref().unwrap_or(name);
                let found = self.timed(async { lookup_host((wanted, *port)).await.map_err(Failure::Resolve) }).await;
                let found = found.map_err(|failure| vec![failure])?;
                found.map(|address| Address::Tcp { name, address }).collect()
            }
        };
        let mut failures = Vec::new();
        for address in addresses {
            match self.timed(self.address(host, &address)).await {
                Ok(connection) => return Ok(connection),
                Err(failure) => {
                    let stop = !failure.try_next_host();
                    failures.push(failure);
                    if stop {
                        break;
                    }
                }
            }
        }
        if failures.is_empty() {
            failures.push(Failure::Resolve(std::io::ErrorKind::NotFound.into()));
        }
        Err(failures)
    }

    async fn timed<T>(&self, work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
        match self.info.connect_timeout() {
            None => work.await,
            Some(limit) => tokio::time::timeout(limit, work).await.unwrap_or(Err(Failure::Timeout(limit))),
        }
    }

    async fn address(&self, host: &Host, address: &Address<'_>) -> Result<Connection, Failure> {
        let mut facts = Facts { host: host.to_string(), ..Facts::default() };
        let stream = match address {
            Address::Unix(path) => Stream::Unix(UnixStream::connect(path).await.map_err(Failure::Unreachable)?),
            Address::Tcp { name, address } => {
                let socket = TcpStream::connect(address).await.map_err(Failure::Unreachable)?;
                self.tune(&socket).map_err(Failure::Unreachable)?;
                facts.peer = Some(*address);
                self.encrypt(socket, name).await?
            }
        };
        facts.is_encrypted = matches!(stream, Stream::Tls(_));
        let mut connection = self.start_up(stream, facts, host).await?;
        self.check_role(&mut connection).await?;
        Ok(connection)
    }

    fn tune(&self, socket: &TcpStream) -> std::io::Result<()> {
        socket.set_nodelay(true)?;
        let Some(keepalive) = self.info.keepalive() else { return Ok(()) };
        let wanted = TcpKeepalive::new()
            .with_time(keepalive.idle)
            .with_interval(keepalive.interval)
            .with_retries(keepalive.count);
        SockRef::from(socket).set_tcp_keepalive(&wanted)
    }

    /// Asks for TLS and starts it, as far as `sslmode` wants it.
    async fn encrypt(&self, mut socket: TcpStream, name: &str) -> Result<Stream, Failure> {
        let Some(config) = &self.tls else { return Ok(Stream::Tcp(socket)) };
        let mut request = BytesMut::new();
        startup::encode_ssl_request(&mut request);
        socket.write_all(&request).await.map_err(Error::from)?;
        // One byte and no more: what follows belongs to TLS.
        let answer = socket.read_u8().await.map_err(|_| Error::Closed)?;
        match (answer, self.info.ssl_mode()) {
            (b'S', _) => {}
            (b'N', SslMode::Allow | SslMode::Prefer) => return Ok(Stream::Tcp(socket)),
            (b'N', _) => return Err(Failure::TlsRefused),
            // A server too old for TLS, or one in trouble, answers with an ErrorResponse.
            _ => return Err(Error::Unexpected("neither S nor N in answer to SSLRequest").into()),
        }
        let name = ServerName::try_from(name.to_owned()).map_err(|_| Failure::TlsName(name.to_owned()))?;
        let connector = TlsConnector::from(Arc::clone(config));
        // Plain bytes slipped in behind the answer would be read as TLS, and fail.
        let stream = connector.connect(name, socket).await.map_err(Failure::Tls)?;
        Ok(Stream::Tls(Box::new(stream)))
    }

    fn parameters(&self) -> Vec<(&'static str, String)> {
        let (info, extra) = (self.info, self.extra);
        let mut parameters = vec![("user", self.user.to_owned())];
        let dbname = extra.dbname.as_deref().or(info.dbname());
        match dbname {
            Some(dbname) => parameters.push(("database", dbname.to_owned())),
            // As libpq's own replication clients; a physical walsender ignores it.
            None if extra.replication => parameters.push(("database", "replication".to_owned())),
            None => {}
        }
        if extra.replication {
            parameters.push(("replication", "true".to_owned()));
        }
        if let Some(name) = extra.application_name.as_deref().or(info.application_name()) {
            parameters.push(("application_name", name.to_owned()));
        }
        let options: Vec<&str> = [info.options(), extra.options.as_deref()].into_iter().flatten().collect();
        if !options.is_empty() {
            parameters.push(("options", options.join(" ")));
        }
        parameters.push(("client_encoding", "UTF8".to_owned()));
        parameters
    }

    async fn start_up(&self, mut stream: Stream, mut facts: Facts, host: &Host) -> Result<Connection, Failure> {
        let parameters = self.parameters();
        let mut out = BytesMut::new();
        let pairs = parameters.iter().map(|(key, value)| (*key, value.as_str()));
        startup::encode(pairs, &mut out).map_err(Error::from)?;
        stream.write_all(&out).await.map_err(Error::from)?;
        let from_file = match (self.info.password(), self.info.passfile()) {
            (None, Some(file)) => {
                let dbname = self.extra.dbname.as_deref().or(self.info.dbname());
                let dbname = dbname.unwrap_or(if self.extra.replication { "replication" } else { self.user });
                passfile::lookup(file, host, dbname, self.user)
            }
            _ => None,
        };
        let password = self.info.password().or(from_file.as_deref());
        let mut authenticator = Authenticator::new(self.user, password);
        let mut incoming = Incoming::new();
        let mut is_authenticated = false;
        loop {
            match incoming.next(&mut stream).await? {
                BackendMessage::Authentication(message) if !is_authenticated => {
                    out.clear();
                    is_authenticated = authenticator.handle(&message, &mut out)?;
                    stream.write_all(&out).await.map_err(Error::from)?;
                    stream.flush().await.map_err(Error::from)?;
                }
                BackendMessage::ErrorResponse(report) => return Err(Failure::Server(Box::new(report))),
                BackendMessage::NoticeResponse(report) => tracing::debug!(%host, "{report}"),
                BackendMessage::NegotiateProtocolVersion { .. } if !is_authenticated => {}
                BackendMessage::ParameterStatus { name, value } if is_authenticated => {
                    facts.parameters.set(name, value)
                }
                BackendMessage::BackendKeyData { pid, .. } if is_authenticated => facts.backend_pid = Some(pid),
                BackendMessage::ReadyForQuery(_) if is_authenticated => {
                    return Ok(Connection::new(stream, incoming, facts));
                }
                other => return Err(Error::Unexpected(other.name()).into()),
            }
        }
    }

    /// Whether the server is the kind that is asked for. From 14 on it says so itself, before that it is asked.
    async fn check_role(&self, connection: &mut Connection) -> Result<(), Failure> {
        let wanted = self.info.target_session();
        if wanted == TargetSession::Any {
            return Ok(());
        }
        let reported = |name: &str| connection.parameters().get(name).map(|value| value == "on");
        let (standby, read_only) = match (reported("in_hot_standby"), reported("default_transaction_read_only")) {
            (Some(standby), Some(read_only)) => (standby, standby || read_only),
            _ => {
                let rows = connection.simple_query("SHOW transaction_read_only").await?;
                let read_only = rows.first().and_then(|row| row.text(0)) == Some("on");
                (read_only, read_only)
            }
        };
        match wanted {
            TargetSession::ReadWrite if read_only => Err(Failure::WrongRole("it is read-only")),
            TargetSession::ReadOnly if !read_only => Err(Failure::WrongRole("it takes writes")),
            TargetSession::Primary if standby => Err(Failure::WrongRole("it is in recovery")),
            TargetSession::Standby if !standby => Err(Failure::WrongRole("it is not in recovery")),
            _ => Ok(()),
        }
    }
}
