//! Putting a proposer together: HTTP, discovery, leading, and a quick hand-over at the end.

use crate::discover::{self, Found};
use crate::door::HttpDoor;
use crate::driver::{Driver, Origin};
use crate::error::Error;
use crate::options::ProposerOptions;
use crate::safekeeper::{LogStatus, Safekeeper};
use crate::view::{Shown, Stage, answer_questions};
use http_api::{Metrics, Server, across};
use leader::Leader;
use pg_conn::ConnInfo;
use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::lookup_host;
use tokio::task::LocalSet;

/// Pause between two rounds of asking which cluster there is.
const DISCOVERY_RETRY: Duration = Duration::from_secs(1);

/// What a started proposer tells.
#[derive(Clone, Copy, Debug)]
pub struct Ready {
    /// Where it speaks HTTP.
    pub http: SocketAddr,
}

/// Runs a proposer until `shutdown` resolves. Must be called on a current-thread runtime with I/O and time.
///
/// `ready` is called as soon as status is shown; neither primary nor safekeepers need to be there yet. When `shutdown` resolves
/// the slot is let go at once, so that another proposer can take over.
///
/// # Errors
/// Only what makes going on senseless; see [`Error::exit_kind`]. Trouble with the primary or the safekeepers is shown, and tried
/// again for ever.
pub async fn run(
    options: ProposerOptions,
    shutdown: impl Future<Output = ()>,
    ready: impl FnOnce(Ready),
) -> Result<(), Error> {
    LocalSet::new().run_until(serve(options, shutdown, ready)).await
}

async fn serve(
    options: ProposerOptions,
    shutdown: impl Future<Output = ()>,
    ready: impl FnOnce(Ready),
) -> Result<(), Error> {
    let conninfo: ConnInfo = options.primary.parse()?;
    let conninfo = conninfo.with_env(|name| std::env::var(name).ok())?;
    if options.safekeepers.is_empty() {
        return Err(Error::NoSafekeepers);
    }
    let safekeepers =
        options.safekeepers.iter().map(|address| Safekeeper::new(address, &options.outgoing).map(Rc::new));
    let safekeepers: Vec<Rc<Safekeeper>> = safekeepers.collect::<Result<_, _>>()?;
    let metrics = Metrics::install()?;
    let cluster = options.cluster.clone();
    let stage: Stage = Rc::new(RefCell::new(Shown::Discovering { cluster, trouble: None }));
    let http = start_http(&options, &stage, &metrics).await?;
    tokio::task::spawn_local(metrics.upkeep());
    tracing::info!(http = %http.local_addr(), "proposer is running");
    ready(Ready { http: http.local_addr() });
    let mut shutdown = std::pin::pin!(shutdown);
    let found = tokio::select! {
        found = discover(&safekeepers, options.cluster.as_deref(), &stage) => found?,
        () = &mut shutdown => return Ok(()),
    };
    tracing::info!(cluster = found.name, id = %found.id, "cluster found");
    let addresses = safekeepers.iter().map(ToString::to_string).collect();
    let takeover = &options.takeover;
    let leader = leader::Options {
        takeover: takeover.always,
        takeover_after: takeover.after_silence,
        ..leader::Options::new(found.id, addresses)
    };
    let origin = Origin::Primary(Rc::new(pg_source::Options::new(conninfo)));
    let leader = Leader::new(leader, Instant::now());
    let driver = Driver::new(found.id, found.name, leader, origin, takeover.token_file.clone(), safekeepers);
    *stage.borrow_mut() = Shown::Driving(Rc::clone(&driver));
    let clock = tokio::task::spawn_local(Rc::clone(&driver).keep_time());
    shutdown.await;
    clock.abort();
    driver.leave().await;
    tracing::info!("proposer has stopped");
    Ok(())
}

async fn start_http(options: &ProposerOptions, stage: &Stage, metrics: &Metrics) -> Result<Server, Error> {
    let listen = |error| Error::Listen { address: options.listen_http.clone(), error };
    let mut found = lookup_host(&options.listen_http).await.map_err(listen)?;
    let none = || listen(io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
    let address = found.next().ok_or_else(none)?;
    let gate = Arc::new(auth::Gate::open(&options.auth, &[&address.ip().to_string()])?);
    let listener = std::net::TcpListener::bind(address).map_err(listen)?;
    let (view, questions) = across("proposer", metrics.clone());
    tokio::task::spawn_local(answer_questions(Rc::clone(stage), questions));
    Server::start_behind(listener, Arc::new(view), Arc::new(HttpDoor(gate))).map_err(listen)
}

/// Asks until a majority agrees which cluster it is.
async fn discover(safekeepers: &[Rc<Safekeeper>], wanted: Option<&str>, stage: &Stage) -> Result<Found, Error> {
    let addresses: Vec<&str> = safekeepers.iter().map(|safekeeper| safekeeper.address()).collect();
    let mut said = None;
    loop {
        let asked: Vec<_> = safekeepers.iter().cloned().map(ask).collect();
        let mut answers = Vec::with_capacity(asked.len());
        for answer in asked {
            answers.push(answer.await.unwrap_or_else(|_| Err("it could not be asked".to_owned())));
        }
        let trouble = match discover::judge(&addresses, &answers, wanted)? {
            Ok(found) => return Ok(found),
            Err(trouble) => trouble,
        };
        if said.as_ref() != Some(&trouble) {
            tracing::warn!("{trouble}");
            said = Some(trouble.clone());
        }
        *stage.borrow_mut() = Shown::Discovering { cluster: wanted.map(str::to_owned), trouble: Some(trouble) };
        tokio::time::sleep(DISCOVERY_RETRY).await;
    }
}

pub(crate) fn ask(safekeeper: Rc<Safekeeper>) -> tokio::task::JoinHandle<Result<LogStatus, String>> {
    tokio::task::spawn_local(async move { safekeeper.log_status().await })
}
