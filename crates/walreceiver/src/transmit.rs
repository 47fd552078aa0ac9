//! [`Transmit`]: what a receiver wants sent, and [`Outbox`]: what is due.
//!
//! Invariant: a position leaves only as it was passed to [`Outbox::report`]; before that it is 0.

use bytes::BytesMut;
use lsn::Lsn;
use pq_proto::frontend;
use pq_proto::replication::{HotStandbyFeedback, PgTime, StandbyStatus};
use std::time::{Duration, Instant};

/// A message for the server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum Transmit {
    /// How far we are.
    Status(StandbyStatus),
    /// Which transactions must be kept.
    Feedback(HotStandbyFeedback),
    /// Our side of the COPY is finished.
    CopyDone,
}

impl Transmit {
    /// Appends the message, ready for the socket.
    pub fn encode(&self, buffer: &mut BytesMut) {
        match self {
            Transmit::Status(status) => status.encode(buffer),
            Transmit::Feedback(feedback) => feedback.encode(buffer),
            Transmit::CopyDone => frontend::encode_copy_done(buffer),
        }
    }
}

/// What is due.
#[derive(Debug)]
pub(crate) struct Outbox {
    status: StandbyStatus,
    feedback: Option<HotStandbyFeedback>,
    status_due: bool,
    feedback_due: bool,
    interval: Duration,
    next_status: Instant,
}

impl Outbox {
    pub(crate) fn new(interval: Duration, now: Instant) -> Outbox {
        Outbox {
            status: StandbyStatus::default(),
            feedback: None,
            status_due: false,
            feedback_due: false,
            interval,
            next_status: now + interval,
        }
    }

    pub(crate) fn report(&mut self, write: Lsn, flush: Lsn, apply: Lsn) {
        let status = StandbyStatus { write, flush, apply, ..self.status };
        self.status_due |= status != self.status;
        self.status = status;
    }

    pub(crate) fn report_feedback(&mut self, feedback: HotStandbyFeedback) {
        let feedback = HotStandbyFeedback { time: PgTime::default(), ..feedback };
        // The first one is sent even if it says "nothing": a slot may remember what an earlier connection said.
        self.feedback_due |= Some(feedback) != self.feedback;
        self.feedback = Some(feedback);
    }

    /// The server asked for a status.
    pub(crate) fn answer(&mut self) {
        self.status_due = true;
    }

    /// Ask the server for a sign of life.
    pub(crate) fn ping(&mut self) {
        self.status_due = true;
        self.status.reply_requested = true;
    }

    pub(crate) fn next_status(&self) -> Instant {
        self.next_status
    }

    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        if now >= self.next_status {
            self.status_due = true;
            self.feedback_due |= self.feedback.is_some_and(|f| f != HotStandbyFeedback::default());
        }
    }

    pub(crate) fn poll(&mut self, now: Instant, clock: PgTime) -> Option<Transmit> {
        // An owner that holds the stream back may poll without ever being woken by a time-out.
        self.handle_timeout(now);
        if std::mem::take(&mut self.status_due) {
            self.next_status = now + self.interval;
            let status = StandbyStatus { time: clock, ..self.status };
            self.status.reply_requested = false;
            return Some(Transmit::Status(status));
        }
        let feedback = self.feedback.filter(|_| std::mem::take(&mut self.feedback_due))?;
        Some(Transmit::Feedback(HotStandbyFeedback { time: clock, ..feedback }))
    }
}
