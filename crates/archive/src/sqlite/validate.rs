//! The validator: restores the replica and compares it with the database, page by page.
//!
//! The restore is the plainest there is, by this file alone, so that it judges the replica and not another restore. The database is read
//! exactly as it is at one position, the replica restored to exactly that position. Free pages are left out: what
//! stands on them is in no transaction, so a database and its restore may rightly differ there.

use super::error::Error;
use super::status::Status;
use bytes::{Bytes, BytesMut};
use replica_client::{Generation, Plain, Replica};
use source::Snapshot;
use sqlite_wal::{PageSize, Position, Stream};
use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

/// How long the replica may take to reach the position.
const REACHED_WITHIN: Duration = Duration::from_secs(300);

/// Sums of every page: 4 bytes each.
#[derive(Debug, Default)]
struct Sums {
    page_size: Option<PageSize>,
    pages: Vec<u32>,
    rest: BytesMut,
}

impl Sums {
    fn push(&mut self, bytes: &Bytes) {
        self.rest.extend_from_slice(bytes);
        if self.page_size.is_none() && self.rest.len() >= 18 {
            self.page_size = PageSize::of_database([self.rest[16], self.rest[17]]).ok();
        }
        let Some(len) = self.page_size.map(PageSize::len) else { return };
        while self.rest.len() >= len {
            let page = self.rest.split_to(len);
            self.pages.push(Plain::of(&page).crc32c);
        }
    }
}

/// Whether the replica gives the database back.
pub(super) async fn validate<S: Snapshot<Position = Position>>(
    mut snapshot: S,
    replica: Replica,
    scratch: PathBuf,
    mut status: watch::Receiver<Status>,
) -> Result<bool, Error> {
    let mut sums = Sums::default();
    while let Some(bytes) = snapshot.next_bytes().await.map_err(Error::source)? {
        sums.push(&bytes);
    }
    let position = snapshot.finish().await.map_err(Error::source)?;
    let reached = status.wait_for(|status| {
        status.confirmed.is_some_and(|there| there.generation != position.generation || there >= position)
    });
    let there = match timeout(REACHED_WITHIN, reached).await {
        Ok(Ok(status)) => status.confirmed,
        Ok(Err(_)) => return Err(Error::Stopped),
        Err(_) => return Err(Error::Validation(format!("it did not reach {position} within {REACHED_WITHIN:?}"))),
    };
    if there.is_none_or(|there| there.generation != position.generation) {
        return Err(Error::Overtaken);
    }
    let file = Scratch::create(&scratch).map_err(|error| Error::Validation(format!("no room for it: {error}")))?;
    restore(&replica, position, &file).await?;
    let compared = spawn_blocking(move || compare(&file, &sums)).await.map_err(|_| Error::Stopped)?;
    compared.map_err(|error| Error::Validation(format!("cannot read the restored database: {error}")))
}

/// A file that goes when it is dropped.
#[derive(Debug)]
struct Scratch {
    path: PathBuf,
    file: File,
}

impl Scratch {
    fn create(path: &Path) -> io::Result<Scratch> {
        let file = File::options().read(true).write(true).create(true).truncate(true).open(path)?;
        Ok(Scratch { path: path.to_path_buf(), file })
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(file = %self.path.display(), "a restored copy is left: {error}");
        }
    }
}

