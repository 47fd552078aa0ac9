//! [`Disk`]: what one safekeeper has durable, and what is on its way there.
//!
//! A byte has the number of who wrote it in its lower bits; the highest bit marks the last byte of a record.

use consensus::AcceptorState;
use lsn::{Lsn, Path};

/// First byte of every log of the model: the start of a segment.
pub(crate) const FIRST: u64 = 1 << 20;
/// Set in the last byte of a record.
pub(crate) const RECORD_END: u8 = 0x80;

/// Where the `index`th byte of a log lies.
pub(crate) fn position(index: usize) -> Lsn {
    Lsn(FIRST + index as u64)
}

/// How many bytes of a log lie below a position.
pub(crate) fn index(position: Lsn) -> usize {
    position.0.saturating_sub(FIRST) as usize
}

/// How many of these bytes are whole records.
pub(crate) fn whole_records(bytes: &[u8]) -> usize {
    bytes.iter().rposition(|byte| byte & RECORD_END != 0).map_or(0, |last| last + 1)
}

#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Disk {
    /// What the control file holds.
    pub(crate) control: AcceptorState,
    /// The write of it that is under way.
    pub(crate) persisting: Option<(u64, AcceptorState)>,
    /// The bytes taken in.
    pub(crate) log: Vec<u8>,
    /// How many of them are durable.
    pub(crate) synced: usize,
    /// Whether there is a log: it has a first byte, if perhaps no bytes.
    pub(crate) begun: bool,
    /// The cut under way.
    pub(crate) cutting: Option<(Lsn, Path)>,
}

impl Disk {
    pub(crate) fn new(control: AcceptorState) -> Disk {
        Disk { control, persisting: None, log: Vec::new(), synced: 0, begun: false, cutting: None }
    }

    /// End of the durable bytes, 0/0 while there is no log.
    pub(crate) fn durable_end(&self) -> Lsn {
        if self.begun { position(self.synced) } else { Lsn::INVALID }
    }

    /// Whether something is under way.
    pub(crate) fn is_busy(&self) -> bool {
        self.persisting.is_some() || self.cutting.is_some() || self.synced < self.log.len()
    }

    /// What is left after a crash: nothing of what was under way. (What might have been finished just before the crash is the crash
    /// one step later.)
    pub(crate) fn crash(&mut self) {
        self.persisting = None;
        self.cutting = None;
        self.log.truncate(self.synced);
    }

    /// Start-up: the announced cut again, then the scan. Gives the end of the last whole record, 0/0 without a log.
    pub(crate) fn recover(&mut self) -> Lsn {
        if !self.control.log_start.is_valid() {
            self.log.clear();
            (self.synced, self.begun) = (0, false);
            return Lsn::INVALID;
        }
        if let Some(cutting) = self.control.cutting {
            self.log.truncate(index(cutting.to));
        }
        // What stands above the end stays on a real disk until a cut removes it; the scan finds it again in every life.
        self.log.truncate(whole_records(&self.log));
        self.synced = self.log.len();
        self.begun = true;
        position(self.log.len())
    }
}
