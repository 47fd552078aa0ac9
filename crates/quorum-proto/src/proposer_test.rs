//! Byte vectors, limits and round trips of what a proposer says.

use super::*;
use crate::MAX_HISTORY_ENTRIES;
use crate::acceptor::tests::{any_history, hex};
use consensus::{Member, TermEntry, TermHistory};
use lsn::{DiskId, Lsn, NodeId, Term};
use proptest::prelude::*;

fn encoded(version: ProtoVersion, message: &ProposerMessage) -> Bytes {
    let mut out = BytesMut::new();
    encode_proposer(version, message, &mut out).unwrap();
    out.freeze()
}

fn both_ways(version: ProtoVersion, message: &ProposerMessage, bytes: &Bytes) {
    assert_eq!(encoded(version, message), bytes);
    assert_eq!(decode_proposer(version, bytes.clone()).unwrap(), *message);
}

fn greeting() -> ProposerGreeting {
    ProposerGreeting {
        cluster: ClusterId { tenant: [0xab; 16], timeline: [0xcd; 16] },
        membership: Membership::none(),
        pg_version: 170004,
        system_id: SystemId(0x1122334455667788),
        segment_size: 1 << 24,
    }
}

fn append(begin: u64, wal: &'static [u8]) -> AppendRequest {
    AppendRequest {
        generation: 0,
        term: Term(3),
        begin: Lsn(begin),
        end: Lsn(begin + wal.len() as u64),
        commit: Lsn(0x1500028),
        truncate: Lsn(0x1500028),
        wal: Bytes::from_static(wal),
    }
}

#[test]
fn greeting_bytes() {
    let mut expected = BytesMut::new();
    expected.put_slice(b"g");
    expected.put_slice("ab".repeat(16).as_bytes());
    expected.put_slice(b"\0");
    expected.put_slice("cd".repeat(16).as_bytes());
    expected.put_slice(b"\0");
    expected.put_bytes(0, 12);
    expected.put_slice(&hex("00029814 1122334455667788 01000000"));
    assert_eq!(expected.len(), 95);
    both_ways(ProtoVersion::V3, &ProposerMessage::Greeting(greeting()), &expected.freeze());

    let mut expected =
        hex("6700000000000000 02000000 14980200 00000000000000000000000000000000 8877665544332211").to_vec();
    expected.extend([0xcd; 16]);
    expected.extend([0xab; 16]);
    expected.extend(hex("01000000 00000001"));
    assert_eq!(expected.len(), 80);
    both_ways(ProtoVersion::V2, &ProposerMessage::Greeting(greeting()), &Bytes::from(expected));
}

#[test]
fn membership_bytes() {
    let member =
        |node, host: &str| Member { node: NodeId(node), disk: DiskId::NONE, host: host.to_owned(), port: 5454 };
    let record = Membership::new(4, Term(0), vec![member(7, "sk7")], None).unwrap();
    let bytes =
        encoded(ProtoVersion::V3, &ProposerMessage::Greeting(ProposerGreeting { membership: record, ..greeting() }));
    assert_eq!(bytes[67..67 + 26], hex("00000004 00000001 0000000000000007 736b3700 154e 00000000"));
    let joint = Membership::new(5, Term(0), vec![member(7, "sk7")], Some(vec![member(8, "sk8")])).unwrap();
    let message = ProposerMessage::Greeting(ProposerGreeting { membership: joint, ..greeting() });
    both_ways(ProtoVersion::V3, &message, &encoded(ProtoVersion::V3, &message));
}

#[test]
fn impossible_memberships_are_refused() {
    let with = |record: &str| {
        let mut bytes = encoded(ProtoVersion::V3, &ProposerMessage::Greeting(greeting())).to_vec();
        bytes.splice(67..79, hex(record));
        decode_proposer(ProtoVersion::V3, Bytes::from(bytes))
    };
    let member = "0000000000000007 736b3700 154e";
    assert!(with(&format!("00000004 00000001 {member} 00000000")).is_ok());
    assert!(matches!(with("00000004 00000000 00000000"), Err(Error::Membership(_))));
    assert!(matches!(with(&format!("00000000 00000001 {member} 00000000")), Err(Error::Membership(_))));
    assert!(matches!(with(&format!("00000004 00000002 {member}{member} 00000000")), Err(Error::Membership(_))));
    assert!(matches!(with("00000004 00000020 00000000"), Err(Error::Range { field: "members", .. })));
    assert!(matches!(with("00000004 ffffffff 00000000"), Err(Error::Range { field: "members", .. })));
    let long = format!("00000004 00000001 0000000000000007 {}00 154e 00000000", "61".repeat(256));
    assert!(matches!(with(&long), Err(Error::Range { field: "member's host", .. })));
    assert!(with(&long.replacen("61", "", 1)).is_ok());
}

#[test]
fn a_greeting_with_an_impossible_version_is_only_a_number() {
    for pg_version in [0, 1, 99, u32::MAX] {
        let message = ProposerMessage::Greeting(ProposerGreeting { pg_version, ..greeting() });
        for version in [ProtoVersion::V2, ProtoVersion::V3] {
            both_ways(version, &message, &encoded(version, &message));
        }
    }
}

