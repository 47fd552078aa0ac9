//! Are commits on this primary safe with us? The judgement over a primary's [`Settings`].
//!
//! A [`Reason`] says why an acknowledged commit could be lost: with any of them the primary is UNPROTECTED. A warning does not touch
//! acknowledged commits but deserves to be known. Both carry a code for machines and a sentence with what to do. The judgement is
//! pure; when it is made, and how often, is the caller's.

use crate::settings::{Sender, Settings};
use crate::standby_names::StandbyNames;
use lsn::Lsn;
use std::collections::BTreeMap;

/// A code and a sentence.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    /// For machines: a few words with hyphens. It does not change between versions.
    pub code: &'static str,
    /// For people.
    pub text: String,
}

/// Why the primary is not protected.
pub type Reason = Finding;
/// What should be known besides.
pub type Warning = Finding;

/// The judgement.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Assessment {
    /// Why the primary is UNPROTECTED; empty if it is protected.
    pub reasons: Vec<Reason>,
    /// What should be known besides.
    pub warnings: Vec<Warning>,
}

impl Assessment {
    /// Whether nothing stands against an acknowledged commit being safe.
    pub fn is_protected(&self) -> bool {
        self.reasons.is_empty()
    }

    /// The judgement when the settings could not be asked.
    pub fn unverified(why: &str) -> Self {
        let text = format!("the primary's settings could not be checked ({why}); see that the SQL connection works");
        Assessment { reasons: vec![Finding { code: "unverified", text }], warnings: Vec::new() }
    }
}

/// Who judges.
#[derive(Clone, Copy, Debug)]
pub struct Observer<'a> {
    /// The `application_name` of our walsender connection.
    pub application_name: &'a str,
    /// The name of our slot.
    pub slot: &'a str,
    /// The backend of our walsender connection, while it streams.
    pub walsender_pid: Option<u32>,
    /// The quorum's commit LSN, if there is one.
    pub commit: Option<Lsn>,
    /// Whether our answers carry an apply position of standbys.
    pub counts_standbys: bool,
}

/// First minor version, per major, that waits for standbys from the first commit after its start.
const STARTUP_RACE_FIXED: [(u32, u32); 5] = [(13, 21), (14, 18), (15, 13), (16, 9), (17, 5)];

/// Judges a primary.
pub fn assess(settings: &Settings, observer: &Observer<'_>) -> Assessment {
    let mut reasons = Findings::default();
    standby_names(settings, observer, &mut reasons);
    commit_settings(settings, &mut reasons);
    slot(settings, observer, &mut reasons);
    other_senders(settings, observer, &mut reasons);
    version(settings, &mut reasons);
    Assessment { reasons: reasons.0, warnings: warnings(settings, observer) }
}

#[derive(Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn add(&mut self, code: &'static str, text: impl Into<String>) {
        self.0.push(Finding { code, text: text.into() });
    }
}

fn standby_names(settings: &Settings, observer: &Observer<'_>, reasons: &mut Findings) {
    let current = StandbyNames::parse(&settings.synchronous_standby_names).ok().flatten();
    if current.as_ref().is_some_and(|names| names.requires(observer.application_name)) {
        return;
    }
    let value = &settings.synchronous_standby_names;
    let problem = match &current {
        None if value.is_empty() => "synchronous_standby_names is empty, so commits wait for nobody".to_owned(),
        None => format!("synchronous_standby_names is {value:?}, which cannot be understood"),
        Some(names) if names.has_wildcard() => {
            format!("synchronous_standby_names is {value:?}, which anybody satisfies")
        }
        Some(_) => {
            format!("synchronous_standby_names is {value:?}, which does not require {}", observer.application_name)
        }
    };
    let line = StandbyNames::requiring(current.as_ref(), observer.application_name).setting_line();
    reasons.add("synchronous-standby-names", format!("{problem}; set {line} and reload"));
}

fn commit_settings(settings: &Settings, reasons: &mut Findings) {
    let value = &settings.synchronous_commit;
    if settings.synchronous_commit_hidden {
        let text = "synchronous_commit is set for our own role, database or connection and hides the server's value; \
                    remove it there (ALTER ROLE … RESET synchronous_commit)";
        reasons.add("synchronous-commit", text);
    } else if !["on", "remote_write", "remote_apply"].contains(&value.as_str()) {
        reasons.add(
            "synchronous-commit",
            format!("synchronous_commit is {value}, so commits do not wait; set synchronous_commit = on"),
        );
    }
    if !settings.fsync {
        reasons.add("fsync", "fsync is off: the primary may lose WAL it has reported as written; set fsync = on");
    }
}

