//! The only runner: `cargo xtask TASK`. One file per task; no crate of ours, and no dependency but `anyhow` and `cargo_metadata`,
//! because everybody builds this first.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a runner talks to the person who runs it")]

mod args;
mod bench;
mod faketime;
mod fix;
mod fuzz;
mod model;
mod postgres;
mod servers;
mod shell;
mod sim;
mod soak;
mod test;
mod tidy;

use std::process::ExitCode;

use args::Args;
use shell::{Reported, Workspace};

/// A task gets what is left of the command line.
type Task = fn(&Workspace, &mut Args) -> anyhow::Result<()>;

const HELP: &str = "\
cargo xtask TASK

  test [--only STEP]     everything that must hold before a change is taken
  tidy                   the rules of the house: arrows, files, words, links
  fix                    format the code
  soak [--rounds N]      long runs with faults against built binaries
  sim [--seeds N]        whole clusters on one thread, one seed each
  fuzz [--seconds N]     a fuzzer on every decoder of bytes from outside
  model [--config NAME]  every state of small worlds
  bench WHAT             what commits, archiving and restoring cost, side by side with other ways

Every task has --help.";

fn main() -> ExitCode {
    let mut args = Args::from_env();
    match run(&mut args) {
        Ok(code) => code,
        Err(err) => {
            if !err.is::<Reported>() {
                eprintln!("error: {err:#}");
            }
            ExitCode::FAILURE
        }
    }
}

fn run(args: &mut Args) -> anyhow::Result<ExitCode> {
    let task = args.next_word();
    let (help, run): (&str, Task) = match task.as_deref() {
        Some("test") => (test::HELP, test::run),
        Some("tidy") => (tidy::HELP, tidy::run),
        Some("fix") => (fix::HELP, fix::run),
        Some("soak") => (soak::HELP, soak::run),
        Some("sim") => (sim::HELP, sim::run),
        Some("fuzz") => (fuzz::HELP, fuzz::run),
        Some("model") => (model::HELP, model::run),
        Some("bench") => (bench::HELP, bench::run),
        Some(other) if !matches!(other, "help" | "--help" | "-h") => {
            eprintln!("there is no task {other}\n\n{HELP}");
            return Ok(ExitCode::from(2));
        }
        _ => (HELP, |_, _| Ok(())),
    };
    if help == HELP || args.wants_help() {
        println!("{help}");
        return Ok(ExitCode::SUCCESS);
    }
    run(&Workspace::here()?, args)?;
    Ok(ExitCode::SUCCESS)
}
