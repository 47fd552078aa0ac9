//! Server to client: the server encodes ([`encode`]), the client decodes ([`BackendMessage`]).
//!
//! Large bodies (CopyData, rows) stay slices of the input; short texts are copied out. [`Report`] is the body of
//! ErrorResponse and NoticeResponse in both directions.

pub mod encode;
mod report;
mod row;

pub use report::{Report, Severity};
pub use row::{DataRow, RowDescription};

use crate::cursor::{BodyError, Cursor};
use crate::frame::{self, Frame, FrameError, Limits};
use bytes::{Bytes, BytesMut};

/// One message from a server.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum BackendMessage {
    /// `R`: what the server wants to know, or that it knows enough.
    Authentication(Authentication),
    /// `S`: a setting and its value.
    ParameterStatus {
        /// The setting's name.
        name: String,
        /// Its value now.
        value: String,
    },
    /// `K`: how to cancel this session.
    BackendKeyData {
        /// Process id of the session.
        pid: u32,
        /// Its secret: 4 bytes before protocol 3.2.
        key: Bytes,
    },
    /// `Z`: the server waits for a command.
    ReadyForQuery(TransactionStatus),
    /// `T`: what the columns of the rows to come are.
    RowDescription(RowDescription),
    /// `D`: a row.
    DataRow(DataRow),
    /// `C`: a command is done; its tag.
    CommandComplete(String),
    /// `I`: the command was empty.
    EmptyQueryResponse,
    /// `E`: it failed.
    ErrorResponse(Report),
    /// `N`: a warning or a note.
    NoticeResponse(Report),
    /// `W`: CopyData in both directions from now on.
    CopyBothResponse,
    /// `H`: CopyData from the server from now on.
    CopyOutResponse,
    /// `G`: CopyData from the client from now on.
    CopyInResponse,
    /// `d`: a piece of a COPY; see [`crate::replication::ServerCopy`].
    CopyData(Bytes),
    /// `c`: the server's side of the COPY is finished.
    CopyDone,
    /// `v`: the server speaks an older minor version, or does not know some options.
    NegotiateProtocolVersion {
        /// The version it speaks.
        supported: u32,
        /// The options it does not know.
        unknown_options: Vec<String>,
    },
    /// Anything else, by tag.
    Other(u8),
}

/// What an Authentication message asks for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Authentication {
    /// 0: nothing more.
    Ok,
    /// 3: the password in clear text.
    CleartextPassword,
    /// 5: the password hashed with this salt.
    Md5Password {
        /// Four random bytes.
        salt: [u8; 4],
    },
    /// 10: SASL, with one of these mechanisms.
    Sasl {
        /// In the server's order of preference.
        mechanisms: Vec<String>,
    },
    /// 11: the server's next SASL data.
    SaslContinue(Bytes),
    /// 12: the server's last SASL data.
    SaslFinal(Bytes),
    /// A method that is not spoken here (Kerberos, GSSAPI, SSPI, …), by number.
    Unsupported(u32),
}

/// The state ReadyForQuery reports.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TransactionStatus {
    /// `I`: outside a transaction.
    Idle,
    /// `T`: inside one.
    InTransaction,
    /// `E`: inside a failed one.
    Failed,
}

/// A message that cannot be understood. Close the connection.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BackendError {
    /// The length is impossible.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The inside does not fit.
    #[error(transparent)]
    Body(#[from] BodyError),
}

/// Takes the next message off `buffer`; `None` if it is not complete yet.
pub fn decode(buffer: &mut BytesMut, limits: Limits) -> Result<Option<BackendMessage>, BackendError> {
    match frame::decode(buffer, limits)? {
        Some(frame) => Ok(Some(BackendMessage::from_frame(frame)?)),
        None => Ok(None),
    }
}

impl BackendMessage {
    /// Understands one frame.
    pub fn from_frame(frame: Frame) -> Result<BackendMessage, BodyError> {
        let Frame { tag, body } = frame;
        let empty = |what, message| Cursor::new(what, body.clone()).finish().map(|()| message);
        match tag {
            b'd' => Ok(BackendMessage::CopyData(body)),
            b'D' => DataRow::decode(body).map(BackendMessage::DataRow),
            b'T' => RowDescription::decode(body).map(BackendMessage::RowDescription),
            b'E' => Report::decode(body).map(BackendMessage::ErrorResponse),
            b'N' => Report::decode(body).map(BackendMessage::NoticeResponse),
            b'R' => Authentication::decode(body).map(BackendMessage::Authentication),
            b'S' => parameter_status(body),
            b'K' => backend_key_data(body),
            b'Z' => ready_for_query(body),
            b'C' => command_complete(body),
            b'v' => negotiate_protocol_version(body),
            b'W' => Ok(BackendMessage::CopyBothResponse),
            b'H' => Ok(BackendMessage::CopyOutResponse),
            b'G' => Ok(BackendMessage::CopyInResponse),
            b'c' => empty("CopyDone", BackendMessage::CopyDone),
            b'I' => empty("EmptyQueryResponse", BackendMessage::EmptyQueryResponse),
            other => Ok(BackendMessage::Other(other)),
        }
    }

