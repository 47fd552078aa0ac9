//! [`Door`]: who is let in, decided by whoever runs the server.

use std::net::IpAddr;
use std::sync::Arc;

use rustls::ServerConfig;

/// A request at the door.
#[derive(Debug, Clone, Copy)]
pub struct Asking<'a> {
    /// What stands behind `Authorization: Bearer`.
    pub bearer: Option<&'a str>,
    /// Where it comes from.
    pub peer: IpAddr,
    /// Whether it came over TLS.
    pub is_encrypted: bool,
    /// The only cluster it asks about, if it asks about one.
    pub cluster: Option<&'a str>,
}

/// Why a request is turned away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Turned {
    /// Whether another token would help (401), or this one is good and allows less (403).
    pub may_try_again: bool,
    /// For the client; holds no secret.
    pub sentence: String,
}

/// Lets requests in, or not. Called from the server's thread.
pub trait Door: Send + Sync {
    /// How TLS is spoken now; `None` for not at all. Connections that begin otherwise are plain ones.
    fn tls(&self) -> Option<Arc<ServerConfig>>;
    /// Judges a request. `/v1/ready` is answered in any case, without a reason if it is turned away.
    fn admit(&self, asking: &Asking<'_>) -> Result<(), Turned>;
}

/// Everybody is let in, without TLS.
#[derive(Debug, Clone, Copy)]
pub struct OpenDoor;

impl Door for OpenDoor {
    fn tls(&self) -> Option<Arc<ServerConfig>> {
        None
    }

    fn admit(&self, _: &Asking<'_>) -> Result<(), Turned> {
        Ok(())
    }
}
