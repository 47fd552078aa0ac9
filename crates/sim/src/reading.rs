//! START_REPLICATION in the simulation: who reads from a safekeeper, and what becomes of the bytes. Both ends are the product's:
//! `keeper` serves, `walreceiver` consumes, with wire bytes between them.

use crate::net::{Net, PIPE_BYTES, Packet, Purpose, TO_CLIENT, TO_SERVER};
use crate::world::{MS, SECOND, World, note};
use bytes::{Bytes, BytesMut};
use keeper::{ReaderId, ReaderOptions};
use lsn::{Lsn, Term, Tli};
use pq_proto::command::StartReplication;
use pq_proto::{Limits, backend};
use std::time::Duration;
use walreceiver::{End, Event, Receiver, Timeouts};

/// A safekeeper that says nothing for so long is left.
const SILENCE: Duration = Duration::from_secs(10);

/// The client's end of a session.
#[derive(Debug)]
pub(crate) struct ReadClient {
    receiver: Receiver,
    buffer: BytesMut,
    to: Option<Lsn>,
}

/// A safekeeper that catches up.
#[derive(Debug)]
pub(crate) struct Pulling {
    pub(crate) term: Term,
    pub(crate) to: Lsn,
    /// Whom to ask yet.
    pub(crate) left: Vec<usize>,
    pub(crate) conn: Option<u64>,
}

impl World {
    /// Opens a session at a safekeeper that is reached.
    #[expect(clippy::too_many_arguments, reason = "what a connection and its command need")]
    pub(crate) fn open_read(
        &mut self,
        client: usize,
        n: usize,
        purpose: Purpose,
        from: Lsn,
        tli: Option<Tli>,
        term: Option<Term>,
        to: Option<Lsn>,
    ) -> Result<u64, String> {
        let now = self.instant();
        if self.net.is_blocked(client, n) || self.net.is_blocked(n, client) {
            return Err("no answer".to_owned());
        }
        let command = StartReplication { tli, term, ..StartReplication::new(from, Tli(1)) };
        let node = self.nodes.get_mut(n).filter(|node| node.is_up()).ok_or("connection refused")?;
        let (session, epoch) = (node.new_session(), node.epoch);
        let run = node.run.as_mut().ok_or("it does not have the cluster")?;
        let conn = self.net.add(client, n, purpose, epoch, session);
        run.readers.insert(ReaderId(session), conn);
        let receiver = Receiver::new(command.clone(), Timeouts { status_interval: SILENCE / 4, silence: SILENCE }, now);
        self.reading.insert(conn, ReadClient { receiver, buffer: BytesMut::new(), to });
        let options = ReaderOptions {
            command,
            peer: format!("h{client}"),
            application_name: "reader".to_owned(),
            timeout: None,
            call_back: None,
        };
        let mut answer = Ok(());
        self.keeper_event(n, |keeper, now| answer = keeper.connect_reader(now, ReaderId(session), options));
        if let Err(report) = answer {
            if let Some(run) = self.nodes[n].run.as_mut() {
                run.readers.remove(&ReaderId(session));
            }
            self.net.conns.remove(&conn);
            self.reading.remove(&conn);
            return Err(report.message);
        }
        self.after(2 * SECOND, move |world| world.read_timer(conn));
        Ok(conn)
    }

    fn read_timer(&mut self, id: u64) {
        let now = self.instant();
        let Some(client) = self.reader(id) else { return };
        if let Err(error) = client.receiver.handle_timeout(now) {
            let reason = error.to_string();
            self.read_ended(id, &reason);
            return self.close(id, 0, &reason);
        }
        self.read_transmit(id);
        self.after(2 * SECOND, move |world| world.read_timer(id));
    }

    fn read_transmit(&mut self, id: u64) {
        let now = self.instant();
        let Some(client) = self.reader(id) else { return };
        let mut out = BytesMut::new();
        while let Some(transmit) = client.receiver.poll_transmit(now, Default::default()) {
            transmit.encode(&mut out);
        }
        if !out.is_empty() {
            self.send(id, TO_SERVER, Packet::Bytes(out.freeze()));
        }
    }

