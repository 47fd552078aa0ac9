//! `cargo xtask sim`: whole clusters under one seed each.

use anyhow::{Context, Result};

use crate::args::Args;
use crate::shell::{Workspace, run as run_command};

pub(crate) const HELP: &str = "\
cargo xtask sim [--seeds N] [--seed S] [--trace]

Builds the simulator with optimisation and runs N seeds (100 unless said) from S on (1 unless said): safekeepers and proposers as they
ship, on one thread and a virtual clock, with disks, networks and primaries that fail. A promise that is not kept ends with the command
that shows it again. With --seed alone that one seed is run; --trace prints all that happens in it.

  cargo xtask sim --seeds 10000
  cargo xtask sim --seed 42 --trace";

pub(crate) fn run(workspace: &Workspace, args: &mut Args) -> Result<()> {
    let mut words = Vec::new();
    for flag in ["--seeds", "--seed"] {
        if let Some(text) = args.value(flag)? {
            let number: u64 = text.parse().with_context(|| format!("{flag} {text:?} is no number"))?;
            words.extend([flag.to_owned(), number.to_string()]);
        }
    }
    if args.flag("--trace") {
        words.push("--trace".to_owned());
    }
    args.finish()?;
    let mut command = workspace.cargo(["run", "--release", "--locked", "-p", "sim", "--bin", "sim", "--"]);
    run_command(command.args(words))
}
