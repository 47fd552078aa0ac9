//! The parts of a [`World`](super::harness::World): a primary as a value, and a safekeeper made of a real acceptor.

use super::harness::wal_byte;
use crate::Ancestor;
use consensus::{
    Acceptor, AcceptorCommand, AcceptorMessage, AcceptorState, Identity, Introduction, ProposerMessage, SessionId,
};
use lsn::{Lsn, SystemId, Tli};
use std::collections::VecDeque;

#[derive(Clone)]
pub(super) struct Primary {
    pub(super) up: bool,
    pub(super) system_id: SystemId,
    pub(super) tli: Tli,
    pub(super) segment_size: u64,
    pub(super) end: Lsn,
    pub(super) slot: Option<Option<Lsn>>,
    /// WAL below is gone.
    pub(super) oldest: Lsn,
    pub(super) lineage: u8,
    pub(super) fork: Lsn,
    /// Where the stream stands.
    pub(super) stream: Option<Lsn>,
    pub(super) flushed: Lsn,
    pub(super) feedback: Vec<(u64, u64)>,
    /// TLIs it left, and the records that stand where the next ones begin.
    pub(super) ancestors: Vec<Ancestor>,
    pub(super) records: Vec<(Lsn, Vec<u8>)>,
    pub(super) fence_token: Option<consensus::FenceToken>,
}

impl Primary {
    /// It is promoted: what it has goes on upon the next TLI, with a record of its own.
    pub(super) fn promote(&mut self, salt: u8) {
        let size = lsn::SegmentSize::new(self.segment_size).unwrap();
        let mut wal = wal_format::build::WalBuilder::new(size, self.end);
        wal.record(&[salt; 24]);
        self.ancestors.push(Ancestor { tli: self.tli, switch: self.end });
        self.tli = Tli(self.tli.0 + 1);
        self.records.push((self.end, wal.bytes().to_vec()));
        self.end = wal.end();
        self.oldest = super::harness::FIRST;
    }

    pub(super) fn bytes(&self, from: Lsn, to: Lsn) -> Vec<u8> {
        let record = |position: u64| {
            let holds = |(at, bytes): &&(Lsn, Vec<u8>)| (at.0..at.0 + bytes.len() as u64).contains(&position);
            self.records.iter().find(holds).map(|(at, bytes)| bytes[(position - at.0) as usize])
        };
        (from.0..to.0).map(|at| record(at).unwrap_or_else(|| wal_byte(self.lineage, self.fork, at))).collect()
    }
}

pub(super) struct Node {
    pub(super) identity: Identity,
    pub(super) acceptor: Option<Acceptor>,
    pub(super) saved: AcceptorState,
    pub(super) base: Lsn,
    pub(super) wal: Vec<u8>,
    /// WAL that reaches the page cache only.
    pub(super) lazy: bool,
    pub(super) durable: Lsn,
    /// Its bytes below were found to be the primary's.
    pub(super) verified: Lsn,
    pub(super) session: Option<SessionId>,
    pub(super) introduction: Option<Introduction>,
    pub(super) inbox: VecDeque<ProposerMessage>,
    pub(super) outbox: VecDeque<AcceptorMessage>,
    pub(super) known: bool,
    pub(super) fence: Option<String>,
    pub(super) silent_ms: Option<u64>,
    /// Appends taken in, for tests that count them: (begin, end, commit).
    pub(super) appends: Vec<(Lsn, Lsn, Lsn)>,
    /// Does not answer on its sessions.
    pub(super) frozen: bool,
    /// Its socket takes nothing more.
    pub(super) blocked: bool,
}

impl Node {
    /// A safekeeper that has the cluster and no WAL.
    pub(super) fn new(identity: Identity, state: AcceptorState) -> Node {
        Node {
            identity,
            acceptor: Some(Acceptor::new(identity, state.clone(), Lsn::INVALID)),
            saved: state,
            base: Lsn::INVALID,
            wal: Vec::new(),
            lazy: false,
            durable: Lsn::INVALID,
            verified: Lsn::INVALID,
            session: None,
            introduction: None,
            inbox: VecDeque::new(),
            outbox: VecDeque::new(),
            known: true,
            fence: None,
            silent_ms: None,
            appends: Vec::new(),
            frozen: false,
            blocked: false,
        }
    }

