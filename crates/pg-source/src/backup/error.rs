//! Why a backup failed. Whatever the reason, what was copied is worth nothing.

use super::tar::TarError;
use crate::error::Error;
use backup_format::{ControlError, DataPath, LabelError, ManifestError};

/// Why a backup failed.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The server cannot be used, refuses, or went away.
    #[error(transparent)]
    Server(#[from] Error),
    /// The label.
    #[error("a backup's label is at most 1023 bytes without control characters")]
    Label,
    /// The rate.
    #[error("a backup's rate is 32 to 1048576 KiB per second, not {0}")]
    Rate(u32),
    /// An answer of another shape than PostgreSQL's.
    #[error("the server's answer to {0} cannot be read; is this a PostgreSQL server?")]
    Answer(&'static str),
    /// The archive in the stream.
    #[error("the server sent a damaged archive")]
    Tar(#[from] TarError),
    /// More manifest than is read.
    #[error("the backup manifest is longer than 1 GiB")]
    ManifestTooLong,
    /// The manifest cannot be believed.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// A file did not arrive as it was sent.
    #[error("{path} is not what the backup manifest says: {difference}")]
    Differs {
        /// The file.
        path: DataPath,
        /// What is different.
        difference: String,
    },
    /// A file came twice.
    #[error("the server sent {0} twice")]
    Twice(DataPath),
    /// `backup_label` cannot be read.
    #[error(transparent)]
    BackupLabel(#[from] LabelError),
    /// `pg_control` cannot be read; a torn one is ordinary bad luck.
    #[error("the server's pg_control was copied while it was being written, or is damaged; take the backup again")]
    Control(#[from] ControlError),
    /// Parts of the backup disagree.
    #[error("the backup contradicts itself: {0}")]
    Contradiction(&'static str),
}

impl From<pg_conn::Error> for BackupError {
    fn from(error: pg_conn::Error) -> BackupError {
        BackupError::Server(error.into())
    }
}