#[test]
fn a_greeting_must_name_a_cluster_and_its_own_version() {
    let mut bytes = encoded(ProtoVersion::V3, &ProposerMessage::Greeting(greeting())).to_vec();
    bytes[1] = b'x';
    assert!(matches!(decode_proposer(ProtoVersion::V3, bytes.into()), Err(Error::Cluster(_))));
    let mut bytes = encoded(ProtoVersion::V2, &ProposerMessage::Greeting(greeting())).to_vec();
    bytes[8] = 3;
    assert_eq!(decode_proposer(ProtoVersion::V2, bytes.into()), Err(Error::Version("3".to_owned())));
}

#[test]
fn vote_bytes() {
    let message = ProposerMessage::Vote(VoteRequest { generation: 0, term: Term(3) });
    both_ways(ProtoVersion::V3, &message, &hex("76 00000000 0000000000000003"));
    let bytes = hex("7600000000000000 0300000000000000 00000000000000000000000000000000");
    assert_eq!(bytes.len(), 32);
    both_ways(ProtoVersion::V2, &message, &bytes);
    // A safekeeper reads the first half of the 32 bytes.
    assert_eq!(decode_proposer(ProtoVersion::V2, bytes.slice(..16)).unwrap(), message);
}

#[test]
fn elected_bytes() {
    let entries =
        [(1, 0x1500028), (3, 0x1600000)].map(|(term, begin)| TermEntry { term: Term(term), begin: Lsn(begin) });
    let elected = ProposerElected {
        generation: 0,
        term: Term(3),
        start_streaming_at: Lsn(0x1500028),
        history: TermHistory::new(entries.to_vec()).unwrap(),
    };
    let bytes = hex(
        "65 00000000 0000000000000003 0000000001500028 00000002 0000000000000001 0000000001500028 0000000000000003 0000000001600000",
    );
    assert_eq!(bytes.len(), 57);
    both_ways(ProtoVersion::V3, &ProposerMessage::Elected(elected.clone()), &bytes);
    let bytes = hex(
        "6500000000000000 0300000000000000 2800500100000000 02000000 0100000000000000 2800500100000000 0300000000000000 0000600100000000 2800500100000000",
    );
    both_ways(ProtoVersion::V2, &ProposerMessage::Elected(elected), &bytes);
}

#[test]
fn histories_are_bounded_by_the_bytes_and_by_number() {
    let with = |count: &str| {
        decode_proposer(ProtoVersion::V3, hex(&format!("65 00000000 0000000000000003 0000000000000000 {count}")))
    };
    assert!(matches!(with("00000000"), Err(Error::Range { field: "term history", .. })));
    assert!(matches!(with("00000001"), Err(Error::Truncated { field: "term history", .. })));
    let most = format!("{MAX_HISTORY_ENTRIES:08x}");
    assert!(matches!(with(&most), Err(Error::Truncated { field: "term history", .. })));
    assert!(matches!(with("ffffffff"), Err(Error::Range { field: "term history", .. })));
    let backwards = "00000002 0000000000000003 0000000000000000 0000000000000001 0000000000000000";
    assert!(matches!(with(backwards), Err(Error::History(_))));
}

#[test]
fn append_bytes() {
    let message = ProposerMessage::Append(append(0x1600000, b"\x01\x02\x03\x04"));
    let bytes = hex(
        "61 00000000 0000000000000003 0000000001600000 0000000001600004 0000000001500028 0000000001500028 01020304",
    );
    assert_eq!(bytes.len(), 45 + 4);
    both_ways(ProtoVersion::V3, &message, &bytes);
    let bytes = hex(
        "6100000000000000 0300000000000000 0000000000000000 0000600100000000 0400600100000000 2800500100000000 2800500100000000 00000000000000000000000000000000 01020304",
    );
    assert_eq!(bytes.len(), 72 + 4);
    both_ways(ProtoVersion::V2, &message, &bytes);
}

#[test]
fn the_header_and_the_wal_are_the_message() {
    let request = append(0x1600000, b"WAL");
    for version in [ProtoVersion::V2, ProtoVersion::V3] {
        let mut header = BytesMut::new();
        encode_append_header(version, &request, &mut header).unwrap();
        header.put_slice(&request.wal);
        assert_eq!(header, encoded(version, &ProposerMessage::Append(request.clone())));
    }
}

#[test]
fn wal_is_sliced_not_copied_and_what_follows_it_is_ignored() {
    let mut bytes = encoded(ProtoVersion::V3, &ProposerMessage::Append(append(0x1600000, b"WAL"))).to_vec();
    bytes.extend(b"later");
    let bytes = Bytes::from(bytes);
    let Ok(ProposerMessage::Append(read)) = decode_proposer(ProtoVersion::V3, bytes.clone()) else {
        panic!("not an append")
    };
    assert_eq!(read.wal, &b"WAL"[..]);
    assert_eq!(read.wal.as_ptr(), bytes[45..].as_ptr());
}

