//! [`Leader`]: the state machine, its life from attach to attach, and what it shows.
//!
//! `attach` gets hold of the primary, `elect` looks, compares and campaigns, `lead` relays and answers, `transmit` hands out
//! messages and keeps time.

mod attach;
mod elect;
mod lead;
mod members;
mod transmit;

use crate::compare::{Comparison, Knowledge};
use crate::lineage::Marks;
use crate::look::{Evidence, Looks};
use crate::ring::WalRing;
use crate::session::Session;
use crate::{Command, Peer, PeerState, PeerStatus, PrimaryFacts, Refusal, State, Status};
use consensus::{Campaign, Leadership, Membership};
use lsn::{ClusterId, Lsn, Path, Term};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Pause after anything that may work again in a moment.
const RETRY: Duration = Duration::from_secs(1);
/// Pause before a primary that was led and lost is attached again: commits wait meanwhile.
const REATTACH: Duration = Duration::from_millis(200);
/// Longest pause between two looks while only the permission to take over is missing.
const TAKEOVER_BACKOFF: Duration = Duration::from_secs(4);
/// Longest pause between two looks while refused.
const LONGEST_BACKOFF: Duration = Duration::from_secs(60);

/// What a leader needs to know from the start.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Options {
    /// The cluster's ids.
    pub cluster: ClusterId,
    /// Addresses of the safekeepers, for sentences and status. [`Peer`] counts them from 0.
    pub safekeepers: Vec<String>,
    /// Received WAL kept for safekeepers that lag, in bytes. Uncommitted WAL is kept whatever it says, and the stream is held
    /// back instead.
    pub ring_bytes: u64,
    /// A primary on a TLI that the quorum's log is not on may take over.
    pub takeover: bool,
    /// It may also once a majority has not heard a leader for so long.
    pub takeover_after: Option<Duration>,
    /// A primary without our slot may go on, if all WAL that both sides have is equal.
    pub adopt: bool,
    /// There is no primary: what a safekeeper has is to be completed on a majority. Fences are no obstacle.
    pub completes: bool,
    /// Pause after anything that may work again in a moment.
    pub retry: Duration,
}

impl Options {
    /// WAL kept in memory unless told otherwise.
    pub const RING_BYTES: u64 = 64 << 20;

    /// The usual sizes.
    pub fn new(cluster: ClusterId, safekeepers: Vec<String>) -> Options {
        Options {
            cluster,
            safekeepers,
            ring_bytes: Options::RING_BYTES,
            takeover: false,
            takeover_after: None,
            adopt: false,
            completes: false,
            retry: RETRY,
        }
    }
}

/// One connection to one primary: at most one term is won on it, and everything known of it ends with it.
#[derive(Debug)]
struct Attempt {
    facts: PrimaryFacts,
    looks: Looks,
    /// What the last usable look found.
    evidence: Option<Box<Evidence>>,
    /// The path of the log we are to continue.
    path: Path,
    /// Where the stream was asked to begin.
    from: Lsn,
    /// Received WAL; there once the stream has started.
    ring: Option<WalRing>,
    /// What the stream says of the switch points it passes.
    marks: Marks,
    /// All bytes that both sides have are to be compared, because no slot vouches for what lies below it.
    compares_all: bool,
    /// Something was compared that is not zeros.
    substance: bool,
    knowledge: Knowledge,
    comparison: Option<Comparison>,
    wishes: members::Wishes,
    /// The record this term has made, if any.
    change: Option<members::Change>,
    step: Step,
    /// When a primary that shuts down is no longer waited for.
    shutdown_deadline: Option<Instant>,
    answered: Lsn,
    feedback: Option<(u64, u64)>,
}

#[derive(Debug)]
enum Step {
    /// LOG_STATUS is under way.
    Looking,
    /// The next look is due then.
    Resting {
        until: Instant,
    },
    CreatingSlot,
    StartingStream,
    /// A donor's log is read, and nothing was raised yet.
    Comparing,
    /// The marks of the primary's later TLIs are waited for.
    ReadingMarks {
        until: Instant,
    },
    Campaigning(Candidacy),
    Leading(Leadership),
}

/// From the first push session to the won term.
#[derive(Debug)]
struct Candidacy {
    membership: Membership,
    /// The highest term seen so far.
    max_term: Term,
    /// There once a majority has been greeted.
    campaign: Option<Campaign>,
    deadline: Instant,
}

