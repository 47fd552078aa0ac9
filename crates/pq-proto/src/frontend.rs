//! Client to server, after start-up: the server decodes, the client encodes.
//!
//! Only the simple query protocol and COPY are spelt out; messages of the extended protocol are reported by tag so that the
//! server can refuse them. Encoders are `postgres-protocol`'s where it has them.

use crate::cursor::{BodyError, Cursor};
use crate::frame::{self, Frame, FrameError, Limits};
use bytes::{Bytes, BytesMut};
use postgres_protocol::message::frontend as upstream;

/// One message from a client.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum FrontendMessage {
    /// `Q`: one command, without its NUL.
    Query(String),
    /// `p`: a password or SASL answer; see [`password`] and [`sasl_initial_response`].
    Password(Bytes),
    /// `d`: a piece of a COPY; see [`crate::replication::ClientCopy`].
    CopyData(Bytes),
    /// `c`: the client's side of the COPY is finished.
    CopyDone,
    /// `f`: the client gives the COPY up, with a reason.
    CopyFail(String),
    /// `X`: goodbye.
    Terminate,
    /// `S`: end of an extended-query batch; answer ReadyForQuery.
    Sync,
    /// Parse, Bind and anything unknown, by tag.
    Other(u8),
}

/// A message that cannot be understood. Answer 08P01 and close.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrontendError {
    /// The length is impossible.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The inside does not fit.
    #[error(transparent)]
    Body(#[from] BodyError),
}

/// A text with a NUL inside, or longer than the protocol can carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a text for the server contains a NUL byte or is too long; remove it")]
pub struct EncodeError;

/// Takes the next message off `buffer`; `None` if it is not complete yet.
pub fn decode(buffer: &mut BytesMut, limits: Limits) -> Result<Option<FrontendMessage>, FrontendError> {
    match frame::decode(buffer, limits)? {
        Some(frame) => Ok(Some(FrontendMessage::from_frame(frame)?)),
        None => Ok(None),
    }
}

impl FrontendMessage {
    /// Understands one frame.
    pub fn from_frame(frame: Frame) -> Result<FrontendMessage, BodyError> {
        let Frame { tag, body } = frame;
        let empty = |what, message| Cursor::new(what, body.clone()).finish().map(|()| message);
        match tag {
            b'Q' => {
                let mut body = Cursor::new("Query", body);
                let text = body.cstr()?;
                body.finish()?;
                Ok(FrontendMessage::Query(text))
            }
            b'p' => Ok(FrontendMessage::Password(body)),
            b'd' => Ok(FrontendMessage::CopyData(body)),
            b'c' => empty("CopyDone", FrontendMessage::CopyDone),
            b'f' => {
                let mut body = Cursor::new("CopyFail", body);
                let reason = body.cstr_lossy()?;
                body.finish()?;
                Ok(FrontendMessage::CopyFail(reason))
            }
            b'X' => empty("Terminate", FrontendMessage::Terminate),
            b'S' => empty("Sync", FrontendMessage::Sync),
            other => Ok(FrontendMessage::Other(other)),
        }
    }
}

/// The text of a password message, without its NUL.
pub fn password(body: &Bytes) -> Result<&str, BodyError> {
    let text = body.strip_suffix(&[0]).ok_or(BodyError::Truncated("the password message"))?;
    std::str::from_utf8(text).map_err(|_| BodyError::NotUtf8("the password message"))
}

/// Mechanism and first data of a SASL initial response.
pub fn sasl_initial_response(body: Bytes) -> Result<(String, Option<Bytes>), BodyError> {
    let mut body = Cursor::new("SASLInitialResponse", body);
    let mechanism = body.cstr()?;
    let data = match body.i32()? {
        -1 => None,
        length => {
            let length = usize::try_from(length);
            Some(body.take(length.map_err(|_| BodyError::Truncated("SASLInitialResponse"))?)?)
        }
    };
    body.finish()?;
    Ok((mechanism, data))
}

/// Appends a Query.
///
/// # Errors
/// A NUL in the text.
pub fn encode_query(text: &str, buffer: &mut BytesMut) -> Result<(), EncodeError> {
    upstream::query(text, buffer).map_err(|_| EncodeError)
}

/// Appends a password (clear text, or an MD5 answer).
///
/// # Errors
/// A NUL in the password.
pub fn encode_password(password: &[u8], buffer: &mut BytesMut) -> Result<(), EncodeError> {
    upstream::password_message(password, buffer).map_err(|_| EncodeError)
}

/// Appends the first SASL answer.
///
/// # Errors
/// A NUL in the mechanism's name.
pub fn encode_sasl_initial_response(mechanism: &str, data: &[u8], buffer: &mut BytesMut) -> Result<(), EncodeError> {
    upstream::sasl_initial_response(mechanism, data, buffer).map_err(|_| EncodeError)
}

