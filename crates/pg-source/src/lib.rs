//! A stock PostgreSQL primary as a source of WAL, and the checks that its commits wait for us.
//!
//! [`attach`] opens two connections: [`Walsender`], which becomes a [`WalStream`] on our replication slot, and [`Checks`], which asks
//! over SQL what a stream cannot answer and proves that both lead to one server. [`assess`] judges the answers: protected or not, why,
//! and what to set.
//!
//! Nothing here knows the quorum, what an acknowledged position means, or how often to try again. No unpatched server needs more than
//! this: a role with LOGIN REPLICATION and pg_monitor, a free slot and a free walsender.

#![cfg_attr(doctest, doc = include_str!("../README.md"))]

mod assessment;
mod attach;
pub mod backup;
mod checks;
mod error;
mod settings;
mod standby_names;
mod stream;

pub use assessment::{Assessment, Finding, Observer, Reason, Warning, assess};
pub use attach::{APPLICATION_NAME, Facts, Options, Primary, SLOT, Walsender, attach};
pub use checks::Checks;
pub use error::Error;
pub use settings::{RoleSetting, Sender, Settings, SettingsError, Slot};
pub use standby_names::{Method, ParseError, StandbyNames};
pub use stream::{Event, WalStream};

#[cfg(test)]
mod server_test;
