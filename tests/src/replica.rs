//! [`Replica`]: what an archive holds, read without any code of ours: keys from `docs/formats.md`, LZ4 from its own library.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use futures_util::TryStreamExt;
use object_store::aws::AmazonS3Builder;
use object_store::local::LocalFileSystem;
use object_store::{ObjectStore, ObjectStoreExt};
use pg_harness::S3Access;

/// All objects of an archive.
#[derive(Debug)]
pub struct Replica {
    store: Arc<dyn ObjectStore>,
    root: object_store::path::Path,
}

/// The WAL of one generation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArchivedWal {
    /// Position of the first byte.
    pub begin: u64,
    /// The bytes, without a gap.
    pub bytes: Vec<u8>,
    /// How many objects hold them.
    pub objects: usize,
}

impl ArchivedWal {
    /// Position behind the last byte.
    pub fn end(&self) -> u64 {
        self.begin + self.bytes.len() as u64
    }
}

impl Replica {
    /// In a directory.
    pub fn in_directory(path: &Path) -> Result<Replica> {
        let store = Arc::new(LocalFileSystem::new_with_prefix(path)?);
        Ok(Replica { store, root: "".into() })
    }

    /// In a bucket, below a prefix.
    pub fn in_bucket(access: &S3Access, prefix: &str) -> Result<Replica> {
        // The library's HTTP client asks for a provider even where no TLS is spoken.
        drop(rustls::crypto::ring::default_provider().install_default());
        let store = AmazonS3Builder::new()
            .with_endpoint(access.endpoint())
            .with_allow_http(true)
            .with_region(&access.region)
            .with_bucket_name(&access.bucket)
            .with_access_key_id(&access.access_key_id)
            .with_secret_access_key(&access.secret_access_key)
            .build()?;
        Ok(Replica { store: Arc::new(store), root: prefix.into() })
    }

    /// The WAL of every generation. Fails if an object is not what its key says, if two that overlap differ, or if one generation has
    /// a gap.
    pub async fn wal(&self, segment_size: u64) -> Result<BTreeMap<String, ArchivedWal>> {
        let objects: Vec<_> = self.store.list(Some(&self.root)).try_collect().await?;
        let mut generations: BTreeMap<String, BTreeMap<u64, Gathered>> = BTreeMap::new();
        for object in objects {
            let key = object.location.to_string();
            let Some((before, file)) = key.split_once("/wal/") else { continue };
            let generation = before.rsplit('/').next().unwrap_or_default().to_owned();
            let (segment, span) = span_of(file, segment_size).with_context(|| format!("the key {key}"))?;
            let stored = self.store.get(&object.location).await?.bytes().await?;
            let mut plain = Vec::new();
            lz4_flex::frame::FrameDecoder::new(stored.as_ref()).read_to_end(&mut plain).with_context(|| key.clone())?;
            ensure!(plain.len() as u64 == span.end - span.start, "{key} holds {} bytes", plain.len());
            let segments = generations.entry(generation).or_default();
            let (held, count) = segments.entry(segment).or_insert_with(|| (vec![None; segment_size as usize], 0));
            *count += 1;
            for (at, byte) in (span.start as usize..).zip(plain) {
                ensure!(held[at].is_none_or(|held| held == byte), "{key} differs from another object at byte {at}");
                held[at] = Some(byte);
            }
        }
        generations
            .into_iter()
            .map(|(generation, segments)| Ok((generation, joined(segments, segment_size)?)))
            .collect()
    }
}

/// Bytes of a segment that some object has, and how many objects there are.
type Gathered = (Vec<Option<u8>>, usize);

/// `<index>_<start>_<end>.wal.lz4` or `<index>.seg.lz4`
fn span_of(file: &str, segment_size: u64) -> Result<(u64, std::ops::Range<u64>)> {
    let hex = |text: &str| u64::from_str_radix(text, 16).with_context(|| format!("{text:?} is no number"));
    if let Some(index) = file.strip_suffix(".seg.lz4") {
        return Ok((hex(index)?, 0..segment_size));
    }
    let parts: Vec<&str> = file.strip_suffix(".wal.lz4").context("no piece")?.split('_').collect();
    let [index, start, end] = parts[..] else { anyhow::bail!("{file:?} is no piece") };
    let (start, end) = (hex(start)?, hex(end)?);
    ensure!(start < end && end <= segment_size, "{file:?} is no span");
    Ok((hex(index)?, start..end))
}

fn joined(segments: BTreeMap<u64, (Vec<Option<u8>>, usize)>, segment_size: u64) -> Result<ArchivedWal> {
    let first = *segments.keys().next().context("a generation without WAL")?;
    let mut wal = ArchivedWal { begin: 0, bytes: Vec::new(), objects: 0 };
    for (expected, (segment, (bytes, count))) in (first..).zip(segments) {
        ensure!(segment == expected, "segment {expected:X} is missing");
        wal.objects += count;
        for (at, byte) in bytes.into_iter().enumerate() {
            let position = segment * segment_size + at as u64;
            match byte {
                Some(byte) => {
                    if wal.bytes.is_empty() {
                        wal.begin = position;
                    }
                    ensure!(wal.end() == position, "bytes {:X} to {position:X} are missing", wal.end());
                    wal.bytes.push(byte);
                }
                None => continue,
            }
        }
    }
    Ok(wal)
}
