//! From a replica back to a running database, and what else reads or feeds replicas by hand.
//!
//! [`run`] is `seawall restore`: it opens whatever is at the URL and hands a PostgreSQL archive to [`restore::postgres`]. [`wal_fetch`]
//! and [`wal_push`] are the two commands a server calls, [`list`] shows what a replica holds, [`validate`] proves that it restores.

/// Errors travel in boxes where they are large: a result is copied more often than it fails.
macro_rules! boxed {
    ($error:ty: $($variant:ident($source:ty)),+ $(,)?) => {
        $(impl From<$source> for $error {
            fn from(source: $source) -> Self {
                Self::$variant(Box::new(source))
            }
        })+
    };
}

mod hold;
pub mod list;
pub(crate) mod open;
pub mod progress;
mod quorum;
pub mod run;
mod sqlite;
mod start;
pub mod validate;
pub mod wal_fetch;
pub mod wal_push;

pub use open::OpenError;
pub use quorum::QuorumError;
pub(crate) use quorum::{Quorum, TailStream};
pub use start::StartError;

/// A table for people.
pub fn table(head: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::NOTHING).set_header(head);
    table.add_rows(rows);
    table.trim_fmt()
}
