//! From a replica back to a database: plan, fetch, verify, lay out, recover.
//!
//! [`postgres`] brings a PostgreSQL cluster back to any moment: a snapshot's files, and the WAL a server reads through
//! `restore_command`. What is handed out is verified; what cannot be verified is an error that names the object. Nothing here starts a
//! server or knows how one runs.

#![cfg_attr(doctest, doc = include_str!("../README.md"))]

pub mod postgres;
pub mod sqlite;
