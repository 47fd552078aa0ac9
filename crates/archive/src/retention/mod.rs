//! Retention: any moment of the last R can be restored, and nothing older is paid for.
//!
//! [`plan`] decides, from an [`Inventory`] of what is there and a window, what is to go; it is pure and looks at the whole tree of TLIs.
//! [`run`] carries it out in two phases: what is to go is written into a dated tombstone first, and deleted a day later at the earliest,
//! if a new plan still finds it superfluous. Between the two nothing is lost, and whoever reads a doomed snapshot in that day does not
//! stumble.
//!
//! Holds of running restores and backups count like snapshots to be kept, and are looked at again right before anything is deleted.
//! Deleting takes the replica's lease, or somebody's word that nobody else deletes.

mod error;
mod guard;
mod holds;
mod inventory;
mod plan;
mod run;
mod tombstone;

pub use error::RetentionError;
pub use guard::Sole;
pub use inventory::{Branch, Inventory, KeptSnapshot, read_inventory};
pub use plan::{CLOCK_SLACK, Doomed, Plan, Policy, plan};
pub use run::{Outcome, RetainOptions, run};
pub use tombstone::{GRACE, Tombstone};
