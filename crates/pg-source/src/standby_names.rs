//! The value of `synchronous_standby_names`, by the grammar of PostgreSQL 13 to 18: `[FIRST|ANY] n (name, …)`, a bare list, names
//! quoted or not, `*`, keywords in any case.
//!
//! [`StandbyNames::requires`] is the question that matters: can a commit return without us? With fewer wanted than named, another
//! standby takes our place when we leave; with `*` anybody does.

use std::fmt;

/// How the wanted number is counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Method {
    /// The first that are connected, in the order of the names.
    First,
    /// Any.
    Any,
}

/// A parsed, non-empty value.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StandbyNames {
    /// How `wanted` is counted.
    pub method: Method,
    /// How many must confirm a commit; at least 1.
    pub wanted: u32,
    /// The names as they compare with `application_name`: without quotes, in any case.
    pub names: Vec<String>,
}

/// A value PostgreSQL would not take.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a value for synchronous_standby_names")]
pub struct ParseError(String);

#[derive(Clone, PartialEq, Eq, Debug)]
enum Token {
    Name(String),
    /// Digits: a number of standbys, or a name.
    Number(String),
    First,
    Any,
    Comma,
    Open,
    Close,
}

impl StandbyNames {
    /// Reads a value; `None` for an empty one, which means that commits wait for nobody.
    pub fn parse(value: &str) -> Result<Option<Self>, ParseError> {
        let error = || ParseError(value.chars().take(200).collect());
        // Not even white space: PostgreSQL refuses a value that is only that.
        if value.is_empty() {
            return Ok(None);
        }
        let tokens = tokens(value).ok_or_else(error)?;
        let (method, wanted, list) = match tokens.as_slice() {
            [Token::Number(wanted), Token::Open, list @ .., Token::Close]
            | [Token::First, Token::Number(wanted), Token::Open, list @ .., Token::Close] => {
                (Method::First, wanted.as_str(), list)
            }
            [Token::Any, Token::Number(wanted), Token::Open, list @ .., Token::Close] => {
                (Method::Any, wanted.as_str(), list)
            }
            list => (Method::First, "1", list),
        };
        let wanted = wanted.parse().ok().filter(|wanted| *wanted > 0).ok_or_else(error)?;
        let names = list
            .chunks(2)
            .enumerate()
            .map(|(index, chunk)| match chunk {
                [Token::Name(name) | Token::Number(name), Token::Comma] => Some(name.clone()),
                [Token::Name(name) | Token::Number(name)] if index * 2 + 1 == list.len() => Some(name.clone()),
                _ => None,
            })
            .collect::<Option<Vec<_>>>()
            // A list that ends in a comma has no last name.
            .filter(|_| list.len() % 2 == 1)
            .ok_or_else(error)?;
        Ok(Some(StandbyNames { method, wanted, names }))
    }

    /// Whether no commit returns before the standby called `name` confirmed it, as far as the names say: no `*`, the name stands in
    /// the list exactly once, and every name of the list is wanted.
    ///
    /// Names of others must also not be borne by two standbys at a time, which only the list of connected standbys shows.
    pub fn requires(&self, name: &str) -> bool {
        let occurrences = self.names.iter().filter(|listed| listed.eq_ignore_ascii_case(name)).count();
        !self.has_wildcard() && occurrences == 1 && self.wanted as usize == self.names.len()
    }

    /// Whether anybody may confirm a commit. Quoting the star changes nothing, as in PostgreSQL.
    pub fn has_wildcard(&self) -> bool {
        self.names.iter().any(|name| name == "*")
    }

    /// The nearest value that requires `name`: it first, then the other names of the list, each once, all wanted.
    pub fn requiring(current: Option<&StandbyNames>, name: &str) -> StandbyNames {
        let mut names = vec![name.to_owned()];
        for other in current.into_iter().flat_map(|current| &current.names) {
            if other != "*" && !names.iter().any(|listed| listed.eq_ignore_ascii_case(other)) {
                names.push(other.clone());
            }
        }
        let method = current.map_or(Method::First, |current| current.method);
        // A configuration file holds no list of four billion names.
        StandbyNames { method, wanted: u32::try_from(names.len()).unwrap_or(u32::MAX), names }
    }

