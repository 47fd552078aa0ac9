//! Bad weather before an HTTP server: a proxy that passes requests on, and does to each what the test wants done.
//!
//! A test says what happens by a function from a request to a [`Fault`]; it may count, choose by method or key, or roll dice. Requests
//! are kept, so that a test can also say that there were none. Every request goes to the server on a connection of its own.

use std::convert::Infallible;
use std::fmt;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context as TaskContext, Poll, ready};
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::service::service_fn;
use hyper::{Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::{Sleep, sleep};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// How often a slow body moves on.
const PACE: Duration = Duration::from_millis(50);
/// Requests kept for [`FaultProxy::requests`]; later ones are only counted.
const KEPT_MAX: usize = 100_000;

/// What happens to one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing: it is passed on.
    None,
    /// The connection is closed without an answer, and the server never hears of it.
    Refuse,
    /// It is answered with this status, and the server never hears of it.
    Status(u16),
    /// The server sees so many bytes of its body, if it has more, then the end of the connection; so does the client, without an answer.
    CutRequest(u64),
    /// The server does it; the connection is closed without its answer.
    LoseAnswer,
    /// So many bytes of the answer's body arrive, then the connection is closed.
    CutAnswer(u64),
    /// The answer's body comes with so many bytes a second.
    Slow(u64),
}

/// A request that came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// How many came before it.
    pub number: u64,
    /// `GET`, `PUT`…
    pub method: String,
    /// Path and query.
    pub path: String,
    /// The value of its `Range` header.
    pub range: Option<String>,
}

type Plan = Box<dyn FnMut(&Request) -> Fault + Send>;

struct Shared {
    target: SocketAddr,
    plan: Plan,
    requests: Vec<Request>,
    count: u64,
    connections: Vec<AbortHandle>,
}

/// Listens on a port of its own on 127.0.0.1. Everything ends when it is dropped.
pub struct FaultProxy {
    addr: SocketAddr,
    shared: Arc<Mutex<Shared>>,
    accepting: JoinHandle<()>,
}

impl fmt::Debug for FaultProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FaultProxy").field("addr", &self.addr).finish_non_exhaustive()
    }
}

