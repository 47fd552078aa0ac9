//! Messages between proposers and safekeepers, and the texts that travel beside them.

use bytes::{Bytes, BytesMut};
use consensus::{AcceptorMessage, Membership, ProposerMessage, TermHistory};
use lsn::{ClusterId, DiskId, Lsn, Path};
use quorum_proto::{
    InitCluster, ProtoVersion, PushOptions, ReplicaFeedback, decode_acceptor, decode_proposer, encode_acceptor,
    encode_proposer,
};

const VERSIONS: [ProtoVersion; 2] = [ProtoVersion::V2, ProtoVersion::V3];

/// What version 3 accepted and wrote is read and written the same; version 2 cannot carry all of it, but must not fail. The first
/// writing may change a message in one way: hosts are hints, and what is not ASCII in them is not carried.
pub(super) fn proposer(data: &[u8]) {
    let write = |message: &ProposerMessage| {
        let mut written = BytesMut::new();
        encode_proposer(ProtoVersion::V3, message, &mut written).ok().map(|()| written.freeze())
    };
    for version in VERSIONS {
        let Ok(message) = decode_proposer(version, Bytes::copy_from_slice(data)) else { continue };
        if version == ProtoVersion::V3
            && let Some(written) = write(&message)
        {
            let again = decode_proposer(version, written.clone()).ok().and_then(|message| write(&message));
            assert_eq!(again, Some(written));
        }
    }
}

pub(super) fn acceptor(data: &[u8]) {
    let write = |message: &AcceptorMessage| {
        let mut written = BytesMut::new();
        encode_acceptor(ProtoVersion::V3, message, &mut written);
        written.freeze()
    };
    for version in VERSIONS {
        let Ok(message) = decode_acceptor(version, Bytes::copy_from_slice(data)) else { continue };
        if version == ProtoVersion::V3 {
            let written = write(&message);
            let again = decode_acceptor(version, written.clone()).ok().map(|message| write(&message));
            assert_eq!(again, Some(written));
        }
    }
}

pub(super) fn feedback(data: &[u8]) {
    let _ = ReplicaFeedback::parse(&Bytes::copy_from_slice(data));
}

/// Texts that are accepted print as something that is accepted as the same.
pub(super) fn text(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    fn again<T: std::str::FromStr + ToString + PartialEq>(text: &str) {
        if let Ok(value) = text.parse::<T>() {
            let printed = value.to_string();
            assert!(printed.parse::<T>().is_ok_and(|again| again == value), "printed as {printed:?}");
        }
    }
    again::<Lsn>(text);
    again::<Path>(text);
    again::<TermHistory>(text);
    again::<Membership>(text);
    again::<DiskId>(text);
    again::<ClusterId>(text);
    let options = pq_proto::startup::split_options(text);
    if let Ok(options) = PushOptions::parse(&options) {
        assert_eq!(PushOptions::parse(&options.to_options()).ok(), Some(options));
    }
    if let Ok(init) = InitCluster::parse(&options) {
        assert_eq!(InitCluster::parse(&init.to_options()).ok(), Some(init));
    }
}
