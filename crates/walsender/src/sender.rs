//! [`Sender`]: the states of one session served, and its endings.
//!
//! The endings are those of PostgreSQL's walsender, because stock clients know no others: CopyDone from both sides and two
//! completions; the same with a row about the next TLI; an error and ReadyForQuery; `COPY 0` and the end of the connection.

use crate::answers;
use bytes::{Bytes, BytesMut};
use lsn::{Lsn, SegmentSize, Term, Tli, WAL_PAGE_SIZE};
use pq_proto::SqlState;
use pq_proto::backend::{Report, encode};
use pq_proto::frontend::FrontendMessage;
use pq_proto::replication::{
    ClientCopy, HotStandbyFeedback, Keepalive, PgTime, ReplicationError, StandbyStatus, xlog_data_frame,
};
use std::time::{Duration, Instant};

/// Where a TLI ends and which follows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NextTli {
    /// The TLI that follows.
    pub tli: Tli,
    /// Where it begins: the first byte that is not on the old TLI.
    pub start: Lsn,
}

/// What a session is to serve.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SenderOptions {
    /// First byte.
    pub start: Lsn,
    /// On which TLI.
    pub tli: Tli,
    /// For a term-guarded read: the term the owner guards it by.
    pub term: Option<Term>,
    /// For a TLI that has ended: where, and what follows.
    pub end_of_tli: Option<NextTli>,
    /// A chunk never crosses the end of a segment.
    pub segment_size: SegmentSize,
    /// Most bytes of WAL in one message; at least a page.
    pub chunk_max: usize,
    /// After so long without sending, a keepalive asks for an answer.
    pub keepalive: Duration,
    /// A client from which nothing came for so long is given up.
    pub timeout: Duration,
}

impl SenderOptions {
    /// A committed read of a TLI that goes on: chunks of 128 KiB, a keepalive every 5 s, a time-out of 60 s.
    pub fn new(start: Lsn, tli: Tli, segment_size: SegmentSize) -> SenderOptions {
        SenderOptions {
            start,
            tli,
            term: None,
            end_of_tli: None,
            segment_size,
            chunk_max: 128 << 10,
            keepalive: Duration::from_secs(5),
            timeout: Duration::from_secs(60),
        }
    }
}

/// What the owner must do.
#[derive(Clone, PartialEq, Eq, Debug)]
#[must_use]
pub enum Output {
    /// Read WAL and pass it to [`Sender::handle_read`]. At most one is outstanding.
    Read {
        /// First byte.
        from: Lsn,
        /// Most bytes, at least 1; fewer may be given.
        max: usize,
    },
    /// Send these bytes, in this order.
    Send {
        /// Whole messages, or the header of one.
        head: Bytes,
        /// The rest of that message; often empty.
        payload: Bytes,
    },
    /// The session is over; nothing comes after this.
    Finished {
        /// Why.
        end: End,
        /// Whether the client may send the next command; else close the connection.
        is_reusable: bool,
    },
}

/// Why a session ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// The client finished or gave up the copy.
    Stopped,
    /// The TLI has ended and the client knows which follows.
    EndOfTli,
    /// [`Sender::terminate`].
    Terminated,
    /// The client said goodbye.
    Goodbye,
    /// Nothing came from the client for too long.
    Silent,
    /// The client does not keep to the protocol.
    Violation,
}

/// Why the owner ends a session.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Finish {
    /// A term-guarded read, and this node's term has moved on.
    TermChanged {
        /// The term asked for.
        requested: Term,
        /// The term now.
        now: Term,
    },
    /// The WAL wanted is gone. Holds the segment's 24-digit name.
    Removed(String),
    /// The cluster is no longer here.
    Gone,
    /// The server shuts down.
    Shutdown,
    /// Nothing more will come for this reader, and that is no failure: it is told in these words.
    CaughtUp(String),
    /// Anything else.
    Error(Report),
}

/// What the client told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ClientEvent {
    /// How far it is; monitoring data, it proves nothing.
    Status(StandbyStatus),
    /// Which transactions its queries need.
    Feedback(HotStandbyFeedback),
    /// A pageserver's feedback, not understood here.
    Pageserver(Bytes),
    /// It ends the session; keep polling for the answer.
    Stopped,
}

