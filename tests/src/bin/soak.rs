//! Rounds of crashes, as many as wanted: the scenarios of the same names, for hours. `archive` kills whoever archives, and nobody else.
//!
//! Standard output has one line a round and a last line with counts. The folder with all logs stays if a round fails.

use std::io::Write;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use pg_harness::Folder;
use scenarios::{Rounds, UploaderRounds};

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            // There is nowhere else to say that standard error is closed.
            let _ = writeln!(std::io::stderr(), "error: {err:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let (mut rounds, mut seed) = (100, rand::random());
    let mut args = std::env::args().skip(1).peekable();
    let archive = args.next_if(|word| word == "archive").is_some();
    while let Some(flag) = args.next() {
        let value = args.next().with_context(|| format!("{flag} needs a number"))?;
        let value: u64 = value.parse().with_context(|| format!("{value:?} is not a number"))?;
        match flag.as_str() {
            "--rounds" => rounds = value,
            "--seed" => seed = value,
            _ => bail!("{flag} is unknown; there are --rounds N and --seed N"),
        }
    }
    let folder = Folder::new("soak")?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let outcome = match archive {
        true => runtime.block_on(soak_archive(&folder, rounds, seed)),
        false => runtime.block_on(soak(&folder, rounds, seed)),
    };
    if outcome.is_err() {
        folder.keep();
    }
    outcome
}

async fn soak(folder: &Folder, count: u64, seed: u64) -> Result<()> {
    let mut out = std::io::stdout();
    writeln!(out, "{count} rounds with --seed {seed}")?;
    let mut rounds = Rounds::begin(folder, seed).await?;
    for _ in 1..count {
        writeln!(out, "{}", rounds.round().await?)?;
    }
    let (last, outcome) = rounds.end().await?;
    writeln!(out, "{last}\n{outcome}")?;
    Ok(())
}

async fn soak_archive(folder: &Folder, count: u64, seed: u64) -> Result<()> {
    let mut out = std::io::stdout();
    writeln!(out, "{count} rounds with --seed {seed}")?;
    let mut rounds = UploaderRounds::begin(folder, seed).await?;
    for _ in 0..count {
        writeln!(out, "{}", rounds.round().await?)?;
    }
    writeln!(out, "{}", rounds.end().await?)?;
    Ok(())
}
