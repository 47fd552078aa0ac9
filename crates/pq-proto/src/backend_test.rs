//! Tests of server messages: bytes of the format, round trips, hostile bodies.

use super::encode::Column;
use super::*;
use crate::SqlState;
use crate::startup::Negotiation;
use proptest::prelude::*;

fn one(buffer: &mut BytesMut) -> BackendMessage {
    let message = decode(buffer, Limits::CLIENT).unwrap().unwrap();
    assert!(buffer.is_empty(), "more than one message");
    message
}

fn encoded(fill: impl FnOnce(&mut BytesMut)) -> BytesMut {
    let mut buffer = BytesMut::new();
    fill(&mut buffer);
    buffer
}

#[test]
fn short_messages_byte_for_byte() {
    assert_eq!(&encoded(encode::authentication_ok)[..], b"R\0\0\0\x08\0\0\0\0");
    assert_eq!(&encoded(encode::authentication_cleartext_password)[..], b"R\0\0\0\x08\0\0\0\x03");
    assert_eq!(&encoded(encode::copy_both_response)[..], b"W\0\0\0\x07\0\0\0");
    assert_eq!(&encoded(encode::copy_done)[..], b"c\0\0\0\x04");
    assert_eq!(&encoded(encode::ready_for_query)[..], b"Z\0\0\0\x05I");
    assert_eq!(&encoded(|b| encode::command_complete("COPY 0", b))[..], b"C\0\0\0\x0bCOPY 0\0");
    assert_eq!(&encoded(|b| encode::parameter_status("a", "b", b))[..], b"S\0\0\0\x08a\0b\0");
    assert_eq!(&encoded(|b| encode::backend_key_data(1, 2, b))[..], b"K\0\0\0\x0c\0\0\0\x01\0\0\0\x02");
    assert_eq!(&encoded(|b| encode::copy_data(b"xy", b))[..], b"d\0\0\0\x06xy");
}

#[test]
fn results_byte_for_byte() {
    let columns = encoded(|b| encode::row_description(&[Column::int8("n")], b));
    let expected = b"T\0\0\0\x1a\0\x01n\0\0\0\0\0\0\0\0\0\0\x14\0\x08\xff\xff\xff\xff\0\0";
    assert_eq!(&columns[..], expected);
    let row = encoded(|b| encode::data_row(&[Some(b"7"), None], b));
    assert_eq!(&row[..], b"D\0\0\0\x0f\0\x02\0\0\0\x017\xff\xff\xff\xff");
}

#[test]
fn every_message_round_trips() {
    let columns = [Column::text("systemid"), Column::int4("timeline"), Column::bytea("content")];
    let BackendMessage::RowDescription(row) = one(&mut encoded(|b| encode::row_description(&columns, b))) else {
        panic!("not a description")
    };
    assert_eq!(row.names(), ["systemid", "timeline", "content"]);
    let BackendMessage::DataRow(row) = one(&mut encoded(|b| encode::data_row(&[Some(b"x"), None], b))) else {
        panic!("not a row")
    };
    assert_eq!((row.text(0), row.text(1), row.text(2), row.values().len()), (Some("x"), None, None, 2));
    let mut report = Report::fatal(SqlState::UNDEFINED_FILE, "gone").with_hint("look elsewhere");
    report.detail = Some("it was here".into());
    assert_eq!(report.to_string(), "gone (it was here; SQLSTATE 58P01); hint: look elsewhere");
    assert!(report.ends_connection());
    let error = one(&mut encoded(|b| encode::error_response(&report, b)));
    assert_eq!(error, BackendMessage::ErrorResponse(report.clone()));
    let notice = one(&mut encoded(|b| encode::notice_response(&report, b)));
    assert_eq!(notice, BackendMessage::NoticeResponse(report));
    let negotiation = Negotiation { supported: 0x3_0000, unknown_options: vec!["_pq_.a".into()] };
    let message = one(&mut encoded(|b| encode::negotiate_protocol_version(&negotiation, b)));
    let expected =
        BackendMessage::NegotiateProtocolVersion { supported: 0x3_0000, unknown_options: negotiation.unknown_options };
    assert_eq!(message, expected);
    assert_eq!(one(&mut encoded(encode::empty_query_response)), BackendMessage::EmptyQueryResponse);
    assert_eq!(one(&mut encoded(encode::copy_both_response)), BackendMessage::CopyBothResponse);
    assert_eq!(one(&mut encoded(encode::ready_for_query)), BackendMessage::ReadyForQuery(TransactionStatus::Idle));
}

