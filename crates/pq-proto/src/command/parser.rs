//! From text to [`Command`].

use super::lexer::{Token, is_space, tokens};
use super::{Command, Options, StartReplication};
use crate::SqlState;
use lsn::{Lsn, Term, Tli};

/// Most options in one command; far above what any client sends, so that looking a key up stays cheap.
const MAX_OPTIONS: usize = 128;

/// A command that begins like a known one and cannot be served. The connection stays usable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// Something else should stand there.
    #[error("syntax error at or near {found:?}: expected {expected}")]
    Expected {
        /// What should stand there.
        expected: &'static str,
        /// What stands there; empty at the end.
        found: String,
    },
    /// A quote that never closes.
    #[error("syntax error: the text after {0} has no closing quote")]
    Unterminated(char),
    /// The same option twice.
    #[error("option {0:?} is given more than once")]
    Duplicate(String),
    /// More options than any client sends.
    #[error("more than {MAX_OPTIONS} options in one command")]
    TooManyOptions,
    /// `TIMELINE 0`.
    #[error("invalid timeline 0")]
    InvalidTli,
    /// A slot name that breaks PostgreSQL's rule.
    #[error("replication slot name {0:?} is not 1 to 63 lower-case letters, digits and underscores")]
    SlotName(String),
    /// Logical replication.
    #[error("logical replication is not served here, only physical")]
    Logical,
}

impl ParseError {
    /// The code to answer with.
    pub fn sqlstate(&self) -> SqlState {
        match self {
            ParseError::Logical => SqlState::FEATURE_NOT_SUPPORTED,
            ParseError::SlotName(_) => SqlState::INVALID_NAME,
            _ => SqlState::SYNTAX_ERROR,
        }
    }
}

/// Understands the text of one Query.
///
/// # Errors
/// Only for a command whose first word is known; everything else is [`Command::Unknown`].
pub fn parse(text: &str) -> Result<Command, ParseError> {
    let text = text.trim_matches(is_space);
    let word: String = text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').take(63).collect();
    let body: fn(&mut Parser) -> Result<Command, ParseError> = match word.as_str() {
        "IDENTIFY_SYSTEM" => |_| Ok(Command::IdentifySystem),
        "SHOW" => show,
        "START_REPLICATION" => start_replication,
        "TIMELINE_HISTORY" => |p| Ok(Command::TimelineHistory { tli: p.tli()? }),
        "READ_REPLICATION_SLOT" => |p| Ok(Command::ReadReplicationSlot { slot: p.slot()? }),
        "CREATE_REPLICATION_SLOT" => create_slot,
        "DROP_REPLICATION_SLOT" => |p| Ok(Command::DropReplicationSlot { slot: p.slot()?, wait: p.keyword("WAIT") }),
        "START_WAL_PUSH" => |p| Ok(Command::StartWalPush(p.options()?)),
        "TIMELINE_STATUS" => |_| Ok(Command::TimelineStatus),
        "LOG_STATUS" => log_status,
        "INIT_CLUSTER" => init_cluster,
        "MEMBERS" => |p| match p.options()? {
            options if options.is_empty() => Err(p.unexpected("options in parentheses")),
            options => Ok(Command::Members(options)),
        },
        "FENCE" => |p| match p.options()? {
            options if options.is_empty() => Err(p.unexpected("options in parentheses")),
            options => Ok(Command::Fence(options)),
        },
        _ if word.eq_ignore_ascii_case("set") => return Ok(Command::Set),
        _ => return Ok(Command::Unknown { word }),
    };
    let mut parser = Parser { tokens: tokens(&text[word.len()..])?.into_iter().peekable() };
    let command = body(&mut parser)?;
    while parser.mark(';') {}
    match parser.tokens.next() {
        None => Ok(command),
        Some(token) => Err(ParseError::Expected { expected: "the end of the command", found: token.shown() }),
    }
}

fn show(p: &mut Parser) -> Result<Command, ParseError> {
    p.name("the name of a setting").map(|name| Command::Show { name })
}

fn start_replication(p: &mut Parser) -> Result<Command, ParseError> {
    let slot = if p.keyword("SLOT") { Some(p.slot()?) } else { None };
    if !p.keyword("PHYSICAL") && p.keyword("LOGICAL") {
        return Err(ParseError::Logical);
    }
    let start: Lsn = p.parsed("a position like 16/B374D848")?;
    let tli = if p.keyword("TIMELINE") { Some(p.tli()?) } else { None };
    let mut options = p.options()?;
    let term = match options.remove("term") {
        None => None,
        Some(text) => Some(text.parse::<Term>().map_err(|_| expected("a term (a decimal number)", &text))?),
    };
    Ok(Command::StartReplication(StartReplication { slot, start, tli, term, options }))
}

