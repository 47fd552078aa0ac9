//! [`Outgoing`]: what a part shows to the parts it connects to.

use crate::bind::is_loopback;
use crate::keys::{self, KeyError};
use crate::secret::Secret;
use crate::token::TOKEN_BYTES_MAX;
use rustls::crypto::ring;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Why a part cannot authenticate itself to others.
#[derive(Debug, thiserror::Error)]
pub enum OutgoingError {
    /// The token's file cannot be read.
    #[error(transparent)]
    Read(#[from] KeyError),
    /// It holds no token.
    #[error("{} holds no token: seawall token makes one", .0.display())]
    NoToken(PathBuf),
    /// The certificates cannot be used.
    #[error("{} holds no usable certificate in PEM form", .0.display())]
    NoCertificate(PathBuf),
    /// The token would be shown to whoever answers.
    #[error("a token for {host} needs --tls-ca, so that it is shown to the right server only")]
    Unverified {
        /// Whom it is for.
        host: String,
    },
}

/// A token and the certificates it is shown behind.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outgoing {
    token: Option<Secret>,
    tls_ca: Option<PathBuf>,
}

impl Outgoing {
    /// With a token from a file (white space around it is dropped) or, without a file, as given; and the certificates of those
    /// we trust.
    pub fn new(
        token_file: Option<&Path>,
        token: Option<Secret>,
        tls_ca: Option<PathBuf>,
    ) -> Result<Outgoing, OutgoingError> {
        let token = match token_file {
            None => token,
            Some(file) => {
                let text = String::from_utf8(keys::read(file)?).unwrap_or_default();
                let text = text.trim();
                if text.is_empty() || text.len() > TOKEN_BYTES_MAX || text.contains(char::is_whitespace) {
                    return Err(OutgoingError::NoToken(file.to_owned()));
                }
                Some(Secret::new(text))
            }
        };
        Ok(Outgoing { token, tls_ca })
    }

    /// The settings a conninfo for `host` needs, as `(key, value)`. The password is the token; do not print it.
    pub fn settings(&self, host: &str) -> Result<Vec<(&'static str, String)>, OutgoingError> {
        let mut settings = Vec::new();
        match (&self.tls_ca, &self.token) {
            (Some(ca), _) => {
                settings.push(("sslmode", "verify-full".to_owned()));
                settings.push(("sslrootcert", ca.display().to_string()));
            }
            (None, Some(_)) if !is_loopback(host) => {
                return Err(OutgoingError::Unverified { host: host.to_owned() });
            }
            (None, _) => settings.push(("sslmode", "disable".to_owned())),
        }
        if let Some(token) = &self.token {
            settings.push(("password", token.reveal().to_owned()));
        }
        Ok(settings)
    }

    /// How TLS is spoken to those whose certificates we know; `None` if it is not.
    pub fn client_tls(&self) -> Result<Option<Arc<ClientConfig>>, OutgoingError> {
        let Some(file) = &self.tls_ca else { return Ok(None) };
        let unusable = || OutgoingError::NoCertificate(file.clone());
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(&keys::read(file)?) {
            roots.add(certificate.map_err(|_| unusable())?).map_err(|_| unusable())?;
        }
        if roots.is_empty() {
            return Err(unusable());
        }
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let builder = builder.with_safe_default_protocol_versions().map_err(|_| unusable())?;
        Ok(Some(Arc::new(builder.with_root_certificates(roots).with_no_client_auth())))
    }

    /// The token, if there is one.
    pub fn token(&self) -> Option<&Secret> {
        self.token.as_ref()
    }

    /// The file with the certificates of those we trust.
    pub fn tls_ca(&self) -> Option<&Path> {
        self.tls_ca.as_deref()
    }
}
