//! A replica: generations, snapshots and pieces of WAL in a store, whatever the layout.
//!
//! Invariants:
//! * What is stored is never replaced: a put that finds an object compares plain bytes and leaves it alone. On a store that
//!   ignores create-only the key is looked up first, and two writers of one SQLite replica can race there; pieces of a
//!   PostgreSQL WAL cannot, their key names their bytes.
//! * What is delivered was verified: checksum, encryption, and the length where the key says one.
//! * A listing is in order of position whatever the store's order; names that are not ours are skipped.
//! * No call lists but those that say so; nothing happens between calls.
//!
//! Nothing here knows a WAL's format, a clock, or who else writes.

use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex};

use bytes::{Bytes, BytesMut};
use lsn::SegmentSize;
use object_store::Attributes;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt as _};

use crate::codec::{Codec, CodecError, PlainReader};
use crate::error::{Error, Kind};
use crate::facts::{CommitTimes, Facts, Plain};
use crate::layout::postgres::SNAPSHOT;
use crate::layout::{GENERATIONS, Layout, postgres, sqlite};
use crate::lives::LifeEnd;
use crate::names::{Generation, Piece, PieceEnd, PieceName, SnapshotInfo};
use crate::seal::{from_sealed, to_sealed};
use crate::store::{Presence, Store, Upload, facts_attributes};

/// Plain bytes of the longest piece: those of PostgreSQL's largest segment. A piece is encoded in memory, so a caller with
/// many replicas cuts much earlier.
pub const MAX_PIECE: u64 = 1 << 30;
/// The longest side object.
const MAX_SIDE: u64 = 4096;
/// More plain bytes than this are encoded on a thread for blocking work.
const ENCODE_INLINE: usize = 64 << 10;
/// How much of a stream is encoded at once.
const STREAM_STEP: usize = 256 << 10;

/// What a put did; the facts are those of the object that is there now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// It is stored.
    New(Facts),
    /// The same plain bytes were there already.
    Same(Facts),
    /// SQLite: an object is there that has our first bytes and then ends. Go on behind it.
    Prefix(Facts),
}

impl Written {
    /// Facts of the object that is there now.
    pub fn facts(&self) -> Facts {
        match self {
            Written::New(facts) | Written::Same(facts) | Written::Prefix(facts) => *facts,
        }
    }
}

/// What putting a SQLite snapshot did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SnapshotWritten {
    /// It is stored; these are its plain bytes.
    New(Plain),
    /// One of this index was there before, and stays.
    Exists,
}

/// Where uploading a generation of a SQLite database goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resume {
    /// The newest snapshot's index.
    pub snapshot: u64,
    /// The WAL life to go on in.
    pub index: u64,
    /// The byte offset in it: the end of what is there.
    pub offset: u64,
    /// The last piece, to compare with what the source has there; `None` when there is none.
    pub last: Option<(PieceName, Plain)>,
}

/// One source's replica. Clones share everything.
#[derive(Clone, Debug)]
pub struct Replica {
    store: Store,
    codec: Codec,
    layout: Layout,
    segment_size: Option<SegmentSize>,
    ends: Arc<Mutex<Option<LifeEnd>>>,
}

/// A side object: the facts, and the stored length of the object they are about, so that they are not taken for another's.
#[derive(Serialize, Deserialize)]
struct Side {
    version: u32,
    stored: u64,
    #[serde(flatten)]
    facts: Facts,
}

impl Replica {
    /// A SQLite database's replica with this root, in Litestream 0.3's layout.
    pub fn sqlite(store: Store, codec: Codec) -> Replica {
        Replica { store, codec, layout: Layout::Sqlite, segment_size: None, ends: Arc::default() }
    }

    /// One era's replica of a PostgreSQL cluster; `store` is the era's root. See [`Archive`](crate::Archive).
    pub fn postgres(store: Store, codec: Codec, segment_size: SegmentSize) -> Replica {
        Replica { store, codec, layout: Layout::Postgres, segment_size: Some(segment_size), ends: Arc::default() }
    }

    pub(crate) fn ends(&self) -> &Mutex<Option<LifeEnd>> {
        &self.ends
    }

    /// Where it is.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// How its objects are encoded.
    pub fn codec(&self) -> &Codec {
        &self.codec
    }

    /// Whose keys it uses.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// How long a segment is; `None` for SQLite.
    pub fn segment_size(&self) -> Option<SegmentSize> {
        self.segment_size
    }

