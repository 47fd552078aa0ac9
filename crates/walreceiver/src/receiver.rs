//! [`Receiver`]: the states of one session and the ways it ends.
//!
//! The ways are those of PostgreSQL's walsender: we stop; the TLI ends (at once, if the start is its end); the server shuts
//! down (`COPY 0` without CopyDone); an error before or during the copy; the connection breaks; the server falls silent.

use crate::Transmit;
use crate::transmit::Outbox;
use bytes::Bytes;
use lsn::{Lsn, Tli};
use pq_proto::backend::{BackendMessage, DataRow, Report};
use pq_proto::command::StartReplication;
use pq_proto::replication::{HotStandbyFeedback, PgTime, ReplicationError, ServerCopy, XLogData};
use std::time::{Duration, Instant};

/// How patient a receiver is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Timeouts {
    /// A status is sent at least this often.
    pub status_interval: Duration,
    /// A server from which nothing came for so long is given up; after half of it, it is asked for a sign of life.
    pub silence: Duration,
}

impl Default for Timeouts {
    /// 10 s and 60 s, as PostgreSQL's walreceiver.
    fn default() -> Timeouts {
        Timeouts { status_interval: Duration::from_secs(10), silence: Duration::from_secs(60) }
    }
}

/// Where the WAL goes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NextTli {
    /// The TLI that follows; not always the next number.
    pub tli: Tli,
    /// Where it begins: the switch point. May lie below what was received.
    pub start: Lsn,
}

/// What the owner must know.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// The copy began.
    Started,
    /// WAL, contiguous with what came before. Never empty.
    Wal {
        /// Position of the first byte.
        begin: Lsn,
        /// The server's end of what it may send.
        end_of_server: Lsn,
        /// The WAL; a slice of the buffer it was read into.
        bytes: Bytes,
    },
    /// A keepalive; an answer, where requested, is already due in `poll_transmit`.
    Keepalive {
        /// How far the server has sent.
        end: Lsn,
        /// Whether it wants a status now.
        reply_requested: bool,
    },
    /// The TLI has ended and the server waits for the next command.
    EndOfTli(NextTli),
    /// The session has ended otherwise.
    Ended(End),
}

/// Why a session ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum End {
    /// Both sides finished the copy after [`Receiver::stop`]; the server waits for the next command. Where the TLI had
    /// ended already, its successor.
    Stopped(Option<NextTli>),
    /// The server finished the copy, but named no TLI that follows. It waits for the next command.
    Finished,
    /// The server shuts down.
    Shutdown,
    /// The server reported an error. Unless it was fatal the connection is usable again after
    /// [`Receiver::is_ready`].
    Error(Report),
    /// The connection ended without a word.
    Closed,
}

/// A session that cannot go on. Close the connection.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// WAL is missing between what came and what comes.
    #[error("the server skipped WAL: expected {expected}, got {got}; reconnect and ask again from {expected}")]
    Gap {
        /// The next position wanted.
        expected: Lsn,
        /// The position that came.
        got: Lsn,
    },
    /// WAL came again.
    #[error("the server sent WAL again: expected {expected}, got {got}; reconnect and ask again from {expected}")]
    Overlap {
        /// The next position wanted.
        expected: Lsn,
        /// The position that came.
        got: Lsn,
    },
    /// WAL beyond the last position there can be.
    #[error("the server sent {length} bytes of WAL at {begin}, beyond the last possible position")]
    Overflow {
        /// Where they begin.
        begin: Lsn,
        /// How many.
        length: usize,
    },
    /// A message that cannot come now.
    #[error("the server sent {message} while {state}")]
    Unexpected {
        /// The message.
        message: &'static str,
        /// What we were doing.
        state: &'static str,
    },
    /// The row about the next TLI cannot be read.
    #[error("the server's row about the TLI that follows cannot be read; it should hold a TLI and a position")]
    NextTli,
    /// Nothing came for too long.
    #[error("nothing came from the server for {} seconds; the connection is given up", .0.as_secs())]
    Silent(Duration),
    /// A damaged or unknown message inside the copy.
    #[error(transparent)]
    Replication(#[from] ReplicationError),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// The command is on its way.
    Starting,
    /// CopyData in both directions.
    Streaming,
    /// We sent CopyDone, the server has not yet.
    Stopping,
    /// The copy is over on the server's side; results follow.
    Results,
    /// The owner knows the end; a ReadyForQuery may still come.
    Ended,
    /// The server waits for the next command.
    Ready,
}

