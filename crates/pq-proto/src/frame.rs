//! Cutting a byte stream into messages: one tag byte, a big-endian length that counts itself, a body.
//!
//! Invariant: the declared length is checked against [`Limits`] as soon as its four bytes are there, so a reader that
//! grows its buffer only while [`decode`] answers "need more" never holds more than one limit plus one read.

use bytes::{Buf, Bytes, BytesMut};

/// Bytes before a body: tag and length.
pub const HEADER_LEN: usize = 5;

/// The tag of CopyData, the only message whose limit differs.
const COPY_DATA: u8 = b'd';

/// The longest bodies a reader accepts, in bytes without tag and length.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// For every message but CopyData.
    pub message: usize,
    /// For CopyData.
    pub copy_data: usize,
}

impl Limits {
    /// What a client reads: results up to 16 MiB, CopyData up to 1 MiB (a stock sender's are 128 KiB).
    pub const CLIENT: Limits = Limits { message: 16 << 20, copy_data: 1 << 20 };
    /// What a server reads once somebody is known: 1 MiB.
    pub const SERVER: Limits = Limits { message: 1 << 20, copy_data: 1 << 20 };
    /// What a server reads before it knows who is there: room for a token, not for more.
    pub const UNAUTHENTICATED: Limits = Limits { message: 64 << 10, copy_data: 0 };
}

/// One message, not yet understood.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Frame {
    /// What kind of message; its meaning depends on the direction.
    pub tag: u8,
    /// The body, a slice of the buffer it was read into (which lives as long as the slice does).
    pub body: Bytes,
}

/// A length word that cannot be right. The stream cannot be resynchronised: close the connection.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Below 4 (the length counts itself).
    #[error("message {tag:?} declares an impossible length of {length} bytes; is the other side speaking PostgreSQL?")]
    Length {
        /// The message's tag as a character.
        tag: char,
        /// The length word.
        length: i32,
    },
    /// Above the limit.
    #[error("message {tag:?} of {length} bytes is above the limit of {limit} bytes")]
    TooLong {
        /// The message's tag as a character.
        tag: char,
        /// Bytes of the declared body.
        length: usize,
        /// The limit that applies to it.
        limit: usize,
    },
}

/// Takes the next message off the front of `buffer`; `None` if it is not complete yet (nothing is consumed or reserved).
pub fn decode(buffer: &mut BytesMut, limits: Limits) -> Result<Option<Frame>, FrameError> {
    let Some(header) = buffer.first_chunk::<HEADER_LEN>() else { return Ok(None) };
    let [tag, length @ ..] = *header;
    let length = i32::from_be_bytes(length);
    let body = match usize::try_from(length).ok().and_then(|length| length.checked_sub(4)) {
        Some(body) => body,
        None => return Err(FrameError::Length { tag: char::from(tag), length }),
    };
    let limit = if tag == COPY_DATA { limits.copy_data } else { limits.message };
    if body > limit {
        return Err(FrameError::TooLong { tag: char::from(tag), length: body, limit });
    }
    if buffer.len() < HEADER_LEN + body {
        return Ok(None);
    }
    buffer.advance(HEADER_LEN);
    Ok(Some(Frame { tag, body: buffer.split_to(body).freeze() }))
}

/// The five bytes before a CopyData payload of `payload` bytes, for sending a payload without copying it.
pub fn copy_data_header(payload: usize) -> [u8; HEADER_LEN] {
    let [a, b, c, d] = length_word(payload).to_be_bytes();
    [COPY_DATA, a, b, c, d]
}

/// The length word of a body. Bodies are made by us and bounded far below 2 GiB.
fn length_word(body: usize) -> i32 {
    let length = body.checked_add(4).and_then(|length| i32::try_from(length).ok());
    assert!(length.is_some(), "a message body of {body} bytes does not fit the protocol");
    length.unwrap_or(i32::MAX)
}

/// Appends one message whose body `fill` writes.
pub(crate) fn put(buffer: &mut BytesMut, tag: u8, fill: impl FnOnce(&mut BytesMut)) {
    let start = buffer.len();
    buffer.extend_from_slice(&[tag, 0, 0, 0, 0]);
    fill(buffer);
    let word = length_word(buffer.len() - start - HEADER_LEN);
    buffer[start + 1..start + HEADER_LEN].copy_from_slice(&word.to_be_bytes());
}

/// Appends a NUL-terminated text; NULs inside it, which would move every field after it, become spaces.
pub(crate) fn put_cstr(buffer: &mut BytesMut, text: &str) {
    buffer.extend(text.bytes().map(|b| if b == 0 { b' ' } else { b }));
    buffer.extend_from_slice(&[0]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SMALL: Limits = Limits { message: 16, copy_data: 32 };

    #[test]
    fn the_length_is_judged_before_the_body_arrives() {
        let mut buffer = BytesMut::from(&[b'Q', 0, 0, 0, 21][..]);
        assert_eq!(decode(&mut buffer, SMALL), Err(FrameError::TooLong { tag: 'Q', length: 17, limit: 16 }));
        let mut buffer = BytesMut::from(&[b'd', 0, 0, 0, 21][..]);
        assert_eq!(decode(&mut buffer, SMALL), Ok(None));
        for bad in [[0xff; 4], [0, 0, 0, 3], [0, 0, 0, 0]] {
            let mut buffer = BytesMut::from(&[&b"Q"[..], &bad].concat()[..]);
            assert!(matches!(decode(&mut buffer, SMALL), Err(FrameError::Length { .. })));
        }
    }

    proptest! {
        #[test]
        fn frames_survive_any_cutting(messages in prop::collection::vec((any::<u8>(), prop::collection::vec(any::<u8>(), 0..16)), 0..5), cut in 1usize..9) {
            let mut wire = BytesMut::new();
            for (tag, body) in &messages {
                put(&mut wire, *tag, |b| b.extend_from_slice(body));
            }
            let (mut buffer, mut seen) = (BytesMut::new(), Vec::new());
            for chunk in wire.chunks(cut) {
                buffer.extend_from_slice(chunk);
                while let Some(frame) = decode(&mut buffer, SMALL).unwrap() {
                    seen.push((frame.tag, frame.body.to_vec()));
                }
            }
            prop_assert_eq!(seen, messages);
            prop_assert!(buffer.is_empty());
        }

        #[test]
        fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let mut buffer = BytesMut::from(&bytes[..]);
            while let Ok(Some(frame)) = decode(&mut buffer, SMALL) {
                prop_assert!(frame.body.len() <= 32);
            }
        }
    }
}
