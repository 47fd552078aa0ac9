//! Tests: every ending as a client sees it, chunk sizes, liveness, and that nothing beyond the limit ever leaves.

use super::*;
use pq_proto::backend::{self, BackendMessage};
use pq_proto::replication::ServerCopy;
use pq_proto::{Limits, frontend};
use proptest::prelude::*;

const CLOCK: PgTime = PgTime(42);
const START: Lsn = Lsn(0x300_0000);
const PAGE: u64 = WAL_PAGE_SIZE;

fn small() -> SegmentSize {
    SegmentSize::new(1 << 20).unwrap()
}

fn options() -> SenderOptions {
    SenderOptions::new(START, Tli(1), small())
}

/// The byte of WAL at a position, as a disk would give it.
fn byte(position: u64) -> u8 {
    (position % 251) as u8
}

fn wal(from: Lsn, length: usize) -> Bytes {
    (from.0..from.0 + length as u64).map(byte).collect::<Vec<u8>>().into()
}

/// A sender with a disk that answers at once, and what its client received.
struct Session {
    sender: Sender,
    now: Instant,
    wire: BytesMut,
    received: Lsn,
    messages: Vec<String>,
    finished: Option<(End, bool)>,
}

impl Session {
    fn new(options: SenderOptions) -> Session {
        let now = Instant::now();
        let sender = Sender::new(options, now).unwrap();
        let received = options.start;
        Session { sender, now, wire: BytesMut::new(), received, messages: Vec::new(), finished: None }
    }

    fn limited(options: SenderOptions, limit: Lsn) -> Session {
        let mut session = Session::new(options);
        session.sender.set_limit(limit);
        session
    }

    /// Polls until nothing is left to do; the client checks contiguity and bytes. Gives what it received, by name.
    fn run(&mut self) -> Vec<String> {
        while let Some(output) = self.sender.poll(self.now, CLOCK) {
            match output {
                Output::Read { from, max } => self.sender.handle_read(from, wal(from, max)).unwrap(),
                Output::Send { head, payload } => {
                    self.wire.extend_from_slice(&head);
                    self.wire.extend_from_slice(&payload);
                }
                Output::Finished { end, is_reusable } => {
                    assert_eq!(self.finished.replace((end, is_reusable)), None);
                }
            }
        }
        while let Some(message) = backend::decode(&mut self.wire, Limits::CLIENT).unwrap() {
            let shown = match message {
                BackendMessage::CopyData(payload) => match ServerCopy::decode(payload).unwrap() {
                    ServerCopy::XLogData(data) => {
                        assert_eq!(data.begin, self.received);
                        assert_eq!(data.data, wal(data.begin, data.data.len()));
                        self.received = data.begin.saturating_add(data.data.len() as u64);
                        format!("w {}", data.data.len())
                    }
                    ServerCopy::Keepalive(k) => format!("k {} {}", k.end, k.reply_requested),
                },
                BackendMessage::CommandComplete(tag) => tag,
                BackendMessage::ErrorResponse(report) => format!("{} {}", report.code, report.message),
                BackendMessage::DataRow(row) => format!("{} {}", row.text(0).unwrap(), row.text(1).unwrap()),
                other => other.name().to_owned(),
            };
            self.messages.push(shown);
        }
        std::mem::take(&mut self.messages)
    }

    fn client(&mut self, message: FrontendMessage) -> Result<Option<ClientEvent>, ClientError> {
        self.sender.handle_client(self.now, message)
    }

    fn status(&mut self, reply_requested: bool) -> ClientEvent {
        let status = StandbyStatus { write: Lsn(1), reply_requested, ..StandbyStatus::default() };
        let mut buffer = BytesMut::new();
        status.encode(&mut buffer);
        let message = frontend::decode(&mut buffer, Limits::SERVER).unwrap().unwrap();
        self.client(message).unwrap().unwrap()
    }

    fn pass(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
        self.sender.handle_timeout(self.now);
    }
}

const COMPLETIONS: [&str; 3] = ["START_STREAMING", "START_REPLICATION", "ReadyForQuery"];

