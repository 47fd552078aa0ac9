//! The settings of a restored server: what would hurt a clone is taken away, and recovery is told what to do.
//!
//! A restored directory brings the settings of the server it was copied from. With them a clone would wait for standbys it does not
//! have, archive into the archive of the original, or follow it. So `postgresql.auto.conf`, which the server reads last, is rewritten:
//! lines of ours replace those of the same names, everything else stays as it was. `postgresql.conf` keeps all its lines but those that
//! would make the server use another directory (`data_directory` and its kin); these become comments.
//!
//! Pure: text in, text out. What the settings mean: PostgreSQL's documentation, "Archive Recovery" and "Recovery Target".

use std::fmt::Write as _;

/// A setting that was taken from the restored server, with the value it had, so that it can be set again where it is wanted.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
pub struct Neutralised {
    /// The setting.
    pub name: String,
    /// Its value in the copied files.
    pub was: String,
}

/// The settings a restored server must not inherit, with what they become and the major versions that know them.
const NEUTRAL: &[(&str, &str, std::ops::RangeInclusive<u32>)] = &[
    ("synchronous_standby_names", "", 13..=99),
    ("archive_mode", "off", 13..=99),
    ("archive_command", "", 13..=99),
    ("archive_library", "", 15..=99),
    ("archive_cleanup_command", "", 13..=99),
    ("primary_conninfo", "", 13..=99),
    ("primary_slot_name", "", 13..=99),
    ("recovery_end_command", "", 13..=99),
    // A delayed standby would make its own restore wait.
    ("recovery_min_apply_delay", "0", 13..=99),
    ("promote_trigger_file", "", 13..=15),
    ("synchronized_standby_slots", "", 17..=99),
    ("sync_replication_slots", "off", 17..=99),
    ("recovery_target", "", 13..=99),
    ("recovery_target_name", "", 13..=99),
    ("recovery_target_time", "", 13..=99),
    ("recovery_target_xid", "", 13..=99),
    ("recovery_target_lsn", "", 13..=99),
];

/// Settings that only say where recovery goes: nobody wants to hear what they were.
const RECOVERY: [&str; 8] = [
    "restore_command",
    "recovery_target_timeline",
    "recovery_target_inclusive",
    "recovery_target_action",
    "recovery_target_lsn",
    "recovery_target_time",
    "recovery_target_name",
    "recovery_target_xid",
];

/// Settings of `postgresql.conf` that lead out of the restored directory.
const ELSEWHERE: [&str; 4] = ["data_directory", "hba_file", "ident_file", "external_pid_file"];

/// The text of `postgresql.auto.conf` for the restored server.
///
/// `copied` is the text that came with the backup, `major` the server's version, `recovery` the recovery settings in PostgreSQL's own
/// names. None of the values may hold a line break; callers check that.
pub fn auto_conf(copied: &str, major: u32, recovery: &[(String, String)]) -> String {
    let mut ours: Vec<(&str, &str)> = NEUTRAL
        .iter()
        .filter(|(_, _, versions)| versions.contains(&major))
        .map(|(name, value, _)| (*name, *value))
        .filter(|(name, _)| !recovery.iter().any(|(ours, _)| ours == name))
        .collect();
    ours.extend(recovery.iter().map(|(name, value)| (name.as_str(), value.as_str())));
    let mut text = String::new();
    for line in copied.lines() {
        let replaced = setting_of(line).is_some_and(|(name, _)| ours.iter().any(|(ours, _)| *ours == name));
        if !replaced {
            text.push_str(line);
            text.push('\n');
        }
    }
    text.push_str(
        "# By seawall restore: a restored server does not wait, archive or follow like the one it was copied from.\n",
    );
    for (name, value) in ours {
        let quoted = value.replace('\\', "\\\\").replace('\'', "''");
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{name} = '{quoted}'");
    }
    text
}

/// What [`auto_conf`] takes from the copied files: settings with a value of their own that a clone does not get.
/// `copied` are the texts in the order the server reads them.
pub fn neutralised(copied: &[&str], major: u32) -> Vec<Neutralised> {
    let mut found: Vec<Neutralised> = Vec::new();
    for (name, value) in copied.iter().flat_map(|text| text.lines()).filter_map(setting_of) {
        let known = NEUTRAL.iter().find(|(neutral, _, versions)| *neutral == name && versions.contains(&major));
        let Some((_, neutral, _)) = known.filter(|_| !RECOVERY.contains(&name.as_str())) else { continue };
        found.retain(|earlier| earlier.name != name);
        if value != *neutral {
            found.push(Neutralised { name, was: value });
        }
    }
    found
}

/// The text of `postgresql.conf` with the settings that lead to another directory made comments, and how many there were.
pub fn main_conf(copied: &str) -> (String, usize) {
    let mut changed = 0;
    let mut text = String::new();
    for line in copied.lines() {
        if setting_of(line).is_some_and(|(name, _)| ELSEWHERE.contains(&name.as_str())) {
            changed += 1;
            text.push_str("# taken out by seawall restore: ");
        }
        text.push_str(line);
        text.push('\n');
    }
    (text, changed)
}

