//! The plain bytes of one object in a store, as a stream: fetched, resumed, decrypted, decompressed, verified.
//!
//! Memory is a few network buffers, one chunk of age and one LZ4 block. What is handed out before the end was checked block
//! by block at most; a caller acts on it for good only after [`PlainReader::next`] gave `None`.

use std::io;
use std::pin::Pin;

use bytes::{Buf, Bytes, BytesMut};
use futures_util::io::{AsyncRead, AsyncReadExt as _};
use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::runtime::Handle;

use super::{AGE_HEADER_MAX, Codec, CodecError, Encoding, FrameReader};
use crate::error::Error;
use crate::facts::Plain;
use crate::store::{Store, StoredReader};

/// Plain bytes of one object.
pub struct PlainReader {
    key: String,
    codec: Codec,
    source: Source,
    frame: FrameReader,
    plain: Plain,
    expected: Vec<Plain>,
    length: Option<u64>,
}

enum Source {
    /// Nothing is requested yet.
    Unopened(StoredReader),
    Lz4(StoredReader),
    Age(Box<AgeSource>),
    Ended,
}

struct AgeSource {
    stream: Pin<Box<dyn AsyncRead + Send>>,
    buffer: Vec<u8>,
}

impl std::fmt::Debug for PlainReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PlainReader").field("key", &self.key).field("plain", &self.plain).finish_non_exhaustive()
    }
}

impl PlainReader {
    pub(super) fn new(codec: Codec, store: &Store, key: &str, expected: Option<Plain>) -> Result<PlainReader, Error> {
        Ok(PlainReader {
            key: key.to_owned(),
            codec,
            source: Source::Unopened(StoredReader::new(store.clone(), key)?),
            frame: FrameReader::new(),
            plain: Plain::EMPTY,
            expected: expected.into_iter().collect(),
            length: None,
        })
    }

    /// The object's key.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// What was delivered so far.
    pub fn plain(&self) -> Plain {
        self.plain
    }

    /// Also compares the whole with this at the end; other bytes are an error of kind `Corrupt`.
    pub fn expect(mut self, plain: Plain) -> PlainReader {
        self.expected.push(plain);
        self
    }

    /// Also compares the length, and stops as soon as there is more.
    pub(crate) fn expect_length(mut self, length: u64) -> PlainReader {
        self.length = Some(length);
        self
    }

