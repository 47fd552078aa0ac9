//! What a safekeeper does with its connections, and what it shows.

use crate::net::Purpose;
use crate::safekeeper::{Run, dir};
use crate::world::World;
use bytes::{Bytes, BytesMut};
use consensus::{AcceptorState, Introduction, SessionId};
use keeper::{ReaderId, control};
use pq_proto::frontend;
use quorum_proto::{LogStatusRow, ProtoVersion};
use wal_storage::ControlFile;

impl World {
    /// What a safekeeper calls committed is held against what was committed.
    pub(crate) fn watch(&mut self, n: usize, run: &mut Run) {
        let (flush, commit) = run.keeper.timeline_status();
        if commit < run.commit {
            self.oracle.fail(format!("the commit LSN of safekeeper {n} went back from {} to {commit}", run.commit));
        }
        run.commit = commit;
        let Some(storage) = &run.storage else { return };
        let to = flush.min(commit);
        while run.verified < to && !self.nodes[n].excused {
            let want = to.bytes_since(run.verified).min(1 << 16) as usize;
            // From memory, so that no injected fault is used up here; the files are looked at when a run ends.
            let Some(slices) = storage.read_recent(run.verified, want) else {
                run.verified = to;
                break;
            };
            for bytes in slices {
                self.oracle.holds(n, run.verified, &bytes);
                run.verified = run.verified.saturating_add(bytes.len() as u64);
            }
        }
    }

    /// Whether a safekeeper takes nothing more on a connection for now.
    pub(crate) fn node_is_held(&self, id: u64) -> bool {
        let Some(conn) = self.net.conns.get(&id) else { return false };
        let Some(node) = self.nodes.get(conn.server).filter(|node| node.epoch == conn.server_epoch) else {
            return false;
        };
        let full = || node.run.as_ref().is_some_and(|run| !run.keeper.wants_push(SessionId(conn.session)));
        node.stalled_until > self.now || (matches!(conn.purpose, Purpose::Push { .. }) && full())
    }

    /// Bytes of a client.
    pub(crate) fn arrives_at_node(&mut self, id: u64, bytes: Bytes) {
        let Some(conn) = self.net.conns.get(&id) else { return };
        let (n, session, purpose) = (conn.server, conn.session, conn.purpose);
        if self.nodes.get(n).is_none_or(|node| node.epoch != conn.server_epoch) {
            return;
        }
        if let Purpose::Push { .. } = purpose {
            // Sometimes more is read before the keeper goes on.
            let drives = !self.chance.one_in(4);
            self.keeper_event(n, |keeper, now| {
                keeper.handle_push(now, SessionId(session), bytes);
                if drives {
                    keeper.drive(now);
                }
            });
            if !drives {
                self.after(100, move |world| world.keeper_event(n, |keeper, now| keeper.drive(now)));
            }
            return;
        }
        let mut buffer = BytesMut::from(&bytes[..]);
        while let Ok(Some(message)) = frontend::decode(&mut buffer, pq_proto::Limits::SERVER) {
            self.keeper_event(n, |keeper, now| keeper.handle_reader(now, ReaderId(session), message));
        }
    }

    /// A safekeeper learns that a client is gone.
    pub(crate) fn node_lost(&mut self, id: u64) {
        let Some(conn) = self.net.conns.get(&id) else { return };
        let (n, session, epoch, purpose) = (conn.server, conn.session, conn.server_epoch, conn.purpose);
        let Some(run) = self.nodes.get_mut(n).filter(|node| node.epoch == epoch).and_then(|node| node.run.as_mut())
        else {
            return;
        };
        if let Purpose::Push { .. } = purpose {
            run.pushes.remove(&SessionId(session));
            self.keeper_event(n, |keeper, now| keeper.disconnect_receiver(now, SessionId(session)));
        } else {
            run.readers.remove(&ReaderId(session));
            self.keeper_event(n, |keeper, now| keeper.disconnect_reader(now, ReaderId(session)));
        }
    }

    /// A proposer's session is opened. Its connection, or why not.
    pub(crate) fn accept_push(
        &mut self,
        client: usize,
        n: usize,
        purpose: Purpose,
        introduction: Introduction,
    ) -> Result<u64, String> {
        let node = self.nodes.get_mut(n).ok_or("no such host")?;
        let (session, epoch) = (node.new_session(), node.epoch);
        let run = node.run.as_mut().ok_or("it does not have the cluster")?;
        let conn = self.net.add(client, n, purpose, epoch, session);
        run.pushes.insert(SessionId(session), conn);
        run.keeper.connect_receiver(SessionId(session), ProtoVersion::V3, introduction, format!("p{client}"));
        Ok(conn)
    }

    /// LOG_STATUS; `None` if it does not have the cluster.
    pub(crate) fn log_status(&mut self, n: usize) -> Option<LogStatusRow> {
        let now = self.instant();
        let row = self.nodes.get(n)?.run.as_ref()?.keeper.log_status(now);
        // By way of the wire.
        let values = row.to_values();
        let columns = LogStatusRow::columns();
        let read = LogStatusRow::from_row(|name| {
            columns.iter().position(|column| *column == name).and_then(|at| values.get(at)).map(String::as_str)
        });
        match read {
            Ok(read) => Some(read),
            Err(error) => {
                self.oracle.fail(format!("a row of LOG_STATUS cannot be read back: {error}"));
                None
            }
        }
    }

    /// What the control file on a disk says, without disturbing anything.
    pub(crate) fn state_on_disk(&self, n: usize) -> Option<AcceptorState> {
        let bytes = ControlFile::load(&self.nodes.get(n)?.disk, &dir()).ok()??;
        control::decode(&bytes).ok()
    }
}
