//! One cluster on one safekeeper as one state machine.
//!
//! [`Keeper`] joins the promises of `consensus::Acceptor` with what surrounds them: the bounded queues of the proposers'
//! sessions, record ends, group commit, readers, catching up from a peer, and status. It does no I/O and knows neither
//! clock, socket, file nor runtime: events go in through `handle_*`, [`Command`]s come out, completions come back. What
//! ships is therefore what a simulator runs.

mod call_backs;
mod command;
pub mod control;
mod fencing;
mod keeper;
mod members;
mod old_wal;
mod opening;
mod peers;
mod pull;
mod readers;
mod receivers;
mod slots;
mod status;
mod tracker;

pub use call_backs::CALL_BACKS_MAX;
pub use command::{Command, ReaderId};
pub use keeper::{FoundLog, Keeper, KeeperOptions, UNSYNCED_BYTES_MAX};
pub use old_wal::KeptFor;
pub use opening::Opening;
pub use peers::HOLD_LONGEST;
pub use pull::check_donor;
pub use readers::{ReaderKind, ReaderOptions, ReaderView};
pub use receivers::{QUEUE_BYTES_MAX, QUEUE_MESSAGES_MAX, ReceiverState, ReceiverView};
pub use slots::{SLOT_NAME_MAX, SLOTS_MAX, SlotKind, SlotView, SlotsError};
pub use status::{KeeperView, SystemIdentity};
