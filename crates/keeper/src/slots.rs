//! [`Slots`]: physical replication slots of one cluster on one safekeeper, and how much WAL they hold back.
//!
//! A slot is local to its safekeeper, as PostgreSQL's are local to their server: a reader that moves between safekeepers needs
//! it on each. It is created and dropped durably: the answer waits for [`Keeper::handle_slots_persisted`]. Its position moves
//! with what its reader reports as flushed, and is written down when it enters another segment, at most once a second,
//! because WAL goes by whole segments: an idle slot costs no write.
//!
//! Invariants: WAL is held by what is *written down*, so that a crash gives no slot a position whose WAL is gone. A position
//! is never above the commit LSN, whatever a reader claims. A slot whose WAL went beyond its allowance is *lost*: it keeps
//! nothing until its reader reports a position again.
//!
//! Bytes of the record (little-endian; `wal-storage` frames them like every control file): u32 version = 1, u32 count, then
//! per slot u32 length and that many bytes of name, u64 position (0 = keeps nothing), u8 whether it is lost.

use crate::command::{Command, ReaderId};
use crate::keeper::Keeper;
use lsn::{Lsn, SegmentSize, Tli};
use pq_proto::backend::Report;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use walsender::answers::{self, SlotFound};

/// Most slots of one cluster on one safekeeper.
pub const SLOTS_MAX: usize = 64;
/// Longest name of a slot, in bytes, as PostgreSQL has it.
pub const SLOT_NAME_MAX: usize = 63;
/// Positions that moved are written down at most so often.
const PERSIST_EVERY: Duration = Duration::from_secs(1);
const VERSION: u32 = 1;

/// What a slot is created as.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SlotKind {
    /// It stays until it is dropped.
    Persistent,
    /// It goes with the connection of this number, and is never written down.
    Temporary(u32),
}

/// A slot as an operator sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SlotView {
    /// Its name.
    pub name: String,
    /// Whether it goes with its connection.
    pub is_temporary: bool,
    /// WAL is kept from here on; `None` if it keeps nothing.
    pub restart: Option<Lsn>,
    /// Whether a reader uses it now.
    pub is_active: bool,
    /// Whether WAL it wanted is gone.
    pub is_lost: bool,
}

