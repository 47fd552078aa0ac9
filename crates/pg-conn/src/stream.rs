//! [`Stream`]: TCP, Unix socket or TLS behind one type, and [`Incoming`]: the buffer messages are cut from.

use crate::Error;
use bytes::BytesMut;
use pq_proto::Limits;
use pq_proto::backend::{self, BackendMessage};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::client::TlsStream;

/// A connected socket.
#[derive(Debug)]
pub(crate) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
    Tls(Box<TlsStream<TcpStream>>),
}

macro_rules! delegate {
    ($self:ident, $stream:ident => $call:expr) => {
        match $self.get_mut() {
            Stream::Tcp($stream) => $call,
            Stream::Unix($stream) => $call,
            Stream::Tls($stream) => $call,
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        delegate!(self, stream => Pin::new(stream).poll_read(cx, buffer))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        delegate!(self, stream => Pin::new(stream).poll_write(cx, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        delegate!(self, stream => Pin::new(stream).poll_write_vectored(cx, slices))
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Stream::Tcp(stream) => stream.is_write_vectored(),
            Stream::Unix(stream) => stream.is_write_vectored(),
            Stream::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        delegate!(self, stream => Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        delegate!(self, stream => Pin::new(stream).poll_shutdown(cx))
    }
}

/// First size of the buffer, enough for start-up and small answers.
const CHUNK_MIN: usize = 16 << 10;
/// Size it grows to while the server fills it; at least half of it is free before each read.
const CHUNK_MAX: usize = 512 << 10;

/// Bytes read and not yet understood. Payloads are slices of it; a new buffer is taken while they live.
#[derive(Debug)]
pub(crate) struct Incoming {
    bytes: BytesMut,
    chunk: usize,
}

impl Incoming {
    pub(crate) fn new() -> Incoming {
        Incoming { bytes: BytesMut::new(), chunk: CHUNK_MIN }
    }

    /// The next message that is here already.
    pub(crate) fn buffered(&mut self) -> Result<Option<BackendMessage>, Error> {
        Ok(backend::decode(&mut self.bytes, Limits::CLIENT)?)
    }

    /// The next message. May be cancelled without loss.
    pub(crate) async fn next(&mut self, reader: &mut (impl AsyncRead + Unpin)) -> Result<BackendMessage, Error> {
        loop {
            if let Some(message) = self.buffered()? {
                return Ok(message);
            }
            if self.bytes.capacity() - self.bytes.len() < self.chunk / 2 {
                self.bytes.reserve(self.chunk);
            }
            let room = self.bytes.capacity() - self.bytes.len();
            let read = reader.read_buf(&mut self.bytes).await?;
            if read == 0 {
                return Err(Error::Closed);
            }
            if read == room {
                self.chunk = (self.chunk * 2).min(CHUNK_MAX);
            }
        }
    }
}