    /// Its generations, ascending; a root that does not exist has none. One listing.
    pub async fn generations(&self) -> Result<Vec<Generation>, Error> {
        let names = self.store.folders(GENERATIONS).await?;
        Ok(names.iter().filter_map(|name| name.parse().ok()).collect())
    }

    /// Deletes everything of a generation, its snapshots first, so that what is left of it at any moment is not taken for
    /// restorable. Returns how many objects went; none is success. Lists.
    pub async fn delete_generation(&self, generation: Generation) -> Result<u64, Error> {
        let folder = self.layout.generation(generation);
        let objects = self.store.list(&folder).await?;
        let begins = |key: &str| key.ends_with(SNAPSHOT) || key.ends_with(".snapshot.lz4");
        let (first, rest): (Vec<_>, Vec<_>) = objects.into_iter().map(|object| object.key).partition(|key| begins(key));
        let count = (first.len() + rest.len()) as u64;
        self.store.delete(first).await?;
        self.store.delete(rest).await?;
        let mut sides = self.store.list(&format!("seawall/facts/{folder}")).await?;
        sides.extend(self.store.list(&self.lives_folder(generation)).await?);
        self.store.delete(sides.into_iter().map(|object| object.key).collect()).await?;
        Ok(count)
    }

    /// The pieces of a generation with these indexes, ascending by (index, start, end). One listing, and memory for it (some
    /// 50 bytes a piece while they are sorted by the caller's range).
    pub async fn pieces(&self, generation: Generation, indexes: RangeInclusive<u64>) -> Result<Vec<Piece>, Error> {
        let folder = self.layout.wal(generation);
        let after = (*indexes.start() > 0).then(|| format!("{folder}/{}", self.layout.before_index(*indexes.start())));
        let objects = self.store.list_after(&folder, after.as_deref()).await?;
        let mut pieces: Vec<Piece> = objects
            .into_iter()
            .filter_map(|object| {
                let file = object.key.strip_prefix(&folder)?.strip_prefix('/')?;
                let name = self.layout.parse_piece(file).filter(|name| indexes.contains(&name.index))?;
                Some(Piece { generation, name, stored: object.stored, created: object.created })
            })
            .collect();
        pieces.sort_unstable_by_key(|piece| piece.name);
        Ok(pieces)
    }

    /// Stores a piece unless it is there. `plain` is not empty and at most [`MAX_PIECE`]; for PostgreSQL its length is what
    /// the name says. An object with other plain bytes is [`Error::Different`] and stays.
    pub async fn put_piece(
        &self,
        generation: Generation,
        name: PieceName,
        plain: Bytes,
        commits: CommitTimes,
    ) -> Result<Written, Error> {
        let key = self.piece_key(generation, name)?;
        self.check_length(name, plain.len() as u64)?;
        self.note_life_end(generation, name).await?;
        let facts = Facts { plain: Plain::of(&plain), commits };
        let object = encode(&self.codec, &key, plain.clone()).await?;
        let side = Side { version: 1, stored: object.len() as u64, facts };
        let carries = self.store.kind().carries_metadata();
        let attributes = if carries { facts_attributes(&facts) } else { Attributes::default() };
        let mut tries = self.store.retry().attempts.max(1);
        loop {
            // Where the side object is the only place for the facts it comes first: an object without facts could stop an
            // encrypt-only host for good. It must not speak about an object that is there already.
            let present = self.wants_side() && !carries && self.store.head(&key).await?.is_some();
            let presence = if present {
                Presence::Present
            } else {
                if self.wants_side() && !carries {
                    self.put_side(&key, &side).await?;
                }
                self.store.put_if_absent(&key, object.clone(), attributes.clone()).await?
            };
            if presence == Presence::Stored {
                if self.wants_side() && carries {
                    self.put_side(&key, &side).await?;
                }
                self.remember_end(generation, name, facts.plain);
                return Ok(Written::New(facts));
            }
            match self.compare(&key, &plain, facts).await? {
                Some(written) => {
                    self.remember_end(generation, name, written.facts().plain);
                    return Ok(written);
                }
                // Refused because of another put that then did not happen, or deleted since.
                None if tries > 1 => {
                    tries -= 1;
                    tokio::time::sleep(self.store.retry().first).await;
                }
                None => return Err(Error::Changed { key }),
            }
        }
    }

