//! Bodies of RowDescription and DataRow: checked once, then read without copying.

use crate::cursor::{BodyError, Cursor};
use bytes::Bytes;

/// What the columns of a result are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RowDescription {
    names: Vec<String>,
}

impl RowDescription {
    pub(super) fn decode(body: Bytes) -> Result<RowDescription, BodyError> {
        let mut body = Cursor::new("RowDescription", body);
        let count = body.u16()?;
        let mut names = Vec::new();
        for _ in 0..count {
            names.push(body.cstr_lossy()?);
            // Table, attribute, type, type length, type modifier, format: results here are text whatever the type.
            body.take(4 + 2 + 4 + 2 + 4 + 2)?;
        }
        body.finish()?;
        Ok(RowDescription { names })
    }

    /// The columns' names, in order.
    pub fn names(&self) -> &[String] {
        &self.names
    }
}

/// One row of values.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DataRow {
    values: Vec<Option<Bytes>>,
}

impl DataRow {
    pub(super) fn decode(body: Bytes) -> Result<DataRow, BodyError> {
        let mut body = Cursor::new("DataRow", body);
        let count = body.u16()?;
        let mut values = Vec::new();
        for _ in 0..count {
            values.push(match body.i32()? {
                -1 => None,
                length => {
                    let wrong = BodyError::Value { what: "the length of a DataRow value", value: i64::from(length) };
                    Some(body.take(usize::try_from(length).map_err(|_| wrong)?)?)
                }
            });
        }
        body.finish()?;
        Ok(DataRow { values })
    }

    /// The values, `None` for NULL; slices of the message.
    pub fn values(&self) -> &[Option<Bytes>] {
        &self.values
    }

    /// A value as text; `None` for NULL, for a column that is not there and for text that is not UTF-8.
    pub fn text(&self, column: usize) -> Option<&str> {
        self.values.get(column)?.as_deref().and_then(|value| std::str::from_utf8(value).ok())
    }
}