    /// The line for `postgresql.conf` that sets this value.
    pub fn setting_line(&self) -> String {
        format!("synchronous_standby_names = '{}'", self.to_string().replace('\\', "\\\\").replace('\'', "''"))
    }
}

impl fmt::Display for StandbyNames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let method = match self.method {
            Method::First => "FIRST",
            Method::Any => "ANY",
        };
        write!(f, "{method} {} (", self.wanted)?;
        for (index, name) in self.names.iter().enumerate() {
            f.write_str(if index == 0 { "" } else { ", " })?;
            // Whatever reads back as this very name may stand without quotes.
            match tokens(name).as_deref() {
                Some([Token::Name(read) | Token::Number(read)]) if read == name => f.write_str(name)?,
                _ => write!(f, "\"{}\"", name.replace('"', "\"\""))?,
            }
        }
        f.write_str(")")
    }
}

fn tokens(value: &str) -> Option<Vec<Token>> {
    let starts_name = |c: char| c.is_ascii_alphabetic() || c == '_' || !c.is_ascii();
    let continues_name = |c: char| starts_name(c) || c.is_ascii_digit() || c == '$';
    let mut tokens = Vec::new();
    let mut rest = value;
    while let Some(first) = rest.chars().next() {
        let length = match first {
            ' ' | '\t' | '\n' | '\r' | '\x0b' | '\x0c' => {
                rest = &rest[1..];
                continue;
            }
            ',' | '(' | ')' | '*' => {
                tokens.push(match first {
                    ',' => Token::Comma,
                    '(' => Token::Open,
                    ')' => Token::Close,
                    _ => Token::Name("*".to_owned()),
                });
                1
            }
            '"' => {
                let (name, length) = quoted(rest)?;
                tokens.push(Token::Name(name));
                length
            }
            _ if first.is_ascii_digit() => {
                let length = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
                tokens.push(Token::Number(rest[..length].to_owned()));
                length
            }
            _ if starts_name(first) => {
                let length = rest.find(|c: char| !continues_name(c)).unwrap_or(rest.len());
                let word = &rest[..length];
                tokens.push(if word.eq_ignore_ascii_case("first") {
                    Token::First
                } else if word.eq_ignore_ascii_case("any") {
                    Token::Any
                } else {
                    Token::Name(word.to_owned())
                });
                length
            }
            _ => return None,
        };
        rest = &rest[length..];
    }
    Some(tokens)
}

