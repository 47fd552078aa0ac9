//! A TCP forwarder whose target can be changed: a load balancer, a floating address.
//!
//! Connections stay with the target they were made to until they are cut. Either way can be held for a while, as a network does that lost
//! a route: then nothing arrives, and nobody is told. It knows nothing of what it carries.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinHandle};

/// The way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// From who connected to the target.
    ToTarget,
    /// From the target to who connected.
    ToClient,
}

/// What is done to all connections.
#[derive(Debug, Clone, Copy, Default)]
struct Weather {
    /// By [`Way`]: bytes that go it stay here, and so does the end of a connection.
    held: [bool; 2],
    /// Counts the resets.
    resets: u64,
}

/// Listens on a port of its own on 127.0.0.1. Everything ends when it is dropped.
#[derive(Debug)]
pub struct Forwarder {
    port: u16,
    shared: Arc<Mutex<Shared>>,
    weather: watch::Sender<Weather>,
    accepting: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    target: SocketAddr,
    connections: Vec<AbortHandle>,
}

impl Forwarder {
    /// Begins to forward to `port` on 127.0.0.1.
    pub async fn to(port: u16) -> Result<Forwarder> {
        let listener = TcpListener::bind("127.0.0.1:0").await.context("listen for the forwarder")?;
        let shared = Arc::new(Mutex::new(Shared { target: local(port), connections: Vec::new() }));
        let port = listener.local_addr()?.port();
        let (weather, seen) = watch::channel(Weather::default());
        let accepting = tokio::spawn(accept(listener, Arc::clone(&shared), seen));
        Ok(Forwarder { port, shared, weather, accepting })
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// New connections go to `port` on 127.0.0.1; those there are stay.
    pub fn retarget(&self, port: u16) {
        lock(&self.shared).target = local(port);
    }

    /// Cuts all connections.
    pub fn cut(&self) {
        for connection in lock(&self.shared).connections.drain(..) {
            connection.abort();
        }
    }

    /// Ends all connections with a reset: what was not read yet is lost.
    pub fn reset(&self) {
        self.weather.send_modify(|weather| weather.resets += 1);
    }

    /// From now on nothing goes this way, nor the news that a connection has ended; connections stay, and new ones can be made. A
    /// network that lost a route looks like that.
    pub fn hold(&self, way: Way) {
        self.weather.send_modify(|weather| weather.held[way as usize] = true);
    }

    /// All that was held goes on, in order and late.
    pub fn release(&self) {
        self.weather.send_modify(|weather| weather.held = [false; 2]);
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        self.accepting.abort();
        self.cut();
    }
}

fn local(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

fn lock(shared: &Mutex<Shared>) -> std::sync::MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn accept(listener: TcpListener, shared: Arc<Mutex<Shared>>, weather: watch::Receiver<Weather>) {
    // An error of accept is about one connection; the next may do.
    loop {
        let Ok((client, _)) = listener.accept().await else { continue };
        let mut shared = lock(&shared);
        let target = shared.target;
        let weather = weather.clone();
        // Whatever ends it, both sides see a closed connection.
        let connection = tokio::spawn(async move { drop(carry(client, target, weather).await) });
        shared.connections.retain(|connection| !connection.is_finished());
        shared.connections.push(connection.abort_handle());
    }
}

async fn carry(mut client: TcpStream, target: SocketAddr, mut weather: watch::Receiver<Weather>) -> io::Result<()> {
    let mut server = TcpStream::connect(target).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let resets = weather.borrow().resets;
    let (there, back) = (weather.clone(), weather.clone());
    let reset = {
        let (from_client, to_client) = client.split();
        let (from_server, to_server) = server.split();
        let both = async {
            tokio::try_join!(
                pump(from_client, to_server, Way::ToTarget, there),
                pump(from_server, to_client, Way::ToClient, back)
            )
        };
        tokio::select! {
            _ = both => false,
            _ = weather.wait_for(|weather| weather.resets != resets) => true,
        }
    };
    if reset {
        client.set_zero_linger()?;
        server.set_zero_linger()?;
    }
    Ok(())
}

/// Carries one way until it ends, and passes the end on.
async fn pump(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    way: Way,
    mut weather: watch::Receiver<Weather>,
) -> io::Result<()> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let read = from.read(&mut buffer).await?;
        // An error says that the forwarder is gone, and this task soon too.
        let _ = weather.wait_for(|weather| !weather.held[way as usize]).await;
        if read == 0 {
            return to.shutdown().await;
        }
        to.write_all(&buffer[..read]).await?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    async fn server(says: &'static [u8]) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            loop {
                let (mut client, _) = listener.accept().await.unwrap();
                client.write_all(says).await.unwrap();
                // Stays open until the client goes.
                tokio::spawn(async move { client.read(&mut [0; 1]).await });
            }
        });
        port
    }

    async fn hear(stream: &mut TcpStream) -> u8 {
        stream.read_u8().await.unwrap()
    }

    #[tokio::test]
    async fn connections_stay_where_they_are_until_cut() {
        let (a, b) = (server(b"aa").await, server(b"bb").await);
        let forwarder = Forwarder::to(a).await.unwrap();
        let mut first = TcpStream::connect(local(forwarder.port())).await.unwrap();
        assert_eq!(hear(&mut first).await, b'a');
        forwarder.retarget(b);
        assert_eq!(hear(&mut first).await, b'a');
        let mut second = TcpStream::connect(local(forwarder.port())).await.unwrap();
        assert_eq!(hear(&mut second).await, b'b');
        forwarder.cut();
        for stream in [&mut first, &mut second] {
            // Closed or reset, after what was on the way: an end, not more of the same.
            drop(stream.read_to_end(&mut Vec::new()).await);
        }
    }

    #[tokio::test]
    async fn a_way_that_is_held_delivers_late_and_a_reset_is_told() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let forwarder = Forwarder::to(listener.local_addr().unwrap().port()).await.unwrap();
        let mut client = TcpStream::connect(local(forwarder.port())).await.unwrap();
        let mut server = listener.accept().await.unwrap().0;
        client.write_u8(1).await.unwrap();
        assert_eq!(hear(&mut server).await, 1);
        forwarder.hold(Way::ToTarget);
        client.write_u8(2).await.unwrap();
        server.write_u8(3).await.unwrap();
        assert_eq!(hear(&mut client).await, 3, "the other way is open");
        let quiet = tokio::time::timeout(Duration::from_millis(200), server.read_u8()).await;
        assert!(quiet.is_err(), "{quiet:?}");
        forwarder.release();
        assert_eq!(hear(&mut server).await, 2);
        forwarder.reset();
        assert_eq!(client.read_u8().await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        assert_eq!(server.read_u8().await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    }
}
