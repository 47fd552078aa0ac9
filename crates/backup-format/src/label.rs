//! `backup_label` and `tablespace_map`: the two small files that turn a copied directory into a backup.
//!
//! Without `backup_label` a server starts a copy from the checkpoint its control file names, which silently corrupts it. Formats: the
//! server's `build_backup_content`, 13 to 18.

use lsn::{Lsn, Tli};

/// Longest file of either kind that is read: a map line is about a path long, and there are rarely ten tablespaces.
const MAX_BYTES: usize = 1 << 20;

/// What a `backup_label` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupLabel {
    /// Where recovery begins to read: the redo position of the backup's checkpoint.
    pub start: Lsn,
    /// The segment that holds [`BackupLabel::start`].
    pub segment: String,
    /// The checkpoint record.
    pub checkpoint: Lsn,
    /// Taken from a standby.
    pub from_standby: bool,
    /// The server's text, in its `log_timezone`.
    pub start_time: String,
    /// What the taker called it.
    pub label: String,
    /// The TLI it begins on. Written since PostgreSQL 11.
    pub tli: Tli,
    /// An incremental backup (17 and later): where the one before began. Such a directory does not start until it is combined.
    pub incremental_from: Option<(Lsn, Tli)>,
}

/// Bytes that are not a `backup_label` or `tablespace_map`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LabelError {
    /// Too long, or not text.
    #[error("{0} is longer than 1 MiB or not text")]
    NotText(&'static str),
    /// A line that must be there is not, or says something else.
    #[error("backup_label has no valid line {0:?}")]
    Missing(&'static str),
    /// A line of the map.
    #[error("line {0} of tablespace_map is not an object id and an absolute path")]
    BadLine(usize),
}

impl BackupLabel {
    /// Reads the file.
    pub fn parse(bytes: &[u8]) -> Result<BackupLabel, LabelError> {
        let text = text(bytes).ok_or(LabelError::NotText("backup_label"))?;
        let find = |key: &'static str| {
            let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(": "));
            line.ok_or(LabelError::Missing(key))
        };
        let position = |key| find(key)?.parse::<Lsn>().map_err(|_| LabelError::Missing(key));
        let start = find("START WAL LOCATION")?;
        let (start, segment) = start
            .strip_suffix(')')
            .and_then(|start| start.split_once(" (file "))
            .and_then(|(start, segment)| Some((start.parse::<Lsn>().ok()?, segment.to_owned())))
            .ok_or(LabelError::Missing("START WAL LOCATION"))?;
        let from_standby = match find("BACKUP FROM")? {
            "standby" => true,
            // What a primary was called up to 13.
            "primary" | "master" => false,
            _ => return Err(LabelError::Missing("BACKUP FROM")),
        };
        let tli = find("START TIMELINE")?.parse().ok().filter(|tli| *tli != Tli(0));
        let incremental_from = match (position("INCREMENTAL FROM LSN"), find("INCREMENTAL FROM TLI")) {
            (Ok(lsn), Ok(tli)) => Some((lsn, tli.parse().map_err(|_| LabelError::Missing("INCREMENTAL FROM TLI"))?)),
            (Err(LabelError::Missing(_)), Err(_)) if !text.contains("\nINCREMENTAL FROM ") => None,
            _ => return Err(LabelError::Missing("INCREMENTAL FROM LSN")),
        };
        Ok(BackupLabel {
            start,
            segment,
            checkpoint: position("CHECKPOINT LOCATION")?,
            from_standby,
            start_time: find("START TIME")?.to_owned(),
            label: find("LABEL")?.to_owned(),
            tli: tli.ok_or(LabelError::Missing("START TIMELINE"))?,
            incremental_from,
        })
    }
}

/// What a `tablespace_map` says: the links the server makes in `pg_tblspc` when it starts the backup.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TablespaceMap(
    /// Object id and absolute path of each tablespace.
    pub Vec<(u32, String)>,
);

