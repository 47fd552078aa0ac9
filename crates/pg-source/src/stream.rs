//! [`WalStream`]: WAL from the primary, and the answers that let its commits return.
//!
//! A `walreceiver::Receiver` decides, a `pg_conn::Connection` carries; this is the loop between them. WAL is handed out as slices of
//! the read buffer. What is reported is exactly what [`WalStream::answer`] was given, 0 before that.

use crate::error::Error;
use bytes::Bytes;
use lsn::{Lsn, Tli};
use pg_conn::Connection;
use pq_proto::command::StartReplication;
use pq_proto::replication::{HotStandbyFeedback, PgTime};
use source::Chunk;
use std::time::{Duration, Instant, SystemTime};
use walreceiver::{End, NextTli, Receiver, Timeouts};

/// A primary that says nothing for so long, asked in between, is dead.
const SILENCE: Duration = Duration::from_secs(30);
/// The primary is told how far we are at least this often: well within the 10 s after which it takes us for dead.
const STATUS_INTERVAL: Duration = Duration::from_secs(3);

/// What a stream brings.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// WAL, contiguous with the bytes before.
    Wal {
        /// Position of the first byte.
        begin: Lsn,
        /// The primary's flush position when it was sent.
        end_of_server: Lsn,
        /// The bytes; never empty.
        bytes: Bytes,
    },
    /// The primary is alive; answered already where it asked.
    Keepalive {
        /// How far it has sent.
        end: Lsn,
    },
    /// The TLI ends; another one goes on from it.
    EndOfTli {
        /// The TLI that follows, not always the next number.
        next: Tli,
        /// Where it begins; may lie below what was received.
        begin: Lsn,
    },
    /// The primary has shut down after its last record was acknowledged.
    Shutdown,
}

/// A running stream. Only one proposer at a time has one, because it holds the slot.
#[derive(Debug)]
pub struct WalStream {
    connection: Connection,
    receiver: Receiver,
    slot: String,
}

impl WalStream {
    pub(crate) async fn start(mut connection: Connection, slot: String, from: Lsn, tli: Tli) -> Result<Self, Error> {
        let start = StartReplication { slot: Some(slot.clone()), ..StartReplication::new(from, tli) };
        let timeouts = Timeouts { silence: SILENCE, status_interval: STATUS_INTERVAL };
        let receiver = Receiver::new(start, timeouts, Instant::now());
        pq_proto::frontend::encode_query(&receiver.command(), connection.writer().buffer())
            .map_err(|error| Error::Connection(error.into()))?;
        connection.writer().flush().await?;
        let mut stream = WalStream { connection, receiver, slot };
        loop {
            match stream.next().await? {
                walreceiver::Event::Started => return Ok(stream),
                walreceiver::Event::Ended(End::Error(report)) => return Err(Error::from_report(report)),
                // The start is the end of this TLI: there is nothing to stream on it.
                walreceiver::Event::EndOfTli(NextTli { .. }) => {
                    return Err(Error::Answer("START_REPLICATION at the end of a TLI"));
                }
                walreceiver::Event::Ended(_) => return Err(Error::Closed),
                walreceiver::Event::Wal { .. } | walreceiver::Event::Keepalive { .. } => {}
            }
        }
    }

    /// After [`Event::EndOfTli`]: goes on with the next TLI, on the same connection and slot. Nothing is reported until
    /// [`WalStream::answer`] is called again.
    ///
    /// # Errors
    /// The server sent bytes beyond the switch point, which are not on the next TLI; or as at a start.
    pub async fn follow(self, next: Tli, begin: Lsn) -> Result<WalStream, Error> {
        if self.position() != begin {
            return Err(Error::Answer("START_REPLICATION on a TLI it has left"));
        }
        WalStream::start(self.connection, self.slot, begin, next).await
    }

    /// The position after the last byte handed out.
    pub fn position(&self) -> Lsn {
        self.receiver.position()
    }

    /// The next event. Cancel-safe: a dropped call loses nothing. Must be called again soon, because it also answers keepalives.
    ///
    /// # Errors
    /// The stream is over; attach again.
    pub async fn recv(&mut self) -> Result<Event, Error> {
        loop {
            let event = self.next().await?;
            if let Some(event) = translate(event)? {
                return Ok(event);
            }
        }
    }

