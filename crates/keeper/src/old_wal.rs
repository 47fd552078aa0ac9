//! Which WAL stays on this disk, and what of it can be had from elsewhere.
//!
//! Whole segments go from the oldest on. Two rules decide, and the one that lets more go wins:
//!
//! - *The limit*, always: `max_wal` bytes below the flush LSN stay, for slots up to `max_slot_wal` more. What goes by it may be gone for good.
//! - *Archived*, where an archive can be read back ([`Keeper::use_archive`]): what is in it without a gap from the oldest byte here on, is
//!   below the slowest reader and slot, and is not among the newest `min_wal` bytes.
//!
//! Invariants: never a segment with bytes at or above the commit LSN or the floor as any control file has them that may be on the disk
//! ([`WrittenDown`]), whatever an archive is said to hold: after a power cut an older one may be found, and a log without the segment of
//! its floor is damaged. WAL that went by the second rule is not lost: readers and slots below the oldest byte stay, and the driver reads for them from the archive.

use crate::command::{Command, ReaderId};
use crate::keeper::Keeper;
use consensus::AcceptorState;
use lsn::{Lsn, SegmentSize};
use quorum_proto::Archived;
use std::time::Instant;

/// The lower of commit LSN and floor in every control file that a power cut now may leave.
#[derive(Debug)]
pub(crate) struct WrittenDown {
    durable: Lsn,
    /// Asked for and not finished, with its ticket: it may be there already, or not. There is never more than one.
    under_way: Option<(u64, Lsn)>,
}

impl WrittenDown {
    /// As it was read.
    pub(crate) fn of(state: &AcceptorState) -> WrittenDown {
        WrittenDown { durable: state.commit.min(state.floor), under_way: None }
    }

    pub(crate) fn asked(&mut self, ticket: u64, state: &AcceptorState) {
        self.under_way = Some((ticket, state.commit.min(state.floor)));
    }

    pub(crate) fn finished(&mut self, ticket: u64) {
        if let Some((_, at)) = self.under_way.take_if(|(asked, _)| *asked == ticket) {
            self.durable = at;
        }
    }

    /// Nothing below this is needed by any of them.
    fn keeps(&self) -> Lsn {
        self.under_way.map_or(self.durable, |(_, at)| at.min(self.durable))
    }
}

/// An archive from which WAL can be read back.
#[derive(Debug)]
pub(crate) struct Archive {
    min_wal: u64,
    /// What it holds, as it was told last.
    held: Option<Archived>,
    /// Removed here below this position, in this run, without being known to be archived.
    lost_below: Lsn,
}

impl Archive {
    /// Whether everything from `oldest` up to `to` is in it.
    fn holds(&self, oldest: Lsn, to: Lsn) -> bool {
        self.held.is_some_and(|held| held.from <= oldest && to <= held.to)
    }
}

/// Why the oldest WAL here has not been removed yet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KeptFor {
    /// It is within the limit, and there is no archive to let it go earlier.
    Limit,
    /// It is not archived yet, or nobody has said so.
    Archive,
    /// A reader or a slot has not had it.
    Reader,
    /// It is recent.
    Recent,
}

impl KeptFor {
    /// In a few words, for status.
    pub fn as_str(self) -> &'static str {
        match self {
            KeptFor::Limit => "within --max-wal",
            KeptFor::Archive => "not archived yet",
            KeptFor::Reader => "a reader or slot needs it",
            KeptFor::Recent => "within --min-wal",
        }
    }
}

impl Keeper {
    /// Right after it was made: WAL can be read back from an archive, so that what is archived may go before the limit is reached; but
    /// `min_wal` bytes stay.
    pub fn use_archive(&mut self, min_wal: u64) {
        self.archive = Some(Archive { min_wal, held: None, lost_below: Lsn::INVALID });
    }

    /// Who uploads this cluster's WAL says what the archive holds. It is believed: only members are asked. Two that overlap know different
    /// parts of it, and both are right.
    pub fn handle_archived(&mut self, now: Instant, told: Archived) {
        let Some(archive) = &mut self.archive else { return };
        let joins = |held: &Archived| held.from <= told.to && told.from <= held.to;
        let held = match archive.held {
            Some(held) if joins(&held) => Archived { from: held.from.min(told.from), to: held.to.max(told.to) },
            _ => told,
        };
        if archive.held != Some(held) {
            archive.held = Some(held);
            // Peers learn it with the row.
            self.version += 1;
            self.remove_old_wal();
            self.drive(now);
        }
    }

    /// What the archive holds, as it was told last.
    pub(crate) fn archived(&self) -> Option<Archived> {
        self.archive.as_ref()?.held
    }

    /// The first byte that can be had through this safekeeper: from its disk, or from the archive as far as it is known.
    pub fn reachable(&self) -> Lsn {
        let archive = self.archive.as_ref();
        let below = archive.and_then(|archive| {
            let held = archive.held.filter(|held| held.from <= self.oldest && self.oldest <= held.to)?;
            Some(held.from.max(archive.lost_below))
        });
        below.map_or(self.oldest, |below| below.min(self.oldest))
    }

    /// WAL below this position cannot be had through this safekeeper. Nobody knows better than the archive what it holds, so with one
    /// only what is known to be lost counts.
    pub(crate) fn gone_below(&self) -> Lsn {
        self.archive.as_ref().map_or(self.oldest, |archive| archive.lost_below)
    }

    /// WAL for a reader is neither here nor in the archive: its slot keeps nothing any more.
    pub(crate) fn note_gone(&mut self, reader: ReaderId) {
        if self.archive.is_some() {
            self.readers.slots.lose(reader);
        }
    }

    /// Lets go of what may go. Called when the log was written down, and when more is archived.
    pub(crate) fn remove_old_wal(&mut self) {
        let state = self.acceptor.state();
        let Ok(segment_size) = SegmentSize::new(state.server.segment_size.into()) else { return };
        let (keep_from, _) = self.keep_from();
        let below = segment_size.start_of_segment_at(keep_from.min(self.written_down.keeps()));
        if !self.oldest.is_valid() || below <= self.oldest {
            return;
        }
        let oldest = self.oldest;
        if let Some(archive) = &mut self.archive
            && !archive.holds(oldest, below)
        {
            archive.lost_below = archive.lost_below.max(below);
        }
        self.commands.push_back(Command::RemoveBelow(below));
    }

    /// From where on WAL stays, and what decides it.
    pub(crate) fn keep_from(&self) -> (Lsn, KeptFor) {
        let flush = self.acceptor.flush();
        let limit = self.kept_for_slots(Lsn(flush.0.saturating_sub(self.options.max_wal)));
        let (archived, reason) = match &self.archive {
            None => (Lsn::INVALID, KeptFor::Limit),
            Some(archive) => {
                let held = archive.held.filter(|held| held.from <= self.oldest).map_or(Lsn::INVALID, |held| held.to);
                let recent = Lsn(flush.0.saturating_sub(archive.min_wal));
                let readers = self.readers.slowest(self.oldest).unwrap_or(Lsn::MAX);
                [(held, KeptFor::Archive), (readers, KeptFor::Reader), (recent, KeptFor::Recent)]
                    .into_iter()
                    .min_by_key(|(at, _)| *at)
                    .unwrap_or((Lsn::INVALID, KeptFor::Archive))
            }
        };
        if limit >= archived {
            (limit, if self.archive.is_some() { reason } else { KeptFor::Limit })
        } else {
            (archived, reason)
        }
    }
}