/// A client that does not keep to the protocol. The answer is given out by `poll`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClientError {
    /// A damaged or unknown message inside the copy.
    #[error(transparent)]
    Replication(#[from] ReplicationError),
    /// A message that cannot come during a copy.
    #[error("the client sent a message that cannot come while WAL is streamed")]
    Unexpected,
}

/// WAL was passed that was not asked for. A defect of the owner; nothing was sent of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{length} bytes of WAL at {from} were not asked for")]
pub struct ReadError {
    /// Where they begin.
    pub from: Lsn,
    /// How many they are.
    pub length: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Streaming,
    /// The TLI has ended, our CopyDone is given out; the client's is awaited.
    Closing,
    /// Over; the owner does not know yet.
    Finished {
        end: End,
        is_reusable: bool,
    },
    Over,
}

/// One session.
#[derive(Debug)]
pub struct Sender {
    options: SenderOptions,
    state: State,
    /// The next byte to send.
    position: Lsn,
    limit: Lsn,
    /// The outstanding read.
    reading: Option<(Lsn, usize)>,
    /// WAL that was read, from `position` on.
    data: Option<Bytes>,
    /// Whole messages that go before everything else.
    control: BytesMut,
    /// A keepalive is due; whether it asks for an answer.
    keepalive: Option<bool>,
    last_sent: Instant,
    last_heard: Instant,
    pinged: bool,
}

impl Sender {
    /// A session that may read nothing yet: see [`Sender::set_limit`]. A start at the end of its TLI gives the result
    /// about the next one without a copy, as PostgreSQL does.
    ///
    /// # Errors
    /// The start lies beyond the end of its TLI: answer with the report.
    pub fn new(options: SenderOptions, now: Instant) -> Result<Sender, Report> {
        let mut sender = Sender {
            options,
            state: State::Streaming,
            position: options.start,
            limit: Lsn::INVALID,
            reading: None,
            data: None,
            control: BytesMut::new(),
            keepalive: None,
            last_sent: now,
            last_heard: now,
            pinged: false,
        };
        match options.end_of_tli {
            Some(next) if options.start > next.start => {
                return Err(answers::start_not_in_history(options.start, options.tli, next.start));
            }
            Some(next) if options.start == next.start => sender.complete(End::EndOfTli),
            _ => encode::copy_both_response(&mut sender.control),
        }
        Ok(sender)
    }

    /// The next byte to send: one past the last byte given out.
    pub fn position(&self) -> Lsn {
        self.position
    }

    /// The term the owner guards this session by.
    pub fn term(&self) -> Option<Term> {
        self.options.term
    }

    /// The TLI served.
    pub fn tli(&self) -> Tli {
        self.options.tli
    }

    /// How far this reader may read from now on (the byte at `limit` is not sent). It may move back: then nothing is sent
    /// until it is above the position again.
    pub fn set_limit(&mut self, limit: Lsn) {
        self.limit = limit;
    }

    /// The TLI served has ended. What is left of it is sent, then the client is told. Some bytes beyond its end may have
    /// been sent already.
    pub fn end_of_tli(&mut self, next: NextTli) {
        self.options.end_of_tli = Some(next);
    }

    /// Ends the session now: WAL that was read and not given out is dropped, the fitting answer is given out.
    pub fn terminate(&mut self, finish: Finish) {
        let is_streaming = self.state == State::Streaming;
        if !is_streaming && self.state != State::Closing {
            return;
        }
        let report = match finish {
            Finish::Shutdown => {
                // After our CopyDone a completion would be taken for the end of the TLI; a close is understood.
                if is_streaming {
                    encode::command_complete("COPY 0", &mut self.control);
                }
                return self.finish(End::Terminated, false);
            }
            Finish::TermChanged { requested, now } => {
                let message = format!("term changed: requested {requested}, now {now}");
                Report::error(SqlState::INTERNAL_ERROR, message)
            }
            Finish::Removed(segment) => answers::wal_removed(&segment),
            Finish::CaughtUp(text) => {
                // An error in form only, as foreign consumers expect it: its code says that all went well.
                let report = Report::error(SqlState::SUCCESSFUL_COMPLETION, text);
                encode::error_response(&report, &mut self.control);
                return self.finish(End::Terminated, false);
            }
            Finish::Gone => Report::error(SqlState::UNDEFINED_OBJECT, "this cluster is no longer on this safekeeper"),
            Finish::Error(report) => report,
        };
        self.fail(End::Terminated, &report);
    }

