//! A server: a log of bytes on a path.

use lsn::{Path, Tli};

/// A primary. Its log only grows; its path stays.
#[derive(Clone, Debug)]
pub(crate) struct Primary {
    pub(crate) log: Vec<u8>,
    pub(crate) path: Path,
}

impl Primary {
    /// The one it all begins with.
    pub(crate) fn first() -> Primary {
        Primary { log: Vec::new(), path: Path::root(Tli(1)) }
    }
}
