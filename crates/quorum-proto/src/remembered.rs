//! What safekeepers remember of each other: columns that stand beside those of a LOG_STATUS row.
//!
//! A safekeeper tells what it has promised, durably; its peers keep the highest they ever heard of each disk. One that starts asks
//! them: if it finds less on its disk than they remember, the disk is an older copy of itself, or lost writes, and it must not
//! vote. A run of a safekeeper has a random *boot id*, so that what peers learned in this run is not held against its start.
//!
//! Columns, all text, empty if there is nothing to tell; a safekeeper without them remembers nothing:
//!
//! | column | form |
//! |---|---|
//! | `boot_id` | 16 hex digits |
//! | `promise` | `TERM:LOG_TERM@LSN` |
//! | `oldest_lsn` | the first byte still there, as an LSN |
//! | `archived` | `LSN..LSN`: what its archive holds without a gap; only from the safekeeper that uploads |
//! | `remembers` | `NODE:DISK:BOOT:PROMISE:PROMISE;…`: in its last known run, and before |

use crate::Error;
use lsn::{DiskId, Lsn, NodeId, Term};
use std::fmt;
use std::str::FromStr;

/// Most entries one row may hold: more disks than a record can name never voted for one cluster at a time.
const MAX_ENTRIES: usize = 256;

/// One run of a safekeeper process, a random number.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct BootId(pub u64);

/// What one disk has promised one cluster, durably. The default is: nothing.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Promise {
    /// The highest term promised.
    pub term: Term,
    /// The highest term whose leader's history was adopted while it was the promised term; 0 if none was seen.
    pub log_term: Term,
    /// The highest flush LSN in that term; it never falls within the term.
    pub flush: Lsn,
}

impl Promise {
    /// Everything that either says.
    pub fn join(self, other: Promise) -> Promise {
        let log = (self.log_term, self.flush).max((other.log_term, other.flush));
        Promise { term: self.term.max(other.term), log_term: log.0, flush: log.1 }
    }

    /// Whether nothing was promised.
    pub fn is_empty(&self) -> bool {
        *self == Promise::default()
    }
}

/// What one safekeeper remembers of one disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Memory {
    /// Whose disk.
    pub node: NodeId,
    /// Which one.
    pub disk: DiskId,
    /// The run it was last seen in.
    pub boot: BootId,
    /// What it promised in that run, as far as it was heard.
    pub latest: Promise,
    /// What it promised in runs before.
    pub earlier: Promise,
}

impl Memory {
    /// What was promised before the run `boot`.
    pub fn before(&self, boot: BootId) -> Promise {
        if self.boot == boot { self.earlier } else { self.earlier.join(self.latest) }
    }

    /// Takes in what was heard in the run `boot`. Returns whether anything is new.
    pub fn observe(&mut self, boot: BootId, promise: Promise) -> bool {
        let old = *self;
        if self.boot != boot {
            (self.earlier, self.latest, self.boot) = (self.earlier.join(self.latest), Promise::default(), boot);
        }
        self.latest = self.latest.join(promise);
        *self != old
    }
}

/// WAL of a log that its archive holds without a gap: `LSN..LSN`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Archived {
    /// The first byte, valid.
    pub from: Lsn,
    /// The byte after the last one, not below the first.
    pub to: Lsn,
}

/// Text that is no [`Archived`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not two LSNs with two dots between, the lower one first")]
pub struct NotArchived;

impl fmt::Display for Archived {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..{}", self.from, self.to)
    }
}

impl FromStr for Archived {
    type Err = NotArchived;

    fn from_str(text: &str) -> Result<Archived, NotArchived> {
        let (from, to) = text.split_once("..").ok_or(NotArchived)?;
        let (from, to): (Lsn, Lsn) = from.parse().ok().zip(to.parse().ok()).ok_or(NotArchived)?;
        (from.is_valid() && from <= to).then_some(Archived { from, to }).ok_or(NotArchived)
    }
}

