//! [`Proposer`]: a leader, its primary and its sessions, driven as `proposer` drives them.
//!
//! Whatever belongs to a connection carries its number; what comes of one that was replaced is dropped.

use crate::net::{Net, PIPE_BYTES, Packet, Purpose, TO_SERVER};
use crate::oracle::Won;
use crate::reading::ReadClient;
use crate::server::Role;
use crate::world::{MS, SECOND, World, note};
use bytes::{Bytes, BytesMut};
use leader::{Command, Leader, LookAnswer, Options, Peer, PrimaryFailure, State, StreamFailure, Transmit};
use lsn::{Lsn, Term, Tli};
use quorum_proto::{ProtoVersion, decode_acceptor, encode_append_header, encode_proposer};
use std::time::Instant;

/// Received WAL a leader keeps: little, so that safekeepers fall behind it.
pub(crate) const RING: u64 = 160 << 10;

/// One proposer process.
#[derive(Debug)]
pub(crate) struct Proposer {
    /// The server its conninfo leads to; may change between two connections.
    pub(crate) server: usize,
    pub(crate) epoch: u64,
    pub(crate) leader: Option<Leader>,
    pub(crate) takeover: bool,
    armed: Option<u64>,
    /// The connection to the primary: its number, the server and its run.
    primary: Option<(u64, usize, u64)>,
    next_id: u64,
    /// By peer: the session's number and connection.
    pushes: Vec<Option<(u64, Option<u64>)>>,
    /// The read of a donor's log: its number and connection.
    pub(crate) donor: Option<(u64, Option<u64>)>,
    answered_at: u64,
    /// The term that was seen won, and up to where its commits were checked.
    seen: Option<(Term, Lsn)>,
    /// Terms won on this proposer, all runs together.
    wins: u64,
    pub(crate) refused: Option<&'static str>,
}

impl Proposer {
    pub(crate) fn new(server: usize, takeover: bool) -> Proposer {
        Proposer {
            server,
            epoch: 0,
            leader: None,
            takeover,
            armed: None,
            primary: None,
            next_id: 0,
            pushes: Vec::new(),
            donor: None,
            answered_at: 0,
            seen: None,
            wins: 0,
            refused: None,
        }
    }

    pub(crate) fn is_leading(&self) -> bool {
        self.leader.as_ref().is_some_and(|leader| leader.state() == State::Leading)
    }

    fn new_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }
}

fn host(p: usize) -> usize {
    Net::PROPOSERS + p
}

impl World {
    pub(crate) fn start_proposer(&mut self, p: usize) {
        let now = self.instant();
        let Some(proposer) = self.proposers.get_mut(p).filter(|proposer| proposer.leader.is_none()) else { return };
        proposer.epoch += 1;
        let safekeepers: Vec<String> = (1..=self.plan.members).map(|n| format!("k{n}:5454")).collect();
        proposer.pushes = vec![None; safekeepers.len()];
        let mut options = Options::new(crate::safekeeper::CLUSTER, safekeepers);
        options.ring_bytes = RING;
        options.takeover = proposer.takeover;
        proposer.leader = Some(Leader::new(options, now));
        note!(self, "p{p} starts, for s{}", self.proposers[p].server);
        self.leader_event(p, |_, _| {});
    }

    /// Ends a proposer's process.
    pub(crate) fn stop_proposer(&mut self, p: usize, with_machine: bool) {
        let Some(proposer) = self.proposers.get_mut(p) else { return };
        if proposer.leader.take().is_none() {
            return;
        }
        note!(self, "p{p} is gone");
        let proposer = &mut self.proposers[p];
        proposer.epoch += 1;
        proposer.armed = None;
        proposer.seen = None;
        proposer.pushes.clear();
        proposer.donor = None;
        if let Some((id, s, _)) = proposer.primary.take() {
            let silence = if with_machine { 10 * SECOND } else { MS };
            self.after(silence, move |world| world.release_slot(p, id, s));
        }
        self.host_gone(host(p), with_machine);
    }

    fn release_slot(&mut self, p: usize, id: u64, s: usize) {
        if let Some(server) = self.servers.get_mut(s).filter(|server| server.walsender == Some((p, id))) {
            server.walsender = None;
            server.streaming = false;
        }
    }

