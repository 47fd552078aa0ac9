//! [`Session`]: one push session, or the wish for one.

use crate::{PeerState, ring::WalRing};
use consensus::{HotStandbyFeedback, ProposerMessage, Vote};
use lsn::{Lsn, NodeId};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// A session without any message from the safekeeper for this long is dead: two heartbeats went unanswered.
pub(crate) const SESSION_TIMEOUT: Duration = Duration::from_secs(10);
/// An idle session carries an empty append this often, so that both sides know of each other within the time-out.
pub(crate) const HEARTBEAT: Duration = Duration::from_secs(5);
/// Pause before a closed session is opened again.
pub(crate) const RECONNECT: Duration = Duration::from_secs(1);
/// How long a new commit LSN waits for an append to ride on. In a busy stream the next append comes sooner, which halves the
/// messages; in an idle one standbys see the commit this much later.
pub(crate) const COMMIT_DELAY: Duration = Duration::from_millis(5);
/// How long WAL for a trailing safekeeper waits for more. It is written and synced there in fewer, larger batches, which leaves
/// disks, network and processors to the majority that commits. Also the most that a commit waits longer when one of that
/// majority stalls: after it all safekeepers have the WAL.
pub(crate) const TRAIL_DELAY: Duration = Duration::from_millis(5);
/// So much WAL for a trailing safekeeper waits no longer, in bytes.
const TRAIL_BYTES: u64 = 128 << 10;

/// How far a session has come.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Debug)]
pub(crate) enum Stage {
    /// No connection.
    Closed,
    /// The driver is connecting.
    Opening,
    /// Our greeting is on its way.
    Greeting,
    /// It answered the greeting.
    Greeted,
    /// Our vote request is on its way.
    Voting,
    /// It answered the vote request.
    Voted,
    /// It is elected to, and gets WAL from here on.
    Streaming {
        /// First byte not handed out yet.
        next: Lsn,
    },
    /// It is elected to, and lacks WAL that is no longer here: it learns from other safekeepers.
    CatchingUp,
}

/// What is known of one safekeeper in this term.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) stage: Stage,
    pub(crate) node: Option<NodeId>,
    pub(crate) outbox: VecDeque<ProposerMessage>,
    /// Its log as it answered the vote request of this session.
    pub(crate) vote: Option<Vote>,
    /// When it said something last, or was opened.
    pub(crate) heard: Instant,
    /// When the last append was handed out.
    pub(crate) sent: Instant,
    pub(crate) sent_commit: Lsn,
    pub(crate) commit_due: Option<Instant>,
    /// Until when WAL waits for more.
    pub(crate) trail_due: Option<Instant>,
    /// The last commit did not need this safekeeper: its WAL may wait a little.
    pub(crate) trailing: bool,
    /// An append is to go out, be it empty.
    pub(crate) append_due: bool,
    /// When a closed session is to be opened again.
    pub(crate) retry_at: Option<Instant>,
    pub(crate) standby: HotStandbyFeedback,
    pub(crate) flush: Option<Lsn>,
    pub(crate) responded: Option<Instant>,
    /// Why it is not streaming, if something went wrong last.
    pub(crate) error: Option<String>,
}

impl Session {
    pub(crate) fn new(now: Instant) -> Session {
        Session {
            stage: Stage::Closed,
            node: None,
            outbox: VecDeque::new(),
            vote: None,
            heard: now,
            sent: now,
            sent_commit: Lsn::INVALID,
            commit_due: None,
            trail_due: None,
            trailing: false,
            append_due: false,
            retry_at: None,
            standby: HotStandbyFeedback::default(),
            flush: None,
            responded: None,
            error: None,
        }
    }

    /// Begins to open: everything of the connection before is forgotten, but not what is worth showing.
    pub(crate) fn open(&mut self, now: Instant) {
        let (node, flush, responded, error) = (self.node, self.flush, self.responded, self.error.take());
        *self = Session { stage: Stage::Opening, node, flush, responded, error, ..Session::new(now) };
    }

