//! [`Readers`]: the registry of START_REPLICATION sessions served, and how far each may read.
//!
//! A reader that names no term gets committed WAL only, and only of TLIs that are public: those on which something is
//! committed. One that names a term gets everything up to the flush LSN while that term is the current one: the term is
//! checked before a read is asked for and again when its bytes are there, so no byte of another leader's log slips through
//! between check and read.
//!
//! A reader holds nothing here but its entry: whoever owns the connection takes it out again ([`Keeper::disconnect_reader`])
//! however the connection ends, and with it go its slot's use and its part in the feedback.

use crate::call_backs::CallBacks;
use crate::command::{Command, ReaderId};
use crate::keeper::Keeper;
use crate::slots::Slots;
use bytes::Bytes;
use consensus::HotStandbyFeedback;
use lsn::{Lsn, Path, SegmentSize, Term, Tli};
use pq_proto::SqlState;
use pq_proto::backend::Report;
use pq_proto::command::StartReplication;
use pq_proto::frontend::FrontendMessage;
use quorum_proto::{ReplicaFeedback, Wish};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use wal_format::history::{History, HistoryEntry};
use walsender::{ClientEvent, Finish, NextTli, Output, Sender, SenderOptions, answers};

/// A replica that has everything, while nobody could bring more, is let go after this.
const IDLE_BEFORE_GOODBYE: Duration = Duration::from_secs(1);

/// What a reader asked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReaderOptions {
    /// Its START_REPLICATION.
    pub command: StartReplication,
    /// Where it connects from.
    pub peer: String,
    /// What it calls itself.
    pub application_name: String,
    /// After so long without a word it is given up, if it asked for another time than the usual.
    pub timeout: Option<Duration>,
    /// Where it wants to be called while it sleeps; empty: nowhere any more. It was checked who may be called.
    pub call_back: Option<String>,
}

/// What a reader is, by what it says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReaderKind {
    /// It has said nothing yet.
    Unknown,
    /// It stores WAL and replays none: `pg_receivewal`, another safekeeper.
    Receiver,
    /// A standby: it replays, or sends hot-standby feedback.
    Standby,
    /// A consumer that sends feedback of its own kind.
    Replica,
}

impl ReaderKind {
    /// In one word, for status and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            ReaderKind::Unknown => "unknown",
            ReaderKind::Receiver => "receiver",
            ReaderKind::Standby => "standby",
            ReaderKind::Replica => "replica",
        }
    }
}

/// A reader as an operator sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReaderView {
    /// Where it connects from.
    pub peer: String,
    /// What it calls itself.
    pub application_name: String,
    /// What it is.
    pub kind: ReaderKind,
    /// The TLI it reads.
    pub tli: Tli,
    /// The term its read is guarded by.
    pub term: Option<Term>,
    /// The slot it uses.
    pub slot: Option<String>,
    /// Sent up to here.
    pub sent: Lsn,
    /// Bytes it may have and has not been sent.
    pub behind: u64,
    /// What it says it has written; monitoring data, as the next two.
    pub write: Lsn,
    /// What it says is durable there; nothing of ours depends on it.
    pub flush: Lsn,
    /// What it says it has replayed.
    pub apply: Lsn,
    /// The oldest transaction its queries need, with its epoch; 0 if none.
    pub xmin: u64,
}

#[derive(Debug)]
struct Reader {
    sender: Sender,
    view: ReaderView,
    /// Whether it is told where its TLI ends: not one that reads a term's log without naming a TLI.
    follows_tli: bool,
    feedback: Option<HotStandbyFeedback>,
    /// Of a replica: durable in remote storage below this.
    remote_consistent: Lsn,
    /// Since when it has had everything while no proposer was connected.
    caught_up: Option<Instant>,
}

/// All readers of one cluster.
#[derive(Debug, Default)]
pub(crate) struct Readers {
    sessions: BTreeMap<ReaderId, Reader>,
    pub(crate) slots: Slots,
    pub(crate) call_backs: CallBacks,
    /// Why readers of committed WAL are sent elsewhere.
    pub(crate) refusal: Option<String>,
}

