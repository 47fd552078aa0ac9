//! Rules broken on purpose: the model must notice each.

use crate::disk::FIRST;
use crate::node::Node;
use crate::proposer::Proposer;
use crate::world::World;
use consensus::{Decision, Leadership, Vote};
use lsn::{Lsn, Tli};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Mutant {
    /// Nothing is broken.
    None,
    /// A leader whose connection moves to another server goes on in its term.
    TermKept,
    /// The donor is the longest log.
    DonorByLsn,
    /// The donor is the log on the highest TLI.
    DonorByTli,
    /// Positions below the start of the own term count. Chance hardly ever makes a loss of it (it takes the figure-8 case of
    /// Raft), so it is the rule itself that is checked.
    NoTermStart,
    /// History and path are persisted before the bytes are cut.
    HistoryBeforeCut,
    /// A TLI is shown once it is durable somewhere.
    SwitchShownEarly,
}

impl Mutant {
    pub(crate) const ALL: [Mutant; 6] = [
        Mutant::TermKept,
        Mutant::DonorByLsn,
        Mutant::DonorByTli,
        Mutant::NoTermStart,
        Mutant::HistoryBeforeCut,
        Mutant::SwitchShownEarly,
    ];

    pub(crate) fn chooses_donor(self) -> bool {
        matches!(self, Mutant::DonorByLsn | Mutant::DonorByTli)
    }
}

impl Proposer {
    /// What a campaign that orders votes in another way decides.
    pub(crate) fn wrong_donor(&self, mutant: Mutant, known: impl Fn(&Vote) -> Option<bool>) -> Decision {
        let place = |vote: &&Vote| {
            let path = self.logs.get(&vote.node).and_then(|(_, path)| path.as_ref());
            let tli = path.map_or(Tli(0), |path| path.last().tli);
            (if mutant == Mutant::DonorByTli { tli } else { Tli(0) }, vote.flush)
        };
        let mut votes: Vec<&Vote> = self.votes.values().collect();
        votes.sort_by_key(|vote| std::cmp::Reverse(place(vote)));
        let members = self.reach.len();
        for (index, candidate) in votes.iter().enumerate() {
            if 2 * (votes.len() - index) <= members {
                break;
            }
            match known(candidate) {
                Some(true) => return Decision::Won((*candidate).clone()),
                Some(false) => {}
                None => return Decision::Compare((*candidate).clone()),
            }
        }
        if votes.len() == members { Decision::Refused } else { Decision::Undecided }
    }
}

impl World {
    /// What a leader calls committed.
    pub(crate) fn commit_of(&self, leadership: &Leadership) -> Option<Lsn> {
        if self.mutant != Mutant::NoTermStart {
            return leadership.commit();
        }
        let flush = |node| leadership.flush_of(node).unwrap_or(Lsn::INVALID);
        self.membership.majority_value(flush).filter(|reached| reached.is_valid())
    }

    /// A leader's connection ends at another server that has all it sent.
    pub(crate) fn move_leader(&mut self) {
        let to = self.rng.below(self.primaries.len());
        let end = FIRST + self.primaries[to].log.len() as u64;
        for proposer in &mut self.proposers {
            if proposer.leadership().is_some()
                && proposer.links.values().all(|link| link.sent.is_none_or(|sent| sent <= end))
            {
                proposer.primary = to;
            }
        }
    }

    /// A cut begins; the control file may have it all already.
    pub(crate) fn mutate_cut(&mut self, at: usize) {
        let Node { disk, announced, .. } = &mut self.nodes[at];
        if let Some((history, path)) = announced.take() {
            disk.control.history = history;
            disk.control.path = Some(path);
            disk.control.cutting = None;
        }
    }
}
