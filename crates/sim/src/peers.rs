//! What safekeepers do among each other, as `node` does it: they ask each other once a second, remember what each disk promised,
//! teach learners, pull what a leader has no more, and take membership records.

use crate::net::Purpose;
use crate::world::{MS, SECOND, World, note};
use consensus::{Membership, RecordRefusal};
use quorum_proto::{LogStatusRow, Memory, PeerColumns, Promise, RecordTaken};

impl World {
    /// One question to a peer; the next follows in a second.
    pub(crate) fn poll_peer(&mut self, n: usize, epoch: u64, peer: usize) {
        if self.nodes[n].epoch != epoch {
            return;
        }
        let answer = move |world: &mut World| Ok((world.nodes[peer].identity, world.peer_row(peer)));
        self.ask(n, peer, answer, move |world, answer| {
            if world.nodes[n].epoch != epoch {
                return;
            }
            match answer {
                Ok((who, row)) => world.take_peer(n, peer, who, row),
                Err(_) => drop(world.nodes[n].peers.remove(&peer)),
            }
            world.compare_and_teach(n);
            world.after(SECOND, move |world| world.poll_peer(n, epoch, peer));
        });
    }

    fn peer_row(&mut self, n: usize) -> Option<(LogStatusRow, PeerColumns)> {
        let row = self.log_status(n)?;
        let node = &self.nodes[n];
        let keeper = &node.run.as_ref()?.keeper;
        let oldest = Some(keeper.oldest()).filter(|oldest| oldest.is_valid());
        let remembers = node.remembered.values().copied().collect();
        Some((
            row,
            PeerColumns { boot: Some(node.boot()), promise: keeper.promise(), oldest, archived: None, remembers },
        ))
    }

    fn take_peer(&mut self, n: usize, peer: usize, who: consensus::Identity, row: Option<(LogStatusRow, PeerColumns)>) {
        let now = self.instant();
        let node = &mut self.nodes[n];
        let own = node.identity;
        let boot = node.boot();
        let first = node.told.insert(peer);
        if let (Some((row, columns)), Some(run)) = (&row, &node.run) {
            let record = run.keeper.log_status(now).membership;
            let node = &mut self.nodes[n];
            if let (Some(boot), Some(promise)) = (columns.boot, columns.promise)
                && !promise.is_empty()
                && record.includes(who.node, who.disk)
            {
                let nothing = Promise::default();
                let fresh = Memory { node: who.node, disk: who.disk, boot, latest: nothing, earlier: nothing };
                node.remembered.entry((who.node, who.disk)).or_insert(fresh).observe(boot, promise);
            }
            node.peers.insert(peer, (row.clone(), columns.clone()));
        }
        if first {
            let remembers = row.map(|(_, columns)| columns.remembers).unwrap_or_default();
            let ours = remembers.iter().filter(|memory| (memory.node, memory.disk) == (own.node, own.disk));
            let promise = ours.map(|memory| memory.before(boot)).fold(Promise::default(), Promise::join);
            let mut forgotten = false;
            self.keeper_event(n, |keeper, now| forgotten = keeper.handle_remembered(now, who.node, promise));
            if forgotten {
                note!(self, "k{n} has forgotten {promise}");
                self.coverage.count("a disk that had forgotten");
                if !self.nodes[n].excused {
                    self.oracle.fail(format!("safekeeper {n} is told that it has forgotten {promise}"));
                }
            }
        }
    }

    fn compare_and_teach(&mut self, n: usize) {
        let best = self.nodes[n].peers.values().map(|(row, _)| row.commit).max();
        if let Some(best) = best {
            self.keeper_event(n, |keeper, now| keeper.handle_peers(now, best));
        }
        if self.nodes[n].run.as_ref().is_none_or(|run| run.keeper.is_member()) {
            return;
        }
        let lessons = self.nodes[n].peers.values().filter_map(|(row, columns)| Some((row.clone(), columns.oldest?)));
        if let Some((row, oldest)) = lessons.max_by_key(|(row, _)| (row.term, row.commit)) {
            self.keeper_event(n, |keeper, now| keeper.handle_members_log(now, &row, oldest));
        }
    }

