//! Each reason and each warning alone, and that nothing else speaks.

use super::*;
use crate::settings::{RoleSetting, Slot};

const OBSERVER: Observer<'static> = Observer {
    application_name: "seawall",
    slot: "seawall",
    walsender_pid: Some(7),
    commit: Some(Lsn(100)),
    counts_standbys: false,
};

fn sender(pid: u32, name: &str, state: &str, flush: u64) -> Sender {
    Sender { pid, application_name: name.to_owned(), state: state.to_owned(), flush: Some(Lsn(flush)) }
}

/// A primary with nothing to say against it.
fn good() -> Settings {
    Settings {
        version_num: 170005,
        sees_all_senders: true,
        wal_level: "replica".to_owned(),
        synchronous_standby_names: "FIRST 1 (seawall)".to_owned(),
        synchronous_commit: "on".to_owned(),
        fsync: true,
        full_page_writes: true,
        max_slot_wal_keep_size: -1,
        synchronized_standby_slots: Some(String::new()),
        slot: Some(Slot {
            restart_lsn: Some(Lsn(50)),
            wal_status: "reserved".to_owned(),
            active_pid: Some(7),
            physical: true,
        }),
        senders: vec![sender(7, "seawall", "streaming", 100)],
        ..Settings::default()
    }
}

fn codes(change: impl FnOnce(&mut Settings)) -> (Vec<&'static str>, Vec<&'static str>) {
    let mut settings = good();
    change(&mut settings);
    let assessment = assess(&settings, &OBSERVER);
    assert_eq!(assessment.is_protected(), assessment.reasons.is_empty());
    let codes = |findings: &[Finding]| findings.iter().map(|finding| finding.code).collect();
    (codes(&assessment.reasons), codes(&assessment.warnings))
}

fn reason(change: impl FnOnce(&mut Settings)) -> &'static str {
    let (reasons, warnings) = codes(change);
    assert_eq!((reasons.len(), warnings.len()), (1, 0), "{reasons:?} {warnings:?}");
    reasons[0]
}

fn warning(change: impl FnOnce(&mut Settings)) -> &'static str {
    let (reasons, warnings) = codes(change);
    assert_eq!((reasons.len(), warnings.len()), (0, 1), "{reasons:?} {warnings:?}");
    warnings[0]
}

#[test]
fn a_good_primary_is_protected_without_a_word() {
    assert_eq!(codes(|_| ()), (vec![], vec![]));
    assert_eq!(codes(|settings| settings.synchronous_commit = "remote_write".to_owned()), (vec![], vec![]));
}

#[test]
fn names_that_do_not_require_us() {
    for value in ["", "*", "FIRST 1 (seawall, other)", "other", "FIRST 2 (seawall)", "not a value"] {
        assert_eq!(
            reason(|settings| settings.synchronous_standby_names = value.to_owned()),
            "synchronous-standby-names",
            "{value}"
        );
    }
    assert_eq!(
        codes(|settings| settings.synchronous_standby_names = "ANY 2 (\"Seawall\", b)".to_owned()),
        (vec![], vec![])
    );
}

#[test]
fn the_line_to_set_is_said_exactly() {
    let text = |value: &str| {
        let settings = Settings { synchronous_standby_names: value.to_owned(), ..good() };
        assess(&settings, &OBSERVER).reasons[0].text.clone()
    };
    assert!(text("").contains("set synchronous_standby_names = 'FIRST 1 (seawall)' and reload"), "{}", text(""));
    assert!(
        text("a, b").contains("set synchronous_standby_names = 'FIRST 3 (seawall, a, b)' and reload"),
        "{}",
        text("a, b")
    );
}

#[test]
fn settings_that_let_commits_through() {
    for value in ["off", "local", ""] {
        assert_eq!(reason(|settings| settings.synchronous_commit = value.to_owned()), "synchronous-commit");
    }
    assert_eq!(reason(|settings| settings.synchronous_commit_hidden = true), "synchronous-commit");
    assert_eq!(reason(|settings| settings.fsync = false), "fsync");
    assert_eq!(reason(|settings| settings.max_slot_wal_keep_size = 0), "slot-size-limit");
}