fn create_slot(p: &mut Parser) -> Result<Command, ParseError> {
    let slot = p.slot()?;
    let temporary = p.keyword("TEMPORARY");
    if p.keyword("LOGICAL") {
        return Err(ParseError::Logical);
    }
    if !p.keyword("PHYSICAL") {
        return Err(p.unexpected("PHYSICAL"));
    }
    let reserve_wal = p.keyword("RESERVE_WAL") || {
        let options = p.options()?;
        if let Some((key, _)) = options.iter().find(|(key, _)| *key != "reserve_wal") {
            return Err(expected("RESERVE_WAL", key));
        }
        match options.get("reserve_wal").map(str::to_ascii_lowercase).as_deref() {
            None | Some("false" | "off" | "0") => false,
            Some("" | "true" | "on" | "1") => true,
            Some(other) => return Err(expected("a boolean", other)),
        }
    };
    Ok(Command::CreateReplicationSlot { slot, temporary, reserve_wal })
}

fn log_status(p: &mut Parser) -> Result<Command, ParseError> {
    // A newer part may send options that are not known here; they narrow the answer, so ignoring them is safe.
    let since = match p.options()?.get("since") {
        None => None,
        Some(text) => Some(decimal(text).ok_or_else(|| expected("a change number", text))?),
    };
    Ok(Command::LogStatus { since })
}

fn init_cluster(p: &mut Parser) -> Result<Command, ParseError> {
    let options = p.options()?;
    if options.is_empty() { Err(p.unexpected("options in parentheses")) } else { Ok(Command::InitCluster(options)) }
}

fn expected(expected: &'static str, found: &str) -> ParseError {
    ParseError::Expected { expected, found: found.chars().take(40).collect() }
}

fn decimal(text: &str) -> Option<u64> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

struct Parser {
    tokens: std::iter::Peekable<std::vec::IntoIter<Token>>,
}

impl Parser {
    fn unexpected(&mut self, expected: &'static str) -> ParseError {
        ParseError::Expected { expected, found: self.tokens.peek().map(Token::shown).unwrap_or_default() }
    }

    fn keyword(&mut self, word: &str) -> bool {
        self.tokens.next_if(|token| matches!(token, Token::Word(text) if text == word)).is_some()
    }

    fn mark(&mut self, mark: char) -> bool {
        self.tokens.next_if_eq(&Token::Mark(mark)).is_some()
    }

    /// A name: quoted as it is, unquoted in lower case.
    fn name(&mut self, expected: &'static str) -> Result<String, ParseError> {
        match self.tokens.next_if(|token| matches!(token, Token::Word(_) | Token::Name(_))) {
            Some(Token::Name(name)) => Ok(name),
            Some(token) => Ok(token_text(token).to_ascii_lowercase()),
            None => Err(self.unexpected(expected)),
        }
    }

    fn slot(&mut self) -> Result<String, ParseError> {
        let name = self.name("the name of a replication slot")?;
        let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
        if (1..=63).contains(&name.len()) && name.bytes().all(allowed) {
            Ok(name)
        } else {
            Err(ParseError::SlotName(name.chars().take(64).collect()))
        }
    }

    fn parsed<T: std::str::FromStr>(&mut self, expected: &'static str) -> Result<T, ParseError> {
        let value = match self.tokens.peek() {
            Some(Token::Word(text)) => text.parse().ok(),
            _ => None,
        };
        let value = value.ok_or_else(|| self.unexpected(expected))?;
        self.tokens.next();
        Ok(value)
    }

    fn tli(&mut self) -> Result<Tli, ParseError> {
        match self.parsed("a TLI (a decimal number)")? {
            Tli(0) => Err(ParseError::InvalidTli),
            tli => Ok(tli),
        }
    }

    /// `( [key [=] [value] [, …]] )`, or nothing at all.
    fn options(&mut self) -> Result<Options, ParseError> {
        let mut options = Options::default();
        if !self.mark('(') || self.mark(')') {
            return Ok(options);
        }
        for _ in 0..MAX_OPTIONS {
            let key = self.name("the name of an option")?;
            let equals = self.mark('=');
            let value = self.tokens.next_if(|token| !matches!(token, Token::Mark(_)));
            let value = match value {
                Some(token) => token_text(token),
                None if equals => return Err(self.unexpected("a value")),
                None => String::new(),
            };
            if !options.add(key.clone(), value) {
                return Err(ParseError::Duplicate(key.chars().take(40).collect()));
            }
            if self.mark(')') {
                return Ok(options);
            }
            if !self.mark(',') {
                return Err(self.unexpected("a comma or a closing parenthesis"));
            }
        }
        Err(ParseError::TooManyOptions)
    }
}

fn token_text(token: Token) -> String {
    match token {
        Token::Word(text) | Token::Name(text) | Token::Text(text) => text,
        Token::Mark(mark) => mark.to_string(),
    }
}
