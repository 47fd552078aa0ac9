//! [`Opening`]: how the log of a state on disk is found again, and what a keeper is told of what was found.
//!
//! Pure: whoever has the disk carries it out, in this order: the cut that was announced, if any, then recovery.

use crate::keeper::FoundLog;
use consensus::AcceptorState;
use lsn::{Lsn, SegmentSize, SegmentSizeError, SystemId};
use wal_storage::{Damage, Floor, Layout, Recovered, WalStorage};

/// What is to be done with a log's directory at start-up.
#[derive(Clone, Debug)]
pub struct Opening {
    /// Where the log's bytes lie.
    pub layout: Layout,
    /// A cut that was announced and may not have been done: to be done again before recovery.
    pub cut: Option<Lsn>,
    /// What the control file promises of the log.
    pub floor: Floor,
}

impl Opening {
    /// From the control file's state; `None` while the log is empty.
    ///
    /// # Errors
    /// The state's segment size is none.
    pub fn of(state: &AcceptorState) -> Result<Option<Opening>, SegmentSizeError> {
        let Some(path) = state.path.clone().filter(|_| state.log_start.is_valid()) else { return Ok(None) };
        let segment_size = SegmentSize::new(state.server.segment_size.into())?;
        let floor = Floor {
            lsn: state.floor,
            log_start: state.log_start,
            system_id: (state.server.system_id != SystemId(0)).then_some(state.server.system_id),
        };
        let cut = state.cutting.map(|cutting| cutting.to);
        Ok(Some(Opening { layout: Layout::new(segment_size, path), cut, floor }))
    }

    /// What recovery found, as a keeper is told of it.
    pub fn found(&self, storage: &WalStorage, recovered: &Recovered) -> FoundLog {
        let damaged_below = recovered.damage.as_ref().map(|damage| match damage {
            Damage::BelowFloor { floor, .. } => *floor,
            Damage::WrittenBehind { page, .. } => (*page).max(self.floor.lsn),
        });
        FoundLog { end: recovered.end.lsn(), oldest: storage.oldest(), damaged_below }
    }
}
