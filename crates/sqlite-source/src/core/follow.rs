//! Going on over a life of the WAL that ended while nobody watched.
//!
//! The application went on without us, copied its WAL into the database and began it anew. Nothing is lost by that if the old life can
//! still be read to its end, behind the few frames the new one has written over. That is known only if
//! * the first salt was counted up by exactly one: the WAL began anew once, and was not removed (then both salts are chance);
//! * the last frame that was copied still stands where it stood: the file was not cut, and what is new ends before it;
//! * behind the end of the old life's chain stand frames of still older lives, or nothing: not one of the new life, which may have
//!   been written over an old frame, and none that is damaged;
//! * the database file has the pages that the rest of the old life left, but for those the new one has: so those transactions did
//!   happen, and this is the database they happened to.
//!
//! Whatever else is found is a life that was lost.

use super::{BEGAN_ANEW, Captured, Core, lost_between};
use crate::error::Error;
use crate::wal_file::{self, Begin, WalFile};
use sqlite_wal::{Chain, FRAME_HEADER_LEN, FrameHeader, HEADER_LEN, Header, Position, Salts};
use std::collections::HashMap;
use std::num::NonZeroU32;

/// Salts so close together were counted, not drawn.
const LIVES_COUNTED: u32 = 0xffff;
/// Writers wait meanwhile, so what takes long is not tried: a snapshot costs them nothing.
const FOLLOW_MAX: u64 = 64 * 1024 * 1024;

impl Core {
    /// While the worker holds the write lock, after [`BEGAN_ANEW`]: copies what is left of the life that ended, and the one that began.
    pub(super) fn follow(&mut self) -> Result<Captured, Error> {
        const LOST: Captured = Captured::Broken(BEGAN_ANEW);
        let (Some(log), Some(attached), Some(shadow)) = (self.log, &self.attached, self.shadow.clone()) else {
            return Ok(LOST);
        };
        let Some(wal) = WalFile::open(&self.wal_path)? else { return Ok(LOST) };
        let Begin::Header(next) = wal.begin()? else { return Ok(LOST) };
        let known = *log.chain.header();
        let same_pages = next.page_size == attached.page_size && known.page_size == attached.page_size;
        if lost_between(&known, &next) || !same_pages || log.index >= Position::INDEX_MAX || wal.len()? > FOLLOW_MAX {
            return Ok(LOST);
        }
        if !ends_in_sight(&log.chain, &wal)? || !self.happened(&log.chain, next, &wal)? {
            return Ok(LOST);
        }
        self.copy(&wal)?;
        let Some(ended) = self.log else { return Ok(LOST) };
        shadow.end_life(&ended)?;
        self.log = Some(shadow.begin_life(ended.generation, ended.index + 1, next)?);
        self.copy(&wal)?;
        Ok(Captured::Copied)
    }

    /// Whether the database file has what the old life holds behind `known`.
    fn happened(&mut self, known: &Chain, next: Header, wal: &WalFile) -> Result<bool, Error> {
        let (mut left, old_pages) = pages_of(*known, wal)?;
        let (newer, new_pages) = pages_of(Chain::new(next), wal)?;
        let last = [old_pages, new_pages].into_iter().flatten().min().map_or(0, NonZeroU32::get);
        left.retain(|page, _| *page <= last && !newer.contains_key(page));
        let raw = self.raw_file()?;
        let page_len = next.page_size.len();
        let (mut ours, mut theirs) = (vec![0; page_len], vec![0; page_len]);
        for (page, at) in left {
            wal.read_at(&mut ours, at)?;
            let read = wal_file::read_at(&raw, &mut theirs, u64::from(page - 1) * page_len as u64);
            let read = read.map_err(|source| Error::File { what: "read", path: self.options.path.clone(), source })?;
            if read < page_len || ours != theirs {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// Where the newest version of each page stands that is committed behind `chain`, and the database's size then, if anything is.
fn pages_of(mut chain: Chain, wal: &WalFile) -> Result<(HashMap<u32, u64>, Option<NonZeroU32>), Error> {
    let mut frame = vec![0; chain.header().page_size.frame_len()];
    let (mut found, mut open, mut pages) = (HashMap::new(), Vec::new(), None);
    while wal.read_at(&mut frame, chain.offset())? == frame.len() {
        let Ok(frame) = chain.next(&frame) else { break };
        open.push((frame.page_number.get(), frame.offset + FRAME_HEADER_LEN as u64));
        if frame.commit.is_some() {
            found.extend(open.drain(..));
            pages = frame.commit;
        }
    }
    Ok((found, pages))
}

/// Whether the life that was copied up to `known` is still there behind it, whole.
fn ends_in_sight(known: &Chain, wal: &WalFile) -> Result<bool, Error> {
    let header = known.header();
    // A life without a frame has left nothing to know it by.
    if known.offset() <= HEADER_LEN as u64 || !wal.still_has(header, known.offset(), known.checksum())? {
        return Ok(false);
    }
    let (mut chain, mut frame) = (*known, vec![0; header.page_size.frame_len()]);
    loop {
        let at = chain.offset();
        if wal.read_at(&mut frame, at)? < frame.len() || chain.next(&frame).is_err() {
            return only_older(header.salts, at, frame.len() as u64, wal);
        }
    }
}

/// Whether all frames from here on are of lives before the one with these salts.
fn only_older(salts: Salts, mut at: u64, frame_len: u64, wal: &WalFile) -> Result<bool, Error> {
    let mut head = [0; FRAME_HEADER_LEN];
    while wal.read_at(&mut head, at)? == FRAME_HEADER_LEN {
        let ago = salts.first().wrapping_sub(FrameHeader::parse(&head).salts.first());
        if !(1..=LIVES_COUNTED).contains(&ago) {
            return Ok(false);
        }
        at += frame_len;
    }
    Ok(true)
}
