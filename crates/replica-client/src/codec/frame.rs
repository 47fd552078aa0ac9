//! Decoding one LZ4 frame as its bytes come (format: lz4_Frame_format.md 1.6).
//!
//! The decompressor of `lz4_flex` reads from a reader and cannot wait, and takes a reader's end between two blocks for the
//! frame's end. So this finds the frame's parts itself and hands it one whole part at a time: what is incomplete waits here,
//! and the end is the end mark, nothing else. One block is kept in memory, at most 8 MiB and its output.

use std::io::{self, BufRead, Read};

use bytes::{Buf, Bytes, BytesMut};
use lz4_flex::frame::FrameDecoder;

use super::{CodecError, LZ4_MAGIC};

/// One frame, one object.
pub(super) struct FrameReader {
    pending: BytesMut,
    state: State,
    decoder: FrameDecoder<Queue>,
}

#[derive(Clone, Copy)]
enum State {
    Header,
    Block { block_max: usize, block_checksums: bool },
    End,
}

/// What the decompressor may read now.
#[derive(Default)]
struct Queue(BytesMut);

impl Read for Queue {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = buffer.len().min(self.0.len());
        self.0.copy_to_slice(&mut buffer[..length]);
        Ok(length)
    }
}

/// Magic number, flags, block descriptor, header checksum.
const HEADER_LEAST: usize = 7;
const CONTENT_SIZE_LENGTH: usize = 8;

impl FrameReader {
    pub(super) fn new() -> FrameReader {
        FrameReader { pending: BytesMut::new(), state: State::Header, decoder: FrameDecoder::new(Queue::default()) }
    }

    /// The object's next bytes. Call [`FrameReader::next`] until it gives nothing before pushing more.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.pending.extend_from_slice(bytes);
    }

    /// The next plain bytes, one block's; `None`: more of the object is needed, or there is no more.
    pub(super) fn next(&mut self) -> Result<Option<Bytes>, CodecError> {
        loop {
            match self.state {
                State::Header => {
                    let Some((length, state)) = header(&self.pending)? else { return Ok(None) };
                    let part = self.pending.split_to(length);
                    self.decoder.get_mut().0.unsplit(part);
                    self.state = state;
                }
                State::Block { block_max, block_checksums } => {
                    let Some(word) = self.pending.first_chunk::<4>() else { return Ok(None) };
                    let word = u32::from_le_bytes(*word);
                    let ends = word == 0;
                    // The top bit says that the block is stored as it is.
                    let size = (word & 0x7fff_ffff) as usize;
                    if size > block_max {
                        return Err(CodecError::Frame(format!("a block of {size} bytes in a frame of {block_max}")));
                    }
                    // Behind the end mark stands the content checksum, behind a block its own if the frame has such.
                    let length = 4 + size + if ends || block_checksums { 4 } else { 0 };
                    if self.pending.len() < length {
                        return Ok(None);
                    }
                    let part = self.pending.split_to(length);
                    self.decoder.get_mut().0.unsplit(part);
                    let plain = self.decoder.fill_buf().map_err(|error| CodecError::Frame(error.to_string()))?;
                    let plain = Bytes::copy_from_slice(plain);
                    self.decoder.consume(plain.len());
                    if ends {
                        if !plain.is_empty() {
                            return Err(CodecError::Frame("its end mark holds bytes".to_owned()));
                        }
                        self.state = State::End;
                    }
                    if !plain.is_empty() {
                        return Ok(Some(plain));
                    }
                }
                State::End if self.pending.is_empty() => return Ok(None),
                State::End => return Err(CodecError::Trailing),
            }
        }
    }

    /// The object has ended: has the frame?
    pub(super) fn finish(&self) -> Result<(), CodecError> {
        match self.state {
            State::End if self.pending.is_empty() => Ok(()),
            State::End => Err(CodecError::Trailing),
            _ => Err(CodecError::Truncated),
        }
    }
}

/// How long the header is and what it promises of blocks; `None` if it is not all there. Its checksum is checked by the
/// decompressor, with the first block.
fn header(bytes: &[u8]) -> Result<Option<(usize, State)>, CodecError> {
    if bytes.len() < HEADER_LEAST {
        return Ok(None);
    }
    if bytes[..4] != LZ4_MAGIC {
        return Err(CodecError::Unknown);
    }
    let (flags, descriptor) = (bytes[4], bytes[5]);
    if flags & 0b0000_0001 != 0 {
        return Err(CodecError::Frame("it needs a dictionary".to_owned()));
    }
    if flags & 0b0000_0100 == 0 {
        return Err(CodecError::NoChecksum);
    }
    let length = HEADER_LEAST + if flags & 0b0000_1000 != 0 { CONTENT_SIZE_LENGTH } else { 0 };
    let block_max = match descriptor >> 4 & 0b111 {
        4 => 64 << 10,
        5 => 256 << 10,
        6 => 1 << 20,
        7 => 4 << 20,
        other => return Err(CodecError::Frame(format!("block size code {other}"))),
    };
    let state = State::Block { block_max, block_checksums: flags & 0b0001_0000 != 0 };
    Ok((bytes.len() >= length).then_some((length, state)))
}
