//! Every rule that is broken on purpose is noticed, and by which property.

#![expect(clippy::print_stdout, reason = "how much was seen is worth a line")]

use consensus::Fault::*;
use model::{Mutant, Property, Quorum, config, name};

/// Breadth first: the shortest way to the failure is shown.
fn caught(mutant: Mutant, world: &str, property: Property) {
    let config = config(world).expect("a world with this name");
    let report = Quorum::broken(config, mutant, property).explore(true, 1, None);
    let found = report.failure.as_ref().map(|(property, _)| *property);
    println!(
        "{mutant:?} in {world}: {} states, {:.1} s, {:#?}",
        report.states,
        report.time.as_secs_f64(),
        report.failure
    );
    assert_eq!(found, Some(name(property)), "{mutant:?} goes unnoticed in {world}, {} states", report.states);
}

#[test]
fn vote_before_persist() {
    caught(Mutant::Rule(VoteBeforePersist), "base", Property::S4);
}

#[test]
fn vote_before_persist_elects_two() {
    caught(Mutant::Rule(VoteBeforePersist), "disks", Property::S1);
}

#[test]
fn release_before_persist() {
    caught(Mutant::ReleaseBeforePersist, "base", Property::S4);
}

#[test]
fn release_before_persist_elects_two() {
    caught(Mutant::ReleaseBeforePersist, "disks", Property::S1);
}

#[test]
fn vote_before_sync() {
    caught(Mutant::Rule(VoteBeforeSync), "disks-t2l1", Property::S13);
}

#[test]
fn vote_twice() {
    caught(Mutant::Rule(VoteTwice), "base", Property::S3);
}

#[test]
fn vote_twice_elects_two() {
    caught(Mutant::Rule(VoteTwice), "base", Property::S1);
}

#[test]
fn history_not_cut() {
    caught(Mutant::Rule(HistoryNotCut), "terms", Property::S25);
}

#[test]
fn acknowledge_before_sync() {
    caught(Mutant::Rule(AcknowledgeBeforeSync), "base", Property::S13);
}

#[test]
fn acknowledge_before_sync_loses() {
    caught(Mutant::Rule(AcknowledgeBeforeSync), "base", Property::S10);
}

#[test]
fn deposed_leader_appends() {
    caught(Mutant::Rule(DeposedAppends), "calm", Property::S10);
}

#[test]
fn append_without_elected() {
    caught(Mutant::Rule(AppendUnelected), "base", Property::S15);
}

#[test]
fn cut_below_commit() {
    caught(Mutant::Rule(CutBelowCommit), "base", Property::S12);
}

#[test]
fn history_before_cut() {
    caught(Mutant::Rule(HistoryBeforeCut), "base", Property::S6);
}

#[test]
fn commit_beyond_flush() {
    caught(Mutant::Rule(CommitBeyondFlush), "base", Property::S8);
}

#[test]
fn any_generation() {
    caught(Mutant::Rule(AnyGeneration), "moved", Property::S17);
}

#[test]
fn older_record() {
    caught(Mutant::Rule(OlderRecord), "moved", Property::S19);
}

#[test]
fn foreign_disk_votes() {
    caught(Mutant::Rule(ForeignVoter), "emptied", Property::S31);
}

#[test]
fn emptied_disk_votes() {
    caught(Mutant::EmptyVoter, "emptied", Property::S31);
}

#[test]
fn emptied_disk_votes_and_loses() {
    caught(Mutant::EmptyVoter, "emptied", Property::S10);
}

#[test]
fn damaged_disk_votes() {
    caught(Mutant::Rule(DamagedVoter), "forgetful", Property::S31);
}

#[test]
fn rewound_disk_is_not_told() {
    caught(Mutant::Untold, "forgetful", Property::S1);
}

#[test]
fn lost_wal_counts() {
    caught(Mutant::Rule(LostWalCounts), "relearn", Property::S13);
}

#[test]
fn fence_ignored() {
    caught(Mutant::Rule(FenceIgnored), "fence", Property::S30);
}

#[test]
fn switch_shown_early() {
    caught(Mutant::Rule(SwitchShownEarly), "paths", Property::S28);
}

#[test]
fn donor_by_lsn() {
    caught(Mutant::Rule(DonorByLsn), "terse", Property::S9);
}

#[test]
fn donor_by_tli() {
    caught(Mutant::DonorByTli, "paths-t3l1", Property::S9);
}

#[test]
fn donor_uncompared() {
    caught(Mutant::Rule(DonorUncompared), "paths", Property::S9);
}

#[test]
fn minority_elects() {
    caught(Mutant::Rule(MinorityElects), "base", Property::S18);
}

#[test]
fn no_term_start() {
    caught(Mutant::Rule(NoTermStart), "base", Property::S11);
}

#[test]
fn no_term_start_loses() {
    caught(Mutant::Rule(NoTermStart), "figure-8", Property::S10);
}

#[test]
fn term_kept_over_a_reconnect() {
    caught(Mutant::TermKept, "paths", Property::S26);
}

#[test]
fn term_kept_over_a_reconnect_mixes_logs() {
    caught(Mutant::TermKept, "paths", Property::S6);
}

#[test]
fn joint_majority_of_one_set() {
    caught(Mutant::JointOneSet, "moved", Property::S18);
}

#[test]
fn joint_majority_of_one_set_loses() {
    caught(Mutant::JointOneSet, "moved", Property::S9);
}

#[test]
fn change_before_commit() {
    caught(Mutant::ChangeBeforeCommit, "moved", Property::S9);
}

#[test]
fn many_records() {
    caught(Mutant::ManyRecords, "moved", Property::S33);
}

#[test]
fn answer_before_commit() {
    caught(Mutant::AnswerEarly, "base", Property::S29);
}