impl Readers {
    pub(crate) fn views(&self, commit: Lsn, flush: Lsn) -> Vec<ReaderView> {
        let view = |reader: &Reader| {
            let sent = reader.sender.position();
            let limit = if reader.view.term.is_some() { flush } else { commit };
            ReaderView { sent, behind: limit.bytes_since(sent), ..reader.view.clone() }
        };
        self.sessions.values().map(view).collect()
    }

    pub(crate) fn next_timeout(&self) -> Option<Instant> {
        let each = |reader: &Reader| {
            let goodbye = reader.caught_up.map(|since| since + IDLE_BEFORE_GOODBYE);
            [reader.sender.poll_timeout(), goodbye].into_iter().flatten().min()
        };
        self.sessions
            .values()
            .filter_map(each)
            .chain(self.slots.next_timeout())
            .chain(self.call_backs.next_timeout())
            .min()
    }

    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        for reader in self.sessions.values_mut() {
            reader.sender.handle_timeout(now);
        }
        self.slots.handle_timeout(now);
    }

    /// The lowest position at or above `oldest` that a reader or a slot has not had: who is below it reads elsewhere already.
    pub(crate) fn slowest(&self, oldest: Lsn) -> Option<Lsn> {
        let sent = self.sessions.values().map(|reader| reader.sender.position());
        sent.chain(self.slots.all_held()).filter(|at| *at >= oldest).min()
    }

    /// What all standbys together hold back from vacuum.
    fn aggregated_feedback(&self) -> HotStandbyFeedback {
        let each = || self.sessions.values().filter_map(|reader| reader.feedback);
        let oldest =
            |of: fn(&HotStandbyFeedback) -> u64| each().map(|f| of(&f)).filter(|xid| *xid != 0).min().unwrap_or(0);
        HotStandbyFeedback {
            time: each().map(|feedback| feedback.time).max().unwrap_or(0),
            xmin: oldest(|feedback| feedback.xmin),
            catalog_xmin: oldest(|feedback| feedback.catalog_xmin),
        }
    }
}

impl Keeper {
    /// A reader asked to stream. On refusal the connection answers with the report and can take another command. What
    /// PostgreSQL refuses only after it began to stream is refused so here too, because clients take it from there.
    pub fn connect_reader(&mut self, now: Instant, id: ReaderId, options: ReaderOptions) -> Result<(), Report> {
        let path = self.check_reader(&options)?;
        let ReaderOptions { command, peer, application_name, timeout, call_back } = options;
        let StartReplication { start, tli: asked, term, slot, .. } = command;
        let tli = asked.unwrap_or(path.last().tli);
        let mut options = SenderOptions { term, ..SenderOptions::new(start, tli, self.segment_size()) };
        if let Some(timeout) = timeout {
            options.timeout = timeout;
            options.keepalive = options.keepalive.min(timeout / 2);
        }
        let follows_tli = term.is_none() || asked.is_some();
        options.end_of_tli = if follows_tli { next_tli(&path, tli) } else { None };
        let mut sender = Sender::new(options, now)?;
        if let Some(name) = &slot {
            self.readers.slots.acquire(name, id)?;
        }
        if let Err(report) = self.readers.call_backs.arrive(&application_name, call_back, id, start) {
            self.readers.slots.release(id);
            return Err(report);
        }
        if let Some(finish) = self.cannot_start(&path, tli, start, term.is_some()) {
            sender.terminate(finish);
        }
        let unknown = Lsn::INVALID;
        let view = ReaderView {
            peer,
            application_name,
            kind: ReaderKind::Unknown,
            tli,
            term,
            slot,
            sent: start,
            behind: 0,
            write: unknown,
            flush: unknown,
            apply: unknown,
            xmin: 0,
        };
        let reader =
            Reader { sender, view, follows_tli, feedback: None, remote_consistent: Lsn::INVALID, caught_up: None };
        self.readers.sessions.insert(id, reader);
        self.drive(now);
        Ok(())
    }

