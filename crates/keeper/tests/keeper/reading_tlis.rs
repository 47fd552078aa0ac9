//! Readers where TLIs meet: what is shown when, where streams end, and that a segment start on a new TLI can be read.

use crate::rig::{Rig, START, wal};
use crate::switches::{at_the_switch, promoted};
use bytes::BytesMut;
use consensus::SessionId;
use keeper::{ReaderId, ReaderOptions};
use lsn::{Lsn, Path, Term, Tli};
use pq_proto::Limits;
use pq_proto::backend::{self, BackendMessage};
use pq_proto::command::StartReplication;
use pq_proto::frontend::FrontendMessage;
use pq_proto::replication::ServerCopy;
use wal_format::build::WalBuilder;

struct Log {
    rig: Rig,
    wal: WalBuilder,
    session: SessionId,
    switch: Lsn,
    end: Lsn,
}

impl Log {
    /// A log on TLI 1 that goes on on TLI 2, committed up to the switch.
    fn new() -> Log {
        let (rig, wal, path) = at_the_switch();
        Log::going_on(rig, wal, &path)
    }

    /// The same with whole segments of TLI 1 before the switch.
    fn with_a_late_switch() -> Log {
        let mut rig = Rig::new();
        let session = rig.lead_from_nothing(1);
        let mut wal = wal();
        let switch = wal.fill_to(Lsn(START.0 + (2 << 20) + 5000), 4000);
        append(&mut rig, &wal, session, 1, START);
        wal.set_tli(Tli(2));
        let path = format!("1:0/0:0;2:{switch}:AB").parse().unwrap();
        Log::going_on(rig, wal, &path)
    }

    fn going_on(mut rig: Rig, mut wal: WalBuilder, path: &Path) -> Log {
        let switch = wal.end();
        let session = promoted(&mut rig, path);
        let end = wal.fill_to(Lsn(switch.0 + (2 << 20)), 4000);
        append(&mut rig, &wal, session, 2, switch);
        Log { rig, wal, session, switch, end }
    }

    fn commit(&mut self, to: Lsn) {
        self.rig.append(self.session, 2, self.end, &[], to);
        self.rig.settle();
    }

    fn start(&mut self, reader: u64, from: Lsn, tli: Option<u32>, term: Option<u64>) -> Result<(), String> {
        let mut command = StartReplication::new(from, Tli(1));
        (command.tli, command.term) = (tli.map(Tli), term.map(Term));
        let (peer, application_name) = ("test".to_owned(), "reader".to_owned());
        let options = ReaderOptions { command, peer, application_name, timeout: None, call_back: None };
        let started = self.rig.keeper.connect_reader(self.rig.now, ReaderId(reader), options);
        self.rig.settle();
        started.map_err(|report| report.message)
    }

    fn copy_done(&mut self, reader: u64) {
        self.rig.keeper.handle_reader(self.rig.now, ReaderId(reader), FrontendMessage::CopyDone);
        self.rig.settle();
    }

    /// What a reader was told: the WAL from `from` on, and everything else in words.
    fn told(&mut self, reader: u64, from: Lsn) -> (Lsn, Vec<String>) {
        let mut wire = BytesMut::from(&self.rig.told.remove(&ReaderId(reader)).unwrap_or_default()[..]);
        let (mut at, mut words) = (from, Vec::new());
        while let Some(message) = backend::decode(&mut wire, Limits::CLIENT).unwrap() {
            match message {
                BackendMessage::CopyData(payload) => {
                    let ServerCopy::XLogData(data) = ServerCopy::decode(payload).unwrap() else { continue };
                    assert_eq!(data.begin, at, "no gap, no overlap");
                    let end = Lsn(at.0 + data.data.len() as u64);
                    assert!(data.data == self.wal.slice(at, end), "other bytes between {at} and {end}");
                    at = end;
                }
                BackendMessage::CommandComplete(tag) => words.push(tag),
                BackendMessage::ErrorResponse(report) => words.push(report.message),
                BackendMessage::DataRow(row) => {
                    words.push(format!("{} {}", row.text(0).unwrap(), row.text(1).unwrap()));
                }
                other => words.push(other.name().to_owned()),
            }
        }
        (at, words)
    }
}

/// Appends everything from here on, in pieces.
fn append(rig: &mut Rig, wal: &WalBuilder, session: SessionId, term: u64, from: Lsn) {
    let (mut at, end) = (from, wal.end());
    while at < end {
        let to = end.min(Lsn(at.0 + 100_000));
        rig.append(session, term, at, wal.slice(at, to), Lsn(0));
        rig.settle();
        at = to;
    }
    assert!(rig.closed.is_empty(), "{:?}", rig.closed);
}

