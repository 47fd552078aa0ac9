//! [`Receivers`]: the proposers' sessions and their bounded queues.
//!
//! A message waits here while the acceptor is busy or too much WAL is not durable yet. The driver stops reading from a
//! session whose queue is full, so memory stays bounded by the number of sessions.

use consensus::{Introduction, ProposerMessage, SessionId};
use quorum_proto::ProtoVersion;
use std::collections::{BTreeMap, VecDeque};

/// Most messages that wait in one session.
pub const QUEUE_MESSAGES_MAX: usize = 256;
/// Most WAL bytes that wait in one session.
pub const QUEUE_BYTES_MAX: usize = 8 << 20;

/// What kind of session this is by now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReceiverState {
    /// It has not been elected.
    Voting,
    /// Its Elected message was received.
    Streaming,
}

/// One proposer's session.
#[derive(Debug)]
pub(crate) struct Receiver {
    pub(crate) version: ProtoVersion,
    pub(crate) introduction: Introduction,
    pub(crate) peer: String,
    pub(crate) state: ReceiverState,
    queue: VecDeque<ProposerMessage>,
    queue_bytes: usize,
}

impl Receiver {
    pub(crate) fn queue_depth(&self) -> (usize, usize) {
        (self.queue.len(), self.queue_bytes)
    }
}

/// A receiver as an operator sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReceiverView {
    /// Where the proposer connects from.
    pub peer: String,
    /// Voting or streaming.
    pub state: ReceiverState,
    /// Messages waiting.
    pub queue_messages: usize,
    /// WAL bytes waiting.
    pub queue_bytes: usize,
}

/// All sessions of proposers.
#[derive(Debug, Default)]
pub(crate) struct Receivers {
    sessions: BTreeMap<SessionId, Receiver>,
}

impl Receivers {
    pub(crate) fn add(&mut self, session: SessionId, version: ProtoVersion, introduction: Introduction, peer: String) {
        let (state, queue) = (ReceiverState::Voting, VecDeque::new());
        self.sessions.insert(session, Receiver { version, introduction, peer, state, queue, queue_bytes: 0 });
    }

    pub(crate) fn remove(&mut self, session: SessionId) -> Option<Receiver> {
        self.sessions.remove(&session)
    }

    pub(crate) fn get(&self, session: SessionId) -> Option<&Receiver> {
        self.sessions.get(&session)
    }

    pub(crate) fn ids(&self) -> Vec<SessionId> {
        self.sessions.keys().copied().collect()
    }

    /// Whether there is room for another message.
    pub(crate) fn wants_input(&self, session: SessionId) -> bool {
        self.sessions
            .get(&session)
            .is_some_and(|receiver| receiver.queue.len() < QUEUE_MESSAGES_MAX && receiver.queue_bytes < QUEUE_BYTES_MAX)
    }

    pub(crate) fn push(&mut self, session: SessionId, message: ProposerMessage) {
        let Some(receiver) = self.sessions.get_mut(&session) else { return };
        if matches!(message, ProposerMessage::Elected(_)) {
            receiver.state = ReceiverState::Streaming;
        }
        receiver.queue_bytes += wal_bytes(&message);
        receiver.queue.push_back(message);
    }

    /// The next message of a session for which `ready` says that it can be processed.
    pub(crate) fn pop(&mut self, ready: impl Fn(&ProposerMessage) -> bool) -> Option<(SessionId, ProposerMessage)> {
        for (session, receiver) in &mut self.sessions {
            if receiver.queue.front().is_some_and(&ready) {
                let message = receiver.queue.pop_front()?;
                receiver.queue_bytes -= wal_bytes(&message);
                return Some((*session, message));
            }
        }
        None
    }

    pub(crate) fn views(&self) -> Vec<ReceiverView> {
        let view = |receiver: &Receiver| {
            let (queue_messages, queue_bytes) = receiver.queue_depth();
            ReceiverView { peer: receiver.peer.clone(), state: receiver.state, queue_messages, queue_bytes }
        };
        self.sessions.values().map(view).collect()
    }
}

fn wal_bytes(message: &ProposerMessage) -> usize {
    if let ProposerMessage::Append(append) = message { append.wal.len() } else { 0 }
}