    /// Pulls from the next of those that may have it.
    pub(crate) fn pull_next(&mut self, n: usize, epoch: u64, reason: String) {
        let Some(node) = self.nodes.get_mut(n).filter(|node| node.epoch == epoch) else { return };
        let Some(pulling) = node.run.as_mut().and_then(|run| run.pulling.as_mut()) else { return };
        pulling.conn = None;
        let Some(peer) = pulling.left.pop() else { return self.pull_over(n, epoch, Err(reason)) };
        let term = pulling.term;
        let row =
            move |world: &mut World| world.log_status(peer).ok_or_else(|| "it does not have the cluster".to_owned());
        self.ask(n, peer, row, move |world, row| {
            let Some(node) = world.nodes.get(n).filter(|node| node.epoch == epoch) else { return };
            let now = world.instant();
            let Some(from) = node.run.as_ref().map(|run| run.keeper.view(now).written) else { return };
            let fits = row.and_then(|row| keeper::check_donor(&row, term, from));
            let purpose = Purpose::Pull { node: n, epoch };
            match fits.and_then(|()| world.open_read(n, peer, purpose, from, None, Some(term), None)) {
                Ok(conn) => {
                    let run = world.nodes[n].run.as_mut();
                    if let Some(pulling) = run.and_then(|run| run.pulling.as_mut()) {
                        pulling.conn = Some(conn);
                    }
                }
                Err(reason) => {
                    note!(world, "k{n} cannot pull from k{peer}: {reason}");
                    world.pull_next(n, epoch, reason);
                }
            }
        });
    }

    pub(crate) fn pull_over(&mut self, n: usize, epoch: u64, result: Result<(), String>) {
        let Some(node) = self.nodes.get_mut(n).filter(|node| node.epoch == epoch) else { return };
        let Some(pulling) = node.run.as_mut().and_then(|run| run.pulling.take()) else { return };
        if let Some(conn) = pulling.conn {
            self.close(conn, 0, "the pull is over");
        }
        if let Err(reason) = &result {
            note!(self, "k{n} cannot pull to {}: {reason}", pulling.to);
            self.coverage.count("a pull that failed");
        }
        self.keeper_event(n, |keeper, now| keeper.handle_pull_ended(now, result));
    }

    /// Brings a safekeeper a record; the answer comes once it is durable there.
    pub(crate) fn take_record(
        &mut self,
        from: usize,
        n: usize,
        record: Membership,
        done: impl FnOnce(&mut World, Result<RecordTaken, String>) + 'static,
    ) {
        let there = self.net.latency(&mut self.chance, from, n);
        let late = self.now + 10 * SECOND;
        self.after(there, move |world| {
            if world.net.is_blocked(from, n) || !world.nodes[n].is_up() {
                return world.after(3 * SECOND, move |world| done(world, Err("no answer".to_owned())));
            }
            let epoch = world.nodes[n].epoch;
            world.try_record(from, n, epoch, late, record, None, Box::new(done));
        });
    }

    #[expect(clippy::type_complexity, reason = "it is called once")]
    #[expect(clippy::too_many_arguments, reason = "the state of one request")]
    fn try_record(
        &mut self,
        from: usize,
        n: usize,
        epoch: u64,
        late: u64,
        record: Membership,
        ticket: Option<u64>,
        done: Box<dyn FnOnce(&mut World, Result<RecordTaken, String>)>,
    ) {
        let gone = self.nodes[n].epoch != epoch || self.nodes[n].run.is_none();
        if gone || self.now >= late {
            return done(self, Err("no answer".to_owned()));
        }
        let mut ticket = ticket;
        if ticket.is_none() {
            let mut result = None;
            let wanted = record.clone();
            self.keeper_event(n, |keeper, now| result = Some(keeper.handle_record(now, wanted)));
            ticket = match result {
                Some(Ok(ticket)) => Some(ticket),
                Some(Err(RecordRefusal::Busy)) => None,
                Some(Err(refusal)) => return done(self, Err(refusal.to_string())),
                None => return done(self, Err("no answer".to_owned())),
            };
        }
        let keeper = self.nodes[n].run.as_ref().map(|run| &run.keeper);
        if let (Some(ticket), Some(keeper)) = (ticket, keeper)
            && keeper.has_persisted(ticket)
        {
            let taken = keeper.record_taken();
            let back = self.net.latency(&mut self.chance, n, from);
            return self.after(back, move |world| match world.net.is_blocked(n, from) {
                true => done(world, Err("no answer".to_owned())),
                false => done(world, Ok(taken)),
            });
        }
        self.after(2 * MS, move |world| world.try_record(from, n, epoch, late, record, ticket, done));
    }
}
