//! Tests of the streaming messages: sizes and byte vectors of the format, round trips, hostile bytes.

use super::*;
use crate::frame::Limits;
use crate::frontend::{self, FrontendMessage};
use proptest::prelude::*;

fn payload(buffer: &mut BytesMut) -> Bytes {
    match frontend::decode(buffer, Limits::SERVER).unwrap() {
        Some(FrontendMessage::CopyData(payload)) => payload,
        other => panic!("{other:?}"),
    }
}

#[test]
fn sizes_of_the_format() {
    let mut buffer = BytesMut::new();
    StandbyStatus::default().encode(&mut buffer);
    assert_eq!(payload(&mut buffer).len(), 34);
    HotStandbyFeedback::default().encode(&mut buffer);
    assert_eq!(payload(&mut buffer).len(), 25);
    Keepalive { end: Lsn(1), time: PgTime(2), reply_requested: true }.encode(&mut buffer);
    assert_eq!(payload(&mut buffer).len(), 18);
}

#[test]
fn xlog_data_header_byte_for_byte() {
    let header = xlog_data_frame(Lsn(0x1_0203_0405), Lsn(0x1_0203_0605), PgTime(-1), 3);
    let expected: Vec<u8> =
        [&b"d\0\0\0\x20w"[..], &[0, 0, 0, 1, 2, 3, 4, 5], &[0, 0, 0, 1, 2, 3, 6, 5], &[0xff; 8]].concat();
    assert_eq!(header.to_vec(), expected);
    let mut buffer = BytesMut::from(&header[..]);
    buffer.extend_from_slice(b"wal");
    let ServerCopy::XLogData(data) = ServerCopy::decode(payload(&mut buffer)).unwrap() else { panic!("not WAL") };
    assert_eq!((data.begin, &data.data[..]), (Lsn(0x1_0203_0405), &b"wal"[..]));
}

#[test]
fn times_count_from_the_year_2000() {
    let noon = SystemTime::UNIX_EPOCH + Duration::from_secs(946_684_800);
    assert_eq!(PgTime::from(noon), PgTime(0));
    assert_eq!(PgTime::from(SystemTime::UNIX_EPOCH), PgTime(-946_684_800_000_000));
    for extreme in [i64::MIN, i64::MAX] {
        let _ = PgTime(extreme).to_system_time().map(PgTime::from);
    }
}

#[test]
fn unknown_and_damaged_payloads() {
    assert_eq!(ServerCopy::decode(Bytes::new()), Err(ReplicationError::Empty));
    assert_eq!(ClientCopy::decode(Bytes::from_static(b"q")), Err(ReplicationError::Kind('q')));
    assert!(ClientCopy::decode(Bytes::from(vec![b'r'; 33])).is_err());
    assert!(ClientCopy::decode(Bytes::from(vec![b'r'; 35])).is_err());
    let huge = [&b"z"[..], &u64::MAX.to_be_bytes()].concat();
    assert!(ClientCopy::decode(Bytes::from(huge)).is_err());
}

proptest! {
    #[test]
    fn status_round_trip(write: u64, flush: u64, apply: u64, time: i64, reply_requested: bool) {
        let status =
            StandbyStatus { write: Lsn(write), flush: Lsn(flush), apply: Lsn(apply), time: PgTime(time), reply_requested };
        let mut buffer = BytesMut::new();
        status.encode(&mut buffer);
        prop_assert_eq!(ClientCopy::decode(payload(&mut buffer)), Ok(ClientCopy::Status(status)));
    }

    #[test]
    fn feedback_round_trip(time: i64, xmin: u32, xmin_epoch: u32, catalog_xmin: u32, catalog_xmin_epoch: u32, content: Vec<u8>) {
        let feedback = HotStandbyFeedback { time: PgTime(time), xmin, xmin_epoch, catalog_xmin, catalog_xmin_epoch };
        let mut buffer = BytesMut::new();
        feedback.encode(&mut buffer);
        encode_pageserver_feedback(&content, &mut buffer);
        prop_assert_eq!(ClientCopy::decode(payload(&mut buffer)), Ok(ClientCopy::Feedback(feedback)));
        prop_assert_eq!(ClientCopy::decode(payload(&mut buffer)), Ok(ClientCopy::Pageserver(content.into())));
    }

    #[test]
    fn keepalive_round_trip(end: u64, time: i64, reply_requested: bool) {
        let keepalive = Keepalive { end: Lsn(end), time: PgTime(time), reply_requested };
        let mut buffer = BytesMut::new();
        keepalive.encode(&mut buffer);
        prop_assert_eq!(ServerCopy::decode(payload(&mut buffer)), Ok(ServerCopy::Keepalive(keepalive)));
    }

    #[test]
    fn time_round_trip(micros in -900_000_000_000_000i64..9_000_000_000_000_000) {
        prop_assert_eq!(PgTime(micros).to_system_time().map(PgTime::from), Some(PgTime(micros)));
    }

    #[test]
    fn random_bytes_never_panic(kind in prop::sample::select(b"wkrhz?".to_vec()), rest in prop::collection::vec(any::<u8>(), 0..48)) {
        let bytes = Bytes::from([vec![kind], rest].concat());
        let _ = ServerCopy::decode(bytes.clone());
        let _ = ClientCopy::decode(bytes);
    }
}