/// The columns beside a row.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PeerColumns {
    /// This run of the safekeeper; `None` from one that does not tell.
    pub boot: Option<BootId>,
    /// What it has promised; `None` while something is on its way to the disk.
    pub promise: Option<Promise>,
    /// The first byte it still has; `None` if its log is empty.
    pub oldest: Option<Lsn>,
    /// What the archive holds, if this safekeeper uploads and so knows it.
    pub archived: Option<Archived>,
    /// What it remembers of others.
    pub remembers: Vec<Memory>,
}

impl PeerColumns {
    /// Their names, in the order of [`PeerColumns::to_values`].
    pub const COLUMNS: [&'static str; 5] = ["boot_id", "promise", "oldest_lsn", "archived", "remembers"];

    /// The values, all text.
    pub fn to_values(&self) -> [String; 5] {
        let remembers: Vec<String> = self.remembers.iter().map(ToString::to_string).collect();
        [
            self.boot.map(|boot| boot.to_string()).unwrap_or_default(),
            self.promise.map(|promise| promise.to_string()).unwrap_or_default(),
            self.oldest.map(|oldest| oldest.to_string()).unwrap_or_default(),
            self.archived.map(|archived| archived.to_string()).unwrap_or_default(),
            remembers.join(";"),
        ]
    }

    /// Reads them; `value` gives the text of a column by its name, `None` if the row has no such column.
    pub fn from_row<'a>(value: impl Fn(&str) -> Option<&'a str>) -> Result<Self, Error> {
        let text = |column: &str| value(column).unwrap_or_default();
        let remembers: Vec<&str> = text("remembers").split(';').filter(|entry| !entry.is_empty()).collect();
        if remembers.len() > MAX_ENTRIES {
            return Err(Error::Column { column: "remembers", problem: format!("longer than {MAX_ENTRIES} entries") });
        }
        Ok(PeerColumns {
            boot: parse("boot_id", text("boot_id"))?,
            promise: parse("promise", text("promise"))?,
            oldest: parse("oldest_lsn", text("oldest_lsn"))?,
            archived: parse("archived", text("archived"))?,
            remembers: remembers
                .into_iter()
                .map(|entry| entry.parse().map_err(|_| unreadable("remembers", entry)))
                .collect::<Result<_, _>>()?,
        })
    }
}

fn parse<T: FromStr>(column: &'static str, text: &str) -> Result<Option<T>, Error> {
    if text.is_empty() { Ok(None) } else { text.parse().map(Some).map_err(|_| unreadable(column, text)) }
}

fn unreadable(column: &'static str, text: &str) -> Error {
    let shown: String = text.chars().take(80).collect();
    Error::Column { column, problem: format!("not understood: {shown:?}") }
}

/// Text that is none of the forms above.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a promise, a boot id or a memory of one")]
pub struct NotAPromise;

impl fmt::Display for BootId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl FromStr for BootId {
    type Err = NotAPromise;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let hex = text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        hex.then(|| u64::from_str_radix(text, 16).ok()).flatten().map(BootId).ok_or(NotAPromise)
    }
}

impl fmt::Display for Promise {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}@{}", self.term, self.log_term, self.flush)
    }
}

impl FromStr for Promise {
    type Err = NotAPromise;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parts = || {
            let (term, log) = text.split_once(':')?;
            let (log_term, flush) = log.split_once('@')?;
            Some(Promise { term: term.parse().ok()?, log_term: log_term.parse().ok()?, flush: flush.parse().ok()? })
        };
        parts().filter(|promise| promise.log_term <= promise.term).ok_or(NotAPromise)
    }
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Memory { node, disk, boot, latest, earlier } = self;
        write!(f, "{node}:{disk}:{boot}:{latest}:{earlier}")
    }
}

