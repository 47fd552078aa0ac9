//! `cargo xtask fuzz`: a coverage-guided fuzzer on every decoder of bytes that come from outside.
//!
//! libFuzzer is linked in, and the coverage it needs is put in by flags that the ordinary compiler has: no nightly, no other tool.
//! The build has a folder of its own, so that the flags do not build everything else again.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::args::Args;
use crate::shell::{Reported, Workspace, run as run_command};

pub(crate) const HELP: &str = "\
cargo xtask fuzz [--seconds N] [--target NAME] [--list]

Builds the decoders with coverage and runs a fuzzer on each of them for N seconds (20 unless said), with at most 512 MB of memory, and
10 s for one input. Begins with the seeds in tests/fuzz/seeds, goes on with what earlier runs kept in target/fuzz/corpus. An input
that fails is kept in target/fuzz/found and named. Needs a C++ compiler.

  cargo xtask fuzz --seconds 600 --target wal_scanner";

/// What libFuzzer wants to know of the program: edges taken, and what values are compared with.
const COVERAGE: &[&str] = &[
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Ccodegen-units=1",
    "-Cdebug-assertions",
    "-Coverflow-checks",
];
const MEMORY_MB: u32 = 512;
const INPUT_SECONDS: u32 = 10;
/// Inputs longer than this find nothing that shorter ones do not, and slow all down.
const INPUT_BYTES: u32 = 64 << 10;

pub(crate) fn run(workspace: &Workspace, args: &mut Args) -> Result<()> {
    let seconds: u64 = match args.value("--seconds")? {
        Some(text) => text.parse().with_context(|| format!("{text:?} is not a number of seconds"))?,
        None => 20,
    };
    let only = args.value("--target")?;
    let list = args.flag("--list");
    args.finish()?;
    // Every target has a folder of seeds; a test of the targets checks it.
    let seeds = workspace.root.join("tests/fuzz/seeds");
    let mut names: Vec<String> = fs::read_dir(&seeds)
        .with_context(|| format!("read {}", seeds.display()))?
        .map(|entry| entry.map(|entry| entry.file_name().to_string_lossy().into_owned()))
        .collect::<Result<_, _>>()?;
    names.sort();
    if list {
        println!("{}", names.join("\n"));
        return Ok(());
    }
    if let Some(only) = &only {
        if !names.contains(only) {
            bail!("there is no target {only}; there are: {}", names.join(", "));
        }
        names.retain(|name| name == only);
    }
    let program = build(workspace)?;
    let folder = workspace.metadata.target_directory.join("fuzz").into_std_path_buf();
    let mut total = 0;
    let mut failed = Vec::new();
    for name in &names {
        let (executions, fine) = fuzz(&program, &folder, &seeds.join(name), name, seconds)?;
        println!("{name}: {executions} executions{}", if fine { "" } else { ", FAILED" });
        total += executions;
        failed.extend((!fine).then_some(name.as_str()));
    }
    println!("{total} executions of {} targets, {} failed", names.len(), failed.len());
    if !failed.is_empty() {
        println!(
            "what they found is in {}; copy it to tests/fuzz/seeds/TARGET/ and it is a test",
            folder.join("found").display()
        );
        return Err(Reported.into());
    }
    Ok(())
}

fn build(workspace: &Workspace) -> Result<std::path::PathBuf> {
    let host = host()?;
    let target_dir = workspace.metadata.target_directory.join("fuzz/build");
    let mut command =
        workspace.cargo(["build", "--release", "--locked", "-p", "fuzz", "--features", "libfuzzer", "--target", &host]);
    // With a target named, the flags do not reach build scripts.
    run_command(command.env("RUSTFLAGS", COVERAGE.join(" ")).env("CARGO_TARGET_DIR", &target_dir))?;
    Ok(target_dir.join(host).join("release/fuzz").into_std_path_buf())
}

fn host() -> Result<String> {
    let output = Command::new("rustc").arg("-vV").output().context("run rustc -vV")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_owned).context("rustc -vV does not say for which machine it builds")
}

/// How many inputs were run, and whether all of them were fine.
fn fuzz(program: &Path, folder: &Path, seeds: &Path, name: &str, seconds: u64) -> Result<(u64, bool)> {
    let (corpus, found) = (folder.join("corpus").join(name), folder.join("found"));
    for folder in [&corpus, &found] {
        fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    }
    let output = Command::new(program)
        .env("SEAWALL_FUZZ_TARGET", name)
        .args([&corpus, seeds])
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-rss_limit_mb={MEMORY_MB}"))
        .arg(format!("-timeout={INPUT_SECONDS}"))
        .arg(format!("-max_len={INPUT_BYTES}"))
        .arg(format!("-artifact_prefix={}/{name}-", found.display()))
        .arg("-print_final_stats=1")
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .output()
        .with_context(|| format!("run {}", program.display()))?;
    let text = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        println!("{text}");
    }
    let executions = text.lines().find_map(|line| line.strip_prefix("stat::number_of_executed_units:"));
    Ok((executions.and_then(|count| count.trim().parse().ok()).unwrap_or(0), output.status.success()))
}
