//! One object's bytes as they are stored, from the first to the last, over connections that may break.
//!
//! A read that breaks off goes on at its byte by a range request, after a pause, on the condition that the object is still
//! the same one. Each piece of progress renews the patience. The end is only reported at the size the store named first.

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use object_store::path::Path;
use object_store::{GetOptions, GetRange, ObjectStore};

use super::objects::worth_retrying;
use super::{Operation, Store};
use crate::error::{Error, Kind, classify};
use crate::metrics::Timer;

/// Reads one object.
pub(crate) struct StoredReader {
    store: Store,
    key: String,
    path: Path,
    position: u64,
    object: Option<Object>,
    stream: Option<BoxStream<'static, Result<Bytes, object_store::Error>>>,
    failed: u32,
    timer: Option<Timer>,
}

struct Object {
    size: u64,
    tag: Option<String>,
}

impl StoredReader {
    /// Nothing is requested before the first [`StoredReader::next`].
    pub(crate) fn new(store: Store, key: &str) -> Result<StoredReader, Error> {
        let path = store.path(key)?;
        Ok(StoredReader {
            store,
            key: key.to_owned(),
            path,
            position: 0,
            object: None,
            stream: None,
            failed: 0,
            timer: None,
        })
    }

    /// The next bytes; `None` at the object's end.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        if self.timer.is_none() {
            if self.object.is_some() {
                return Ok(None);
            }
            self.timer = Some(Timer::start(self.store.kind, Operation::Get));
        }
        loop {
            match self.advance().await {
                Ok(Some(bytes)) => {
                    self.failed = 0;
                    return Ok(Some(bytes));
                }
                Ok(None) => {
                    if let Some(timer) = self.timer.take() {
                        timer.done(self.position);
                    }
                    return Ok(None);
                }
                Err(Failure::Fatal(error)) => return Err(self.fail(error)),
                Err(Failure::Store(source)) => {
                    self.stream = None;
                    self.failed += 1;
                    match self.store.retry.pause(self.failed) {
                        Some(pause) if worth_retrying(classify(&source)) => {
                            tracing::debug!(key = self.key, at = self.position, error = %source, "a read goes on");
                            if let Some(timer) = &self.timer {
                                timer.retried();
                            }
                            tokio::time::sleep(pause).await;
                        }
                        _ => {
                            let error = Error::store(Operation::Get, &self.key, source);
                            return Err(self.fail(error));
                        }
                    }
                }
            }
        }
    }

    fn fail(&mut self, error: Error) -> Error {
        if let Some(timer) = self.timer.take() {
            timer.failed(error.kind());
        }
        error
    }

    async fn advance(&mut self) -> Result<Option<Bytes>, Failure> {
        if let Some(object) = &self.object
            && self.position == object.size
        {
            return Ok(None);
        }
        if self.stream.is_none() {
            self.open().await?;
        }
        let (Some(stream), Some(object)) = (&mut self.stream, &self.object) else {
            return Err(Failure::Store(broken("the store gave no stream")));
        };
        match stream.next().await {
            Some(Ok(bytes)) => {
                self.position = self.position.saturating_add(bytes.len() as u64);
                if self.position > object.size {
                    return Err(Failure::Fatal(Error::Changed { key: self.key.clone() }));
                }
                Ok(Some(bytes))
            }
            Some(Err(error)) => Err(Failure::Store(error)),
            None if self.position == object.size => Ok(None),
            None => Err(Failure::Store(broken("the stream ended before the object did"))),
        }
    }

    async fn open(&mut self) -> Result<(), Failure> {
        let mut options = GetOptions::new();
        if let Some(object) = &self.object {
            options.range = (self.position > 0).then_some(GetRange::Offset(self.position));
            options.if_match = object.tag.clone();
        }
        let resumed = self.object.is_some();
        let result = match self.store.inner.get_opts(&self.path, options).await {
            Ok(result) => result,
            Err(error) if resumed && classify(&error) == Kind::Different => {
                return Err(Failure::Fatal(Error::Changed { key: self.key.clone() }));
            }
            Err(error) => return Err(Failure::Store(error)),
        };
        match &self.object {
            Some(object) if object.size != result.meta.size || result.range.start != self.position => {
                return Err(Failure::Fatal(Error::Changed { key: self.key.clone() }));
            }
            Some(_) => {}
            None => self.object = Some(Object { size: result.meta.size, tag: result.meta.e_tag.clone() }),
        }
        self.stream = Some(result.into_stream());
        Ok(())
    }
}

enum Failure {
    Store(object_store::Error),
    Fatal(Error),
}

fn broken(words: &'static str) -> object_store::Error {
    object_store::Error::Generic { store: "stream", source: words.into() }
}
