//! A PostgreSQL snapshot in a replica: parts, and last the object with which it exists.
//!
//! What the parts and `snapshot.json` say is others' business; here they are bytes. A snapshot without its last object does
//! not exist, whatever parts lie there, and can be thrown away.

use bytes::Bytes;
use lsn::Lsn;
use tokio::io::AsyncRead;

use crate::archive::PostgresReplica;
use crate::codec::PlainReader;
use crate::error::{Error, Kind};
use crate::facts::Plain;
use crate::layout::Layout;
use crate::layout::postgres::{Part, SNAPSHOT, parse_snapshot_folder, snapshot_folder};
use crate::names::Generation;
use crate::replica::encode;
use crate::seal::{seal, unseal};
use crate::store::Store;

/// The longest `snapshot.json`, plain.
pub const MAX_SNAPSHOT_JSON: u64 = 256 << 20;

impl PostgresReplica {
    fn snapshot_root(&self, generation: Generation, lsn: Lsn) -> String {
        format!("{}/{}", Layout::Postgres.snapshots(generation), snapshot_folder(lsn))
    }

    fn part_key(&self, generation: Generation, lsn: Lsn, part: Part) -> Result<String, Error> {
        let file = part.file().ok_or_else(|| Error::Usage(format!("{part} has no name in a replica")))?;
        Ok(format!("{}/{file}", self.snapshot_root(generation, lsn)))
    }

    /// Begins a snapshot that starts at this LSN. One that exists is [`Error::Different`]; parts an interrupted one left are
    /// deleted.
    pub async fn begin_snapshot(&self, generation: Generation, lsn: Lsn) -> Result<SnapshotWriter, Error> {
        let root = self.snapshot_root(generation, lsn);
        let left = self.store().list(&root).await?;
        let last = format!("{root}/{SNAPSHOT}");
        if left.iter().any(|object| object.key == last) {
            return Err(Error::Different {
                key: last,
                there: "a finished snapshot".to_owned(),
                ours: "a new one of the same LSN".to_owned(),
            });
        }
        self.store().delete(left.into_iter().map(|object| object.key).collect()).await?;
        Ok(SnapshotWriter { replica: self.clone(), generation, lsn })
    }

    /// The plain `snapshot.json` of a snapshot; an error of kind `NotFound` means that there is no such snapshot.
    pub async fn read_snapshot(&self, generation: Generation, lsn: Lsn) -> Result<Bytes, Error> {
        let key = format!("{}/{SNAPSHOT}", self.snapshot_root(generation, lsn));
        let object = self.store().get(&key, MAX_SNAPSHOT_JSON).await?;
        // Where nothing is encrypted it is plain JSON, so that people and other programs can read it.
        if object.first() == Some(&b'{') {
            let content = unseal(&object).map_err(|reason| Error::Content {
                key,
                what: "description of a snapshot",
                reason: reason.to_owned(),
            })?;
            return Ok(object.slice_ref(content));
        }
        let plain = self.codec().decode(&object, MAX_SNAPSHOT_JSON);
        plain.map(Bytes::from).map_err(|source| Error::Decode { key, source })
    }

    /// The plain bytes of a part. No request before the first read.
    pub fn open_part(&self, generation: Generation, lsn: Lsn, part: Part) -> Result<PlainReader, Error> {
        self.codec().open(self.store(), &self.part_key(generation, lsn, part)?, None)
    }

    /// The parts that lie there, whether the snapshot exists or not, each with its stored bytes. One listing.
    pub async fn snapshot_parts(&self, generation: Generation, lsn: Lsn) -> Result<Vec<(Part, u64)>, Error> {
        let root = self.snapshot_root(generation, lsn);
        let parts = self.store().list(&root).await?.into_iter().filter_map(|object| {
            let file = object.key.strip_prefix(&root)?.strip_prefix('/')?;
            Some((Part::parse(file)?, object.stored))
        });
        Ok(parts.collect())
    }

