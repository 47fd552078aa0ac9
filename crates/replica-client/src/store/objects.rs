//! One object, or a list of objects, at a time: put, create, get, head, list, delete.
//!
//! Each call is one operation in the metrics, retries included. A listing that breaks off is begun again, so what a call
//! returns is always one whole listing, sorted by key whatever the store's order.

use std::future::Future;

use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt, TryStreamExt};
use jiff::Timestamp;
use object_store::path::Path;
use object_store::{
    Attribute, AttributeValue, Attributes, GetOptions, ObjectMeta, ObjectStore, PutMode, PutOptions, PutPayload,
};

use super::{Conditions, Operation, Store, StoredReader};
use crate::error::{Error, Kind, classify};
use crate::facts::Facts;
use crate::metrics::Timer;

/// What is known of an object without reading it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectInfo {
    /// The key, relative to the store's root.
    pub key: String,
    /// Bytes as stored.
    pub stored: u64,
    /// When the store says it was made or last changed.
    pub created: Timestamp,
}

/// What a create-only put did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Created {
    /// The object was not there and is now.
    New,
    /// It was there, with these very bytes.
    Same,
}

/// What a put-if-absent found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Presence {
    /// Nothing; the object is stored.
    Stored,
    /// An object, which was left as it is (it may be ours, from an attempt whose answer was lost).
    Present,
}

/// Keys of one request to delete; the most S3 takes.
const DELETE_BATCH: usize = 1000;

impl Store {
    pub(super) async fn put_once(
        &self,
        key: &str,
        object: Bytes,
        mode: PutMode,
        attributes: Attributes,
    ) -> Result<(), object_store::Error> {
        let path = self
            .path(key)
            .map_err(|error| object_store::Error::Generic { store: "key", source: error.to_string().into() })?;
        let options = PutOptions { mode, attributes, ..PutOptions::default() };
        self.inner.put_opts(&path, PutPayload::from_bytes(object), options).await.map(drop)
    }

    /// Stores an object, replacing what has this key. Only for objects of which the last version counts.
    pub async fn put(&self, key: &str, object: Bytes) -> Result<(), Error> {
        self.path(key)?;
        let bytes = object.len() as u64;
        self.retrying(Operation::Put, key, bytes, || {
            self.put_once(key, object.clone(), PutMode::Overwrite, Attributes::default())
        })
        .await
    }

    /// Stores an object unless one is there; what is there is never changed. `attributes` only where the store carries
    /// them.
    pub(crate) async fn put_if_absent(
        &self,
        key: &str,
        object: Bytes,
        attributes: Attributes,
    ) -> Result<Presence, Error> {
        self.path(key)?;
        let bytes = object.len() as u64;
        let mode = match self.probe().await? {
            Conditions::Conditional => PutMode::Create,
            Conditions::Unconditional => {
                if self.head(key).await?.is_some() {
                    return Ok(Presence::Present);
                }
                PutMode::Overwrite
            }
        };
        let put = self.retrying(Operation::Put, key, bytes, || async {
            match self.put_once(key, object.clone(), mode.clone(), attributes.clone()).await {
                Ok(()) => Ok(Presence::Stored),
                Err(error) if mode == PutMode::Create && classify(&error) == Kind::Different => Ok(Presence::Present),
                Err(error) => Err(error),
            }
        });
        put.await
    }

    /// Stores a small object create-only and makes sure of it: with another object there, or (on a store that ignores
    /// create-only) another one after reading back, it is [`Error::Different`].
    pub async fn create(&self, key: &str, object: Bytes) -> Result<Created, Error> {
        let mut tries = self.retry().attempts.max(1);
        loop {
            let presence = self.put_if_absent(key, object.clone(), Attributes::default()).await?;
            if presence == Presence::Stored && self.probe().await? == Conditions::Conditional {
                return Ok(Created::New);
            }
            let there = match self.get(key, object.len() as u64 + 1).await {
                Ok(there) => Some(there),
                Err(Error::TooLarge { .. }) => None,
                // A create that was refused because of another one under way, which then did not happen.
                Err(Error::NotFound { .. }) if tries > 1 => {
                    tries -= 1;
                    continue;
                }
                Err(error) => return Err(error),
            };
            if there.as_ref() == Some(&object) {
                return Ok(if presence == Presence::Stored { Created::New } else { Created::Same });
            }
            return Err(Error::Different {
                key: key.to_owned(),
                there: there.map_or_else(|| "a longer object".to_owned(), |there| format!("{} bytes", there.len())),
                ours: format!("{} bytes", object.len()),
            });
        }
    }

