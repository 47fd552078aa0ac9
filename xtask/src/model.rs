//! `cargo xtask model`: the quorum's rules under an exhaustive checker.

use anyhow::{Context, Result};

use crate::args::Args;
use crate::shell::{Workspace, run as run_command};

pub(crate) const HELP: &str = "\
cargo xtask model [--config NAME] [--seconds N] [--threads N] [--list]

Explores worlds of the crate `model` to the last state, with optimisation: all that have a name, which takes long, or the one named. A line
for each says how many states it has; a property that fails is shown with the steps that lead there. With --seconds it stops then, and
says so.

  cargo xtask model --list
  cargo xtask model --config base-t3l3";

pub(crate) fn run(workspace: &Workspace, args: &mut Args) -> Result<()> {
    let mut words = Vec::new();
    for number in ["--seconds", "--threads"] {
        if let Some(text) = args.value(number)? {
            let value: u64 = text.parse().with_context(|| format!("{text:?} is not a number for {number}"))?;
            words.extend([number.to_owned(), value.to_string()]);
        }
    }
    if let Some(name) = args.value("--config")? {
        words.extend(["--config".to_owned(), name]);
    }
    if args.flag("--list") {
        words.push("--list".to_owned());
    }
    args.finish()?;
    let mut command = workspace.cargo(["run", "--release", "--locked", "-p", "model", "--"]);
    run_command(command.args(words))
}
