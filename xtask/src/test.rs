//! `cargo xtask test`: everything that must hold before a change is taken.
//!
//! Builds are the slow part, so there is one: `build` makes every library, test and program of the workspace in one go, and the later
//! steps name the whole workspace too, because a step for some packages alone would choose other features of the dependencies
//! and build them again.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::args::Args;
use crate::shell::{Reported, Workspace, run as run_command, run_seeing};
use crate::{faketime, postgres, servers, tidy};

pub(crate) const HELP: &str = "\
cargo xtask test [--only STEP]

Runs, in this order, and stops at the first that fails:

  fmt         the code is formatted
  tidy        the rules of the house hold
  postgres    a PostgreSQL server is there, and libfaketime (installed on Debian, as root)
  clippy      no warnings
  servers     object stores for the tests are there (built once, under target/servers)
  build       every library, test and program
  unit        unit, property and doc tests
  scenarios   built programs against real servers

  cargo xtask test --only scenarios      builds what it needs first";

const STEPS: [Step; 8] = [
    Step {
        name: "fmt",
        needs: &[],
        run: |workspace, _| run_command(&mut workspace.cargo(["fmt", "--all", "--check"])),
    },
    Step { name: "tidy", needs: &[], run: |workspace, _| tidy::check(workspace) },
    Step { name: "postgres", needs: &[], run: |_, _| postgres::ensure().map(|()| faketime::ensure()) },
    Step { name: "clippy", needs: &[], run: clippy },
    Step { name: "servers", needs: &[], run: |workspace, _| servers::ensure(workspace) },
    Step { name: "build", needs: &[], run: build },
    Step { name: "unit", needs: &["postgres", "servers"], run: unit },
    Step { name: "scenarios", needs: &["postgres", "servers", "build"], run: scenarios },
];

struct Step {
    name: &'static str,
    /// Steps that `--only` runs before this one.
    needs: &'static [&'static str],
    run: fn(&Workspace, &mut Tally) -> Result<()>,
}

pub(crate) fn run(workspace: &Workspace, args: &mut Args) -> Result<()> {
    let only = args.value("--only")?;
    args.finish()?;
    let steps = plan(only.as_deref())?;
    let start = Instant::now();
    let mut tally = Tally::default();
    let outcome = steps.iter().try_for_each(|step| {
        println!("== {}", step.name);
        let began = Instant::now();
        let outcome = (step.run)(workspace, &mut tally);
        let verdict = if outcome.is_ok() { "ok" } else { "FAILED" };
        println!("== {}: {verdict} in {:.1} s", step.name, began.elapsed().as_secs_f64());
        outcome.with_context(|| {
            format!("step {} failed; run it again with `cargo xtask test --only {}`", step.name, step.name)
        })
    });
    if let Err(err) = &outcome {
        println!("error: {err:#}");
    }
    // The last line is the one cargo test ends with, for the sum of all.
    println!("{}", tally.line(outcome.is_ok(), start.elapsed()));
    outcome.map_err(|_| Reported.into())
}

/// The steps to run, in order.
fn plan(only: Option<&str>) -> Result<Vec<&'static Step>> {
    let Some(only) = only else { return Ok(STEPS.iter().collect()) };
    let names = || STEPS.map(|step| step.name).join(", ");
    let Some(wanted) = STEPS.iter().find(|step| step.name == only) else {
        bail!("there is no step {only}; there are: {}", names())
    };
    Ok(STEPS.iter().filter(|step| step.name == only || wanted.needs.contains(&step.name)).collect())
}

fn clippy(workspace: &Workspace, _: &mut Tally) -> Result<()> {
    run_command(&mut workspace.cargo(["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"]))
}

fn build(workspace: &Workspace, _: &mut Tally) -> Result<()> {
    run_command(&mut workspace.cargo(["build", "--workspace", "--all-targets", "--locked"]))
}

fn unit(workspace: &Workspace, tally: &mut Tally) -> Result<()> {
    let args = ["test", "--workspace", "--exclude", "scenarios", "--locked", "--no-fail-fast"];
    let mut command = workspace.cargo(args);
    command.env("SEAWALL_SERVERS_DIR", servers::dir(workspace));
    run_seeing(&mut command, |line| tally.see(line))
}

fn scenarios(workspace: &Workspace, tally: &mut Tally) -> Result<()> {
    let package = workspace.metadata.packages.iter().find(|package| package.name.as_str() == "scenarios");
    let targets = &package.context("the workspace has no package scenarios")?.targets;
    let names: Vec<&str> =
        targets.iter().filter(|target| target.is_test()).map(|target| target.name.as_str()).collect();
    if names.is_empty() {
        bail!("the package scenarios has no tests");
    }
    let mut command = workspace.cargo(["test", "--workspace", "--locked", "--no-fail-fast"]);
    command.args(names.iter().flat_map(|name| ["--test", name]));
    command.env("SEAWALL_BIN_DIR", workspace.bin_dir("debug")).env("SEAWALL_SERVERS_DIR", servers::dir(workspace));
    run_seeing(&mut command, |line| tally.see(line))
}

/// The sum of what cargo test said.
#[derive(Default)]
struct Tally {
    /// passed, failed, ignored, measured, filtered out
    counts: [u64; 5],
}

const KINDS: [&str; 5] = ["passed", "failed", "ignored", "measured", "filtered out"];

impl Tally {
    /// Takes `test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s`; no other line counts.
    fn see(&mut self, line: &str) {
        let Some((_, counts)) = line.strip_prefix("test result: ").and_then(|rest| rest.split_once(". ")) else {
            return;
        };
        for part in counts.split("; ") {
            if let Some((number, kind)) = part.split_once(' ')
                && let Some(index) = KINDS.iter().position(|known| *known == kind)
            {
                self.counts[index] += number.parse().unwrap_or(0);
            }
        }
    }

    fn line(&self, ok: bool, took: Duration) -> String {
        let verdict = if ok && self.counts[1] == 0 { "ok" } else { "FAILED" };
        let counts: Vec<String> =
            self.counts.iter().zip(KINDS).map(|(count, kind)| format!("{count} {kind}")).collect();
        format!("test result: {verdict}. {}; finished in {:.2}s", counts.join("; "), took.as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_summed_into_one_line_like_cargos() {
        let mut tally = Tally::default();
        tally.see("running 3 tests");
        tally.see("test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 2 filtered out; finished in 0.01s");
        tally.see("test result: ok. 4 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.00s");
        let line = tally.line(true, Duration::from_millis(1500));
        assert_eq!(
            line,
            "test result: ok. 7 passed; 0 failed; 1 ignored; 0 measured; 2 filtered out; finished in 1.50s"
        );
        tally.see(&line);
        assert_eq!(tally.counts[0], 14, "what we print can be read again");
        tally.see("test result: FAILED. 0 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s");
        assert!(tally.line(true, Duration::ZERO).starts_with("test result: FAILED. 14 passed; 1 failed"));
    }

    #[test]
    fn one_step_brings_what_it_needs() {
        let names = |only| plan(only).map(|steps| steps.iter().map(|step| step.name).collect::<Vec<_>>());
        assert_eq!(names(None).unwrap().len(), STEPS.len());
        assert_eq!(names(Some("fmt")).unwrap(), ["fmt"]);
        assert_eq!(names(Some("scenarios")).unwrap(), ["postgres", "servers", "build", "scenarios"]);
        assert!(names(Some("all")).is_err());
        assert!(STEPS.iter().all(|step| HELP.contains(&format!("\n  {} ", step.name))), "the help names every step");
    }
}
