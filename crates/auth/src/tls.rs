//! TLS material of a server: a certificate chain and its key, in PEM files.

use crate::keys::{self, KeyError};
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What is spoken behind TLS here; libpq names the first since 17.
const PROTOCOLS: [&[u8]; 2] = [b"postgresql", b"http/1.1"];

/// TLS material that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error(transparent)]
    Read(#[from] KeyError),
    /// A file holds nothing of use.
    #[error("{} holds no {what} in PEM form", file.display())]
    Nothing {
        /// The file.
        file: PathBuf,
        /// What is looked for.
        what: &'static str,
    },
    /// Certificate and key do not go together, or rustls refuses them.
    #[error("certificate {} and key {} cannot be used: {error}", certificate.display(), key.display())]
    Unusable {
        /// The file with the certificate.
        certificate: PathBuf,
        /// The file with the key.
        key: PathBuf,
        /// Why.
        error: rustls::Error,
    },
}

/// Reads the material.
pub(crate) fn load(certificate: &Path, key: &Path) -> Result<ServerConfig, TlsError> {
    let nothing = |file: &Path, what| TlsError::Nothing { file: file.to_owned(), what };
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&keys::read(certificate)?).collect();
    let chain = chain.ok().filter(|chain| !chain.is_empty()).ok_or_else(|| nothing(certificate, "certificate"))?;
    let private = PrivateKeyDer::from_pem_slice(&keys::read(key)?).map_err(|_| nothing(key, "private key"))?;
    let unusable = |error| TlsError::Unusable { certificate: certificate.to_owned(), key: key.to_owned(), error };
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(unusable)?
        .with_no_client_auth()
        .with_single_cert(chain, private)
        .map_err(unusable)?;
    config.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).to_vec();
    Ok(config)
}