    /// The lineage a reader may know of: TLIs on which something is committed, or the whole for one that names a term.
    /// `None` while there is no WAL.
    pub fn public_path(&self, is_guarded: bool) -> Option<Path> {
        let state = self.acceptor.state();
        let path = state.path.as_ref().filter(|_| state.log_start.is_valid())?;
        Some(if is_guarded { path.clone() } else { path.cut(self.acceptor.commit()) })
    }

    /// The content of a TLI's history file, if it has one that may be shown.
    pub fn history_file(&self, tli: Tli) -> Option<Vec<u8>> {
        let path = self.public_path(false)?;
        let entries = path.entries();
        if let Some(content) = self.original_history(tli, &path) {
            return Some(content);
        }
        let at = entries.iter().position(|entry| entry.tli == tli).filter(|at| *at > 0)?;
        let ancestor = |pair: &[lsn::PathEntry]| HistoryEntry {
            tli: pair[0].tli,
            switch: pair[1].begin,
            reason: "no recovery target specified".to_owned(),
        };
        let history = History::new(tli, entries[..=at].windows(2).map(ancestor).collect()).ok()?;
        Some(history.to_string().into_bytes())
    }

    /// Why a reader of committed WAL should go to another safekeeper, if so.
    pub fn reader_refusal(&self) -> Option<&str> {
        self.readers.refusal.as_deref()
    }

    /// Sends readers of committed WAL elsewhere for this reason, until it is called with `None`: those that stream now are
    /// ended with it, and new ones are refused. Readers that name a term stay.
    pub fn refuse_readers(&mut self, now: Instant, reason: Option<String>) {
        if let Some(reason) = &reason {
            for reader in self.readers.sessions.values_mut().filter(|reader| reader.view.term.is_none()) {
                let report = Report::fatal(SqlState::ADMIN_SHUTDOWN, reason.clone());
                reader.sender.terminate(Finish::Error(report));
            }
        }
        self.readers.refusal = reason;
        self.drive(now);
    }

    /// Everything that can refuse a reader before its stream begins; the lineage it may know of.
    fn check_reader(&self, options: &ReaderOptions) -> Result<Path, Report> {
        let StartReplication { tli, term, .. } = &options.command;
        let not_ready = |text: String| Report::error(SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE, text);
        if let Some(reason) = &self.stopped {
            return Err(not_ready(format!("this cluster stopped on this safekeeper: {reason}")));
        }
        let Some(path) = self.public_path(term.is_some()) else {
            return Err(not_ready("no WAL of this cluster is here yet: no proposer has been elected".to_owned()));
        };
        let current = self.acceptor.state().term;
        match term {
            Some(asked) if *asked != current => {
                return Err(not_ready(format!("failed to acquire term {asked}, current term {current}")));
            }
            None if self.readers.refusal.is_some() => {
                let reason = self.readers.refusal.clone().unwrap_or_default();
                return Err(Report::fatal(SqlState::CANNOT_CONNECT_NOW, reason));
            }
            _ => {}
        }
        match tli.filter(|tli| !path.entries().iter().any(|entry| entry.tli == *tli)) {
            Some(unknown) => Err(answers::tli_not_in_history(unknown)),
            None => Ok(path),
        }
    }

    /// What ends a stream as soon as it has begun.
    fn cannot_start(&self, path: &Path, tli: Tli, start: Lsn, is_guarded: bool) -> Option<Finish> {
        let commit = self.acceptor.commit();
        if !is_guarded && start > commit {
            return Some(Finish::Error(answers::ahead_of_flush(start, commit)));
        }
        let size = self.segment_size();
        // Segments wholly below a TLI's begin never had its name.
        let begin = path.entries().iter().find(|entry| entry.tli == tli).map_or(Lsn::INVALID, |entry| entry.begin);
        let is_foreign = !is_guarded && size.segment_of(start) < size.segment_of(begin);
        (start < self.gone_below() || is_foreign).then(|| Finish::Removed(size.file_name(tli, size.segment_of(start))))
    }

