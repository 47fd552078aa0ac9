//! Reading and writing fields in either byte order, with every length checked before it is believed.

use crate::{Error, MAX_HISTORY_ENTRIES, ProtoVersion};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use consensus::{TermEntry, TermHistory};
use lsn::{Lsn, Term};

/// A message being read. Errors name the message and the field.
pub(crate) struct Fields {
    bytes: Bytes,
    version: ProtoVersion,
    message: &'static str,
}

impl Fields {
    pub(crate) fn new(version: ProtoVersion, bytes: Bytes) -> Self {
        Fields { bytes, version, message: "message" }
    }

    /// The tag: one byte in version 3, eight in version 2.
    pub(crate) fn tag(&mut self) -> Result<u64, Error> {
        match self.version {
            ProtoVersion::V2 => self.u64("tag"),
            ProtoVersion::V3 => Ok(u64::from(self.u8("tag")?)),
        }
    }

    /// From here on errors speak of this message.
    pub(crate) fn name(&mut self, message: &'static str) {
        self.message = message;
    }

    pub(crate) fn truncated(&self, field: &'static str) -> Error {
        Error::Truncated { message: self.message, field }
    }

    pub(crate) fn range(&self, field: &'static str) -> Error {
        Error::Range { message: self.message, field }
    }

    pub(crate) fn u8(&mut self, field: &'static str) -> Result<u8, Error> {
        self.bytes.try_get_u8().map_err(|_| self.truncated(field))
    }

    pub(crate) fn u16(&mut self, field: &'static str) -> Result<u16, Error> {
        self.array(field).map(|bytes| self.order(bytes, u16::from_be_bytes, u16::from_le_bytes))
    }

    pub(crate) fn u32(&mut self, field: &'static str) -> Result<u32, Error> {
        self.array(field).map(|bytes| self.order(bytes, u32::from_be_bytes, u32::from_le_bytes))
    }

    pub(crate) fn u64(&mut self, field: &'static str) -> Result<u64, Error> {
        self.array(field).map(|bytes| self.order(bytes, u64::from_be_bytes, u64::from_le_bytes))
    }

    pub(crate) fn i64(&mut self, field: &'static str) -> Result<i64, Error> {
        self.array(field).map(|bytes| self.order(bytes, i64::from_be_bytes, i64::from_le_bytes))
    }

    pub(crate) fn lsn(&mut self, field: &'static str) -> Result<Lsn, Error> {
        self.u64(field).map(Lsn)
    }

    pub(crate) fn term(&mut self) -> Result<Term, Error> {
        self.u64("term").map(Term)
    }

    fn order<const N: usize, T>(&self, bytes: [u8; N], big: fn([u8; N]) -> T, little: fn([u8; N]) -> T) -> T {
        match self.version {
            ProtoVersion::V2 => little(bytes),
            ProtoVersion::V3 => big(bytes),
        }
    }

    pub(crate) fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], Error> {
        let bytes = self.bytes.first_chunk::<N>().copied().ok_or_else(|| self.truncated(field))?;
        self.bytes.advance(N);
        Ok(bytes)
    }

    /// Text up to a zero byte, at most `longest` bytes of it.
    pub(crate) fn text(&mut self, field: &'static str, longest: usize) -> Result<String, Error> {
        let window = &self.bytes[..self.bytes.len().min(longest + 1)];
        let length = window
            .iter()
            .position(|byte| *byte == 0)
            .ok_or_else(|| if window.len() > longest { self.range(field) } else { self.truncated(field) })?;
        let text = std::str::from_utf8(&window[..length]).map_err(|_| self.range(field))?.to_owned();
        self.bytes.advance(length + 1);
        Ok(text)
    }

    /// `length` bytes, sliced from the message without copying.
    pub(crate) fn slice(&mut self, field: &'static str, length: usize) -> Result<Bytes, Error> {
        if length > self.bytes.len() {
            return Err(self.truncated(field));
        }
        Ok(self.bytes.split_to(length))
    }

    /// A count and that many entries of a term history.
    pub(crate) fn history(&mut self) -> Result<TermHistory, Error> {
        let count = self.u32("term history")? as usize;
        if count > MAX_HISTORY_ENTRIES {
            return Err(self.range("term history"));
        }
        if self.bytes.len() / 16 < count {
            return Err(self.truncated("term history"));
        }
        let mut entries = Vec::with_capacity(count);
        for _ in 0..count {
            entries.push(TermEntry { term: self.term()?, begin: self.lsn("term history")? });
        }
        Ok(TermHistory::new(entries)?)
    }

    /// A yes or no, 0 or 1.
    pub(crate) fn flag(&self, field: &'static str, value: u64) -> Result<bool, Error> {
        match value {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(self.range(field)),
        }
    }

    /// Everything that is left.
    pub(crate) fn rest(&mut self) -> Bytes {
        std::mem::take(&mut self.bytes)
    }

    /// Refuses bytes behind the last field, as a proposer must.
    pub(crate) fn end(&self) -> Result<(), Error> {
        match self.bytes.len() {
            0 => Ok(()),
            bytes => Err(Error::Trailing { message: self.message, bytes }),
        }
    }
}

/// A message being written. Writing cannot fail.
pub(crate) struct Writer<'a> {
    pub(crate) out: &'a mut BytesMut,
    version: ProtoVersion,
}

impl<'a> Writer<'a> {
    /// Begins with the tag.
    pub(crate) fn new(version: ProtoVersion, tag: u8, out: &'a mut BytesMut) -> Self {
        match version {
            ProtoVersion::V2 => out.put_u64_le(u64::from(tag)),
            ProtoVersion::V3 => out.put_u8(tag),
        }
        Writer { out, version }
    }

    pub(crate) fn u32(&mut self, value: u32) -> &mut Self {
        match self.version {
            ProtoVersion::V2 => self.out.put_u32_le(value),
            ProtoVersion::V3 => self.out.put_u32(value),
        }
        self
    }

    pub(crate) fn u64(&mut self, value: u64) -> &mut Self {
        match self.version {
            ProtoVersion::V2 => self.out.put_u64_le(value),
            ProtoVersion::V3 => self.out.put_u64(value),
        }
        self
    }

    pub(crate) fn lsn(&mut self, value: Lsn) -> &mut Self {
        self.u64(value.0)
    }

    pub(crate) fn term(&mut self, value: Term) -> &mut Self {
        self.u64(value.0)
    }

    pub(crate) fn zeros(&mut self, count: usize) -> &mut Self {
        self.out.put_bytes(0, count);
        self
    }

    /// A count and the entries.
    pub(crate) fn history(&mut self, history: &TermHistory) -> &mut Self {
        let entries = history.entries();
        self.u32(entries.len() as u32);
        for entry in entries {
            self.term(entry.term).lsn(entry.begin);
        }
        self
    }
}
