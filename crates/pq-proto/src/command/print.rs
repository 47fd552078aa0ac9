//! From [`Command`] to text, in the spelling every server from 13 on, and other safekeepers, understand.

use super::{Command, Options, StartReplication};
use std::fmt::{self, Display, Formatter, Write};

/// A name in double quotes.
struct Quoted<'a>(&'a str);

impl Display for Quoted<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        quote(f, self.0, '"')
    }
}

fn quote(f: &mut Formatter<'_>, text: &str, quote: char) -> fmt::Result {
    f.write_char(quote)?;
    for c in text.chars() {
        if c == quote {
            f.write_char(quote)?;
        }
        f.write_char(c)?;
    }
    f.write_char(quote)
}

impl Display for Options {
    /// `(key 'value', key 'value')`. Keys that are not plain lower-case words are quoted.
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_char('(')?;
        for (index, (key, value)) in self.iter().enumerate() {
            if index > 0 {
                f.write_str(", ")?;
            }
            let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
            if !key.is_empty() && key.chars().all(plain) {
                f.write_str(key)?
            } else {
                quote(f, key, '"')?
            }
            f.write_char(' ')?;
            quote(f, value, '\'')?;
        }
        f.write_char(')')
    }
}

impl Display for StartReplication {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str("START_REPLICATION ")?;
        if let Some(slot) = &self.slot {
            write!(f, "SLOT {} ", Quoted(slot))?;
        }
        write!(f, "PHYSICAL {}", self.start)?;
        if let Some(tli) = self.tli {
            write!(f, " TIMELINE {tli}")?;
        }
        let term = self.term.map(|term| ("term".to_owned(), term.to_string()));
        let others = self.options.iter().map(|(key, value)| (key.to_owned(), value.to_owned()));
        let options: Options = others.chain(term).collect();
        with_options(f, &options)
    }
}

fn with_options(f: &mut Formatter<'_>, options: &Options) -> fmt::Result {
    if options.is_empty() { Ok(()) } else { write!(f, " {options}") }
}

impl Display for Command {
    /// [`Command::Set`] and [`Command::Unknown`], which nobody sends, print what is known of them.
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Command::IdentifySystem => f.write_str("IDENTIFY_SYSTEM"),
            Command::Show { name } => write!(f, "SHOW {}", Quoted(name)),
            Command::StartReplication(start) => start.fmt(f),
            Command::TimelineHistory { tli } => write!(f, "TIMELINE_HISTORY {tli}"),
            Command::ReadReplicationSlot { slot } => write!(f, "READ_REPLICATION_SLOT {}", Quoted(slot)),
            Command::CreateReplicationSlot { slot, temporary, reserve_wal } => {
                let temporary = if *temporary { " TEMPORARY" } else { "" };
                let reserve_wal = if *reserve_wal { " RESERVE_WAL" } else { "" };
                write!(f, "CREATE_REPLICATION_SLOT {}{temporary} PHYSICAL{reserve_wal}", Quoted(slot))
            }
            Command::DropReplicationSlot { slot, wait } => {
                write!(f, "DROP_REPLICATION_SLOT {}{}", Quoted(slot), if *wait { " WAIT" } else { "" })
            }
            Command::StartWalPush(options) => {
                f.write_str("START_WAL_PUSH")?;
                with_options(f, options)
            }
            Command::TimelineStatus => f.write_str("TIMELINE_STATUS"),
            Command::LogStatus { since: None } => f.write_str("LOG_STATUS"),
            Command::LogStatus { since: Some(since) } => write!(f, "LOG_STATUS (since '{since}')"),
            Command::InitCluster(options) => write!(f, "INIT_CLUSTER {options}"),
            Command::Members(options) => write!(f, "MEMBERS {options}"),
            Command::Fence(options) => write!(f, "FENCE {options}"),
            Command::Set => f.write_str("set"),
            Command::Unknown { word } => f.write_str(word),
        }
    }
}
