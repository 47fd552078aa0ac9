//! A TCP forwarder whose target can be changed: a load balancer, a floating address.
//!
//! Connections stay with the target they were made to until they are cut. It knows nothing of what it carries.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinHandle};

/// Listens on a port of its own on 127.0.0.1. Everything ends when it is dropped.
#[derive(Debug)]
pub struct Forwarder {
    port: u16,
    shared: Arc<Mutex<Shared>>,
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
        let accepting = tokio::spawn(accept(listener, Arc::clone(&shared)));
        Ok(Forwarder { port, shared, accepting })
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

async fn accept(listener: TcpListener, shared: Arc<Mutex<Shared>>) {
    // An error of accept is about one connection; the next may do.
    loop {
        let Ok((client, _)) = listener.accept().await else { continue };
        let mut shared = lock(&shared);
        let target = shared.target;
        // Whatever ends it, both sides see a closed connection.
        let connection = tokio::spawn(async move { drop(carry(client, target).await) });
        shared.connections.retain(|connection| !connection.is_finished());
        shared.connections.push(connection.abort_handle());
    }
}

async fn carry(mut client: TcpStream, target: SocketAddr) -> std::io::Result<()> {
    let mut server = TcpStream::connect(target).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    tokio::io::copy_bidirectional(&mut client, &mut server).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

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
}
