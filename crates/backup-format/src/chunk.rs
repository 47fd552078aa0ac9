//! One chunk of a snapshot, plain: an index of its parts, then their bytes.
//!
//! A snapshot is cut into chunks so that it is compressed, sent, fetched and laid out in parallel; a large file is spread over several.
//! Each chunk stands alone: its index says for every run of bytes to which file, and where in it, they belong. The index comes first and
//! carries its own checksum, so that a reader knows what it may write before it writes anything; every part carries one too.
//!
//! [`Packer`] makes chunks from files in order, [`Decoder`] takes one apart as its bytes arrive. Both are sans I/O and hold slices of
//! what they were given, never copies. The layout stands in `docs/formats.md`.

use crate::path::{DataPath, PathError};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use std::collections::VecDeque;

mod packer;

pub use packer::{Packed, Packer};

/// The first bytes of a chunk; the last one is the version of the layout.
pub const MAGIC: [u8; 8] = *b"SWCHUNK\x01";
/// Most parts of one chunk.
pub const MAX_PARTS: u32 = 1 << 20;
/// Most bytes of one chunk's index.
pub const MAX_INDEX: u32 = 64 << 20;
/// Bytes before the index: magic, count, length, checksum.
const HEAD_LEN: usize = 20;
/// Bytes of an index entry beside its path.
const ENTRY_LEN: usize = 1 + 4 + 2 + 8 + 8 + 8 + 4;

/// What a part belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A directory; it has no bytes.
    Directory,
    /// A file, or a run of one.
    File,
}

/// One entry of a chunk's index: a directory, or a run of a file's bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Directory or file.
    pub kind: Kind,
    /// Permission bits, the low twelve.
    pub mode: u32,
    /// Where it belongs.
    pub path: DataPath,
    /// Bytes of the whole file; 0 for a directory.
    pub size: u64,
    /// Where this run begins in the file.
    pub offset: u64,
    /// Bytes of this run: 0 only for a directory and an empty file.
    pub length: u64,
    /// CRC-32C of this run.
    pub crc32c: u32,
}

/// Bytes that are not a chunk. None of them has been handed out as data whose checksum was found right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChunkError {
    /// The first bytes are something else, or of a newer version.
    #[error("this is no chunk of a snapshot that this version can read")]
    NotAChunk,
    /// The index announces more than any writer makes.
    #[error("the chunk announces an index of {parts} parts in {bytes} bytes, more than any chunk has")]
    TooLarge {
        /// Announced parts.
        parts: u32,
        /// Announced bytes.
        bytes: u32,
    },
    /// The index's checksum is wrong.
    #[error("the chunk's index is damaged: its checksum is {calculated:08x} and not {stored:08x}")]
    IndexDamaged {
        /// What the chunk says.
        stored: u32,
        /// What its bytes give.
        calculated: u32,
    },
    /// The index is intact and makes no sense.
    #[error("part {part} of the chunk's index is wrong: {reason}")]
    BadPart {
        /// Which, from 0.
        part: usize,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A path in the index leads somewhere it may not.
    #[error("part {part} of the chunk's index is wrong")]
    BadPath {
        /// Which, from 0.
        part: usize,
        /// How the path is wrong.
        source: PathError,
    },
    /// A part's bytes are not what was packed.
    #[error(
        "the bytes of {path} at {offset} are damaged in the chunk: their checksum is {calculated:08x} and not {stored:08x}"
    )]
    PartDamaged {
        /// The file.
        path: DataPath,
        /// Where the run begins in the file.
        offset: u64,
        /// What the index says.
        stored: u32,
        /// What the bytes give.
        calculated: u32,
    },
    /// The bytes ended too early.
    #[error("the chunk ends in the middle")]
    Truncated,
    /// There are bytes after the last part.
    #[error("the chunk goes on after its last part")]
    TooLong,
}

/// The CRC-32C of two runs of bytes put together, from the CRC-32C of each.
pub fn combine_crc32c(first: u32, second: u32, second_length: u64) -> u32 {
    // The library counts in usize, and its result for a long run is that of its pieces in turn. A run never exceeds what is addressable
    // where a `usize` has 64 bits; elsewhere, step by step with zeros is exact because combining is linear.
    let mut left = second_length;
    let mut combined = first;
    while left > 0 {
        let step = usize::try_from(left).unwrap_or(usize::MAX);
        combined = crc32c::crc32c_combine(combined, 0, step);
        left -= step as u64;
    }
    combined ^ second
}

