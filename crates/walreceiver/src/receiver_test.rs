//! Tests: every way a stream ends, contiguity, liveness, and that no position is invented.

use super::*;
use bytes::BytesMut;
use pq_proto::backend::encode::{self, Column};
use pq_proto::replication::{Keepalive, StandbyStatus, xlog_data_frame};
use pq_proto::{Limits, SqlState, backend};
use proptest::prelude::*;

const CLOCK: PgTime = PgTime(42);
const START: Lsn = Lsn(0x300_0000);

struct Session {
    receiver: Receiver,
    now: Instant,
    events: Vec<Event>,
}

impl Session {
    fn new() -> Session {
        let now = Instant::now();
        let start = StartReplication::new(START, Tli(1));
        Session { receiver: Receiver::new(start, Timeouts::default(), now), now, events: Vec::new() }
    }

    fn streaming() -> Session {
        let mut session = Session::new();
        session.get(encode::copy_both_response).unwrap();
        assert_eq!(session.events, [Event::Started]);
        session.events.clear();
        session
    }

    /// Feeds the messages that `fill` writes, as they come off the wire.
    fn get(&mut self, fill: impl FnOnce(&mut BytesMut)) -> Result<(), Error> {
        let mut wire = BytesMut::new();
        fill(&mut wire);
        while let Some(message) = backend::decode(&mut wire, Limits::CLIENT).unwrap() {
            self.events.extend(self.receiver.handle_message(self.now, message)?);
        }
        Ok(())
    }

    fn wal(&mut self, begin: Lsn, length: usize) -> Result<(), Error> {
        self.get(|b| {
            b.extend_from_slice(&xlog_data_frame(begin, Lsn(u64::MAX), CLOCK, length));
            b.resize(b.len() + length, 7);
        })
    }

    fn sent(&mut self) -> Vec<Transmit> {
        std::iter::from_fn(|| self.receiver.poll_transmit(self.now, CLOCK)).collect()
    }

    fn pass(&mut self, seconds: u64) -> Result<(), Error> {
        self.now += Duration::from_secs(seconds);
        self.receiver.handle_timeout(self.now)
    }
}

fn next_tli_row(tli: &str, start: &str, buffer: &mut BytesMut) {
    encode::row_description(&[Column::int8("next_tli"), Column::text("next_tli_startpos")], buffer);
    encode::data_row(&[Some(tli.as_bytes()), Some(start.as_bytes())], buffer);
}

fn completions(buffer: &mut BytesMut) {
    encode::command_complete("START_STREAMING", buffer);
    encode::command_complete("START_REPLICATION", buffer);
    encode::ready_for_query(buffer);
}

fn status(position: u64, reply_requested: bool) -> Transmit {
    let at = Lsn(position);
    Transmit::Status(StandbyStatus { write: at, flush: at, apply: at, time: CLOCK, reply_requested })
}

#[test]
fn we_stop() {
    let mut session = Session::streaming();
    session.receiver.stop();
    assert_eq!(session.sent(), [Transmit::CopyDone]);
    session.wal(START, 10).unwrap();
    session.get(encode::copy_done).unwrap();
    session.get(completions).unwrap();
    assert_eq!(session.events.len(), 2);
    assert_eq!(session.events[1], Event::Ended(End::Stopped(None)));
    assert!(session.receiver.is_ready() && session.sent().is_empty());
    assert_eq!(session.receiver.poll_timeout(), None);
}

#[test]
fn the_tli_ends() {
    let mut session = Session::streaming();
    session.wal(START, 100).unwrap();
    session.get(encode::copy_done).unwrap();
    session.receiver.report(Lsn(1), Lsn(1), Lsn(1));
    assert_eq!(session.sent(), [Transmit::CopyDone], "no status after the server's CopyDone");
    session.get(|b| next_tli_row("5", "0/3000040", b)).unwrap();
    assert_eq!(session.events.len(), 1);
    session.get(completions).unwrap();
    let next = NextTli { tli: Tli(5), start: Lsn(0x300_0040) };
    assert_eq!(session.events[1], Event::EndOfTli(next), "below what was received, and not the next number");
    assert!(session.receiver.is_ready());
}

#[test]
fn the_start_is_the_end_of_its_tli() {
    let mut session = Session::new();
    session.get(|b| next_tli_row("2", "0/3000000", b)).unwrap();
    session.get(completions).unwrap();
    assert_eq!(session.events, [Event::EndOfTli(NextTli { tli: Tli(2), start: START })]);
    assert!(session.sent().is_empty(), "there was no copy to finish");
}

