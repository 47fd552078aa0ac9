//! What can go wrong with a replica, told as one sentence with the object's key, and as a [`Kind`] that says what to do.
//!
//! Errors carry keys and the store's own words, never plain bytes and never a secret.

use crate::codec::CodecError;
use crate::store::Operation;

/// What the caller can do about an [`Error`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// The object is not there.
    NotFound,
    /// The object is there and holds other plain bytes; it was left as it is.
    Different,
    /// The object's bytes are wrong: damaged, cut short, or another object's.
    Corrupt,
    /// The object is encrypted and no identity given here opens it, or the key text is wrong.
    Secret,
    /// The store refused the credentials (401, 403, file permissions).
    Denied,
    /// The store could not be reached or was overloaded, also after retries; worth trying again later.
    Unavailable,
    /// Somebody else holds the lease.
    Busy,
    /// The store cannot do this, whatever is tried.
    Unsupported,
    /// The call itself was wrong.
    Usage,
    /// Anything else; trying again would not help.
    Other,
}

impl Kind {
    /// The word for metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::NotFound => "not-found",
            Kind::Different => "different",
            Kind::Corrupt => "corrupt",
            Kind::Secret => "secret",
            Kind::Denied => "denied",
            Kind::Unavailable => "unavailable",
            Kind::Busy => "busy",
            Kind::Unsupported => "unsupported",
            Kind::Usage => "usage",
            Kind::Other => "other",
        }
    }
}

/// An operation on a replica that did not work.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The store said no, or did not answer.
    #[error("cannot {operation} {key}")]
    Store {
        /// What was tried.
        operation: Operation,
        /// The object or folder.
        key: String,
        /// What to do about it.
        kind: Kind,
        /// The store's own words.
        source: object_store::Error,
    },
    /// The object was not there.
    #[error("{key} is not in the replica")]
    NotFound {
        /// The object.
        key: String,
    },
    /// Deleting some of many objects failed; the others are gone.
    #[error("cannot delete {failed} of {asked} objects, the first is {key}")]
    Delete {
        /// How many were to go.
        asked: usize,
        /// How many are left, as far as is known.
        failed: usize,
        /// The first of them.
        key: String,
        /// What to do about it.
        kind: Kind,
        /// The store's own words.
        source: object_store::Error,
    },
    /// An object with this key and other plain bytes is there; it was not touched.
    #[error(
        "{key} is already in the replica with other bytes ({there}) than the ones to be stored ({ours}); nothing was replaced"
    )]
    Different {
        /// The object.
        key: String,
        /// What is known of the object that is there.
        there: String,
        /// What was to be stored.
        ours: String,
    },
    /// Encoding or decoding failed.
    #[error("{key} cannot be decoded")]
    Decode {
        /// The object.
        key: String,
        /// What is wrong with it.
        source: CodecError,
    },
    /// Encoding failed.
    #[error("{key} cannot be encoded")]
    Encode {
        /// The object.
        key: String,
        /// What went wrong.
        source: CodecError,
    },
    /// The plain bytes are not what the key, the facts or the caller said.
    #[error("{key} is damaged or another object: it holds {found}, expected {expected}")]
    Plain {
        /// The object.
        key: String,
        /// What it should hold.
        expected: String,
        /// What it holds.
        found: String,
    },
    /// The object changed, or shrank, while it was read.
    #[error("{key} changed while it was read")]
    Changed {
        /// The object.
        key: String,
    },
    /// A small object's text is not what it must be.
    #[error("{key} is not a {what}: {reason}")]
    Content {
        /// The object.
        key: String,
        /// What it should be.
        what: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// The object is larger than it may be.
    #[error("{key} is larger than {limit} bytes")]
    TooLarge {
        /// The object.
        key: String,
        /// The most it may be.
        limit: u64,
    },
    /// The source of the bytes to be stored failed.
    #[error("cannot read the bytes for {key}")]
    Source {
        /// The object.
        key: String,
        /// The reader's error.
        source: std::io::Error,
    },
    /// Somebody else holds the lease.
    #[error("the lease of this replica is held by {holder}")]
    Busy {
        /// Who, as they called themselves.
        holder: String,
    },
    /// The store takes a create-only put of an object that exists.
    #[error(
        "this store ignores create-only puts, so nobody can hold a lease in it; run one uploader and say so (--sole-uploader)"
    )]
    Unconditional,
    /// No replica, or several, where one was looked for.
    #[error("{0}")]
    Choice(String),
    /// The call itself was wrong.
    #[error("{0}")]
    Usage(String),
    /// A thread of ours ended early.
    #[error("the work on {key} was given up because the runtime is stopping")]
    Stopped {
        /// The object.
        key: String,
    },
}

impl Error {
    /// What the caller can do about it.
    pub fn kind(&self) -> Kind {
        match self {
            Error::Store { kind, .. } | Error::Delete { kind, .. } => *kind,
            Error::NotFound { .. } => Kind::NotFound,
            Error::Different { .. } => Kind::Different,
            Error::Decode { source, .. } => source.kind(),
            Error::Encode { .. } | Error::Source { .. } | Error::Stopped { .. } => Kind::Other,
            Error::Plain { .. } | Error::Content { .. } | Error::TooLarge { .. } => Kind::Corrupt,
            Error::Changed { .. } => Kind::Corrupt,
            Error::Busy { .. } => Kind::Busy,
            Error::Unconditional => Kind::Unsupported,
            Error::Choice(_) => Kind::NotFound,
            Error::Usage(_) => Kind::Usage,
        }
    }

    pub(crate) fn store(operation: Operation, key: &str, source: object_store::Error) -> Error {
        match source {
            object_store::Error::NotFound { .. } => Error::NotFound { key: key.to_owned() },
            source => Error::Store { operation, key: key.to_owned(), kind: classify(&source), source },
        }
    }
}

/// What an error of the store means. The crate below keeps the status of a refused request in its text only, so this
/// reads it there; what it does not recognise counts as worth retrying.
pub(crate) fn classify(error: &object_store::Error) -> Kind {
    use object_store::Error as E;
    match error {
        E::NotFound { .. } => Kind::NotFound,
        E::AlreadyExists { .. } | E::Precondition { .. } => Kind::Different,
        E::PermissionDenied { .. } | E::Unauthenticated { .. } => Kind::Denied,
        E::NotSupported { .. } | E::NotImplemented { .. } => Kind::Unsupported,
        E::InvalidPath { .. } | E::UnknownConfigurationKey { .. } => Kind::Usage,
        E::Generic { source, .. } => generic(source.as_ref()),
        _ => Kind::Other,
    }
}

fn generic(source: &(dyn std::error::Error + 'static)) -> Kind {
    let mut next = Some(source);
    while let Some(error) = next {
        if let Some(io) = error.downcast_ref::<std::io::Error>() {
            return match io.kind() {
                std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::ReadOnlyFilesystem => Kind::Denied,
                std::io::ErrorKind::NotADirectory | std::io::ErrorKind::IsADirectory => Kind::Other,
                _ => Kind::Unavailable,
            };
        }
        if error.downcast_ref::<object_store::client::HttpError>().is_some() {
            return Kind::Unavailable;
        }
        next = error.source();
    }
    match refused_status(&source.to_string()) {
        Some(408 | 429) => Kind::Unavailable,
        Some(501) => Kind::Unsupported,
        Some(400..=499) => Kind::Other,
        _ => Kind::Unavailable,
    }
}

/// The number behind `status code: ` in the store's words.
pub(crate) fn refused_status(text: &str) -> Option<u16> {
    let (_, after) = text.split_once("status code: ")?;
    after.get(..3)?.parse().ok()
}
