//! A look at the quorum: what LOG_STATUS of a majority says, before anything is raised or changed.

use crate::lineage::{Lineage, Relation};
use crate::{LookAnswer, Peer, PrimaryFacts, Refusal};
use consensus::{Campaign, Membership, TermHistory, Vote, VoteResponse};
use lsn::{Lsn, Path, SystemId, Term};
use quorum_proto::{LogState, LogStatusRow};
use std::time::Instant;

/// The answers of one round.
#[derive(Debug)]
pub(crate) struct Looks {
    /// Number of the round.
    pub(crate) round: u64,
    /// Set once a majority has answered: how long the others are waited for.
    pub(crate) grace_until: Option<Instant>,
    answers: Vec<Option<LookAnswer>>,
}

/// What a majority's logs allow to find out.
#[derive(Debug)]
pub(crate) struct Evidence {
    /// The membership record with the highest precedence.
    pub(crate) membership: Membership,
    /// Rows that count by it.
    pub(crate) rows: Vec<(Peer, LogStatusRow)>,
    /// The logs as if they were votes.
    pub(crate) campaign: Campaign,
    /// The highest term seen anywhere.
    pub(crate) max_term: Term,
    /// Fences that stand, with the safekeepers that have them.
    pub(crate) fences: Vec<(Peer, String)>,
}

/// What a look came to.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// No majority; the sentence says who is missing and why.
    Waiting(String),
    /// This primary may not lead, whatever its WAL.
    Refused(Refusal),
    /// A majority that fits the primary.
    Usable(Box<Evidence>),
}

impl Looks {
    pub(crate) fn new(round: u64, peers: usize) -> Looks {
        Looks { round, grace_until: None, answers: vec![None; peers] }
    }

    /// More safekeepers are asked.
    pub(crate) fn extend(&mut self, peers: usize) {
        self.answers.resize(self.answers.len() + peers, None);
    }

    /// The newest record seen.
    pub(crate) fn newest(&self) -> Option<&Membership> {
        self.membership()
    }

    pub(crate) fn take(&mut self, peer: Peer, answer: LookAnswer) {
        if let Some(place) = self.answers.get_mut(peer.0) {
            *place = Some(answer);
        }
    }

    pub(crate) fn is_complete(&self) -> bool {
        self.answers.iter().all(Option::is_some)
    }

    /// Whether those that answered so far are a majority of the record they show.
    pub(crate) fn has_majority(&self) -> bool {
        self.membership().is_some_and(|membership| {
            let counted = self.counted(membership);
            membership.has_majority(|node| counted.iter().any(|(_, row)| row.node == node))
        })
    }

    /// The answers that are rows.
    pub(crate) fn rows(&self) -> impl Iterator<Item = (Peer, &LogStatusRow)> {
        self.answers.iter().enumerate().filter_map(|(index, answer)| match answer {
            Some(LookAnswer::Row(row)) => Some((Peer(index), &**row)),
            _ => None,
        })
    }

    fn membership(&self) -> Option<&Membership> {
        let records = self.rows().map(|(_, row)| &row.membership).filter(|record| record.is_set());
        records.max_by_key(|record| record.precedence())
    }

    fn counted(&self, membership: &Membership) -> Vec<(Peer, &LogStatusRow)> {
        // Whoever holds another record cannot vote by this one.
        let counts = |row: &LogStatusRow| {
            let same = row.membership.generation == membership.generation;
            same && row.state == LogState::Member && membership.includes(row.node, row.disk)
        };
        self.rows().filter(|(_, row)| counts(row)).collect()
    }

    /// Judges the answers against the primary. `addresses` name the peers in sentences.
    pub(crate) fn judge(&self, addresses: &[String], facts: &PrimaryFacts) -> Verdict {
        let Some(membership) = self.membership() else {
            let answered = self.answers.iter().filter(|answer| matches!(answer, Some(LookAnswer::Absent(_)))).count();
            let nobody = answered > self.answers.len() / 2;
            return if nobody {
                Verdict::Refused(Refusal::NoCluster)
            } else {
                Verdict::Waiting(self.missing(addresses, None))
            };
        };
        let counted = self.counted(membership);
        if !membership.has_majority(|node| counted.iter().any(|(_, row)| row.node == node)) {
            return Verdict::Waiting(self.missing(addresses, Some(membership)));
        }
        for (_, row) in &counted {
            if row.system_id != SystemId(0) && row.system_id != facts.system_id {
                return Verdict::Refused(Refusal::SystemId { primary: facts.system_id, quorum: row.system_id });
            }
            if row.segment_size != 0 && row.segment_size != facts.segment_size.as_u32() {
                let primary = facts.segment_size.as_u32();
                return Verdict::Refused(Refusal::SegmentSize { primary, quorum: row.segment_size });
            }
        }
        // The rules of the election itself decide, over votes that nobody gave.
        let mut campaign = Campaign::new(membership.clone(), Term(0));
        for (_, row) in &counted {
            campaign.handle_vote(row.node, &as_vote_response(row, membership));
        }
        Verdict::Usable(Box::new(Evidence {
            membership: membership.clone(),
            rows: counted.into_iter().map(|(peer, row)| (peer, row.clone())).collect(),
            campaign,
            max_term: self.rows().map(|(_, row)| row.term).max().unwrap_or_default(),
            fences: self.rows().filter_map(|(peer, row)| Some((peer, row.fence.clone()?))).collect(),
        }))
    }

