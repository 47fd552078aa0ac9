//! Connecting to a PostgreSQL server, and to anything that speaks its protocol: conninfo, hosts, TLS, passwords, start-up.
//!
//! [`ConnInfo`] reads what libpq reads. [`connect`] tries its hosts in order and gives a [`Connection`], which carries
//! simple queries, and messages of a COPY in both directions without copying their payloads.
//!
//! Invariants: a password is never shown; no byte that arrived in plain text is taken for one that came through TLS;
//! every buffer is bounded by [`pq_proto::Limits::CLIENT`]; [`Connection::recv`] and flushing may be cancelled at any
//! await without losing a byte.
//!
//! Unknown here: what is said afterwards, when to try again, where the environment comes from.

// The README's example is a test too.
#![cfg_attr(doctest, doc = include_str!("../README.md"))]

mod auth;
mod connect;
mod connection;
mod conninfo;
mod error;
mod passfile;
mod stream;
mod tls;

pub use auth::AuthError;
pub use connect::{StartupExtra, connect};
pub use connection::{Connection, Parameters, ReadHalf, Row, WriteHalf};
pub use conninfo::{ConnInfo, ConnInfoError, Host, SslMode, TargetSession};
pub use error::{ConnectError, Error, Failure, HostError};
pub use tls::TlsError;