impl TablespaceMap {
    /// Reads the file. A newline, carriage return or backslash in a path is escaped by a backslash.
    pub fn parse(bytes: &[u8]) -> Result<TablespaceMap, LabelError> {
        let text = text(bytes).ok_or(LabelError::NotText("tablespace_map"))?;
        let mut lines = vec![String::new()];
        let mut escaped = false;
        for character in text.chars() {
            match (character, escaped) {
                ('\\', false) => escaped = true,
                ('\n' | '\r', false) => lines.push(String::new()),
                (character, _) => {
                    escaped = false;
                    if let Some(line) = lines.last_mut() {
                        line.push(character);
                    }
                }
            }
        }
        let entry = |(number, line): (usize, &String)| {
            let parsed = line.split_once(' ').and_then(|(oid, path)| Some((oid.parse::<u32>().ok()?, path.to_owned())));
            parsed.filter(|(oid, path)| *oid > 0 && path.starts_with('/')).ok_or(LabelError::BadLine(number + 1))
        };
        lines
            .iter()
            .enumerate()
            .filter(|(_, line)| !line.is_empty())
            .map(entry)
            .collect::<Result<_, _>>()
            .map(TablespaceMap)
    }

    /// The file's bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut text = String::new();
        for (oid, path) in &self.0 {
            text.push_str(&format!("{oid} "));
            for character in path.chars() {
                if matches!(character, '\n' | '\r' | '\\') {
                    text.push('\\');
                }
                text.push(character);
            }
            text.push('\n');
        }
        text.into_bytes()
    }
}

fn text(bytes: &[u8]) -> Option<&str> {
    (bytes.len() <= MAX_BYTES).then(|| std::str::from_utf8(bytes).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LABEL: &str = "START WAL LOCATION: 0/2000028 (file 000000010000000000000002)\n\
        CHECKPOINT LOCATION: 0/2000060\nBACKUP METHOD: streamed\nBACKUP FROM: primary\n\
        START TIME: 2024-05-01 10:00:00 CEST\nLABEL: nightly\nSTART TIMELINE: 1\n";

    #[test]
    fn a_label_of_a_full_backup() {
        let label = BackupLabel::parse(LABEL.as_bytes()).unwrap();
        assert_eq!((label.start, label.checkpoint, label.tli), (Lsn(0x200_0028), Lsn(0x200_0060), Tli(1)));
        assert_eq!(label.segment, "000000010000000000000002");
        assert!(!label.from_standby && label.incremental_from.is_none());
        let old = LABEL.replace("primary", "master");
        assert!(!BackupLabel::parse(old.as_bytes()).unwrap().from_standby);
        let standby = LABEL.replace("primary", "standby");
        assert!(BackupLabel::parse(standby.as_bytes()).unwrap().from_standby);
    }

    #[test]
    fn an_incremental_one_says_so() {
        let text = format!("{LABEL}INCREMENTAL FROM LSN: 0/1000028\nINCREMENTAL FROM TLI: 1\n");
        assert_eq!(BackupLabel::parse(text.as_bytes()).unwrap().incremental_from, Some((Lsn(0x100_0028), Tli(1))));
        let half = format!("{LABEL}INCREMENTAL FROM LSN: 0/1000028\n");
        assert!(BackupLabel::parse(half.as_bytes()).is_err(), "it must not pass for a full one");
    }

    #[test]
    fn every_line_is_needed() {
        for dropped in ["START WAL", "CHECKPOINT", "BACKUP FROM", "START TIME:", "LABEL", "START TIMELINE"] {
            let text: String =
                LABEL.lines().filter(|line| !line.starts_with(dropped)).map(|line| format!("{line}\n")).collect();
            assert!(BackupLabel::parse(text.as_bytes()).is_err(), "{dropped}");
        }
    }

    proptest! {
        #[test]
        fn maps_survive_a_round_trip(paths in proptest::collection::vec("/[a-z\\\\\n\r é]{0,20}", 0..4)) {
            let map = TablespaceMap(paths.into_iter().enumerate().map(|(at, path)| (16384 + at as u32, path)).collect());
            prop_assert_eq!(TablespaceMap::parse(&map.to_bytes()), Ok(map));
        }

        #[test]
        fn any_text_is_an_error_at_worst(text in "[A-Z0-9:/() \n\\\\]{0,200}") {
            let _ = BackupLabel::parse(text.as_bytes());
            let _ = TablespaceMap::parse(text.as_bytes());
        }
    }

    #[test]
    fn a_map_of_something_else_is_refused() {
        for text in ["x /a\n", "0 /a\n", "16384 relative\n", "16384\n"] {
            assert!(TablespaceMap::parse(text.as_bytes()).is_err(), "{text:?}");
        }
    }
}