    /// Hands an event to a leader, carries out what comes of it, and looks at what it says of itself.
    pub(crate) fn leader_event(&mut self, p: usize, event: impl FnOnce(&mut Leader, Instant)) {
        let now = self.instant();
        let Some(mut leader) = self.proposers.get_mut(p).and_then(|proposer| proposer.leader.take()) else { return };
        event(&mut leader, now);
        self.observe(p, &leader);
        while let Some(command) = leader.poll_command() {
            let peers = leader.safekeepers().len();
            self.proposers[p].pushes.resize(peers, None);
            self.lead(p, &leader, command);
        }
        for peer in 0..self.proposers[p].pushes.len() {
            self.transmit(p, &mut leader, peer);
        }
        if leader.wants_wal()
            && let Some((id, s, _)) = self.proposers[p].primary
        {
            self.stream_soon(p, id, s);
        }
        let due = leader.poll_timeout().map(|due| self.micros(due));
        let proposer = &mut self.proposers[p];
        proposer.leader = Some(leader);
        if let Some(due) = due.filter(|due| proposer.armed.is_none_or(|armed| *due < armed)) {
            proposer.armed = Some(due);
            let epoch = proposer.epoch;
            self.at(due, move |world| world.leader_timer(p, epoch, due));
        }
    }

    fn leader_timer(&mut self, p: usize, epoch: u64, due: u64) {
        let Some(proposer) = self.proposers.get_mut(p).filter(|proposer| proposer.epoch == epoch) else { return };
        if proposer.armed == Some(due) {
            proposer.armed = None;
            self.leader_event(p, |leader, now| leader.handle_timeout(now));
        }
    }

    /// Terms won and commits counted are what the oracle lives on.
    fn observe(&mut self, p: usize, leader: &Leader) {
        let code = leader.refusal().map(leader::Refusal::code);
        if code != self.proposers[p].refused {
            self.proposers[p].refused = code;
            if let (Some(code), Some(refusal)) = (code, leader.refusal()) {
                note!(self, "p{p} is refused: {refusal}");
                self.coverage.count(refusal_name(code));
            }
        }
        let Some(term) = leader.term() else {
            self.proposers[p].seen = None;
            return;
        };
        if self.proposers[p].seen.is_none_or(|(seen, _)| seen != term) {
            let proposer = &mut self.proposers[p];
            proposer.wins += 1;
            let who = (p, proposer.wins);
            let status = leader.status();
            let start = status.term_start.unwrap_or_default();
            proposer.seen = Some((term, crate::server::FIRST));
            note!(self, "p{p} wins term {term} at {start}");
            self.coverage.count("a term won");
            let server = self.proposers[p].server_of_connection();
            self.wins.insert(server, term.0);
            self.oracle.won(term, Won { who, server, start });
        }
        let Some((_, checked)) = self.proposers[p].seen else { return };
        let Some(commit) = leader.commit().filter(|commit| *commit > checked) else { return };
        let server = &self.servers[self.proposers[p].server_of_connection()];
        if commit > server.flush {
            return self.oracle.fail(format!("p{p} commits {commit}, which its primary has not flushed"));
        }
        let bytes = server.bytes(checked, commit).to_vec();
        self.oracle.commits(term, checked, &bytes);
        note!(self, "p{p} commits {commit} in term {term}");
        self.proposers[p].seen = Some((term, commit));
        if self.servers[self.proposers[p].server]
            .ancestors
            .iter()
            .any(|left| checked <= left.switch && left.switch < commit)
        {
            self.coverage.count("a commit on a new TLI");
        }
    }