/// Names and values of all settings in a text, in its order.
pub fn in_text(text: &str) -> Vec<(String, String)> {
    text.lines().filter_map(setting_of).collect()
}

/// Name and value of one line of a configuration file, by PostgreSQL's rules: names in any case, `=` optional, values in single quotes
/// with quotes doubled or escaped, comments behind `#`.
fn setting_of(line: &str) -> Option<(String, String)> {
    let line = line.trim_start();
    let end = line.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == '.')).unwrap_or(line.len());
    let (name, rest) = line.split_at(end);
    if !name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') {
        return None;
    }
    let rest = rest.trim_start();
    let rest = rest.strip_prefix('=').map_or(rest, str::trim_start);
    let value = match rest.strip_prefix('\'') {
        Some(quoted) => unquoted(quoted),
        None => rest.split(|c: char| c.is_whitespace() || c == '#').next().unwrap_or_default().to_owned(),
    };
    Some((name.to_ascii_lowercase(), value))
}

fn unquoted(text: &str) -> String {
    let (mut value, mut chars) = (String::new(), text.chars().peekable());
    while let Some(c) = chars.next() {
        match c {
            '\'' if chars.peek() == Some(&'\'') => value.extend(chars.next()),
            '\'' => break,
            '\\' => value.extend(chars.next()),
            other => value.push(other),
        }
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const COPIED: &str = "# Do not edit\nshared_buffers = '1GB'\nSynchronous_Standby_Names 'seawall, \"it''s\"'\n\
        archive_command = 'cp %p /a/%f' # old\nwork_mem=4MB\n";

    #[test]
    fn what_hurts_a_clone_is_gone_and_the_rest_stays() {
        let recovery = vec![("restore_command".to_owned(), "seawall 'x' %f".to_owned())];
        let text = auto_conf(COPIED, 15, &recovery);
        assert!(text.starts_with("# Do not edit\nshared_buffers = '1GB'\nwork_mem=4MB\n"), "{text}");
        for line in [
            "synchronous_standby_names = ''\n",
            "archive_mode = 'off'\n",
            "archive_command = ''\n",
            "archive_library = ''\n",
            "primary_conninfo = ''\n",
            "primary_slot_name = ''\n",
            "restore_command = 'seawall ''x'' %f'\n",
        ] {
            assert_eq!(text.matches(line).count(), 1, "{line} in {text}");
        }
        assert!(!text.contains("seawall, ") && !text.contains("/a/%f"), "{text}");
    }

    #[test]
    fn a_version_gets_no_setting_it_does_not_know() {
        let of = |major| auto_conf("", major, &[]);
        assert!(!of(14).contains("archive_library") && of(15).contains("archive_library"));
        assert!(of(15).contains("promote_trigger_file") && !of(16).contains("promote_trigger_file"));
        assert!(!of(16).contains("synchronized_standby_slots") && of(17).contains("synchronized_standby_slots"));
    }

    #[test]
    fn what_was_taken_is_told() {
        let conf = "archive_mode = on\nport = 5433\nrecovery_target_lsn = '0/1'\nprimary_conninfo = ''\n";
        let taken = neutralised(&[conf, COPIED], 15);
        let shown: Vec<_> = taken.iter().map(|taken| (taken.name.as_str(), taken.was.as_str())).collect();
        assert_eq!(
            shown,
            [
                ("archive_mode", "on"),
                ("synchronous_standby_names", "seawall, \"it's\""),
                ("archive_command", "cp %p /a/%f")
            ]
        );
        assert_eq!(neutralised(&["archive_mode = on\n", "archive_mode = off\n"], 15), []);
    }

    #[test]
    fn a_restored_directory_does_not_lead_elsewhere() {
        let (text, changed) = main_conf("port = 1\n Data_Directory='/srv/pg'\n#hba_file = 'x'\nhba_file 'y'\n");
        assert_eq!(changed, 2);
        assert_eq!(
            text,
            "port = 1\n# taken out by seawall restore:  Data_Directory='/srv/pg'\n#hba_file = 'x'\n# taken out by seawall restore: hba_file 'y'\n"
        );
    }

    proptest! {
        #[test]
        fn any_text_is_taken(copied in any::<String>()) {
            let text = auto_conf(&copied, 17, &[]);
            prop_assert_eq!(text.matches("\nsynchronous_standby_names = ''\n").count(), 1);
            neutralised(&[&copied], 17);
            main_conf(&copied);
        }

        /// Whatever stood there, in whatever spelling: the last line of a name is ours.
        #[test]
        fn ours_is_the_last_word(name in prop::sample::select(vec!["archive_command", "ARCHIVE_MODE", "Primary_Conninfo"]), equals in any::<bool>(), value in "[a-z' \\\\]{0,12}") {
            let line = format!("{name} {} '{value}'", if equals { "=" } else { "" });
            let text = auto_conf(&line, 15, &[]);
            let lower = name.to_ascii_lowercase();
            let last = text.lines().filter_map(setting_of).filter(|(found, _)| *found == lower).collect::<Vec<_>>();
            prop_assert_eq!(last.len(), 1);
            prop_assert!(last[0].1.is_empty() || last[0].1 == "off");
        }
    }
}
