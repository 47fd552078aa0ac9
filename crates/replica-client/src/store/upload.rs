//! An object of unknown length, uploaded while it is made: one put if it stays small, else parts.
//!
//! At most [`PARTS_IN_FLIGHT`] parts are being sent while the next is filled, so memory is bounded whatever the object's
//! size. An upload that is not finished leaves no object; its parts are thrown away, also when it is dropped.

use bytes::{Bytes, BytesMut};
use object_store::{Attributes, MultipartUpload, ObjectStore, PutMultipartOptions, PutPayload};
use tokio::task::JoinSet;

use super::objects::Presence;
use super::{Operation, Store};
use crate::error::{Error, classify};
use crate::metrics::Timer;

/// Objects up to this many stored bytes are one put; also the least part size.
pub(crate) const MULTIPART_ABOVE: usize = 8 << 20;
/// Parts sent at the same time.
const PARTS_IN_FLIGHT: usize = 2;
/// Parts a store takes at most is 10,000; this many are planned for, the rest is reserve.
const PARTS_PLANNED: u64 = 8_000;

/// One object being uploaded. Feed it, then finish it.
pub(crate) struct Upload {
    store: Store,
    key: String,
    part_size: usize,
    buffer: BytesMut,
    parts: Option<Parts>,
    stored: u64,
}

impl Upload {
    /// `expected` is a guess of the stored bytes, to choose a part size by; without one an object may have 160 GB.
    pub(crate) fn new(store: Store, key: &str, expected: Option<u64>) -> Upload {
        let planned = expected.map_or(2 * MULTIPART_ABOVE as u64, |bytes| bytes / PARTS_PLANNED + 1);
        let part_size = usize::try_from(planned.next_multiple_of(1 << 20)).unwrap_or(usize::MAX);
        Upload {
            store,
            key: key.to_owned(),
            part_size: part_size.max(MULTIPART_ABOVE),
            buffer: BytesMut::new(),
            parts: None,
            stored: 0,
        }
    }

    /// Takes the next bytes; waits while too many parts are on their way.
    pub(crate) async fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.stored += bytes.len() as u64;
        self.buffer.extend_from_slice(bytes);
        while self.buffer.len() > self.part_size {
            let part = self.buffer.split_to(self.part_size).freeze();
            self.send(part).await?;
        }
        Ok(())
    }

    async fn send(&mut self, part: Bytes) -> Result<(), Error> {
        let parts = match &mut self.parts {
            Some(parts) => parts,
            None => self.parts.insert(Parts::begin(&self.store, &self.key).await?),
        };
        parts.send(part).await.map_err(|error| Error::store(Operation::Put, &self.key, error))
    }

    /// Stored bytes so far.
    pub(crate) fn stored(&self) -> u64 {
        self.stored
    }

    /// Makes the object. `absent_only`: leaves one alone that is there; for an object of many parts this is looked up
    /// right before it appears, because no store offers more.
    pub(crate) async fn finish(mut self, attributes: Attributes, absent_only: bool) -> Result<Presence, Error> {
        let rest = self.buffer.split().freeze();
        if self.parts.is_none() {
            return match absent_only {
                true => self.store.put_if_absent(&self.key, rest, attributes).await,
                false => self.store.put(&self.key, rest).await.map(|()| Presence::Stored),
            };
        }
        if !rest.is_empty() {
            self.send(rest).await?;
        }
        if absent_only && self.store.head(&self.key).await?.is_some() {
            return Ok(Presence::Present);
        }
        match self.parts.take() {
            Some(parts) => {
                parts.complete(self.stored).await.map_err(|error| Error::store(Operation::Put, &self.key, error))?;
                Ok(Presence::Stored)
            }
            None => Err(Error::Stopped { key: self.key.clone() }),
        }
    }
}

/// The parts of one upload; thrown away if it is dropped before it is complete.
struct Parts {
    upload: Option<Box<dyn MultipartUpload>>,
    in_flight: JoinSet<Result<(), object_store::Error>>,
    timer: Option<Timer>,
}

impl Parts {
    async fn begin(store: &Store, key: &str) -> Result<Parts, Error> {
        let path = store.path(key)?;
        let timer = Timer::start(store.kind, Operation::Put);
        let mut failed = 0;
        loop {
            match store.inner.put_multipart_opts(&path, PutMultipartOptions::default()).await {
                Ok(upload) => {
                    return Ok(Parts { upload: Some(upload), in_flight: JoinSet::new(), timer: Some(timer) });
                }
                Err(error) => {
                    failed += 1;
                    let kind = classify(&error);
                    match store.retry.pause(failed) {
                        Some(pause) if super::objects::worth_retrying(kind) => {
                            timer.retried();
                            tokio::time::sleep(pause).await;
                        }
                        _ => {
                            timer.failed(kind);
                            return Err(Error::store(Operation::Put, key, error));
                        }
                    }
                }
            }
        }
    }

    async fn send(&mut self, part: Bytes) -> Result<(), object_store::Error> {
        while self.in_flight.len() >= PARTS_IN_FLIGHT {
            self.wait_one().await?;
        }
        if let Some(upload) = &mut self.upload {
            self.in_flight.spawn(upload.put_part(PutPayload::from_bytes(part)));
        }
        Ok(())
    }

    async fn wait_one(&mut self) -> Result<(), object_store::Error> {
        match self.in_flight.join_next().await {
            Some(Ok(sent)) => sent.inspect_err(|error| self.failed(error)),
            Some(Err(stopped)) => Err(object_store::Error::JoinError { source: stopped }),
            None => Ok(()),
        }
    }

    fn failed(&mut self, error: &object_store::Error) {
        if let Some(timer) = self.timer.take() {
            timer.failed(classify(error));
        }
    }

    async fn complete(mut self, stored: u64) -> Result<(), object_store::Error> {
        while !self.in_flight.is_empty() {
            self.wait_one().await?;
        }
        if let Some(upload) = &mut self.upload {
            upload.complete().await.inspect_err(|error| {
                if let Some(timer) = self.timer.take() {
                    timer.failed(classify(error));
                }
            })?;
            self.upload = None;
        }
        if let Some(timer) = self.timer.take() {
            timer.done(stored);
        }
        Ok(())
    }
}

impl Drop for Parts {
    fn drop(&mut self) {
        let Some(mut upload) = self.upload.take() else { return };
        // Parts of an unfinished upload cost money until somebody throws them away.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                if let Err(error) = upload.abort().await {
                    tracing::debug!(%error, "the parts of an unfinished upload could not be thrown away");
                }
            });
        }
    }
}