    /// What a push session has room for.
    fn transmit(&mut self, p: usize, leader: &mut Leader, peer: usize) {
        let Some(Some((_, Some(conn)))) = self.proposers[p].pushes.get(peer).copied() else { return };
        let now = self.instant();
        while self.net.queued(conn, TO_SERVER) < PIPE_BYTES {
            let Some(transmit) = leader.poll_transmit(now, Peer(peer)) else { return };
            let mut payload = BytesMut::new();
            let encoded = match transmit {
                Transmit::Message(message) => encode_proposer(ProtoVersion::V3, &message, &mut payload),
                Transmit::Append { request, wal } => {
                    let encoded = encode_append_header(ProtoVersion::V3, &request, &mut payload);
                    wal.iter().for_each(|piece| payload.extend_from_slice(piece));
                    encoded
                }
            };
            if let Err(error) = encoded {
                return self.oracle.fail(format!("p{p} cannot encode a message: {error}"));
            }
            self.send(conn, TO_SERVER, Packet::Bytes(payload.freeze()));
        }
    }

    /// A pipe has room again.
    pub(crate) fn transmit_on(&mut self, id: u64) {
        let Some(conn) = self.net.conns.get(&id) else { return };
        if let Purpose::Push { proposer, epoch, .. } = conn.purpose
            && self.proposers.get(proposer).is_some_and(|it| it.epoch == epoch)
        {
            self.leader_event(proposer, |_, _| {});
        }
    }

    fn lead(&mut self, p: usize, leader: &Leader, command: Command) {
        let epoch = self.proposers[p].epoch;
        match command {
            Command::CheckPrimary => {
                let s = self.proposers[p].server;
                let proposer = &mut self.proposers[p];
                let id = proposer.new_id();
                proposer.primary = Some((id, s, self.servers[s].run));
                proposer.answered_at = self.now;
                let later = self.chance.range(MS, 5 * MS);
                self.after(later, move |world| world.check_primary(p, id, s));
            }
            Command::CreateSlot => self.primary_later(p, |world, p, _, s| {
                let server = &mut world.servers[s];
                // As PostgreSQL does: from the last checkpoint's redo on, some record behind us.
                let restart = server.record_end(Lsn(server.flush.0.saturating_sub(300))).max(server.oldest);
                server.slot = Some(Some(restart));
                world.leader_event(p, |leader, now| leader.handle_slot_created(now, restart));
            }),
            Command::StartStream { from, tli } => {
                self.primary_later(p, move |world, p, id, s| world.start_stream(p, id, s, from, tli));
            }
            Command::ClosePrimary { reason } => {
                note!(self, "p{p} leaves its primary: {reason}");
                if let Some((id, s, _)) = self.proposers[p].primary.take() {
                    let later = self.chance.range(MS, 20 * MS);
                    self.after(later, move |world| world.release_slot(p, id, s));
                }
                self.proposers[p].seen = None;
            }
            Command::AnswerPrimary { flush, .. } => self.answer(p, leader, flush),
            Command::Feedback { .. } => {}
            Command::Look { peer, round } => {
                let Some(n) = node_of(leader, peer) else { return };
                let served = move |world: &mut World| match world.log_status(n) {
                    Some(row) => Ok(LookAnswer::Row(Box::new(row))),
                    None => Ok(LookAnswer::Absent(world.nodes.get(n).map(|node| node.identity.node))),
                };
                self.ask(host(p), n, served, move |world, answer| {
                    if world.proposers[p].epoch == epoch {
                        let answer = answer.unwrap_or_else(LookAnswer::Failed);
                        world.leader_event(p, |leader, now| leader.handle_look(now, round, peer, answer));
                    }
                });
            }
            Command::Compare { peer, term, to, .. } => {
                let Some(n) = node_of(leader, peer) else { return };
                self.coverage.count("a comparison begun");
                let id = self.proposers[p].new_id();
                self.proposers[p].donor = Some((id, None));
                let oldest = move |world: &mut World| {
                    let run = world.nodes[n].run.as_ref().ok_or("it does not have the cluster")?;
                    Ok(run.keeper.oldest())
                };
                self.ask(host(p), n, oldest, move |world, oldest| world.compare_from(p, id, n, term, to, oldest));
            }
            Command::StopCompare => {
                if let Some((_, Some(conn))) = self.proposers[p].donor.take() {
                    self.close(conn, 0, "not needed any more");
                }
            }
            Command::OpenPush { peer, introduction } => {
                let Some(n) = node_of(leader, peer) else { return };
                let id = self.proposers[p].new_id();
                self.proposers[p].pushes[peer.0] = Some((id, None));
                let purpose = Purpose::Push { proposer: p, peer: peer.0, epoch };
                let open = move |world: &mut World| world.accept_push(host(p), n, purpose, introduction);
                self.ask(host(p), n, open, move |world, opened| {
                    let current = world.proposers[p].epoch == epoch
                        && world.proposers[p].pushes.get(peer.0).copied().flatten() == Some((id, None));
                    match opened {
                        Ok(conn) if !current => world.close(conn, 0, "not wanted any more"),
                        Ok(conn) => {
                            let identity = world.nodes[n].identity;
                            world.proposers[p].pushes[peer.0] = Some((id, Some(conn)));
                            world.leader_event(p, |leader, now| {
                                leader.handle_push_opened(now, peer, identity.node, identity.disk);
                            });
                        }
                        Err(reason) if current => {
                            world.proposers[p].pushes[peer.0] = None;
                            world.leader_event(p, |leader, now| leader.handle_push_closed(now, peer, reason));
                        }
                        Err(_) => {}
                    }
                });
            }
            Command::TakeRecord { peer, record } => {
                let Some(n) = node_of(leader, peer) else { return };
                note!(self, "p{p} brings k{n} the record {record}");
                self.coverage.count("a membership record brought");
                self.take_record(host(p), n, record, move |world, answer| {
                    if world.proposers[p].epoch == epoch {
                        world.leader_event(p, |leader, now| leader.handle_record_taken(now, peer, answer));
                    }
                });
            }
            Command::ClosePush { peer } => {
                if let Some((_, Some(conn))) = self.proposers[p].pushes.get_mut(peer.0).and_then(Option::take) {
                    self.close(conn, 0, "the proposer ended the session");
                }
            }
        }
    }

