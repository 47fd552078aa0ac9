//! SQLite: how long each life of the WAL was, so that a piece missing at its end is noticed.
//!
//! A life's pieces follow each other by their offsets, but nothing in Litestream's keys says where a life ends: without its last
//! piece it looks whole, and the next life applied on top makes a wrong database. So when uploading goes on with the next
//! life, an empty object `seawall/lives/<generation>/<index 8 hex>_<length 8 to 16 hex>` is stored first: once per life, and one
//! listing tells a restore all of them. A life Litestream wrote has none, and cannot be checked.
//!
//! The end of the last piece is remembered from storing it, or from [`Replica::resume`].

use std::collections::BTreeMap;
use std::sync::PoisonError;

use bytes::Bytes;

use crate::error::Error;
use crate::facts::Plain;
use crate::layout::Layout;
use crate::names::{Generation, PieceName, hex};
use crate::replica::Replica;

/// Where a life ends, as far as it is uploaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LifeEnd {
    generation: Generation,
    index: u64,
    length: u64,
}

impl Replica {
    /// SQLite: the lengths of the lives of a generation that are over, as their writer told. One listing.
    pub async fn lives(&self, generation: Generation) -> Result<BTreeMap<u64, u64>, Error> {
        let folder = self.lives_folder(generation);
        let mut lives = BTreeMap::new();
        for object in self.store().list(&folder).await? {
            let file = object.key.strip_prefix(&folder).and_then(|file| file.strip_prefix('/'));
            let Some((index, length)) = file.and_then(parse) else { continue };
            let longest: &mut u64 = lives.entry(index).or_default();
            *longest = length.max(*longest);
        }
        Ok(lives)
    }

    pub(crate) fn lives_folder(&self, generation: Generation) -> String {
        format!("seawall/lives/{generation}")
    }

    /// Before the first piece of a life is stored: tells how long the one before was.
    pub(crate) async fn note_life_end(&self, generation: Generation, name: PieceName) -> Result<(), Error> {
        let Some(end) = *self.ends().lock().unwrap_or_else(PoisonError::into_inner) else { return Ok(()) };
        if name.start != 0 || end.generation != generation || end.index.checked_add(1) != Some(name.index) {
            return Ok(());
        }
        let key = format!("{}/{:08x}_{:08x}", self.lives_folder(generation), end.index, end.length);
        self.store().put(&key, Bytes::from_static(b"\n")).await
    }

    pub(crate) fn remember_end(&self, generation: Generation, name: PieceName, plain: Plain) {
        if self.layout() == Layout::Sqlite {
            let end = LifeEnd { generation, index: name.index, length: name.start.saturating_add(plain.length) };
            *self.ends().lock().unwrap_or_else(PoisonError::into_inner) = Some(end);
        }
    }

    /// After pieces were deleted: forgets the lives whose beginning is gone.
    pub(crate) async fn forget_lives(&self, generation: Generation, names: &[PieceName]) -> Result<(), Error> {
        let begins = |index: u64| names.iter().any(|name| name.start == 0 && name.index == index);
        if self.layout() != Layout::Sqlite || !names.iter().any(|name| name.start == 0) {
            return Ok(());
        }
        let folder = self.lives_folder(generation);
        let keys = self.store().list(&folder).await?.into_iter().map(|object| object.key).filter(|key| {
            let file = key.strip_prefix(&folder).and_then(|file| file.strip_prefix('/'));
            file.and_then(parse).is_some_and(|(index, _)| begins(index))
        });
        self.store().delete(keys.collect()).await.map(drop)
    }
}

fn parse(file: &str) -> Option<(u64, u64)> {
    let (index, length) = file.split_once('_')?;
    Some((hex(index, 8..=8)?, hex(length, 8..=16)?))
}
