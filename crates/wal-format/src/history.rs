//! Timeline history files: which TLIs a TLI descends from, and where each was left.
//!
//! Text, one line per ancestor, oldest first: `parent TLI`, tab, `switch point`, tab, `reason`. PostgreSQL separates lines by
//! blank ones when it extends a history. Blank lines and lines that begin with `#` mean nothing; text behind the switch
//! point is a comment. Source: PostgreSQL's `access/transam/timeline.c`.
//!
//! Invariants: the TLIs strictly increase and stay below the file's own; switch points never decrease; there are at most
//! [`MAX_ENTRIES`].

use lsn::{Lsn, Tli};
use std::fmt;

/// The longest file that is read, in bytes.
pub const MAX_BYTES: usize = 1 << 20;
/// The most ancestors a history may have.
pub const MAX_ENTRIES: usize = 4096;

/// One ancestor.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HistoryEntry {
    /// The ancestor.
    pub tli: Tli,
    /// The first position that is not on it any more.
    pub switch: Lsn,
    /// PostgreSQL's words for why; bytes that are not UTF-8 were replaced.
    pub reason: String,
}

/// The ancestors of one TLI. Prints as the file's content.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct History {
    tli: Tli,
    entries: Vec<HistoryEntry>,
}

/// Text that is not a history file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HistoryError {
    /// Longer than [`MAX_BYTES`].
    #[error("the history file has {0} bytes, more than any history has ({MAX_BYTES})")]
    TooLong(usize),
    /// More ancestors than [`MAX_ENTRIES`].
    #[error("the history file names more than {MAX_ENTRIES} ancestors")]
    TooMany,
    /// A line that does not begin with a TLI and an LSN.
    #[error("line {line} of the history file is not \"TLI, tab, LSN\": {text:?}")]
    Line {
        /// Counted from 1.
        line: usize,
        /// How it begins.
        text: String,
    },
    /// TLIs out of order, TLI 0, or one not below the file's own.
    #[error("TLI {0} stands at the wrong place in the history file of TLI {1}")]
    Order(Tli, Tli),
    /// A switch point below the one before.
    #[error("TLI {0} was left below the point where its own parent was left")]
    Switch(Tli),
}

impl History {
    /// The history of `tli`, oldest ancestor first.
    pub fn new(tli: Tli, entries: Vec<HistoryEntry>) -> Result<History, HistoryError> {
        if entries.len() > MAX_ENTRIES {
            return Err(HistoryError::TooMany);
        }
        let (mut last, mut switch) = (Tli(0), Lsn(0));
        for entry in &entries {
            if entry.tli <= last || entry.tli >= tli {
                return Err(HistoryError::Order(entry.tli, tli));
            }
            if entry.switch < switch {
                return Err(HistoryError::Switch(entry.tli));
            }
            (last, switch) = (entry.tli, entry.switch);
        }
        Ok(History { tli, entries })
    }

    /// Reads the content of `tli`'s history file.
    pub fn parse(tli: Tli, bytes: &[u8]) -> Result<History, HistoryError> {
        if bytes.len() > MAX_BYTES {
            return Err(HistoryError::TooLong(bytes.len()));
        }
        let mut entries = Vec::new();
        for (index, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
            let text = String::from_utf8_lossy(line);
            let text = text.trim();
            if text.is_empty() || text.starts_with('#') {
                continue;
            }
            let entry = parse_line(text)
                .ok_or_else(|| HistoryError::Line { line: index + 1, text: text.chars().take(60).collect() })?;
            if entries.len() == MAX_ENTRIES {
                return Err(HistoryError::TooMany);
            }
            entries.push(entry);
        }
        History::new(tli, entries)
    }

    /// The TLI whose history this is.
    pub fn tli(&self) -> Tli {
        self.tli
    }

    /// The ancestors, oldest first.
    pub fn entries(&self) -> &[HistoryEntry] {
        &self.entries
    }

