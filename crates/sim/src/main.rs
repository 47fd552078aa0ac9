//! `sim`: runs seeds of the simulation. `cargo xtask sim` builds and starts it.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program that talks to the person who runs it")]

use sim::{Coverage, run};
use std::process::ExitCode;
use std::time::Instant;

const HELP: &str = "sim [--seeds N] [--seed S] [--trace]\n\n  sim --seeds 1000 --seed 1      seeds 1 to 1000\n  sim --seed 42 --trace          one seed, with all that happens in it";

struct Options {
    first: u64,
    count: u64,
    trace: bool,
}

fn options() -> Result<Options, String> {
    let (mut first, mut count, mut trace) = (None, None, false);
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut number = || -> Result<u64, String> {
            let text = words.next().ok_or_else(|| format!("{word} needs a number"))?;
            text.parse().map_err(|_| format!("{text:?} is no number"))
        };
        match word.as_str() {
            "--seed" => first = Some(number()?),
            "--seeds" => count = Some(number()?),
            "--trace" => trace = true,
            _ => return Err(format!("what is {word:?}?\n\n{HELP}")),
        }
    }
    let count = count.unwrap_or(if first.is_some() { 1 } else { 100 });
    Ok(Options { first: first.unwrap_or(1), count, trace })
}

fn main() -> ExitCode {
    let options = match options() {
        Ok(options) => options,
        Err(text) => {
            eprintln!("{text}");
            return ExitCode::from(2);
        }
    };
    let (began, mut coverage, mut seconds, mut failed) = (Instant::now(), Coverage::default(), 0, Vec::new());
    let mut last_said = Instant::now();
    for seed in options.first..options.first.saturating_add(options.count) {
        // A panic of the product is a failure like any other; it must not hide which seed it was.
        match std::panic::catch_unwind(|| run(seed, None, options.trace)) {
            Ok(Ok(outcome)) => {
                coverage.add(&outcome.coverage);
                seconds += outcome.seconds;
                if let Some(trace) = outcome.trace {
                    print!("{trace}");
                }
            }
            Ok(Err(failure)) => {
                println!("{failure}");
                failed.push(seed);
            }
            Err(_) => {
                println!("seed {seed}: a panic; again: cargo xtask sim --seed {seed} --trace");
                failed.push(seed);
            }
        }
        if last_said.elapsed().as_secs() >= 10 {
            last_said = Instant::now();
            let done = seed - options.first + 1;
            eprintln!(
                "{done} seeds, {} failed, {:.1} a second",
                failed.len(),
                done as f64 / began.elapsed().as_secs_f64()
            );
        }
    }
    println!("what happened:\n{coverage}");
    let took = began.elapsed().as_secs_f64();
    println!(
        "{} seeds, {} failed {failed:?}, {seconds} virtual seconds in {took:.1} s: {:.2} seeds a second",
        options.count,
        failed.len(),
        options.count as f64 / took
    );
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
