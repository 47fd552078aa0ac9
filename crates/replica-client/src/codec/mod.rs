//! From plain bytes to an object's bytes and back: an LZ4 frame with content checksum, and age around it where there are
//! recipients. What Litestream 0.3 writes is read, and the other way round.
//!
//! Decoding reports the end of the plain bytes only after the end mark, the content checksum, age's last chunk and the end
//! of the object were all seen and right: a shortened, lengthened or damaged object is an error, never a short result.
//! Whether an object is encrypted is read from the object, so a replica may begin to be encrypted at any time.

mod encode;
mod frame;
mod reader;

use std::fmt;
use std::io::Read;
use std::str::FromStr;
use std::sync::Arc;

use age::x25519;

use crate::error::Kind;
use crate::facts::Plain;
use crate::store::Store;

pub use encode::Encoder;
use frame::FrameReader;
pub use reader::{BlockingReader, PlainReader};

/// Bytes that do not decode, or a key that is none.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CodecError {
    /// Text that is not an age recipient.
    #[error("{0:?} is not an age X25519 recipient (age1…): {1}")]
    Recipient(String, &'static str),
    /// Text that is not an age identity. The text is a secret and not repeated.
    #[error("identity number {0} is not an age X25519 identity (AGE-SECRET-KEY-1…): {1}")]
    Identity(usize, &'static str),
    /// Encrypted, and there is no identity to try.
    #[error("it is encrypted with age and no identity is configured")]
    NoIdentity,
    /// Encrypted for others.
    #[error("it is encrypted with age and none of the configured identities opens it")]
    WrongIdentity,
    /// Neither LZ4 nor age.
    #[error("it is neither an LZ4 frame nor an age file")]
    Unknown,
    /// The age part is damaged.
    #[error("its encryption is damaged: {0}")]
    Age(String),
    /// The LZ4 frame is damaged.
    #[error("its LZ4 frame is damaged: {0}")]
    Frame(String),
    /// The frame's writer left out the checksum.
    #[error("its LZ4 frame has no content checksum, so its bytes cannot be verified")]
    NoChecksum,
    /// It ends too early.
    #[error("it ends before its LZ4 frame does")]
    Truncated,
    /// Something stands behind the frame.
    #[error("there are bytes behind its LZ4 frame")]
    Trailing,
    /// More plain bytes than allowed.
    #[error("it holds more than {0} plain bytes")]
    TooLong(u64),
    /// Encryption failed.
    #[error("encryption failed: {0}")]
    Encrypt(String),
}

impl CodecError {
    pub(crate) fn kind(&self) -> Kind {
        match self {
            CodecError::Recipient(..) | CodecError::Identity(..) => Kind::Secret,
            CodecError::NoIdentity | CodecError::WrongIdentity => Kind::Secret,
            CodecError::Encrypt(_) => Kind::Other,
            _ => Kind::Corrupt,
        }
    }
}

impl From<age::DecryptError> for CodecError {
    fn from(error: age::DecryptError) -> Self {
        match error {
            age::DecryptError::NoMatchingKeys => CodecError::WrongIdentity,
            error => CodecError::Age(error.to_string()),
        }
    }
}

/// How objects are encoded: for whom they are encrypted, and with what they are decrypted. Cheap to clone.
#[derive(Clone, Default)]
pub struct Codec {
    keys: Arc<Keys>,
}

#[derive(Default)]
struct Keys {
    recipients: Vec<x25519::Recipient>,
    identities: Vec<x25519::Identity>,
}

impl fmt::Debug for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Codec")
            .field("recipients", &self.keys.recipients)
            .field("identities", &self.keys.identities.len())
            .finish()
    }
}

/// The first bytes of an age file.
const AGE_MAGIC: &[u8] = b"age-encryption.org/";
/// The first bytes of an LZ4 frame.
const LZ4_MAGIC: [u8; 4] = [0x04, 0x22, 0x4d, 0x18];
/// An age header has a line or two per recipient; one that is longer than this is hostile.
const AGE_HEADER_MAX: usize = 1 << 20;

enum Encoding {
    Lz4,
    Age,
}