#[derive(Debug)]
enum Phase {
    /// Nothing is connected.
    Pausing {
        until: Instant,
    },
    Checking,
    Attached(Box<Attempt>),
}

/// One cluster on one proposer.
///
/// Call in this order: a `handle_*` method for whatever happened; then [`Leader::poll_command`] until there is none, carrying
/// the commands out; then [`Leader::poll_transmit`] for every safekeeper whose connection can take more; then sleep until
/// [`Leader::poll_timeout`] or the next event. Events that come when nobody waits for them are ignored.
#[derive(Debug)]
pub struct Leader {
    options: Options,
    phase: Phase,
    sessions: Vec<Session>,
    commands: VecDeque<Command>,
    round: u64,
    refusal: Option<Refusal>,
    /// Refusals in a row, for the back-off.
    refusals: u32,
    trouble: Option<String>,
    waiting: bool,
    /// The server was a standby when it was asked last.
    standby: bool,
    /// The segment that a stream would best begin with is gone: begin with the slot's.
    begin_at_slot: bool,
    elections: u64,
}

impl Leader {
    /// Starts by asking for a look at the primary.
    pub fn new(options: Options, now: Instant) -> Leader {
        let sessions = options.safekeepers.iter().map(|_| Session::new(now)).collect();
        let mut leader = Leader {
            options,
            phase: Phase::Checking,
            sessions,
            commands: VecDeque::new(),
            round: 0,
            refusal: None,
            refusals: 0,
            trouble: None,
            waiting: false,
            standby: false,
            begin_at_slot: false,
            elections: 0,
        };
        leader.commands.push_back(Command::CheckPrimary);
        leader
    }

    /// The next thing to do.
    pub fn poll_command(&mut self) -> Option<Command> {
        self.commands.pop_front()
    }

    /// What it is doing.
    pub fn state(&self) -> State {
        match &self.phase {
            Phase::Attached(attempt) => match attempt.step {
                Step::Leading(_) => State::Leading,
                Step::Campaigning(_) => State::Campaigning,
                _ if self.waiting => State::Waiting,
                // What is done to find out whether it still holds does not end a refusal.
                _ if self.refusal.is_some() => State::Refused,
                Step::Comparing | Step::ReadingMarks { .. } => State::Campaigning,
                _ => State::Looking,
            },
            _ if self.refusal.is_some() => State::Refused,
            _ if self.standby => State::Standby,
            _ => State::Connecting,
        }
    }

    /// Why it is refused, while it is.
    pub fn refusal(&self) -> Option<&Refusal> {
        self.refusal.as_ref()
    }

    /// The trouble it has, if it is not a refusal.
    pub fn trouble(&self) -> Option<&str> {
        self.trouble.as_deref()
    }

    /// The term won, while it lasts.
    pub fn term(&self) -> Option<Term> {
        self.leadership().map(Leadership::term)
    }

    /// Whether the primary's stream runs.
    pub fn has_stream(&self) -> bool {
        self.ring().is_some()
    }

    /// Whether it waits to hear what the primary is.
    pub fn is_checking(&self) -> bool {
        matches!(self.phase, Phase::Checking)
    }

    /// The own-term commit LSN.
    pub fn commit(&self) -> Option<Lsn> {
        self.leadership().and_then(Leadership::commit)
    }

    /// How far the session with a safekeeper has come.
    pub fn peer_state(&self, peer: Peer) -> Option<PeerState> {
        self.sessions.get(peer.0).map(Session::state)
    }

    /// What went wrong with a safekeeper last, while it is not streaming.
    pub fn peer_error(&self, peer: Peer) -> Option<&str> {
        self.sessions.get(peer.0)?.error.as_deref()
    }

    /// One safekeeper.
    pub fn peer_status(&self, peer: Peer) -> Option<PeerStatus> {
        let session = self.sessions.get(peer.0)?;
        let received = self.ring().map(WalRing::end);
        let next = match session.stage {
            crate::session::Stage::Streaming { next } => Some(next),
            _ => session.flush,
        };
        Some(PeerStatus {
            address: self.address(peer),
            node: session.node,
            state: session.state(),
            flush: session.flush,
            lag_bytes: received.zip(session.flush).map(|(received, flush)| received.bytes_since(flush)),
            queue_bytes: received.zip(next).map_or(0, |(received, next)| received.bytes_since(next)),
            responded: session.responded,
            error: session.error.clone(),
        })
    }

