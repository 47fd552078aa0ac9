//! The end of every run: everybody is up and the quorum must work again.

use crate::disk::{FIRST, RECORD_END, index};
use crate::node::Node;
use crate::proposer::Proposer;
use crate::world::World;
use consensus::Standing;
use lsn::Lsn;

impl World {
    /// Everybody is up, all messages arrive, one proposer at a time: it must commit all its primary writes.
    pub(crate) fn settle(&mut self) {
        self.note(|| "settling".into());
        self.tight = 0;
        for id in 0..self.proposers.len() {
            self.kill(id);
        }
        for number in self.sessions.keys().copied().collect::<Vec<_>>() {
            self.close_at_node(number);
        }
        for node in 0..self.nodes.len() {
            if self.nodes[node].acceptor.is_none() {
                self.start(node);
            }
        }
        let attempts = 2 * self.primaries.len() + 2;
        let settled = (0..attempts).any(|attempt| self.lead_calmly(attempt % self.primaries.len()));
        assert!(settled, "no primary got its WAL committed in {attempts} attempts with everybody up");
    }

    /// Whether a proposer on this primary gets everything committed everywhere.
    fn lead_calmly(&mut self, primary: usize) -> bool {
        let id = self.proposers.len();
        self.note(|| format!("P{id} starts on primary {primary}"));
        self.proposers.push(Proposer::new(primary, &self.primaries[primary], self.nodes.len()));
        for round in 0..400 {
            for number in self.sessions.keys().copied().collect::<Vec<_>>() {
                while self.deliver_to_node(number) {}
                while self.deliver_to_proposer(number) {}
            }
            for node in 0..self.nodes.len() {
                (0..5).for_each(|duty| self.disk_event(node, duty));
                self.tick(id, node);
            }
            self.check();
            // Without every vote a primary that lacks the donor's log waits in vain: its campaign times out.
            let campaigns = self.proposers[id].leadership().is_none();
            if !self.proposers[id].is_alive() || (campaigns && round > 40) {
                self.kill(id);
                return false;
            }
            let lost = self.nodes.iter().map(|node| node.disk.control.damaged_below.0).max();
            if round < 20 || self.primaries[primary].log.len() <= index(lost.unwrap_or(0)) {
                self.primaries[primary].log.push(RECORD_END | 1);
            } else if self.has_settled(id, primary) {
                return true;
            }
        }
        panic!("P{id} neither commits everything nor ends in 400 rounds");
    }

    fn has_settled(&self, id: usize, primary: usize) -> bool {
        let end = Lsn(FIRST + self.primaries[primary].log.len() as u64);
        let committed = self.proposers[id].leadership().is_some_and(|leadership| leadership.commit() == Some(end));
        let whole = |node: &Node| {
            let acceptor = node.acceptor.as_ref();
            node.emptied || acceptor.is_some_and(|a| a.commit() == end && a.standing() == Standing::Member)
        };
        committed && self.nodes.iter().all(whole)
    }
}
