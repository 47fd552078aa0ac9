//! `cargo xtask bench`: measurements, always side by side with other ways of doing the same.

use anyhow::{Result, bail};

use crate::args::Args;
use crate::shell::Workspace;
use crate::soak::run_program;

/// What can be measured.
const BENCHES: &[&str] = &["commit"];

pub(crate) const HELP: &str = "\
cargo xtask bench commit

Builds the programs with optimisation and measures what a commit costs: a quorum of three safekeepers, beside the same primary with
nothing, with a synchronous standby, and with three synchronous pg_receivewal. Ratios count, not the numbers of one machine.";

pub(crate) fn run(workspace: &Workspace, args: &mut Args) -> Result<()> {
    let Some(name) = args.next_word() else { bail!("name what to measure: {}", BENCHES.join(", ")) };
    args.finish()?;
    if !BENCHES.contains(&name.as_str()) {
        bail!("there is no bench {name}; there is: {}", BENCHES.join(", "));
    }
    run_program(workspace, "bench", &[&name])
}