    /// The next plain bytes, one LZ4 block's (256 KiB in objects of ours, at most 4 MiB). `None` only after all of the object
    /// was verified; after an error or `None` nothing more comes.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        let next = self.advance().await;
        if !matches!(next, Ok(Some(_))) {
            self.source = Source::Ended;
        }
        next
    }

    async fn advance(&mut self) -> Result<Option<Bytes>, Error> {
        loop {
            if let Some(bytes) = self.frame.next().map_err(|error| self.decode(error))? {
                self.plain = self.plain.then(&bytes);
                if self.length.is_some_and(|length| self.plain.length > length) {
                    return Err(self.unexpected(self.length_text(), format!("at least {} bytes", self.plain.length)));
                }
                return Ok(Some(bytes));
            }
            if matches!(self.source, Source::Ended) {
                return Ok(None);
            }
            if !self.fetch().await? {
                self.frame.finish().map_err(|error| self.decode(error))?;
                self.verify()?;
                self.source = Source::Ended;
                return Ok(None);
            }
        }
    }

    /// Gives the frame the object's next bytes; false at the object's end.
    async fn fetch(&mut self) -> Result<bool, Error> {
        if let Source::Unopened(_) = self.source {
            self.open().await?;
            // What was read to open it may be all there is.
            return Ok(true);
        }
        match &mut self.source {
            Source::Lz4(stored) => match stored.next().await? {
                Some(bytes) => self.frame.push(&bytes),
                None => return Ok(false),
            },
            Source::Age(age) => match age.stream.read(&mut age.buffer).await {
                Ok(0) => return Ok(false),
                Ok(length) => self.frame.push(&age.buffer[..length]),
                Err(error) => return Err(unwrap_error(&self.key, error)),
            },
            Source::Unopened(_) | Source::Ended => return Ok(false),
        }
        Ok(true)
    }

    /// Looks at the first bytes and sets up what they need.
    async fn open(&mut self) -> Result<(), Error> {
        let Source::Unopened(mut stored) = std::mem::replace(&mut self.source, Source::Ended) else { return Ok(()) };
        let mut start = BytesMut::new();
        let encoding = loop {
            match stored.next().await? {
                Some(bytes) => start.extend_from_slice(&bytes),
                None => return Err(self.decode(CodecError::Truncated)),
            }
            if let Some(encoding) = Encoding::of(&start).map_err(|error| self.decode(error))? {
                break encoding;
            }
        };
        match encoding {
            Encoding::Lz4 => {
                self.frame.push(&start);
                self.source = Source::Lz4(stored);
            }
            Encoding::Age => {
                // The header is parsed from memory, so that its length can be limited.
                while !has_whole_header(&start) {
                    if start.len() > AGE_HEADER_MAX {
                        return Err(self.decode(CodecError::Age("its header does not end".to_owned())));
                    }
                    match stored.next().await? {
                        Some(bytes) => start.extend_from_slice(&bytes),
                        None => return Err(self.decode(CodecError::Truncated)),
                    }
                }
                let rest = stream::try_unfold(stored, |mut stored| async move {
                    let next = stored.next().await.map_err(io::Error::other)?;
                    Ok(next.map(|bytes| (bytes, stored)))
                });
                let whole = stream::iter([Ok::<_, io::Error>(start.freeze())]).chain(rest).boxed();
                let decryptor = age::Decryptor::new_async_buffered(whole.into_async_read())
                    .await
                    .map_err(|error| self.age_header(error))?;
                let identities = self.codec.identities().map_err(|error| self.decode(error))?;
                let stream = decryptor.decrypt_async(identities).map_err(|error| self.age_header(error))?;
                self.source = Source::Age(Box::new(AgeSource { stream: Box::pin(stream), buffer: vec![0; 64 << 10] }));
            }
        }
        Ok(())
    }

    fn age_header(&self, error: age::DecryptError) -> Error {
        match error {
            age::DecryptError::Io(error) => unwrap_error(&self.key, error),
            error => self.decode(error.into()),
        }
    }

    fn verify(&self) -> Result<(), Error> {
        if self.length.is_some_and(|length| length != self.plain.length) {
            return Err(self.unexpected(self.length_text(), format!("{} bytes", self.plain.length)));
        }
        match self.expected.iter().find(|expected| **expected != self.plain) {
            Some(expected) => Err(self.unexpected(expected.to_string(), self.plain.to_string())),
            None => Ok(()),
        }
    }

    fn length_text(&self) -> String {
        format!("{} bytes", self.length.unwrap_or_default())
    }

    fn unexpected(&self, expected: String, found: String) -> Error {
        Error::Plain { key: self.key.clone(), expected, found }
    }

    fn decode(&self, source: CodecError) -> Error {
        Error::Decode { key: self.key.clone(), source }
    }

    /// All plain bytes; more than `limit` is an error.
    pub async fn read_all(mut self, limit: u64) -> Result<Bytes, Error> {
        let mut whole = BytesMut::new();
        while let Some(bytes) = self.next().await? {
            if self.plain.length > limit {
                return Err(self.decode(CodecError::TooLong(limit)));
            }
            whole.extend_from_slice(&bytes);
        }
        Ok(whole.freeze())
    }

    /// For a thread that may block (`spawn_blocking`): the same as `std::io::Read`. Errors are [`Error`] inside
    /// `std::io::Error`. `runtime` must be driven by another thread.
    pub fn blocking(self, runtime: Handle) -> BlockingReader {
        BlockingReader { reader: self, runtime, rest: Bytes::new() }
    }
}

/// Whether an age header is there to its end: a line that begins with `---`.
fn has_whole_header(start: &[u8]) -> bool {
    let Some(at) = start.windows(5).position(|window| window == b"\n--- ") else { return false };
    start[at + 5..].contains(&b'\n')
}

/// Our error back from where it had to travel as an I/O error; else age's complaint.
fn unwrap_error(key: &str, error: io::Error) -> Error {
    match error.downcast::<Error>() {
        Ok(ours) => ours,
        Err(error) => Error::Decode { key: key.to_owned(), source: CodecError::Age(error.to_string()) },
    }
}

/// A [`PlainReader`] for threads that block.
pub struct BlockingReader {
    reader: PlainReader,
    runtime: Handle,
    rest: Bytes,
}

impl io::Read for BlockingReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.rest.is_empty() {
            match self.runtime.block_on(self.reader.next()).map_err(io::Error::other)? {
                Some(bytes) => self.rest = bytes,
                None => return Ok(0),
            }
        }
        let length = buffer.len().min(self.rest.len());
        self.rest.copy_to_slice(&mut buffer[..length]);
        Ok(length)
    }
}
