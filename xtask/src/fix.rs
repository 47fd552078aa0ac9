//! `cargo xtask fix`: the one task that changes files.

use anyhow::Result;

use crate::args::Args;
use crate::shell::{Workspace, run as run_command};

pub(crate) const HELP: &str = "\
cargo xtask fix

Formats all code. The checking tasks never write.";

pub(crate) fn run(workspace: &Workspace, args: &mut Args) -> Result<()> {
    args.finish()?;
    run_command(&mut workspace.cargo(["fmt", "--all"]))
}