fn encode_index(parts: &[Part]) -> Bytes {
    let mut index = BytesMut::new();
    for part in parts {
        let path = part.path.as_bytes();
        index.put_u8(match part.kind {
            Kind::Directory => 0,
            Kind::File => 1,
        });
        index.put_u32_le(part.mode);
        // A path has at most 1024 bytes.
        index.put_u16_le(u16::try_from(path.len()).unwrap_or(u16::MAX));
        index.put_slice(path);
        index.put_u64_le(part.size);
        index.put_u64_le(part.offset);
        index.put_u64_le(part.length);
        index.put_u32_le(part.crc32c);
    }
    index.freeze()
}

/// The bytes in front of the data: head and index.
fn encode_head(parts: &[Part]) -> Bytes {
    let index = encode_index(parts);
    assert!(parts.len() <= MAX_PARTS as usize && index.len() <= MAX_INDEX as usize, "the packer keeps chunks small");
    let mut head = BytesMut::with_capacity(HEAD_LEN + index.len());
    head.put_slice(&MAGIC);
    head.put_u32_le(parts.len() as u32);
    head.put_u32_le(index.len() as u32);
    let crc = crc32c::crc32c_append(crc32c::crc32c(&head), &index);
    head.put_u32_le(crc);
    head.put_slice(&index);
    head.freeze()
}

fn decode_part(number: usize, index: &mut Bytes) -> Result<Part, ChunkError> {
    let bad = |reason| ChunkError::BadPart { part: number, reason };
    if index.remaining() < 7 {
        return Err(bad("the index ends in it"));
    }
    let kind = match index.get_u8() {
        0 => Kind::Directory,
        1 => Kind::File,
        _ => return Err(bad("it is neither file nor directory")),
    };
    let mode = index.get_u32_le();
    let path_length = usize::from(index.get_u16_le());
    if index.remaining() < path_length + ENTRY_LEN - 7 {
        return Err(bad("the index ends in it"));
    }
    let path = DataPath::parse(&index.split_to(path_length)[..])
        .map_err(|source| ChunkError::BadPath { part: number, source })?;
    let part = Part {
        kind,
        mode,
        path,
        size: index.get_u64_le(),
        offset: index.get_u64_le(),
        length: index.get_u64_le(),
        crc32c: index.get_u32_le(),
    };
    if part.mode > 0o7777 {
        return Err(bad("its mode is more than permission bits"));
    }
    if part.offset.checked_add(part.length).is_none_or(|end| end > part.size) {
        return Err(bad("it reaches beyond its file's end"));
    }
    if part.kind == Kind::Directory && part.size != 0 {
        return Err(bad("it is a directory with bytes"));
    }
    if part.length == 0 && part.size != 0 {
        return Err(bad("it is an empty run of a file that is not empty"));
    }
    Ok(part)
}

/// What a [`Decoder`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// What the chunk holds; always first, once, its checksum right.
    Index(Vec<Part>),
    /// Bytes of a part, in order. Not yet verified: its [`Event::PartDone`] says so.
    Data {
        /// Which part of the index.
        part: usize,
        /// Where the bytes belong in the *file*.
        offset: u64,
        /// Never empty.
        bytes: Bytes,
    },
    /// All bytes of a part came, and their checksum is right. Comes for every part, empty ones too, in order.
    PartDone(usize),
}

/// Takes a chunk apart as its bytes arrive.
#[derive(Debug, Default)]
pub struct Decoder {
    /// Bytes of head and index until both are complete.
    head: BytesMut,
    /// Data not looked at yet.
    input: VecDeque<Bytes>,
    /// Known once the index is.
    parts: Option<Vec<Runs>>,
    current: usize,
    /// Bytes and checksum so far of the current part.
    done: u64,
    crc32c: u32,
}

/// What is needed of a part to take its bytes.
#[derive(Debug)]
struct Runs {
    path: DataPath,
    offset: u64,
    length: u64,
    crc32c: u32,
}

impl Decoder {
    /// A decoder of one chunk.
    pub fn new() -> Decoder {
        Decoder::default()
    }

    /// Gives it the next bytes. Poll until `None` before the next ones, or they pile up.
    pub fn push(&mut self, bytes: Bytes) {
        if !bytes.is_empty() {
            self.input.push_back(bytes);
        }
    }