    /// Something on the connection to the primary, if it is still there by then.
    fn primary_later(&mut self, p: usize, what: impl FnOnce(&mut World, usize, u64, usize) + 'static) {
        let Some((id, s, run)) = self.proposers[p].primary else { return };
        let later = self.chance.range(100, 3 * MS);
        self.after(later, move |world| {
            if world.proposers[p].primary != Some((id, s, run)) {
                return;
            }
            if world.servers[s].run != run || world.servers[s].role != Role::Primary {
                return world.primary_lost(p, id, "the connection to the primary was lost");
            }
            what(world, p, id, s);
        });
    }

    fn primary_lost(&mut self, p: usize, id: u64, reason: &str) {
        if self.proposers[p].primary.is_some_and(|(current, ..)| current == id) {
            let failure = PrimaryFailure::Retry(reason.to_owned());
            self.leader_event(p, |leader, now| leader.handle_primary_failed(now, failure));
        }
    }

    /// The primary's process ended, or its connections were cut: whoever streams from it learns of it.
    pub(crate) fn primary_gone(&mut self, s: usize, longest: u64) {
        for p in 0..self.proposers.len() {
            if let Some((id, _, _)) = self.proposers[p].primary.filter(|(_, of, _)| *of == s) {
                let later = self.chance.range(MS, longest);
                self.after(later, move |world| {
                    world.release_slot(p, id, s);
                    world.primary_lost(p, id, "the connection to the primary was lost");
                });
            }
        }
    }

    fn check_primary(&mut self, p: usize, id: u64, s: usize) {
        if self.proposers[p].primary.is_none_or(|(current, ..)| current != id) {
            return;
        }
        let server = &self.servers[s];
        let run = server.run;
        match server.role {
            Role::Primary => {
                let facts = server.facts();
                self.proposers[p].primary = Some((id, s, run));
                self.leader_event(p, |leader, now| leader.handle_primary_checked(now, facts));
            }
            Role::Standby => {
                let failure = PrimaryFailure::Standby("it is a standby".to_owned());
                self.leader_event(p, |leader, now| leader.handle_primary_failed(now, failure));
            }
            Role::Down => self.primary_lost(p, id, "connection refused"),
        }
    }

