//! SQLite databases under replication: writers in processes of their own, rounds of blows, and a reader of replicas.
//!
//! [`reader`] shares no code with the product: it is written from the description of Litestream's layout alone.

pub mod fixture;
pub mod measure;
pub mod reader;
mod rounds;
mod writer;

pub use rounds::{Rounds, Settings};
pub use writer::{Ledger, write_until_killed};
