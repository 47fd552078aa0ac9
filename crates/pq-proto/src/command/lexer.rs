//! Words, quoted names, strings and punctuation of a command. Knows no keyword.

use super::ParseError;

/// One token, with its text.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Token {
    /// Anything unquoted: keyword, name, number, position.
    Word(String),
    /// `"name"`, quotes removed.
    Name(String),
    /// `'text'`, quotes removed.
    Text(String),
    /// `(`, `)`, `,`, `=` or `;`.
    Mark(char),
}

impl Token {
    /// How an error shows it.
    pub(super) fn shown(&self) -> String {
        match self {
            Token::Word(text) | Token::Name(text) | Token::Text(text) => text.chars().take(40).collect(),
            Token::Mark(mark) => mark.to_string(),
        }
    }
}

/// Cuts `text` into tokens. Inside parentheses an unquoted word may hold a semicolon, outside it ends the command.
pub(super) fn tokens(text: &str) -> Result<Vec<Token>, ParseError> {
    let mut tokens = Vec::new();
    let mut rest = text;
    let mut depth = 0usize;
    while let Some(c) = rest.chars().next() {
        let after = &rest[c.len_utf8()..];
        rest = match c {
            _ if is_space(c) => after,
            '"' | '\'' => {
                let (inner, after) = quoted(after, c)?;
                tokens.push(if c == '"' { Token::Name(inner) } else { Token::Text(inner) });
                after
            }
            '(' | ')' | ',' | '=' | ';' => {
                depth = match c {
                    '(' => depth + 1,
                    ')' => depth.saturating_sub(1),
                    _ => depth,
                };
                tokens.push(Token::Mark(c));
                after
            }
            _ => {
                let ends = |c: char| is_space(c) || "(),='\"".contains(c) || (depth == 0 && c == ';');
                let end = rest.find(ends).unwrap_or(rest.len());
                let (word, after) = rest.split_at(end);
                tokens.push(Token::Word(word.to_owned()));
                after
            }
        };
    }
    Ok(tokens)
}

/// White space of PostgreSQL's scanner.
pub(super) fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\r' | '\x0b' | '\x0c')
}

/// The text up to the closing quote (a doubled one stands for itself), and what follows.
fn quoted(text: &str, quote: char) -> Result<(String, &str), ParseError> {
    let mut inner = String::new();
    let mut rest = text;
    loop {
        let (before, after) = rest.split_once(quote).ok_or(ParseError::Unterminated(quote))?;
        inner.push_str(before);
        match after.strip_prefix(quote) {
            Some(after) => {
                inner.push(quote);
                rest = after;
            }
            None => return Ok((inner, after)),
        }
    }
}