    /// Everything worth showing.
    pub fn status(&self) -> Status {
        let attempt = self.attempt();
        let leadership = self.leadership();
        Status {
            state: self.state(),
            refusal: self.refusal.clone(),
            trouble: self.trouble.clone(),
            primary: attempt.map(|attempt| attempt.facts.clone()),
            term: leadership.map(Leadership::term),
            term_start: leadership.map(Leadership::start),
            commit: self.commit(),
            received: self.ring().map(WalRing::end),
            answered: attempt.map_or(Lsn::INVALID, |attempt| attempt.answered),
            elections: self.elections,
            peers: (0..self.sessions.len()).filter_map(|index| self.peer_status(Peer(index))).collect(),
        }
    }

    fn attempt(&self) -> Option<&Attempt> {
        match &self.phase {
            Phase::Attached(attempt) => Some(attempt),
            _ => None,
        }
    }

    fn attempt_mut(&mut self) -> Option<&mut Attempt> {
        match &mut self.phase {
            Phase::Attached(attempt) => Some(attempt),
            _ => None,
        }
    }

    fn ring(&self) -> Option<&WalRing> {
        self.attempt().and_then(|attempt| attempt.ring.as_ref())
    }

    fn leadership(&self) -> Option<&Leadership> {
        match &self.attempt()?.step {
            Step::Leading(leadership) => Some(leadership),
            _ => None,
        }
    }

    fn address(&self, peer: Peer) -> String {
        self.options.safekeepers.get(peer.0).cloned().unwrap_or_default()
    }

    fn peers(&self) -> impl Iterator<Item = Peer> + use<> {
        (0..self.sessions.len()).map(Peer)
    }

    /// Ends everything that hangs on this connection, the term above all, and begins anew after a pause.
    fn end_attempt(&mut self, now: Instant, reason: &str, pause: Duration) {
        if let Phase::Attached(attempt) = &mut self.phase
            && attempt.comparison.take().is_some()
        {
            self.commands.push_back(Command::StopCompare);
        }
        // Whatever was still to be done for this connection must not reach the next one, an answer above all.
        // A membership record belongs to no connection, and whoever lacks it may have the log that this look was refused for.
        self.commands.retain(|command| {
            let closes =
                matches!(command, Command::ClosePush { .. } | Command::ClosePrimary { .. } | Command::StopCompare);
            closes || matches!(command, Command::TakeRecord { .. })
        });
        self.close_sessions();
        self.commands.push_back(Command::ClosePrimary { reason: reason.to_owned() });
        self.waiting = false;
        self.phase = Phase::Pausing { until: now + pause };
    }

    fn close_sessions(&mut self) {
        for (index, session) in self.sessions.iter_mut().enumerate() {
            if session.is_open() {
                self.commands.push_back(Command::ClosePush { peer: Peer(index) });
            }
            session.close(None, None);
        }
    }

    /// Begins anew because of something that may be over soon.
    fn start_over(&mut self, now: Instant, reason: String) {
        let pause = if self.leadership().is_some() { REATTACH } else { self.options.retry };
        self.start_over_after(now, reason, pause);
    }

    fn start_over_after(&mut self, now: Instant, reason: String, pause: Duration) {
        self.end_attempt(now, &reason, pause);
        self.trouble = Some(reason);
    }

    /// This primary may not lead. Looks go on, ever more rarely.
    fn refuse(&mut self, now: Instant, refusal: Refusal) {
        if self.options.completes && refusal.is_about_wal() {
            // The source is the best of the logs itself: while a proposer lives, they move between one look and the next.
            return self.start_over_after(now, refusal.to_string(), self.options.retry);
        }
        let same = self.refusal.as_ref().map(Refusal::code) == Some(refusal.code());
        self.refusals = if same { self.refusals.saturating_add(1) } else { 0 };
        // A permission may come at any time, and commits wait for it.
        let longest = if matches!(refusal, Refusal::Takeover { .. }) { TAKEOVER_BACKOFF } else { LONGEST_BACKOFF };
        let pause = Duration::from_secs(1u64 << self.refusals.min(6)).min(longest);
        self.end_attempt(now, &refusal.to_string(), pause);
        self.begin_at_slot = false;
        self.trouble = None;
        self.refusal = Some(refusal);
    }

    /// Nothing stands in the way any more.
    fn clear_trouble(&mut self) {
        self.refusal = None;
        self.trouble = None;
        self.waiting = false;
    }
}
