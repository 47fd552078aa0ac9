//! [`Fence`]: a record that keeps a superseded primary from being elected again.
//!
//! It is persisted by a majority in a term that completed the quorum's log up to `lsn`; its epoch is that term, so a later
//! fence always has a higher one. While it stands, a session is elected only if its path leaves the fenced one at or after
//! `lsn` (a server promoted from all that was acknowledged) and it shows no token of another fence, if it shows the token, or if it
//! only completes the quorum.
//! Expiry is policy, kept by a clock elsewhere; containment is what keeps data safe.

use lsn::{Lsn, Path, Term};
use std::fmt;
use std::str::FromStr;

/// What whoever set a fence shows to pass it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct FenceToken(pub [u8; 16]);

impl fmt::Display for FenceToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

impl fmt::Debug for FenceToken {
    /// A token is shown only to those it is given to.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FenceToken(…)")
    }
}

impl FromStr for FenceToken {
    type Err = FenceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let number = digits.then(|| u128::from_str_radix(text, 16).ok()).flatten();
        number.map(|number| FenceToken(number.to_be_bytes())).ok_or(FenceError::Token)
    }
}

/// Text that is not a fence or a token.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum FenceError {
    /// Not 32 hex digits.
    #[error("a fence token has 32 hex digits")]
    Token,
    /// Not `EPOCH LSN MILLISECONDS PATH`.
    #[error("{0:?} is not a fence: expected EPOCH LSN MILLISECONDS PATH, like 7 0/5000028 120000 1:0/0:0")]
    Text(String),
}

/// A fence as everybody may see it. Prints as `EPOCH LSN MILLISECONDS PATH`.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct FenceLine {
    /// The term in which it was set.
    pub epoch: Term,
    /// The fenced path, cut to `lsn`.
    pub path: Path,
    /// Where the quorum's log ended.
    pub lsn: Lsn,
    /// How long it stands, from when a safekeeper took it or was started with it; `None` until it is lifted (printed as 0).
    pub expires_ms: Option<u64>,
}

impl FenceLine {
    /// Whether a server on this path was promoted from the fenced log at or after its end.
    pub fn is_left_by(&self, path: &Path) -> bool {
        let fenced = self.path.cut(self.lsn);
        let agreed = path.agree(&fenced);
        let goes_on = path.entries().len() > fenced.entries().len();
        goes_on && agreed >= self.lsn
    }
}

impl fmt::Display for FenceLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {} {}", self.epoch, self.lsn, self.expires_ms.unwrap_or(0), self.path)
    }
}

impl FromStr for FenceLine {
    type Err = FenceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let fields = || {
            let mut fields = text.split(' ');
            let (epoch, lsn) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
            let expires: u64 = fields.next()?.parse().ok()?;
            let path = fields.next()?.parse().ok()?;
            let expires_ms = Some(expires).filter(|millis| *millis != 0);
            fields.next().is_none().then_some(FenceLine { epoch, path, lsn, expires_ms })
        };
        fields().ok_or_else(|| FenceError::Text(text.chars().take(200).collect()))
    }
}

/// A fence with its token, as it is persisted.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Fence {
    /// What everybody may see.
    pub line: FenceLine,
    /// What lets a session pass.
    pub token: FenceToken,
}

/// What a proposer says of itself when it opens a session, beside its greeting.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Introduction {
    /// Its lineage of TLIs.
    pub path: Path,
    /// Content of the history file of the path's last TLI, as its primary has it; empty if it has none, or none was said.
    pub tli_history: String,
    /// Shown to pass a fence.
    pub fence_token: Option<FenceToken>,
    /// It only completes the quorum's log, for which a fence is no obstacle.
    pub completes: bool,
}

impl Introduction {
    /// Of a proposer that says nothing but its path.
    pub fn of(path: Path) -> Introduction {
        Introduction { path, tli_history: String::new(), fence_token: None, completes: false }
    }

    /// Whether a fence lets this proposer pass. A token of another fence is no permission, and says that whoever shows it was not
    /// chosen by the one who set this fence: it does not pass even where its path would.
    pub fn passes(&self, fence: &Fence) -> bool {
        let permitted =
            self.fence_token.map_or_else(|| fence.line.is_left_by(&self.path), |token| token == fence.token);
        self.completes || permitted
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn line(text: &str) -> FenceLine {
        text.parse().unwrap()
    }

    #[test]
    fn text_forms() {
        for text in ["7 0/5000028 120000 1:0/0:0", "9 1/0 0 1:0/0:0;2:0/3063B90:8A0C44F1"] {
            assert_eq!(line(text).to_string(), text);
        }
        assert_eq!(line("9 1/0 0 1:0/0:0").expires_ms, None);
        for bad in ["", "7", "7 0/5 1", "7 0/5 x 1:0/0:0", "7 0/5 1 1:0/0:0 1", "7 0/5 1 "] {
            assert!(bad.parse::<FenceLine>().is_err(), "{bad}");
        }
        let token = "00112233445566778899aabbccddeeff";
        assert_eq!(token.parse::<FenceToken>().unwrap().to_string(), token);
        assert!(
            "0011".parse::<FenceToken>().is_err() && "+0112233445566778899aabbccddeeff".parse::<FenceToken>().is_err()
        );
        assert!(!format!("{:?}", token.parse::<FenceToken>().unwrap()).contains("22"), "not shown in logs");
    }

    #[test]
    fn only_paths_that_leave_at_or_after_the_end_pass() {
        let fence = Fence { line: line("7 0/500 0 1:0/0:0;2:0/100:A"), token: FenceToken([1; 16]) };
        let passes = |path: &str| Introduction::of(path.parse().unwrap()).passes(&fence);
        assert!(!passes("1:0/0:0;2:0/100:A"), "the fenced path itself");
        assert!(!passes("1:0/0:0"), "one that lags behind it");
        assert!(!passes("1:0/0:0;2:0/100:A;3:0/4FF:B"), "left before the end");
        assert!(!passes("1:0/0:0;2:0/100:B;3:0/500:B"), "another lineage");
        assert!(!passes("1:0/0:0;3:0/500:B"), "left the parent beyond the switch");
        assert!(passes("1:0/0:0;2:0/100:A;3:0/500:B") && passes("1:0/0:0;2:0/100:A;3:0/600:B;4:0/600:1"));
        let held = Introduction { fence_token: Some(fence.token), ..Introduction::of("1:0/0:0".parse().unwrap()) };
        assert!(held.passes(&fence));
        let other = Introduction { fence_token: Some(FenceToken([2; 16])), ..held.clone() };
        let left = Introduction { path: "1:0/0:0;2:0/100:A;3:0/500:B".parse().unwrap(), ..other.clone() };
        assert!(!left.passes(&fence), "the token of another fence, though the path would do");
        assert!(Introduction { fence_token: None, ..left }.passes(&fence));
        assert!(!other.passes(&fence) && Introduction { completes: true, ..other }.passes(&fence));
    }

    proptest! {
        #[test]
        fn parsing_never_panics(text in "[0-9A-F:;/ ]{0,40}") {
            let _ = (text.parse::<FenceLine>(), text.parse::<FenceToken>());
        }
    }
}
