//! Readers of a whole keeper: how far they may read, and what becomes of what they say.

use crate::rig::{Rig, START, wal};
use bytes::{Bytes, BytesMut};
use keeper::{ReaderId, ReaderOptions, SlotKind};
use lsn::{Lsn, Term, Tli};
use pq_proto::command::StartReplication;
use pq_proto::frontend::FrontendMessage;
use pq_proto::replication::{HotStandbyFeedback, encode_pageserver_feedback};
use std::time::Duration;
use wal_format::build::WalBuilder;

fn read(rig: &mut Rig, reader: u64, term: Option<u64>) -> Result<(), String> {
    let command = StartReplication { term: term.map(Term), ..StartReplication::new(START, Tli(1)) };
    let options = ReaderOptions {
        command,
        peer: "test".to_owned(),
        application_name: "reader".to_owned(),
        timeout: None,
        call_back: None,
    };
    let result = rig.keeper.connect_reader(rig.now, ReaderId(reader), options);
    rig.carry_out();
    result.map_err(|report| report.message)
}

fn say(rig: &mut Rig, reader: u64, fill: impl FnOnce(&mut BytesMut)) {
    let mut payload = BytesMut::new();
    fill(&mut payload);
    // Encoders make whole messages; a keeper is given the payload of CopyData.
    let payload = payload.freeze().slice(5..);
    rig.keeper.handle_reader(rig.now, ReaderId(reader), FrontendMessage::CopyData(payload));
    rig.settle();
}

#[test]
fn a_replicas_feedback_rides_on_an_acknowledgement() {
    let mut rig = Rig::new();
    let session = rig.lead_from_nothing(1);
    let mut wal = wal();
    let end = wal.record(&[1; 100]);
    rig.append(session, 1, START, wal.slice(START, end), START);
    rig.settle();
    read(&mut rig, 7, None).unwrap();
    // One pair: key `ps_writelsn`, eight bytes of value.
    let mut content = vec![1];
    content.extend_from_slice(b"ps_writelsn\0");
    content.extend_from_slice(&8_i32.to_be_bytes());
    content.extend_from_slice(&end.0.to_be_bytes());
    say(&mut rig, 7, |out| encode_pageserver_feedback(&content, out));
    let last = rig.acknowledged().pop().unwrap();
    assert_eq!((last.flush, last.feedback), (end, Some(Bytes::from(content))));
}

#[test]
fn the_oldest_of_all_standbys_feedback_rides_on_acknowledgements() {
    let mut rig = Rig::new();
    let session = rig.lead_from_nothing(1);
    rig.append(session, 1, START, &[], START);
    rig.settle();
    for (reader, xmin) in [(7, 900), (8, 700)] {
        read(&mut rig, reader, None).unwrap();
        let feedback = HotStandbyFeedback { xmin, xmin_epoch: 1, ..HotStandbyFeedback::default() };
        say(&mut rig, reader, |out| feedback.encode(out));
    }
    let xmin = |rig: &mut Rig| {
        rig.append(session, 1, START, &[], Lsn(0));
        rig.acknowledged().pop().unwrap().standby.xmin
    };
    assert_eq!(xmin(&mut rig), (1 << 32) | 700);
    rig.keeper.disconnect_reader(rig.now, ReaderId(8));
    assert_eq!(xmin(&mut rig), (1 << 32) | 900);
    rig.keeper.disconnect_reader(rig.now, ReaderId(7));
    assert_eq!(xmin(&mut rig), 0, "the last standby has left");
}

#[test]
fn a_term_is_checked_before_anything_is_read() {
    let mut rig = Rig::new();
    rig.lead_from_nothing(3);
    assert!(read(&mut rig, 1, Some(2)).unwrap_err().contains("failed to acquire term 2, current term 3"));
    read(&mut rig, 2, Some(3)).unwrap();
    assert_eq!(rig.keeper.view(rig.now).readers.len(), 1);
    let candidate = rig.connect(9);
    rig.greet(candidate);
    rig.vote(candidate, 4);
    rig.settle();
    assert!(rig.keeper.view(rig.now).readers.is_empty(), "a reader of term 3 ends with term 3");
}

#[test]
fn a_slot_holds_wal_beyond_the_limit_as_far_as_it_may() {
    let mut rig = Rig::new();
    let session = rig.lead_from_nothing(1);
    let mut wal = wal();
    // The limit is 4 MiB, slots may hold 4 more.
    let write = |rig: &mut Rig, wal: &mut WalBuilder, mib: u64| {
        let end = Lsn(START.0 + (mib << 20));
        while wal.end() < end {
            let from = wal.end();
            let to = wal.fill_to(Lsn(end.0.min(from.0 + 100_000)), 4000);
            rig.append(session, 1, from, wal.slice(from, to), from);
            rig.settle();
            rig.append(session, 1, to, &[], to);
            rig.settle();
        }
        for _ in 0..3 {
            rig.now += Duration::from_secs(2);
            rig.keeper.handle_timeout(rig.now);
            rig.settle();
        }
        rig.keeper.view(rig.now).oldest
    };
    write(&mut rig, &mut wal, 0);
    rig.keeper.create_slot(rig.now, "s", SlotKind::Temporary(1), true).unwrap();
    assert_eq!(write(&mut rig, &mut wal, 7), START, "kept for the slot");
    assert!(write(&mut rig, &mut wal, 13) > START, "beyond its allowance");
    assert!(rig.keeper.view(rig.now).slots[0].is_lost);
    rig.keeper.end_connection(rig.now, 1);
    let oldest = write(&mut rig, &mut wal, 15);
    assert!(oldest.0 >= START.0 + (9 << 20), "without slots the limit holds, {oldest}");
}