impl FaultProxy {
    /// Begins to pass everything on to `target`.
    pub async fn to(target: SocketAddr) -> Result<FaultProxy> {
        let listener = TcpListener::bind("127.0.0.1:0").await.context("listen for the proxy")?;
        let addr = listener.local_addr()?;
        let shared =
            Shared { target, plan: Box::new(|_| Fault::None), requests: Vec::new(), count: 0, connections: Vec::new() };
        let shared = Arc::new(Mutex::new(shared));
        let accepting = tokio::spawn(accept(listener, Arc::clone(&shared)));
        Ok(FaultProxy { addr, shared, accepting })
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// What happens to every request from now on.
    pub fn plan(&self, plan: impl FnMut(&Request) -> Fault + Send + 'static) {
        lock(&self.shared).plan = Box::new(plan);
    }

    /// The same for all requests from now on; [`Fault::None`] is good weather.
    pub fn all(&self, fault: Fault) {
        self.plan(move |_| fault);
    }

    /// Cuts all connections, whatever is on its way.
    pub fn cut(&self) {
        for connection in lock(&self.shared).connections.drain(..) {
            connection.abort();
        }
    }

    /// The store is away: connections are cut and new ones closed at once.
    pub fn away(&self) {
        self.all(Fault::Refuse);
        self.cut();
    }

    /// The requests that came, in order.
    pub fn requests(&self) -> Vec<Request> {
        lock(&self.shared).requests.clone()
    }

    /// How many requests came.
    pub fn request_count(&self) -> u64 {
        lock(&self.shared).count
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.cut();
    }
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn accept(listener: TcpListener, shared: Arc<Mutex<Shared>>) {
    // An error of accept is about one connection; the next may do.
    loop {
        let Ok((client, _)) = listener.accept().await else { continue };
        drop(client.set_nodelay(true));
        let requests = Arc::clone(&shared);
        let connection = tokio::spawn(async move {
            let service = service_fn(move |request| answer(Arc::clone(&requests), request));
            // Whatever ends it, the client sees a closed connection.
            drop(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(client), service).await);
        });
        let mut shared = lock(&shared);
        shared.connections.retain(|connection| !connection.is_finished());
        shared.connections.push(connection.abort_handle());
    }
}

/// One request. An error closes the connection without an answer.
async fn answer(
    shared: Arc<Mutex<Shared>>,
    request: hyper::Request<Incoming>,
) -> Result<Response<http_body_util::combinators::BoxBody<Bytes, BoxError>>, BoxError> {
    let (fault, target) = {
        let mut shared = lock(&shared);
        let range = request.headers().get("range").and_then(|range| range.to_str().ok()).map(str::to_owned);
        let (method, path) = (request.method().to_string(), request.uri().to_string());
        let seen = Request { number: shared.count, method, path, range };
        shared.count += 1;
        let fault = (shared.plan)(&seen);
        if shared.requests.len() < KEPT_MAX {
            shared.requests.push(seen);
        }
        (fault, shared.target)
    };
    let limit = match fault {
        Fault::Refuse => return Err("refused".into()),
        Fault::Status(code) => {
            // The body is taken first: a client that is still sending would see a reset instead of the answer.
            request.into_body().collect().await?;
            let mut response = Response::new(Full::new(Bytes::new()).map_err(never).boxed());
            *response.status_mut() = StatusCode::from_u16(code)?;
            return Ok(response);
        }
        Fault::CutRequest(after) => Limit::Bytes(after),
        Fault::None | Fault::LoseAnswer | Fault::CutAnswer(_) | Fault::Slow(_) => Limit::None,
    };
    let server = TcpStream::connect(target).await?;
    server.set_nodelay(true)?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(server)).await?;
    // It ends with the response's body, or with its error.
    tokio::spawn(connection);
    let response = sender.send_request(request.map(|body| Bent::new(body, limit))).await?;
    let limit = match fault {
        Fault::LoseAnswer => {
            response.into_body().collect().await?;
            return Err("the answer is lost".into());
        }
        Fault::CutAnswer(after) => Limit::Bytes(after),
        Fault::Slow(bytes_per_second) => Limit::Pace(bytes_per_second),
        _ => Limit::None,
    };
    Ok(response.map(|body| Bent::new(body, limit).boxed()))
}

fn never(error: Infallible) -> BoxError {
    match error {}
}

#[derive(Debug, Clone, Copy)]
enum Limit {
    None,
    /// Then an error.
    Bytes(u64),
    /// A second.
    Pace(u64),
}

/// A body on its way, cut or slowed.
struct Bent {
    inner: Incoming,
    limit: Limit,
    waiting: Bytes,
    pause: Option<Pin<Box<Sleep>>>,
}

impl Bent {
    fn new(inner: Incoming, limit: Limit) -> Bent {
        Bent { inner, limit, waiting: Bytes::new(), pause: None }
    }

    fn slowly(&mut self, context: &mut TaskContext<'_>, bytes_per_second: u64) -> Poll<Bytes> {
        if let Some(pause) = &mut self.pause {
            ready!(pause.as_mut().poll(context));
        }
        self.pause = Some(Box::pin(sleep(PACE)));
        let step = (bytes_per_second as f64 * PACE.as_secs_f64()).ceil() as usize;
        Poll::Ready(self.waiting.split_to(step.max(1).min(self.waiting.len())))
    }
}

