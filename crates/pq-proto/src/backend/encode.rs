//! Encoders of what a server says. Each appends one whole message; NULs inside texts become spaces.

use super::Report;
use crate::frame::{self, put, put_cstr};
use crate::startup::Negotiation;
use bytes::{BufMut, BytesMut};

/// A column of a result in text format.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Column<'a> {
    /// Its name.
    pub name: &'a str,
    /// OID of its type.
    pub type_oid: u32,
    /// Bytes of its type; -1 = variable.
    pub type_len: i16,
}

impl<'a> Column<'a> {
    /// `text`, OID 25.
    pub fn text(name: &'a str) -> Column<'a> {
        Column { name, type_oid: 25, type_len: -1 }
    }

    /// `int4`, OID 23.
    pub fn int4(name: &'a str) -> Column<'a> {
        Column { name, type_oid: 23, type_len: 4 }
    }

    /// `int8`, OID 20.
    pub fn int8(name: &'a str) -> Column<'a> {
        Column { name, type_oid: 20, type_len: 8 }
    }

    /// `bytea`, OID 17.
    pub fn bytea(name: &'a str) -> Column<'a> {
        Column { name, type_oid: 17, type_len: -1 }
    }
}

/// AuthenticationOk.
pub fn authentication_ok(buffer: &mut BytesMut) {
    put(buffer, b'R', |body| body.put_u32(0));
}

/// AuthenticationCleartextPassword.
pub fn authentication_cleartext_password(buffer: &mut BytesMut) {
    put(buffer, b'R', |body| body.put_u32(3));
}

/// ParameterStatus.
pub fn parameter_status(name: &str, value: &str, buffer: &mut BytesMut) {
    put(buffer, b'S', |body| {
        put_cstr(body, name);
        put_cstr(body, value);
    });
}

/// BackendKeyData with the 4-byte secret of protocol 3.0.
pub fn backend_key_data(pid: u32, key: u32, buffer: &mut BytesMut) {
    put(buffer, b'K', |body| {
        body.put_u32(pid);
        body.put_u32(key);
    });
}

/// ReadyForQuery outside a transaction.
pub fn ready_for_query(buffer: &mut BytesMut) {
    put(buffer, b'Z', |body| body.put_u8(b'I'));
}

/// RowDescription in text format, table OID and attribute number 0. At most 65535 columns.
pub fn row_description(columns: &[Column<'_>], buffer: &mut BytesMut) {
    put(buffer, b'T', |body| {
        body.put_u16(count(columns.len()));
        for column in columns {
            put_cstr(body, column.name);
            body.put_u32(0);
            body.put_u16(0);
            body.put_u32(column.type_oid);
            body.put_i16(column.type_len);
            body.put_i32(-1);
            body.put_u16(0);
        }
    });
}

/// DataRow; `None` is NULL. At most 65535 values.
pub fn data_row(values: &[Option<&[u8]>], buffer: &mut BytesMut) {
    put(buffer, b'D', |body| {
        body.put_u16(count(values.len()));
        for value in values {
            match value {
                None => body.put_i32(-1),
                Some(value) => {
                    let length = i32::try_from(value.len());
                    assert!(length.is_ok(), "a value of {} bytes does not fit the protocol", value.len());
                    body.put_i32(length.unwrap_or(i32::MAX));
                    body.put_slice(value);
                }
            }
        }
    });
}

fn count(items: usize) -> u16 {
    let count = u16::try_from(items);
    assert!(count.is_ok(), "{items} columns do not fit the protocol");
    count.unwrap_or(u16::MAX)
}

/// CommandComplete.
pub fn command_complete(tag: &str, buffer: &mut BytesMut) {
    put(buffer, b'C', |body| put_cstr(body, tag));
}

/// EmptyQueryResponse.
pub fn empty_query_response(buffer: &mut BytesMut) {
    put(buffer, b'I', |_| {});
}

/// ErrorResponse.
pub fn error_response(report: &Report, buffer: &mut BytesMut) {
    report.encode(b'E', buffer);
}

/// NoticeResponse.
pub fn notice_response(report: &Report, buffer: &mut BytesMut) {
    report.encode(b'N', buffer);
}

/// CopyBothResponse: text format, no columns.
pub fn copy_both_response(buffer: &mut BytesMut) {
    put(buffer, b'W', |body| body.put_slice(&[0, 0, 0]));
}

/// CopyData with a short payload; for large ones send [`frame::copy_data_header`] and the payload.
pub fn copy_data(payload: &[u8], buffer: &mut BytesMut) {
    buffer.put_slice(&frame::copy_data_header(payload.len()));
    buffer.put_slice(payload);
}

/// CopyDone.
pub fn copy_done(buffer: &mut BytesMut) {
    put(buffer, b'c', |_| {});
}

/// NegotiateProtocolVersion.
pub fn negotiate_protocol_version(negotiation: &Negotiation, buffer: &mut BytesMut) {
    put(buffer, b'v', |body| {
        body.put_u32(negotiation.supported);
        let options = &negotiation.unknown_options;
        body.put_u32(u32::from(count(options.len())));
        for option in options {
            put_cstr(body, option);
        }
    });
}