#[test]
fn appends_have_the_bytes_they_announce_and_not_too_many() {
    let decode = |begin: u64, end: u64, wal: usize| {
        let mut bytes = BytesMut::new();
        let request = AppendRequest { begin: Lsn(begin), end: Lsn(end), ..append(0, b"") };
        encode_append_header(ProtoVersion::V3, &request, &mut bytes).unwrap();
        bytes.put_bytes(0, wal);
        decode_proposer(ProtoVersion::V3, bytes.freeze())
    };
    assert!(decode(0, MAX_APPEND_BYTES as u64, MAX_APPEND_BYTES).is_ok());
    assert!(matches!(decode(0, MAX_APPEND_BYTES as u64 + 1, MAX_APPEND_BYTES + 1), Err(Error::Range { .. })));
    assert!(matches!(decode(0, 5, 4), Err(Error::Truncated { field: "WAL", .. })));
    assert!(matches!(decode(5, 4, 100), Err(Error::Range { .. })));
    assert!(matches!(decode(0, u64::MAX, 100), Err(Error::Range { .. })));
    assert!(decode(u64::MAX, u64::MAX, 0).is_ok());
}

#[test]
fn version_2_cannot_say_a_generation() {
    let vote = ProposerMessage::Vote(VoteRequest { generation: 1, term: Term(3) });
    let mut out = BytesMut::new();
    assert_eq!(encode_proposer(ProtoVersion::V2, &vote, &mut out), Err(Error::NeedsVersion3(1)));
    assert!(out.is_empty());
}

#[test]
fn unknown_tags_are_named() {
    assert_eq!(decode_proposer(ProtoVersion::V3, hex("7a")), Err(Error::Tag(0x7a)));
    assert_eq!(decode_proposer(ProtoVersion::V2, hex("6701000000000000")), Err(Error::Tag(0x167)));
    assert!(matches!(decode_proposer(ProtoVersion::V2, hex("67")), Err(Error::Truncated { field: "tag", .. })));
    assert!(matches!(decode_proposer(ProtoVersion::V3, Bytes::new()), Err(Error::Truncated { field: "tag", .. })));
}

fn any_message() -> impl Strategy<Value = ProposerMessage> {
    let greeting = any::<([u8; 16], [u8; 16], u32, u64, u32)>().prop_map(
        |(tenant, timeline, pg_version, system_id, segment_size)| {
            let cluster = ClusterId { tenant, timeline };
            let system_id = SystemId(system_id);
            ProposerMessage::Greeting(ProposerGreeting {
                cluster,
                membership: Membership::none(),
                pg_version,
                system_id,
                segment_size,
            })
        },
    );
    let vote = any::<u64>().prop_map(|term| ProposerMessage::Vote(VoteRequest { generation: 0, term: Term(term) }));
    let elected = (any::<u64>(), any::<u64>(), any_history()).prop_filter_map("has a term", |(term, at, history)| {
        let elected = ProposerElected { generation: 0, term: Term(term), start_streaming_at: Lsn(at), history };
        (!elected.history.is_empty()).then_some(ProposerMessage::Elected(elected))
    });
    let append = (any::<(u64, u32, u64, u64)>(), proptest::collection::vec(any::<u8>(), 0..300)).prop_map(
        |((term, begin, commit, truncate), wal)| {
            let begin = Lsn(u64::from(begin));
            let end = Lsn(begin.0 + wal.len() as u64);
            let (commit, truncate) = (Lsn(commit), Lsn(truncate));
            ProposerMessage::Append(AppendRequest {
                generation: 0,
                term: Term(term),
                begin,
                end,
                commit,
                truncate,
                wal: wal.into(),
            })
        },
    );
    prop_oneof![greeting, vote, elected, append]
}

proptest! {
    #[test]
    fn round_trip(message in any_message(), later: Vec<u8>) {
        for version in [ProtoVersion::V2, ProtoVersion::V3] {
            let bytes = encoded(version, &message);
            prop_assert_eq!(decode_proposer(version, bytes.clone()), Ok(message.clone()));
            let extended: Bytes = bytes.iter().chain(&later).copied().collect();
            prop_assert_eq!(decode_proposer(version, extended), Ok(message.clone()));
        }
    }

    #[test]
    fn a_shorter_message_is_never_taken(message in any_message(), cut: prop::sample::Index) {
        let bytes = encoded(ProtoVersion::V3, &message);
        prop_assert!(decode_proposer(ProtoVersion::V3, bytes.slice(..cut.index(bytes.len()))).is_err());
    }

    #[test]
    fn any_bytes_are_judged(tag in prop::sample::select(&b"gveax"[..]), bytes: Vec<u8>) {
        let v3: Bytes = std::iter::once(tag).chain(bytes.iter().copied()).collect();
        let _ = decode_proposer(ProtoVersion::V3, v3);
        let v2: Bytes = [tag, 0, 0, 0, 0, 0, 0, 0].into_iter().chain(bytes).collect();
        let _ = decode_proposer(ProtoVersion::V2, v2);
    }
}