    fn start_stream(&mut self, p: usize, id: u64, s: usize, from: Lsn, _tli: Tli) {
        let server = &mut self.servers[s];
        let failure = match (server.slot.flatten(), server.walsender) {
            (Some(_), None) if from < server.oldest => StreamFailure::SegmentRemoved,
            (Some(restart), None) => {
                server.walsender = Some((p, id));
                server.sent = from;
                self.leader_event(p, |leader, now| leader.handle_stream_started(now, restart));
                return self.stream_soon(p, id, s);
            }
            (Some(_), Some(_)) => {
                self.coverage.count("a slot held by another proposer");
                StreamFailure::Primary(PrimaryFailure::Retry("the slot is in use".to_owned()))
            }
            (None, _) => StreamFailure::Primary(PrimaryFailure::Retry("there is no slot".to_owned())),
        };
        self.leader_event(p, |leader, now| leader.handle_stream_refused(now, failure));
    }

    /// Whoever streams from this server is told that there is more.
    pub(crate) fn flushed(&mut self, s: usize) {
        if let Some((p, id)) = self.servers[s].walsender {
            self.stream_soon(p, id, s);
        }
    }

    fn stream_soon(&mut self, p: usize, id: u64, s: usize) {
        let Some(server) = self.servers.get_mut(s) else { return };
        let more = server.walsender == Some((p, id)) && server.sent < server.flush && server.role == Role::Primary;
        if more && !std::mem::replace(&mut server.streaming, true) {
            let run = server.run;
            let later = self.chance.range(20, 800);
            self.after(later, move |world| world.stream(p, id, s, run));
        }
    }

    fn stream(&mut self, p: usize, id: u64, s: usize, run: u64) {
        let Some(server) = self.servers.get_mut(s).filter(|it| it.run == run && it.walsender == Some((p, id))) else {
            return;
        };
        server.streaming = false;
        let current = self.proposers[p].primary.is_some_and(|(current, ..)| current == id);
        if !current || !self.proposers[p].leader.as_ref().is_some_and(Leader::wants_wal) {
            return;
        }
        let server = &mut self.servers[s];
        let begin = server.sent;
        let size = self.chance.range(1, 40_000);
        let to = server.flush.min(Lsn(begin.0 + size));
        if begin >= to {
            return;
        }
        let wal = Bytes::copy_from_slice(server.bytes(begin, to));
        server.sent = to;
        self.leader_event(p, |leader, now| leader.handle_wal(now, begin, wal));
        self.stream_soon(p, id, s);
    }

    /// What the primary is told, and the moment it hears it.
    fn answer(&mut self, p: usize, leader: &Leader, flush: Lsn) {
        let Some((id, s, run)) = self.proposers[p].primary else {
            return self.oracle.fail(format!("p{p} answers a primary it has left"));
        };
        let status = leader.status();
        if status.received.is_none_or(|received| flush > received) {
            self.oracle.fail(format!("p{p} answers {flush}, beyond what it received"));
        }
        let server = &self.servers[s];
        let restart = server.slot.flatten().unwrap_or_default();
        if server.run == run {
            self.oracle.tells(flush, leader.commit(), server.acknowledged.min(Lsn(flush.0 - 1)), restart);
        }
        let latency = self.chance.range(20, 600);
        let at = self.proposers[p].answered_at.max(self.now + latency);
        self.proposers[p].answered_at = at;
        self.at(at, move |world| {
            let server = &mut world.servers[s];
            if server.run == run && server.walsender == Some((p, id)) {
                server.slot = Some(Some(flush));
                server.acknowledged = server.acknowledged.max(flush);
                world.coverage.count("an answer that released commits");
            }
        });
    }

    fn compare_from(&mut self, p: usize, id: u64, n: usize, term: Term, to: Lsn, oldest: Result<Lsn, String>) {
        if self.proposers[p].donor.is_none_or(|(current, _)| current != id) {
            return;
        }
        let oldest = match oldest {
            Ok(oldest) => oldest,
            Err(reason) => return self.donor_failed(p, id, reason),
        };
        let mut from = None;
        self.leader_event(p, |leader, now| from = leader.handle_donor_oldest(now, oldest));
        let Some(from) = from else { return };
        if self.proposers[p].donor.is_none_or(|(current, _)| current != id) {
            return;
        }
        let purpose = Purpose::Donor { proposer: p, id };
        match self.open_read(host(p), n, purpose, from, None, Some(term), Some(to)) {
            Ok(conn) => self.proposers[p].donor = Some((id, Some(conn))),
            Err(reason) => self.donor_failed(p, id, reason),
        }
    }

