//! PostgreSQL's protocol, both directions.

use bytes::{Bytes, BytesMut};
use pq_proto::command::{self, Command};
use pq_proto::replication::{ClientCopy, ServerCopy};
use pq_proto::{Limits, backend, frontend, startup};

/// Packets before a session is there. What is left of the buffer never grows.
pub(super) fn startup(data: &[u8]) {
    let mut buffer = BytesMut::from(data);
    while let Ok(Some(packet)) = startup::decode(&mut buffer) {
        // What begins as TLS is left to TLS.
        if packet == startup::FirstPacket::DirectTls {
            break;
        }
        assert!(buffer.len() < data.len(), "a packet takes bytes: {packet:?}");
        if let startup::FirstPacket::Startup(params) = packet {
            let _ = (params.replication(), params.negotiation(), params.options());
        }
    }
    if let Ok(text) = std::str::from_utf8(data) {
        let pairs = startup::split_options(text);
        let joined = startup::join_options(pairs.iter().map(|(key, value)| (key.as_str(), value.as_str())));
        assert_eq!(startup::split_options(&joined), pairs, "options survive being written");
    }
}

pub(super) fn frontend(data: &[u8]) {
    for limits in [Limits::CLIENT, Limits::UNAUTHENTICATED] {
        let mut buffer = BytesMut::from(data);
        let mut before = buffer.len();
        while let Ok(Some(message)) = frontend::decode(&mut buffer, limits) {
            assert!(buffer.len() < before, "a message takes bytes: {message:?}");
            before = buffer.len();
            if let frontend::FrontendMessage::CopyData(payload) = message {
                let _ = ClientCopy::decode(payload);
            }
        }
    }
    let body = Bytes::copy_from_slice(data);
    let _ = (frontend::password(&body).is_ok(), frontend::sasl_initial_response(body));
}

pub(super) fn backend(data: &[u8]) {
    let mut buffer = BytesMut::from(data);
    let mut before = buffer.len();
    while let Ok(Some(message)) = backend::decode(&mut buffer, Limits::SERVER) {
        assert!(buffer.len() < before, "a message takes bytes: {}", message.name());
        before = buffer.len();
        if let backend::BackendMessage::CopyData(payload) = message {
            let _ = ServerCopy::decode(payload);
        }
    }
}

/// A command that was understood is understood the same once printed.
pub(super) fn command(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(parsed) = command::parse(text) else { return };
    // Of these only the first word is kept.
    if matches!(parsed, Command::Unknown { .. }) {
        return;
    }
    let printed = parsed.to_string();
    assert_eq!(command::parse(&printed).as_ref(), Ok(&parsed), "printed as {printed:?}");
}

pub(super) fn replication(data: &[u8]) {
    let payload = Bytes::copy_from_slice(data);
    let _ = ServerCopy::decode(payload.clone());
    let _ = ClientCopy::decode(payload);
}
