//! An installed PostgreSQL: find it, make a data directory, run a server, stop it.
//!
//! Everything blocks and uses only the standard library's processes. [`Installation`] is the set of programs in one folder;
//! [`Server`] is one data directory and, while it runs, the postmaster as our child. Started by root, every program of
//! PostgreSQL runs as the system user `postgres`, because a postmaster refuses to be root; [`RunAs`] carries that choice.
//!
//! The crate does not know why a server is wanted: no replication, no Seawall, no SQL.

mod crash;
mod error;
mod installation;
mod postmaster;
mod run_as;
mod server;
mod settings;

pub use error::{Error, SOCKET_PATH_BYTES_MAX};
pub use installation::{FindOptions, InstallError, Installation, NotFound, Version, install_on_debian};
pub use postmaster::{SurvivorError, stop_survivor};
pub use run_as::RunAs;
pub use rustix::process::Signal;
pub use server::{Auth, InitOptions, Mode, Server, StartOptions};
pub use settings::SettingError;
