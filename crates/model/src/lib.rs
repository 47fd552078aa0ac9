//! The quorum's rules under an exhaustive checker.
//!
//! A world has a few safekeepers, proposers and servers, all of them the production [`consensus`] types between small stand-ins for
//! disks and connections. The checker takes every step that is possible in every world that is reachable, and holds each world
//! against the properties of [`PROPERTIES`]. A [`Config`] says how large the world is and what may go wrong in it; a [`Mutant`] breaks
//! one rule, which must be noticed.

mod action;
mod check;
mod config;
mod disk;
mod judge;
mod mutant;
mod node;
mod play;
mod progress;
mod property;
mod proposer;
mod quorum;
mod world;

pub use action::{Action, Completion};
pub use config::{CONFIGS, Config, config};
pub use mutant::Mutant;
pub use property::{PROPERTIES, Property, Set};
pub use quorum::{Quorum, Report, name};
pub use world::World;
