//! [`Readers`]: the registry of START_REPLICATION sessions served, and how far each may read.
//!
//! A reader that names no term gets committed WAL only. One that names a term gets everything up to the flush LSN while
//! that term is the current one: the term is checked before a read is asked for and again when its bytes are there, so no
//! byte of another leader's log slips through between check and read.

use crate::command::{Command, ReaderId};
use crate::keeper::Keeper;
use bytes::Bytes;
use consensus::HotStandbyFeedback;
use lsn::{Lsn, SegmentSize};
use pq_proto::SqlState;
use pq_proto::backend::Report;
use pq_proto::command::StartReplication;
use pq_proto::frontend::FrontendMessage;
use std::collections::BTreeMap;
use std::time::Instant;
use walsender::{ClientEvent, Finish, Output, Sender, SenderOptions, answers};

/// What a reader asked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReaderOptions {
    /// Its START_REPLICATION.
    pub command: StartReplication,
    /// Where it connects from.
    pub peer: String,
    /// What it calls itself.
    pub application_name: String,
}

/// A reader as an operator sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReaderView {
    /// Where it connects from.
    pub peer: String,
    /// What it calls itself.
    pub application_name: String,
    /// Sent up to here.
    pub sent: Lsn,
    /// What it says is durable there; monitoring data, nothing depends on it.
    pub flush: Lsn,
}

#[derive(Debug)]
struct Reader {
    sender: Sender,
    view: ReaderView,
    feedback: Option<HotStandbyFeedback>,
}

/// All readers of one cluster.
#[derive(Debug, Default)]
pub(crate) struct Readers {
    sessions: BTreeMap<ReaderId, Reader>,
}

impl Readers {
    pub(crate) fn views(&self) -> Vec<ReaderView> {
        self.sessions
            .values()
            .map(|reader| ReaderView { sent: reader.sender.position(), ..reader.view.clone() })
            .collect()
    }

    pub(crate) fn next_timeout(&self) -> Option<Instant> {
        self.sessions.values().filter_map(|reader| reader.sender.poll_timeout()).min()
    }

    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        for reader in self.sessions.values_mut() {
            reader.sender.handle_timeout(now);
        }
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
    /// A reader asked to stream. On refusal the connection answers with the report and can take another command.
    pub fn connect_reader(&mut self, now: Instant, id: ReaderId, options: ReaderOptions) -> Result<(), Report> {
        self.check_reader(&options)?;
        let ReaderOptions { command, peer, application_name } = options;
        let segment_size = SegmentSize::new(self.acceptor.state().server.segment_size.into()).unwrap_or_default();
        let tli = command.tli.unwrap_or_else(|| self.identity(command.term.is_some()).tli);
        let options = SenderOptions { term: command.term, ..SenderOptions::new(command.start, tli, segment_size) };
        let sender = Sender::new(options, now)?;
        let view = ReaderView { peer, application_name, sent: command.start, flush: Lsn::INVALID };
        self.readers.sessions.insert(id, Reader { sender, view, feedback: None });
        self.drive(now);
        Ok(())
    }

    /// Everything that can refuse a reader before anything is sent.
    fn check_reader(&self, options: &ReaderOptions) -> Result<(), Report> {
        let StartReplication { start, tli, term, .. } = &options.command;
        let not_ready = |text: String| Report::error(SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE, text);
        if let Some(reason) = &self.stopped {
            return Err(not_ready(format!("this cluster stopped on this safekeeper: {reason}")));
        }
        let state = self.acceptor.state();
        let Some(path) = state.path.as_ref().filter(|_| state.log_start.is_valid()) else {
            return Err(not_ready("no WAL of this cluster is here yet: no proposer has been elected".to_owned()));
        };
        if let Some(asked) = term.filter(|term| *term != state.term) {
            return Err(not_ready(format!("failed to acquire term {asked}, current term {}", state.term)));
        }
        if let Some(tli) = tli.filter(|tli| !path.entries().iter().any(|entry| entry.tli == *tli)) {
            return Err(answers::tli_not_in_history(tli));
        }
        let end = if term.is_some() { self.acceptor.flush() } else { self.acceptor.commit() };
        if term.is_none() && *start > end {
            return Err(answers::ahead_of_flush(*start, end));
        }
        if *start < self.oldest {
            return Err(answers::wal_removed(&self.segment_name(*start)));
        }
        Ok(())
    }