    /// What an object that is there is, next to the bytes that were to be stored; `None` if it is not there.
    async fn compare(&self, key: &str, plain: &Bytes, ours: Facts) -> Result<Option<Written>, Error> {
        let Some((info, metadata)) = self.store.head_with_facts(key).await? else { return Ok(None) };
        let there = match metadata {
            Some(facts) => Some(facts),
            None => self.side_facts(key, info.stored).await?,
        };
        let there = match there {
            Some(facts) => facts,
            None => match self.codec.open(&self.store, key, None)?.read_all(MAX_PIECE).await {
                Ok(bytes) => Facts { plain: Plain::of(&bytes), commits: ours.commits },
                Err(Error::NotFound { .. }) => return Ok(None),
                // A host that can only encrypt, and an object without facts. A PostgreSQL piece's key names its bytes.
                Err(error) if error.kind() == Kind::Secret && self.layout == Layout::Postgres => {
                    tracing::warn!(key, "an encrypted piece is already there and cannot be compared; it is kept");
                    ours
                }
                Err(error) => return Err(error),
            },
        };
        if there.plain == ours.plain {
            return Ok(Some(Written::Same(there)));
        }
        let length = usize::try_from(there.plain.length).unwrap_or(usize::MAX);
        if self.layout == Layout::Sqlite
            && length < plain.len()
            && length > 0
            && Plain::of(&plain[..length]) == there.plain
        {
            return Ok(Some(Written::Prefix(there)));
        }
        Err(Error::Different { key: key.to_owned(), there: there.plain.to_string(), ours: ours.plain.to_string() })
    }

    /// The plain bytes of a piece, verified.
    pub async fn read_piece(&self, generation: Generation, name: PieceName) -> Result<Bytes, Error> {
        self.open_piece(generation, name)?.read_all(MAX_PIECE).await
    }

    /// The plain bytes of a piece as a stream with bounded memory. No request before the first read.
    pub fn open_piece(&self, generation: Generation, name: PieceName) -> Result<PlainReader, Error> {
        let reader = self.codec.open(&self.store, &self.piece_key(generation, name)?, None)?;
        Ok(match self.length_of(name) {
            Some(length) => reader.expect_length(length),
            None => reader,
        })
    }

    /// What is known of a piece without a secret and without reading it; `None`: its writer told nothing. A missing piece is
    /// an error of kind `NotFound`. One or two requests.
    pub async fn piece_facts(&self, generation: Generation, name: PieceName) -> Result<Option<Facts>, Error> {
        let key = self.piece_key(generation, name)?;
        match self.store.head_with_facts(&key).await? {
            None => Err(Error::NotFound { key }),
            Some((_, Some(facts))) => Ok(Some(facts)),
            Some((info, None)) => self.side_facts(&key, info.stored).await,
        }
    }

    /// Deletes pieces and what is told about them; absent ones are fine. Returns how many were asked for.
    pub async fn delete_pieces(&self, generation: Generation, names: &[PieceName]) -> Result<u64, Error> {
        let keys = names.iter().map(|name| self.piece_key(generation, *name)).collect::<Result<Vec<_>, _>>()?;
        let sides = keys.iter().map(|key| self.layout.facts(key)).collect();
        self.store.delete(keys).await?;
        if self.wants_side() || self.layout == Layout::Sqlite {
            self.store.delete(sides).await?;
        }
        self.forget_lives(generation, names).await?;
        Ok(names.len() as u64)
    }

    /// SQLite: where uploading this generation goes on; `None` if it has no snapshot. Two listings, and the last piece's
    /// facts; without facts that piece is read, which takes an identity if it is encrypted.
    pub async fn resume(&self, generation: Generation) -> Result<Option<Resume>, Error> {
        let Some(snapshot) = self.snapshots(generation).await?.last().map(|snapshot| snapshot.at) else {
            return Ok(None);
        };
        let Some(last) = self.pieces(generation, 0..=u64::MAX).await?.pop().map(|piece| piece.name) else {
            return Ok(Some(Resume { snapshot, index: snapshot, offset: 0, last: None }));
        };
        let plain = match self.piece_facts(generation, last).await? {
            Some(facts) => facts.plain,
            None => Plain::of(&self.read_piece(generation, last).await?),
        };
        self.remember_end(generation, last, plain);
        let offset = last.start.checked_add(plain.length);
        let offset = offset.ok_or_else(|| Error::Usage(format!("piece {last:?} of {generation} has no end")))?;
        // A newer snapshot than all pieces: uploading begins at its life.
        let (index, offset) = if last.index < snapshot { (snapshot, 0) } else { (last.index, offset) };
        Ok(Some(Resume { snapshot, index, offset, last: Some((last, plain)) }))
    }