    /// The message's name, for errors about one that came at the wrong time.
    pub fn name(&self) -> &'static str {
        match self {
            BackendMessage::Authentication(_) => "Authentication",
            BackendMessage::ParameterStatus { .. } => "ParameterStatus",
            BackendMessage::BackendKeyData { .. } => "BackendKeyData",
            BackendMessage::ReadyForQuery(_) => "ReadyForQuery",
            BackendMessage::RowDescription(_) => "RowDescription",
            BackendMessage::DataRow(_) => "DataRow",
            BackendMessage::CommandComplete(_) => "CommandComplete",
            BackendMessage::EmptyQueryResponse => "EmptyQueryResponse",
            BackendMessage::ErrorResponse(_) => "ErrorResponse",
            BackendMessage::NoticeResponse(_) => "NoticeResponse",
            BackendMessage::CopyBothResponse => "CopyBothResponse",
            BackendMessage::CopyOutResponse => "CopyOutResponse",
            BackendMessage::CopyInResponse => "CopyInResponse",
            BackendMessage::CopyData(_) => "CopyData",
            BackendMessage::CopyDone => "CopyDone",
            BackendMessage::NegotiateProtocolVersion { .. } => "NegotiateProtocolVersion",
            BackendMessage::Other(_) => "an unknown message",
        }
    }
}

impl Authentication {
    fn decode(body: Bytes) -> Result<Authentication, BodyError> {
        let mut body = Cursor::new("Authentication", body);
        let kind = body.u32()?;
        let authentication = match kind {
            0 => Authentication::Ok,
            3 => Authentication::CleartextPassword,
            5 => {
                let [a, b, c, d] = body.u32()?.to_be_bytes();
                Authentication::Md5Password { salt: [a, b, c, d] }
            }
            10 => {
                let mut mechanisms = Vec::new();
                loop {
                    match body.cstr()? {
                        name if name.is_empty() => break,
                        name => mechanisms.push(name),
                    }
                }
                Authentication::Sasl { mechanisms }
            }
            11 => return Ok(Authentication::SaslContinue(body.remaining())),
            12 => return Ok(Authentication::SaslFinal(body.remaining())),
            other => return Ok(Authentication::Unsupported(other)),
        };
        body.finish()?;
        Ok(authentication)
    }
}

fn parameter_status(body: Bytes) -> Result<BackendMessage, BodyError> {
    let mut body = Cursor::new("ParameterStatus", body);
    let (name, value) = (body.cstr_lossy()?, body.cstr_lossy()?);
    body.finish()?;
    Ok(BackendMessage::ParameterStatus { name, value })
}

fn backend_key_data(body: Bytes) -> Result<BackendMessage, BodyError> {
    let mut body = Cursor::new("BackendKeyData", body);
    let pid = body.u32()?;
    Ok(BackendMessage::BackendKeyData { pid, key: body.remaining() })
}

fn ready_for_query(body: Bytes) -> Result<BackendMessage, BodyError> {
    let mut body = Cursor::new("ReadyForQuery", body);
    let status = match body.u8()? {
        b'I' => TransactionStatus::Idle,
        b'T' => TransactionStatus::InTransaction,
        b'E' => TransactionStatus::Failed,
        other => return Err(BodyError::Value { what: "ReadyForQuery's status", value: i64::from(other) }),
    };
    body.finish()?;
    Ok(BackendMessage::ReadyForQuery(status))
}

fn command_complete(body: Bytes) -> Result<BackendMessage, BodyError> {
    let mut body = Cursor::new("CommandComplete", body);
    let tag = body.cstr_lossy()?;
    body.finish()?;
    Ok(BackendMessage::CommandComplete(tag))
}

fn negotiate_protocol_version(body: Bytes) -> Result<BackendMessage, BodyError> {
    let mut body = Cursor::new("NegotiateProtocolVersion", body);
    let (supported, count) = (body.u32()?, body.u32()?);
    let mut unknown_options = Vec::new();
    // The count is not trusted with memory: each option must really be there.
    for _ in 0..count {
        unknown_options.push(body.cstr_lossy()?);
    }
    body.finish()?;
    Ok(BackendMessage::NegotiateProtocolVersion { supported, unknown_options })
}

#[cfg(test)]
#[path = "backend_test.rs"]
mod tests;
