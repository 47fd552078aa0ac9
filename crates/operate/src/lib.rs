//! What operators do.
//!
//! [`init`] begins a cluster on its safekeepers, [`status`] asks the parts how they are and says what to do, [`up`] runs a whole
//! quorum beside a PostgreSQL from one command. Everything is a function over options; flags, logging and exit codes belong to the
//! binaries. Text for people is returned or written to the given writer, never logged.

pub mod init;
pub mod status;
pub mod up;