    /// The next event that needs no waiting: what one read brought can be taken in one go.
    pub fn try_recv(&mut self) -> Result<Option<Event>, Error> {
        while let Some(message) = self.connection.halves().0.try_recv()? {
            let event = self.receiver.handle_message(Instant::now(), message)?;
            if let Some(event) = event.map(translate).transpose()?.flatten() {
                return Ok(Some(event));
            }
        }
        Ok(None)
    }

    /// Tells the primary how far the WAL is written, flushed and applied (each one past the last byte, 0 = unknown), at once. Commits up
    /// to these positions return to their clients: never more than what the quorum committed and this stream brought.
    ///
    /// Cancel-safe: what was not written goes out with the next call of anything here.
    pub async fn answer(&mut self, write: Lsn, flush: Lsn, apply: Lsn) -> Result<(), Error> {
        assert!(
            write <= self.position() && flush <= self.position(),
            "an answer above what was received disables waiting"
        );
        self.receiver.report(write, flush, apply);
        self.transmit().await
    }

    /// Passes on what standbys hold back from vacuum: full transaction ids, epoch in the upper half; zeros withdraw it. Cancel-safe.
    pub async fn feedback(&mut self, xmin: u64, catalog_xmin: u64) -> Result<(), Error> {
        self.receiver.report_feedback(HotStandbyFeedback {
            time: PgTime::default(),
            xmin: xmin as u32,
            xmin_epoch: (xmin >> 32) as u32,
            catalog_xmin: catalog_xmin as u32,
            catalog_xmin_epoch: (catalog_xmin >> 32) as u32,
        });
        self.transmit().await
    }

    /// Closes the stream without waiting for anything; the primary frees the slot when it notices.
    pub async fn close(self) {
        self.connection.close().await;
    }

    fn encode_due(&mut self) {
        while let Some(transmit) = self.receiver.poll_transmit(Instant::now(), PgTime::from(SystemTime::now())) {
            transmit.encode(self.connection.writer().buffer());
        }
    }

    async fn transmit(&mut self) -> Result<(), Error> {
        self.encode_due();
        Ok(self.connection.writer().flush().await?)
    }

    async fn next(&mut self) -> Result<walreceiver::Event, Error> {
        loop {
            self.encode_due();
            let timeout = self.receiver.poll_timeout();
            let (reader, writer) = self.connection.halves();
            let has_output = writer.queued() > 0;
            let sleep = async {
                match timeout {
                    Some(at) => tokio::time::sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                // Answers first: a commit waits for them. Writing never stops reading, so the two sides cannot block each other.
                biased;
                written = writer.flush(), if has_output => written?,
                message = reader.recv() => match message {
                    Ok(message) => {
                        if let Some(event) = self.receiver.handle_message(Instant::now(), message)? {
                            return Ok(event);
                        }
                    }
                    Err(pg_conn::Error::Closed) => return self.receiver.handle_eof().ok_or(Error::Closed),
                    Err(error) => return Err(error.into()),
                },
                () = sleep => self.receiver.handle_timeout(Instant::now())?,
            }
        }
    }
}

fn translate(event: walreceiver::Event) -> Result<Option<Event>, Error> {
    Ok(Some(match event {
        walreceiver::Event::Started => return Ok(None),
        walreceiver::Event::Wal { begin, end_of_server, bytes } => Event::Wal { begin, end_of_server, bytes },
        walreceiver::Event::Keepalive { end, .. } => Event::Keepalive { end },
        walreceiver::Event::EndOfTli(NextTli { tli, start }) => Event::EndOfTli { next: tli, begin: start },
        walreceiver::Event::Ended(End::Shutdown) => Event::Shutdown,
        walreceiver::Event::Ended(End::Error(report)) => return Err(Error::from_report(report)),
        walreceiver::Event::Ended(End::Closed | End::Finished | End::Stopped(_)) => return Err(Error::Closed),
    }))
}

impl source::Stream for WalStream {
    type Position = Lsn;
    type Error = Error;

    /// The WAL alone; `None` at the end of the TLI and when the primary has shut down.
    async fn next_chunk(&mut self) -> Result<Option<Chunk<Lsn>>, Error> {
        loop {
            match self.recv().await? {
                Event::Wal { begin, bytes, .. } => return Ok(Some(Chunk { begin, bytes })),
                Event::Keepalive { .. } => {}
                Event::EndOfTli { .. } | Event::Shutdown => return Ok(None),
            }
        }
    }
}