    /// The file's name: 8 upper-case hex digits and `.history`.
    pub fn file_name(tli: Tli) -> String {
        format!("{:08X}.history", tli.0)
    }

    /// Reads a history file's name back; `None` if it is not one.
    pub fn parse_file_name(name: &str) -> Option<Tli> {
        let digits = name.strip_suffix(".history")?;
        let upper_hex = |b: u8| b.is_ascii_digit() || (b'A'..=b'F').contains(&b);
        let plausible = digits.len() == 8 && digits.bytes().all(upper_hex);
        plausible.then(|| u32::from_str_radix(digits, 16).ok()).flatten().filter(|tli| *tli != 0).map(Tli)
    }
}

fn parse_line(text: &str) -> Option<HistoryEntry> {
    let (tli, rest) = text.split_once(char::is_whitespace)?;
    let rest = rest.trim_start();
    let (switch, reason) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    Some(HistoryEntry { tli: tli.parse().ok()?, switch: switch.parse().ok()?, reason: reason.trim().to_owned() })
}

impl fmt::Display for History {
    /// As PostgreSQL writes it, blank lines between ancestors included.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, entry) in self.entries.iter().enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            writeln!(f, "{separator}{}\t{}\t{}", entry.tli, entry.switch, entry.reason)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_what_postgresql_writes() {
        let text = "1\t0/3063B90\tno recovery target specified\n\n2\t0/702F078\tbefore 2000-01-01 01:00:00+01\n";
        let history = History::parse(Tli(3), text.as_bytes()).unwrap();
        assert_eq!(history.entries().len(), 2);
        assert_eq!((history.entries()[1].tli, history.entries()[1].switch), (Tli(2), Lsn(0x702_F078)));
        assert_eq!(history.to_string(), text);
        assert_eq!(History::parse(Tli(2), b"# a word\r\n1 0/10\r\n").unwrap().entries()[0].reason, "");
        assert!(History::parse(Tli(2), b"").unwrap().entries().is_empty());
    }

    #[test]
    fn refuses_what_is_not_a_history() {
        for bad in ["1", "1\t", "x\t0/1\ty", "1\t0\ty", "0\t0/1", "3\t0/1", "1\t0/5\n1\t0/6", "1\t0/5\n2\t0/4"] {
            assert!(History::parse(Tli(3), bad.as_bytes()).is_err(), "{bad:?}");
        }
        assert!(matches!(History::parse(Tli(3), &vec![b'\n'; MAX_BYTES + 1]), Err(HistoryError::TooLong(_))));
        let many: String = (1..=MAX_ENTRIES + 1).map(|tli| format!("{tli}\t0/1\t\n")).collect();
        assert_eq!(History::parse(Tli(u32::MAX), many.as_bytes()), Err(HistoryError::TooMany));
    }

    #[test]
    fn names() {
        assert_eq!(History::file_name(Tli(26)), "0000001A.history");
        assert_eq!(History::parse_file_name("0000001A.history"), Some(Tli(26)));
        for bad in ["", ".history", "0000001a.history", "00000000.history", "000000001.history", "0000001A.hist"] {
            assert_eq!(History::parse_file_name(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn parsing_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = History::parse(Tli(9), &bytes);
        }

        #[test]
        fn round_trip(steps in proptest::collection::vec((1u32..5, 0u64..1 << 50, "[a-z ]{0,20}"), 0..8)) {
            let (mut tli, mut switch) = (0, 0);
            let entries: Vec<_> = steps.into_iter().map(|(next, by, reason)| {
                tli += next;
                switch += by;
                HistoryEntry { tli: Tli(tli), switch: Lsn(switch), reason: reason.trim().to_owned() }
            }).collect();
            let history = History::new(Tli(tli + 1), entries).unwrap();
            prop_assert_eq!(History::parse(Tli(tli + 1), history.to_string().as_bytes()).unwrap(), history);
        }
    }
}
