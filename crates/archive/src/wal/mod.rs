//! The WAL of a PostgreSQL cluster, archived: which committed bytes go into which object, when, and by whom.
//!
//! ```text
//! committed WAL -> piece each sync interval -> full segment -> merged object, read back -> its pieces deleted an hour later
//! ```
//!
//! Invariants
//! - Only committed WAL is archived. Commit LSN is final across forks, so (generation, segment, start, end) names its bytes, and two
//!   uploaders that overlap only add. Objects are put if absent, never replaced.
//! - Every record that begins in a piece is checked before the piece is stored: rot on one disk does not reach the archive.
//! - A piece is deleted only when this process has read back, an hour ago or more, a merged object with all of its bytes.
//! - What the replica holds is learned by one listing when a process becomes the uploader, and known from then on. While nothing
//!   commits nothing is asked of the store.
//!
//! A generation's WAL begins at the start of the segment in which its TLI begins, with the parent's bytes in front, as PostgreSQL's own
//! segment has them; the parent's generation ends at the switch. So the segments of every generation stand for themselves.
//!
//! [`Ledger`] holds the rules and is told the time; [`Archiver`] carries them out. Neither knows where WAL comes from ([`WalBytes`]) or
//! how other safekeepers are heard of ([`is_uploader`] is given their positions).

mod archiver;
mod choice;
mod error;
mod held;
mod inspect;
mod ledger;
mod lineage;
mod old;

pub use archiver::{Archiver, ArchiverOptions, CommittedLog, CommittedWal, WalBytes, WalStatus};
pub use choice::{Candidate, is_uploader, uploader};
pub use error::WalError;
pub use held::Held;
pub use inspect::{Inspected, inspect};
pub use ledger::{Action, Ledger, LedgerOptions};
pub use lineage::{Track, tracks};
pub use old::{OldLog, OldWal};
