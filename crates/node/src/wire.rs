//! One connection: reading frames, and a bounded way out.
//!
//! Bytes to send are written at once as far as the socket takes them, from whatever produced them, so that an
//! acknowledgement leaves in the same turn in which its sync completed. What the socket does not take waits here, slice by
//! slice, without a copy; a writer task drains it. The producer asks [`Outlet::is_congested`] before it makes more.
//!
//! Behind TLS (`tls`) what waits is already encrypted, and what is read passes through the same session; nothing else changes.

use crate::tls::Session;
use bytes::{Buf, Bytes, BytesMut};
use rustls::ServerConfig;
use std::cell::{Cell, OnceCell, RefCell};
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::rc::Rc;
use std::sync::Arc;
use tokio::io::AsyncReadExt;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::Notify;

/// Above so many waiting bytes nothing more is produced for this connection.
const CONGESTED_BYTES: usize = 1 << 20;
/// A connection with more waiting than this is given up: its peer has stopped reading.
const WAITING_BYTES_MAX: usize = 16 << 20;
/// Room for reading, at first: an idle connection costs little.
const CHUNK_BYTES_MIN: usize = 16 << 10;
/// Room for reading from a peer that fills it again and again. Slices of WAL keep their chunk alive, so chunks are shared by
/// many small messages, and a message that straddles two chunks (the only bytes ever copied) is rare.
const CHUNK_BYTES_MAX: usize = 1 << 20;
/// With less room than this a new chunk is begun.
const ROOM_BYTES_MIN: usize = 4 << 10;
/// Slices handed to one write.
const SLICES_MAX: usize = 64;

/// The way out of one connection.
#[derive(Debug)]
pub(crate) struct Outlet {
    stream: OwnedWriteHalf,
    tls: OnceCell<Rc<Session>>,
    waiting: RefCell<VecDeque<Bytes>>,
    waiting_bytes: Cell<usize>,
    failed: Cell<bool>,
    finishing: Cell<bool>,
    /// Wakes the writer task, and whoever waits for room.
    changed: Notify,
    /// Whether the connection's reading task waits until its session has room again.
    paused: Cell<bool>,
    /// Wakes the connection's reading task: the session was ended from outside, or may read on.
    pub(crate) resumed: Notify,
}

impl Outlet {
    pub(crate) fn new(stream: OwnedWriteHalf) -> Rc<Outlet> {
        let outlet = Rc::new(Outlet {
            stream,
            tls: OnceCell::new(),
            waiting: RefCell::new(VecDeque::new()),
            waiting_bytes: Cell::new(0),
            failed: Cell::new(false),
            finishing: Cell::new(false),
            changed: Notify::new(),
            paused: Cell::new(false),
            resumed: Notify::new(),
        });
        tokio::task::spawn_local(drain(Rc::clone(&outlet)));
        outlet
    }

    /// Sends these slices one after another.
    pub(crate) fn send(&self, slices: impl IntoIterator<Item = Bytes>) {
        match self.tls.get() {
            None => self.put(slices),
            Some(session) => match session.seal(slices) {
                Ok(sealed) => self.put([sealed]),
                Err(_) => self.fail(),
            },
        }
    }

    /// Whether the connection is encrypted.
    pub(crate) fn is_encrypted(&self) -> bool {
        self.tls.get().is_some()
    }

    /// Queues bytes as they go onto the wire.
    fn put(&self, slices: impl IntoIterator<Item = Bytes>) {
        if self.failed.get() {
            return;
        }
        let idle = self.waiting_bytes.get() == 0;
        {
            let mut waiting = self.waiting.borrow_mut();
            for slice in slices {
                if !slice.is_empty() {
                    self.waiting_bytes.set(self.waiting_bytes.get() + slice.len());
                    waiting.push_back(slice);
                }
            }
        }
        if self.waiting_bytes.get() > WAITING_BYTES_MAX {
            self.fail();
            return;
        }
        // Somebody who waits already is served in order by the writer task.
        if idle && self.write_some().is_err() {
            self.fail();
        }
        if self.waiting_bytes.get() > 0 {
            self.changed.notify_waiters();
        }
    }

    /// Whether producers should wait.
    pub(crate) fn is_congested(&self) -> bool {
        self.waiting_bytes.get() > CONGESTED_BYTES
    }

    /// Whether the connection cannot be written to any more.
    pub(crate) fn has_failed(&self) -> bool {
        self.failed.get()
    }

    /// The session is over: what waits is still sent, then the connection ends.
    pub(crate) fn finish(&self) {
        if let Some(goodbye) = self.tls.get().and_then(|session| session.close().ok()) {
            self.put([goodbye]);
        }
        self.finishing.set(true);
        self.changed.notify_waiters();
        self.resumed.notify_one();
    }

    /// Whether [`Outlet::finish`] was called.
    pub(crate) fn is_finishing(&self) -> bool {
        self.finishing.get()
    }

    /// Waits until [`Outlet::resume`] or the end of the session.
    pub(crate) async fn paused(&self) {
        self.paused.set(true);
        self.resumed.notified().await;
        self.paused.set(false);
    }

    /// Lets a paused reading task look again whether it may go on.
    pub(crate) fn resume(&self) {
        if self.paused.get() {
            self.resumed.notify_one();
        }
    }