/// Appends a later SASL answer.
///
/// # Errors
/// More data than a message can carry.
pub fn encode_sasl_response(data: &[u8], buffer: &mut BytesMut) -> Result<(), EncodeError> {
    upstream::sasl_response(data, buffer).map_err(|_| EncodeError)
}

/// Appends a CopyData whose payload `fill` writes. For large payloads send [`frame::copy_data_header`] and the payload.
pub fn encode_copy_data(buffer: &mut BytesMut, fill: impl FnOnce(&mut BytesMut)) {
    frame::put(buffer, b'd', fill);
}

/// Appends a CopyDone.
pub fn encode_copy_done(buffer: &mut BytesMut) {
    upstream::copy_done(buffer);
}

/// Appends a CopyFail with its reason.
///
/// # Errors
/// A NUL in the reason.
pub fn encode_copy_fail(reason: &str, buffer: &mut BytesMut) -> Result<(), EncodeError> {
    upstream::copy_fail(reason, buffer).map_err(|_| EncodeError)
}

/// Appends a Terminate.
pub fn encode_terminate(buffer: &mut BytesMut) {
    upstream::terminate(buffer);
}

/// Appends a Sync.
pub fn encode_sync(buffer: &mut BytesMut) {
    upstream::sync(buffer);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn one(buffer: &mut BytesMut) -> FrontendMessage {
        let message = decode(buffer, Limits::SERVER).unwrap().unwrap();
        assert!(buffer.is_empty());
        message
    }

    #[test]
    fn every_message_round_trips() {
        let mut buffer = BytesMut::new();
        encode_query("IDENTIFY_SYSTEM", &mut buffer).unwrap();
        assert_eq!(&buffer[..5], b"Q\0\0\0\x14");
        assert_eq!(one(&mut buffer), FrontendMessage::Query("IDENTIFY_SYSTEM".into()));
        encode_password(b"secret", &mut buffer).unwrap();
        let FrontendMessage::Password(body) = one(&mut buffer) else { panic!("not a password") };
        assert_eq!(password(&body).unwrap(), "secret");
        encode_sasl_initial_response("SCRAM-SHA-256", b"n,,n=,r=x", &mut buffer).unwrap();
        let FrontendMessage::Password(body) = one(&mut buffer) else { panic!("not a SASL answer") };
        let (mechanism, data) = sasl_initial_response(body).unwrap();
        assert_eq!((mechanism.as_str(), data.as_deref()), ("SCRAM-SHA-256", Some(&b"n,,n=,r=x"[..])));
        encode_copy_data(&mut buffer, |b| b.extend_from_slice(b"abc"));
        assert_eq!(one(&mut buffer), FrontendMessage::CopyData(Bytes::from_static(b"abc")));
        encode_copy_done(&mut buffer);
        assert_eq!(one(&mut buffer), FrontendMessage::CopyDone);
        encode_copy_fail("no room", &mut buffer).unwrap();
        assert_eq!(one(&mut buffer), FrontendMessage::CopyFail("no room".into()));
        encode_terminate(&mut buffer);
        assert_eq!(one(&mut buffer), FrontendMessage::Terminate);
        encode_sync(&mut buffer);
        assert_eq!(one(&mut buffer), FrontendMessage::Sync);
        assert_eq!(encode_query("a\0b", &mut buffer), Err(EncodeError));
    }

    #[test]
    fn extended_protocol_is_reported_by_tag() {
        let mut buffer = BytesMut::from(&b"P\0\0\0\x06xx"[..]);
        assert_eq!(one(&mut buffer), FrontendMessage::Other(b'P'));
    }

    #[test]
    fn damaged_bodies() {
        for bad in [&b"Q\0\0\0\x04"[..], b"Q\0\0\0\x05x", b"Q\0\0\0\x06\0x", b"c\0\0\0\x05x", b"Q\0\0\0\x06\xff\0"] {
            assert!(decode(&mut BytesMut::from(bad), Limits::SERVER).is_err(), "{bad:?}");
        }
        assert!(password(&Bytes::from_static(b"")).is_err());
        assert!(sasl_initial_response(Bytes::from_static(b"X\0\xff\xff\xff\xfe")).is_err());
        assert!(sasl_initial_response(Bytes::from_static(b"X\0\0\0\0\x09ab")).is_err());
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(tag: u8, body in prop::collection::vec(any::<u8>(), 0..48)) {
            let body = Bytes::from(body);
            let _ = FrontendMessage::from_frame(Frame { tag, body: body.clone() });
            let _ = password(&body);
            let _ = sasl_initial_response(body);
        }
    }
}
