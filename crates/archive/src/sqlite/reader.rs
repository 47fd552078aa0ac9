//! A snapshot of a source as an [`AsyncRead`], which is what a replica stores.

use bytes::{Buf, Bytes};
use source::Snapshot;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, ReadBuf};
use tokio::sync::mpsc;

/// The bytes, as they are sent. The end is a message of its own: a sender that goes away is an error, so that half a snapshot is never
/// taken for a whole one.
#[derive(Debug)]
pub(super) struct Reader {
    receiver: mpsc::Receiver<io::Result<Option<Bytes>>>,
    rest: Bytes,
    ended: bool,
}

/// The two ends.
pub(super) fn pipe() -> (mpsc::Sender<io::Result<Option<Bytes>>>, Reader) {
    let (sender, receiver) = mpsc::channel(2);
    (sender, Reader { receiver, rest: Bytes::new(), ended: false })
}

/// Sends a snapshot to its end; the end only if the whole is worth something. Returns its position then.
pub(super) async fn send<S: Snapshot>(
    mut snapshot: S,
    sender: mpsc::Sender<io::Result<Option<Bytes>>>,
) -> Result<S::Position, S::Error> {
    loop {
        let message = match snapshot.next_bytes().await {
            Ok(Some(bytes)) => Ok(Some(bytes)),
            Ok(None) => break,
            Err(error) => {
                let _ = sender.send(Err(io::Error::other(error.to_string()))).await;
                return Err(error);
            }
        };
        if sender.send(message).await.is_err() {
            // The other side has its own error, or had enough (the snapshot was there already).
            break;
        }
    }
    let finished = snapshot.finish().await;
    let message = match &finished {
        Ok(_) => Ok(None),
        Err(error) => Err(io::Error::other(error.to_string())),
    };
    let _ = sender.send(message).await;
    finished
}

impl AsyncRead for Reader {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.rest.is_empty() && !self.ended {
            match ready!(self.receiver.poll_recv(context)) {
                Some(Ok(Some(bytes))) => self.rest = bytes,
                Some(Ok(None)) => self.ended = true,
                Some(Err(error)) => return Poll::Ready(Err(error)),
                None => return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
            }
        }
        let len = self.rest.len().min(buffer.remaining());
        buffer.put_slice(&self.rest[..len]);
        self.rest.advance(len);
        Poll::Ready(Ok(()))
    }
}