    pub(crate) fn segment_size(&self) -> SegmentSize {
        SegmentSize::new(self.acceptor.state().server.segment_size.into()).unwrap_or_default()
    }

    /// A message of a reader.
    pub fn handle_reader(&mut self, now: Instant, id: ReaderId, message: FrontendMessage) {
        let Some(reader) = self.readers.sessions.get_mut(&id) else { return };
        match reader.sender.handle_client(now, message) {
            Ok(Some(ClientEvent::Status(status))) => {
                let view = &mut reader.view;
                (view.write, view.flush, view.apply) = (status.write, status.flush, status.apply);
                if view.kind == ReaderKind::Unknown || (view.kind == ReaderKind::Receiver && status.apply.is_valid()) {
                    view.kind = if status.apply.is_valid() { ReaderKind::Standby } else { ReaderKind::Receiver };
                }
                self.readers.call_backs.has(id, status.write.max(status.flush));
                if view.slot.is_some() {
                    let kept = self.kept();
                    self.readers.slots.advance(now, id, status.flush, kept);
                }
            }
            Ok(Some(ClientEvent::Feedback(feedback))) => {
                let full = |xid: u32, epoch: u32| if xid == 0 { 0 } else { u64::from(epoch) << 32 | u64::from(xid) };
                let xmin = full(feedback.xmin, feedback.xmin_epoch);
                let catalog_xmin = full(feedback.catalog_xmin, feedback.catalog_xmin_epoch);
                (reader.view.kind, reader.view.xmin) = (ReaderKind::Standby, xmin);
                reader.feedback = Some(HotStandbyFeedback { time: feedback.time.0, xmin, catalog_xmin });
                self.acceptor.set_standby_feedback(self.readers.aggregated_feedback());
            }
            Ok(Some(ClientEvent::Pageserver(feedback))) => {
                reader.view.kind = ReaderKind::Replica;
                // What cannot be understood tells nothing, and is the proposer's to judge.
                if let Ok(said) = ReplicaFeedback::parse(&feedback) {
                    self.readers.call_backs.has(id, said.received.unwrap_or_default());
                    reader.remote_consistent = reader.remote_consistent.max(said.remote_consistent.unwrap_or_default());
                }
                // A reader may tell the leader where it is, and nothing else.
                if !Wish::is_claimed_by(&feedback) {
                    self.acceptor.send_feedback(feedback);
                }
            }
            // After a violation the sender itself gives out the answer.
            Ok(Some(ClientEvent::Stopped) | None) | Err(_) => {}
        }
        self.drive(now);
    }

    /// Bytes a reader asked for, or why they cannot be had: `None` if the WAL was removed meanwhile.
    pub fn handle_read(&mut self, now: Instant, id: ReaderId, from: Lsn, result: Result<Option<Bytes>, String>) {
        let current = self.acceptor.state().term;
        let size = self.segment_size();
        let Some(reader) = self.readers.sessions.get_mut(&id) else { return };
        match result {
            // Read under a term that is over; `serve_readers` ends the session.
            Ok(_) if reader.sender.term().is_some_and(|term| term != current) => {}
            Ok(Some(bytes)) => {
                if let Err(error) = reader.sender.handle_read(from, bytes) {
                    reader.sender.terminate(Finish::Error(Report::fatal(SqlState::INTERNAL_ERROR, error.to_string())));
                }
            }
            Ok(None) => {
                let segment = size.file_name(reader.view.tli, size.segment_of(from));
                reader.sender.terminate(Finish::Removed(segment));
                self.note_gone(id);
            }
            Err(text) => reader.sender.terminate(Finish::Error(Report::fatal(SqlState::INTERNAL_ERROR, text))),
        }
        self.drive(now);
    }

    /// A reader's connection ended.
    pub fn disconnect_reader(&mut self, now: Instant, id: ReaderId) {
        let gone = self.readers.sessions.remove(&id);
        self.forget_reader(id, gone);
        self.drive(now);
    }