#[test]
fn chunks_end_with_pages_segments_and_the_limit() {
    let mut options = options();
    options.start = Lsn(START.0 + 100);
    let limit = Lsn(START.0 + (1 << 20) + 3 * PAGE + 77);
    let mut session = Session::limited(options, limit);
    let sizes: Vec<String> = session.run();
    let mut expected = vec!["CopyBothResponse".to_owned(), format!("w {}", (128 << 10) - 100)];
    expected.extend(std::iter::repeat_n(format!("w {}", 128 << 10), 7));
    expected.push(format!("w {}", 3 * PAGE + 77));
    assert_eq!(sizes, expected);
    assert_eq!(session.received, limit);
}

#[test]
fn nothing_is_sent_before_there_is_a_limit_and_waiting_is_quiet() {
    let mut session = Session::new(options());
    assert_eq!(session.run(), ["CopyBothResponse"]);
    session.sender.set_limit(Lsn(START.0 - 5));
    assert!(session.run().is_empty());
    session.sender.set_limit(Lsn(START.0 + 5));
    assert_eq!(session.run(), ["w 5"]);
}

#[test]
fn the_client_stops() {
    let mut session = Session::limited(options(), Lsn(START.0 + 10));
    session.run();
    assert_eq!(session.client(FrontendMessage::CopyDone), Ok(Some(ClientEvent::Stopped)));
    session.sender.set_limit(Lsn(START.0 + 20));
    assert_eq!(session.run(), [&["CopyDone"][..], &COMPLETIONS].concat());
    assert_eq!(session.finished, Some((End::Stopped, true)));
    assert_eq!(session.sender.poll_timeout(), None);
}

#[test]
fn the_tli_has_ended() {
    let mut options = options();
    options.end_of_tli = Some(NextTli { tli: Tli(3), start: Lsn(START.0 + 10) });
    let mut session = Session::limited(options, Lsn(START.0 + 5));
    assert_eq!(session.run(), ["CopyBothResponse", "w 5"], "the limit comes first");
    session.sender.set_limit(Lsn(START.0 + 500));
    assert_eq!(session.run(), ["w 5", "CopyDone"]);
    session.status(true);
    assert!(session.run().is_empty(), "no keepalive after CopyDone");
    session.client(FrontendMessage::CopyDone).unwrap();
    assert_eq!(session.run(), [&["RowDescription", "3 0/300000A"][..], &COMPLETIONS].concat());
    assert_eq!(session.finished, Some((End::EndOfTli, true)));
}

#[test]
fn the_tli_ends_under_a_live_session_that_read_beyond() {
    let mut session = Session::limited(options(), Lsn(START.0 + 100));
    session.run();
    session.sender.end_of_tli(NextTli { tli: Tli(2), start: Lsn(START.0 + 40) });
    assert_eq!(session.run(), ["CopyDone"]);
    session.client(FrontendMessage::CopyDone).unwrap();
    assert_eq!(session.run()[1], "2 0/3000028");
}

#[test]
fn a_start_at_and_beyond_the_end_of_its_tli() {
    let mut options = options();
    options.end_of_tli = Some(NextTli { tli: Tli(2), start: START });
    let mut session = Session::limited(options, Lsn::MAX);
    assert_eq!(session.run(), [&["RowDescription", "2 0/3000000"][..], &COMPLETIONS].concat());
    assert_eq!(session.finished, Some((End::EndOfTli, true)));
    options.end_of_tli = Some(NextTli { tli: Tli(2), start: Lsn(START.0 - 1) });
    let report = Sender::new(options, Instant::now()).unwrap_err();
    assert_eq!(report.message, "requested starting point 0/3000000 on timeline 1 is not in this server's history");
}

#[test]
fn the_owner_ends_it() {
    let removed = Finish::Removed("000000010000000000000003".into());
    let term = Finish::TermChanged { requested: Term(3), now: Term(4) };
    let fatal = Finish::Error(Report::fatal(SqlState::INTERNAL_ERROR, "disk"));
    for (finish, last, is_reusable) in [
        (removed, "58P01 requested WAL segment 000000010000000000000003 has already been removed", true),
        (term, "XX000 term changed: requested 3, now 4", true),
        (Finish::Gone, "42704 this cluster is no longer on this safekeeper", true),
        (fatal, "XX000 disk", false),
        (Finish::CaughtUp("enough".into()), "00000 enough", false),
        (Finish::Shutdown, "COPY 0", false),
    ] {
        let mut session = Session::new(options());
        session.sender.terminate(finish);
        session.sender.set_limit(Lsn::MAX);
        let mut expected = vec!["CopyBothResponse", last];
        expected.extend(is_reusable.then_some("ReadyForQuery"));
        assert_eq!(session.run(), expected);
        assert_eq!(session.finished, Some((End::Terminated, is_reusable)));
        session.sender.terminate(Finish::Gone);
        assert!(session.run().is_empty(), "it ends once");
    }
}

