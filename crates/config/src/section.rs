//! Reading one table of the file key by key.
//!
//! A scalar is taken as text (a number as its digits, a string after `${…}`) and given to the parser that the flag of the same name
//! uses: `id = 1` and `id = "${NODE}"` are the same. What nobody took is an unknown key.

use std::fmt::Display;
use std::str::FromStr;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::error::{Error, Place, Problem};
use crate::expand::expand;
use crate::file::Env;

/// The text of a configuration and what is needed to read it.
#[derive(Clone, Copy)]
pub(crate) struct Source<'a> {
    pub(crate) file: &'a str,
    pub(crate) text: &'a str,
    pub(crate) env: Env<'a>,
}

impl Source<'_> {
    pub(crate) fn error(&self, offset: usize, key: String, problem: Problem) -> Error {
        let line = 1 + self.text.bytes().take(offset).filter(|byte| *byte == b'\n').count();
        Error::File { place: Place { file: self.file.to_owned(), line, key }, problem }
    }
}

/// A table being read.
pub(crate) struct Section<'a> {
    source: Source<'a>,
    /// The table's own name, empty for the whole file.
    path: String,
    /// Where it begins.
    offset: usize,
    table: DeTable<'a>,
    known: Vec<&'static str>,
}

impl<'a> Section<'a> {
    pub(crate) fn root(source: Source<'a>) -> Result<Section<'a>, Error> {
        let table = DeTable::parse(source.text).map_err(|err| {
            let offset = err.span().map_or(0, |span| span.start);
            source.error(offset, String::new(), Problem::Syntax(err.message().replace('\n', ", ")))
        })?;
        let (offset, table) = (table.span().start, table.into_inner());
        Ok(Section { source, path: String::new(), offset, table, known: Vec::new() })
    }

    fn key_path(&self, key: &str) -> String {
        match self.path.is_empty() {
            true => key.to_owned(),
            false => format!("{}.{key}", self.path),
        }
    }

    fn remove(&mut self, key: &'static str) -> Option<Spanned<DeValue<'a>>> {
        self.known.push(key);
        self.table.remove(key)
    }

    /// A scalar, if the key is there.
    pub(crate) fn take<T: FromStr<Err: Display>>(&mut self, key: &'static str) -> Result<Option<T>, Error> {
        let Some(value) = self.remove(key) else { return Ok(None) };
        self.scalar(&value, self.key_path(key)).map(Some)
    }

    /// A scalar that must be there.
    pub(crate) fn require<T: FromStr<Err: Display>>(&mut self, key: &'static str) -> Result<T, Error> {
        let missing = self.source.error(self.offset, self.path.clone(), Problem::MissingKey(key));
        self.take(key)?.ok_or(missing)
    }

    /// An array of scalars, empty if the key is missing.
    pub(crate) fn take_list<T: FromStr<Err: Display>>(&mut self, key: &'static str) -> Result<Vec<T>, Error> {
        let Some(value) = self.remove(key) else { return Ok(Vec::new()) };
        let path = self.key_path(key);
        let Some(array) = value.get_ref().as_array() else { return Err(self.kind(&value, path, "an array")) };
        array.iter().enumerate().map(|(index, item)| self.scalar(item, format!("{path}[{}]", index + 1))).collect()
    }

    /// A table inside, if the key is there.
    pub(crate) fn take_table(&mut self, key: &'static str) -> Result<Option<Section<'a>>, Error> {
        let Some(value) = self.remove(key) else { return Ok(None) };
        self.table(value, self.key_path(key)).map(Some)
    }

    /// An array of tables (`[[key]]`), empty if the key is missing.
    pub(crate) fn take_tables(&mut self, key: &'static str) -> Result<Vec<Section<'a>>, Error> {
        let Some(value) = self.remove(key) else { return Ok(Vec::new()) };
        let path = self.key_path(key);
        if !value.get_ref().is_array() {
            return Err(self.kind(&value, path, "a table with two brackets ([[…]])"));
        }
        let DeValue::Array(array) = value.into_inner() else { return Ok(Vec::new()) };
        array.into_iter().enumerate().map(|(index, item)| self.table(item, format!("{path}[{}]", index + 1))).collect()
    }

    /// The end: what is left was never asked for.
    pub(crate) fn finish(self) -> Result<(), Error> {
        match self.table.keys().min_by_key(|key| key.span().start) {
            None => Ok(()),
            Some(key) => {
                let path = self.key_path(key.get_ref());
                Err(self.source.error(key.span().start, path, Problem::UnknownKey { known: self.known.clone() }))
            }
        }
    }

    /// An error at the head of this table.
    pub(crate) fn refuse(&self, key: &str, problem: String) -> Error {
        self.source.error(self.offset, self.key_path(key), Problem::Value(problem))
    }

    fn table(&self, value: Spanned<DeValue<'a>>, path: String) -> Result<Section<'a>, Error> {
        let offset = value.span().start;
        if !value.get_ref().is_table() {
            return Err(self.kind(&value, path, "a table"));
        }
        let DeValue::Table(table) = value.into_inner() else { return Err(self.refuse(&path, String::new())) };
        Ok(Section { source: self.source, path, offset, table, known: Vec::new() })
    }

    fn scalar<T: FromStr<Err: Display>>(&self, value: &Spanned<DeValue<'a>>, path: String) -> Result<T, Error> {
        let offset = value.span().start;
        let at = |problem| self.source.error(offset, path.clone(), problem);
        let text = match value.get_ref() {
            DeValue::String(text) => expand(text, self.source.env).map_err(at)?,
            DeValue::Integer(number) if number.radix() == 10 => number.as_str().to_owned(),
            DeValue::Boolean(truth) => truth.to_string(),
            _ => return Err(self.kind(value, path, "a string, a whole number or a truth value")),
        };
        text.parse().map_err(|err: T::Err| at(Problem::Value(err.to_string())))
    }

    fn kind(&self, value: &Spanned<DeValue<'a>>, path: String, expected: &'static str) -> Error {
        let found = value.get_ref().type_str();
        self.source.error(value.span().start, path, Problem::Kind { expected, found })
    }
}
