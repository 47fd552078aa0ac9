//! Against servers that misbehave: scripted bytes over a Unix socket, no real server needed.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use bytes::Bytes;
use pg_conn::{ConnectError, Connection, Error, Failure, StartupExtra, connect};
use pq_proto::backend::BackendMessage;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};

const WELCOME: &[u8] = b"R\0\0\0\x08\0\0\0\0S\0\0\0\x12seawall_log\x001\0Z\0\0\0\x05I";

/// A directory with a listening socket.
struct Fake {
    directory: tempfile::TempDir,
    listener: UnixListener,
}

impl Fake {
    fn new() -> Fake {
        let directory = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(directory.path().join(".s.PGSQL.1")).unwrap();
        Fake { directory, listener }
    }

    /// Connects while the server side answers the start-up message with `bytes`.
    async fn answer(&self, bytes: &[u8]) -> (Result<Connection, ConnectError>, UnixStream) {
        let info = format!("host={} port=1 user=u password=x", self.directory.path().display()).parse().unwrap();
        let extra = StartupExtra::default();
        let serve = async {
            let (mut socket, _) = self.listener.accept().await.unwrap();
            let length = socket.read_u32().await.unwrap() as usize;
            let mut startup = vec![0; length - 4];
            socket.read_exact(&mut startup).await.unwrap();
            socket.write_all(bytes).await.unwrap();
            // No more will come: a client that waits for more sees the end.
            socket.shutdown().await.unwrap();
            socket
        };
        tokio::join!(connect(&info, &extra), serve)
    }

    /// A connection past start-up, and the server's end of it.
    async fn pair(&self) -> (Connection, UnixStream) {
        let info = format!("host={} port=1 user=u", self.directory.path().display()).parse().unwrap();
        let extra = StartupExtra::default();
        let serve = async {
            let (mut socket, _) = self.listener.accept().await.unwrap();
            let length = socket.read_u32().await.unwrap() as usize;
            let mut startup = vec![0; length - 4];
            socket.read_exact(&mut startup).await.unwrap();
            socket.write_all(WELCOME).await.unwrap();
            socket
        };
        let (connection, socket) = tokio::join!(connect(&info, &extra), serve);
        (connection.unwrap(), socket)
    }
}

#[tokio::test]
async fn broken_start_ups_are_errors() {
    let fake = Fake::new();
    for bytes in [
        &b""[..],
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"R\0\0\0\x03",
        b"R\x7f\xff\xff\xff",
        b"R\0\0\0\x04",
        b"Z\0\0\0\x05I",
        b"S\0\0\0\x08a\0b\0",
        b"R\0\0\0\x08\0\0\0\x0b",
        b"R\0\0\0\x08\0\0\0\x08",
        b"R\0\0\0\x17\0\0\0\x0aSCRAM-SHA-256\0\0R\0\0\0\x08\0\0\0\0Z\0\0\0\x05I",
    ] {
        let (result, _socket) = fake.answer(bytes).await;
        assert!(matches!(result, Err(ConnectError::Hosts(_))), "{bytes:?}");
    }
    let (refused, _socket) = fake.answer(b"E\0\0\0\x1aSFATAL\0C57P03\0Mlater\0\0").await;
    let Err(ConnectError::Hosts(errors)) = refused else { panic!("connected") };
    assert!(matches!(errors[0].failure, Failure::Server(_)), "{:?}", errors[0].failure);
}

#[tokio::test]
async fn cancelled_receiving_loses_nothing() {
    let (mut connection, mut server) = Fake::new().pair().await;
    assert_eq!(connection.parameters().get("seawall_log"), Some("1"));
    let message = b"d\0\0\0\x09hello";
    for byte in message {
        // Polled once with nothing there, then dropped.
        let polled = tokio::select! {
            biased;
            message = connection.recv() => Some(message),
            () = std::future::ready(()) => None,
        };
        assert!(polled.is_none());
        server.write_all(&[*byte]).await.unwrap();
        tokio::task::yield_now().await;
    }
    let received = connection.recv().await.unwrap();
    assert_eq!(received, BackendMessage::CopyData(Bytes::from_static(b"hello")));
    drop(server);
    assert!(matches!(connection.recv().await, Err(Error::Closed)));
    assert!(connection.is_closed());
}

#[tokio::test]
async fn cancelled_flushing_loses_nothing() {
    let (mut connection, mut server) = Fake::new().pair().await;
    let payload: Bytes = (0..4_000_000u32).map(|n| (n % 251) as u8).collect::<Vec<u8>>().into();
    let writer = connection.writer();
    for part in 0..100 {
        writer.buffer().extend_from_slice(&[part]);
        writer.feed(payload.slice(part as usize * 40_000..(part as usize + 1) * 40_000));
    }
    let mut expected = Vec::new();
    for part in 0..100u8 {
        expected.push(part);
        expected.extend_from_slice(&payload[part as usize * 40_000..(part as usize + 1) * 40_000]);
    }
    assert_eq!(writer.queued(), expected.len());
    let mut seen = Vec::new();
    let mut buffer = vec![0; 30_000];
    while seen.len() < expected.len() {
        // Whoever is ready goes on; the other future is dropped in the middle of its work.
        tokio::select! {
            result = writer.flush(), if writer.queued() > 0 => result.unwrap(),
            read = server.read(&mut buffer) => seen.extend_from_slice(&buffer[..read.unwrap()]),
        }
    }
    assert!(seen == expected, "bytes were lost, doubled or reordered");
    assert_eq!(writer.queued(), 0);
}

#[tokio::test]
async fn payloads_in_one_read_share_its_buffer() {
    let (connection, mut server) = Fake::new().pair().await;
    let (mut read, _write) = connection.split();
    server.write_all(b"d\0\0\0\x07abcd\0\0\0\x07def").await.unwrap();
    let first = read.recv().await.unwrap();
    let second = read.try_recv().unwrap().unwrap();
    let (BackendMessage::CopyData(first), BackendMessage::CopyData(second)) = (first, second) else {
        panic!("not data")
    };
    assert_eq!(second.as_ptr() as usize - first.as_ptr() as usize, 8);
    assert_eq!(read.try_recv().unwrap(), None);
}

#[tokio::test]
async fn a_flood_is_refused_before_it_is_kept() {
    let (mut connection, mut server) = Fake::new().pair().await;
    server.write_all(b"d\0\x20\0\0").await.unwrap();
    assert!(matches!(connection.recv().await, Err(Error::Protocol(_))));
    assert!(connection.is_closed());
}