/// Bytes that are not a record of slots.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SlotsError {
    /// Written by another version.
    #[error("the record of slots has version {0}, this build knows version {VERSION}: run the version that wrote it")]
    Version(u32),
    /// It ends too early, goes on too long, or holds what no slot is.
    #[error("the record of slots is damaged at its field {0:?}")]
    Field(&'static str),
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct Slot {
    kind: SlotKind,
    restart: Option<Lsn>,
    /// What is written down; `None` until the slot itself is.
    durable: Option<Option<Lsn>>,
    active: Option<ReaderId>,
    is_lost: bool,
}

impl Slot {
    /// From where on WAL must stay for it.
    fn holds(&self) -> Option<Lsn> {
        let durable = self.durable.flatten();
        match self.kind {
            SlotKind::Temporary(_) => self.restart,
            SlotKind::Persistent => [self.restart, durable].into_iter().flatten().min(),
        }
    }
}

/// From where on each slot keeps WAL.
type Positions = Vec<(String, Option<Lsn>)>;

/// All slots of one cluster.
#[derive(Debug, Default)]
pub(crate) struct Slots {
    slots: BTreeMap<String, Slot>,
    /// Counts changes that must be written down; the ticket of a write is the change it includes.
    changes: u64,
    written: u64,
    /// The write under way: its ticket, and the positions it holds.
    under_way: Option<(u64, Positions)>,
    /// Positions moved: when they are written down.
    due: Option<Instant>,
    seen_oldest: Lsn,
}

impl Slots {
    pub(crate) fn views(&self) -> Vec<SlotView> {
        let view = |(name, slot): (&String, &Slot)| SlotView {
            name: name.clone(),
            is_temporary: slot.kind != SlotKind::Persistent,
            restart: slot.restart,
            is_active: slot.active.is_some(),
            is_lost: slot.is_lost,
        };
        self.slots.iter().map(view).collect()
    }

    /// From where on WAL must stay for any of them; `None` if none keeps WAL.
    pub(crate) fn holds(&self) -> Option<Lsn> {
        self.all_held().min()
    }

    /// From where on WAL must stay for each that keeps WAL.
    pub(crate) fn all_held(&self) -> impl Iterator<Item = Lsn> {
        self.slots.values().filter_map(Slot::holds)
    }

    pub(crate) fn next_timeout(&self) -> Option<Instant> {
        self.due
    }

    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        if self.due.is_some_and(|due| now >= due) {
            self.due = None;
            self.changes += 1;
        }
    }

    /// A reader begins to use a slot.
    pub(crate) fn acquire(&mut self, name: &str, reader: ReaderId) -> Result<(), Report> {
        let slot = self.slots.get_mut(name).ok_or_else(|| answers::unknown_slot(name))?;
        if slot.active.is_some() {
            return Err(answers::slot_in_use(name, "another reader"));
        }
        slot.active = Some(reader);
        Ok(())
    }

    /// A reader ended, or was refused after all.
    pub(crate) fn release(&mut self, reader: ReaderId) {
        for slot in self.slots.values_mut().filter(|slot| slot.active == Some(reader)) {
            slot.active = None;
        }
    }

    /// The reader of a slot reports what it has. `commit` bounds what is believed, `oldest` is the first byte still here.
    pub(crate) fn advance(&mut self, now: Instant, reader: ReaderId, flush: Lsn, within: Kept) {
        let Some(slot) = self.slots.values_mut().find(|slot| slot.active == Some(reader)) else { return };
        let position = flush.min(within.commit).max(within.oldest);
        if !flush.is_valid() || slot.restart == Some(position) {
            return;
        }
        slot.restart = Some(position);
        slot.is_lost = false;
        if slot.kind == SlotKind::Persistent {
            let segment = |lsn: Option<Lsn>| lsn.map(|lsn| within.segment_size.segment_of(lsn));
            if segment(slot.durable.flatten()) != segment(slot.restart) {
                self.due.get_or_insert(now + PERSIST_EVERY);
            }
        }
    }

    /// WAL below `oldest` is gone.
    pub(crate) fn lose_below(&mut self, oldest: Lsn) {
        if oldest <= self.seen_oldest {
            return;
        }
        self.seen_oldest = oldest;
        for slot in self.slots.values_mut().filter(|slot| slot.restart.is_some_and(|restart| restart < oldest)) {
            (slot.restart, slot.is_lost) = (None, true);
            self.changes += 1;
        }
    }

    /// WAL that the slot of this reader wanted is gone.
    pub(crate) fn lose(&mut self, reader: ReaderId) {
        for slot in self.slots.values_mut().filter(|slot| slot.active == Some(reader) && slot.restart.is_some()) {
            (slot.restart, slot.is_lost) = (None, true);
            self.changes += 1;
        }
    }

    /// What to write down next, with its ticket. One write at a time.
    fn poll_persist(&mut self) -> Option<(u64, Vec<u8>)> {
        if self.under_way.is_some() || self.changes == self.written {
            return None;
        }
        let lasting = || self.slots.iter().filter(|(_, slot)| slot.kind == SlotKind::Persistent);
        self.under_way = Some((self.changes, lasting().map(|(name, slot)| (name.clone(), slot.restart)).collect()));
        Some((self.changes, encode(lasting())))
    }

    /// The write under way has ended. What could not be made durable was not created.
    fn end_persist(&mut self, is_durable: bool) {
        let Some((ticket, positions)) = self.under_way.take() else { return };
        // A failed one is tried again with the next change, not for ever.
        self.written = ticket;
        for (name, position) in positions {
            if let Some(slot) = self.slots.get_mut(&name)
                && is_durable
            {
                slot.durable = Some(position);
            }
        }
        if !is_durable {
            self.slots.retain(|_, slot| slot.kind != SlotKind::Persistent || slot.durable.is_some());
        }
    }
}