#[test]
fn the_server_shuts_down() {
    let mut session = Session::streaming();
    session.get(|b| encode::command_complete("COPY 0", b)).unwrap();
    assert_eq!(session.events, [Event::Ended(End::Shutdown)]);
    assert_eq!(session.receiver.handle_eof(), None);
}

#[test]
fn errors_before_and_during_the_copy() {
    let report = Report::error(SqlState::UNDEFINED_FILE, "requested WAL segment X has already been removed");
    for mut session in [Session::new(), Session::streaming()] {
        session.get(|b| encode::error_response(&report, b)).unwrap();
        assert_eq!(session.events, [Event::Ended(End::Error(report.clone()))]);
        assert!(!session.receiver.is_ready());
        session.get(encode::ready_for_query).unwrap();
        assert!(session.receiver.is_ready());
    }
}

#[test]
fn the_connection_breaks() {
    let mut session = Session::streaming();
    assert_eq!(session.receiver.handle_eof(), Some(Event::Ended(End::Closed)));
    assert_eq!(session.receiver.handle_eof(), None);
}

#[test]
fn stopping_on_a_tli_that_ended_tells_what_follows() {
    let mut session = Session::streaming();
    session.receiver.stop();
    assert_eq!(session.sent(), [Transmit::CopyDone]);
    session.get(encode::copy_done).unwrap();
    session.get(|b| next_tli_row("2", "0/3000000", b)).unwrap();
    session.get(completions).unwrap();
    let next = NextTli { tli: Tli(2), start: START };
    assert_eq!(session.events, [Event::Ended(End::Stopped(Some(next)))]);
}

#[test]
fn gaps_overlaps_and_overflow() {
    let mut session = Session::streaming();
    session.wal(START, 8).unwrap();
    let expected = Lsn(0x300_0008);
    assert_eq!(session.wal(Lsn(0x300_0009), 1), Err(Error::Gap { expected, got: Lsn(0x300_0009) }));
    assert_eq!(session.wal(START, 9), Err(Error::Overlap { expected, got: START }));
    let start = StartReplication::new(Lsn(u64::MAX - 1), Tli(1));
    session.receiver = Receiver::new(start, Timeouts::default(), session.now);
    session.get(encode::copy_both_response).unwrap();
    assert_eq!(session.wal(Lsn(u64::MAX - 1), 2), Err(Error::Overflow { begin: Lsn(u64::MAX - 1), length: 2 }));
}

#[test]
fn a_bad_row_about_the_next_tli() {
    for (tli, start) in [("0", "0/1"), ("x", "0/1"), ("2", "1"), ("", "")] {
        let mut session = Session::streaming();
        session.get(encode::copy_done).unwrap();
        assert_eq!(session.get(|b| next_tli_row(tli, start, b)), Err(Error::NextTli));
    }
}

#[test]
fn statuses_are_sent_when_due_and_only_then() {
    let mut session = Session::streaming();
    assert!(session.sent().is_empty());
    session.pass(9).unwrap();
    assert!(session.sent().is_empty());
    session.pass(1).unwrap();
    assert_eq!(session.sent(), [status(0, false)], "nothing was reported, so zeros");
    session.receiver.report(Lsn(5), Lsn(5), Lsn(5));
    assert_eq!(session.sent(), [status(5, false)]);
    session.receiver.report(Lsn(5), Lsn(5), Lsn(5));
    assert!(session.sent().is_empty(), "nothing new");
    let keepalive = Keepalive { end: START, time: CLOCK, reply_requested: true };
    session.get(|b| keepalive.encode(b)).unwrap();
    assert_eq!(session.sent(), [status(5, false)]);
    assert_eq!(session.events, [Event::Keepalive { end: START, reply_requested: true }]);
}

#[test]
fn reports_before_the_copy_wait_for_it() {
    let mut session = Session::new();
    session.receiver.report(Lsn(5), Lsn(5), Lsn(5));
    assert!(session.sent().is_empty());
    session.get(encode::copy_both_response).unwrap();
    assert_eq!(session.sent(), [status(5, false)]);
}

#[test]
fn a_silent_server_is_asked_then_given_up() {
    let mut session = Session::streaming();
    session.pass(30).unwrap();
    assert_eq!(session.sent(), [status(0, true)]);
    session.pass(10).unwrap();
    assert_eq!(session.sent(), [status(0, false)], "asked once");
    session.pass(19).unwrap();
    let _ = session.sent();
    let last = session.receiver.poll_timeout().unwrap();
    assert_eq!(last, session.now + Duration::from_secs(1));
    assert_eq!(session.pass(1), Err(Error::Silent(Duration::from_secs(60))));
    assert_eq!(session.receiver.poll_timeout(), None);
}