impl State {
    fn shown(self) -> &'static str {
        match self {
            State::Starting => "starting to stream",
            State::Streaming => "streaming",
            State::Stopping => "stopping the stream",
            State::Results => "finishing the stream",
            State::Ended | State::Ready => "the stream had ended",
        }
    }
}

/// One session.
#[derive(Debug)]
pub struct Receiver {
    start: StartReplication,
    timeouts: Timeouts,
    state: State,
    /// The next byte wanted.
    position: Lsn,
    outbox: Outbox,
    stop_requested: bool,
    copy_done_due: bool,
    next: Option<NextTli>,
    last_heard: Instant,
    pinged: bool,
}

impl Receiver {
    /// A session that begins with sending [`Receiver::command`] now.
    pub fn new(start: StartReplication, timeouts: Timeouts, now: Instant) -> Receiver {
        Receiver {
            position: start.start,
            start,
            timeouts,
            state: State::Starting,
            outbox: Outbox::new(timeouts.status_interval, now),
            stop_requested: false,
            copy_done_due: false,
            next: None,
            last_heard: now,
            pinged: false,
        }
    }

    /// The command that starts the session, as text of a Query.
    pub fn command(&self) -> String {
        self.start.to_string()
    }

    /// The next byte wanted: one past the last byte given out.
    pub fn position(&self) -> Lsn {
        self.position
    }

    /// Whether the session is over and the server waits for the next command on this connection.
    pub fn is_ready(&self) -> bool {
        self.state == State::Ready
    }

    /// Sets what is reported: each position one past the last byte, 0 = unknown. A change is sent at once.
    pub fn report(&mut self, write: Lsn, flush: Lsn, apply: Lsn) {
        self.outbox.report(write, flush, apply);
    }

    /// Sets the hot-standby feedback (its time is ignored); zeros withdraw it. A change is sent at once, and what is not
    /// zero again with every status interval.
    pub fn report_feedback(&mut self, feedback: HotStandbyFeedback) {
        self.outbox.report_feedback(feedback);
    }

    /// Ends the stream in good order: what the server sent before it notices is still given out.
    pub fn stop(&mut self) {
        self.stop_requested = true;
    }

    /// Takes one message from the server.
    ///
    /// # Errors
    /// The session is over and the connection must be closed.
    pub fn handle_message(&mut self, now: Instant, message: BackendMessage) -> Result<Option<Event>, Error> {
        self.last_heard = now;
        self.pinged = false;
        match (self.state, message) {
            (_, BackendMessage::NoticeResponse(_) | BackendMessage::ParameterStatus { .. }) => Ok(None),
            (State::Ended, BackendMessage::ReadyForQuery(_)) => {
                self.state = State::Ready;
                Ok(None)
            }
            (State::Ended, _) => Ok(None),
            (
                State::Starting | State::Streaming | State::Stopping | State::Results,
                BackendMessage::ErrorResponse(e),
            ) => Ok(self.ended(End::Error(e))),
            (State::Starting, BackendMessage::CopyBothResponse) => {
                self.state = State::Streaming;
                Ok(Some(Event::Started))
            }
            (State::Starting, BackendMessage::RowDescription(_)) => {
                self.state = State::Results;
                Ok(None)
            }
            (State::Streaming | State::Stopping, BackendMessage::CopyData(payload)) => self.payload(payload),
            (State::Streaming, BackendMessage::CopyDone) => {
                self.copy_done_due = true;
                self.state = State::Results;
                Ok(None)
            }
            (State::Stopping, BackendMessage::CopyDone) => {
                self.state = State::Results;
                Ok(None)
            }
            // No CopyDone before it: the server is going down.
            (State::Streaming | State::Stopping, BackendMessage::CommandComplete(_)) => Ok(self.ended(End::Shutdown)),
            (State::Results, BackendMessage::RowDescription(_)) => Ok(None),
            (State::Results, BackendMessage::DataRow(row)) => self.row(&row),
            (State::Results, BackendMessage::CommandComplete(_)) => Ok(None),
            (State::Results, BackendMessage::ReadyForQuery(_)) => Ok(self.ready()),
            (state, message) => Err(Error::Unexpected { message: message.name(), state: state.shown() }),
        }
    }

