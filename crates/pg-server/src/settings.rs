//! The file with a server's settings, `seawall.conf`, which its `postgresql.conf` includes.
//!
//! Settings are not given on the command line, because what stands there can no longer be changed by a reload. The include is the
//! last line of `postgresql.conf`, so ours win over it; `ALTER SYSTEM` still wins over ours. Quoting follows the rules of PostgreSQL's
//! configuration files: single quotes, doubled inside; backslash escapes, doubled.

use std::fmt::Write as _;

/// The name of the file beside `postgresql.conf`.
pub(crate) const FILE: &str = "seawall.conf";
/// The line of `postgresql.conf` that includes it.
pub(crate) const INCLUDE: &str = "include_if_exists = 'seawall.conf'";

/// A setting that cannot be written down.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SettingError {
    /// Not a name PostgreSQL would accept.
    #[error("{name:?} is not the name of a setting (letters, digits, underscores, and one dot for an extension's)")]
    Name {
        /// The refused name.
        name: String,
    },
    /// A value with a line break or a NUL byte: a configuration file has one line per setting.
    #[error("the value of {name} holds a line break or a zero byte; give it on one line")]
    Value {
        /// The setting.
        name: String,
    },
}

/// The text of `seawall.conf` for these settings, in their order; for a name given twice the later value counts, as PostgreSQL reads it.
pub(crate) fn render(settings: &[(String, String)]) -> Result<String, SettingError> {
    let mut text = String::from("# Written at each start of this server; changes are overwritten.\n");
    for (name, value) in settings {
        if !is_name(name) {
            return Err(SettingError::Name { name: name.chars().take(80).collect() });
        }
        if value.contains(['\n', '\r', '\0']) {
            return Err(SettingError::Value { name: name.clone() });
        }
        let quoted = value.replace('\\', "\\\\").replace('\'', "''");
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{name} = '{quoted}'");
    }
    Ok(text)
}

fn is_name(name: &str) -> bool {
    let word = |word: &str| {
        word.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    };
    name.len() <= 128 && name.split('.').count() <= 2 && name.split('.').all(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(name: &str, value: &str) -> Result<String, SettingError> {
        render(&[(name.to_owned(), value.to_owned())])
    }

    #[test]
    fn values_are_quoted() {
        assert!(one("a.b_c", r"it's C:\x").unwrap().ends_with("a.b_c = 'it''s C:\\\\x'\n"));
    }

    #[test]
    fn a_setting_cannot_smuggle_another_line() {
        assert!(matches!(one("port", "1\nfsync = off"), Err(SettingError::Value { .. })));
        for name in ["", "a b", "a\nb", "1a", "a.b.c", "a.", "include 'x'", "é"] {
            assert!(matches!(one(name, "1"), Err(SettingError::Name { .. })), "{name}");
        }
    }
}