    /// The snapshots of a generation, ascending by position; of PostgreSQL only finished ones. One listing.
    pub async fn snapshots(&self, generation: Generation) -> Result<Vec<SnapshotInfo>, Error> {
        let folder = self.layout.snapshots(generation);
        let objects = self.store.list(&folder).await?;
        let mut snapshots: Vec<SnapshotInfo> = match self.layout {
            Layout::Sqlite => objects
                .into_iter()
                .filter_map(|object| {
                    let file = object.key.strip_prefix(&folder)?.strip_prefix('/')?;
                    let at = sqlite::parse_snapshot(file)?;
                    Some(SnapshotInfo { generation, at, stored: object.stored, created: object.created })
                })
                .collect(),
            Layout::Postgres => {
                let mut whole: Vec<SnapshotInfo> = Vec::new();
                let mut sizes: std::collections::BTreeMap<u64, u64> = std::collections::BTreeMap::new();
                for object in objects {
                    let path = object.key.strip_prefix(&folder).and_then(|path| path.strip_prefix('/'));
                    let Some((name, file)) = path.and_then(|path| path.split_once('/')) else { continue };
                    let Some(lsn) = postgres::parse_snapshot_folder(name) else { continue };
                    *sizes.entry(lsn.0).or_default() += object.stored;
                    if file == SNAPSHOT {
                        whole.push(SnapshotInfo { generation, at: lsn.0, stored: 0, created: object.created });
                    }
                }
                for snapshot in &mut whole {
                    snapshot.stored = sizes.get(&snapshot.at).copied().unwrap_or_default();
                }
                whole
            }
        };
        snapshots.sort_unstable_by_key(|snapshot| snapshot.at);
        Ok(snapshots)
    }

    /// SQLite: stores a snapshot of a whole database file from a reader of unknown length, in bounded memory; `expected` is a
    /// guess of its length. One that is there stays: two snapshots of one index are of different moments.
    pub async fn put_snapshot(
        &self,
        generation: Generation,
        index: u64,
        expected: Option<u64>,
        plain: impl AsyncRead + Unpin + Send,
    ) -> Result<SnapshotWritten, Error> {
        let key = self.snapshot_key(generation, index)?;
        if self.store.head(&key).await?.is_some() {
            return Ok(SnapshotWritten::Exists);
        }
        let (presence, plain, stored) = self.put_stream(&key, expected, plain, true).await?;
        if presence == Presence::Present {
            return Ok(SnapshotWritten::Exists);
        }
        self.put_side(&key, &Side { version: 1, stored, facts: Facts::of(plain) }).await?;
        Ok(SnapshotWritten::New(plain))
    }

    /// SQLite: the plain bytes of a snapshot. No request before the first read.
    pub fn open_snapshot(&self, generation: Generation, index: u64) -> Result<PlainReader, Error> {
        self.codec.open(&self.store, &self.snapshot_key(generation, index)?, None)
    }

    /// SQLite: what is known of a snapshot without reading it; `None`: its writer told nothing. An object of another length
    /// than its writer told is an error of kind `Corrupt`.
    pub async fn snapshot_facts(&self, generation: Generation, index: u64) -> Result<Option<Facts>, Error> {
        let key = self.snapshot_key(generation, index)?;
        match self.store.head(&key).await? {
            None => Err(Error::NotFound { key }),
            Some(info) => match self.read_side(&key).await? {
                Some(side) if side.stored != info.stored => Err(Error::Plain {
                    key,
                    expected: format!("{} bytes as stored", side.stored),
                    found: format!("{} bytes as stored", info.stored),
                }),
                side => Ok(side.map(|side| side.facts)),
            },
        }
    }

    /// Deletes a snapshot; of PostgreSQL first the object that makes it exist, then its parts. Returns how many objects went.
    pub async fn delete_snapshot(&self, generation: Generation, at: u64) -> Result<u64, Error> {
        match self.layout {
            Layout::Sqlite => {
                let key = self.snapshot_key(generation, at)?;
                let side = self.layout.facts(&key);
                self.store.delete(vec![key]).await?;
                self.store.delete(vec![side]).await?;
                Ok(1)
            }
            Layout::Postgres => {
                let folder =
                    format!("{}/{}", self.layout.snapshots(generation), postgres::snapshot_folder(lsn::Lsn(at)));
                self.store.delete(vec![format!("{folder}/{SNAPSHOT}")]).await?;
                let rest: Vec<String> = self.store.list(&folder).await?.into_iter().map(|object| object.key).collect();
                self.store.delete(rest).await
            }
        }
    }