    /// Where parts lie and no snapshot exists: being made, or interrupted. One listing.
    pub async fn unfinished_snapshots(&self, generation: Generation) -> Result<Vec<Lsn>, Error> {
        let folder = Layout::Postgres.snapshots(generation);
        let mut found: std::collections::BTreeMap<u64, bool> = std::collections::BTreeMap::new();
        for object in self.store().list(&folder).await? {
            let path = object.key.strip_prefix(&folder).and_then(|path| path.strip_prefix('/'));
            let Some((name, file)) = path.and_then(|path| path.split_once('/')) else { continue };
            let Some(lsn) = parse_snapshot_folder(name) else { continue };
            *found.entry(lsn.0).or_default() |= file == SNAPSHOT;
        }
        Ok(found.into_iter().filter(|(_, exists)| !exists).map(|(lsn, _)| Lsn(lsn)).collect())
    }
}

/// A snapshot being made. Clones write parts at the same time; one of them finishes it.
#[derive(Debug, Clone)]
pub struct SnapshotWriter {
    replica: PostgresReplica,
    generation: Generation,
    lsn: Lsn,
}

impl SnapshotWriter {
    fn store(&self) -> &Store {
        self.replica.store()
    }

    /// Stores a part from a reader, in bounded memory; one of this name is replaced. Encoding happens in this task: to use
    /// several processors, spawn several.
    pub async fn put_part(&self, part: Part, plain: impl AsyncRead + Unpin + Send) -> Result<Plain, Error> {
        let key = self.replica.part_key(self.generation, self.lsn, part)?;
        let (_, plain, _) = self.replica.put_stream(&key, None, plain, false).await?;
        Ok(plain)
    }

    /// Stores a part that is in memory; it is encoded on a thread for blocking work.
    pub async fn put_part_bytes(&self, part: Part, plain: Bytes) -> Result<Plain, Error> {
        let key = self.replica.part_key(self.generation, self.lsn, part)?;
        let facts = Plain::of(&plain);
        let object = encode(self.replica.codec(), &key, plain).await?;
        let mut upload = crate::store::Upload::new(self.store().clone(), &key, Some(object.len() as u64));
        upload.write(&object).await?;
        drop(object);
        upload.finish(object_store::Attributes::default(), false).await?;
        Ok(facts)
    }

    /// Makes the snapshot exist. `snapshot_json` begins with `{`; it is stored plain, or encrypted where there are
    /// recipients. If a snapshot of this LSN came into being meanwhile, it stays and this is [`Error::Different`].
    pub async fn finish(self, snapshot_json: &[u8]) -> Result<(), Error> {
        if snapshot_json.first() != Some(&b'{') || snapshot_json.len() as u64 > MAX_SNAPSHOT_JSON {
            return Err(Error::Usage("the description of a snapshot is one JSON object".to_owned()));
        }
        let key = format!("{}/{SNAPSHOT}", self.replica.snapshot_root(self.generation, self.lsn));
        let object = if self.replica.codec().encrypts() {
            encode(self.replica.codec(), &key, Bytes::copy_from_slice(snapshot_json)).await?
        } else {
            seal(snapshot_json)
        };
        self.store().create(&key, object).await.map(drop)
    }

    /// Throws away what was stored so far.
    pub async fn abandon(self) -> Result<(), Error> {
        let root = self.replica.snapshot_root(self.generation, self.lsn);
        let objects = self.store().list(&root).await?;
        if objects.iter().any(|object| object.key.ends_with(SNAPSHOT)) {
            return Err(Error::Different {
                key: format!("{root}/{SNAPSHOT}"),
                there: "a finished snapshot".to_owned(),
                ours: "one to be abandoned".to_owned(),
            });
        }
        self.store().delete(objects.into_iter().map(|object| object.key).collect()).await.map(drop)
    }

    /// Whether it exists already: finished by a clone, or by somebody else.
    pub async fn exists(&self) -> Result<bool, Error> {
        match self.replica.read_snapshot(self.generation, self.lsn).await {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == Kind::NotFound => Ok(false),
            // Not ours to read, but there.
            Err(error) if error.kind() == Kind::Secret => Ok(true),
            Err(error) => Err(error),
        }
    }
}
