//! Names of things: TLI, term, system identifier, cluster, node and disk.

use std::fmt;
use std::str::FromStr;

/// Text that is not the id it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not {expected}")]
pub struct ParseIdError {
    text: String,
    expected: &'static str,
}

impl ParseIdError {
    fn new(text: &str, expected: &'static str) -> Self {
        ParseIdError { text: text.chars().take(80).collect(), expected }
    }
}

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty), $expected:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
                digits.then(|| text.parse().ok()).flatten().map($name).ok_or_else(|| ParseIdError::new(text, $expected))
            }
        }
    };
}

number! {
    /// PostgreSQL's own timeline number. 0 is invalid; the first is 1.
    Tli(u32), "a TLI (a decimal number up to 4294967295)"
}
number! {
    /// A leadership epoch. 0 means that no leader was ever elected.
    Term(u64), "a term (a decimal number)"
}
number! {
    /// PostgreSQL's 64-bit system identifier, made by initdb. 0 means unknown.
    SystemId(u64), "a system identifier (a decimal number)"
}
number! {
    /// The number an operator gives a safekeeper. 0 is not a node.
    NodeId(u64), "a node id (a decimal number)"
}

impl Term {
    /// The term after this one, held at the top of the range.
    pub fn next(self) -> Term {
        Term(self.0.saturating_add(1))
    }
}

fn sixteen_bytes(text: &str) -> Option<[u8; 16]> {
    let digits = text.as_bytes();
    if digits.len() != 32 || !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    u128::from_str_radix(text, 16).ok().map(u128::to_be_bytes)
}

fn write_hex(f: &mut fmt::Formatter<'_>, bytes: &[u8; 16]) -> fmt::Result {
    write!(f, "{:032x}", u128::from_be_bytes(*bytes))
}

/// A cluster's name on the wire: two 16-byte ids, each shown as 32 lower-case hex digits. Prints as `tenant/timeline`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterId {
    /// `tenant_id` on the wire.
    pub tenant: [u8; 16],
    /// `timeline_id` on the wire; one per era of the cluster, unrelated to a [`Tli`].
    pub timeline: [u8; 16],
}

impl ClusterId {
    /// From the two ids' hex texts, 32 digits each.
    pub fn from_hex(tenant: &str, timeline: &str) -> Result<Self, ParseIdError> {
        let half = |text: &str| sixteen_bytes(text).ok_or_else(|| ParseIdError::new(text, "32 hexadecimal digits"));
        Ok(ClusterId { tenant: half(tenant)?, timeline: half(timeline)? })
    }

    /// The tenant id as 32 lower-case hex digits.
    pub fn tenant_hex(&self) -> String {
        format!("{:032x}", u128::from_be_bytes(self.tenant))
    }

    /// The timeline id as 32 lower-case hex digits.
    pub fn timeline_hex(&self) -> String {
        format!("{:032x}", u128::from_be_bytes(self.timeline))
    }
}

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, &self.tenant)?;
        f.write_str("/")?;
        write_hex(f, &self.timeline)
    }
}

impl fmt::Debug for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for ClusterId {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (tenant, timeline) = text
            .split_once('/')
            .ok_or_else(|| ParseIdError::new(text, "a cluster id (tenant/timeline, 32 hex digits each)"))?;
        ClusterId::from_hex(tenant, timeline)
    }
}

/// The random identity of one data directory: a safekeeper whose disk was replaced has another one. 32 hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct DiskId(pub [u8; 16]);

impl DiskId {
    /// No disk: what a membership entry of a foreign safekeeper carries.
    pub const NONE: DiskId = DiskId([0; 16]);
}

impl fmt::Display for DiskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, &self.0)
    }
}

impl fmt::Debug for DiskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for DiskId {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        sixteen_bytes(text).map(DiskId).ok_or_else(|| ParseIdError::new(text, "a disk id (32 hexadecimal digits)"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_round_trip() {
        let id = ClusterId { tenant: [0xab; 16], timeline: [1; 16] };
        assert_eq!(id.to_string().parse::<ClusterId>().unwrap(), id);
        assert_eq!(id.tenant_hex(), "ab".repeat(16));
        let disk = DiskId([9; 16]);
        assert_eq!(disk.to_string().parse::<DiskId>().unwrap(), disk);
        assert_eq!("18446744073709551615".parse::<SystemId>().unwrap(), SystemId(u64::MAX));
    }

    #[test]
    fn bad_ids_are_refused_with_the_text() {
        for text in ["", "ab", &"0".repeat(31), &"g".repeat(32), "+".repeat(32).as_str()] {
            assert!(text.parse::<DiskId>().is_err(), "{text}");
        }
        assert_eq!("x1".parse::<Term>().unwrap_err().to_string(), "\"x1\" is not a term (a decimal number)");
        assert!("-1".parse::<NodeId>().is_err());
        assert!("+1".parse::<NodeId>().is_err());
        assert!("4294967296".parse::<Tli>().is_err());
    }
}
