//! SQLite databases and their replicas: `seawall replicate`, `databases`, `import`.
//!
//! [`run`] brings sources, replicators and restores together, which do not know each other: it is the only place that does.

mod child;
mod database;
mod directory;
mod door;
pub mod import;
pub mod run;
mod show;

pub use database::SetupError;
