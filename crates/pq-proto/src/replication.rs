//! What travels inside CopyData while WAL is streamed: the format of PostgreSQL's documentation, "Streaming Replication
//! Protocol". All integers are big-endian; positions are byte positions in the WAL.
//!
//! A payload's first byte is its kind. XLogData can be encoded as a header alone, so that WAL bytes are sent from where
//! they are. Nothing here judges a position.

use crate::cursor::{BodyError, Cursor};
use crate::frame;
use bytes::{BufMut, Bytes, BytesMut};
use lsn::Lsn;
use std::time::{Duration, SystemTime};

/// Bytes of an XLogData before the WAL: kind, begin, end, time.
pub const XLOG_DATA_HEADER_LEN: usize = 25;
/// Bytes of a whole CopyData message before the WAL.
pub const XLOG_DATA_FRAME_LEN: usize = frame::HEADER_LEN + XLOG_DATA_HEADER_LEN;

/// Seconds from 1970-01-01 to 2000-01-01, both UTC.
const PG_EPOCH: Duration = Duration::from_secs(946_684_800);

/// A moment: microseconds since 2000-01-01 00:00 UTC, negative before.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct PgTime(pub i64);

impl From<SystemTime> for PgTime {
    /// Whole microseconds; a moment out of range becomes the nearest one.
    fn from(time: SystemTime) -> PgTime {
        let micros = |span: Duration| i64::try_from(span.as_micros()).unwrap_or(i64::MAX);
        let epoch = SystemTime::UNIX_EPOCH + PG_EPOCH;
        PgTime(match time.duration_since(epoch) {
            Ok(after) => micros(after),
            Err(before) => -micros(before.duration()),
        })
    }
}

impl PgTime {
    /// The moment as the system counts; `None` if the system cannot.
    pub fn to_system_time(self) -> Option<SystemTime> {
        let span = Duration::from_micros(self.0.unsigned_abs());
        let epoch = SystemTime::UNIX_EPOCH.checked_add(PG_EPOCH)?;
        if self.0 >= 0 { epoch.checked_add(span) } else { epoch.checked_sub(span) }
    }
}

/// A payload that is not what it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReplicationError {
    /// An unknown kind byte.
    #[error("unknown message {0:?} inside the replication stream")]
    Kind(char),
    /// The payload is empty.
    #[error("an empty message inside the replication stream")]
    Empty,
    /// The inside does not fit.
    #[error(transparent)]
    Body(#[from] BodyError),
}

/// A payload from the server.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ServerCopy {
    /// `w`: WAL.
    XLogData(XLogData),
    /// `k`: how far the server is.
    Keepalive(Keepalive),
}

/// A piece of WAL.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct XLogData {
    /// Position of the first byte.
    pub begin: Lsn,
    /// The server's current end of what it may send.
    pub end_of_server: Lsn,
    /// When it was sent, by the server's clock.
    pub time: PgTime,
    /// The WAL; a slice of the buffer it was read into.
    pub data: Bytes,
}

/// A keepalive from the server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Keepalive {
    /// The position sent so far.
    pub end: Lsn,
    /// When it was sent, by the server's clock.
    pub time: PgTime,
    /// Whether the server wants a status now.
    pub reply_requested: bool,
}

/// A payload from the client.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ClientCopy {
    /// `r`: how far the client is.
    Status(StandbyStatus),
    /// `h`: the oldest transactions its queries need.
    Feedback(HotStandbyFeedback),
    /// `z`: a pageserver's feedback, not understood here (without kind and length).
    Pageserver(Bytes),
}

/// A standby status update. Each position is one past the last byte; 0 = unknown.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct StandbyStatus {
    /// Written up to here.
    pub write: Lsn,
    /// Durable up to here.
    pub flush: Lsn,
    /// Replayed up to here.
    pub apply: Lsn,
    /// When it was sent, by the client's clock.
    pub time: PgTime,
    /// Whether the client wants a keepalive now.
    pub reply_requested: bool,
}

/// Hot-standby feedback; all zeros withdraw it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct HotStandbyFeedback {
    /// When it was sent, by the client's clock.
    pub time: PgTime,
    /// Oldest transaction id needed; 0 = none.
    pub xmin: u32,
    /// Epoch of `xmin`.
    pub xmin_epoch: u32,
    /// Oldest transaction id needed in the catalogs; 0 = none.
    pub catalog_xmin: u32,
    /// Epoch of `catalog_xmin`.
    pub catalog_xmin_epoch: u32,
}

