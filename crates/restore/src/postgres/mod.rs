//! PostgreSQL back to any moment.
//!
//! [`plan`](plan::plan) decides, [`execute`](execute::execute) does it, [`fetch`] is what a server in recovery asks through
//! `restore_command`, and [`verify`] walks archived WAL from one end to the other. The archive's layout belongs to `replica-client`, the
//! content of a snapshot to `backup-format`; a quorum is seen through the port `source::Tail`.

pub mod directory;
pub mod execute;
pub mod fetch;
pub mod holdings;
pub mod lay_out;
pub mod lineage;
pub mod plan;
pub mod recovery;
pub mod settings;
pub mod target;
mod text;
pub mod verify;
pub mod walk;
