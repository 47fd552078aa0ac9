//! START_REPLICATION: a reader's session.
//!
//! Recent WAL comes from memory, as the slices that arrived; older WAL is read from files on a blocking thread. One read is
//! under way per reader, and none while the socket has more than enough to send.

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
use tokio::sync::mpsc;

/// Who reads.
#[derive(Clone, Debug)]
pub(crate) struct Reader {
    pub(crate) peer: String,
    pub(crate) application_name: String,
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
    let options = ReaderOptions { command, peer: reader.peer, application_name: reader.application_name };
    let id = match cluster.connect_reader(Rc::clone(&port), options) {
        Ok(id) => id,
        Err(report) => {
            let mut bytes = BytesMut::new();
            encode::error_response(&report, &mut bytes);
            encode::ready_for_query(&mut bytes);
            outlet.send([bytes.freeze()]);
            return true;
        }
    };
    let reads = tokio::task::spawn_local(serve_reads(Rc::clone(&cluster), id, wanted, Rc::clone(outlet)));
    let reusable = listen(&cluster, id, &port, inlet).await;
    reads.abort();
    cluster.disconnect_reader(id);
    reusable
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

async fn serve_reads(
    cluster: Rc<Cluster>,
    id: ReaderId,
    mut wanted: mpsc::UnboundedReceiver<(Lsn, usize)>,
    outlet: Rc<Outlet>,
) {
    while let Some((from, max)) = wanted.recv().await {
        outlet.uncongested().await;
        let result = match cluster.read_recent(from, max) {
            Some(slices) => Ok(Some(joined(slices))),
            None => read_files(&cluster, from, max).await,
        };
        cluster.event(|keeper, now| keeper.handle_read(now, id, from, result));
    }
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

/// From files; `None` if the segment was removed.
async fn read_files(cluster: &Cluster, from: Lsn, max: usize) -> Result<Option<Bytes>, String> {
    let Some(reader) = cluster.file_reader() else { return Ok(None) };
    match tokio::task::spawn_blocking(move || reader.read(from, max)).await {
        Ok(Ok(bytes)) => Ok(Some(bytes)),
        Ok(Err(wal_storage::Error::NotHere { .. })) => Ok(None),
        Ok(Err(error)) => Err(error.to_string()),
        Err(error) => Err(error.to_string()),
    }
}