#[test]
fn a_server_that_never_answers_the_command_is_given_up() {
    let mut session = Session::new();
    assert_eq!(session.pass(60), Err(Error::Silent(Duration::from_secs(60))));
}

#[test]
fn feedback_is_sent_on_change_repeated_and_withdrawn() {
    let mut session = Session::streaming();
    session.receiver.report_feedback(HotStandbyFeedback::default());
    let nothing = Transmit::Feedback(HotStandbyFeedback { time: CLOCK, ..HotStandbyFeedback::default() });
    assert_eq!(session.sent(), [nothing], "the slot may remember what an earlier connection held");
    let feedback = HotStandbyFeedback { xmin: 7, ..HotStandbyFeedback::default() };
    session.receiver.report_feedback(feedback);
    let shown = Transmit::Feedback(HotStandbyFeedback { time: CLOCK, ..feedback });
    assert_eq!(session.sent(), [shown]);
    session.pass(10).unwrap();
    assert_eq!(session.sent(), [status(0, false), shown]);
    session.receiver.report_feedback(HotStandbyFeedback::default());
    let withdrawn = HotStandbyFeedback { time: CLOCK, ..HotStandbyFeedback::default() };
    assert_eq!(session.sent(), [Transmit::Feedback(withdrawn)]);
    session.pass(10).unwrap();
    assert_eq!(session.sent(), [status(0, false)]);
}

#[test]
fn messages_at_the_wrong_time() {
    assert!(Session::new().wal(START, 1).is_err());
    assert!(Session::streaming().get(encode::copy_both_response).is_err());
    assert!(Session::streaming().get(encode::ready_for_query).is_err());
    let unknown = Session::streaming().get(|b| encode::copy_data(b"q", b));
    assert_eq!(unknown, Err(Error::Replication(ReplicationError::Kind('q'))));
}

#[derive(Clone, Debug)]
enum Step {
    Wal(u16),
    Keepalive(bool),
    Report(u64, u64, u64),
    Pass(u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0u16..3000).prop_map(Step::Wal),
        any::<bool>().prop_map(Step::Keepalive),
        any::<(u64, u64, u64)>().prop_map(|(w, f, a)| Step::Report(w, f, a)),
        (0u8..25).prop_map(Step::Pass),
    ]
}

proptest! {
    #[test]
    fn no_position_is_invented_and_no_byte_is_lost(steps in prop::collection::vec(step(), 0..40)) {
        let mut session = Session::streaming();
        let (mut end, mut reported) = (START, (0, 0, 0));
        for step in steps {
            let mut answer_due = false;
            match step {
                Step::Wal(length) => {
                    session.wal(end, usize::from(length)).unwrap();
                    end = end.saturating_add(u64::from(length));
                }
                Step::Keepalive(reply_requested) => {
                    session.get(|b| Keepalive { end, time: CLOCK, reply_requested }.encode(b)).unwrap();
                    answer_due = reply_requested;
                }
                Step::Report(write, flush, apply) => {
                    answer_due = reported != (write, flush, apply);
                    reported = (write, flush, apply);
                    session.receiver.report(Lsn(write), Lsn(flush), Lsn(apply));
                }
                Step::Pass(seconds) => {
                    if session.pass(u64::from(seconds)).is_err() {
                        break;
                    }
                }
            }
            let sent = session.sent();
            prop_assert!(!answer_due || !sent.is_empty());
            for transmit in sent {
                let Transmit::Status(status) = transmit else { panic!("only statuses are due") };
                prop_assert_eq!((status.write.0, status.flush.0, status.apply.0), reported);
            }
            prop_assert_eq!(session.receiver.position(), end);
            prop_assert!(session.receiver.poll_timeout().unwrap() > session.now);
        }
        let received: usize = session.events.iter().map(|e| if let Event::Wal { bytes, .. } = e { bytes.len() } else { 0 }).sum();
        prop_assert_eq!(received as u64, end.bytes_since(START));
    }

    #[test]
    fn no_message_panics_in_any_state(tags in prop::collection::vec((prop::sample::select(b"dDTENRSKZCvWHGcI?".to_vec()), prop::collection::vec(any::<u8>(), 0..40)), 0..12)) {
        let mut session = Session::new();
        for (tag, body) in tags {
            let frame = pq_proto::Frame { tag, body: body.into() };
            if let Ok(message) = BackendMessage::from_frame(frame) {
                let _ = session.receiver.handle_message(session.now, message);
                let _ = session.sent();
            }
        }
    }
}