    fn segment_name(&self, position: Lsn) -> String {
        let state = self.acceptor.state();
        match (SegmentSize::new(state.server.segment_size.into()), &state.path) {
            (Ok(size), Some(path)) => size.file_name(path.tli_at(position), size.segment_of(position)),
            _ => position.to_string(),
        }
    }

    /// A message of a reader.
    pub fn handle_reader(&mut self, now: Instant, id: ReaderId, message: FrontendMessage) {
        let Some(reader) = self.readers.sessions.get_mut(&id) else { return };
        match reader.sender.handle_client(now, message) {
            Ok(Some(ClientEvent::Status(status))) => reader.view.flush = status.flush,
            Ok(Some(ClientEvent::Feedback(feedback))) => {
                let full = |xid: u32, epoch: u32| if xid == 0 { 0 } else { u64::from(epoch) << 32 | u64::from(xid) };
                reader.feedback = Some(HotStandbyFeedback {
                    time: feedback.time.0,
                    xmin: full(feedback.xmin, feedback.xmin_epoch),
                    catalog_xmin: full(feedback.catalog_xmin, feedback.catalog_xmin_epoch),
                });
                self.acceptor.set_standby_feedback(self.readers.aggregated_feedback());
            }
            Ok(Some(ClientEvent::Pageserver(feedback))) => self.acceptor.send_feedback(feedback),
            // After a violation the sender itself gives out the answer.
            Ok(Some(ClientEvent::Stopped) | None) | Err(_) => {}
        }
        self.drive(now);
    }

    /// Bytes a reader asked for, or why they cannot be had: `None` if the WAL was removed meanwhile.
    pub fn handle_read(&mut self, now: Instant, id: ReaderId, from: Lsn, result: Result<Option<Bytes>, String>) {
        let current = self.acceptor.state().term;
        let removed = self.segment_name(from);
        let Some(reader) = self.readers.sessions.get_mut(&id) else { return };
        match result {
            // Read under a term that is over; `serve_readers` ends the session.
            Ok(_) if reader.sender.term().is_some_and(|term| term != current) => {}
            Ok(Some(bytes)) => {
                if let Err(error) = reader.sender.handle_read(from, bytes) {
                    reader.sender.terminate(Finish::Error(Report::fatal(SqlState::INTERNAL_ERROR, error.to_string())));
                }
            }
            Ok(None) => reader.sender.terminate(Finish::Removed(removed)),
            Err(text) => reader.sender.terminate(Finish::Error(Report::fatal(SqlState::INTERNAL_ERROR, text))),
        }
        self.drive(now);
    }

    /// A reader's connection ended.
    pub fn disconnect_reader(&mut self, now: Instant, id: ReaderId) {
        if self.readers.sessions.remove(&id).is_some_and(|reader| reader.feedback.is_some()) {
            self.acceptor.set_standby_feedback(self.readers.aggregated_feedback());
        }
        self.drive(now);
    }

    /// Lets every reader go on as far as it may.
    pub(crate) fn serve_readers(&mut self, now: Instant) {
        if self.readers.sessions.is_empty() {
            return;
        }
        let (term, flush, commit) = (self.acceptor.state().term, self.acceptor.flush(), self.acceptor.commit());
        let clock = self.wall_clock(now);
        let commands = &mut self.commands;
        self.readers.sessions.retain(|id, reader| {
            match reader.sender.term() {
                Some(requested) if requested != term => {
                    reader.sender.terminate(Finish::TermChanged { requested, now: term })
                }
                Some(_) => reader.sender.set_limit(flush),
                None => reader.sender.set_limit(commit.min(flush)),
            }
            while let Some(output) = reader.sender.poll(now, clock) {
                match output {
                    Output::Read { from, max } => commands.push_back(Command::Read { reader: *id, from, max }),
                    Output::Send { head, payload } => {
                        commands.push_back(Command::SendReader { reader: *id, head, payload })
                    }
                    Output::Finished { is_reusable, .. } => {
                        commands.push_back(Command::CloseReader { reader: *id, reusable: is_reusable });
                        return false;
                    }
                }
            }
            true
        });
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