#[test]
fn a_slot_that_is_gone_or_not_ours() {
    assert_eq!(reason(|settings| settings.slot = None), "slot-lost");
    let with = |change: fn(&mut Slot)| reason(|settings| change(settings.slot.as_mut().unwrap()));
    assert_eq!(with(|slot| slot.wal_status = "lost".to_owned()), "slot-lost");
    assert_eq!(with(|slot| slot.restart_lsn = None), "slot-lost");
    assert_eq!(with(|slot| slot.active_pid = Some(8)), "slot-not-ours");
    assert_eq!(with(|slot| slot.active_pid = None), "slot-not-ours");
    // Before our stream runs nobody holds it, and that says nothing.
    let mut settings = good();
    settings.slot.as_mut().unwrap().active_pid = None;
    assert!(
        assess(&settings, &Observer { walsender_pid: None, ..OBSERVER })
            .reasons
            .iter()
            .all(|found| found.code == "name-taken")
    );
}

#[test]
fn others_who_may_answer_for_us() {
    for state in ["streaming", "catchup", "stopping"] {
        assert_eq!(reason(|settings| settings.senders.push(sender(8, "SEAWALL", state, 1))), "name-taken");
    }
    assert_eq!(codes(|settings| settings.senders.push(sender(8, "seawall", "backup", 1))), (vec![], vec![]));
    assert_eq!(reason(|settings| settings.sees_all_senders = false), "unverified");
}

#[test]
fn two_standbys_of_one_listed_name_fill_our_place() {
    let shared = |names: [&str; 2]| {
        codes(|settings| {
            settings.synchronous_standby_names = "FIRST 2 (seawall, b)".to_owned();
            settings.senders.extend([sender(8, names[0], "streaming", 1), sender(9, names[1], "streaming", 1)]);
        })
    };
    assert_eq!(shared(["b", "B"]), (vec!["standby-name-shared"], vec![]));
    assert_eq!(shared(["b", "c"]), (vec![], vec![]));
    assert_eq!(shared(["c", "c"]), (vec![], vec![]));
}

#[test]
fn minors_with_the_start_up_race() {
    for (version, bad) in [
        (130020, true),
        (130021, false),
        (140017, true),
        (140018, false),
        (150012, true),
        (150013, false),
        (160008, true),
        (160009, false),
        (170004, true),
        (170005, false),
        (180000, false),
    ] {
        let (reasons, _) = codes(|settings| settings.version_num = version);
        assert_eq!(reasons, if bad { vec!["start-up-race"] } else { vec![] }, "{version}");
    }
}

#[test]
fn warnings_do_not_make_it_unprotected() {
    assert_eq!(warning(|settings| settings.restart_after_crash = true), "restart-after-crash");
    assert_eq!(warning(|settings| settings.full_page_writes = false), "full-page-writes");
    assert_eq!(warning(|settings| settings.synchronous_commit = "remote_apply".to_owned()), "remote-apply");
    assert_eq!(warning(|settings| settings.idle_replication_slot_timeout = 60), "idle-slot-timeout");
    let role = |value: &str| RoleSetting { scope: "role app".to_owned(), value: value.to_owned() };
    assert_eq!(warning(|settings| settings.role_settings = vec![role("off"), role("on")]), "role-settings");
    assert_eq!(warning(|settings| settings.logical_slots = 1), "logical-decoding");
    assert_eq!(warning(|settings| settings.senders.push(sender(8, "reports", "streaming", 101))), "standby-ahead");
    let listed = |settings: &mut Settings| {
        settings.logical_slots = 1;
        settings.synchronized_standby_slots = Some("other, seawall".to_owned());
        settings.senders.push(sender(8, "reports", "streaming", 100));
    };
    assert_eq!(codes(listed), (vec![], vec![]));
}

#[test]
fn what_cannot_be_asked_is_unprotected() {
    let assessment = Assessment::unverified("connection refused");
    assert!(!assessment.is_protected());
    assert_eq!(assessment.reasons[0].code, "unverified");
}
