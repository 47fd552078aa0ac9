//! Plain bytes in, an object's bytes out.
//!
//! Blocks are independent and of 256 KiB: an object can be decoded with little memory, and the few bytes linked blocks would
//! save are not worth a decoder's history. No content size is written, as Litestream writes none.

use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};

use age::stream::StreamWriter;
use age::x25519;
use bytes::{Bytes, BytesMut};
use lz4_flex::frame::{BlockMode, BlockSize, FrameEncoder, FrameInfo};

use super::CodecError;
use crate::facts::Plain;

/// Encodes one object piece by piece; [`Encoder::finish`] makes it whole.
pub struct Encoder {
    chain: Chain,
    output: Output,
    plain: Plain,
}

enum Chain {
    Lz4(Box<FrameEncoder<Output>>),
    Age(Box<FrameEncoder<StreamWriter<Output>>>),
}

/// Where the innermost writer puts its bytes: age's writer gives no access to what it writes to.
#[derive(Clone, Default)]
struct Output(Arc<Mutex<BytesMut>>);

impl Output {
    fn take(&self) -> Bytes {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).split().freeze()
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Encoder {
    pub(super) fn new(recipients: &[x25519::Recipient]) -> Result<Encoder, CodecError> {
        let output = Output::default();
        let info =
            FrameInfo::new().block_size(BlockSize::Max256KB).block_mode(BlockMode::Independent).content_checksum(true);
        let chain = if recipients.is_empty() {
            Chain::Lz4(Box::new(FrameEncoder::with_frame_info(info, output.clone())))
        } else {
            let recipients = recipients.iter().map(|recipient| recipient as &dyn age::Recipient);
            let encryptor = age::Encryptor::with_recipients(recipients).map_err(encrypt)?;
            let writer = encryptor.wrap_output(output.clone()).map_err(encrypt)?;
            Chain::Age(Box::new(FrameEncoder::with_frame_info(info, writer)))
        };
        Ok(Encoder { chain, output, plain: Plain::EMPTY })
    }

    /// Takes the next plain bytes.
    pub fn push(&mut self, plain: &[u8]) -> Result<(), CodecError> {
        self.plain = self.plain.then(plain);
        match &mut self.chain {
            Chain::Lz4(frame) => frame.write_all(plain).map_err(encrypt),
            Chain::Age(frame) => frame.write_all(plain).map_err(encrypt),
        }
    }

    /// The object's bytes that are ready; take them often, they are kept until then.
    pub fn take(&mut self) -> Bytes {
        self.output.take()
    }

    /// The rest of the object's bytes, and what was encoded.
    pub fn finish(self) -> Result<(Bytes, Plain), CodecError> {
        match self.chain {
            Chain::Lz4(frame) => drop(frame.finish().map_err(encrypt)?),
            Chain::Age(frame) => drop(frame.finish().map_err(encrypt)?.finish().map_err(encrypt)?),
        }
        Ok((self.output.take(), self.plain))
    }
}

fn encrypt(error: impl std::fmt::Display) -> CodecError {
    CodecError::Encrypt(error.to_string())
}
