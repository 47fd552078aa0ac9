//! A store in memory with bad manners.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::{BoxStream, StreamExt};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use replica_client::{RetryPolicy, Store, StoreKind};

/// How it behaves.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Manners {
    /// Whether it honours create-only puts.
    pub(crate) conditional: bool,
    /// Lists in no order.
    pub(crate) shuffled: bool,
    /// Breaks each answer to a read after this many bytes.
    pub(crate) cut_after: Option<usize>,
    /// With `cut_after`: ends the answer there as if that were all of it.
    pub(crate) silent: bool,
    /// Does what the first request to put an object asks for, and reports a failure.
    pub(crate) lost_answers: bool,
}

impl Default for Manners {
    fn default() -> Self {
        Manners { conditional: true, shuffled: false, cut_after: None, silent: false, lost_answers: false }
    }
}

/// The store; clones are the same one.
#[derive(Debug, Clone)]
pub(crate) struct Faulty {
    inner: Arc<InMemory>,
    manners: Manners,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    requests: HashMap<&'static str, usize>,
    answered: HashSet<Path>,
    failing: usize,
    undeletable: Option<String>,
}

impl Faulty {
    pub(crate) fn new(manners: Manners) -> Faulty {
        Faulty { inner: Arc::new(InMemory::new()), manners, state: Arc::default() }
    }

    /// As the product sees it: impatient, of an unknown kind.
    pub(crate) fn store(&self) -> Store {
        let retry = RetryPolicy { attempts: 4, first: Duration::from_millis(1), max: Duration::from_millis(2) };
        Store::new(Arc::new(self.clone()), StoreKind::Other).with_retry(retry)
    }

    /// The next requests of any kind fail.
    pub(crate) fn fail_next(&self, count: usize) {
        self.state.lock().unwrap().failing = count;
    }

    /// Objects with this in the key cannot be deleted.
    pub(crate) fn undeletable(&self, part: Option<&str>) {
        self.state.lock().unwrap().undeletable = part.map(str::to_owned);
    }

    /// Requests of a kind so far.
    pub(crate) fn requests(&self, kind: &str) -> usize {
        self.state.lock().unwrap().requests.get(kind).copied().unwrap_or_default()
    }

    /// All requests so far.
    pub(crate) fn all_requests(&self) -> usize {
        self.state.lock().unwrap().requests.values().sum()
    }

    fn request(&self, kind: &'static str) -> Result<()> {
        let mut state = self.state.lock().unwrap();
        *state.requests.entry(kind).or_default() += 1;
        if state.failing > 0 {
            state.failing -= 1;
            return Err(broken());
        }
        Ok(())
    }
}

fn broken() -> Error {
    Error::Generic { store: "faulty", source: "the connection was reset".into() }
}

impl fmt::Display for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Faulty")
    }
}

#[async_trait]
impl ObjectStore for Faulty {
    async fn put_opts(&self, location: &Path, payload: PutPayload, mut options: PutOptions) -> Result<PutResult> {
        self.request("put")?;
        if !self.manners.conditional {
            options.mode = PutMode::Overwrite;
        }
        let result = self.inner.put_opts(location, payload, options).await?;
        if self.manners.lost_answers && self.state.lock().unwrap().answered.insert(location.clone()) {
            return Err(broken());
        }
        Ok(result)
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.request("multipart")?;
        self.inner.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.request(if options.head { "head" } else { "get" })?;
        let head = options.head;
        let mut result = self.inner.get_opts(location, options).await?;
        if let (Some(cut), false) = (self.manners.cut_after, head) {
            let GetResultPayload::Stream(stream) = result.payload else { unreachable!() };
            let whole = Bytes::from(stream.map(|part| part.unwrap()).collect::<Vec<_>>().await.concat());
            let mut parts = vec![Ok(whole.slice(..cut.min(whole.len())))];
            if cut < whole.len() && !self.manners.silent {
                parts.push(Err(broken()));
            }
            result.payload = GetResultPayload::Stream(futures_util::stream::iter(parts).boxed());
        }
        Ok(result)
    }

    async fn get_ranges(&self, _: &Path, _: &[Range<u64>]) -> Result<Vec<Bytes>> {
        unreachable!()
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let refused = self.request("delete").err();
        if let Some(refused) = refused {
            return futures_util::stream::iter([Err(refused)]).boxed();
        }
        let undeletable = self.state.lock().unwrap().undeletable.clone();
        let inner = Arc::clone(&self.inner);
        locations
            .then(move |location| {
                let (inner, undeletable) = (Arc::clone(&inner), undeletable.clone());
                async move {
                    let location = location?;
                    if undeletable.is_some_and(|part| location.as_ref().contains(&part)) {
                        return Err(broken());
                    }
                    let one = futures_util::stream::iter([Ok(location)]).boxed();
                    inner.delete_stream(one).next().await.unwrap()
                }
            })
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        if let Err(refused) = self.request("list") {
            return futures_util::stream::iter([Err(refused)]).boxed();
        }
        let listing = self.inner.list(prefix);
        if !self.manners.shuffled {
            return listing;
        }
        futures_util::stream::once(async move {
            let mut all: Vec<_> = listing.collect().await;
            all.sort_by_key(|meta| {
                let name = meta.as_ref().unwrap().location.to_string();
                name.bytes().fold(7u32, |hash, byte| hash.wrapping_mul(16_777_619) ^ u32::from(byte))
            });
            futures_util::stream::iter(all)
        })
        .flatten()
        .boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.request("list")?;
        let mut result = self.inner.list_with_delimiter(prefix).await?;
        if self.manners.shuffled {
            result.common_prefixes.reverse();
        }
        Ok(result)
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> Result<()> {
        unreachable!()
    }
}