    pub(super) fn flush(&self) -> Lsn {
        self.acceptor.as_ref().map_or(Lsn::INVALID, Acceptor::flush)
    }

    pub(super) fn end(&self) -> Lsn {
        if self.base.is_valid() { Lsn(self.base.0 + self.wal.len() as u64) } else { Lsn::INVALID }
    }

    pub(super) fn crash(&mut self) {
        self.acceptor = None;
        self.session = None;
        self.inbox.clear();
        self.outbox.clear();
        if self.base.is_valid() {
            self.wal.truncate(self.durable.bytes_since(self.base) as usize);
            self.verified = self.verified.min(self.durable);
        }
    }

    pub(super) fn start(&mut self) {
        let end = Lsn(self.end().0 / 8 * 8);
        if self.base.is_valid() {
            self.wal.truncate(end.bytes_since(self.base) as usize);
        }
        self.acceptor = Some(Acceptor::new(self.identity, self.saved.clone(), end));
        self.durable = end;
    }

    pub(super) fn carry_out(&mut self) {
        while let Some(command) = self.acceptor.as_mut().and_then(Acceptor::poll_command) {
            let Some(acceptor) = self.acceptor.as_mut() else { return };
            match command {
                AcceptorCommand::Persist { ticket, state } => {
                    self.saved = *state;
                    acceptor.handle_persisted(ticket);
                }
                AcceptorCommand::Write { begin, wal } => {
                    assert_eq!(begin, Lsn(self.base.0 + self.wal.len() as u64));
                    self.wal.extend_from_slice(&wal);
                }
                AcceptorCommand::Cut { to, first, .. } => {
                    if first {
                        self.base = to;
                    }
                    self.wal.truncate(to.bytes_since(self.base) as usize);
                    self.durable = to;
                    self.verified = self.verified.min(to);
                    acceptor.handle_cut();
                }
                AcceptorCommand::Send { session, message } => {
                    if self.session == Some(session) {
                        self.outbox.push_back(message);
                    }
                }
                AcceptorCommand::Refuse { session, .. } => {
                    if self.session == Some(session) {
                        self.session = None;
                    }
                    acceptor.handle_disconnect(session);
                }
            }
        }
    }

    /// Makes everything durable that was written.
    pub(super) fn sync(&mut self) {
        let end = self.end();
        if let Some(acceptor) = self.acceptor.as_mut().filter(|acceptor| acceptor.written() > self.durable) {
            self.durable = end;
            acceptor.handle_flushed(end, Lsn(end.0 / 8 * 8).max(acceptor.flush()));
        }
        self.carry_out();
    }

    pub(super) fn take(&mut self, message: ProposerMessage) {
        let (Some(session), Some(introduction)) = (self.session, self.introduction.clone()) else { return };
        let Some(acceptor) = self.acceptor.as_mut() else { return };
        let taken = match message {
            ProposerMessage::Greeting(greeting) => acceptor.handle_greeting(session, &greeting, introduction),
            ProposerMessage::Vote(vote) => acceptor.handle_vote(session, vote),
            ProposerMessage::Elected(elected) => acceptor.handle_elected(session, elected),
            ProposerMessage::Append(append) => {
                self.appends.push((append.begin, append.end, append.commit));
                acceptor.handle_append(session, append, |_, _| Ok(()))
            }
        };
        if taken.is_err() {
            acceptor.handle_disconnect(session);
            self.session = None;
        }
        self.carry_out();
        // A vote waits for what was written, an Elected message too.
        if !self.lazy || self.acceptor.as_ref().is_some_and(Acceptor::is_busy) {
            self.sync();
        }
    }
}
