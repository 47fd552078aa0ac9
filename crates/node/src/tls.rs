//! [`Session`]: one TLS session of a server, bytes in and bytes out.

use bytes::{Bytes, BytesMut};
use rustls::{ServerConfig, ServerConnection};
use std::cell::RefCell;
use std::io::{self, BufRead, Write};
use std::sync::Arc;

/// A session, shared by both directions of a connection.
#[derive(Debug)]
pub(crate) struct Session(RefCell<ServerConnection>);

impl Session {
    pub(crate) fn new(config: Arc<ServerConfig>) -> io::Result<Session> {
        let mut connection = ServerConnection::new(config).map_err(io::Error::other)?;
        // The outlet bounds what waits.
        connection.set_buffer_limit(None);
        Ok(Session(RefCell::new(connection)))
    }

    /// Encrypts; what the session itself has to say comes first.
    pub(crate) fn seal(&self, slices: impl IntoIterator<Item = Bytes>) -> io::Result<Bytes> {
        {
            let mut connection = self.0.borrow_mut();
            for slice in slices {
                connection.writer().write_all(&slice)?;
            }
        }
        self.pending()
    }

    /// What the session has to say: parts of the handshake, alerts.
    pub(crate) fn pending(&self) -> io::Result<Bytes> {
        let mut connection = self.0.borrow_mut();
        let mut sealed = Vec::new();
        while connection.wants_write() {
            connection.write_tls(&mut sealed)?;
        }
        Ok(sealed.into())
    }

    /// Takes everything in `sealed` in and appends what it says to `plain`. True once the peer has closed the session.
    pub(crate) fn open(&self, sealed: &mut BytesMut, plain: &mut BytesMut) -> io::Result<bool> {
        let mut connection = self.0.borrow_mut();
        let input = sealed.split();
        let mut rest = &input[..];
        loop {
            if !rest.is_empty() {
                connection.read_tls(&mut rest)?;
            }
            let state = connection.process_new_packets().map_err(io::Error::other)?;
            let mut left = state.plaintext_bytes_to_read();
            while left > 0 {
                let mut reader = connection.reader();
                let chunk = reader.fill_buf()?;
                let length = chunk.len();
                plain.extend_from_slice(chunk);
                reader.consume(length);
                left = left.saturating_sub(length);
            }
            if rest.is_empty() {
                return Ok(state.peer_has_closed());
            }
        }
    }

    /// Says that nothing more comes.
    pub(crate) fn close(&self) -> io::Result<Bytes> {
        self.0.borrow_mut().send_close_notify();
        self.pending()
    }
}
