//! What a keeper tells about itself: rows, positions and a view for people.

use crate::keeper::Keeper;
use crate::readers::ReaderView;
use crate::receivers::ReceiverView;
use consensus::Standing;
use lsn::{Lsn, Tli};
use quorum_proto::{LogState, LogStatusRow};
use std::time::Instant;

/// What IDENTIFY_SYSTEM answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SystemIdentity {
    /// The primary's system identifier.
    pub system_id: lsn::SystemId,
    /// The newest TLI that may be shown.
    pub tli: Tli,
    /// A position from which START_REPLICATION succeeds.
    pub position: Lsn,
}

/// A cluster as an operator sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeeperView {
    /// The row of LOG_STATUS.
    pub row: LogStatusRow,
    /// End of the bytes written, durable or not.
    pub written: Lsn,
    /// First byte that is still here.
    pub oldest: Lsn,
    /// Proposers' sessions.
    pub receivers: Vec<ReceiverView>,
    /// Readers' sessions.
    pub readers: Vec<ReaderView>,
    /// Why the last attempt to catch up from a peer failed.
    pub pull_problem: Option<String>,
    /// Whether WAL is being pulled from a peer.
    pub pulling: bool,
    /// Why nothing is done any more, if so.
    pub stopped: Option<String>,
}

impl Keeper {
    /// The row of LOG_STATUS.
    pub fn log_status(&self, now: Instant) -> LogStatusRow {
        let acceptor = &self.acceptor;
        let state = acceptor.state();
        let history = state.history.cut(acceptor.flush());
        LogStatusRow {
            node: self.options.identity.node,
            disk: self.options.identity.disk,
            name: state.name.clone(),
            cluster: state.cluster,
            state: match acceptor.standing() {
                Standing::Member => LogState::Member,
                Standing::Learner => LogState::Learner,
                Standing::Damaged => LogState::Damaged,
                Standing::ForeignDisk => LogState::ForeignDisk,
            },
            term: state.term,
            last_log_term: history.last_term(),
            flush: acceptor.flush(),
            commit: acceptor.commit(),
            history,
            path: state.path.as_ref().filter(|_| state.log_start.is_valid()).map(|path| path.cut(acceptor.flush())),
            membership: state.membership.clone(),
            fence: None,
            leader_silent_ms: self.leader_heard.map(|at| now.saturating_duration_since(at).as_millis() as u64),
            system_id: state.server.system_id,
            segment_size: state.server.segment_size,
            pg_version: state.server.pg_version,
            version: self.version,
        }
    }

    /// What TIMELINE_STATUS answers: (flush LSN, commit LSN).
    pub fn timeline_status(&self) -> (Lsn, Lsn) {
        (self.acceptor.flush(), self.acceptor.commit())
    }

    /// What IDENTIFY_SYSTEM answers; `uncommitted` is for readers that will name a term.
    pub fn identity(&self, uncommitted: bool) -> SystemIdentity {
        let state = self.acceptor.state();
        let position = if uncommitted { self.acceptor.flush() } else { self.acceptor.commit() };
        // A TLI is shown only once something on it is committed.
        let tli = state.path.as_ref().map_or(Tli(1), |path| path.cut(self.acceptor.commit()).last().tli);
        SystemIdentity { system_id: state.server.system_id, tli, position }
    }

    /// Everything an operator may want to know.
    pub fn view(&self, now: Instant) -> KeeperView {
        KeeperView {
            row: self.log_status(now),
            written: self.acceptor.written(),
            oldest: self.oldest,
            receivers: self.receivers.views(),
            readers: self.readers.views(),
            pull_problem: self.pull.problem().map(str::to_owned),
            pulling: self.pull.is_under_way(),
            stopped: self.stopped.clone(),
        }
    }
}