    fn missing(&self, addresses: &[String], membership: Option<&Membership>) -> String {
        let reason = |answer: &Option<LookAnswer>| match answer {
            None => Some("no answer yet".to_owned()),
            Some(LookAnswer::Failed(reason)) => Some(reason.clone()),
            Some(LookAnswer::Absent(_)) => Some("does not know this cluster".to_owned()),
            Some(LookAnswer::Row(row)) => match membership {
                Some(membership) if !membership.includes(row.node, row.disk) => {
                    Some("is not a member with this disk".to_owned())
                }
                _ if row.state != LogState::Member => Some(format!("is {}", row.state)),
                _ => None,
            },
        };
        let each: Vec<String> = addresses
            .iter()
            .zip(&self.answers)
            .filter_map(|(address, answer)| Some(format!("{address}: {}", reason(answer)?)))
            .collect();
        format!("waiting for a majority of the safekeepers ({})", each.join("; "))
    }
}

fn as_vote_response(row: &LogStatusRow, membership: &Membership) -> VoteResponse {
    VoteResponse {
        generation: membership.generation,
        term: Term(0),
        granted: true,
        flush: row.flush,
        truncate: Lsn::INVALID,
        history: row.history.clone(),
    }
}

impl Evidence {
    /// The row a vote was made from, or the newest known of that node.
    pub(crate) fn row(&self, vote: &Vote) -> Option<(Peer, &LogStatusRow)> {
        self.rows.iter().find(|(_, row)| row.node == vote.node).map(|(peer, row)| (*peer, row))
    }

    /// Whether a majority has not heard a leader for so long.
    pub(crate) fn is_silent(&self, millis: u64) -> bool {
        let silent = |row: &LogStatusRow| row.leader_silent_ms.is_some_and(|silent| silent >= millis);
        self.membership.has_majority(|node| self.rows.iter().any(|(_, row)| row.node == node && silent(row)))
    }

    /// How much of a candidate's log is known to be committed, by whomever. A commit LSN is final, and a log that may become the donor
    /// holds all that is committed; its own safekeeper may be the one that has not heard of it yet.
    pub(crate) fn committed_in(&self, row: &LogStatusRow) -> Lsn {
        self.rows.iter().map(|(_, other)| other.commit).max().unwrap_or(row.commit).min(row.flush).max(row.commit)
    }

    /// Rows that could become the donor: those at or below them are a majority.
    pub(crate) fn candidates(&self) -> impl Iterator<Item = &LogStatusRow> {
        let place = |row: &LogStatusRow| (row.history.cut(row.flush).last_term(), row.flush);
        self.rows.iter().map(|(_, row)| row).filter(move |candidate| {
            let below = |node| self.rows.iter().any(|(_, row)| row.node == node && place(row) <= place(candidate));
            self.membership.has_majority(below)
        })
    }
}

/// First byte a log with this history ever had; 0/0 if it is empty.
pub(crate) fn first_byte(history: &TermHistory) -> Lsn {
    history.entries().first().map_or(Lsn::INVALID, |entry| entry.begin)
}

/// Whether the primary can continue this log, as far as can be told without bytes. `path` is the log's, `None` if unknown;
/// `adopts` takes a primary without our slot. The primary's end is not looked at: it is known better later.
pub(crate) fn check_log(
    facts: &PrimaryFacts,
    log: &Vote,
    path: Option<&Path>,
    adopts: bool,
) -> Result<Relation, Refusal> {
    let unknown = Path::root(facts.tli);
    let relation = Lineage::of(facts).relation(path.unwrap_or(&unknown), log.flush)?;
    if relation.adds_tli || adopts {
        // A slot on a server that was promoted may be of any age: all bytes that both sides have are compared.
        return Ok(relation);
    }
    let restart = match facts.slot {
        None => return Err(Refusal::Clone { end: log.flush }),
        Some(slot) => slot.restart.ok_or(Refusal::EmptySlot)?,
    };
    // A first attach that was interrupted leaves a log that ends below the slot: it began at the start of the slot's segment,
    // and the primary, which was answered nothing, still has every byte of it.
    let never_answered = first_byte(&log.history) == facts.segment_size.start_of_segment_at(restart);
    if restart > log.flush && !never_answered {
        return Err(Refusal::LostWal { restart, end: log.flush });
    }
    Ok(relation)
}