impl ServerCopy {
    /// Understands a CopyData payload from a server.
    pub fn decode(payload: Bytes) -> Result<ServerCopy, ReplicationError> {
        let mut body = Cursor::new("a replication message", payload);
        if body.is_empty() {
            return Err(ReplicationError::Empty);
        }
        match body.u8()? {
            b'w' => Ok(ServerCopy::XLogData(XLogData {
                begin: Lsn(body.u64()?),
                end_of_server: Lsn(body.u64()?),
                time: PgTime(body.i64()?),
                data: body.remaining(),
            })),
            b'k' => {
                let (end, time, reply) = (Lsn(body.u64()?), PgTime(body.i64()?), body.u8()?);
                body.finish()?;
                Ok(ServerCopy::Keepalive(Keepalive { end, time, reply_requested: reply != 0 }))
            }
            other => Err(ReplicationError::Kind(char::from(other))),
        }
    }
}

impl ClientCopy {
    /// Understands a CopyData payload from a client.
    pub fn decode(payload: Bytes) -> Result<ClientCopy, ReplicationError> {
        let mut body = Cursor::new("a replication message", payload);
        if body.is_empty() {
            return Err(ReplicationError::Empty);
        }
        match body.u8()? {
            b'r' => {
                let status = StandbyStatus {
                    write: Lsn(body.u64()?),
                    flush: Lsn(body.u64()?),
                    apply: Lsn(body.u64()?),
                    time: PgTime(body.i64()?),
                    reply_requested: body.u8()? != 0,
                };
                body.finish()?;
                Ok(ClientCopy::Status(status))
            }
            b'h' => {
                let feedback = HotStandbyFeedback {
                    time: PgTime(body.i64()?),
                    xmin: body.u32()?,
                    xmin_epoch: body.u32()?,
                    catalog_xmin: body.u32()?,
                    catalog_xmin_epoch: body.u32()?,
                };
                body.finish()?;
                Ok(ClientCopy::Feedback(feedback))
            }
            b'z' => {
                let length = body.u64()?;
                let length = usize::try_from(length).map_err(|_| BodyError::Truncated("a pageserver feedback"))?;
                let feedback = body.take(length)?;
                body.finish()?;
                Ok(ClientCopy::Pageserver(feedback))
            }
            other => Err(ReplicationError::Kind(char::from(other))),
        }
    }
}

/// The 30 bytes that stand before `data_len` bytes of WAL on the wire: CopyData's tag and length, XLogData's header.
pub fn xlog_data_frame(begin: Lsn, end_of_server: Lsn, time: PgTime, data_len: usize) -> [u8; XLOG_DATA_FRAME_LEN] {
    let mut header = [0; XLOG_DATA_FRAME_LEN];
    let mut rest = &mut header[..];
    rest.put_slice(&frame::copy_data_header(XLOG_DATA_HEADER_LEN + data_len));
    rest.put_u8(b'w');
    rest.put_u64(begin.0);
    rest.put_u64(end_of_server.0);
    rest.put_i64(time.0);
    header
}

impl Keepalive {
    /// Appends the keepalive as a CopyData message.
    pub fn encode(&self, buffer: &mut BytesMut) {
        frame::put(buffer, b'd', |body| {
            body.put_u8(b'k');
            body.put_u64(self.end.0);
            body.put_i64(self.time.0);
            body.put_u8(u8::from(self.reply_requested));
        });
    }
}

impl StandbyStatus {
    /// Appends the status as a CopyData message.
    pub fn encode(&self, buffer: &mut BytesMut) {
        frame::put(buffer, b'd', |body| {
            body.put_u8(b'r');
            body.put_u64(self.write.0);
            body.put_u64(self.flush.0);
            body.put_u64(self.apply.0);
            body.put_i64(self.time.0);
            body.put_u8(u8::from(self.reply_requested));
        });
    }
}

impl HotStandbyFeedback {
    /// Appends the feedback as a CopyData message.
    pub fn encode(&self, buffer: &mut BytesMut) {
        frame::put(buffer, b'd', |body| {
            body.put_u8(b'h');
            body.put_i64(self.time.0);
            for field in [self.xmin, self.xmin_epoch, self.catalog_xmin, self.catalog_xmin_epoch] {
                body.put_u32(field);
            }
        });
    }
}

/// Appends a pageserver feedback as a CopyData message: kind, length, content.
pub fn encode_pageserver_feedback(content: &[u8], buffer: &mut BytesMut) {
    frame::put(buffer, b'd', |body| {
        body.put_u8(b'z');
        body.put_u64(content.len() as u64);
        body.put_slice(content);
    });
}

#[cfg(test)]
#[path = "replication_test.rs"]
mod tests;