impl Encoding {
    /// By the first bytes; `None` if these are too few to tell.
    fn of(start: &[u8]) -> Result<Option<Encoding>, CodecError> {
        if start.starts_with(&LZ4_MAGIC) {
            Ok(Some(Encoding::Lz4))
        } else if start.starts_with(AGE_MAGIC) {
            Ok(Some(Encoding::Age))
        } else if LZ4_MAGIC.starts_with(start) || AGE_MAGIC.starts_with(start) {
            Ok(None)
        } else {
            Err(CodecError::Unknown)
        }
    }
}

impl Codec {
    /// Compressed, not encrypted.
    pub fn plain() -> Codec {
        Codec::default()
    }

    /// From age X25519 keys as text (`age1…`, `AGE-SECRET-KEY-1…`). With recipients objects are encrypted for all of them;
    /// any one of the identities opens what is encrypted for it.
    pub fn new<R: AsRef<str>, I: AsRef<str>>(recipients: &[R], identities: &[I]) -> Result<Codec, CodecError> {
        let recipient = |text: &R| {
            let text = text.as_ref().trim();
            x25519::Recipient::from_str(text).map_err(|why| CodecError::Recipient(text.to_owned(), why))
        };
        let identity = |(at, text): (usize, &I)| {
            x25519::Identity::from_str(text.as_ref().trim()).map_err(|why| CodecError::Identity(at + 1, why))
        };
        Ok(Codec {
            keys: Arc::new(Keys {
                recipients: recipients.iter().map(recipient).collect::<Result<_, _>>()?,
                identities: identities.iter().enumerate().map(identity).collect::<Result<_, _>>()?,
            }),
        })
    }

    /// Whether what it stores is encrypted.
    pub fn encrypts(&self) -> bool {
        !self.keys.recipients.is_empty()
    }

    /// Whether it can read back what it stores: nothing is encrypted, or one of its identities belongs to a recipient.
    pub fn can_decrypt(&self) -> bool {
        !self.encrypts() || self.keys.identities.iter().any(|own| self.keys.recipients.contains(&own.to_public()))
    }

    /// The whole of an object from the whole of its plain bytes. Blocks for the time it takes to compress.
    pub fn encode(&self, plain: &[u8]) -> Result<Vec<u8>, CodecError> {
        let mut encoder = self.encoder()?;
        encoder.push(plain)?;
        Ok(encoder.finish()?.0.into())
    }

    /// Encoding as the plain bytes come.
    pub fn encoder(&self) -> Result<Encoder, CodecError> {
        Encoder::new(&self.keys.recipients)
    }

    /// The whole of the plain bytes from the whole of an object, verified; more than `limit` is an error. Blocks.
    pub fn decode(&self, object: &[u8], limit: u64) -> Result<Vec<u8>, CodecError> {
        let mut frame = FrameReader::new();
        let mut plain = Vec::new();
        let mut drain = |frame: &mut FrameReader| -> Result<(), CodecError> {
            while let Some(bytes) = frame.next()? {
                if (plain.len() + bytes.len()) as u64 > limit {
                    return Err(CodecError::TooLong(limit));
                }
                plain.extend_from_slice(&bytes);
            }
            Ok(())
        };
        match Encoding::of(object)? {
            None => return Err(CodecError::Truncated),
            Some(Encoding::Lz4) => {
                frame.push(object);
                drain(&mut frame)?;
            }
            Some(Encoding::Age) => {
                let mut stream = age::Decryptor::new_buffered(object)?.decrypt(self.identities()?)?;
                let mut buffer = vec![0; 64 << 10];
                loop {
                    let read = stream.read(&mut buffer).map_err(|error| CodecError::Age(error.to_string()))?;
                    if read == 0 {
                        break;
                    }
                    frame.push(&buffer[..read]);
                    drain(&mut frame)?;
                }
            }
        }
        frame.finish()?;
        Ok(plain)
    }

    fn identities(&self) -> Result<impl Iterator<Item = &dyn age::Identity>, CodecError> {
        if self.keys.identities.is_empty() {
            return Err(CodecError::NoIdentity);
        }
        Ok(self.keys.identities.iter().map(|identity| identity as &dyn age::Identity))
    }

    /// Reads an object's plain bytes.
    pub(crate) fn open(&self, store: &Store, key: &str, expected: Option<Plain>) -> Result<PlainReader, crate::Error> {
        PlainReader::new(self.clone(), store, key, expected)
    }
}

#[cfg(test)]
#[path = "codec_test.rs"]
mod tests;
