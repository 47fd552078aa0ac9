//! What a person asks for: the moment to which a database is brought back.

use jiff::Timestamp;
use lsn::Lsn;

/// A moment in a log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Target {
    /// Everything there is.
    Latest,
    /// Everything that ends at or below this position.
    Lsn(Lsn),
    /// Every transaction that was committed at or before this moment, by the clock of the server that wrote the log. A moment after the
    /// last commit is the end.
    Time(Timestamp),
    /// Everything up to and including the newest restore point of this name (`pg_create_restore_point`).
    Name(String),
    /// Everything up to and including the commit of this transaction.
    Xid(u32),
}

impl Target {
    /// Reads a moment: RFC 3339 (`2024-05-01T12:00:00Z`, with any offset), or a date and a time with an offset behind a space.
    ///
    /// # Errors
    /// A sentence. A time without an offset is refused: it would mean another moment on another machine.
    pub fn parse_time(text: &str) -> Result<Timestamp, String> {
        let text = text.trim();
        text.parse().map_err(|_| {
            format!("{text:?} is not a moment; write it as 2024-05-01T12:00:00Z or with an offset such as +02:00")
        })
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Target::Latest => f.write_str("latest"),
            Target::Lsn(lsn) => write!(f, "LSN {lsn}"),
            Target::Time(time) => write!(f, "time {time}"),
            Target::Name(name) => write!(f, "restore point {name:?}"),
            Target::Xid(xid) => write!(f, "transaction {xid}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_have_an_offset() {
        let time = Target::parse_time("2024-05-01T12:00:00Z").unwrap();
        assert_eq!(Target::parse_time(" 2024-05-01 14:00:00.000+02:00 ").unwrap(), time);
        for bad in ["", "2024-05-01", "2024-05-01T12:00:00", "yesterday", "12:00Z"] {
            assert!(Target::parse_time(bad).is_err(), "{bad}");
        }
    }
}