/// What bounds a slot's position.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kept {
    pub(crate) commit: Lsn,
    pub(crate) oldest: Lsn,
    pub(crate) segment_size: SegmentSize,
}

fn check_name(name: &str) -> Result<(), Report> {
    let is_fine = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    if name.is_empty() || name.len() > SLOT_NAME_MAX || !name.bytes().all(is_fine) {
        return Err(answers::slot_name_invalid(name));
    }
    Ok(())
}

fn encode<'a>(slots: impl Iterator<Item = (&'a String, &'a Slot)>) -> Vec<u8> {
    let (mut body, mut count) = (Vec::new(), 0_u32);
    for (name, slot) in slots {
        count += 1;
        body.extend_from_slice(&(name.len() as u32).to_le_bytes());
        body.extend_from_slice(name.as_bytes());
        body.extend_from_slice(&slot.restart.unwrap_or(Lsn::INVALID).0.to_le_bytes());
        body.push(u8::from(slot.is_lost));
    }
    [&VERSION.to_le_bytes()[..], &count.to_le_bytes(), &body].concat()
}

fn decode(bytes: &[u8]) -> Result<BTreeMap<String, Slot>, SlotsError> {
    let mut rest = bytes;
    let version = u32::from_le_bytes(take(&mut rest, "version")?);
    if version != VERSION {
        return Err(SlotsError::Version(version));
    }
    let count = u32::from_le_bytes(take(&mut rest, "count")?) as usize;
    if count > SLOTS_MAX {
        return Err(SlotsError::Field("count"));
    }
    let mut slots = BTreeMap::new();
    for _ in 0..count {
        let length = u32::from_le_bytes(take(&mut rest, "length of a name")?) as usize;
        let (name, after) = rest.split_at_checked(length).ok_or(SlotsError::Field("name"))?;
        rest = after;
        let name = std::str::from_utf8(name).ok().filter(|name| check_name(name).is_ok());
        let name = name.ok_or(SlotsError::Field("name"))?.to_owned();
        let restart = Lsn(u64::from_le_bytes(take(&mut rest, "position")?));
        let restart = restart.is_valid().then_some(restart);
        let is_lost = match take(&mut rest, "whether it is lost")? {
            [0] => false,
            [1] => true,
            _ => return Err(SlotsError::Field("whether it is lost")),
        };
        let slot = Slot { kind: SlotKind::Persistent, restart, durable: Some(restart), active: None, is_lost };
        if slots.insert(name, slot).is_some() {
            return Err(SlotsError::Field("name"));
        }
    }
    if rest.is_empty() { Ok(slots) } else { Err(SlotsError::Field("end")) }
}

fn take<const N: usize>(rest: &mut &[u8], field: &'static str) -> Result<[u8; N], SlotsError> {
    let (head, after) = rest.split_first_chunk::<N>().ok_or(SlotsError::Field(field))?;
    *rest = after;
    Ok(*head)
}

impl Keeper {
    /// Takes the record that was written down, before anything else is asked of the keeper.
    ///
    /// # Errors
    /// Bytes that are not one: there are no slots then.
    pub fn load_slots(&mut self, bytes: &[u8]) -> Result<(), SlotsError> {
        self.readers.slots.slots = decode(bytes)?;
        let gone = self.gone_below();
        self.readers.slots.lose_below(gone);
        Ok(())
    }