    /// Waits until everything is sent or the connection has failed.
    pub(crate) async fn flushed(&self) {
        loop {
            let changed = self.changed.notified();
            if self.waiting_bytes.get() == 0 || self.failed.get() {
                return;
            }
            changed.await;
        }
    }

    /// Waits until producers may go on, or the connection has failed.
    pub(crate) async fn uncongested(&self) {
        loop {
            let changed = self.changed.notified();
            if !self.is_congested() || self.failed.get() {
                return;
            }
            changed.await;
        }
    }

    /// Gives the connection up; its tasks end.
    pub(crate) fn fail(&self) {
        self.failed.set(true);
        self.waiting.borrow_mut().clear();
        self.waiting_bytes.set(0);
        self.changed.notify_waiters();
        self.resumed.notify_one();
    }

    fn write_some(&self) -> io::Result<()> {
        while self.waiting_bytes.get() > 0 {
            let mut waiting = self.waiting.borrow_mut();
            let written = {
                let slices: Vec<IoSlice<'_>> =
                    waiting.iter().take(SLICES_MAX).map(|slice| IoSlice::new(slice)).collect();
                match self.stream.try_write_vectored(&slices) {
                    Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                    Ok(written) => written,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    Err(error) => return Err(error),
                }
            };
            self.waiting_bytes.set(self.waiting_bytes.get() - written);
            let mut left = written;
            while let Some(front) = waiting.front_mut() {
                if front.len() > left {
                    front.advance(left);
                    break;
                }
                left -= front.len();
                waiting.pop_front();
            }
        }
        Ok(())
    }
}

/// The writer task: sends what the socket did not take at once. Ends with the connection.
async fn drain(outlet: Rc<Outlet>) {
    loop {
        let changed = outlet.changed.notified();
        if outlet.failed.get() || (outlet.finishing.get() && outlet.waiting_bytes.get() == 0) {
            return;
        }
        if outlet.waiting_bytes.get() == 0 {
            changed.await;
            continue;
        }
        if outlet.stream.writable().await.is_err() || outlet.write_some().is_err() {
            outlet.fail();
            return;
        }
        outlet.changed.notify_waiters();
    }
}

/// The way in of one connection.
#[derive(Debug)]
pub(crate) struct Inlet {
    stream: OwnedReadHalf,
    /// Bytes read and not yet understood.
    pub(crate) buffer: BytesMut,
    chunk: usize,
    tls: Option<Unsealing>,
}

/// What is needed to read behind TLS.
#[derive(Debug)]
struct Unsealing {
    session: Rc<Session>,
    /// Where the session's own messages go.
    outlet: Rc<Outlet>,
    /// Bytes read and not decrypted yet.
    sealed: BytesMut,
}

impl Unsealing {
    /// Decrypts what was read; whether anything was said, or the peer has finished.
    fn open(&mut self, buffer: &mut BytesMut) -> io::Result<Option<bool>> {
        let before = buffer.len();
        let opened = self.session.open(&mut self.sealed, buffer);
        // Also after a failure: the peer is told why.
        self.outlet.put([self.session.pending()?]);
        let is_over = opened?;
        Ok(if buffer.len() > before { Some(true) } else { is_over.then_some(false) })
    }
}

impl Inlet {
    pub(crate) fn new(stream: OwnedReadHalf) -> Inlet {
        Inlet { stream, buffer: BytesMut::new(), chunk: CHUNK_BYTES_MIN, tls: None }
    }

    /// From here on both directions speak TLS. What was read already is the beginning of the handshake.
    pub(crate) fn start_tls(&mut self, config: Arc<ServerConfig>, outlet: &Rc<Outlet>) -> io::Result<()> {
        let session = Rc::new(Session::new(config)?);
        let sealed = std::mem::take(&mut self.buffer);
        // A second request for TLS is refused before it comes here.
        let _ = outlet.tls.set(Rc::clone(&session));
        let mut unsealing = Unsealing { session, outlet: Rc::clone(outlet), sealed };
        unsealing.open(&mut self.buffer)?;
        self.tls = Some(unsealing);
        Ok(())
    }

    /// Reads what is there, waiting for something if there is nothing. False at the end of the stream.
    ///
    /// Cancel-safe: bytes are either in the buffer or still in the socket.
    pub(crate) async fn read_more(&mut self) -> io::Result<bool> {
        if let Some(tls) = &mut self.tls {
            loop {
                tls.sealed.reserve(CHUNK_BYTES_MIN);
                if self.stream.read_buf(&mut tls.sealed).await? == 0 {
                    return Ok(false);
                }
                if let Some(goes_on) = tls.open(&mut self.buffer)? {
                    return Ok(goes_on);
                }
            }
        }
        if self.buffer.capacity() - self.buffer.len() < ROOM_BYTES_MIN {
            self.buffer.reserve(self.chunk);
        }
        let room = self.buffer.capacity() - self.buffer.len();
        // A read that leaves room has emptied the socket: the runtime knows it then, and saves the read that would only say so.
        let read = self.stream.read_buf(&mut self.buffer).await?;
        if read == room {
            self.chunk = (self.chunk * 2).min(CHUNK_BYTES_MAX);
        }
        Ok(read > 0)
    }
}
