//! [`Gate`]: who is let in at the ports of one process.

use crate::keys::{KeyError, PublicKeys};
use crate::tls::{self, TlsError};
use crate::token::{self, Grant, Refused, Scope};
use crate::watched::Watched;
use crate::{BindRefused, check_bind};
use rustls::ServerConfig;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

/// What a process is told about authentication.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GateOptions {
    /// File or directory with public keys.
    pub keys: Option<PathBuf>,
    /// File with the certificate chain; needs `tls_key`.
    pub tls_certificate: Option<PathBuf>,
    /// File with the certificate's key.
    pub tls_key: Option<PathBuf>,
    /// Listen anywhere without keys.
    pub insecure_no_auth: bool,
}

/// Why there is no gate.
#[derive(Debug, thiserror::Error)]
pub enum GateError {
    /// An address may not be bound.
    #[error(transparent)]
    Bind(#[from] BindRefused),
    /// Keys cannot be used.
    #[error(transparent)]
    Keys(#[from] KeyError),
    /// TLS material cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// Only one of two.
    #[error("--tls-cert and --tls-key go together: give both or none")]
    Half,
}

/// Keys and TLS material of one process; files that change are taken up by themselves.
#[derive(Debug)]
pub struct Gate {
    keys: Option<Watched<PublicKeys, KeyError>>,
    tls: Option<Watched<ServerConfig, TlsError>>,
}

impl Gate {
    /// Reads everything, if each of the `hosts` (IP addresses without brackets, or names) may be bound.
    pub fn open(options: &GateOptions, hosts: &[&str]) -> Result<Gate, GateError> {
        let GateOptions { keys, tls_certificate, tls_key, insecure_no_auth } = options;
        if tls_certificate.is_some() != tls_key.is_some() {
            return Err(GateError::Half);
        }
        for host in hosts {
            check_bind(host, keys.is_some(), tls_key.is_some(), *insecure_no_auth)?;
        }
        let keys = match keys.clone() {
            Some(path) => Some(Watched::new(vec![path.clone()], move || PublicKeys::load(&path))?),
            None => None,
        };
        let tls = match tls_certificate.clone().zip(tls_key.clone()) {
            Some((certificate, key)) => {
                Some(Watched::new(vec![certificate.clone(), key.clone()], move || tls::load(&certificate, &key))?)
            }
            None => None,
        };
        Ok(Gate { keys, tls })
    }

    /// Whether a token is asked for.
    pub fn asks_for_token(&self) -> bool {
        self.keys.is_some()
    }

    /// How TLS is spoken, if it is: the newest certificate that could be used.
    pub fn tls(&self) -> Option<Arc<ServerConfig>> {
        self.tls.as_ref().map(Watched::get)
    }

    /// Judges a token that came over a connection from `peer`. In the clear it is taken from this machine only.
    pub fn admit(&self, token: Option<&str>, peer: IpAddr, is_encrypted: bool) -> Result<Grant, Refused> {
        let Some(keys) = &self.keys else { return Ok(Grant::everything()) };
        if !is_encrypted && !peer.to_canonical().is_loopback() {
            return Err(Refused::InTheClear);
        }
        token::verify(token.ok_or(Refused::Missing)?, &keys.get(), unix_seconds())
    }

    /// Judges whoever only wants to read, of one `cluster` or of all: a token for one cluster shows nothing of the others.
    pub fn admit_reading(
        &self,
        token: Option<&str>,
        peer: IpAddr,
        is_encrypted: bool,
        cluster: Option<&str>,
    ) -> Result<(), Refused> {
        let grant = self.admit(token, peer, is_encrypted)?;
        grant.allows(Scope::Read, self.now())?;
        match (grant.cluster(), cluster) {
            (Some(only), None) => Err(Refused::ForeignCluster(only.to_owned())),
            (_, Some(cluster)) => grant.admits_cluster(cluster),
            (None, None) => Ok(()),
        }
    }

    /// The moment for [`Grant::allows`].
    pub fn now(&self) -> u64 {
        unix_seconds()
    }
}

fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
