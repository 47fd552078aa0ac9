//! The first packet of a connection, as the server reads it and the client writes it.
//!
//! The packet has no tag: a length that counts itself (8 to 10000, as PostgreSQL allows), a code, and for a start-up
//! message NUL-terminated keys and values. PostgreSQL's `backend_startup.c` and `pqcomm.h` are the source of the format.
//! Which cluster, role or right the parameters select is not known here.

use crate::cursor::{BodyError, Cursor};
use bytes::{Buf, Bytes, BytesMut};

/// The highest protocol this server speaks, as NegotiateProtocolVersion carries it.
pub const SUPPORTED_PROTOCOL: u32 = 3 << 16;
/// Shortest and longest packet, length word included.
pub const PACKET_LEN: std::ops::RangeInclusive<usize> = 8..=10_000;

const CANCEL_REQUEST: u32 = (1234 << 16) | 5678;
const SSL_REQUEST: u32 = (1234 << 16) | 5679;
const GSSENC_REQUEST: u32 = (1234 << 16) | 5680;
/// First byte of a TLS record that carries a ClientHello.
const TLS_HANDSHAKE: u8 = 0x16;

/// What the first packet of a connection asks for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum FirstPacket {
    /// Answer one byte: `S` and start TLS, or `N`. Then the next first packet comes.
    Ssl,
    /// Answer `N`; then the next first packet comes.
    GssEnc,
    /// A TLS handshake without asking first. Nothing was taken from the buffer: its bytes belong to TLS.
    DirectTls,
    /// Cancel what a session does. Close without an answer.
    Cancel {
        /// The session's process id from BackendKeyData.
        pid: u32,
        /// Its secret: 4 bytes before protocol 3.2, up to 256 after.
        key: Bytes,
    },
    /// A start-up message.
    Startup(Startup),
}

/// A start-up message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Startup {
    /// Requested version: major in the upper, minor in the lower 16 bits. The major is 3.
    pub protocol: u32,
    /// Keys and values in the order sent.
    pub parameters: Vec<(String, String)>,
}

/// The start-up option `replication`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Replication {
    /// An ordinary SQL session.
    No,
    /// A physical walsender.
    Physical,
    /// A walsender bound to a database.
    Database,
}

/// What NegotiateProtocolVersion must say.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Negotiation {
    /// [`SUPPORTED_PROTOCOL`], a full version number.
    pub supported: u32,
    /// The `_pq_.` options nobody here knows.
    pub unknown_options: Vec<String>,
}

/// A first packet that cannot be served.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StartupError {
    /// The length word is out of [`PACKET_LEN`].
    #[error("a start-up packet of {0} bytes is not between 8 and 10000 bytes; is this a PostgreSQL client?")]
    Length(i64),
    /// The major version is not 3.
    #[error("protocol version {major}.{minor} is not supported, only version 3")]
    Protocol {
        /// Major version asked for.
        major: u32,
        /// Minor version asked for.
        minor: u32,
    },
    /// `replication` is neither a boolean nor `database`.
    #[error("{0:?} is not a value for the start-up option replication: expected a boolean or database")]
    Replication(String),
    /// The inside is damaged.
    #[error(transparent)]
    Body(#[from] BodyError),
}

/// Takes the first packet off `buffer`; `None` if it is not complete yet.
pub fn decode(buffer: &mut BytesMut) -> Result<Option<FirstPacket>, StartupError> {
    if buffer.first() == Some(&TLS_HANDSHAKE) {
        return Ok(Some(FirstPacket::DirectTls));
    }
    let Some(word) = buffer.first_chunk::<4>() else { return Ok(None) };
    let word = i32::from_be_bytes(*word);
    let length = usize::try_from(word).ok().filter(|length| PACKET_LEN.contains(length));
    let Some(length) = length else { return Err(StartupError::Length(i64::from(word))) };
    if buffer.len() < length {
        return Ok(None);
    }
    buffer.advance(4);
    let mut body = Cursor::new("the start-up packet", buffer.split_to(length - 4).freeze());
    match body.u32()? {
        SSL_REQUEST => body.finish().map(|()| Some(FirstPacket::Ssl)).map_err(Into::into),
        GSSENC_REQUEST => body.finish().map(|()| Some(FirstPacket::GssEnc)).map_err(Into::into),
        CANCEL_REQUEST => Ok(Some(FirstPacket::Cancel { pid: body.u32()?, key: body.remaining() })),
        protocol if protocol >> 16 == 3 => parameters(protocol, body).map(|s| Some(FirstPacket::Startup(s))),
        other => Err(StartupError::Protocol { major: other >> 16, minor: other & 0xFFFF }),
    }
}

