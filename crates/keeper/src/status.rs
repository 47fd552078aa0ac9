//! What a keeper tells about itself: rows, positions and a view for people.

use crate::keeper::Keeper;
use crate::readers::ReaderView;
use crate::receivers::ReceiverView;
use crate::slots::SlotView;
use consensus::Standing;
use lsn::{Lsn, Path, Tli};
use quorum_proto::{LogState, LogStatusRow};
use std::time::Instant;
use wal_format::history::History;

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
    /// Why it has not been removed yet; `None` while the log is empty.
    pub kept_for: Option<crate::KeptFor>,
    /// What the archive holds, as who uploads told it; `None` where nothing can be read back from one, or nobody told yet.
    pub archived: Option<quorum_proto::Archived>,
    /// Proposers' sessions.
    pub receivers: Vec<ReceiverView>,
    /// Readers' sessions.
    pub readers: Vec<ReaderView>,
    /// Replication slots.
    pub slots: Vec<SlotView>,
    /// Consumers that left an address and are not connected, with the calls made so far.
    pub call_backs: Vec<(String, u32)>,
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
            fence: self.fence(now).map(|fence| fence.to_string()),
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

    /// The content of a public TLI's history file as the primary has it; `None` if the proposer did not say.
    pub(crate) fn original_history(&self, tli: Tli, public: &Path) -> Option<Vec<u8>> {
        let state = self.acceptor.state();
        let newest = state.path.as_ref()?.last().tli;
        if state.tli_history.is_empty() || !public.entries().iter().any(|entry| entry.tli == tli) {
            return None;
        }
        if tli == newest {
            return Some(state.tli_history.clone().into_bytes());
        }
        // What a TLI's history says its descendants' say too, further on.
        let whole = History::parse(newest, state.tli_history.as_bytes()).ok()?;
        let ancestors = whole.entries().iter().filter(|entry| entry.tli < tli).cloned().collect::<Vec<_>>();
        let history = History::new(tli, ancestors).ok().filter(|history| !history.entries().is_empty())?;
        Some(history.to_string().into_bytes())
    }

    /// Everything an operator may want to know.
    pub fn view(&self, now: Instant) -> KeeperView {
        KeeperView {
            row: self.log_status(now),
            written: self.acceptor.written(),
            oldest: self.oldest,
            kept_for: self.oldest.is_valid().then(|| self.keep_from().1),
            archived: self.archived(),
            receivers: self.receivers.views(),
            readers: self.readers.views(self.acceptor.commit(), self.acceptor.flush()),
            slots: self.readers.slots.views(),
            call_backs: self.readers.call_backs.views(),
            pull_problem: self.pull.problem().map(str::to_owned),
            pulling: self.pull.is_under_way(),
            stopped: self.stopped.clone(),
        }
    }
}