    /// CREATE_REPLICATION_SLOT. `Some` is the ticket whose [`Keeper::handle_slots_persisted`] the answer must wait for. With
    /// `reserve` WAL is kept from the segment of the commit LSN on, else from the first reported position on.
    ///
    /// # Errors
    /// The report to answer with: a name that is none, or is taken; too many slots; no WAL to reserve yet.
    pub fn create_slot(
        &mut self,
        now: Instant,
        name: &str,
        kind: SlotKind,
        reserve: bool,
    ) -> Result<Option<u64>, Report> {
        check_name(name)?;
        let (kept, oldest) = (self.kept(), self.oldest);
        let slots = &mut self.readers.slots;
        if slots.slots.contains_key(name) {
            return Err(answers::slot_exists(name));
        }
        if slots.slots.len() >= SLOTS_MAX {
            return Err(answers::too_many_slots(SLOTS_MAX));
        }
        let start = kept.segment_size.start_of_segment_at(kept.commit).max(oldest);
        let restart = (reserve && start.is_valid()).then_some(start);
        let durable = None;
        slots.slots.insert(name.to_owned(), Slot { kind, restart, durable, active: None, is_lost: false });
        let ticket = match kind {
            SlotKind::Temporary(_) => None,
            SlotKind::Persistent => {
                slots.changes += 1;
                Some(slots.changes)
            }
        };
        self.version += 1;
        self.drive(now);
        Ok(ticket)
    }

    /// DROP_REPLICATION_SLOT; `Some` as in [`Keeper::create_slot`].
    ///
    /// # Errors
    /// The report to answer with: there is no such slot, or (55006) a reader uses it.
    pub fn drop_slot(&mut self, now: Instant, name: &str) -> Result<Option<u64>, Report> {
        let slots = &mut self.readers.slots;
        let slot = slots.slots.get(name).ok_or_else(|| answers::unknown_slot(name))?;
        if slot.active.is_some() {
            return Err(answers::slot_in_use(name, "another reader"));
        }
        let is_lasting = slot.kind == SlotKind::Persistent;
        slots.slots.remove(name);
        slots.changes += u64::from(is_lasting);
        let ticket = is_lasting.then_some(slots.changes);
        self.version += 1;
        self.drive(now);
        Ok(ticket)
    }

    /// READ_REPLICATION_SLOT.
    pub fn read_slot(&self, name: &str) -> SlotFound {
        match self.readers.slots.slots.get(name).map(|slot| slot.restart) {
            None => SlotFound::Missing,
            Some(None) => SlotFound::Unreserved,
            Some(Some(restart)) => {
                let path = self.public_path(false);
                SlotFound::Reserved(restart, path.map_or(Tli(1), |path| path.tli_at(restart)))
            }
        }
    }

    /// A connection ended: its temporary slots go.
    pub fn end_connection(&mut self, now: Instant, connection: u32) {
        let slots = &mut self.readers.slots.slots;
        let before = slots.len();
        slots.retain(|_, slot| slot.kind != SlotKind::Temporary(connection));
        if slots.len() != before {
            self.version += 1;
            self.drive(now);
        }
    }

    /// The record asked for with [`Command::PersistSlots`] is durable, or could not be made so.
    pub fn handle_slots_persisted(&mut self, now: Instant, is_durable: bool) {
        self.readers.slots.end_persist(is_durable);
        self.drive(now);
    }

    /// Slots see what happened to the WAL, and are written down where they changed.
    pub(crate) fn serve_slots(&mut self) {
        let gone = self.gone_below();
        self.readers.slots.lose_below(gone);
        if let Some((ticket, bytes)) = self.readers.slots.poll_persist() {
            self.commands.push_back(Command::PersistSlots { ticket, bytes });
        }
    }

    /// What may bound a slot's position.
    pub(crate) fn kept(&self) -> Kept {
        Kept { commit: self.acceptor.commit(), oldest: self.gone_below(), segment_size: self.segment_size() }
    }

    /// First byte that must stay for slots, which may hold `max_slot_wal` beyond `keep_from`.
    pub(crate) fn kept_for_slots(&self, keep_from: Lsn) -> Lsn {
        let farthest = Lsn(keep_from.0.saturating_sub(self.options.max_slot_wal));
        self.readers.slots.holds().map_or(keep_from, |held| keep_from.min(held.max(farthest)))
    }
}

#[cfg(test)]
#[path = "slots_test.rs"]
mod tests;