fn parameters(protocol: u32, mut body: Cursor) -> Result<Startup, StartupError> {
    let mut parameters = Vec::new();
    loop {
        let key = body.cstr()?;
        if key.is_empty() {
            body.finish()?;
            return Ok(Startup { protocol, parameters });
        }
        parameters.push((key, body.cstr()?));
    }
}

impl Startup {
    /// A parameter's value; the last one counts, as in PostgreSQL.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.parameters.iter().rev().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    /// What kind of session is asked for. Boolean spellings are PostgreSQL's: any case, unambiguous prefixes.
    pub fn replication(&self) -> Result<Replication, StartupError> {
        let Some(value) = self.get("replication") else { return Ok(Replication::No) };
        let lower = value.to_ascii_lowercase();
        let prefix_of = |word: &str, least: usize| lower.len() >= least && word.starts_with(&lower);
        if lower == "database" {
            Ok(Replication::Database)
        } else if lower == "1" || prefix_of("true", 1) || prefix_of("yes", 1) || prefix_of("on", 2) {
            Ok(Replication::Physical)
        } else if lower == "0" || prefix_of("false", 1) || prefix_of("no", 1) || prefix_of("off", 2) {
            Ok(Replication::No)
        } else {
            Err(StartupError::Replication(value.chars().take(40).collect()))
        }
    }

    /// What must be negotiated down: a minor version above ours or `_pq_.` options. `None` if the client asked for
    /// nothing unknown.
    pub fn negotiation(&self) -> Option<Negotiation> {
        let unknown: Vec<String> =
            self.parameters.iter().map(|(key, _)| key).filter(|key| key.starts_with("_pq_.")).cloned().collect();
        (self.protocol > SUPPORTED_PROTOCOL || !unknown.is_empty())
            .then_some(Negotiation { supported: SUPPORTED_PROTOCOL, unknown_options: unknown })
    }

    /// The settings inside the parameter `options`, in order; see [`split_options`].
    pub fn options(&self) -> Vec<(String, String)> {
        self.get("options").map(split_options).unwrap_or_default()
    }
}

/// Splits a server's command line as the `options` parameter carries it: tokens at white space, a backslash keeps the
/// next character. `-c key=value`, `-ckey=value`, `--key=value` and the bare `key=value` of other proposers become pairs;
/// anything else is skipped. After `-c` and `--` a dash in a key means an underscore, as in PostgreSQL.
pub fn split_options(text: &str) -> Vec<(String, String)> {
    let mut pairs = Vec::new();
    for token in tokens(text) {
        let (setting, dashed) = match token.strip_prefix("--").or_else(|| token.strip_prefix("-c")) {
            Some(rest) => (rest, true),
            None if token.starts_with('-') => continue,
            None => (token.as_str(), false),
        };
        if let Some((key, value)) = setting.split_once('=').filter(|(key, _)| !key.is_empty()) {
            let key = if dashed { key.replace('-', "_") } else { key.to_owned() };
            pairs.push((key, value.to_owned()));
        }
    }
    pairs
}

/// Writes pairs so that [`split_options`], and PostgreSQL, read them back: `-c key=value`, white space and backslashes
/// escaped.
pub fn join_options<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
    let mut text = String::new();
    for (key, value) in pairs {
        if !text.is_empty() {
            text.push(' ');
        }
        text.push_str("-c ");
        for c in key.chars().chain(['=']).chain(value.chars()) {
            if c.is_ascii_whitespace() || c == '\x0b' || c == '\\' {
                text.push('\\');
            }
            text.push(c);
        }
    }
    text
}

fn tokens(text: &str) -> Vec<String> {
    let (mut tokens, mut token, mut inside) = (Vec::new(), String::new(), false);
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c.is_ascii_whitespace() || c == '\x0b' {
            if std::mem::take(&mut inside) {
                tokens.push(std::mem::take(&mut token));
            }
            continue;
        }
        inside = true;
        token.extend(if c == '\\' { chars.next() } else { Some(c) });
    }
    if inside {
        tokens.push(token);
    }
    tokens
}

/// Appends a start-up message of protocol 3.0.
///
/// # Errors
/// A NUL in a key or value.
pub fn encode<'a>(
    parameters: impl IntoIterator<Item = (&'a str, &'a str)>,
    buffer: &mut BytesMut,
) -> Result<(), crate::frontend::EncodeError> {
    postgres_protocol::message::frontend::startup_message(parameters, buffer).map_err(|_| crate::frontend::EncodeError)
}

/// Appends an SSLRequest. The answer is one raw byte; read no more than that before TLS starts.
pub fn encode_ssl_request(buffer: &mut BytesMut) {
    postgres_protocol::message::frontend::ssl_request(buffer);
}

#[cfg(test)]
#[path = "startup_test.rs"]
mod tests;
