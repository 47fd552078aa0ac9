//! The kinds of value an option can have, each with the one parser that flags and file share.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// A text that is not the value it should be. Prints as one sentence.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not {expected}")]
pub struct ValueError {
    text: String,
    expected: &'static str,
}

impl ValueError {
    pub(crate) fn new(text: &str, expected: &'static str) -> ValueError {
        ValueError { text: text.chars().take(80).collect(), expected }
    }
}

/// `host:port`, where the host is a name or an IP address; an IPv6 address stands in brackets. Nothing is resolved here.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address {
    /// A name or an IP address, without brackets.
    pub host: String,
    /// 0 to let the system choose, where something listens.
    pub port: u16,
}

impl Address {
    /// An address from its two halves.
    pub fn new(host: &str, port: u16) -> Address {
        Address { host: host.to_owned(), port }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

impl FromStr for Address {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Address, ValueError> {
        let refused = || ValueError::new(text, "an address (host:port, an IPv6 host in brackets)");
        let (host, port) = text.rsplit_once(':').ok_or_else(refused)?;
        let host = match host.strip_prefix('[') {
            Some(rest) => {
                rest.strip_suffix(']').filter(|ip| matches!(ip.parse(), Ok(IpAddr::V6(_)))).ok_or_else(refused)?
            }
            None => host,
        };
        let bracketed = host.contains(':');
        let name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
        let digits = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
        let named = !host.is_empty() && host.len() <= 253 && host.bytes().all(name);
        match (bracketed && text.starts_with('[')) || (!bracketed && named) {
            true if digits => Ok(Address { host: host.to_owned(), port: port.parse().map_err(|_| refused())? }),
            _ => Err(refused()),
        }
    }
}

/// A number of bytes: `1073741824`, `16GiB`, `512 MiB`, `100MB`. `KiB`, `MiB`, `GiB`, `TiB` count by 1024; `kB`, `MB`, `GB`, `TB`
/// by 1000. Prints in the largest unit of 1024 that divides it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(pub u64);

const UNITS: [(&str, u64); 10] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("B", 1),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
    ("", 1),
];

impl FromStr for ByteSize {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<ByteSize, ValueError> {
        let refused =
            || ValueError::new(text, "a size (bytes, or a whole number with KiB, MiB, GiB, TiB, kB, MB, GB or TB)");
        let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(end);
        let (_, factor) = UNITS.iter().find(|(name, _)| *name == unit.trim()).ok_or_else(refused)?;
        let number: u64 = number.parse().map_err(|_| refused())?;
        number.checked_mul(*factor).map(ByteSize).ok_or_else(refused)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let binary = &UNITS[..5];
        let unit = binary.iter().find(|(_, factor)| self.0 != 0 && self.0.is_multiple_of(*factor));
        let (name, factor) = unit.unwrap_or(&("B", 1));
        write!(f, "{}{name}", self.0 / factor)
    }
}

/// What people call a cluster: 1 to 63 lower-case letters, digits, `-` and `_`, beginning with a letter or digit, so that it
/// can stand in a path, a key and a connection option without quoting.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterName(String);

impl ClusterName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ClusterName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for ClusterName {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<ClusterName, ValueError> {
        let letter = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let fits = text.len() <= 63
            && text.bytes().next().is_some_and(letter)
            && text.bytes().all(|byte| letter(byte) || matches!(byte, b'-' | b'_'));
        let expected = "a cluster's name (1 to 63 lower-case letters, digits, - and _, the first a letter or digit)";
        fits.then(|| ClusterName(text.to_owned())).ok_or_else(|| ValueError::new(text, expected))
    }
}

/// How to connect to PostgreSQL: keywords and values, or a `postgres://` URL, as libpq takes them. Not looked into here. It may hold
/// a password, so its debug form does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct Conninfo(String);

impl Conninfo {
    /// The text, password included.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Conninfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Conninfo(…)")
    }
}

impl FromStr for Conninfo {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Conninfo, ValueError> {
        match text.trim().is_empty() || text.contains('\0') {
            true => Err(ValueError {
                text: String::new(),
                expected: "a conninfo (host=… port=… user=…, or postgres://…)",
            }),
            false => Ok(Conninfo(text.to_owned())),
        }
    }
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// For people.
    #[default]
    Human,
    /// One JSON object a line.
    Json,
}

impl FromStr for LogFormat {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<LogFormat, ValueError> {
        match text {
            "human" => Ok(LogFormat::Human),
            "json" => Ok(LogFormat::Json),
            _ => Err(ValueError::new(text, "a log format (human or json)")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        for (text, host, port) in
            [("127.0.0.1:5454", "127.0.0.1", 5454), ("sk-1.example:0", "sk-1.example", 0), ("[::1]:7676", "::1", 7676)]
        {
            let address: Address = text.parse().unwrap();
            assert_eq!(address, Address::new(host, port));
            assert_eq!(address.to_string(), text);
        }
        for text in [
            "",
            "a",
            ":1",
            "a:",
            "a:65536",
            "a:+1",
            "::1:7676",
            "[a]:1",
            "[::1:1",
            "a b:1",
            "[1.2.3.4]:1",
            "http://a:1",
            "[]:1",
        ] {
            assert!(text.parse::<Address>().is_err(), "{text}");
        }
    }

    #[test]
    fn sizes() {
        for (text, bytes, shown) in [
            ("16GiB", 16 << 30, "16GiB"),
            ("512 MiB", 512 << 20, "512MiB"),
            ("1024", 1024, "1KiB"),
            ("100MB", 100_000_000, "100000000B"),
            ("0", 0, "0B"),
            ("7B", 7, "7B"),
        ] {
            let size: ByteSize = text.parse().unwrap();
            assert_eq!((size.0, size.to_string().as_str()), (bytes, shown), "{text}");
            assert_eq!(shown.parse(), Ok(size));
        }
        for text in ["", "GiB", "-1", "1.5GiB", "1g", "16777216TiB", "99999999999999999999"] {
            assert!(text.parse::<ByteSize>().is_err(), "{text}");
        }
    }

    #[test]
    fn names_and_secrets() {
        assert_eq!("orders-2_a".parse::<ClusterName>().unwrap().as_str(), "orders-2_a");
        for text in ["", "-a", "A", "a b", "a/b", "a,b", "é", &"a".repeat(64)] {
            assert!(text.parse::<ClusterName>().is_err(), "{text}");
        }
        let conninfo: Conninfo = "host=a password=secret".parse().unwrap();
        assert!(!format!("{conninfo:?}").contains("secret"));
        assert!(" ".parse::<Conninfo>().is_err());
    }
}
