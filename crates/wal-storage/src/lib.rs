//! One log on one disk: segments, control file, and the recent WAL in memory.
//!
//! A log is one directory. Its WAL lies in raw PostgreSQL segments under their full 24-digit names, always of full length;
//! what was not written yet is zeros, or the stale WAL of a recycled file. `control` holds opaque bytes, replaced as a whole.
//!
//! Every sync point is visible: [`WalStorage`] belongs to the thread that receives WAL, only writes to the page cache and
//! hands out jobs; a job is a `Send` value whose blocking `run` does the syncing on another thread, and whose result goes
//! back to the `finish_*` method of the storage that made it. [`Durable`] exists only as the result of a finished sync, cut
//! or recovery, so an acknowledgement that takes one cannot come too early.
//!
//! Recovery is a type of its own, [`Unrecovered`], and the only place where WAL is scanned. The first failed write, sync,
//! control write or cut stops the storage until it is opened again ([`Latch`]); a full disk does not.
//!
//! The crate knows no terms, no protocol and no clock, and not what the control file's bytes mean.

mod control;
mod cut;
mod error;
mod foreign;
mod layout;
mod prepare;
mod reader;
mod recover;
mod remove;
mod ring;
mod segment;
mod storage;
mod sync;

pub use control::{ControlError, ControlFile, PersistJob};
pub use cut::{CutDone, CutJob};
pub use error::{Error, Latch};
pub use foreign::sync_files;
pub use layout::Layout;
pub use prepare::{PrepareDone, PrepareJob};
pub use reader::WalReader;
pub use recover::{DAMAGE_DISTANCE, Damage, Floor, Recovered, Unrecovered, create_directory};
pub use remove::{RemoveDone, RemoveJob};
pub use storage::WalStorage;
pub use sync::{Durable, SyncDone, SyncJob, Written};