impl FromStr for Memory {
    type Err = NotAPromise;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parts = || {
            let mut parts = text.split(':');
            let mut next = || parts.next();
            let (node, disk, boot) = (next()?.parse().ok()?, next()?.parse().ok()?, next()?.parse().ok()?);
            let latest = format!("{}:{}", next()?, next()?).parse().ok()?;
            let earlier = format!("{}:{}", next()?, next()?).parse().ok()?;
            next().is_none().then_some(Memory { node, disk, boot, latest, earlier })
        };
        parts().ok_or(NotAPromise)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn promise(term: u64, log_term: u64, flush: u64) -> Promise {
        Promise { term: Term(term), log_term: Term(log_term), flush: Lsn(flush) }
    }

    fn memory(boot: u64, latest: Promise, earlier: Promise) -> Memory {
        Memory { node: NodeId(3), disk: DiskId([7; 16]), boot: BootId(boot), latest, earlier }
    }

    fn read(values: &[String]) -> Result<PeerColumns, Error> {
        PeerColumns::from_row(|name| {
            let index = PeerColumns::COLUMNS.iter().position(|column| *column == name)?;
            values.get(index).map(String::as_str)
        })
    }

    #[test]
    fn what_is_told_is_read() {
        let columns = PeerColumns {
            boot: Some(BootId(0xab)),
            promise: Some(promise(7, 5, 0x1_0000_0028)),
            oldest: Some(Lsn(0x1_0000_0000)),
            archived: Some(Archived { from: Lsn(0x100_0000), to: Lsn(0x1_0000_0028) }),
            remembers: vec![memory(1, promise(7, 5, 9), Promise::default()); 2],
        };
        assert_eq!(columns.to_values()[0], "00000000000000ab");
        assert_eq!(columns.to_values()[1], "7:5@1/28");
        assert_eq!(read(&columns.to_values()).unwrap(), columns);
        assert_eq!(read(&PeerColumns::default().to_values()).unwrap(), PeerColumns::default());
        assert_eq!(read(&[]).unwrap(), PeerColumns::default(), "an older safekeeper has no such columns");
    }

    #[test]
    fn nonsense_is_refused() {
        for (column, text) in [
            (0, "ab"),
            (0, "00000000000000zz"),
            (1, "1"),
            (1, "1:2@0/5"),
            (1, "2:1@5"),
            (2, "x"),
            (3, "0/1000000"),
            (3, "0/0..0/1000000"),
            (3, "0/2000000..0/1000000"),
            (4, "1:2"),
            (4, "3:;"),
        ] {
            let mut values = PeerColumns::default().to_values();
            values[column] = text.to_owned();
            assert!(read(&values).is_err(), "{column} {text}");
        }
        let remembers = vec![memory(1, Promise::default(), Promise::default()); MAX_ENTRIES + 1];
        let many = PeerColumns { remembers, ..PeerColumns::default() };
        assert!(read(&many.to_values()).is_err());
    }

    #[test]
    fn what_was_learned_in_a_run_is_not_held_against_its_start() {
        let mut memory = memory(1, promise(3, 3, 500), Promise::default());
        assert!(!memory.observe(BootId(1), promise(3, 3, 400)), "the highest is kept");
        assert_eq!(memory.before(BootId(2)), promise(3, 3, 500));
        assert!(memory.observe(BootId(2), promise(4, 0, 0)));
        assert!(memory.observe(BootId(2), promise(5, 5, 100)));
        assert_eq!(memory.before(BootId(2)), promise(3, 3, 500));
        assert_eq!(memory.before(BootId(3)), promise(5, 5, 100), "a later leader may have cut");
    }

    proptest! {
        #[test]
        fn join_is_above_both(a: [u16; 3], b: [u16; 3]) {
            let of = |v: [u16; 3]| promise(u64::from(v[0]), u64::from(v[1]), u64::from(v[2]));
            let (a, b) = (of(a), of(b));
            prop_assert_eq!(a.join(b), b.join(a));
            prop_assert_eq!(a.join(b).join(a), a.join(b));
            prop_assert!(a.join(b).term >= a.term && (a.join(b).log_term, a.join(b).flush) >= (a.log_term, a.flush));
        }

        #[test]
        fn random_text_never_panics(text in ".{0,80}") {
            let _ = read(&[text.clone(), text.clone(), text.clone(), text]);
        }
    }
}
