//! What can be wrong with a configuration.

use std::fmt;
use std::io;
use std::path::PathBuf;

/// A configuration that cannot be used. Usage errors all (exit code 2): nothing was started.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("cannot read the configuration {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Something in the file is wrong.
    #[error("{place}: {problem}")]
    File {
        /// Where.
        place: Place,
        /// What.
        problem: Problem,
    },
    /// A value no default can replace was given nowhere.
    #[error("{what} is missing; give {flag}, or {key} in the file named by --config")]
    Missing {
        /// What it is.
        what: &'static str,
        /// The flag.
        flag: &'static str,
        /// Key and section of the file.
        key: &'static str,
    },
    /// A value alone is well-formed and still cannot be.
    #[error("{what}; {mend}")]
    Refused {
        /// What is wrong.
        what: String,
        /// What to do.
        mend: &'static str,
    },
    /// The file has several clusters and none was chosen, or not the one that was.
    #[error("{what}; choose one with --cluster: {}", names.join(", "))]
    Cluster {
        /// What is wrong.
        what: String,
        /// The clusters of the file.
        names: Vec<String>,
    },
}

/// A place in the file. Prints as `seawall.toml:12: safekeeper.id`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The file, as it was named.
    pub file: String,
    /// The line, from 1.
    pub line: usize,
    /// The key with its section, such as `cluster[2].name`; empty for an error of syntax.
    pub key: String,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)?;
        match self.key.is_empty() {
            true => Ok(()),
            false => write!(f, ": {}", self.key),
        }
    }
}

/// What is wrong at a place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// Not TOML.
    #[error("{0}")]
    Syntax(String),
    /// A key nobody reads.
    #[error("unknown key; known here: {}", known.join(", "))]
    UnknownKey {
        /// The keys that are read there.
        known: Vec<&'static str>,
    },
    /// A value of another kind.
    #[error("{expected} is expected, not {found}")]
    Kind {
        /// What is expected.
        expected: &'static str,
        /// What stands there.
        found: &'static str,
    },
    /// A value of the right kind that cannot be read.
    #[error("{0}")]
    Value(String),
    /// A key that must be there.
    #[error("the key {0} is missing")]
    MissingKey(&'static str),
    /// An environment variable that is not set.
    #[error("the environment variable {name} is not set (write $$ for a plain $)")]
    Unset {
        /// The variable.
        name: String,
    },
    /// `${` without `}`.
    #[error("${{ is not closed with }} (write $$ for a plain $)")]
    OpenReference,
    /// `${…}` around something that is no variable's name.
    #[error("${{{name}}} does not name an environment variable (write $$ for a plain $)")]
    BadReference {
        /// What stands between the braces.
        name: String,
    },
}