    /// Takes one message from the client.
    ///
    /// # Errors
    /// The session ends; the answer is given out by `poll`.
    pub fn handle_client(
        &mut self,
        now: Instant,
        message: FrontendMessage,
    ) -> Result<Option<ClientEvent>, ClientError> {
        if !matches!(self.state, State::Streaming | State::Closing) {
            return Ok(None);
        }
        self.last_heard = now;
        self.pinged = false;
        match message {
            FrontendMessage::CopyData(payload) => match ClientCopy::decode(payload) {
                Ok(ClientCopy::Status(status)) => {
                    if status.reply_requested && self.keepalive.is_none() {
                        self.keepalive = Some(false);
                    }
                    Ok(Some(ClientEvent::Status(status)))
                }
                Ok(ClientCopy::Feedback(feedback)) => Ok(Some(ClientEvent::Feedback(feedback))),
                Ok(ClientCopy::Pageserver(feedback)) => Ok(Some(ClientEvent::Pageserver(feedback))),
                Err(error) => {
                    self.fail(End::Violation, &Report::fatal(SqlState::PROTOCOL_VIOLATION, error.to_string()));
                    Err(error.into())
                }
            },
            FrontendMessage::CopyDone => {
                let end = if self.state == State::Closing { End::EndOfTli } else { End::Stopped };
                if end == End::Stopped {
                    encode::copy_done(&mut self.control);
                }
                self.complete(end);
                Ok(Some(ClientEvent::Stopped))
            }
            FrontendMessage::CopyFail(reason) => {
                let reason: String = reason.chars().take(200).collect();
                let message = format!("streaming was given up by the client: {reason}");
                self.fail(End::Stopped, &Report::error(SqlState::QUERY_CANCELED, message));
                Ok(Some(ClientEvent::Stopped))
            }
            FrontendMessage::Terminate => {
                self.finish(End::Goodbye, false);
                Ok(Some(ClientEvent::Stopped))
            }
            _ => {
                let error = ClientError::Unexpected;
                self.fail(End::Violation, &Report::fatal(SqlState::PROTOCOL_VIOLATION, error.to_string()));
                Err(error)
            }
        }
    }

    /// Takes what [`Output::Read`] asked for: at least one byte, at most `max`. Bytes for a session that has ended
    /// meanwhile are dropped.
    ///
    /// # Errors
    /// Bytes nobody asked for, or none.
    pub fn handle_read(&mut self, from: Lsn, bytes: Bytes) -> Result<(), ReadError> {
        if self.state != State::Streaming {
            return Ok(());
        }
        match self.reading {
            Some((wanted, max)) if wanted == from && (1..=max).contains(&bytes.len()) => {
                self.reading = None;
                self.data = Some(bytes);
                Ok(())
            }
            _ => Err(ReadError { from, length: bytes.len() }),
        }
    }

    /// Time has come to [`Sender::poll_timeout`]; calling it earlier does no harm.
    pub fn handle_timeout(&mut self, now: Instant) {
        if !matches!(self.state, State::Streaming | State::Closing) {
            return;
        }
        if now >= self.last_heard + self.options.timeout {
            // Whoever does not read would not read an error either.
            self.control.clear();
            return self.finish(End::Silent, false);
        }
        if self.state == State::Streaming {
            let is_ping_due = !self.pinged && now >= self.ping_at();
            self.pinged |= is_ping_due;
            if is_ping_due || now >= self.last_sent + self.options.keepalive {
                self.keepalive = Some(true);
            }
        }
    }

