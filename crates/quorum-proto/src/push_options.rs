//! The options of START_WAL_PUSH.

use crate::{Error, ProtoVersion};
use consensus::{FenceToken, Introduction};
use lsn::{Path, Tli};

const COMMAND: &str = "START_WAL_PUSH";
/// Longest history file that is taken, in bytes: a thousand promotions and more.
const MAX_HISTORY_BYTES: usize = 128 << 10;

/// What a proposer asks for when it opens a session.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PushOptions {
    /// Version of the messages; 2 if not said.
    pub version: ProtoVersion,
    /// Whether the greeting may create a cluster the safekeeper does not know; yes if not said, though only a safekeeper that was
    /// told to do so obeys.
    pub allow_creation: bool,
    /// The path of the proposer's log; only Seawall's own proposers send it.
    pub path: Option<Path>,
    /// Content of the history file of the path's last TLI; empty if not said. Sent as hex digits.
    pub tli_history: String,
    /// Shown to pass a fence.
    pub fence_token: Option<FenceToken>,
    /// The session only completes the quorum's log: `completes 'true'`.
    pub completes: bool,
}

impl PushOptions {
    /// Of a session that says nothing of itself: protocol 2, and it may create.
    pub fn silent() -> PushOptions {
        PushOptions {
            version: ProtoVersion::V2,
            allow_creation: true,
            path: None,
            tli_history: String::new(),
            fence_token: None,
            completes: false,
        }
    }

    /// What a proposer says of itself. A foreign one says nothing: its log lies on TLI 1.
    pub fn introduction(&self) -> Introduction {
        Introduction {
            path: self.path.clone().unwrap_or_else(|| Path::root(Tli(1))),
            tli_history: self.tli_history.clone(),
            fence_token: self.fence_token,
            completes: self.completes,
        }
    }

    /// Reads name and value pairs. Unknown names are ignored; of a name given twice the later counts.
    pub fn parse(options: &[(String, String)]) -> Result<Self, Error> {
        let wrong = |name: &'static str, problem: String| Error::Option { command: COMMAND, name, problem };
        let mut parsed = PushOptions::silent();
        for (name, value) in options {
            match name.as_str() {
                "proto_version" => {
                    parsed.version = match value.as_str() {
                        "2" => ProtoVersion::V2,
                        "3" => ProtoVersion::V3,
                        _ => return Err(Error::Version(value.chars().take(40).collect())),
                    }
                }
                "allow_timeline_creation" => {
                    parsed.allow_creation = value.parse().map_err(|_| Error::Option {
                        command: COMMAND,
                        name: "allow_timeline_creation",
                        problem: "neither true nor false".to_owned(),
                    })?;
                }
                "tli_path" => {
                    let path = value.parse().map_err(|err: lsn::PathError| Error::Option {
                        command: COMMAND,
                        name: "tli_path",
                        problem: format!("no path: {err}"),
                    })?;
                    parsed.path = Some(path);
                }
                "tli_history" => {
                    let text = from_hex(value).filter(|text| text.len() <= MAX_HISTORY_BYTES);
                    let problem = || "not the hex digits of a history file".to_owned();
                    parsed.tli_history = text.ok_or_else(|| wrong("tli_history", problem()))?;
                }
                "fence_token" => {
                    let token = value.parse().map_err(|_| wrong("fence_token", "not 32 hex digits".to_owned()))?;
                    parsed.fence_token = Some(token);
                }
                "completes" => {
                    let problem = || "neither true nor false".to_owned();
                    parsed.completes = value.parse().map_err(|_| wrong("completes", problem()))?;
                }
                _ => {}
            }
        }
        Ok(parsed)
    }

    /// The pairs to send, in this order.
    pub fn to_options(&self) -> Vec<(String, String)> {
        let mut options = vec![("proto_version".to_owned(), self.version.number().to_string())];
        if let Some(path) = &self.path {
            options.push(("tli_path".to_owned(), path.to_string()));
        }
        options.push(("allow_timeline_creation".to_owned(), self.allow_creation.to_string()));
        if !self.tli_history.is_empty() {
            let hex = self.tli_history.bytes().map(|byte| format!("{byte:02x}")).collect();
            options.push(("tli_history".to_owned(), hex));
        }
        if let Some(token) = &self.fence_token {
            options.push(("fence_token".to_owned(), token.to_string()));
        }
        if self.completes {
            options.push(("completes".to_owned(), "true".to_owned()));
        }
        options
    }
}

fn from_hex(text: &str) -> Option<String> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let pairs = text.as_bytes().chunks(2);
    let bytes: Option<Vec<u8>> = pairs
        .map(|pair| match pair {
            [high, low] => u8::try_from(digit(*high)? << 4 | digit(*low)?).ok(),
            _ => None,
        })
        .collect();
    String::from_utf8(bytes?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(options: &[(&str, &str)]) -> Result<PushOptions, Error> {
        let owned: Vec<_> = options.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        PushOptions::parse(&owned)
    }

    #[test]
    fn silence_means_version_2_that_may_create() {
        let expected = PushOptions::silent();
        assert_eq!(parse(&[]).unwrap(), expected);
        assert_eq!(parse(&[("proto_version", "3"), ("later", "x"), ("proto_version", "2")]).unwrap(), expected);
    }

    #[test]
    fn what_is_sent_is_read() {
        let path = "1:0/0:0;2:0/3063B90:8A0C44F1".parse().unwrap();
        let options = PushOptions {
            version: ProtoVersion::V3,
            allow_creation: false,
            path: Some(path),
            tli_history: "1\t0/3063B90\tno recovery target specified\n".to_owned(),
            fence_token: Some(FenceToken([0xAB; 16])),
            completes: true,
        };
        assert_eq!(PushOptions::parse(&options.to_options()).unwrap(), options);
    }

    #[test]
    fn nonsense_is_refused() {
        for bad in [
            ("proto_version", "4"),
            ("proto_version", ""),
            ("allow_timeline_creation", "yes"),
            ("tli_path", "1"),
            ("tli_path", ""),
            ("tli_history", "0"),
            ("tli_history", "0g"),
            ("tli_history", "ff"),
            ("fence_token", "12"),
            ("completes", ""),
        ] {
            assert!(parse(&[bad]).is_err(), "{bad:?}");
        }
    }
}