#[test]
fn wal_that_was_read_is_dropped_at_the_end() {
    let mut session = Session::limited(options(), Lsn(START.0 + 10));
    let _ = session.sender.poll(session.now, CLOCK);
    let read = session.sender.poll(session.now, CLOCK);
    assert_eq!(read, Some(Output::Read { from: START, max: 10 }));
    assert_eq!(session.sender.poll(session.now, CLOCK), None, "one read at a time");
    session.sender.handle_read(START, wal(START, 10)).unwrap();
    session.sender.terminate(Finish::Shutdown);
    assert_eq!(session.run(), ["COPY 0"]);
    session.sender.handle_read(START, wal(START, 10)).unwrap();
    assert!(session.run().is_empty());
}

#[test]
fn a_limit_that_moves_back_cuts_what_was_read() {
    let mut session = Session::limited(options(), Lsn(START.0 + 100));
    let _ = session.sender.poll(session.now, CLOCK);
    let _ = session.sender.poll(session.now, CLOCK);
    session.sender.handle_read(START, wal(START, 100)).unwrap();
    session.sender.set_limit(Lsn(START.0 + 30));
    assert_eq!(session.run(), ["w 30"]);
    session.sender.set_limit(Lsn(START.0 + 50));
    assert_eq!(session.run(), ["w 20"]);
}

#[test]
fn reads_nobody_asked_for_are_refused() {
    let mut session = Session::limited(options(), Lsn(START.0 + 10));
    assert!(session.sender.handle_read(START, wal(START, 1)).is_err());
    let _ = session.sender.poll(session.now, CLOCK);
    let _ = session.sender.poll(session.now, CLOCK);
    assert!(session.sender.handle_read(START, wal(START, 11)).is_err());
    assert!(session.sender.handle_read(START, Bytes::new()).is_err());
    assert!(session.sender.handle_read(Lsn(START.0 + 1), wal(START, 1)).is_err());
    session.sender.handle_read(START, wal(START, 4)).unwrap();
    assert_eq!(session.run(), ["w 4", "w 6"], "fewer bytes than asked for are fine");
}

#[test]
fn keepalives() {
    let mut session = Session::limited(options(), START);
    session.run();
    session.pass(4);
    assert!(session.run().is_empty());
    session.pass(1);
    assert_eq!(session.run(), ["k 0/3000000 true"]);
    assert!(matches!(session.status(true), ClientEvent::Status(_)));
    assert_eq!(session.run(), ["k 0/3000000 false"]);
    session.status(false);
    assert!(session.run().is_empty());
    assert_eq!(session.sender.poll_timeout(), Some(session.now + Duration::from_secs(5)));
}

#[test]
fn a_silent_client_is_given_up_even_while_it_is_sent_to() {
    let mut session = Session::limited(options(), START);
    session.run();
    for second in 1..60 {
        session.pass(1);
        session.sender.set_limit(Lsn(START.0 + second));
        let sent = session.run();
        assert!(sent.contains(&"w 1".to_owned()));
        assert_eq!(sent.len() > 1, second == 30, "asked once, after half of the time: {sent:?}");
        assert!(session.sender.poll_timeout().unwrap() > session.now);
    }
    session.pass(1);
    assert!(session.run().is_empty());
    assert_eq!(session.finished, Some((End::Silent, false)));
}

#[test]
fn clients_that_break_the_protocol_or_leave() {
    for (message, shown, end, reusable) in [
        (FrontendMessage::CopyData(Bytes::from_static(b"q")), Some("08P01"), End::Violation, false),
        (FrontendMessage::CopyData(Bytes::new()), Some("08P01"), End::Violation, false),
        (FrontendMessage::Query("SELECT 1".into()), Some("08P01"), End::Violation, false),
        (FrontendMessage::CopyFail("tired".into()), Some("57014"), End::Stopped, true),
        (FrontendMessage::Terminate, None, End::Goodbye, false),
    ] {
        let mut session = Session::limited(options(), Lsn(START.0 + 10));
        session.run();
        let result = session.client(message);
        assert_eq!(result.is_err(), end == End::Violation);
        let sent = session.run();
        assert_eq!(sent.first().map(|text| &text[..5]), shown);
        assert_eq!(sent.last().map(String::as_str) == Some("ReadyForQuery"), reusable);
        assert_eq!(session.finished, Some((end, reusable)));
        assert_eq!(session.client(FrontendMessage::CopyDone), Ok(None));
    }
}

