//! Reading the fields of one message body. Every read is checked; slices share the body's memory.

use bytes::{Buf, Bytes};

/// A message whose inside does not fit its type.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// The body ends before the field does.
    #[error("{0} is shorter than its fields")]
    Truncated(&'static str),
    /// The body goes on after its last field.
    #[error("{what} has {extra} bytes after its last field")]
    Trailing {
        /// The message.
        what: &'static str,
        /// How many bytes are left over.
        extra: usize,
    },
    /// A text is not UTF-8.
    #[error("{0} contains text that is not UTF-8")]
    NotUtf8(&'static str),
    /// A field holds a value it must not hold.
    #[error("{what} has {value} where that is not allowed")]
    Value {
        /// The message and field.
        what: &'static str,
        /// What stood there.
        value: i64,
    },
}

/// The rest of one body.
pub(crate) struct Cursor {
    what: &'static str,
    rest: Bytes,
}

impl Cursor {
    pub(crate) fn new(what: &'static str, body: Bytes) -> Cursor {
        Cursor { what, rest: body }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    fn need(&self, count: usize) -> Result<(), BodyError> {
        if self.rest.len() < count { Err(BodyError::Truncated(self.what)) } else { Ok(()) }
    }

    pub(crate) fn u8(&mut self) -> Result<u8, BodyError> {
        self.need(1)?;
        Ok(self.rest.get_u8())
    }

    pub(crate) fn u16(&mut self) -> Result<u16, BodyError> {
        self.need(2)?;
        Ok(self.rest.get_u16())
    }

    pub(crate) fn u32(&mut self) -> Result<u32, BodyError> {
        self.need(4)?;
        Ok(self.rest.get_u32())
    }

    pub(crate) fn i32(&mut self) -> Result<i32, BodyError> {
        self.need(4)?;
        Ok(self.rest.get_i32())
    }

    pub(crate) fn u64(&mut self) -> Result<u64, BodyError> {
        self.need(8)?;
        Ok(self.rest.get_u64())
    }

    pub(crate) fn i64(&mut self) -> Result<i64, BodyError> {
        self.need(8)?;
        Ok(self.rest.get_i64())
    }

    pub(crate) fn take(&mut self, count: usize) -> Result<Bytes, BodyError> {
        self.need(count)?;
        Ok(self.rest.split_to(count))
    }

    /// The bytes up to the next NUL, which is consumed too.
    pub(crate) fn cstr_bytes(&mut self) -> Result<Bytes, BodyError> {
        let length = self.rest.iter().position(|b| *b == 0).ok_or(BodyError::Truncated(self.what))?;
        let text = self.rest.split_to(length);
        self.rest.advance(1);
        Ok(text)
    }

    pub(crate) fn cstr(&mut self) -> Result<String, BodyError> {
        let bytes = self.cstr_bytes()?;
        std::str::from_utf8(&bytes).map(str::to_owned).map_err(|_| BodyError::NotUtf8(self.what))
    }

    /// Like [`Cursor::cstr`], for text that is only shown: damaged characters are replaced.
    pub(crate) fn cstr_lossy(&mut self) -> Result<String, BodyError> {
        Ok(String::from_utf8_lossy(&self.cstr_bytes()?).into_owned())
    }

    /// Everything that is left.
    pub(crate) fn remaining(self) -> Bytes {
        self.rest
    }

    /// Checks that nothing is left.
    pub(crate) fn finish(self) -> Result<(), BodyError> {
        match self.rest.len() {
            0 => Ok(()),
            extra => Err(BodyError::Trailing { what: self.what, extra }),
        }
    }
}
