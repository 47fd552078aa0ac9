//! A small HTTP server and client, generic over what it shows.
//!
//! The server answers GET and HEAD on five paths from a [`View`]: `/` (a page), `/metrics`, `/v1/status`, `/v1/clusters/{name}` and
//! `/v1/ready`. It is for people and Prometheus, never for the parts among themselves. [`serve`] runs on any tokio runtime;
//! [`Server`] brings a thread and a runtime of its own, so that a slow reader of the status costs the commit path nothing.
//!
//! Invariants: one request a connection; bounded connections, header bytes and time; no request body is read; a failing request
//! ends its own connection and nothing else. The crate does not know what a cluster is.

mod across;
mod client;
mod door;
mod metrics;
mod route;
mod server;

pub use across::{Asked, Question, Questions, across};
pub use client::{Access, Bearer, ClientError, Response, get_json, get_json_with};
pub use door::{Asking, Door, OpenDoor, Turned};
pub use metrics::{InstallError, LATENCY_BUCKETS_SECONDS, Metrics};
pub use route::View;
pub use server::{Server, serve};
