//! Who may bind where, and who may ask for what.
//!
//! Whoever reaches a part's port can depose a leader. So the bind address decides ([`check_bind`]): on loopback everybody is
//! believed, anywhere else a part needs keys to check tokens with and a certificate, so that tokens are not read on the way,
//! unless somebody insists on doing without. Where keys are given they are used, on loopback too.
//!
//! A [`Gate`] holds the keys and the TLS material of one process and takes changed files up by itself. A token it admits
//! yields a [`Grant`], which is asked before every command. [`Outgoing`] is the other side: what a part shows to others.
//!
//! The crate opens no socket and does not know who asks, or what the commands are.

mod bind;
mod gate;
mod keys;
mod outgoing;
mod secret;
mod tls;
mod token;
mod watched;

pub use bind::{BindRefused, check_bind};
pub use gate::{Gate, GateError, GateOptions};
pub use keys::{KeyError, PrivateKey};
pub use outgoing::{Outgoing, OutgoingError};
pub use secret::Secret;
pub use tls::TlsError;
pub use token::{Claims, Grant, Refused, Scope, TOKEN_BYTES_MAX};

#[cfg(test)]
mod test;