    /// The connection ended. Gives an event unless the owner knows the end already.
    pub fn handle_eof(&mut self) -> Option<Event> {
        match self.state {
            State::Ended | State::Ready => None,
            _ => self.ended(End::Closed),
        }
    }

    /// Time has come to [`Receiver::poll_timeout`]; calling it earlier does no harm.
    ///
    /// # Errors
    /// [`Error::Silent`].
    pub fn handle_timeout(&mut self, now: Instant) -> Result<(), Error> {
        if self.is_over() {
            return Ok(());
        }
        if now >= self.last_heard + self.timeouts.silence {
            self.state = State::Ended;
            return Err(Error::Silent(self.timeouts.silence));
        }
        if self.may_send() {
            self.outbox.handle_timeout(now);
            if !self.pinged && now >= self.ping_at() {
                self.pinged = true;
                self.outbox.ping();
            }
        }
        Ok(())
    }

    /// When [`Receiver::handle_timeout`] must be called; `None` once the session is over.
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.is_over() {
            return None;
        }
        let mut next = self.last_heard + self.timeouts.silence;
        if self.may_send() {
            next = next.min(self.outbox.next_status());
            if !self.pinged {
                next = next.min(self.ping_at());
            }
        }
        Some(next)
    }

    /// The next message to send; call until it gives `None`, after every `handle_*` and command. `clock` is the wall
    /// clock that messages carry.
    pub fn poll_transmit(&mut self, now: Instant, clock: PgTime) -> Option<Transmit> {
        if std::mem::take(&mut self.copy_done_due) {
            return Some(Transmit::CopyDone);
        }
        if !self.may_send() {
            return None;
        }
        if let Some(transmit) = self.outbox.poll(now, clock) {
            return Some(transmit);
        }
        if self.stop_requested {
            self.state = State::Stopping;
            return Some(Transmit::CopyDone);
        }
        None
    }

    fn payload(&mut self, payload: Bytes) -> Result<Option<Event>, Error> {
        match ServerCopy::decode(payload)? {
            ServerCopy::XLogData(XLogData { begin, end_of_server, data, .. }) => {
                let expected = self.position;
                if begin != expected {
                    let got = begin;
                    let gap = begin > expected;
                    return Err(if gap { Error::Gap { expected, got } } else { Error::Overlap { expected, got } });
                }
                let overflow = Error::Overflow { begin, length: data.len() };
                self.position = begin.checked_add(data.len() as u64).ok_or(overflow)?;
                Ok((!data.is_empty()).then_some(Event::Wal { begin, end_of_server, bytes: data }))
            }
            ServerCopy::Keepalive(keepalive) => {
                if keepalive.reply_requested {
                    self.outbox.answer();
                }
                Ok(Some(Event::Keepalive { end: keepalive.end, reply_requested: keepalive.reply_requested }))
            }
        }
    }

    fn row(&mut self, row: &DataRow) -> Result<Option<Event>, Error> {
        let next = || Some(NextTli { tli: row.text(0)?.parse().ok()?, start: row.text(1)?.parse().ok()? });
        match next() {
            Some(next) if next.tli != Tli(0) && self.next.is_none() => {
                self.next = Some(next);
                Ok(None)
            }
            _ => Err(Error::NextTli),
        }
    }

    fn ready(&mut self) -> Option<Event> {
        self.state = State::Ready;
        Some(match self.next {
            _ if self.stop_requested => Event::Ended(End::Stopped(self.next)),
            Some(next) => Event::EndOfTli(next),
            None => Event::Ended(End::Finished),
        })
    }

    fn ended(&mut self, end: End) -> Option<Event> {
        self.state = State::Ended;
        self.copy_done_due = false;
        Some(Event::Ended(end))
    }

    fn is_over(&self) -> bool {
        matches!(self.state, State::Ended | State::Ready)
    }

    fn may_send(&self) -> bool {
        self.state == State::Streaming
    }

    fn ping_at(&self) -> Instant {
        self.last_heard + self.timeouts.silence / 2
    }
}

#[cfg(test)]
#[path = "receiver_test.rs"]
mod tests;
