//! What the members should be, and whether that is safe to ask for. Pure.

use super::{Survey, votes};
use config::Address;
use consensus::{Member, Membership};
use lsn::{Lsn, NodeId};
use quorum_proto::LogState;

/// The members without one.
pub(super) fn without(record: &Membership, goes: NodeId) -> Result<Vec<Member>, String> {
    let members = newest(record);
    let left: Vec<Member> = members.iter().filter(|member| member.node != goes).cloned().collect();
    match (left.len() < members.len() || record.new_members.is_some(), left.is_empty()) {
        (false, _) => Err(format!("safekeeper {goes} is not a member")),
        (true, true) => Err("a cluster needs at least one member".to_owned()),
        (true, false) => Ok(left),
    }
}

/// The members and one more.
pub(super) fn with(record: &Membership, comes: Member) -> Result<Vec<Member>, String> {
    let members = newest(record);
    if let Some(member) = members.iter().find(|member| member.node == comes.node) {
        if member.disk != comes.disk {
            let node = comes.node;
            return Err(format!(
                "safekeeper {node} is a member with another disk: put the new one in its place with \
                 `seawall members replace --node {node}`"
            ));
        }
        return Ok(members.to_vec());
    }
    Ok(members.iter().cloned().chain([comes]).collect())
}

/// The members with one in the place of another.
pub(super) fn instead(record: &Membership, goes: NodeId, comes: Member) -> Result<Vec<Member>, String> {
    let members = newest(record);
    let here = members.iter().any(|member| (member.node, member.disk) == (comes.node, comes.disk));
    let gone = members.iter().all(|member| member.node != goes);
    match (here, gone) {
        // An earlier run of the same command has done it.
        (true, true) => Ok(members.to_vec()),
        (true, false) => Err(format!("safekeeper {} is a member already: remove {goes} instead", comes.node)),
        (false, true) => Err(format!("safekeeper {goes} is not a member")),
        (false, false) => {
            Ok(members.iter().map(|member| if member.node == goes { comes.clone() } else { member.clone() }).collect())
        }
    }
}

/// Whether a node that is a member comes with another disk.
pub(super) fn changes_disk(record: &Membership, comes: &Member) -> bool {
    newest(record).iter().any(|member| member.node == comes.node && member.disk != comes.disk)
}

/// Whether two sets name the same disks.
pub(super) fn same(a: &[Member], b: &[Member]) -> bool {
    let in_b = |member: &Member| b.iter().any(|other| (other.node, other.disk) == (member.node, member.disk));
    a.len() == b.len() && a.iter().all(in_b)
}

fn newest(record: &Membership) -> &[Member] {
    record.new_members.as_deref().unwrap_or(&record.members)
}

/// Whether commits would go on with these members: a majority of them must answer and hold the log.
pub(super) fn check(survey: &Survey, wanted: &[Member]) -> Result<(), String> {
    if survey.seen.iter().any(|seen| seen.row.as_ref().is_some_and(|row| row.fence.is_some())) {
        return Err("a fence stands: lift it, or promote a server, before the members change".to_owned());
    }
    let new = |member: &Member| !survey.record.includes(member.node, member.disk);
    let whole = |member: &&Member| new(member) || survey.member(member).is_some_and(votes);
    let ready = wanted.iter().filter(whole).count();
    if ready <= wanted.len() / 2 {
        return Err(format!(
            "only {ready} of the {} members there would be answer and can vote: commits would wait",
            wanted.len()
        ));
    }
    Ok(())
}

/// What else there is to say.
pub(super) fn advice(survey: &Survey) -> Vec<String> {
    let mut advice = Vec::new();
    let members = survey.record.members.len();
    if members.is_multiple_of(2) {
        advice.push(format!(
            "{members} members survive the loss of no more than {}: an odd number is better",
            (members - 1) / 2
        ));
    }
    if survey.record.new_members.is_some() {
        advice.push("a change is under way; the next elected leader finishes it".to_owned());
    }
    for member in survey.record.all_members() {
        match survey.member(member).map(|seen| seen.row.as_ref().map(|row| row.state)) {
            None => advice.push(format!("safekeeper {} does not answer with the disk of the record", member.node)),
            Some(Some(LogState::Damaged)) => {
                advice.push(format!("safekeeper {} is damaged and does not vote until it has learned", member.node));
            }
            Some(_) => {}
        }
    }
    advice
}

/// What damaged members need.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Repair {
    /// Nobody is damaged.
    Nothing,
    /// A majority can vote: the others learn by themselves.
    Learns,
    /// No majority can vote. If these logs count as they are, exactly a majority can, and the longest log of all is among them: no
    /// leader can be elected without it.
    Accept(Vec<(Address, Lsn)>),
}

/// Judges by a survey in which every member answered; the caller sees to that before it acts.
pub(super) fn repair(survey: &Survey) -> Repair {
    let members: Vec<_> = survey.record.all_members().filter_map(|member| survey.member(member)).collect();
    let whole = members.iter().filter(|seen| votes(seen)).count();
    let mut damaged: Vec<_> = members
        .iter()
        .filter_map(|seen| Some((*seen, seen.row.as_ref().filter(|row| row.state == LogState::Damaged)?)))
        .collect();
    if damaged.is_empty() {
        return Repair::Nothing;
    }
    let majority = survey.record.members.len() / 2 + 1;
    if whole >= majority {
        return Repair::Learns;
    }
    damaged.sort_by_key(|(_, row)| std::cmp::Reverse((row.last_log_term, row.flush)));
    let chosen = damaged.into_iter().take(majority - whole);
    Repair::Accept(chosen.map(|(seen, row)| (seen.address.clone(), row.flush)).collect())
}

#[cfg(test)]
#[path = "plan_test.rs"]
mod tests;