    /// Reads a whole object of at most `limit` bytes; a longer one is [`Error::TooLarge`], a missing one
    /// [`Error::NotFound`].
    pub async fn get(&self, key: &str, limit: u64) -> Result<Bytes, Error> {
        let mut reader = StoredReader::new(self.clone(), key)?;
        let mut whole = BytesMut::new();
        while let Some(bytes) = reader.next().await? {
            if (whole.len() + bytes.len()) as u64 > limit {
                return Err(Error::TooLarge { key: key.to_owned(), limit });
            }
            whole.extend_from_slice(&bytes);
        }
        Ok(whole.freeze())
    }

    /// Whether an object is there, and its size.
    pub async fn head(&self, key: &str) -> Result<Option<ObjectInfo>, Error> {
        Ok(self.head_with_facts(key).await?.map(|(info, _)| info))
    }

    /// As [`Store::head`], with the facts in the object's metadata, if it carries any.
    pub(crate) async fn head_with_facts(&self, key: &str) -> Result<Option<(ObjectInfo, Option<Facts>)>, Error> {
        let path = self.path(key)?;
        self.retrying(Operation::Head, key, 0, || async {
            match self.inner.get_opts(&path, GetOptions::new().with_head(true)).await {
                Ok(result) => {
                    let facts = facts_of(&result.attributes);
                    Ok(self.info(&result.meta).map(|info| (info, facts)))
                }
                Err(object_store::Error::NotFound { .. }) => Ok(None),
                Err(error) => Err(error),
            }
        })
        .await
    }

    /// All objects below a folder (empty: below the root), sorted by key. A folder that does not exist is empty.
    pub async fn list(&self, folder: &str) -> Result<Vec<ObjectInfo>, Error> {
        self.list_after(folder, None).await
    }

    /// As [`Store::list`], without the keys up to and including `after`.
    pub(crate) async fn list_after(&self, folder: &str, after: Option<&str>) -> Result<Vec<ObjectInfo>, Error> {
        let path = self.path(folder)?;
        let after = after.map(|after| self.path(after)).transpose()?;
        let prefix = (!path.as_ref().is_empty()).then_some(&path);
        let mut objects = self
            .retrying(Operation::List, folder, 0, || async {
                let listing = match &after {
                    Some(after) => self.inner.list_with_offset(prefix, after),
                    None => self.inner.list(prefix),
                };
                listing.try_filter_map(|meta| async move { Ok(self.info(&meta)) }).try_collect::<Vec<_>>().await
            })
            .await?;
        objects.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        objects.dedup_by(|a, b| a.key == b.key);
        Ok(objects)
    }

    /// The names of the folders right below a folder (empty: the root), sorted.
    pub async fn folders(&self, folder: &str) -> Result<Vec<String>, Error> {
        let path = self.path(folder)?;
        let prefix = (!path.as_ref().is_empty()).then_some(&path);
        let result = self.retrying(Operation::List, folder, 0, || self.inner.list_with_delimiter(prefix)).await?;
        let mut names: Vec<String> =
            result.common_prefixes.iter().filter_map(|prefix| prefix.filename().map(str::to_owned)).collect();
        names.sort_unstable();
        names.dedup();
        Ok(names)
    }

    /// Deletes objects, in batches where the store can. One that is not there counts as deleted. What cannot be deleted is
    /// tried again; if some stay, [`Error::Delete`] names the first and the others are gone. Returns how many were asked
    /// for.
    pub async fn delete(&self, keys: Vec<String>) -> Result<u64, Error> {
        let asked = keys.len();
        let mut left = keys.iter().map(|key| self.path(key)).collect::<Result<Vec<Path>, Error>>()?;
        if left.is_empty() {
            return Ok(0);
        }
        let timer = Timer::start(self.kind, Operation::Delete);
        let mut failed = 0;
        loop {
            let mut refused: Vec<Path> = Vec::new();
            let mut first: Option<(Path, object_store::Error)> = None;
            for batch in left.chunks(DELETE_BATCH) {
                for (path, error) in self.delete_batch(batch).await {
                    refused.push(path.clone());
                    first.get_or_insert((path, error));
                }
            }
            let Some((path, error)) = first else {
                timer.done(0);
                return Ok(asked as u64);
            };
            failed += 1;
            let kind = classify(&error);
            match self.retry.pause(failed) {
                Some(pause) if worth_retrying(kind) => {
                    timer.retried();
                    tokio::time::sleep(pause).await;
                    left = refused;
                }
                _ => {
                    timer.failed(kind);
                    let key = self.key_of(&path).unwrap_or_default();
                    return Err(Error::Delete { asked, failed: refused.len(), key, kind, source: error });
                }
            }
        }
    }

