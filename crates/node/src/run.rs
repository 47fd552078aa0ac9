//! Putting a safekeeper together: listeners, threads, clusters, and a clean stop.

use crate::archive::{ArchiveError, Archiving};
use crate::cluster::ClusterContext;
use crate::data_dir::{DataDir, DataDirError};
use crate::door::HttpDoor;
use crate::jobs::JobThread;
use crate::options::NodeOptions;
use crate::pace::Pace;
use crate::peers::{MemoryStore, Peers};
use crate::registry::Registry;
use crate::room::Room;
use crate::{session, view};
use auth::Gate;
use disk::RealDisk;
use http_api::{Metrics, Question, Questions, Server, across};
use serde_json::Value;
use socket2::{SockRef, TcpKeepalive};
use std::cell::Cell;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream, lookup_host};
use tokio::task::LocalSet;

/// Most connections at a time; more are closed at once.
const CONNECTIONS_MAX: usize = 4096;
/// How long a clean stop waits for the last writes.
const STOP_DEADLINE: Duration = Duration::from_secs(5);

/// Why a safekeeper does not run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Its data directory cannot be used.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// Nobody can be let in as configured: an address, keys or certificates.
    #[error(transparent)]
    Gate(#[from] auth::GateError),
    /// An address cannot be listened on.
    #[error("cannot listen on {address}: {error}")]
    Listen {
        /// As configured.
        address: String,
        /// The system's answer.
        error: io::Error,
    },
    /// The system gives no thread or no socket.
    #[error("cannot {doing}: {error}")]
    System {
        /// What was tried.
        doing: &'static str,
        /// The system's answer.
        error: io::Error,
    },
    /// The archive cannot be used.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// Metrics cannot be set up.
    #[error(transparent)]
    Metrics(#[from] http_api::InstallError),
}

impl Error {
    /// Whether the way it was started is wrong, rather than what it found.
    pub fn is_usage(&self) -> bool {
        match self {
            Error::Gate(_) => true,
            Error::Archive(error) => error.is_usage(),
            _ => false,
        }
    }
}

/// What a started safekeeper tells.
#[derive(Clone, Copy, Debug)]
pub struct Ready {
    /// Where it speaks PostgreSQL's protocol.
    pub pg: SocketAddr,
    /// Where it speaks HTTP.
    pub http: SocketAddr,
}

/// Runs a safekeeper until `shutdown` resolves. Must be called on a current-thread runtime, which becomes the commit thread.
///
/// `ready` is called once everything in the data directory is open and connections are taken.
pub async fn run(
    options: NodeOptions,
    shutdown: impl Future<Output = ()>,
    ready: impl FnOnce(Ready),
) -> Result<(), Error> {
    LocalSet::new().run_until(serve(options, shutdown, ready)).await
}

async fn serve(
    options: NodeOptions,
    shutdown: impl Future<Output = ()>,
    ready: impl FnOnce(Ready),
) -> Result<(), Error> {
    let metrics = Metrics::install()?;
    let pg_address = resolve(&options.listen_pg).await?;
    let http_address = resolve(&options.listen_http).await?;
    let hosts = [pg_address, http_address].map(|address| address.ip().to_string());
    let gate = Arc::new(Gate::open(&options.auth, &[&hosts[0], &hosts[1]])?);
    let data_dir = DataDir::open(Arc::new(RealDisk), &options.data_dir, options.id)?;
    let thread = |name| JobThread::start(name).map_err(|error| Error::System { doing: "start a thread", error });
    let context = ClusterContext {
        data_dir: Rc::new(data_dir),
        peers: options.peers.iter().cloned().collect(),
        max_slot_wal: options.max_slot_wal,
        min_wal: options.min_wal,
        call_back_hosts: options.call_back_hosts.iter().cloned().collect(),
        room: Room::new(options.min_free),
        outgoing: Rc::new(options.outgoing.clone()),
        archiving: Archiving::open(&options.archive, options.max_wal.saturating_add(options.max_slot_wal))?,
        disk_thread: thread("disk")?,
        control_thread: thread("control")?,
        pace: Pace::default(),
        background_thread: thread("background")?,
    };
    let listen = |address: &str| {
        let address = address.to_owned();
        move |error| Error::Listen { address, error }
    };
    let listener = TcpListener::bind(pg_address).await.map_err(listen(&options.listen_pg))?;
    let http_listener = std::net::TcpListener::bind(http_address).map_err(listen(&options.listen_http))?;
    let pg = listener.local_addr().map_err(listen(&options.listen_pg))?;
    tokio::task::spawn_local(Rc::clone(&context.room).watch(Rc::clone(&context.data_dir)));
    let store = MemoryStore::new(&context.data_dir, context.control_thread.clone());
    let peers = Peers::new(context.data_dir.identity, store.load());
    let registry = Registry::open(options, context, peers).await?;
    Peers::start(&registry, store.clone());
    tokio::task::spawn_local(Rc::clone(registry.archiving()).run(Rc::clone(&registry)));
    let (view, questions) = across("safekeeper", metrics.clone());
    tokio::task::spawn_local(answer_questions(Rc::clone(&registry), pg, questions));
    let http = Server::start_behind(http_listener, Arc::new(view), Arc::new(HttpDoor(Arc::clone(&gate))))
        .map_err(|error| Error::System { doing: "start HTTP", error })?;
    tokio::task::spawn_local(metrics.upkeep());
    tokio::task::spawn_local(accept(Rc::clone(&registry), gate, listener));
    tracing::info!(node = %registry.identity().node, disk = %registry.identity().disk, %pg, http = %http.local_addr(), "safekeeper is ready");
    ready(Ready { pg, http: http.local_addr() });
    shutdown.await;
    stop(&registry, &store).await;
    Ok(())
}

async fn resolve(address: &str) -> Result<SocketAddr, Error> {
    let error = |error| Error::Listen { address: address.to_owned(), error };
    let mut found = lookup_host(address).await.map_err(error)?;
    found.next().ok_or_else(|| error(io::Error::new(io::ErrorKind::NotFound, "the name has no address")))
}

async fn accept(registry: Rc<Registry>, gate: Arc<Gate>, listener: TcpListener) {
    let open = Rc::new(Cell::new(0_usize));
    let mut number = 0_u32;
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors, mostly: let some connections end first.
                tracing::warn!("cannot accept a connection: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        if open.get() >= CONNECTIONS_MAX {
            tracing::warn!(%peer, "connection closed: there are {CONNECTIONS_MAX} already");
            continue;
        }
        if let Err(error) = tune(&stream) {
            tracing::debug!(%peer, "cannot set socket options: {error}");
        }
        number = number.wrapping_add(1);
        open.set(open.get() + 1);
        let (registry, gate, open) = (Rc::clone(&registry), Arc::clone(&gate), Rc::clone(&open));
        tokio::task::spawn_local(async move {
            session::serve(registry, gate, stream, peer, number).await;
            open.set(open.get() - 1);
        });
    }
}