/// A name in double quotes at the start of `text`, and how many bytes it takes there.
fn quoted(text: &str) -> Option<(String, usize)> {
    let mut name = String::new();
    let mut chars = text.char_indices().skip(1).peekable();
    while let Some((index, c)) = chars.next() {
        match c {
            '"' if chars.peek().is_some_and(|(_, next)| *next == '"') => {
                chars.next();
                name.push('"');
            }
            '"' => return Some((name, index + 1)),
            _ => name.push(c),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(value: &str) -> StandbyNames {
        StandbyNames::parse(value).unwrap().unwrap()
    }

    #[test]
    fn every_form_is_read() {
        for (value, method, wanted, names) in [
            ("seawall", Method::First, 1, &["seawall"][..]),
            ("a, b", Method::First, 1, &["a", "b"]),
            ("2 (a,b)", Method::First, 2, &["a", "b"]),
            ("FIRST 1 (seawall)", Method::First, 1, &["seawall"]),
            ("first 2 (\"Any\", \"a\"\"b\")", Method::First, 2, &["Any", "a\"b"]),
            (" aNy\t3\n(x$1, _y, 7) ", Method::Any, 3, &["x$1", "_y", "7"]),
            ("*", Method::First, 1, &["*"]),
            ("1", Method::First, 1, &["1"]),
            ("été", Method::First, 1, &["été"]),
            ("\"\"", Method::First, 1, &[""]),
        ] {
            let parsed = parse(value);
            assert_eq!((parsed.method, parsed.wanted), (method, wanted), "{value}");
            assert_eq!(parsed.names, names, "{value}");
        }
        assert_eq!(StandbyNames::parse("").unwrap(), None);
    }

    #[test]
    fn what_postgresql_refuses_is_refused() {
        for value in [
            " ",
            "a,",
            ",a",
            "a b",
            "FIRST (a)",
            "FIRST 0 (a)",
            "ANY 1 ()",
            "1 (a",
            "1 a)",
            "any",
            "first",
            "a-b",
            "\"a",
            "1 (a) b",
            "a,,b",
            "1 (a,)",
            "FIRST 1 a",
            "99999999999 (a)",
            "a(b)",
            "'a'",
        ] {
            assert!(StandbyNames::parse(value).is_err(), "{value:?}");
        }
    }

    #[test]
    fn we_are_required_only_if_everybody_is_and_we_stand_there_once() {
        for value in [
            "seawall",
            "FIRST 1 (seawall)",
            "ANY 1 (\"SeaWall\")",
            "FIRST 2 (a, SEAWALL)",
            "any 3 (a, seawall, b)",
            "1 (seawall)",
        ] {
            assert!(parse(value).requires("seawall"), "{value}");
        }
        for value in [
            "*",
            "\"*\"",
            "FIRST 2 (seawall, *)",
            "a",
            "seawall, a",
            "FIRST 1 (seawall, a)",
            "ANY 1 (seawall, a)",
            "FIRST 2 (seawall, seawall)",
            "FIRST 2 (seawall, \"SEAWALL\")",
            "FIRST 2 (seawall)",
            "seawall2",
        ] {
            assert!(!parse(value).requires("seawall"), "{value}");
        }
    }

    #[test]
    fn advice_keeps_the_names_that_are_there() {
        let advice = |value: &str| {
            StandbyNames::requiring(StandbyNames::parse(value).unwrap().as_ref(), "seawall").setting_line()
        };
        assert_eq!(advice(""), "synchronous_standby_names = 'FIRST 1 (seawall)'");
        assert_eq!(advice("*"), "synchronous_standby_names = 'FIRST 1 (seawall)'");
        assert_eq!(advice("ANY 1 (a, \"b c\")"), "synchronous_standby_names = 'ANY 3 (seawall, a, \"b c\")'");
        assert_eq!(advice("a, Seawall, A"), "synchronous_standby_names = 'FIRST 2 (seawall, a)'");
        assert_eq!(advice("\"it's\""), "synchronous_standby_names = 'FIRST 2 (seawall, \"it''s\")'");
    }

    proptest! {
        #[test]
        fn any_text_is_judged(value: String) {
            let _ = StandbyNames::parse(&value);
        }

        #[test]
        fn nearly_values_are_judged(value in "(first|any|FIRST)? ?[0-9]{0,2} ?[(]?([a-c*\"]{0,3},? ?){0,3}[)]?") {
            let _ = StandbyNames::parse(&value);
        }

        #[test]
        fn printed_values_read_back(any: bool, wanted in 1u32.., names in proptest::collection::vec(".{0,5}|any|FIRST|[*]|[a-z]{1,3}", 1..5)) {
            let method = if any { Method::Any } else { Method::First };
            let value = StandbyNames { method, wanted, names };
            prop_assert_eq!(StandbyNames::parse(&value.to_string()), Ok(Some(value)));
        }

        #[test]
        fn advice_requires_us(names in proptest::collection::vec("seawall|SEAWALL|[*]|[a-z\"',]{0,3}", 1..5), wanted in 1u32..5) {
            let current = StandbyNames { method: Method::Any, wanted, names };
            let advice = StandbyNames::requiring(Some(&current), "seawall");
            prop_assert!(advice.requires("seawall"));
            prop_assert_eq!(StandbyNames::parse(&advice.to_string()), Ok(Some(advice)));
        }
    }
}