    /// What a reader that is no longer in the registry held is let go.
    fn forget_reader(&mut self, id: ReaderId, gone: Option<Reader>) {
        self.readers.slots.release(id);
        self.readers.call_backs.leave(id);
        if gone.is_some_and(|reader| reader.feedback.is_some()) {
            self.acceptor.set_standby_feedback(self.readers.aggregated_feedback());
        }
    }

    /// Lets every reader go on as far as it may.
    pub(crate) fn serve_readers(&mut self, now: Instant) {
        self.serve_slots();
        let calls = self.readers.call_backs.poll(now, self.acceptor.commit());
        self.commands.extend(calls.into_iter().map(|(name, address)| Command::Call { name, address }));
        if self.readers.sessions.is_empty() {
            return;
        }
        let (term, flush, commit) = (self.acceptor.state().term, self.acceptor.flush(), self.acceptor.commit());
        let path = self.acceptor.state().path.as_ref();
        let clock = self.wall_clock(now);
        let mut ended = Vec::new();
        for (id, reader) in &mut self.readers.sessions {
            let guard = reader.sender.term();
            // Where the TLI ends must be known before the limit may pass it.
            let next = path.filter(|_| reader.follows_tli).and_then(|path| next_tli(path, reader.view.tli));
            if let Some(next) = next.filter(|next| guard.is_some() || next.start < commit) {
                reader.sender.end_of_tli(next);
            }
            match guard {
                Some(requested) if requested != term => {
                    reader.sender.terminate(Finish::TermChanged { requested, now: term });
                }
                Some(_) => reader.sender.set_limit(flush),
                None => reader.sender.set_limit(commit.min(flush)),
            }
            reader.say_goodbye(now, commit, || !self.receivers.ids().is_empty());
            while let Some(output) = reader.sender.poll(now, clock) {
                self.commands.push_back(match output {
                    Output::Read { from, max } => Command::Read { reader: *id, from, max },
                    Output::Send { head, payload } => Command::SendReader { reader: *id, head, payload },
                    Output::Finished { is_reusable, .. } => {
                        ended.push(*id);
                        Command::CloseReader { reader: *id, reusable: is_reusable }
                    }
                });
            }
        }
        for id in ended {
            let gone = self.readers.sessions.remove(&id);
            self.forget_reader(id, gone);
        }
    }

    /// The cluster stopped: readers are told and go.
    pub(crate) fn stop_readers(&mut self, now: Instant, reason: &str) {
        let text = format!("this cluster stopped on this safekeeper: {reason}");
        for reader in self.readers.sessions.values_mut() {
            reader.sender.terminate(Finish::Error(Report::fatal(SqlState::ADMIN_SHUTDOWN, text.clone())));
        }
        self.serve_readers(now);
    }
}

impl Reader {
    /// A replica that has everything is let go while nobody could bring more, so that it may sleep. Only one that has said
    /// what it has is asked to: silence is not consent.
    fn say_goodbye(&mut self, now: Instant, commit: Lsn, is_led: impl Fn() -> bool) {
        let has_all = self.view.kind == ReaderKind::Replica && self.remote_consistent >= commit;
        if !has_all || self.sender.term().is_some() || is_led() {
            self.caught_up = None;
        } else if now >= *self.caught_up.get_or_insert(now) + IDLE_BEFORE_GOODBYE {
            // Foreign consumers look for the first two words.
            let (name, at) = (&self.view.application_name, self.sender.position());
            let text = format!("ending streaming to {name} at {at}, receiver is caughtup and there is no computes");
            self.sender.terminate(Finish::CaughtUp(text));
            self.caught_up = None;
        }
    }
}

/// Where a TLI of a lineage ends, and which follows; `None` for its last.
fn next_tli(path: &Path, tli: Tli) -> Option<NextTli> {
    let at = path.entries().iter().position(|entry| entry.tli == tli)?;
    path.entries().get(at + 1).map(|next| NextTli { tli: next.tli, start: next.begin })
}
