//! START_REPLICATION: a reader's session.
//!
//! Recent WAL comes from memory, as the slices that arrived; older WAL is read from files on a blocking thread, and what
//! is no longer here from the archive. One read is
//! under way per reader, and none while the socket has more than enough to send.

use crate::calling;
use crate::cluster::Cluster;
use crate::wire::{Inlet, Outlet};
use bytes::{Bytes, BytesMut};
use keeper::{ReaderId, ReaderOptions};
use lsn::Lsn;
use pq_proto::backend::{Report, encode};
use pq_proto::command::StartReplication;
use pq_proto::frontend::{self, FrontendMessage};
use pq_proto::{Limits, SqlState};
use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::mpsc;

/// Bounds of the time-out a client may ask for.
const TIMEOUT_MIN: Duration = Duration::from_secs(1);
const TIMEOUT_MAX: Duration = Duration::from_secs(3600);

/// Who reads.
#[derive(Clone, Debug)]
pub(crate) struct Reader {
    pub(crate) peer: String,
    pub(crate) application_name: String,
    /// After so long without a word it is given up; what PostgreSQL calls `wal_sender_timeout`.
    pub(crate) timeout: Option<Duration>,
}

/// The `wal_sender_timeout` among a connection's start-up options, as a client may ask PostgreSQL for; `None` without one, and
/// for one that cannot be read or is 0: nobody is waited for without end here.
pub(crate) fn asked_timeout(options: &[(String, String)]) -> Option<Duration> {
    let (_, value) = options.iter().rev().find(|(key, _)| key == "wal_sender_timeout")?;
    let digits = value.len() - value.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = value.split_at_checked(digits)?;
    let factor = match unit.trim() {
        "" | "ms" => 1,
        "s" => 1000,
        "min" => 60_000,
        "h" => 3_600_000,
        _ => return None,
    };
    let milliseconds = number.parse::<u64>().ok()?.checked_mul(factor).filter(|value| *value > 0)?;
    Some(Duration::from_millis(milliseconds).clamp(TIMEOUT_MIN, TIMEOUT_MAX))
}

/// The keeper's end of a reader's connection.
#[derive(Debug)]
pub(crate) struct ReaderPort {
    outlet: Rc<Outlet>,
    requests: mpsc::UnboundedSender<(Lsn, usize)>,
    closed: Cell<Option<bool>>,
}

impl ReaderPort {
    /// Sends whole messages.
    pub(crate) fn send(&self, bytes: [Bytes; 2]) {
        self.outlet.send(bytes);
    }

    /// Asks for WAL; the keeper has at most one request under way.
    pub(crate) fn request(&self, from: Lsn, max: usize) {
        // The session's task is gone only when the session is.
        let _ = self.requests.send((from, max));
    }

    /// The session is over.
    pub(crate) fn close(&self, reusable: bool) {
        self.closed.set(Some(reusable));
        self.outlet.resumed.notify_one();
    }
}

/// Serves a reader until its session ends; true if the connection can take another command.
pub(crate) async fn serve(
    cluster: Rc<Cluster>,
    command: StartReplication,
    reader: Reader,
    inlet: &mut Inlet,
    outlet: &Rc<Outlet>,
) -> bool {
    let (requests, wanted) = mpsc::unbounded_channel();
    let port = Rc::new(ReaderPort { outlet: Rc::clone(outlet), requests, closed: Cell::new(None) });
    let Reader { peer, application_name, timeout } = reader;
    let connected = calling::left(&command.options, cluster.call_back_hosts()).and_then(|call_back| {
        let options = ReaderOptions { command, peer, application_name, timeout, call_back };
        cluster.connect_reader(Rc::clone(&port), options)
    });
    let guard = match connected {
        Ok(guard) => guard,
        Err(report) => {
            let mut bytes = BytesMut::new();
            encode::error_response(&report, &mut bytes);
            let is_reusable = !report.ends_connection();
            if is_reusable {
                encode::ready_for_query(&mut bytes);
            }
            outlet.send([bytes.freeze()]);
            return is_reusable;
        }
    };
    // Both end together, and the registry's entry with them, also when the connection's task is dropped half-way.
    tokio::select! {
        reusable = listen(&cluster, guard.id(), &port, inlet) => reusable,
        never = serve_reads(&cluster, guard.id(), wanted, outlet) => never,
    }
}

/// Hands the reader's messages to the keeper until the session is over.
async fn listen(cluster: &Cluster, id: ReaderId, port: &ReaderPort, inlet: &mut Inlet) -> bool {
    loop {
        if let Some(reusable) = port.closed.get() {
            return reusable;
        }
        if port.outlet.has_failed() {
            return false;
        }
        match frontend::decode(&mut inlet.buffer, Limits::SERVER) {
            Ok(Some(FrontendMessage::Terminate)) => return false,
            Ok(Some(message)) => cluster.event(|keeper, now| keeper.handle_reader(now, id, message)),
            Ok(None) => {
                tokio::select! {
                    read = inlet.read_more() => match read {
                        Ok(true) => {}
                        Ok(false) | Err(_) => return false,
                    },
                    () = port.outlet.resumed.notified() => {}
                }
            }
            Err(error) => {
                let mut bytes = BytesMut::new();
                encode::error_response(&Report::fatal(SqlState::PROTOCOL_VIOLATION, error.to_string()), &mut bytes);
                port.outlet.send([bytes.freeze()]);
                return false;
            }
        }
    }
}

/// Gives the keeper the WAL it asks for; ends with the session only.
async fn serve_reads(
    cluster: &Cluster,
    id: ReaderId,
    mut wanted: mpsc::UnboundedReceiver<(Lsn, usize)>,
    outlet: &Outlet,
) -> bool {
    while let Some((from, max)) = wanted.recv().await {
        outlet.uncongested().await;
        let result = match cluster.read_recent(from, max) {
            Some(slices) => Ok(Some(joined(slices))),
            None => read_files(cluster, from, max).await,
        };
        cluster.event(|keeper, now| keeper.handle_read(now, id, from, result));
    }
    // The port is dropped only after the session has ended, which `listen` notices.
    std::future::pending().await
}

/// One run of bytes. Many small commits lie in memory as many slices; joining them costs less than a message for each.
fn joined(mut slices: Vec<Bytes>) -> Bytes {
    if slices.len() == 1 {
        return slices.remove(0);
    }
    let mut all = BytesMut::with_capacity(slices.iter().map(Bytes::len).sum());
    for slice in slices {
        all.extend_from_slice(&slice);
    }
    all.freeze()
}

/// From files, and where the segment was removed from the archive; `None` if it is not there either.
async fn read_files(cluster: &Cluster, from: Lsn, max: usize) -> Result<Option<Bytes>, String> {
    let Some(reader) = cluster.file_reader() else { return Ok(None) };
    match tokio::task::spawn_blocking(move || reader.read(from, max)).await {
        Ok(Ok(bytes)) => Ok(Some(bytes)),
        Ok(Err(wal_storage::Error::NotHere { .. })) => cluster.read_archived(from, max).await,
        Ok(Err(error)) => Err(error.to_string()),
        Err(error) => Err(error.to_string()),
    }
}
