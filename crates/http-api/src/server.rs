//! Accepting connections, within bounds.
//!
//! | bound | value |
//! |---|---|
//! | connections at once | 64; more wait in the system's queue |
//! | header of a request | 16 KiB, 64 fields, 5 s |
//! | whole connection | 10 s |

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use hyper::rt::{Read, Write};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, oneshot};
use tokio_rustls::TlsAcceptor;

use crate::door::{Asking, Door, OpenDoor};
use crate::route::{View, answer};

const CONNECTIONS_MAX: usize = 64;
const HEADER_BYTES_MAX: usize = 16 * 1024;
const HEADER_FIELDS_MAX: usize = 64;
const HEADER_WITHIN: Duration = Duration::from_secs(5);
const CONNECTION_WITHIN: Duration = Duration::from_secs(10);
/// After a failed accept, which is nearly always a lack of file descriptors.
const ACCEPT_AGAIN_AFTER: Duration = Duration::from_millis(100);

/// Answers requests on `listener` until it is dropped. Needs a tokio runtime with I/O and time; a current-thread one will do.
pub async fn serve(listener: TcpListener, view: Arc<dyn View>, door: Arc<dyn Door>) -> Infallible {
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    // Connections end with the server.
    let mut connections = tokio::task::JoinSet::new();
    loop {
        // The semaphore is never closed, so there is always a permit in the end.
        let permit = Arc::clone(&permits).acquire_owned().await;
        match listener.accept().await {
            Ok((stream, peer)) => {
                let (view, door) = (Arc::clone(&view), Arc::clone(&door));
                connections.spawn(async move {
                    let _permit = permit;
                    if tokio::time::timeout(CONNECTION_WITHIN, connection(stream, peer.ip(), view, door)).await.is_err()
                    {
                        tracing::debug!(%peer, "an HTTP client was too slow");
                    }
                });
            }
            Err(err) => {
                tracing::warn!(%err, "cannot accept an HTTP connection");
                tokio::time::sleep(ACCEPT_AGAIN_AFTER).await;
            }
        }
        while connections.try_join_next().is_some() {}
    }
}

/// The first byte of a TLS handshake; no HTTP request begins with it.
const TLS_HANDSHAKE: u8 = 0x16;

async fn connection(stream: TcpStream, peer: IpAddr, view: Arc<dyn View>, door: Arc<dyn Door>) {
    let mut first = [0];
    let begins_tls = stream.peek(&mut first).await.is_ok_and(|count| count == 1) && first[0] == TLS_HANDSHAKE;
    match door.tls().filter(|_| begins_tls) {
        None => talk(TokioIo::new(stream), peer, false, view, door).await,
        Some(config) => match TlsAcceptor::from(config).accept(stream).await {
            Ok(stream) => talk(TokioIo::new(stream), peer, true, view, door).await,
            Err(err) => tracing::debug!(%peer, %err, "a TLS handshake failed"),
        },
    }
}

async fn talk(
    io: impl Read + Write + Unpin + Send + 'static,
    peer: IpAddr,
    is_encrypted: bool,
    view: Arc<dyn View>,
    door: Arc<dyn Door>,
) {
    let service = service_fn(move |request| {
        let response =
            answer(&request, &*view, &|bearer, cluster| door.admit(&Asking { bearer, peer, is_encrypted, cluster }));
        async move { Ok::<_, Infallible>(response) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_WITHIN)
        .keep_alive(false)
        // A client that has said all it wants to say still gets its answer.
        .half_close(true)
        .max_buf_size(HEADER_BYTES_MAX)
        .max_headers(HEADER_FIELDS_MAX)
        .serve_connection(io, service);
    if let Err(err) = served.await {
        tracing::debug!(%err, "an HTTP connection failed");
    }
}

/// An HTTP server on a thread of its own. It ends when dropped.
#[derive(Debug)]
pub struct Server {
    local_addr: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Starts answering everybody on `listener`. Fails if the system gives no thread or no runtime.
    pub fn start(listener: std::net::TcpListener, view: Arc<dyn View>) -> io::Result<Server> {
        Server::start_behind(listener, view, Arc::new(OpenDoor))
    }

    /// Starts answering those whom `door` lets in.
    pub fn start_behind(
        listener: std::net::TcpListener,
        view: Arc<dyn View>,
        door: Arc<dyn Door>,
    ) -> io::Result<Server> {
        let local_addr = listener.local_addr()?;
        listener.set_nonblocking(true)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
        let listener = {
            let _inside = runtime.enter();
            TcpListener::from_std(listener)?
        };
        let (stop, stopped) = oneshot::channel();
        let work = move || {
            runtime.block_on(async {
                tokio::select! {
                    never = serve(listener, view, door) => match never {},
                    // A dropped sender means the same as a message.
                    _ = stopped => {}
                }
            });
        };
        let thread = std::thread::Builder::new().name("http".to_owned()).spawn(work)?;
        Ok(Server { local_addr, stop: Some(stop), thread: Some(thread) })
    }

    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::warn!("the HTTP server's thread panicked");
        }
    }
}

#[cfg(test)]
#[path = "server_test.rs"]
mod tests;