    /// The next thing found; `None` until more bytes are pushed.
    ///
    /// # Errors
    /// The chunk is damaged. What was handed out of the current part is worthless; the decoder is of no more use.
    pub fn poll(&mut self) -> Result<Option<Event>, ChunkError> {
        let Some(parts) = &self.parts else { return self.poll_index() };
        let Some(part) = parts.get(self.current) else {
            return if self.input.is_empty() { Ok(None) } else { Err(ChunkError::TooLong) };
        };
        let missing = part.length - self.done;
        if missing == 0 {
            if self.crc32c != part.crc32c {
                return Err(ChunkError::PartDamaged {
                    path: part.path.clone(),
                    offset: part.offset,
                    stored: part.crc32c,
                    calculated: self.crc32c,
                });
            }
            let done = Event::PartDone(self.current);
            (self.current, self.done, self.crc32c) = (self.current + 1, 0, 0);
            return Ok(Some(done));
        }
        let Some(front) = self.input.front_mut() else { return Ok(None) };
        let take = usize::try_from(missing).unwrap_or(usize::MAX).min(front.len());
        let bytes = front.split_to(take);
        if front.is_empty() {
            self.input.pop_front();
        }
        let event = Event::Data { part: self.current, offset: part.offset + self.done, bytes: bytes.clone() };
        self.crc32c = crc32c::crc32c_append(self.crc32c, &bytes);
        self.done += take as u64;
        Ok(Some(event))
    }

    fn poll_index(&mut self) -> Result<Option<Event>, ChunkError> {
        loop {
            let wanted = self.head_wanted()?;
            if self.head.len() == wanted && wanted > HEAD_LEN {
                break;
            }
            let Some(front) = self.input.front_mut() else { return Ok(None) };
            let take = (wanted - self.head.len()).min(front.len());
            // Grows with what arrives, not with what is announced.
            self.head.extend_from_slice(&front.split_to(take));
            if front.is_empty() {
                self.input.pop_front();
            }
        }
        let head = std::mem::take(&mut self.head).freeze();
        let count = (&head[8..12]).get_u32_le();
        let stored = (&head[16..20]).get_u32_le();
        let calculated = crc32c::crc32c_append(crc32c::crc32c(&head[..16]), &head[HEAD_LEN..]);
        if stored != calculated {
            return Err(ChunkError::IndexDamaged { stored, calculated });
        }
        let mut index = head.slice(HEAD_LEN..);
        let parts: Vec<Part> =
            (0..count as usize).map(|part| decode_part(part, &mut index)).collect::<Result<_, _>>()?;
        if index.has_remaining() {
            return Err(ChunkError::BadPart { part: parts.len(), reason: "the index is longer than its parts" });
        }
        let runs = |part: &Part| Runs {
            path: part.path.clone(),
            offset: part.offset,
            length: part.length,
            crc32c: part.crc32c,
        };
        self.parts = Some(parts.iter().map(runs).collect());
        Ok(Some(Event::Index(parts)))
    }

    /// How many bytes of head and index there must be, as far as is known yet.
    fn head_wanted(&self) -> Result<usize, ChunkError> {
        if self.head.len() < HEAD_LEN {
            return Ok(HEAD_LEN);
        }
        if self.head[..8] != MAGIC {
            return Err(ChunkError::NotAChunk);
        }
        let (parts, bytes) = ((&self.head[8..12]).get_u32_le(), (&self.head[12..16]).get_u32_le());
        if parts == 0 || parts > MAX_PARTS || bytes > MAX_INDEX || (bytes as usize) < parts as usize * ENTRY_LEN {
            return Err(ChunkError::TooLarge { parts, bytes });
        }
        Ok(HEAD_LEN + bytes as usize)
    }

    /// Says whether the chunk is complete, once all its bytes were pushed and polled.
    pub fn finish(mut self) -> Result<(), ChunkError> {
        match self.poll()? {
            None if self.parts.as_ref().is_some_and(|parts| self.current == parts.len()) => Ok(()),
            None => Err(ChunkError::Truncated),
            // Polling was given up half-way.
            Some(_) => Err(ChunkError::Truncated),
        }
    }
}

#[cfg(test)]
#[path = "chunk_test.rs"]
mod tests;