impl Body for Bent {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut TaskContext<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if self.waiting.is_empty() {
            match ready!(Pin::new(&mut self.inner).poll_frame(context)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.waiting = data,
                    Err(frame) => return Poll::Ready(Some(Ok(frame))),
                },
                Some(Err(error)) => return Poll::Ready(Some(Err(error.into()))),
                None => return Poll::Ready(None),
            }
        }
        let data = match self.limit {
            Limit::None => std::mem::take(&mut self.waiting),
            Limit::Bytes(0) => {
                // What came before is sent first: an error at once would take it along.
                let pause = self.pause.get_or_insert_with(|| Box::pin(sleep(PACE)));
                ready!(pause.as_mut().poll(context));
                return Poll::Ready(Some(Err("cut".into())));
            }
            Limit::Bytes(left) => {
                let part = self.waiting.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                self.limit = Limit::Bytes(left - part as u64);
                self.waiting.split_to(part)
            }
            Limit::Pace(bytes_per_second) => ready!(self.slowly(context, bytes_per_second)),
        };
        Poll::Ready(Some(Ok(Frame::data(data))))
    }

    fn is_end_stream(&self) -> bool {
        self.waiting.is_empty() && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        match self.waiting.is_empty() {
            true => self.inner.size_hint(),
            false => SizeHint::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    /// A server that answers every request with the length of its body, and 10,000 bytes.
    async fn server() -> (SocketAddr, Arc<Mutex<Vec<Result<usize, String>>>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let seen: Arc<Mutex<Vec<Result<usize, String>>>> = Arc::default();
        let all = Arc::clone(&seen);
        tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                let seen = Arc::clone(&all);
                let service = service_fn(move |request: hyper::Request<Incoming>| {
                    let seen = Arc::clone(&seen);
                    async move {
                        let body = request.into_body().collect().await.map(|body| body.to_bytes().len());
                        seen.lock().unwrap().push(body.map_err(|error| error.to_string()));
                        Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(vec![7; 10_000]))))
                    }
                });
                tokio::spawn(
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(client), service),
                );
            }
        });
        (addr, seen)
    }

    /// Everything that comes back for one request with a body of 1,000 bytes.
    async fn ask(addr: SocketAddr) -> Vec<u8> {
        let mut stream = TcpStream::connect(addr).await.unwrap();
        let head =
            "PUT /a/b?c=d HTTP/1.1\r\nHost: x\r\nRange: bytes=1-\r\nContent-Length: 1000\r\nConnection: close\r\n\r\n";
        stream.write_all(head.as_bytes()).await.unwrap();
        // A connection that is closed on us early is what some of the faults are.
        drop(stream.write_all(&[1; 1000]).await);
        let mut answer = Vec::new();
        drop(stream.read_to_end(&mut answer).await);
        answer
    }

    fn body(answer: &[u8]) -> usize {
        answer.windows(4).position(|end| end == b"\r\n\r\n").map_or(0, |head| answer.len() - head - 4)
    }

    #[tokio::test]
    async fn every_fault_is_what_it_says() {
        let (addr, seen) = server().await;
        let proxy = FaultProxy::to(addr).await.unwrap();
        assert_eq!(body(&ask(proxy.addr()).await), 10_000);
        assert_eq!(*seen.lock().unwrap(), [Ok(1000)]);
        let expected =
            Request { number: 0, method: "PUT".into(), path: "/a/b?c=d".into(), range: Some("bytes=1-".into()) };
        assert_eq!(proxy.requests(), [expected]);

        proxy.all(Fault::Refuse);
        assert_eq!(ask(proxy.addr()).await, b"");
        proxy.all(Fault::Status(503));
        assert!(ask(proxy.addr()).await.starts_with(b"HTTP/1.1 503"));
        assert_eq!(seen.lock().unwrap().len(), 1, "the server heard of neither");

        proxy.all(Fault::LoseAnswer);
        assert_eq!(ask(proxy.addr()).await, b"");
        assert_eq!(*seen.lock().unwrap(), [Ok(1000), Ok(1000)]);

        proxy.all(Fault::CutRequest(300));
        assert_eq!(ask(proxy.addr()).await, b"");
        let cut = crate::wait_for("the cut request", Duration::from_secs(10), async || {
            Ok(seen.lock().unwrap().get(2).cloned())
        });
        assert!(cut.await.unwrap().is_err());

        proxy.all(Fault::CutAnswer(1234));
        assert!(body(&ask(proxy.addr()).await) <= 1234);

        proxy.all(Fault::Slow(40_000));
        let began = Instant::now();
        assert_eq!(body(&ask(proxy.addr()).await), 10_000);
        assert!(began.elapsed() >= Duration::from_millis(150), "{:?}", began.elapsed());

        proxy.plan(|request| if request.number % 2 == 0 { Fault::Status(429) } else { Fault::None });
        let second = ask(proxy.addr()).await;
        let third = ask(proxy.addr()).await;
        assert!(body(&second) + body(&third) == 10_000, "one of two");
        proxy.away();
        assert_eq!(ask(proxy.addr()).await, b"");
        assert_eq!(proxy.request_count(), 10);
    }
}