#[derive(Clone, Debug)]
enum Step {
    Limit(u64),
    Read(u16),
    Poll,
    Pass(u8),
    Status(bool),
    EndOfTli(u64),
    CopyDone,
    Terminate,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0u64..3 << 20).prop_map(Step::Limit),
        6 => any::<u16>().prop_map(Step::Read),
        12 => Just(Step::Poll),
        2 => (0u8..20).prop_map(Step::Pass),
        2 => any::<bool>().prop_map(Step::Status),
        1 => (0u64..3 << 20).prop_map(Step::EndOfTli),
        1 => Just(Step::CopyDone),
        1 => Just(Step::Terminate),
    ]
}

proptest! {
    #[test]
    fn nothing_beyond_the_limit_and_nothing_after_the_end(offset in 0u64..30_000, steps in prop::collection::vec(step(), 0..80)) {
        let mut options = options();
        options.start = Lsn(START.0 + offset);
        let mut session = Session::new(options);
        let (mut limit, mut read, mut is_over, mut is_done) = (Lsn(0), None, false, false);
        for step in steps {
            match step {
                Step::Limit(more) => {
                    limit = Lsn(START.0 + more);
                    session.sender.set_limit(limit);
                }
                Step::Read(length) => if let Some((from, max)) = read.take() {
                    let length = usize::from(length).clamp(1, max);
                    session.sender.handle_read(from, wal(from, length)).unwrap();
                },
                Step::Pass(seconds) => session.pass(u64::from(seconds)),
                Step::Status(reply) => {
                    let status = StandbyStatus { reply_requested: reply, ..StandbyStatus::default() };
                    let mut buffer = BytesMut::new();
                    status.encode(&mut buffer);
                    let message = frontend::decode(&mut buffer, Limits::SERVER).unwrap().unwrap();
                    session.client(message).unwrap();
                }
                Step::EndOfTli(at) => {
                    let next = NextTli { tli: Tli(2), start: Lsn(START.0 + at) };
                    session.sender.end_of_tli(next);
                }
                Step::CopyDone => {
                    session.client(FrontendMessage::CopyDone).unwrap();
                    is_over = true;
                }
                Step::Terminate => {
                    session.sender.terminate(Finish::Gone);
                    is_over = true;
                }
                Step::Poll => {
                    let position = session.sender.position();
                    match session.sender.poll(session.now, CLOCK) {
                        Some(Output::Read { from, max }) => {
                            prop_assert!(read.is_none() && !is_over && !is_done);
                            let end = from.0 + max as u64;
                            prop_assert!(from == position && max > 0 && max <= 128 << 10 && end <= limit.0);
                            prop_assert_eq!(from.0 >> 20, (end - 1) >> 20, "a chunk lies in one segment");
                            read = Some((from, max));
                        }
                        Some(Output::Send { head, payload }) => {
                            prop_assert!(payload.is_empty() || !is_over);
                            prop_assert!(session.sender.position() == position || session.sender.position() <= limit);
                            session.wire.extend_from_slice(&head);
                            session.wire.extend_from_slice(&payload);
                        }
                        Some(Output::Finished { .. }) => {
                            prop_assert!(!is_done);
                            is_done = true;
                        }
                        None => prop_assert!(!is_done || session.sender.poll_timeout().is_none()),
                    }
                    // A read is forgotten by the sender once it stops streaming.
                    if !matches!(session.sender.state, State::Streaming) {
                        read = None;
                    }
                }
            }
        }
        session.finished = None;
        session.run();
        prop_assert_eq!(session.received, session.sender.position());
    }

    #[test]
    fn a_patient_client_receives_everything(offset in 0u64..30_000, length in 1u64..300_000, chunk in 1usize..100_000) {
        let mut options = options();
        options.start = Lsn(START.0 + offset);
        options.chunk_max = chunk;
        let mut session = Session::limited(options, Lsn(START.0 + offset + length));
        session.run();
        prop_assert_eq!(session.received, Lsn(START.0 + offset + length));
    }
}