    /// A safekeeper reads WAL for a reader, on another thread.
    pub(crate) fn read_later(&mut self, n: usize, reader: ReaderId, from: Lsn, max: usize) {
        let (epoch, later) = (self.nodes[n].epoch, self.chance.range(10, 600));
        self.after(later, move |world| {
            let Some(run) = world.nodes.get(n).filter(|node| node.epoch == epoch).and_then(|node| node.run.as_ref())
            else {
                return;
            };
            if run.readers.get(&reader).is_some_and(|conn| world.net.queued(*conn, TO_CLIENT) >= PIPE_BYTES) {
                return world.read_later(n, reader, from, max);
            }
            let Some(storage) = &run.storage else { return };
            let result = match storage.read_recent(from, max) {
                Some(slices) => Ok(Some(Bytes::from(slices.concat()))),
                None => match storage.reader().read(from, max) {
                    Ok(bytes) => Ok(Some(bytes)),
                    Err(wal_storage::Error::NotHere { .. }) => Ok(None),
                    Err(error) => Err(error.to_string()),
                },
            };
            // Its word comes a little later; a new leader may have come meanwhile.
            let later = world.chance.range(5, 300);
            world.after(later, move |world| {
                if world.nodes[n].epoch == epoch {
                    world.keeper_event(n, |keeper, now| keeper.handle_read(now, reader, from, result));
                }
            });
        });
    }

    /// Bytes of a safekeeper for somebody who reads.
    pub(crate) fn read_arrives(&mut self, id: u64, bytes: &[u8]) {
        let now = self.instant();
        let Some(client) = self.reader(id) else { return };
        client.buffer.extend_from_slice(bytes);
        loop {
            let Some(client) = self.reader(id) else { return };
            let message = match backend::decode(&mut client.buffer, Limits::CLIENT) {
                Ok(Some(message)) => message,
                Ok(None) => break,
                Err(error) => return self.oracle.fail(format!("a reader cannot understand a safekeeper: {error}")),
            };
            let event = match client.receiver.handle_message(now, message) {
                Ok(event) => event,
                Err(error) => return self.oracle.fail(format!("a reader was told what cannot be: {error}")),
            };
            match event {
                Some(Event::Wal { begin, bytes, .. }) => self.read_wal(id, begin, bytes),
                Some(Event::Ended(End::Error(report))) => return self.read_over(id, &report.message),
                Some(Event::Ended(_)) => return self.read_over(id, "it ended the stream"),
                Some(Event::EndOfTli(next)) => {
                    self.end_of_tli(id, next.tli, next.start);
                    return self.read_over(id, "its TLI ended");
                }
                Some(Event::Started | Event::Keepalive { .. }) | None => {}
            }
        }
        self.read_transmit(id);
    }

    fn read_over(&mut self, id: u64, reason: &str) {
        self.read_ended(id, reason);
        self.close(id, 0, reason);
    }

    fn read_wal(&mut self, id: u64, begin: Lsn, bytes: Bytes) {
        let Some(conn) = self.net.conns.get(&id) else { return };
        let (n, purpose) = (conn.server, conn.purpose);
        let end = begin.saturating_add(bytes.len() as u64);
        match purpose {
            Purpose::Donor { proposer, id: read } => {
                if self.proposers[proposer].donor.is_some_and(|(current, _)| current == read) {
                    self.leader_event(proposer, |leader, now| leader.handle_donor_bytes(now, begin, bytes));
                }
                if self.reader(id).is_some_and(|client| client.to.is_some_and(|to| end >= to)) {
                    self.close(id, 0, "everything was read");
                }
            }
            Purpose::Pull { node, epoch } => {
                let Some(run) = self.nodes.get(node).filter(|it| it.epoch == epoch).and_then(|it| it.run.as_ref())
                else {
                    return;
                };
                let Some(term) = run.pulling.as_ref().filter(|it| it.conn == Some(id)).map(|it| it.term) else {
                    return;
                };
                let mut fits = false;
                self.keeper_event(node, |keeper, now| fits = keeper.handle_pulled(now, term, begin, bytes));
                if !fits {
                    self.coverage.count("a pull that ended well");
                    return self.pull_over(node, epoch, Ok(()));
                }
                if let Some(client) = self.reader(id) {
                    client.receiver.report(end, end, Lsn::INVALID);
                }
            }
            Purpose::Reader { reader, epoch } => {
                if !self.nodes[n].excused {
                    self.oracle.reads(n, begin, &bytes);
                }
                self.coverage.count("WAL given to a reader");
                if let Some(standby) = self.plan.readers.get_mut(reader).filter(|it| it.epoch == epoch) {
                    standby.position = standby.position.max(end);
                }
                if let Some(client) = self.reader(id) {
                    client.receiver.report(end, end, Lsn::INVALID);
                }
            }
            Purpose::Push { .. } => {}
        }
    }

