//! [`Connection`]: an authenticated connection; simple queries, messages of a COPY, and its two halves.

use crate::Error;
use crate::stream::{Incoming, Stream};
use bytes::{Buf, Bytes, BytesMut};
use pq_proto::backend::{BackendMessage, DataRow};
use pq_proto::frontend;
use std::collections::{BTreeMap, VecDeque};
use std::io::IoSlice;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::io::AsyncWriteExt;

/// Most bytes of values in one result of [`Connection::simple_query`].
const MAX_RESULT: usize = 16 << 20;
/// What a row costs beside its values, so that very many empty rows are bounded too.
const ROW_COST: usize = 64;
/// Slices given to the system at once; the limit of every system is higher.
const MAX_SLICES: usize = 64;

/// The settings a server reported, by name.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Parameters(BTreeMap<String, String>);

impl Parameters {
    /// One setting, such as `server_version`.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// The leading number of `server_version`: 15 for `15.18 (Debian …)`, `15beta2` and `15devel`; `None` where it has
    /// none.
    pub fn server_major(&self) -> Option<u32> {
        let version = self.get("server_version")?;
        version.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Keeps a reported setting. A server reports about a dozen; a thousand is a flood.
    pub(crate) fn set(&mut self, name: String, value: String) {
        if self.0.len() < 1000 || self.0.contains_key(&name) {
            self.0.insert(name, value);
        }
    }
}

/// One row of a simple query.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Row {
    names: Arc<[String]>,
    values: DataRow,
}

impl Row {
    /// A value by its place, as text; `None` for NULL, for no such column and for what is not UTF-8.
    pub fn text(&self, column: usize) -> Option<&str> {
        self.values.text(column)
    }

    /// A value by its column's name, as text; `None` as for [`Row::text`].
    pub fn get(&self, name: &str) -> Option<&str> {
        self.text(self.names.iter().position(|column| column == name)?)
    }

    /// A value by its place, byte for byte; `None` for NULL and no such column.
    pub fn bytes(&self, column: usize) -> Option<&Bytes> {
        self.values.values().get(column)?.as_ref()
    }

    /// How many columns there are.
    pub fn len(&self) -> usize {
        self.values.values().len()
    }

    /// Whether there is no column.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The columns' names.
    pub fn names(&self) -> &[String] {
        &self.names
    }
}

/// What is known about a connection besides its bytes.
#[derive(Debug, Default)]
pub(crate) struct Facts {
    pub(crate) host: String,
    pub(crate) peer: Option<SocketAddr>,
    pub(crate) backend_pid: Option<u32>,
    pub(crate) is_encrypted: bool,
    pub(crate) parameters: Parameters,
}

/// An authenticated connection.
#[derive(Debug)]
pub struct Connection {
    read: ReadHalf,
    write: WriteHalf,
    facts: Facts,
    /// Set while a query's answer is outstanding; stays set if the query was abandoned.
    in_query: bool,
}

impl Connection {
    pub(crate) fn new(stream: Stream, incoming: Incoming, facts: Facts) -> Connection {
        let (reader, writer) = tokio::io::split(stream);
        Connection {
            read: ReadHalf { reader, incoming, is_closed: false },
            write: WriteHalf { writer, queue: VecDeque::new(), tail: BytesMut::new(), queued: 0, is_closed: false },
            facts,
            in_query: false,
        }
    }

    /// The host as configured, with its port.
    pub fn host(&self) -> &str {
        &self.facts.host
    }

    /// The server's address; `None` over a Unix socket.
    pub fn peer_addr(&self) -> Option<SocketAddr> {
        self.facts.peer
    }

    /// The server process behind this connection, where the server says so.
    pub fn backend_pid(&self) -> Option<u32> {
        self.facts.backend_pid
    }

    /// Whether TLS is used.
    pub fn is_encrypted(&self) -> bool {
        self.facts.is_encrypted
    }

    /// The settings the server reported so far to this value (not to a [`ReadHalf`]).
    pub fn parameters(&self) -> &Parameters {
        &self.facts.parameters
    }

    /// Whether the connection is known to be of no use any more. Only reading and writing notice a broken one.
    pub fn is_closed(&self) -> bool {
        self.read.is_closed || self.write.is_closed
    }

    /// Runs one command and gives its rows; several results are strung together. At most 16 MiB of values.
    ///
    /// Not to be cancelled: whoever drops it half-way must drop the connection too (later queries fail).
    ///
    /// # Errors
    /// [`Error::Server`] leaves the connection usable unless the report is fatal; every other error does not.
    pub async fn simple_query(&mut self, text: &str) -> Result<Vec<Row>, Error> {
        if self.in_query {
            return Err(Error::Abandoned);
        }
        frontend::encode_query(text, self.write.buffer())?;
        self.in_query = true;
        self.write.flush().await?;
        let (mut rows, mut size, mut failure) = (Vec::new(), 0, None);
        let mut names: Arc<[String]> = Arc::new([]);
        loop {
            let message = match self.recv().await {
                // What the server said last explains why it closed the connection.
                Err(Error::Closed) if failure.is_some() => break,
                message => message?,
            };
            match message {
                BackendMessage::RowDescription(description) => names = description.names().into(),
                BackendMessage::DataRow(values) => {
                    let bytes: usize = values.values().iter().flatten().map(Bytes::len).sum();
                    size += bytes + ROW_COST + size_of_val(values.values());
                    if size > MAX_RESULT {
                        self.read.is_closed = true;
                        return Err(Error::TooLarge(MAX_RESULT));
                    }
                    rows.push(Row { names: Arc::clone(&names), values });
                }
                BackendMessage::ErrorResponse(report) => failure = Some(report),
                BackendMessage::CommandComplete(_) | BackendMessage::EmptyQueryResponse => {}
                BackendMessage::NoticeResponse(report) => tracing::debug!(host = self.facts.host, "{report}"),
                BackendMessage::ParameterStatus { .. } => {}
                BackendMessage::ReadyForQuery(_) => {
                    self.in_query = false;
                    break;
                }
                other => {
                    self.read.is_closed = true;
                    return Err(Error::Unexpected(other.name()));
                }
            }
        }
        match failure {
            Some(report) => Err(Error::Server(Box::new(report))),
            None => Ok(rows),
        }
    }

