//! Asking a part for JSON.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::header::{AUTHORIZATION, HOST, HeaderValue};
use hyper::rt::{Read, Write};
use hyper::{Request, client::conn::http1};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

const BODY_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens there, or the name leads nowhere.
    #[error("cannot connect to http://{addr}: {source}")]
    Connect {
        /// Whom we asked.
        addr: String,
        /// Why not.
        source: std::io::Error,
    },
    /// The exchange broke off.
    #[error("no answer from http://{addr}{path}: {source}")]
    Exchange {
        /// Whom we asked.
        addr: String,
        /// For what.
        path: String,
        /// Why not.
        source: Box<dyn Error + Send + Sync>,
    },
    /// The answer is something else.
    #[error("http://{addr}{path} answered {code} with something that is not JSON; is it a part of seawall?")]
    NotJson {
        /// Whom we asked.
        addr: String,
        /// For what.
        path: String,
        /// The status code.
        code: u16,
    },
    /// The deadline passed.
    #[error("no answer from http://{addr}{path} within {} ms", within.as_millis())]
    TimedOut {
        /// Whom we asked.
        addr: String,
        /// For what.
        path: String,
        /// How long was waited.
        within: Duration,
    },
}

/// An answer, whatever its status code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// The status code.
    pub code: u16,
    /// The body.
    pub body: Value,
}

/// How a part is asked: in the clear and without a token, unless said otherwise.
#[derive(Debug, Clone, Default)]
pub struct Access {
    /// TLS, and whom it trusts. The host of the address is the name that is checked.
    pub tls: Option<Arc<ClientConfig>>,
    /// Shown as `Authorization: Bearer`. Never printed.
    pub bearer: Option<Bearer>,
}

/// A token that does not print.
#[derive(Clone)]
pub struct Bearer(HeaderValue);

impl Bearer {
    /// `None` for text that cannot stand in a header.
    pub fn new(token: &str) -> Option<Bearer> {
        let mut value = HeaderValue::from_str(&format!("Bearer {token}")).ok()?;
        value.set_sensitive(true);
        Some(Bearer(value))
    }
}

impl std::fmt::Debug for Bearer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

/// As [`get_json_with`], over plain HTTP and without a token.
pub async fn get_json(addr: &str, path: &str, within: Duration) -> Result<Response, ClientError> {
    get_json_with(addr, path, within, &Access::default()).await
}

/// GETs `path` from `addr` (`host:port`). `within` bounds everything, name resolution included; a body of more than
/// 16 MiB is refused. Needs a tokio runtime with I/O and time.
pub async fn get_json_with(addr: &str, path: &str, within: Duration, access: &Access) -> Result<Response, ClientError> {
    match tokio::time::timeout(within, exchange(addr, path, access)).await {
        Ok(outcome) => outcome,
        Err(_) => Err(ClientError::TimedOut { addr: addr.to_owned(), path: path.to_owned(), within }),
    }
}

async fn exchange(addr: &str, path: &str, access: &Access) -> Result<Response, ClientError> {
    let connecting = TcpStream::connect(addr).await;
    let stream = connecting.map_err(|source| ClientError::Connect { addr: addr.to_owned(), source })?;
    let Some(config) = &access.tls else { return ask(TokioIo::new(stream), addr, path, access).await };
    let broke = |source: Box<dyn Error + Send + Sync>| ClientError::Exchange {
        addr: addr.to_owned(),
        path: path.to_owned(),
        source,
    };
    let host = addr.rsplit_once(':').map_or(addr, |(host, _)| host).trim_matches(['[', ']']).to_owned();
    let name = ServerName::try_from(host).map_err(|err| broke(err.into()))?;
    let connected = TlsConnector::from(Arc::clone(config)).connect(name, stream).await;
    ask(TokioIo::new(connected.map_err(|err| broke(err.into()))?), addr, path, access).await
}

async fn ask(
    io: impl Read + Write + Unpin + Send + 'static,
    addr: &str,
    path: &str,
    access: &Access,
) -> Result<Response, ClientError> {
    let broke = |source: Box<dyn Error + Send + Sync>| ClientError::Exchange {
        addr: addr.to_owned(),
        path: path.to_owned(),
        source,
    };
    let mut request = Request::get(path).header(HOST, addr);
    if let Some(Bearer(value)) = &access.bearer {
        request = request.header(AUTHORIZATION, value);
    }
    let request = request.body(Empty::<Bytes>::new()).map_err(|err| broke(err.into()))?;
    let (mut sender, connection) = http1::handshake(io).await.map_err(|err| broke(err.into()))?;
    let asking = async {
        let response = sender.send_request(request).await?;
        let code = response.status().as_u16();
        let body = Limited::new(response.into_body(), BODY_BYTES_MAX).collect().await?;
        Ok::<_, Box<dyn Error + Send + Sync>>((code, body.to_bytes()))
    };
    let driving = async {
        // An error of the connection is also the request's.
        drop(connection.await);
        std::future::pending().await
    };
    let (code, body) = tokio::select! {
        biased;
        answer = asking => answer.map_err(broke)?,
        never = driving => never,
    };
    let not_json = |_| ClientError::NotJson { addr: addr.to_owned(), path: path.to_owned(), code };
    Ok(Response { code, body: serde_json::from_slice(&body).map_err(not_json)? })
}
