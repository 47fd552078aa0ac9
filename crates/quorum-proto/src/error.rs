//! What can be wrong with received bytes or option texts.

use consensus::{HistoryError, MembershipError};

/// Bytes or text that are not the message they should be. The session they came from cannot go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The message ends inside a field.
    #[error("a {message} ends inside its {field}")]
    Truncated {
        /// Which message.
        message: &'static str,
        /// Which field.
        field: &'static str,
    },
    /// There are bytes behind the last field.
    #[error("{bytes} unexpected bytes follow a {message}")]
    Trailing {
        /// Which message.
        message: &'static str,
        /// How many bytes are left.
        bytes: usize,
    },
    /// A first byte that stands for no message of this direction and version.
    #[error("message tag {0:#x} is not known in this protocol version")]
    Tag(u64),
    /// Another protocol version than the session's.
    #[error("protocol version {0} is not spoken here; use 2 or 3")]
    Version(String),
    /// A number or text outside its range.
    #[error("the {field} of a {message} is out of range")]
    Range {
        /// Which message.
        message: &'static str,
        /// Which field.
        field: &'static str,
    },
    /// Something version 2 has no place for.
    #[error("generation {0} of the membership record cannot be said in protocol 2; use protocol 3")]
    NeedsVersion3(u32),
    /// Ids that are not 32 hexadecimal digits.
    #[error("a greeting names no cluster: {0}")]
    Cluster(#[from] lsn::ParseIdError),
    /// A term history that contradicts itself.
    #[error("a term history cannot be: {0}")]
    History(#[from] HistoryError),
    /// A membership record that contradicts itself.
    #[error("a membership record cannot be: {0}")]
    Membership(#[from] MembershipError),
    /// An option that is missing or has no sense.
    #[error("option {name} of {command} is {problem}")]
    Option {
        /// The command.
        command: &'static str,
        /// The option.
        name: &'static str,
        /// What is the matter with it.
        problem: String,
    },
    /// A column of a LOG_STATUS row that is missing or has no sense.
    #[error("column {column} of a LOG_STATUS row is {problem}")]
    Column {
        /// The column.
        column: &'static str,
        /// What is the matter with it.
        problem: String,
    },
}