    /// What of a batch is not deleted, with a reason each. A store answers key by key, in order, or once for all of it.
    async fn delete_batch(&self, batch: &[Path]) -> Vec<(Path, object_store::Error)> {
        let paths: Vec<_> = batch.iter().cloned().map(Ok).collect();
        let paths = futures_util::stream::iter(paths).boxed();
        let answers: Vec<Result<Path, object_store::Error>> = self.inner.delete_stream(paths).collect().await;
        let gone = |error: &object_store::Error| matches!(error, object_store::Error::NotFound { .. });
        if answers.len() == batch.len() {
            let pairs = batch.iter().cloned().zip(answers);
            return pairs.filter_map(|(path, answer)| Some((path, answer.err().filter(|e| !gone(e))?))).collect();
        }
        let (mut deleted, mut error) = (std::collections::HashSet::new(), None);
        for answer in answers {
            match answer {
                Ok(path) => drop(deleted.insert(path)),
                Err(refusal) => error = error.or(Some(refusal)),
            }
        }
        let words = error.map_or_else(|| "the store did not answer for every key".to_owned(), |e| e.to_string());
        let left = batch.iter().filter(|path| !deleted.contains(*path));
        left.map(|path| (path.clone(), object_store::Error::Generic { store: "batch", source: words.clone().into() }))
            .collect()
    }

    /// Runs an operation until it works, may not be repeated, or was tried often enough.
    pub(super) async fn retrying<T, F>(
        &self,
        operation: Operation,
        key: &str,
        bytes: u64,
        mut attempt: impl FnMut() -> F,
    ) -> Result<T, Error>
    where
        F: Future<Output = Result<T, object_store::Error>>,
    {
        let timer = Timer::start(self.kind, operation);
        let mut failed = 0;
        loop {
            let error = match attempt().await {
                Ok(value) => {
                    timer.done(bytes);
                    return Ok(value);
                }
                Err(error) => error,
            };
            failed += 1;
            let kind = classify(&error);
            match self.retry.pause(failed) {
                Some(pause) if worth_retrying(kind) => {
                    tracing::debug!(key, %operation, %error, ?pause, "an operation on the replica is tried again");
                    timer.retried();
                    tokio::time::sleep(pause).await;
                }
                _ => {
                    timer.failed(kind);
                    return Err(Error::store(operation, key, error));
                }
            }
        }
    }

    fn info(&self, meta: &ObjectMeta) -> Option<ObjectInfo> {
        let created =
            Timestamp::from_millisecond(meta.last_modified.timestamp_millis()).unwrap_or(Timestamp::UNIX_EPOCH);
        Some(ObjectInfo { key: self.key_of(&meta.location)?, stored: meta.size, created })
    }
}

/// Whether trying again can help.
pub(super) fn worth_retrying(kind: Kind) -> bool {
    kind == Kind::Unavailable
}

// The names have no separator: Azure takes only identifiers, and HTTP proxies drop names with an underscore.
const LENGTH: &str = "seawalllength";
const CRC32C: &str = "seawallcrc32c";
const FIRST_COMMIT: &str = "seawallfirstcommit";
const LAST_COMMIT: &str = "seawalllastcommit";

/// The metadata that says an object's facts.
pub(crate) fn facts_attributes(facts: &Facts) -> Attributes {
    let mut attributes = Attributes::new();
    let mut insert = |name: &'static str, value: String| {
        attributes.insert(Attribute::Metadata(name.into()), AttributeValue::from(value));
    };
    insert(LENGTH, facts.plain.length.to_string());
    insert(CRC32C, format!("{:08x}", facts.plain.crc32c));
    if let Some(time) = facts.commits.first {
        insert(FIRST_COMMIT, time.to_string());
    }
    if let Some(time) = facts.commits.last {
        insert(LAST_COMMIT, time.to_string());
    }
    attributes
}

/// The facts in an object's metadata; `None` if it carries none, or nonsense.
pub(crate) fn facts_of(attributes: &Attributes) -> Option<Facts> {
    let value = |name: &'static str| attributes.get(&Attribute::Metadata(name.into())).map(|value| value.as_ref());
    Some(Facts {
        plain: crate::facts::Plain {
            length: value(LENGTH)?.parse().ok()?,
            crc32c: u32::from_str_radix(value(CRC32C)?, 16).ok()?,
        },
        commits: crate::facts::CommitTimes {
            first: value(FIRST_COMMIT).and_then(|time| time.parse().ok()),
            last: value(LAST_COMMIT).and_then(|time| time.parse().ok()),
        },
    })
}