fn tune(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let keepalive =
        TcpKeepalive::new().with_time(Duration::from_secs(30)).with_interval(Duration::from_secs(10)).with_retries(3);
    SockRef::from(stream).set_tcp_keepalive(&keepalive)
}

/// The newest positions are written down, so that the next start has little to scan.
async fn stop(registry: &Registry, store: &MemoryStore) {
    for cluster in registry.all() {
        cluster.prepare_stop();
    }
    let idle = async {
        for cluster in registry.all() {
            cluster.idle().await;
        }
        Peers::save(registry, store).await;
    };
    if tokio::time::timeout(STOP_DEADLINE, idle).await.is_err() {
        tracing::warn!("stopping with writes under way; the next start finds what they left");
    }
}

async fn answer_questions(registry: Rc<Registry>, pg: SocketAddr, mut questions: Questions) {
    while let Some(asked) = questions.next().await {
        let value = match &asked.question {
            Question::Status => view::status(&registry, pg),
            Question::Cluster(name) => view::cluster_by_name(&registry, name).unwrap_or(Value::Null),
            Question::Ready => view::readiness(&registry).map_or_else(Value::String, |()| Value::Null),
            Question::RefreshGauges => {
                view::refresh_gauges(&registry);
                Value::Null
            }
        };
        asked.answer(value);
    }
}