/// Restores the replica at exactly this position: the newest snapshot at or below it, and every frame from its life on.
async fn restore(replica: &Replica, position: Position, scratch: &Scratch) -> Result<(), Error> {
    let wrong = |what: String| Error::Validation(what);
    let write = |bytes: &[u8], at: u64| {
        scratch
            .file
            .write_all_at(bytes, at)
            .map_err(|error| wrong(format!("cannot write the restored database: {error}")))
    };
    let (generation, last) = (Generation(position.generation), u64::from(position.index));
    let snapshots = replica.snapshots(generation).await?;
    let base = snapshots.iter().rfind(|snapshot| snapshot.at <= last).map(|snapshot| snapshot.at);
    let base = base.ok_or_else(|| wrong(format!("there is no snapshot at or below {position}")))?;
    let (mut reader, mut len) = (replica.open_snapshot(generation, base)?, 0);
    while let Some(bytes) = reader.next().await? {
        write(&bytes, len)?;
        len += bytes.len() as u64;
    }
    let (mut index, mut offset, mut life) = (base, 0, Stream::new());
    for piece in replica.pieces(generation, base..=last).await? {
        if piece.name.index == index + 1 {
            life.finish().map_err(|error| wrong(format!("life {index:08x}: {error}")))?;
            (index, offset, life) = (index + 1, 0, Stream::new());
        }
        if (piece.name.index, piece.name.start) != (index, offset) {
            return Err(wrong(format!(
                "after {index:08x}:{offset} comes {:08x}:{}",
                piece.name.index, piece.name.start
            )));
        }
        let mut reader = replica.open_piece(generation, piece.name)?;
        while let Some(bytes) = reader.next().await? {
            offset += bytes.len() as u64;
            let mut rest = bytes.as_ref();
            let mut pages = None;
            while let Some(frame) = life.next(&mut rest).map_err(|error| wrong(format!("life {index:08x}: {error}")))? {
                // What was uploaded since does not belong to the state that is compared.
                if index == last && frame.offset >= position.offset {
                    break;
                }
                let page_len = frame.page.len() as u64;
                write(frame.page, (u64::from(frame.page_number.get()) - 1) * page_len)?;
                pages = frame.commit.map(|pages| u64::from(pages.get()) * page_len).or(pages);
            }
            if let Some(len) = pages {
                scratch
                    .file
                    .set_len(len)
                    .map_err(|error| wrong(format!("cannot cut the restored database: {error}")))?;
            }
        }
    }
    match (index, offset >= position.offset) {
        (index, true) if index == last => Ok(()),
        _ => Err(wrong(format!("the replica ends at {index:08x}:{offset}, below {position}"))),
    }
}

fn compare(scratch: &Scratch, sums: &Sums) -> io::Result<bool> {
    let mut file = &scratch.file;
    file.seek(SeekFrom::Start(0))?;
    let Some(page_size) = sums.page_size else { return Ok(sums.pages.is_empty() && file.metadata()?.len() == 0) };
    if file.metadata()?.len() != sums.pages.len() as u64 * page_size.len() as u64 {
        return Ok(false);
    }
    let mut page = vec![0; page_size.len()];
    let mut different = Vec::new();
    for (number, sum) in (1_u64..).zip(&sums.pages) {
        file.read_exact(&mut page)?;
        if Plain::of(&page).crc32c != *sum {
            different.push(number);
        }
    }
    if different.is_empty() {
        return Ok(true);
    }
    let free = free_pages(file, page_size, sums.pages.len() as u64)?;
    Ok(different.iter().all(|number| free.contains(number)))
}

/// The leaves of the free list: pages without content. A list that makes no sense has none.
fn free_pages(mut file: &File, page_size: PageSize, pages: u64) -> io::Result<HashSet<u64>> {
    let word = |bytes: &[u8], index: usize| {
        let word = bytes.get(index * 4..index * 4 + 4).and_then(|word| word.first_chunk::<4>());
        word.map_or(0, |word| u32::from_be_bytes(*word))
    };
    let mut page = vec![0; page_size.len()];
    file.seek(SeekFrom::Start(0))?;
    file.read_exact(&mut page)?;
    let (mut trunk, mut free, mut seen) = (u64::from(word(&page, 8)), HashSet::new(), HashSet::new());
    while trunk != 0 && trunk <= pages && seen.insert(trunk) {
        file.seek(SeekFrom::Start((trunk - 1) * page_size.len() as u64))?;
        file.read_exact(&mut page)?;
        let count = (word(&page, 1) as usize).min(page_size.len() / 4 - 2);
        free.extend((0..count).map(|leaf| u64::from(word(&page, leaf + 2))));
        trunk = u64::from(word(&page, 0));
    }
    Ok(free)
}
