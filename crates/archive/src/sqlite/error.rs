//! Why a replica of a SQLite database is behind.

use sqlite_wal::{ChainError, HeaderError, Position};
use std::error::Error as StdError;

/// What went wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The database or its shadow WAL.
    #[error("{0}")]
    Source(String, #[source] Box<dyn StdError + Send + Sync>),
    /// The replica.
    #[error(transparent)]
    Replica(#[from] replica_client::Error),
    /// The shadow WAL was damaged after it had been checked.
    #[error("the shadow WAL is damaged at {at}; a new generation begins")]
    Shadow {
        /// Where the piece began.
        at: Position,
        /// What is wrong.
        source: ShadowError,
    },
    /// The replica has what the database has not: an older state of the machine came back, or somebody else writes there.
    #[error("the replica has {there} and the database only {here}; a new generation begins")]
    Ahead {
        /// What the replica has.
        there: Position,
        /// What the database has.
        here: Position,
    },
    /// A task of the runtime ended early.
    #[error("the runtime is shutting down")]
    Stopped,
    /// A validation that had nothing to compare with any more.
    #[error("a new generation began meanwhile")]
    Overtaken,
    /// A validation that could not be made.
    #[error("the replica could not be validated: {0}")]
    Validation(String),
}

/// What is wrong with a shadow WAL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ShadowError {
    /// Its header.
    #[error(transparent)]
    Header(#[from] HeaderError),
    /// A frame.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// It ends early.
    #[error("it ends early")]
    Short,
}

impl Error {
    pub(super) fn source(error: impl StdError + Send + Sync + 'static) -> Error {
        Error::Source(error.to_string(), Box::new(error))
    }
}
