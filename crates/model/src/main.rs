//! `model [--config NAME]… [--threads N] [--seconds N] [--breadth] [--list]`: explores worlds, one line for each.
//!
//! Exit code 1 if a property failed, or if something was left unexplored.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a report is what it is for")]

use model::{CONFIGS, Config, Quorum, Report, config};
use std::process::ExitCode;
use std::time::Duration;

/// What was asked for.
struct Wanted {
    configs: Vec<Config>,
    threads: usize,
    seconds: Option<u64>,
    breadth: bool,
    list: bool,
}

fn wanted(mut args: impl Iterator<Item = String>) -> Result<Wanted, String> {
    let mut wanted = Wanted { configs: Vec::new(), threads: 1, seconds: None, breadth: false, list: false };
    while let Some(arg) = args.next() {
        let mut number = |what: &str| {
            let text = args.next().ok_or_else(|| format!("{what} needs a number"))?;
            text.parse::<u64>().map_err(|_| format!("{text:?} is not a number for {what}"))
        };
        match arg.as_str() {
            "--threads" => wanted.threads = usize::try_from(number("--threads")?.max(1)).unwrap_or(1),
            "--seconds" => wanted.seconds = Some(number("--seconds")?),
            "--breadth" => wanted.breadth = true,
            "--list" => wanted.list = true,
            "--config" => {
                let name = args.next().ok_or("--config needs a name")?;
                wanted.configs.push(config(&name).ok_or_else(|| format!("there is no world {name:?}; see --list"))?);
            }
            other => return Err(format!("{other:?} is not understood")),
        }
    }
    if wanted.configs.is_empty() {
        wanted.configs = CONFIGS.to_vec();
    }
    Ok(wanted)
}

fn show(config: &Config, report: &Report) {
    let verdict = match (&report.failure, report.complete) {
        (Some((property, _)), _) => format!("FAILED {property}"),
        (None, true) => "complete".to_owned(),
        (None, false) => "not finished".to_owned(),
    };
    println!(
        "{}: {} states, {} steps, depth {}, {:.1} s: {verdict}",
        config.name,
        report.states,
        report.steps,
        report.depth,
        report.time.as_secs_f64()
    );
    for step in report.failure.iter().flat_map(|(_, steps)| steps) {
        println!("  {step}");
    }
}

fn main() -> ExitCode {
    let wanted = match wanted(std::env::args().skip(1)) {
        Ok(wanted) => wanted,
        Err(reason) => {
            eprintln!("error: {reason}");
            return ExitCode::from(2);
        }
    };
    let mut sound = true;
    for config in &wanted.configs {
        if wanted.list {
            println!("{:<14} {}", config.name, config.about);
            continue;
        }
        let at_most = wanted.seconds.map(Duration::from_secs);
        let report = Quorum::new(config.clone()).explore(wanted.breadth, wanted.threads, at_most);
        show(config, &report);
        sound &= report.complete;
    }
    if sound { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