    /// Forgets the connection.
    pub(crate) fn close(&mut self, error: Option<String>, retry_at: Option<Instant>) {
        self.stage = Stage::Closed;
        self.outbox.clear();
        self.vote = None;
        self.commit_due = None;
        self.trail_due = None;
        self.trailing = false;
        self.append_due = false;
        self.standby = HotStandbyFeedback::default();
        self.retry_at = retry_at;
        if error.is_some() {
            self.error = error;
        }
    }

    pub(crate) fn is_open(&self) -> bool {
        self.stage != Stage::Closed
    }

    /// Whether Elected was sent.
    pub(crate) fn is_elected(&self) -> bool {
        matches!(self.stage, Stage::Streaming { .. } | Stage::CatchingUp)
    }

    /// Bytes below `begin` are no longer here: a session that still needs them is given to the other safekeepers.
    pub(crate) fn fall_behind(&mut self, begin: Lsn) {
        if matches!(self.stage, Stage::Streaming { next } if next < begin) {
            self.stage = Stage::CatchingUp;
        }
    }

    /// A commit LSN this safekeeper has not been told of is there.
    pub(crate) fn note_commit(&mut self, now: Instant, commit: Lsn) {
        if self.is_elected() && self.sent_commit < commit && self.commit_due.is_none() {
            self.commit_due = Some(now + COMMIT_DELAY);
        }
    }

    /// An append with this commit LSN was handed out.
    pub(crate) fn note_sent(&mut self, now: Instant, commit: Lsn) {
        self.sent = now;
        self.sent_commit = self.sent_commit.max(commit);
        self.commit_due = None;
        self.trail_due = None;
        self.append_due = false;
    }

    /// WAL up to `end` is there.
    pub(crate) fn note_wal(&mut self, now: Instant, end: Lsn) {
        if self.trailing && self.trail_due.is_none() && matches!(self.stage, Stage::Streaming { next } if next < end) {
            self.trail_due = Some(now + TRAIL_DELAY);
        }
    }

    /// Whether this safekeeper's WAL may wait a little.
    pub(crate) fn set_trailing(&mut self, trailing: bool) {
        self.trailing = trailing;
        if !trailing {
            self.trail_due = None;
        }
    }

    /// When something is due: silence, heartbeat, commit LSN, reconnect.
    pub(crate) fn next_timeout(&self) -> Option<Instant> {
        if !self.is_open() {
            return self.retry_at;
        }
        let silence = Some(self.heard + SESSION_TIMEOUT);
        // What waits for the driver to take it out waits without a clock.
        let empty = (self.is_elected() && !self.append_due).then(|| self.sent + HEARTBEAT);
        let news = [self.commit_due, self.trail_due].into_iter().flatten().min().filter(|_| !self.append_due);
        [silence, empty, news].into_iter().flatten().min()
    }

    /// Marks an append as due if it is.
    pub(crate) fn mark_due(&mut self, now: Instant) {
        let heartbeat = self.is_elected() && self.sent + HEARTBEAT <= now;
        let waited = |due: Option<Instant>| due.is_some_and(|due| due <= now);
        if heartbeat || waited(self.commit_due) || waited(self.trail_due) {
            self.append_due = true;
        }
    }

    /// Whether something can be handed out.
    pub(crate) fn has_transmit(&self, ring: Option<&WalRing>) -> bool {
        let wal = ring.is_some_and(|ring| self.wants_wal(ring.end()));
        !self.outbox.is_empty() || wal || (self.append_due && self.is_elected())
    }

    /// Whether WAL up to `end` is a reason to send an append now.
    pub(crate) fn wants_wal(&self, end: Lsn) -> bool {
        let Stage::Streaming { next } = self.stage else { return false };
        next < end && (!self.trailing || end.bytes_since(next) >= TRAIL_BYTES)
    }

    pub(crate) fn state(&self) -> PeerState {
        match self.stage {
            Stage::Closed => PeerState::Offline,
            Stage::Opening | Stage::Greeting => PeerState::Connecting,
            Stage::Greeted | Stage::Voting | Stage::Voted => PeerState::Voting,
            Stage::Streaming { .. } => PeerState::Streaming,
            Stage::CatchingUp => PeerState::CatchingUp,
        }
    }
}