#[test]
fn authentication_variants() {
    let decode = |bytes: &[u8]| Authentication::decode(Bytes::copy_from_slice(bytes));
    assert_eq!(decode(&[0, 0, 0, 0]), Ok(Authentication::Ok));
    assert_eq!(decode(&[0, 0, 0, 5, 1, 2, 3, 4]), Ok(Authentication::Md5Password { salt: [1, 2, 3, 4] }));
    let mechanisms = vec!["SCRAM-SHA-256-PLUS".to_owned(), "SCRAM-SHA-256".to_owned()];
    assert_eq!(decode(b"\0\0\0\x0aSCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0"), Ok(Authentication::Sasl { mechanisms }));
    assert_eq!(decode(b"\0\0\0\x0br=1"), Ok(Authentication::SaslContinue(Bytes::from_static(b"r=1"))));
    assert_eq!(decode(&[0, 0, 0, 7]), Ok(Authentication::Unsupported(7)));
    assert!(decode(&[0, 0, 0, 5, 1]).is_err());
    assert!(decode(b"\0\0\0\x0aSCRAM\0").is_err());
}

#[test]
fn a_nul_in_a_text_cannot_move_the_fields_behind_it() {
    let report = Report::error(SqlState::INTERNAL_ERROR, "a\0Mb");
    let BackendMessage::ErrorResponse(read) = one(&mut encoded(|b| encode::error_response(&report, b))) else {
        panic!("not an error")
    };
    assert_eq!(read.message, "a Mb");
}

#[test]
fn localized_severity_does_not_win() {
    let body = Bytes::from_static("SFEHLER\0VFATAL\0C57P03\0Mhello\0\0".as_bytes());
    let report = Report::decode(body).unwrap();
    assert_eq!((report.severity, report.code), (Severity::Fatal, SqlState::CANNOT_CONNECT_NOW));
}

#[test]
fn hostile_counts_take_no_memory() {
    let decode = |tag, body: &[u8]| BackendMessage::from_frame(Frame { tag, body: Bytes::copy_from_slice(body) });
    assert!(decode(b'v', &[0, 3, 0, 0, 0xff, 0xff, 0xff, 0xff]).is_err());
    assert!(decode(b'D', &[0xff, 0xff]).is_err());
    assert!(decode(b'D', &[0, 1, 0x7f, 0xff, 0xff, 0xff]).is_err());
    assert!(decode(b'D', &[0, 1, 0xff, 0xff, 0xff, 0xfe]).is_err());
    assert!(decode(b'T', &[0xff, 0xff]).is_err());
    assert!(decode(b'Z', b"Q").is_err());
}

proptest! {
    #[test]
    fn rows_round_trip(values in prop::collection::vec(prop::option::of(prop::collection::vec(any::<u8>(), 0..9)), 0..6)) {
        let slices: Vec<Option<&[u8]>> = values.iter().map(Option::as_deref).collect();
        let BackendMessage::DataRow(row) = one(&mut encoded(|b| encode::data_row(&slices, b))) else {
            panic!("not a row")
        };
        let read: Vec<Option<Vec<u8>>> = row.values().iter().map(|v| v.as_ref().map(|v| v.to_vec())).collect();
        prop_assert_eq!(read, values);
    }

    #[test]
    fn random_bytes_never_panic(tag in prop::sample::select(b"dDTENRSKZCvWHGcI?".to_vec()), body in prop::collection::vec(any::<u8>(), 0..64)) {
        let _ = BackendMessage::from_frame(Frame { tag, body: body.into() });
    }
}