    /// When [`Sender::handle_timeout`] must be called; `None` once the session is over.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let silent = self.last_heard + self.options.timeout;
        match self.state {
            State::Finished { .. } | State::Over => None,
            State::Closing => Some(silent),
            State::Streaming => {
                let ping = (!self.pinged).then(|| self.ping_at());
                let idle = self.keepalive.is_none().then(|| self.last_sent + self.options.keepalive);
                [Some(silent), ping, idle].into_iter().flatten().min()
            }
        }
    }

    /// What to do next; call until it gives `None`, after every other call. `clock` is the wall clock that messages carry.
    /// When the socket is full, poll later: nothing piles up here.
    pub fn poll(&mut self, now: Instant, clock: PgTime) -> Option<Output> {
        if self.control.is_empty() && self.state == State::Streaming && self.is_at_end_of_tli() {
            encode::copy_done(&mut self.control);
            self.drop_wal();
            self.state = State::Closing;
        }
        if !self.control.is_empty() {
            let messages = self.control.split().freeze();
            return Some(self.send(now, messages, Bytes::new()));
        }
        match self.state {
            State::Finished { end, is_reusable } => {
                self.state = State::Over;
                Some(Output::Finished { end, is_reusable })
            }
            State::Closing | State::Over => None,
            State::Streaming => self.stream(now, clock),
        }
    }

    fn stream(&mut self, now: Instant, clock: PgTime) -> Option<Output> {
        if let Some(reply_requested) = self.keepalive.take() {
            let mut message = BytesMut::new();
            Keepalive { end: self.position, time: clock, reply_requested }.encode(&mut message);
            return Some(self.send(now, message.freeze(), Bytes::new()));
        }
        let bound = self.bound();
        let rest = bound.bytes_since(self.position);
        if let Some(mut data) = self.data.take() {
            // The limit may have moved back since the read was asked for.
            data.truncate(usize::try_from(rest).unwrap_or(usize::MAX));
            if !data.is_empty() {
                let header = xlog_data_frame(self.position, bound, clock, data.len());
                self.position = self.position.saturating_add(data.len() as u64);
                assert!(self.position <= self.limit, "WAL beyond the limit must never leave");
                return Some(self.send(now, Bytes::copy_from_slice(&header), data));
            }
        }
        if self.reading.is_some() || rest == 0 {
            return None;
        }
        let max = self.chunk(bound);
        self.reading = Some((self.position, max));
        Some(Output::Read { from: self.position, max })
    }

    /// The size of the next chunk: to the bound, the end of the segment or the maximum, whichever comes first; unless the
    /// bound is reached it ends with a page.
    fn chunk(&self, bound: Lsn) -> usize {
        let size = self.options.segment_size;
        let segment_end = size.start_of_segment_at(self.position).saturating_add(size.bytes());
        let chunk_max = (self.options.chunk_max as u64).max(WAL_PAGE_SIZE);
        let mut end = bound.min(segment_end).min(self.position.saturating_add(chunk_max));
        if end < bound {
            let page = end.align_down(WAL_PAGE_SIZE);
            end = if page > self.position { page } else { end };
        }
        usize::try_from(end.bytes_since(self.position)).unwrap_or(self.options.chunk_max)
    }

    /// One past the last byte this reader may have now.
    fn bound(&self) -> Lsn {
        self.options.end_of_tli.map_or(self.limit, |next| self.limit.min(next.start))
    }

    fn is_at_end_of_tli(&self) -> bool {
        self.options.end_of_tli.is_some_and(|next| self.position >= next.start)
    }

    fn ping_at(&self) -> Instant {
        self.last_heard + self.options.timeout / 2
    }

    fn send(&mut self, now: Instant, head: Bytes, payload: Bytes) -> Output {
        self.last_sent = now;
        Output::Send { head, payload }
    }

    fn drop_wal(&mut self) {
        self.data = None;
        self.reading = None;
        self.keepalive = None;
    }

    fn finish(&mut self, end: End, is_reusable: bool) {
        self.drop_wal();
        self.state = State::Finished { end, is_reusable };
    }

    /// The good ending, once both sides have said CopyDone.
    fn complete(&mut self, end: End) {
        let next = self.options.end_of_tli.map(|next| (next.tli, next.start));
        answers::end_of_stream(next, &mut self.control);
        encode::ready_for_query(&mut self.control);
        self.finish(end, true);
    }

    fn fail(&mut self, end: End, report: &Report) {
        encode::error_response(report, &mut self.control);
        let is_reusable = !report.ends_connection();
        if is_reusable {
            encode::ready_for_query(&mut self.control);
        }
        self.finish(end, is_reusable);
    }
}

#[cfg(test)]
#[path = "sender_test.rs"]
mod tests;
