//! Tests of the first packet.

use super::*;
use proptest::prelude::*;

fn packet(code: u32, rest: &[u8]) -> BytesMut {
    let mut buffer = BytesMut::new();
    buffer.extend_from_slice(&u32::try_from(8 + rest.len()).unwrap().to_be_bytes());
    buffer.extend_from_slice(&code.to_be_bytes());
    buffer.extend_from_slice(rest);
    buffer
}

fn startup(code: u32, rest: &[u8]) -> Startup {
    match decode(&mut packet(code, rest)).unwrap() {
        Some(FirstPacket::Startup(startup)) => startup,
        other => panic!("{other:?}"),
    }
}

#[test]
fn probes_and_cancel() {
    assert_eq!(decode(&mut packet(80_877_103, b"")), Ok(Some(FirstPacket::Ssl)));
    assert_eq!(decode(&mut packet(80_877_104, b"")), Ok(Some(FirstPacket::GssEnc)));
    let cancel = FirstPacket::Cancel { pid: 7, key: Bytes::from_static(b"abcd") };
    assert_eq!(decode(&mut packet(80_877_102, b"\0\0\0\x07abcd")), Ok(Some(cancel)));
    let mut hello = BytesMut::from(&[0x16, 3, 1][..]);
    assert_eq!(decode(&mut hello), Ok(Some(FirstPacket::DirectTls)));
    assert_eq!(hello.len(), 3);
}

#[test]
fn what_a_standby_sends() {
    let text = b"user\0rep\0database\0replication\0replication\0true\0application_name\0walreceiver\0\0";
    let standby = startup(196_608, text);
    assert_eq!(standby.get("user"), Some("rep"));
    assert_eq!(standby.get("application_name"), Some("walreceiver"));
    assert_eq!(standby.replication(), Ok(Replication::Physical));
    assert_eq!(standby.negotiation(), None);
}

#[test]
fn replication_spellings() {
    let kind = |value: &str| startup(196_608, format!("replication\0{value}\0\0").as_bytes()).replication();
    for yes in ["true", "on", "yes", "1", "TRUE", "t", "y"] {
        assert_eq!(kind(yes), Ok(Replication::Physical), "{yes}");
    }
    for no in ["false", "off", "no", "0", "of", "f"] {
        assert_eq!(kind(no), Ok(Replication::No), "{no}");
    }
    assert_eq!(kind("database"), Ok(Replication::Database));
    for bad in ["o", "2", "truee", "", "maybe"] {
        assert!(kind(bad).is_err(), "{bad}");
    }
}

#[test]
fn newer_minors_and_protocol_options_are_negotiated() {
    let negotiation = startup(196_610, b"user\0x\0_pq_.fancy\0yes\0\0").negotiation().unwrap();
    assert_eq!(negotiation.supported, 0x0003_0000);
    assert_eq!(negotiation.unknown_options, ["_pq_.fancy"]);
    let major = decode(&mut packet(0x0002_0000, b"\0"));
    assert_eq!(major, Err(StartupError::Protocol { major: 2, minor: 0 }));
}

#[test]
fn lengths_outside_the_range_are_refused_at_once() {
    for word in [7, 10_001, -1, 0x4745_5420] {
        let mut buffer = BytesMut::from(&i32::to_be_bytes(word)[..]);
        assert_eq!(decode(&mut buffer), Err(StartupError::Length(i64::from(word))));
    }
    let mut partial = BytesMut::from(&[0, 0, 0, 9, 0, 3, 0, 0][..]);
    assert_eq!(decode(&mut partial), Ok(None));
    assert_eq!(partial.len(), 8);
}

#[test]
fn damaged_parameters() {
    for bad in [&b"user\0x"[..], b"user\0", b"", b"\0junk", b"user\0\xff\0\0"] {
        assert!(decode(&mut packet(196_608, bad)).is_err(), "{bad:?}");
    }
}

#[test]
fn options_in_every_spelling() {
    let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    assert_eq!(split_options("-c timeline_id=ab tenant_id=cd"), [pair("timeline_id", "ab"), pair("tenant_id", "cd")]);
    assert_eq!(
        split_options("  -ccluster=orders --wal-sender-timeout=10s -B 100 -e x =y "),
        [pair("cluster", "orders"), pair("wal_sender_timeout", "10s")]
    );
    assert_eq!(split_options(r"-c a=one\ two\\three b=x\"), [pair("a", r"one two\three"), pair("b", "x")]);
    assert_eq!(split_options("a=b=c"), [pair("a", "b=c")]);
}

proptest! {
    #[test]
    fn options_round_trip(pairs in prop::collection::vec(("[a-z_]{1,8}", ".{0,12}"), 0..4)) {
        let text = join_options(pairs.iter().map(|(k, v)| (k.as_str(), v.as_str())));
        prop_assert_eq!(split_options(&text), pairs);
    }

    #[test]
    fn start_up_round_trip(pairs in prop::collection::vec(("[a-z_]{1,8}", "[^\0]{0,12}"), 0..4)) {
        let mut buffer = BytesMut::new();
        encode(pairs.iter().map(|(k, v)| (k.as_str(), v.as_str())), &mut buffer).unwrap();
        let expected = Startup { protocol: SUPPORTED_PROTOCOL, parameters: pairs };
        prop_assert_eq!(decode(&mut buffer), Ok(Some(FirstPacket::Startup(expected))));
    }

    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..64), known in any::<bool>()) {
        let mut buffer = if known { packet(196_608, &bytes) } else { BytesMut::from(&bytes[..]) };
        if let Ok(Some(FirstPacket::Startup(startup))) = decode(&mut buffer) {
            let _ = (startup.options(), startup.replication(), startup.negotiation());
        }
    }

    #[test]
    fn random_text_never_panics(text in ".{0,40}") {
        let _ = split_options(&text);
    }
}