    fn end_of_tli(&mut self, id: u64, tli: Tli, start: Lsn) {
        let Some(Purpose::Reader { reader, epoch }) = self.net.conns.get(&id).map(|conn| conn.purpose) else { return };
        self.coverage.count("a reader that went on to a new TLI");
        if let Some(standby) = self.plan.readers.get_mut(reader).filter(|it| it.epoch == epoch) {
            (standby.tli, standby.position) = (Some(tli), start);
        }
    }

    /// A client's session has ended, for a reason.
    pub(crate) fn read_ended(&mut self, id: u64, reason: &str) {
        self.reading.remove(&id);
        let Some(purpose) = self.net.conns.get(&id).map(|conn| conn.purpose) else { return };
        match purpose {
            Purpose::Donor { proposer, id: read } => self.donor_failed(proposer, read, reason.to_owned()),
            Purpose::Pull { node, epoch } => {
                let current = self.nodes.get(node).filter(|it| it.epoch == epoch).and_then(|it| it.run.as_ref());
                if current.is_some_and(|run| run.pulling.as_ref().is_some_and(|it| it.conn == Some(id))) {
                    self.pull_next(node, epoch, reason.to_owned());
                }
            }
            Purpose::Reader { reader, epoch } => {
                let later = self.chance.range(100 * MS, SECOND);
                self.after(later, move |world| world.read_again(reader, epoch));
            }
            Purpose::Push { .. } => {}
        }
    }

    /// A standby or store of WAL connects to some safekeeper.
    pub(crate) fn read_again(&mut self, reader: usize, epoch: u64) {
        let Some(standby) = self.plan.readers.get_mut(reader).filter(|it| it.epoch == epoch) else { return };
        let (position, tli, left) = (standby.position, standby.tli, standby.patience);
        if left == 0 {
            return;
        }
        standby.patience -= 1;
        let n = self.chance.below(self.nodes.len() as u64) as usize;
        let public = self.nodes[n].run.as_ref().map(|run| run.keeper.identity(false));
        let Some(public) = public else { return self.reads_later(reader, epoch) };
        // A new one begins where the safekeeper's log does, as `pg_receivewal` would with an empty directory.
        let oldest = self.nodes[n].run.as_ref().map_or(Lsn::INVALID, |run| run.keeper.oldest());
        let from = if position.is_valid() { position } else { oldest };
        if !from.is_valid() || from < oldest {
            self.plan.readers[reader].position = Lsn::INVALID;
            return self.reads_later(reader, epoch);
        }
        let path = self.nodes[n].run.as_ref().and_then(|run| run.keeper.public_path(false));
        let tli = tli.or(path.map(|path| path.tli_at(from))).unwrap_or(public.tli);
        self.plan.readers[reader].tli = Some(tli);
        let purpose = Purpose::Reader { reader, epoch };
        if let Err(reason) = self.open_read(Net::READERS + reader, n, purpose, from, Some(tli), None, None) {
            note!(self, "reader {reader} is refused by k{n}: {reason}");
            self.reads_later(reader, epoch);
        }
    }

    fn reads_later(&mut self, reader: usize, epoch: u64) {
        let later = self.chance.range(200 * MS, 2 * SECOND);
        self.after(later, move |world| world.read_again(reader, epoch));
    }
}