    /// Encodes a reader's bytes into an object. Encoding happens here, in steps of a quarter of a megabyte; to use several
    /// processors, run several.
    pub(crate) async fn put_stream(
        &self,
        key: &str,
        expected: Option<u64>,
        mut plain: impl AsyncRead + Unpin + Send,
        absent_only: bool,
    ) -> Result<(Presence, Plain, u64), Error> {
        let failed = |source: CodecError| Error::Encode { key: key.to_owned(), source };
        let mut encoder = self.codec.encoder().map_err(failed)?;
        let mut upload = Upload::new(self.store.clone(), key, expected);
        let mut buffer = BytesMut::with_capacity(STREAM_STEP);
        loop {
            buffer.clear();
            while buffer.len() < STREAM_STEP {
                let read = plain.read_buf(&mut buffer).await;
                if read.map_err(|source| Error::Source { key: key.to_owned(), source })? == 0 {
                    break;
                }
            }
            if buffer.is_empty() {
                break;
            }
            encoder.push(&buffer).map_err(failed)?;
            upload.write(&encoder.take()).await?;
        }
        let (rest, plain) = encoder.finish().map_err(failed)?;
        upload.write(&rest).await?;
        let stored = upload.stored();
        Ok((upload.finish(Attributes::default(), absent_only).await?, plain, stored))
    }

    /// Whether facts need a side object: they are not in the object's own reach for a host without the secret.
    fn wants_side(&self) -> bool {
        self.codec.encrypts() && (self.layout == Layout::Sqlite || !self.store.kind().carries_metadata())
    }

    async fn put_side(&self, key: &str, side: &Side) -> Result<(), Error> {
        self.store.put(&self.layout.facts(key), to_sealed(side)?).await
    }

    /// What the side object says, if it is about the object that is there.
    async fn side_facts(&self, key: &str, stored: u64) -> Result<Option<Facts>, Error> {
        Ok(self.read_side(key).await?.filter(|side| side.stored == stored).map(|side| side.facts))
    }

    /// The side object; a damaged one says nothing.
    async fn read_side(&self, key: &str) -> Result<Option<Side>, Error> {
        let text = match self.store.get(&self.layout.facts(key), MAX_SIDE).await {
            Ok(text) => text,
            Err(error) if matches!(error.kind(), Kind::NotFound | Kind::Corrupt) => return Ok(None),
            Err(error) => return Err(error),
        };
        Ok(from_sealed("", "side object", &text).ok().filter(|side: &Side| side.version == 1))
    }

    fn piece_key(&self, generation: Generation, name: PieceName) -> Result<String, Error> {
        let key = self.layout.piece(generation, name);
        key.ok_or_else(|| Error::Usage(format!("{name:?} is not a piece of this kind of replica")))
    }

    fn snapshot_key(&self, generation: Generation, index: u64) -> Result<String, Error> {
        let file = (self.layout == Layout::Sqlite).then(|| sqlite::snapshot_file(index)).flatten();
        let file = file.ok_or_else(|| Error::Usage(format!("{index} is not a snapshot of a SQLite replica")))?;
        Ok(format!("{}/{file}", self.layout.snapshots(generation)))
    }

    fn length_of(&self, name: PieceName) -> Option<u64> {
        match name.end {
            PieceEnd::At(end) => end.checked_sub(name.start),
            PieceEnd::Segment => self.segment_size.map(SegmentSize::bytes),
            PieceEnd::Unknown => None,
        }
    }

    fn check_length(&self, name: PieceName, length: u64) -> Result<(), Error> {
        let fits = match (self.length_of(name), self.segment_size) {
            (Some(named), Some(size)) => named == length && name.start.saturating_add(length) <= size.bytes(),
            (Some(named), None) => named == length,
            (None, _) => length <= MAX_PIECE,
        };
        if fits && length > 0 { Ok(()) } else { Err(Error::Usage(format!("{length} bytes are no piece {name:?}"))) }
    }
}

/// Encodes in memory, on a thread that may block if it is much.
pub(crate) async fn encode(codec: &Codec, key: &str, plain: Bytes) -> Result<Bytes, Error> {
    let encoded = if plain.len() <= ENCODE_INLINE {
        codec.encode(&plain)
    } else {
        let codec = codec.clone();
        tokio::task::spawn_blocking(move || codec.encode(&plain))
            .await
            .map_err(|_| Error::Stopped { key: key.to_owned() })?
    };
    encoded.map(Bytes::from).map_err(|source| Error::Encode { key: key.to_owned(), source })
}
