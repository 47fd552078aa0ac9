//! Byte vectors, limits and round trips of what a safekeeper answers.

use super::*;
use consensus::{Member, TermEntry, TermHistory};
use lsn::{DiskId, Lsn, Term};
use proptest::prelude::*;

pub(crate) fn hex(text: &str) -> Bytes {
    let digits: Vec<u8> = text.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

pub(crate) fn any_history() -> impl Strategy<Value = TermHistory> {
    proptest::collection::vec((1u64..9, 0u64..9), 0..6).prop_map(|steps| {
        let (mut term, mut begin) = (0, 0);
        let mut grown = Vec::new();
        for (terms, bytes) in steps {
            (term, begin) = (term + terms, begin + bytes);
            grown.push(TermEntry { term: Term(term), begin: Lsn(begin) });
        }
        TermHistory::new(grown).unwrap()
    })
}

fn encoded(version: ProtoVersion, message: &AcceptorMessage) -> Bytes {
    let mut out = BytesMut::new();
    encode_acceptor(version, message, &mut out);
    out.freeze()
}

fn both_ways(version: ProtoVersion, message: &AcceptorMessage, bytes: &Bytes) {
    assert_eq!(encoded(version, message), bytes);
    assert_eq!(decode_acceptor(version, bytes.clone()).unwrap(), *message);
    let trailing: Bytes = bytes.iter().copied().chain([0x80]).collect();
    assert!(decode_acceptor(version, trailing).is_err());
}

#[test]
fn greeting_bytes() {
    let greeting = AcceptorGreeting { node: NodeId(7), membership: Membership::none(), term: Term(3) };
    let message = AcceptorMessage::Greeting(greeting.clone());
    both_ways(ProtoVersion::V3, &message, &hex("67 0000000000000007 00000000 00000000 00000000 0000000000000003"));
    both_ways(ProtoVersion::V2, &message, &hex("6700000000000000 0300000000000000 0700000000000000"));

    let member = Member { node: NodeId(7), disk: DiskId::NONE, host: "sk7".to_owned(), port: 5454 };
    let membership = Membership::new(4, Term(0), vec![member], None).unwrap();
    let message = AcceptorMessage::Greeting(AcceptorGreeting { membership, ..greeting.clone() });
    let bytes = hex("67 0000000000000007 00000004 00000001 0000000000000007 736b3700 154e 00000000 0000000000000003");
    both_ways(ProtoVersion::V3, &message, &bytes);
    // Version 2 leaves the record out.
    assert_eq!(encoded(ProtoVersion::V2, &message), encoded(ProtoVersion::V2, &AcceptorMessage::Greeting(greeting)));
}

#[test]
fn vote_bytes() {
    let entries = vec![TermEntry { term: Term(1), begin: Lsn(0x1500028) }];
    let message = AcceptorMessage::Vote(VoteResponse {
        generation: 0,
        term: Term(3),
        granted: true,
        flush: Lsn(0x1600000),
        truncate: Lsn(0x1500028),
        history: TermHistory::new(entries).unwrap(),
    });
    let bytes = hex(
        "76 00000000 0000000000000003 01 0000000001600000 0000000001500028 00000001 0000000000000001 0000000001500028",
    );
    both_ways(ProtoVersion::V3, &message, &bytes);
    let bytes = hex(
        "7600000000000000 0300000000000000 0100000000000000 0000600100000000 2800500100000000 01000000 0100000000000000 2800500100000000 0000000000000000",
    );
    both_ways(ProtoVersion::V2, &message, &bytes);
    let mut neither = encoded(ProtoVersion::V3, &message).to_vec();
    neither[13] = 2;
    assert!(matches!(decode_acceptor(ProtoVersion::V3, neither.into()), Err(Error::Range { field: "vote", .. })));
}

fn append() -> AppendResponse {
    AppendResponse {
        generation: 0,
        term: Term(3),
        flush: Lsn(0x1600000),
        commit: Lsn(0x1500028),
        standby: HotStandbyFeedback { time: -1, xmin: 0x1_0000_0005, catalog_xmin: 6 },
        feedback: None,
    }
}

#[test]
fn append_bytes() {
    let message = AcceptorMessage::Append(append());
    let bytes = hex(
        "61 00000000 0000000000000003 0000000001600000 0000000001500028 ffffffffffffffff 0000000100000005 0000000000000006",
    );
    assert_eq!(bytes.len(), 53);
    both_ways(ProtoVersion::V3, &message, &bytes);
    let bytes = hex(
        "6100000000000000 0300000000000000 0000600100000000 2800500100000000 ffffffffffffffff 0500000001000000 0600000000000000",
    );
    assert_eq!(bytes.len(), 56);
    both_ways(ProtoVersion::V2, &message, &bytes);
}

#[test]
fn feedback_is_checked_and_passed_on_as_it_came() {
    for version in [ProtoVersion::V2, ProtoVersion::V3] {
        // Big-endian in both versions: one pair, shard 3.
        let feedback = hex("01 73686172645f6e756d62657200 00000004 00000003");
        let message = AcceptorMessage::Append(AppendResponse { feedback: Some(feedback), ..append() });
        both_ways(version, &message, &encoded(version, &message));
        let broken = AcceptorMessage::Append(AppendResponse { feedback: Some(hex("01 6b00 ffffffff")), ..append() });
        assert!(decode_acceptor(version, encoded(version, &broken)).is_err());
    }
}

#[test]
fn unknown_tags_are_named() {
    assert_eq!(decode_acceptor(ProtoVersion::V3, hex("65")), Err(Error::Tag(0x65)));
    assert_eq!(decode_acceptor(ProtoVersion::V2, hex("0061000000000000")), Err(Error::Tag(0x6100)));
}

fn any_message() -> impl Strategy<Value = AcceptorMessage> {
    let greeting = any::<(u64, u64)>().prop_map(|(node, term)| {
        AcceptorMessage::Greeting(AcceptorGreeting {
            node: NodeId(node),
            membership: Membership::none(),
            term: Term(term),
        })
    });
    let vote =
        (any::<(u64, bool, u64, u64)>(), any_history()).prop_map(|((term, granted, flush, truncate), history)| {
            let (term, flush, truncate) = (Term(term), Lsn(flush), Lsn(truncate));
            AcceptorMessage::Vote(VoteResponse { generation: 0, term, granted, flush, truncate, history })
        });
    let append = any::<(u64, u64, u64, i64, u64, u64)>().prop_map(|(term, flush, commit, time, xmin, catalog_xmin)| {
        let standby = HotStandbyFeedback { time, xmin, catalog_xmin };
        let (term, flush, commit) = (Term(term), Lsn(flush), Lsn(commit));
        AcceptorMessage::Append(AppendResponse { generation: 0, term, flush, commit, standby, feedback: None })
    });
    prop_oneof![greeting, vote, append]
}

proptest! {
    #[test]
    fn round_trip(message in any_message()) {
        for version in [ProtoVersion::V2, ProtoVersion::V3] {
            prop_assert_eq!(decode_acceptor(version, encoded(version, &message)), Ok(message.clone()));
        }
    }

    #[test]
    fn a_shorter_message_is_never_taken(message in any_message(), cut: prop::sample::Index) {
        for version in [ProtoVersion::V2, ProtoVersion::V3] {
            let bytes = encoded(version, &message);
            prop_assert!(decode_acceptor(version, bytes.slice(..cut.index(bytes.len()))).is_err());
        }
    }

    #[test]
    fn any_bytes_are_judged(tag in prop::sample::select(&b"gvax"[..]), bytes: Vec<u8>) {
        let v3: Bytes = std::iter::once(tag).chain(bytes.iter().copied()).collect();
        let _ = decode_acceptor(ProtoVersion::V3, v3);
        let v2: Bytes = [tag, 0, 0, 0, 0, 0, 0, 0].into_iter().chain(bytes).collect();
        let _ = decode_acceptor(ProtoVersion::V2, v2);
    }
}
