//! The options of START_WAL_PUSH.

use crate::{Error, ProtoVersion};
use lsn::Path;

const COMMAND: &str = "START_WAL_PUSH";

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
}

impl PushOptions {
    /// Reads name and value pairs. Unknown names are ignored; of a name given twice the later counts.
    pub fn parse(options: &[(String, String)]) -> Result<Self, Error> {
        let mut parsed = PushOptions { version: ProtoVersion::V2, allow_creation: true, path: None };
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
        options
    }
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
        let expected = PushOptions { version: ProtoVersion::V2, allow_creation: true, path: None };
        assert_eq!(parse(&[]).unwrap(), expected);
        assert_eq!(parse(&[("proto_version", "3"), ("later", "x"), ("proto_version", "2")]).unwrap(), expected);
    }

    #[test]
    fn what_is_sent_is_read() {
        let path = "1:0/0:0;2:0/3063B90:8A0C44F1".parse().unwrap();
        let options = PushOptions { version: ProtoVersion::V3, allow_creation: false, path: Some(path) };
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
        ] {
            assert!(parse(&[bad]).is_err(), "{bad:?}");
        }
    }
}