fn ending(switch: Lsn) -> Vec<String> {
    let row = format!("2 {switch}");
    ["RowDescription", &row, "START_STREAMING", "START_REPLICATION", "ReadyForQuery"].map(str::to_owned).to_vec()
}

#[test]
fn a_live_reader_is_told_of_the_switch_once_it_is_public() {
    let mut log = Log::new();
    let (switch, end) = (log.switch, log.end);
    log.commit(switch);
    log.start(1, START, Some(1), None).unwrap();
    assert_eq!(log.told(1, START), (switch, vec!["CopyBothResponse".to_owned()]));
    let refused = log.start(2, START, Some(2), None).unwrap_err();
    assert_eq!(refused, "requested timeline 2 is not in this server's history");
    assert_eq!(log.told(1, switch), (switch, vec![]), "nothing on TLI 2 is committed");
    log.commit(Lsn(switch.0 + 1));
    assert_eq!(log.told(1, switch), (switch, vec!["CopyDone".to_owned()]));
    log.commit(end);
    log.copy_done(1);
    assert_eq!(log.told(1, switch), (switch, ending(switch)));
    // Then what every stock client does: on, on the new TLI, from the start of the segment.
    log.start(3, START, Some(2), None).unwrap();
    assert_eq!(log.told(3, START).0, end);
}

#[test]
fn starts_around_the_switch() {
    let mut log = Log::new();
    let (switch, end) = (log.switch, log.end);
    log.commit(end);
    log.start(1, switch, Some(1), None).unwrap();
    assert_eq!(log.told(1, switch), (switch, ending(switch)), "no stream, straight to what follows");
    let refused = log.start(2, Lsn(switch.0 + 1), Some(1), None).unwrap_err();
    assert!(refused.contains("on timeline 1 is not in this server's history"), "{refused}");
    log.start(3, Lsn(switch.0 - 10), Some(1), None).unwrap();
    let (at, words) = log.told(3, Lsn(switch.0 - 10));
    assert_eq!((at, words.last().unwrap().as_str()), (switch, "CopyDone"));
    log.start(4, switch, None, None).unwrap();
    assert_eq!(log.told(4, switch).0, end, "without a TLI: the newest");
    log.start(5, Lsn(START.0 - 1), Some(2), None).unwrap();
    let (_, words) = log.told(5, Lsn(START.0 - 1));
    assert_eq!(words[1], "requested WAL segment 00000002000000000000000F has already been removed");
}

#[test]
fn segments_before_a_tli_never_have_its_name() {
    let mut log = Log::with_a_late_switch();
    let (switch, end) = (log.switch, log.end);
    log.commit(end);
    log.start(1, START, Some(2), None).unwrap();
    let (at, words) = log.told(1, START);
    assert_eq!(
        (at, words[1].as_str()),
        (START, "requested WAL segment 000000020000000000000010 has already been removed")
    );
    // The segment it begins in is whole, and the bytes before it are its parent's.
    let segment = Lsn(switch.0 >> 20 << 20);
    log.start(2, segment, Some(2), None).unwrap();
    assert_eq!(log.told(2, segment).0, end);
    log.start(3, START, Some(1), None).unwrap();
    assert_eq!(log.told(3, START).0, switch);
}

#[test]
fn a_reader_that_names_the_term_reads_on_across_what_is_not_public() {
    let mut log = Log::new();
    let (switch, end) = (log.switch, log.end);
    log.start(1, START, None, Some(2)).unwrap();
    assert_eq!(log.told(1, START).0, end);
    log.start(2, START, Some(2), Some(2)).unwrap();
    assert_eq!(log.told(2, START).0, end);
    log.start(3, START, Some(1), Some(2)).unwrap();
    let (at, words) = log.told(3, START);
    assert_eq!((at, words.last().unwrap().as_str()), (switch, "CopyDone"));
}

#[test]
fn a_safekeeper_that_is_behind_sends_its_readers_elsewhere_and_takes_them_back() {
    let mut log = Log::new();
    log.start(1, START, Some(1), None).unwrap();
    log.start(2, START, None, Some(2)).unwrap();
    let reason = "another safekeeper is ahead of this one".to_owned();
    log.rig.keeper.refuse_readers(log.rig.now, Some(reason.clone()));
    log.rig.settle();
    assert_eq!(log.told(1, START).1.last(), Some(&reason));
    assert_eq!(log.rig.gone, [ReaderId(1)], "who reads a term's log stays");
    assert_eq!(log.rig.keeper.reader_refusal(), Some(reason.as_str()));
    assert_eq!(log.start(3, START, Some(1), None), Err(reason));
    log.rig.keeper.refuse_readers(log.rig.now, None);
    log.start(4, START, Some(1), None).unwrap();
}
