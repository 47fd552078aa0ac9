//! TLS as libpq's `sslmode` means it, on rustls.
//!
//! Invariant: whatever the mode, the server proves that it holds the key of the certificate it shows; the modes differ in
//! whether that certificate is trusted and must name the host.

use crate::conninfo::{ConnInfo, SslMode};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Above any real file of certificates.
const MAX_BYTES: u64 = 4 << 20;
/// Where systems keep the certificates they trust: Debian, Red Hat, Alpine and BSD.
const SYSTEM_ROOTS: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];

/// Certificates or keys that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("cannot read {file}: {error}")]
    Read {
        /// The file.
        file: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// A file holds nothing of use.
    #[error("{file} holds no usable {what} in PEM form")]
    Pem {
        /// The file.
        file: PathBuf,
        /// What is looked for.
        what: &'static str,
    },
    /// A mode that checks certificates, without any to check against.
    #[error("sslmode=verify-ca and verify-full need sslrootcert=FILE (or sslrootcert=system)")]
    NoRoots,
    /// Certificate and key do not go together, or rustls refuses them.
    #[error("TLS cannot be set up: {0}")]
    Setup(#[from] rustls::Error),
}

/// How much of the server's certificate is checked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Check {
    Nothing,
    Issuer,
    IssuerAndName,
}

/// The settings for a connection; `None` where TLS is never used.
pub(crate) fn client_config(info: &ConnInfo) -> Result<Option<Arc<ClientConfig>>, TlsError> {
    let check = match info.ssl_mode() {
        SslMode::Disable => return Ok(None),
        SslMode::Require if info.sslrootcert().is_some() => Check::Issuer,
        SslMode::Allow | SslMode::Prefer | SslMode::Require => Check::Nothing,
        SslMode::VerifyCa => Check::Issuer,
        SslMode::VerifyFull => Check::IssuerAndName,
    };
    let trusted =
        if check == Check::Nothing { Vec::new() } else { trusted(info.sslrootcert().ok_or(TlsError::NoRoots)?)? };
    let mut roots = RootCertStore::empty();
    let _ = roots.add_parsable_certificates(trusted.iter().cloned());
    let provider = Arc::new(ring::default_provider());
    let verifier = Verifier { check, roots, trusted, provider: Arc::clone(&provider) };
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let config = match info.client_certificate() {
        None => builder.with_no_client_auth(),
        Some((chain, key)) => {
            let text = read(key)?;
            let key = PrivateKeyDer::from_pem_slice(&text)
                .map_err(|_| TlsError::Pem { file: key.to_owned(), what: "private key" })?;
            builder.with_client_auth_cert(certificates(chain)?, key)?
        }
    };
    Ok(Some(Arc::new(config)))
}

fn trusted(file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    if file == Path::new("system") {
        let bundle = SYSTEM_ROOTS.iter().map(Path::new).find(|file| file.exists());
        return certificates(bundle.ok_or(TlsError::NoRoots)?);
    }
    certificates(file)
}

fn read(file: &Path) -> Result<Vec<u8>, TlsError> {
    let mut text = Vec::new();
    let read = std::fs::File::open(file).and_then(|opened| opened.take(MAX_BYTES).read_to_end(&mut text));
    read.map_err(|error| TlsError::Read { file: file.to_owned(), error })?;
    Ok(text)
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&read(file)?).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        _ => Err(TlsError::Pem { file: file.to_owned(), what: "certificate" }),
    }
}

#[derive(Debug)]
struct Verifier {
    check: Check,
    roots: RootCertStore,
    trusted: Vec<CertificateDer<'static>>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if self.check == Check::Nothing {
            return Ok(ServerCertVerified::assertion());
        }
        let certificate = ParsedCertificate::try_from(end_entity)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        let issued =
            verify_server_cert_signed_by_trust_anchor(&certificate, &self.roots, intermediates, now, algorithms);
        // A self-signed certificate that is itself the trusted one: common with PostgreSQL, good for libpq, refused by
        // the web's rules. An expired one stays refused.
        let itself_trusted = self.trusted.iter().any(|root| root == end_entity);
        match issued {
            Err(rustls::Error::InvalidCertificate(CertificateError::Other(_) | CertificateError::UnknownIssuer))
                if itself_trusted => {}
            issued => issued?,
        }
        if self.check == Check::IssuerAndName {
            verify_server_name(&certificate, server_name)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