fn slot(settings: &Settings, observer: &Observer<'_>, reasons: &mut Findings) {
    let name = observer.slot;
    match &settings.slot {
        None => reasons.add(
            "slot-lost",
            format!("replication slot {name} does not exist, so the primary may remove WAL the quorum needs"),
        ),
        Some(slot) if slot.is_lost() => {
            reasons.add(
                "slot-lost",
                format!("replication slot {name} has lost its place in the WAL; drop it, then seed the quorum anew"),
            );
        }
        Some(slot) if observer.walsender_pid.is_some() && slot.active_pid != observer.walsender_pid => {
            let text = format!(
                "replication slot {name} is not held by our stream: the two connections reach different servers, or another proposer holds it"
            );
            reasons.add("slot-not-ours", text);
        }
        Some(_) => {}
    }
    let limit = settings.max_slot_wal_keep_size;
    if limit != -1 {
        let text = format!(
            "max_slot_wal_keep_size is {limit} MB, so the primary may drop WAL the quorum does not have; set it to -1"
        );
        reasons.add("slot-size-limit", text);
    }
}

fn other_senders(settings: &Settings, observer: &Observer<'_>, reasons: &mut Findings) {
    if !settings.sees_all_senders {
        let text = "our role may not see other walsenders, so nobody knows whether one takes our place; GRANT pg_monitor TO our role";
        reasons.add("unverified", text);
    }
    let is_ours = |sender: &Sender| Some(sender.pid) == observer.walsender_pid;
    let others = || settings.senders.iter().filter(|sender| sender.is_streaming() && !is_ours(sender));
    for sender in others().filter(|sender| sender.application_name.eq_ignore_ascii_case(observer.application_name)) {
        let text = format!(
            "another client streams under our name {} (backend {}) and may confirm commits in our place; stop it or give it another application_name",
            observer.application_name, sender.pid
        );
        reasons.add("name-taken", text);
    }
    // Two standbys that bear one listed name count twice, and so fill our place without bearing our name.
    let names = StandbyNames::parse(&settings.synchronous_standby_names).ok().flatten();
    let mut bearers: BTreeMap<String, u32> = BTreeMap::new();
    for sender in others() {
        let listed =
            names.iter().flat_map(|names| &names.names).any(|name| name.eq_ignore_ascii_case(&sender.application_name));
        if listed && !sender.application_name.eq_ignore_ascii_case(observer.application_name) {
            *bearers.entry(sender.application_name.to_ascii_lowercase()).or_default() += 1;
        }
    }
    for (name, _) in bearers.into_iter().filter(|(_, count)| *count > 1) {
        let text = format!(
            "several standbys are called {name:?}, a name in synchronous_standby_names, and may confirm commits in our place; give each its own application_name"
        );
        reasons.add("standby-name-shared", text);
    }
}

fn version(settings: &Settings, reasons: &mut Findings) {
    let (major, minor) = (settings.version_num / 10_000, settings.version_num % 10_000);
    if let Some((_, fixed)) = STARTUP_RACE_FIXED.iter().find(|(of, fixed)| *of == major && minor < *fixed) {
        let text = format!(
            "PostgreSQL {major}.{minor} may let commits through unconfirmed while it starts; upgrade to {major}.{fixed} or later"
        );
        reasons.add("start-up-race", text);
    }
}

fn warnings(settings: &Settings, observer: &Observer<'_>) -> Vec<Warning> {
    let mut warnings = Findings::default();
    if settings.restart_after_crash {
        let text = "restart_after_crash is on: after a crash the primary shows transactions that were never acknowledged; \
                    set it to off and start the server through your service manager";
        warnings.add("restart-after-crash", text);
    }
    if !settings.full_page_writes {
        warnings.add(
            "full-page-writes",
            "full_page_writes is off: a torn page cannot be repaired from the WAL; set it to on",
        );
    }
    if settings.synchronous_commit == "remote_apply" && !observer.counts_standbys {
        let text =
            "synchronous_commit is remote_apply, but no standby is counted, so commits wait for ever; set it to on";
        warnings.add("remote-apply", text);
    }
    if settings.idle_replication_slot_timeout != 0 {
        let text = "idle_replication_slot_timeout is set: the slot is lost when the proposer is away for that long; set it to 0";
        warnings.add("idle-slot-timeout", text);
    }
    for setting in settings.role_settings.iter().filter(|setting| ["off", "local"].contains(&setting.value.as_str())) {
        let text = format!(
            "commits of {} do not wait: it has synchronous_commit = {} of its own",
            setting.scope, setting.value
        );
        warnings.add("role-settings", text);
    }
    if let Some(slots) = &settings.synchronized_standby_slots {
        let listed = slots.split(',').any(|slot| slot.trim().trim_matches('"').eq_ignore_ascii_case(observer.slot));
        if !listed && settings.logical_slots > 0 {
            let text = format!(
                "logical decoding shows commits that are not acknowledged yet; add {} to synchronized_standby_slots",
                observer.slot
            );
            warnings.add("logical-decoding", text);
        }
    }
    if let Some(commit) = observer.commit {
        let ours = |sender: &Sender| Some(sender.pid) == observer.walsender_pid;
        let ahead = settings.senders.iter().filter(|sender| !ours(sender) && sender.is_streaming());
        for sender in ahead.filter(|sender| sender.flush.is_some_and(|flush| flush > commit)) {
            let text = format!(
                "standby {:?} streams from the primary itself and is ahead of the quorum; let it stream from the safekeepers",
                sender.application_name
            );
            warnings.add("standby-ahead", text);
        }
    }
    warnings.0
}

#[cfg(test)]
#[path = "assessment_test.rs"]
mod tests;
