//! Why a proposer does not run. Trouble with the primary or the safekeepers is no reason: it is shown, and tried again.

use std::io;

/// What kind of end it is; who started the process turns it into an exit code.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ExitKind {
    /// Something failed.
    Failed,
    /// It was started in a way that cannot work.
    Usage,
    /// It refused, to protect data.
    Refused,
}

/// Why a proposer does not run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The primary's conninfo cannot be used.
    #[error("the primary's connection string cannot be used: {0}")]
    Primary(#[from] pg_conn::ConnInfoError),
    /// No safekeeper was named.
    #[error("no safekeeper is named; give their addresses with --safekeepers")]
    NoSafekeepers,
    /// An address of a safekeeper.
    #[error("{address:?} is not the address of a safekeeper: {problem}")]
    Address {
        /// As given.
        address: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The safekeepers keep several clusters and none was chosen.
    #[error("the safekeepers keep several clusters; choose one with --cluster: {}", .0.join(", "))]
    SeveralClusters(Vec<String>),
    /// One name stands for different clusters.
    #[error("the safekeepers do not agree which cluster {name} is ({}); remove the wrong one", .ids.join(", "))]
    Disagreement {
        /// The name.
        name: String,
        /// The ids it stands for, with who says so.
        ids: Vec<String>,
    },
    /// Nobody can be let in as configured: an address, keys or certificates.
    #[error(transparent)]
    Gate(#[from] auth::GateError),
    /// An address cannot be listened on.
    #[error("cannot listen on {address}: {error}")]
    Listen {
        /// As configured.
        address: String,
        /// The system's answer.
        error: io::Error,
    },
    /// The rules of election forbid it; nothing was changed.
    #[error("refused: {0}")]
    Refused(String),
    /// It was not done in time.
    #[error("not done in time: {0}")]
    NotDone(String),
    /// The files of the server that is down cannot be read.
    #[error(transparent)]
    Files(#[from] crate::files::FilesError),
    /// Metrics cannot be set up.
    #[error(transparent)]
    Metrics(#[from] http_api::InstallError),
}

impl Error {
    /// What kind of end it is.
    pub fn exit_kind(&self) -> ExitKind {
        match self {
            Error::Primary(_)
            | Error::NoSafekeepers
            | Error::Address { .. }
            | Error::SeveralClusters(_)
            | Error::Gate(_) => ExitKind::Usage,
            Error::Disagreement { .. } | Error::Refused(_) => ExitKind::Refused,
            Error::Listen { .. } | Error::Metrics(_) | Error::NotDone(_) | Error::Files(_) => ExitKind::Failed,
        }
    }
}
