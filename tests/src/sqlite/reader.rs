//! A small reader of replicas in Litestream 0.3's layout, in a directory.
//!
//! Trusts nothing: names are parsed by hand, every frame's salts and checksum are followed, pieces must join without a gap, every life
//! must be there, and the last frame of a life must end a transaction.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context, Result, bail, ensure};

/// A generation with the objects in it.
#[derive(Debug, Default)]
pub struct Generation {
    /// 16 hex digits.
    pub name: String,
    /// Snapshots by index.
    pub snapshots: BTreeMap<u64, PathBuf>,
    /// Pieces by index and offset.
    pub pieces: BTreeMap<(u64, u64), PathBuf>,
    /// The newest object's time.
    pub newest: Option<SystemTime>,
}

/// Lists a replica.
pub fn generations(root: &Path) -> Result<Vec<Generation>> {
    let mut found = Vec::new();
    for (name, path) in entries(&root.join("generations"))? {
        if name.len() != 16 || !name.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte)) {
            continue;
        }
        let mut generation = Generation { name, ..Generation::default() };
        for (name, path) in entries(&path.join("snapshots"))? {
            let Some(digits) = name.strip_suffix(".snapshot.lz4").filter(|digits| digits.len() == 8) else { continue };
            generation.seen(&path)?;
            generation.snapshots.insert(u64::from_str_radix(digits, 16)?, path);
        }
        for (name, path) in entries(&path.join("wal"))? {
            let Some((index, offset)) = name.strip_suffix(".wal.lz4").and_then(|name| name.split_once('_')) else {
                continue;
            };
            if index.len() != 8 || !(8..=16).contains(&offset.len()) {
                continue;
            }
            generation.seen(&path)?;
            let key = (u64::from_str_radix(index, 16)?, u64::from_str_radix(offset, 16)?);
            generation.pieces.insert(key, path);
        }
        found.push(generation);
    }
    Ok(found)
}

impl Generation {
    fn seen(&mut self, path: &Path) -> Result<()> {
        self.newest = self.newest.max(Some(fs::metadata(path)?.modified()?));
        Ok(())
    }
}

fn entries(dir: &Path) -> Result<Vec<(String, PathBuf)>> {
    if !dir.exists() {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).with_context(|| format!("list {}", dir.display()))? {
        let entry = entry?;
        found.push((entry.file_name().to_string_lossy().into_owned(), entry.path()));
    }
    found.sort();
    Ok(found)
}

/// Decodes an object: LZ4 alone, or inside age.
fn plain(path: &Path, identity: Option<&age::x25519::Identity>) -> Result<Vec<u8>> {
    let object = fs::read(path).with_context(|| format!("read {}", path.display()))?;
    let object = match identity {
        Some(identity) => age::decrypt(identity, &object).with_context(|| format!("decrypt {}", path.display()))?,
        None => object,
    };
    let mut bytes = Vec::new();
    let decoder = lz4_flex::frame::FrameDecoder::new(object.as_slice());
    decoder.take(4 << 30).read_to_end(&mut bytes).with_context(|| format!("decode {}", path.display()))?;
    Ok(bytes)
}

/// Restores the newest state of the newest generation that has a snapshot into `output`.
pub fn restore(root: &Path, identity: Option<&age::x25519::Identity>, output: &Path) -> Result<()> {
    let mut found = generations(root)?;
    found.retain(|generation| !generation.snapshots.is_empty());
    let newest = found.into_iter().max_by_key(|generation| generation.newest);
    let generation = newest.with_context(|| format!("no snapshot in {}", root.display()))?;
    fs::write(output, image(&generation, identity)?).with_context(|| format!("write {}", output.display()))
}

/// The newest state of a generation.
pub fn image(generation: &Generation, identity: Option<&age::x25519::Identity>) -> Result<Vec<u8>> {
    let (first, snapshot) = generation.snapshots.last_key_value().context("no snapshot")?;
    let mut image = plain(snapshot, identity)?;
    let mut lives: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
    for ((index, offset), path) in generation.pieces.range((*first, 0)..) {
        let life = lives.entry(*index).or_default();
        let expected = life.len() as u64;
        ensure!(*offset == expected, "{}: offset {offset} where {expected} should follow", path.display());
        life.extend(plain(path, identity)?);
    }
    for (expected, (index, life)) in (*first..).zip(&lives) {
        ensure!(*index == expected, "life {expected} is missing in {}", generation.name);
        apply(life, &mut image).with_context(|| format!("life {index} of {}", generation.name))?;
    }
    Ok(image)
}

pub(super) fn word(bytes: &[u8], at: usize) -> u32 {
    bytes[at..at + 4].iter().fold(0, |word, byte| word << 8 | u32::from(*byte))
}

pub(super) fn sum((mut s0, mut s1): (u32, u32), big: bool, bytes: &[u8]) -> (u32, u32) {
    let read = |at: usize| if big { word(bytes, at) } else { word(bytes, at).swap_bytes() };
    for at in (0..bytes.len()).step_by(8) {
        s0 = s0.wrapping_add(read(at)).wrapping_add(s1);
        s1 = s1.wrapping_add(read(at + 4)).wrapping_add(s0);
    }
    (s0, s1)
}

/// Applies a whole life.
fn apply(life: &[u8], image: &mut Vec<u8>) -> Result<()> {
    ensure!(life.len() >= 32, "{} bytes", life.len());
    let big = match word(life, 0) {
        0x377f_0682 => false,
        0x377f_0683 => true,
        magic => bail!("magic number {magic:#x}"),
    };
    let mut state = sum((0, 0), big, &life[..24]);
    ensure!(state == (word(life, 24), word(life, 28)), "the header's checksum");
    let page_size = word(life, 8) as usize;
    let mut at = 32;
    let mut committed = true;
    while at < life.len() {
        let frame = life.get(at..at + 24 + page_size).with_context(|| format!("a torn frame at {at}"))?;
        ensure!(frame[8..16] == life[16..24], "the salts of the frame at {at}");
        state = sum(sum(state, big, &frame[..8]), big, &frame[24..]);
        ensure!(state == (word(frame, 16), word(frame, 20)), "the checksum of the frame at {at}");
        let (page, commit) = (word(frame, 0) as usize, word(frame, 4) as usize);
        ensure!(page > 0, "page 0 at {at}");
        if image.len() < page * page_size {
            image.resize(page * page_size, 0);
        }
        image[(page - 1) * page_size..page * page_size].copy_from_slice(&frame[24..]);
        committed = commit != 0;
        if committed {
            image.resize(commit * page_size, 0);
        }
        at += 24 + page_size;
    }
    ensure!(committed, "it ends within a transaction");
    Ok(())
}
