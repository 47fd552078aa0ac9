//! Ed25519 keys in PEM files, as `openssl genpkey -algorithm ed25519` and `openssl pkey -pubout` make them.

use jsonwebtoken::{DecodingKey, EncodingKey};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{PrivatePkcs8KeyDer, SubjectPublicKeyInfoDer};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Above any real file of keys.
const FILE_BYTES_MAX: u64 = 64 << 10;
/// More keys than anybody rotates through.
const KEYS_MAX: usize = 64;
/// What stands before the 32 bytes of an Ed25519 public key: SubjectPublicKeyInfo with the algorithm 1.3.101.112 (RFC 8410).
const ED25519_PREFIX: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
/// The algorithm inside a PKCS #8 private key.
const ED25519_OID: [u8; 5] = [0x06, 0x03, 0x2b, 0x65, 0x70];

/// Keys that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// A file cannot be read.
    #[error("cannot read {}: {error}", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// A file holds no key of the right kind.
    #[error("{} holds no Ed25519 {what} key in PEM form; openssl genpkey -algorithm ed25519 makes one", file.display())]
    NoKey {
        /// The file.
        file: PathBuf,
        /// Public or private.
        what: &'static str,
    },
    /// A directory without keys.
    #[error("{} holds no keys: put Ed25519 public keys in PEM form there", .0.display())]
    Empty(PathBuf),
}

/// Public keys; any of them may have signed a token.
pub(crate) struct PublicKeys(pub(crate) Vec<DecodingKey>);

impl PublicKeys {
    /// From one file, which may hold several, or from every regular file directly inside a directory.
    pub(crate) fn load(path: &Path) -> Result<PublicKeys, KeyError> {
        let unreadable = |error| KeyError::Read { file: path.to_owned(), error };
        if !std::fs::metadata(path).map_err(unreadable)?.is_dir() {
            return Ok(PublicKeys(public_keys(path)?));
        }
        let mut files = Vec::new();
        for entry in std::fs::read_dir(path).map_err(unreadable)? {
            let file = entry.map_err(unreadable)?.path();
            // Editors and orchestrators leave hidden files and links to directories beside the keys.
            let is_hidden = file.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
            if !is_hidden && std::fs::metadata(&file).is_ok_and(|metadata| metadata.is_file()) {
                files.push(file);
            }
        }
        files.sort();
        let mut keys = Vec::new();
        for file in files.iter().take(KEYS_MAX) {
            keys.extend(public_keys(file)?);
        }
        if keys.is_empty() { Err(KeyError::Empty(path.to_owned())) } else { Ok(PublicKeys(keys)) }
    }
}

fn public_keys(file: &Path) -> Result<Vec<DecodingKey>, KeyError> {
    let none = || KeyError::NoKey { file: file.to_owned(), what: "public" };
    let text = read(file)?;
    let mut keys = Vec::new();
    for found in SubjectPublicKeyInfoDer::pem_slice_iter(&text).take(KEYS_MAX) {
        let found = found.map_err(|_| none())?;
        let key = found.strip_prefix(&ED25519_PREFIX).filter(|key| key.len() == 32).ok_or_else(none)?;
        keys.push(DecodingKey::from_ed_der(key));
    }
    if keys.is_empty() { Err(none()) } else { Ok(keys) }
}

/// A key that signs tokens. Whoever has it can make any token; parts need only public keys.
pub struct PrivateKey(pub(crate) EncodingKey);

impl PrivateKey {
    /// From a PEM file (PKCS #8).
    pub fn load(file: &Path) -> Result<PrivateKey, KeyError> {
        let none = || KeyError::NoKey { file: file.to_owned(), what: "private" };
        let key = PrivatePkcs8KeyDer::from_pem_slice(&read(file)?).map_err(|_| none())?;
        let der = key.secret_pkcs8_der();
        if !der.windows(ED25519_OID.len()).take(16).any(|window| window == ED25519_OID) {
            return Err(none());
        }
        Ok(PrivateKey(EncodingKey::from_ed_der(der)))
    }
}

impl std::fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PrivateKey(***)")
    }
}

pub(crate) fn read(file: &Path) -> Result<Vec<u8>, KeyError> {
    let mut text = Vec::new();
    let read = std::fs::File::open(file).and_then(|opened| opened.take(FILE_BYTES_MAX).read_to_end(&mut text));
    read.map_err(|error| KeyError::Read { file: file.to_owned(), error })?;
    Ok(text)
}
