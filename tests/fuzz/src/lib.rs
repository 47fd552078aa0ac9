//! A fuzz target per decoder of bytes that come from outside.
//!
//! A target takes any bytes. It panics if the decoder does, if what it accepted does not survive being written and read again, or if
//! it went past the bytes it was given. Memory and time are watched from outside, by the fuzzer's limits.
//!
//! The same functions run in two ways: `cargo xtask fuzz` gives them to a coverage-guided fuzzer, and `cargo test -p fuzz` runs
//! them over the seeds, which are real captures and whatever the fuzzer once found, and over plain mutations of these.

mod targets;

use std::path::PathBuf;

/// One decoder.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name, and that of the folder of its seeds.
    pub name: &'static str,
    /// What it does with bytes.
    pub run: fn(&[u8]),
}

/// All of them.
pub const TARGETS: &[Target] = targets::ALL;

/// The target of a name.
pub fn target(name: &str) -> Option<Target> {
    TARGETS.iter().copied().find(|target| target.name == name)
}

/// Where the seeds of a target are.
pub fn seeds(target: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("seeds").join(target)
}
