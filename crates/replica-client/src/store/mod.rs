//! Objects below one root, with the manners an archive needs: retries, range resume, create-only, batches, measurements.
//!
//! A put is atomic: an object is there whole or not at all. In a directory it is durable when the call returns (file and
//! directory are synced). Keys are relative to the root, `/` between parts, never with `.` or `..`.
//!
//! What objects mean is the layouts' business.

mod objects;
mod stream;
mod upload;

use std::fmt;
use std::sync::Arc;

use object_store::path::Path;
use object_store::{ObjectStore, PutMode};
use tokio::sync::OnceCell;

use crate::error::{Error, Kind};
use crate::retry::RetryPolicy;

pub use objects::{Created, ObjectInfo};
pub(crate) use objects::{Presence, facts_attributes};
pub(crate) use stream::StoredReader;
pub(crate) use upload::Upload;

/// What is done to objects; the label of metrics and the verb of errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Operation {
    /// Storing an object.
    Put,
    /// Reading one.
    Get,
    /// Looking whether one is there, and at its size and metadata.
    Head,
    /// Listing a folder.
    List,
    /// Deleting objects.
    Delete,
}

impl Operation {
    /// The word for metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Operation::Put => "put",
            Operation::Get => "get",
            Operation::Head => "head",
            Operation::List => "list",
            Operation::Delete => "delete",
        }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Operation::Put => "store",
            Operation::Get => "read",
            Operation::Head => "look at",
            Operation::List => "list",
            Operation::Delete => "delete",
        })
    }
}

/// Which kind of store it is: what it can do follows from that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum StoreKind {
    /// A directory of this machine.
    Directory,
    /// S3, or a server that speaks its protocol.
    S3,
    /// Google Cloud Storage.
    Gcs,
    /// Azure Blob Storage.
    Azure,
    /// Objects in this process's memory; gone with it.
    Memory,
    /// A store somebody made, of which nothing is known: no metadata, create-only is probed.
    Other,
}

impl StoreKind {
    /// The word for metrics and listings.
    pub fn as_str(self) -> &'static str {
        match self {
            StoreKind::Directory => "file",
            StoreKind::S3 => "s3",
            StoreKind::Gcs => "gcs",
            StoreKind::Azure => "abs",
            StoreKind::Memory => "memory",
            StoreKind::Other => "other",
        }
    }

    /// Whether an object can carry facts beside its bytes.
    pub(crate) fn carries_metadata(self) -> bool {
        matches!(self, StoreKind::S3 | StoreKind::Gcs | StoreKind::Azure | StoreKind::Memory)
    }

    /// Whether create-only is part of what this kind promises. S3's protocol has many speakers, and some ignore it.
    fn known_conditions(self) -> Option<Conditions> {
        match self {
            StoreKind::Directory | StoreKind::Gcs | StoreKind::Azure | StoreKind::Memory => {
                Some(Conditions::Conditional)
            }
            StoreKind::S3 | StoreKind::Other => None,
        }
    }
}

/// Whether a store honours a create-only put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Conditions {
    /// A create-only put of an object that exists is refused.
    Conditional,
    /// It is not: whether an object exists has to be looked up first, and nobody can hold a lease.
    Unconditional,
}

/// Objects below one root. Clones share the connection pool and what is known about the store.
#[derive(Clone)]
pub struct Store {
    inner: Arc<dyn ObjectStore>,
    kind: StoreKind,
    root: String,
    retry: RetryPolicy,
    shared: Arc<Shared>,
}

struct Shared {
    base: String,
    conditions: OnceCell<Conditions>,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("kind", &self.kind).field("root", &self.root).finish_non_exhaustive()
    }
}

impl Store {
    /// A new, empty store in memory.
    pub fn memory() -> Store {
        Store::new(Arc::new(object_store::memory::InMemory::new()), StoreKind::Memory)
    }

    /// A store made elsewhere, whole, without a root of its own.
    pub fn new(inner: Arc<dyn ObjectStore>, kind: StoreKind) -> Store {
        Store::rooted(inner, kind, String::new())
    }

    pub(crate) fn rooted(inner: Arc<dyn ObjectStore>, kind: StoreKind, root: String) -> Store {
        let conditions = OnceCell::new_with(kind.known_conditions());
        let shared = Arc::new(Shared { base: root.clone(), conditions });
        Store { inner, kind, root, retry: RetryPolicy::default(), shared }
    }

    /// The same store, one or more folders deeper; empty parts of `path` are dropped.
    pub fn below(&self, path: &str) -> Store {
        let mut root = self.root.clone();
        for part in path.split('/').filter(|part| !part.is_empty()) {
            if !root.is_empty() {
                root.push('/');
            }
            root.push_str(part);
        }
        Store { root, ..self.clone() }
    }

    /// The same store with another root.
    pub(crate) fn at(&self, root: &str) -> Store {
        Store { root: root.to_owned(), ..self.clone() }
    }

    /// The same store, more or less patient.
    pub fn with_retry(self, retry: RetryPolicy) -> Store {
        Store { retry, ..self }
    }

    /// Which kind of store it is.
    pub fn kind(&self) -> StoreKind {
        self.kind
    }

    /// The root all keys are relative to; empty for the whole store.
    pub fn root(&self) -> &str {
        &self.root
    }

    /// Whether the store honours create-only puts. Known by its kind or asked once, by putting the object `seawall/probe`
    /// twice; the answer is remembered by all clones. A probe object left by an earlier run is the answer at once.
    pub async fn probe(&self) -> Result<Conditions, Error> {
        self.shared
            .conditions
            .get_or_try_init(|| async {
                let base = Store { root: self.shared.base.clone(), ..self.clone() };
                base.ask_conditions().await
            })
            .await
            .copied()
    }

    async fn ask_conditions(&self) -> Result<Conditions, Error> {
        const KEY: &str = "seawall/probe";
        for _ in 0..2 {
            // An attempt whose answer was lost makes the next one find the object: the right answer all the same.
            let taken = self.retrying(Operation::Put, KEY, 0, || async {
                let object = bytes::Bytes::from_static(b"create-only probe\n");
                match self.put_once(KEY, object, PutMode::Create, Default::default()).await {
                    Ok(()) => Ok(None),
                    Err(refused) => match crate::error::classify(&refused) {
                        Kind::Different => Ok(Some(Conditions::Conditional)),
                        Kind::Unsupported => Ok(Some(Conditions::Unconditional)),
                        _ => Err(refused),
                    },
                }
            });
            if let Some(known) = taken.await? {
                return Ok(known);
            }
        }
        Ok(Conditions::Unconditional)
    }

    pub(crate) fn retry(&self) -> RetryPolicy {
        self.retry
    }

    fn path(&self, key: &str) -> Result<Path, Error> {
        let full = match (self.root.is_empty(), key.is_empty()) {
            (true, _) => key.to_owned(),
            (false, true) => self.root.clone(),
            (false, false) => format!("{}/{key}", self.root),
        };
        Path::parse(&full).map_err(|error| Error::Usage(format!("{full:?} cannot be the key of an object: {error}")))
    }

    /// The key of an object that is listed, without the root; `None` if it is not below it.
    fn key_of(&self, path: &Path) -> Option<String> {
        let full = path.as_ref();
        if self.root.is_empty() {
            return Some(full.to_owned());
        }
        full.strip_prefix(self.root.as_str())?.strip_prefix('/').map(str::to_owned)
    }
}