    pub(crate) fn donor_failed(&mut self, p: usize, id: u64, reason: String) {
        if self.proposers.get(p).and_then(|it| it.donor).is_some_and(|(current, _)| current == id) {
            self.leader_event(p, |leader, now| leader.handle_donor_failed(now, reason));
        }
    }

    /// Whether a client takes nothing more for now.
    pub(crate) fn client_is_held(&self, id: u64) -> bool {
        let Some(conn) = self.net.conns.get(&id) else { return false };
        match conn.purpose {
            Purpose::Donor { proposer, .. } => {
                self.proposers[proposer].leader.as_ref().is_some_and(|leader| !leader.wants_donor_bytes())
            }
            Purpose::Pull { node, .. } => {
                let run = self.nodes.get(node).and_then(|node| node.run.as_ref());
                run.is_some_and(|run| !run.keeper.has_room(1 << 20))
            }
            Purpose::Push { .. } | Purpose::Reader { .. } => false,
        }
    }

    /// Bytes of a safekeeper.
    pub(crate) fn arrives_at_client(&mut self, id: u64, bytes: Bytes) {
        let Some(conn) = self.net.conns.get(&id) else { return };
        let Purpose::Push { proposer, peer, epoch } = conn.purpose else { return self.read_arrives(id, &bytes) };
        let current = self.proposers.get(proposer).is_some_and(|it| {
            it.epoch == epoch && matches!(it.pushes.get(peer), Some(Some((_, Some(current)))) if *current == id)
        });
        if !current {
            return;
        }
        match decode_acceptor(ProtoVersion::V3, bytes) {
            Ok(message) => {
                self.leader_event(proposer, |leader, now| leader.handle_push_message(now, Peer(peer), message));
            }
            Err(error) => self.oracle.fail(format!("a safekeeper's message cannot be read: {error}")),
        }
    }

    /// A client learns that the safekeeper's end is gone.
    pub(crate) fn client_lost(&mut self, id: u64, reason: &str) {
        let Some(conn) = self.net.conns.get(&id) else { return };
        let Purpose::Push { proposer, peer, epoch } = conn.purpose else { return self.read_ended(id, reason) };
        let Some(it) = self.proposers.get_mut(proposer).filter(|it| it.epoch == epoch) else { return };
        let Some(place) = it.pushes.get_mut(peer) else { return };
        if matches!(place, Some((_, Some(current))) if *current == id) {
            *place = None;
            let reason = reason.to_owned();
            self.leader_event(proposer, |leader, now| leader.handle_push_closed(now, Peer(peer), reason));
        }
    }

    /// The session in which a client reads.
    pub(crate) fn reader(&mut self, id: u64) -> Option<&mut ReadClient> {
        self.reading.get_mut(&id)
    }
}

impl Proposer {
    /// The server of the connection in use.
    fn server_of_connection(&self) -> usize {
        self.primary.map_or(self.server, |(_, s, _)| s)
    }
}

/// The safekeeper at a peer's address.
fn node_of(leader: &Leader, peer: Peer) -> Option<usize> {
    let address = leader.safekeepers().get(peer.0)?;
    let number: usize = address.strip_prefix('k')?.split(':').next()?.parse().ok()?;
    number.checked_sub(1)
}

fn refusal_name(code: &str) -> &'static str {
    match code {
        "takeover" => "refused: no permission to take over",
        "forked" => "refused: left the log below its end",
        "diverged" => "refused: other bytes",
        "primary_behind" => "refused: the primary is behind",
        "clone" => "refused: a copy without a slot",
        "wal_removed" => "refused: WAL was removed",
        "lost_wal" => "refused: the slot is above the log",
        "no_donor" => "refused: no donor",
        "unrelated" => "refused: unrelated TLI",
        "bad_switch" => "refused: no record at the switch point",
        _ => "refused: another reason",
    }
}