    /// The next message, whatever it is; reported settings are also kept. May be cancelled without loss.
    pub async fn recv(&mut self) -> Result<BackendMessage, Error> {
        let message = self.read.recv().await?;
        if let BackendMessage::ParameterStatus { name, value } = &message {
            self.facts.parameters.set(name.clone(), value.clone());
        }
        Ok(message)
    }

    /// The sending half, to queue messages and flush them.
    pub fn writer(&mut self) -> &mut WriteHalf {
        &mut self.write
    }

    /// Two halves for two tasks, or two branches of one select.
    pub fn split(self) -> (ReadHalf, WriteHalf) {
        (self.read, self.write)
    }

    /// The two halves without giving the connection up.
    pub fn halves(&mut self) -> (&mut ReadHalf, &mut WriteHalf) {
        (&mut self.read, &mut self.write)
    }

    /// Says goodbye and closes. A server that is gone already is no error.
    pub async fn close(mut self) {
        frontend::encode_terminate(self.write.buffer());
        if self.write.flush().await.is_ok() {
            let _ = self.write.writer.shutdown().await;
        }
    }
}

/// The receiving half.
#[derive(Debug)]
pub struct ReadHalf {
    reader: tokio::io::ReadHalf<Stream>,
    incoming: Incoming,
    is_closed: bool,
}

impl ReadHalf {
    /// The next message; payloads are slices of the read buffer. May be cancelled without loss.
    ///
    /// # Errors
    /// The connection is of no use any more.
    pub async fn recv(&mut self) -> Result<BackendMessage, Error> {
        let result = self.incoming.next(&mut self.reader).await;
        self.is_closed |= result.is_err();
        result
    }

    /// The next message if it has been read already: lets a caller take all that one read brought.
    ///
    /// # Errors
    /// The connection is of no use any more.
    pub fn try_recv(&mut self) -> Result<Option<BackendMessage>, Error> {
        let result = self.incoming.buffered();
        self.is_closed |= result.is_err();
        result
    }

    /// Whether receiving has failed.
    pub fn is_closed(&self) -> bool {
        self.is_closed
    }
}

/// The sending half: a queue of bytes, written in order by [`WriteHalf::flush`].
#[derive(Debug)]
pub struct WriteHalf {
    writer: tokio::io::WriteHalf<Stream>,
    queue: VecDeque<Bytes>,
    /// Messages appended after the queue's last entry.
    tail: BytesMut,
    /// Bytes in `queue`.
    queued: usize,
    is_closed: bool,
}

impl WriteHalf {
    /// Where encoders append whole messages.
    pub fn buffer(&mut self) -> &mut BytesMut {
        &mut self.tail
    }

    /// Queues bytes without copying them: a header's payload, right after the header.
    pub fn feed(&mut self, bytes: Bytes) {
        self.seal();
        self.push(bytes);
    }

    /// How many bytes wait to be written; keep it bounded.
    pub fn queued(&self) -> usize {
        self.queued + self.tail.len()
    }

    /// Writes everything queued, many slices at a time. If cancelled, the next call goes on where this one stopped.
    ///
    /// # Errors
    /// The connection is of no use any more.
    pub async fn flush(&mut self) -> Result<(), Error> {
        let result = self.write_queue().await;
        self.is_closed |= result.is_err();
        result
    }

    /// Copies slices into the queue and writes everything.
    ///
    /// # Errors
    /// As [`WriteHalf::flush`].
    pub async fn send(&mut self, slices: &[IoSlice<'_>]) -> Result<(), Error> {
        for slice in slices {
            self.tail.extend_from_slice(slice);
        }
        self.flush().await
    }

    /// Whether sending has failed.
    pub fn is_closed(&self) -> bool {
        self.is_closed
    }

    fn seal(&mut self) {
        if !self.tail.is_empty() {
            let sealed = self.tail.split().freeze();
            self.push(sealed);
        }
    }

    fn push(&mut self, bytes: Bytes) {
        if !bytes.is_empty() {
            self.queued += bytes.len();
            self.queue.push_back(bytes);
        }
    }

    async fn write_queue(&mut self) -> Result<(), Error> {
        self.seal();
        while !self.queue.is_empty() {
            let slices: Vec<IoSlice<'_>> =
                self.queue.iter().take(MAX_SLICES).map(|bytes| IoSlice::new(bytes)).collect();
            let mut written = self.writer.write_vectored(&slices).await?;
            if written == 0 {
                return Err(Error::Closed);
            }
            self.queued = self.queued.saturating_sub(written);
            while let Some(first) = self.queue.front_mut().filter(|_| written > 0) {
                let step = written.min(first.len());
                first.advance(step);
                written -= step;
                if first.is_empty() {
                    self.queue.pop_front();
                }
            }
        }
        Ok(self.writer.flush().await?)
    }
}
